//! Who is told when keys change.
//!
//! The server tells a connection once of each key that it watches. So a key is watched again by the look that finds too
//! little there.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::records::SEPARATOR;

/// What is rung at a reader.
#[derive(Debug)]
pub(crate) struct Bell {
    rung: AtomicBool,
    pub(crate) task: AtomicWaker,
}

impl Bell {
    /// One that has rung: nobody has looked yet.
    pub(crate) fn new() -> Self {
        Bell {
            rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        }
    }

    pub(crate) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Resolves when it has rung since the last look. For one task.
    pub(crate) async fn rung(&self) {
        poll_fn(|context| {
            self.task.register(context.waker());
            match self.take() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Whether it has rung since the last call.
    pub(crate) fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }
}

/// The bells of a session, by the keys that they are for.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<HashMap<Vec<u8>, Vec<Weak<Bell>>>>);

impl Bells {
    pub(crate) fn add(&self, keys: &[Vec<u8>], bell: &Arc<Bell>) {
        let mut bells = self.0.lock();
        for key in keys {
            let at_key = bells.entry(key.clone()).or_default();
            at_key.retain(|bell| bell.strong_count() > 0);
            at_key.push(Arc::downgrade(bell));
        }
    }

    pub(crate) fn remove(&self, keys: &[Vec<u8>]) {
        let mut bells = self.0.lock();
        for key in keys {
            if let Some(at_key) = bells.get_mut(key) {
                at_key.retain(|bell| bell.strong_count() > 0);
                if at_key.is_empty() {
                    bells.remove(key);
                }
            }
        }
    }

    /// The key has changed.
    pub(crate) fn ring(&self, key: &[u8]) {
        let bells = self.0.lock().get(key).cloned().unwrap_or_default();
        bells
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|bell| bell.ring());
    }

    /// The queues that somebody waits for.
    pub(crate) fn queues(&self, prefix: &str) -> Vec<String> {
        let consumers = consumers_key(prefix, "");
        let bells = self.0.lock();
        let queues = bells.iter().filter_map(|(key, bells)| {
            let queue = key.strip_prefix(consumers.as_bytes())?;
            let is_waited_for = bells.iter().any(|bell| bell.strong_count() > 0);
            let queue = std::str::from_utf8(queue).ok()?;
            is_waited_for.then(|| queue.to_owned())
        });
        queues.collect()
    }

    /// All keys may have changed.
    pub(crate) fn ring_all(&self) {
        let bells: Vec<_> = self.0.lock().values().flatten().cloned().collect();
        bells
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|bell| bell.ring());
    }
}

/// A queue that somebody consumes from has it, until it is deleted.
pub(crate) fn consumers_key(prefix: &str, queue: &str) -> String {
    format!("{prefix}_kombu.rs.consumers.{queue}")
}

/// The key that changes when something is due sooner than anything was.
pub(crate) fn sooner_key(prefix: &str) -> Vec<u8> {
    format!("{prefix}_kombu.rs.sooner").into_bytes()
}

/// The keys that change when a consumer of a queue may have something to do.
pub(crate) fn keys(prefix: &str, queue: &str) -> Arc<[Vec<u8>]> {
    let steps = ["", "3", "6", "9"].map(|step| match step {
        "" => format!("{prefix}{queue}").into_bytes(),
        step => format!("{prefix}{queue}{SEPARATOR}{step}").into_bytes(),
    });
    // This one goes with the queue, too.
    let consumers = consumers_key(prefix, queue).into_bytes();
    steps.into_iter().chain([consumers]).collect()
}

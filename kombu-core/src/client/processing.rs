//! Deliveries that are held for too long are given back.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::driver::Tag;

use super::delivery::Link;

/// Since when the deliveries of one consumer are held.
pub(super) struct Processing {
    limit: Duration,
    held: Mutex<HashMap<Tag, Instant>>,
    /// Told when deliveries were taken away.
    taken: Notify,
    /// The clock stops with it.
    _alive: watch::Sender<()>,
}

impl Processing {
    /// Watches over the deliveries of a consumer for as long as somebody refers to it.
    pub(super) fn watch(link: &Arc<Link>) {
        let Some(processing) = &link.processing else {
            return;
        };
        let gone = processing._alive.subscribe();
        let runtime = &link.connection.inner().engine.runtime;
        runtime.spawn(give_back_overdue(Arc::downgrade(link), gone));
    }

    pub(super) fn new(limit: Duration) -> Self {
        Processing {
            limit,
            held: Mutex::default(),
            taken: Notify::new(),
            _alive: watch::Sender::new(()),
        }
    }

    pub(super) fn begin(&self, tag: Tag) {
        self.held.lock().insert(tag, Instant::now());
    }

    /// Whether the delivery is still its holder's.
    pub(super) fn end(&self, tag: Tag) -> bool {
        self.held.lock().remove(&tag).is_some()
    }

    /// Resolves when a delivery that isn't settled was taken away.
    pub(super) async fn taken(&self, tag: Tag) {
        loop {
            let taken = self.taken.notified();
            if !self.held.lock().contains_key(&tag) {
                return;
            }
            taken.await;
        }
    }

    /// Takes away what is overdue, and answers when to look again.
    fn take_overdue(&self) -> (Vec<Tag>, Instant) {
        let now = Instant::now();
        let mut next = now + self.limit;
        let mut overdue = Vec::new();
        self.held.lock().retain(|tag, since| {
            let due = *since + self.limit;
            if due <= now {
                overdue.push(*tag);
            } else {
                next = next.min(due);
            }
            due > now
        });
        overdue.sort_unstable_by_key(|tag| tag.id);
        (overdue, next)
    }
}

async fn give_back_overdue(link: Weak<Link>, mut gone: watch::Receiver<()>) {
    loop {
        let next = {
            let Some(link) = link.upgrade() else {
                return;
            };
            let Some(processing) = &link.processing else {
                return;
            };
            let (overdue, next) = processing.take_overdue();
            for tag in &overdue {
                link.retry_overdue(*tag, processing.limit);
            }
            if !overdue.is_empty() {
                processing.taken.notify_waiters();
            }
            next
        };
        tokio::select! {
            biased;
            _ = gone.changed() => return,
            () = sleep_until(next) => {}
        }
    }
}

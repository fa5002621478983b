//! Who is told when there may be something to do at a queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures_util::task::AtomicWaker;
use kombu_core::Name;
use parking_lot::Mutex;

use crate::names::encoded;

/// What is rung at a reader.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// There may be messages.
    rung: AtomicBool,
    /// The queue may be gone, or it is somebody else's turn.
    changed: AtomicBool,
    pub(crate) task: AtomicWaker,
}

impl Bell {
    fn ring(&self, changed: bool) {
        self.rung.store(true, Ordering::Release);
        if changed {
            self.changed.store(true, Ordering::Release);
        }
        self.task.wake();
    }

    /// Whether it has rung since the last call.
    pub(crate) fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Whether the queue was said to have changed since the last call.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }
}

/// The bells of a session, by the token of their queue.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<HashMap<String, Vec<Weak<Bell>>>>);

impl Bells {
    pub(crate) fn add(&self, queue: &Name, bell: &Arc<Bell>) {
        let mut bells = self.0.lock();
        let at_queue = bells.entry(encoded(queue)).or_default();
        at_queue.retain(|bell| bell.strong_count() > 0);
        at_queue.push(Arc::downgrade(bell));
    }

    /// There may be messages in the queue of this token, or it has changed.
    pub(crate) fn ring(&self, queue: &str, changed: bool) {
        let mut all = self.0.lock();
        let Some(bells) = all.get_mut(queue) else {
            return;
        };
        bells.retain(|bell| bell.strong_count() > 0);
        if bells.is_empty() {
            all.remove(queue);
            return;
        }
        let bells = bells.clone();
        drop(all);
        for bell in bells.iter().filter_map(Weak::upgrade) {
            bell.ring(changed);
        }
    }
}

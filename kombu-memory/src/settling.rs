//! Waiting until nothing is left to do.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Who waits until messages are settled.
#[derive(Default)]
pub(crate) struct Settling {
    watchers: AtomicUsize,
    fewer: Notify,
}

/// Somebody who waits, until it is dropped.
pub(crate) struct Watcher<'a>(&'a Settling);

impl Settling {
    /// A message is gone. To be called after the lock under which it went was taken: then either this sees the watcher,
    /// or the watcher sees that the message is gone.
    #[inline]
    pub(crate) fn fewer(&self) {
        if self.watchers.load(Ordering::Relaxed) > 0 {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        self.fewer.notify_waiters();
    }

    pub(crate) fn watch(&self) -> Watcher<'_> {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher(self)
    }
}

impl Watcher<'_> {
    /// Resolves when a message has gone since the call.
    pub(crate) fn fewer(&self) -> Notified<'_> {
        self.0.fewer.notified()
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

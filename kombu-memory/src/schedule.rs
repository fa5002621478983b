//! What a broker has to do at a certain time: look for expired messages, or for a queue that nobody uses.

use std::collections::BTreeMap;
use std::sync::Weak;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::MemoryQueue;

#[derive(Default)]
pub(crate) struct Schedule {
    due: Mutex<Due>,
    /// Something is due earlier than what was known.
    changed: Notify,
}

#[derive(Default)]
struct Due {
    queues: BTreeMap<(Instant, u64), Weak<MemoryQueue>>,
    next: u64,
}

impl Schedule {
    pub(crate) fn add(&self, at: Instant, queue: Weak<MemoryQueue>) {
        let mut due = self.due.lock();
        let first = due.queues.first_key_value().map(|((at, _), _)| *at);
        let number = due.next;
        due.next += 1;
        due.queues.insert((at, number), queue);
        drop(due);
        if first.is_none_or(|first| at < first) {
            self.changed.notify_waiters();
        }
    }

    /// Takes out a queue that is to be looked at now. The clock is read only if any is.
    pub(crate) fn take_due(&self) -> Option<Weak<MemoryQueue>> {
        let mut due = self.due.lock();
        let first = due.queues.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }

    /// Resolves when something is due.
    pub(crate) async fn until_due(&self) {
        loop {
            let changed = self.changed.notified();
            let first = self
                .due
                .lock()
                .queues
                .first_key_value()
                .map(|(key, _)| key.0);
            match first {
                None => changed.await,
                Some(at) if at <= Instant::now() => return,
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = changed => {}
                        () = tokio::time::sleep_until(at) => return,
                    }
                }
            }
        }
    }
}

use std::sync::{Arc, Weak};

use kombu_core::message::Envelope;
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{Delayed, Entry, MemoryQueue, Ready};
use crate::dead::DeadList;
use crate::held::Held;

/// What a queue has at one instant.
pub(crate) struct Contents {
    /// As they would be served.
    pub(crate) ready: Vec<Seen>,
    /// In the order of their positions.
    pub(crate) unsettled: Vec<Seen>,
    /// As they become visible.
    pub(crate) delayed: Vec<Seen>,
    pub(crate) consumers: usize,
}

/// A message in a queue, as somebody saw it.
pub(crate) struct Seen {
    pub(crate) envelope: Envelope,
    pub(crate) failures: u32,
    pub(crate) redelivered: bool,
    pub(crate) expires: Option<Instant>,
    pub(crate) due: Option<Instant>,
}

impl Seen {
    fn of(entry: &Entry) -> Self {
        Seen {
            envelope: entry.envelope.clone(),
            failures: entry.failures,
            redelivered: entry.redelivered,
            expires: entry.lifetime.as_ref().map(|lifetime| lifetime.ends),
            due: None,
        }
    }

    fn of_delayed(due: Instant, delayed: &Delayed) -> Self {
        match delayed {
            Delayed::New(envelope) => Seen {
                envelope: envelope.clone(),
                failures: 0,
                redelivered: false,
                expires: None,
                due: Some(due),
            },
            Delayed::Again(entry) => Seen {
                due: Some(due),
                ..Seen::of(entry)
            },
        }
    }
}

impl MemoryQueue {
    pub(crate) fn contents(self: &Arc<Self>) -> Contents {
        still(std::slice::from_ref(self), |held, ready| {
            let mut unsettled: Vec<_> = held.iter().flat_map(|held| held.entries()).collect();
            unsettled.sort_unstable_by_key(|entry| entry.position);
            let ready = &ready[0];
            let delayed = ready.delayed.iter();
            Contents {
                ready: ready.messages.iter().map(Seen::of).collect(),
                unsettled: unsettled.into_iter().map(Seen::of).collect(),
                delayed: delayed
                    .map(|((due, _), delayed)| Seen::of_delayed(*due, delayed))
                    .collect(),
                consumers: ready.readers.len(),
            }
        })
    }
}

/// Whether none of these queues has a message, be it ready, unsettled or delayed, and none of the dead is on its way to
/// one. The queues are in order of name.
pub(crate) fn are_settled(queues: &[Arc<MemoryQueue>], dead: &DeadList) -> bool {
    still(queues, |held, ready| {
        let is_empty =
            |ready: &MutexGuard<'_, Ready>| ready.messages.len() == 0 && ready.delayed.is_empty();
        // The dead last: while the queues are locked, none of them arrives.
        held.iter().all(|held| held.len() == 0) && ready.iter().all(is_empty) && dead.have_arrived()
    })
}

/// Looks at several queues, and at what was taken from them, at one instant.
///
/// Everything is locked at once, so that a message that moves is never in neither place: first who may take, then
/// what they hold, then the queues, and each in order of the queues' names.
pub(super) fn still<T>(
    queues: &[Arc<MemoryQueue>],
    look: impl FnOnce(&[MutexGuard<'_, Held>], &[MutexGuard<'_, Ready>]) -> T,
) -> T {
    let lists: Vec<_> = queues.iter().map(|queue| queue.holdings.lock()).collect();
    let holdings = lists.iter().flat_map(|list| list.iter());
    let holdings: Vec<_> = holdings.filter_map(Weak::upgrade).collect();
    let held: Vec<_> = holdings.iter().map(|holding| holding.lock()).collect();
    let ready: Vec<_> = queues.iter().map(|queue| queue.now()).collect();
    look(&held, &ready)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kombu_core::Queue;

    use super::*;
    use crate::queue::tests::message;

    #[tokio::test(start_paused = true)]
    async fn what_comes_again_later_is_seen_with_its_time() {
        let queue = MemoryQueue::new(Queue::new("jobs"), Arc::default());
        drop(queue.push(&message("job"), None));
        let mut taken = Vec::new();
        let _ = queue.take(1, &mut taken, None);
        let delay = Duration::from_secs(5);
        queue.give_back_after(taken.remove(0), delay).wake();
        let delayed = queue.contents().delayed;
        let due: Vec<_> = delayed.iter().map(|seen| seen.due).collect();
        assert_eq!(due, [Some(Instant::now() + delay)]);
    }
}

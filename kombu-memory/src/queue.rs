use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;

use kombu_core::Name;
use kombu_core::driver::QueueInfo;
use kombu_core::message::Envelope;
use parking_lot::{Mutex, MutexGuard};

use crate::held::Holding;

/// A message in a queue.
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    /// Where it stands; it keeps its place when it comes back.
    pub(crate) position: u64,
    pub(crate) failures: u32,
    pub(crate) redelivered: bool,
}

pub(crate) struct MemoryQueue {
    name: Name,
    ready: Mutex<Ready>,
    consumers: AtomicU64,
    /// What was taken from here. Counted only when somebody asks: a counter in this place would be written
    /// by consumers and keep the lock above from its publishers.
    holdings: Mutex<Vec<Weak<Holding>>>,
}

struct Ready {
    /// In order of position.
    entries: VecDeque<Entry>,
    next_position: u64,
    /// Readers that found nothing. All are woken: a woken one may have no room in its window any more.
    waiting: Waiting,
    /// Readers without room. They are woken only when the queue is deleted.
    full: Waiting,
    deleted: bool,
}

/// Readers by number, each once.
#[derive(Default)]
struct Waiting(Vec<(u64, Waker)>);

/// What a reader found.
pub(crate) enum Taken {
    /// At least one message.
    Messages,
    /// Nothing; the waker is registered.
    Nothing,
    /// The queue was deleted.
    Deleted,
}

impl MemoryQueue {
    pub(crate) fn new(name: Name) -> Self {
        MemoryQueue {
            name,
            ready: Mutex::new(Ready {
                entries: VecDeque::new(),
                next_position: 0,
                waiting: Waiting::default(),
                full: Waiting::default(),
                deleted: false,
            }),
            consumers: AtomicU64::new(0),
            holdings: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn ready(&self) -> u64 {
        self.ready.lock().entries.len() as u64
    }

    pub(crate) fn consumers(&self) -> u64 {
        self.consumers.load(Ordering::Relaxed)
    }

    pub(crate) fn info(&self) -> QueueInfo {
        let holdings: Vec<_> = {
            let mut holdings = self.holdings.lock();
            holdings.retain(|holding| holding.strong_count() > 0);
            holdings.iter().filter_map(Weak::upgrade).collect()
        };
        // All holdings are locked before the queue, so that a batch is never counted in neither place.
        let held: Vec<_> = holdings.iter().map(|holding| holding.lock()).collect();
        let unsettled = held.iter().map(|held| held.len() as u64).sum();
        QueueInfo::new(
            self.name.clone(),
            self.ready(),
            Some(unsettled),
            self.consumers(),
        )
    }

    pub(crate) fn push(&self, envelope: &Envelope) {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return;
        }
        let position = ready.next_position;
        ready.next_position += 1;
        ready.entries.push_back(Entry {
            envelope: envelope.clone(),
            position,
            failures: 0,
            redelivered: false,
        });
        Ready::wake(ready);
    }

    /// Puts a message back where it was.
    pub(crate) fn give_back(&self, entry: Entry) {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return;
        }
        let index = match ready.entries.front() {
            Some(front) if front.position < entry.position => ready
                .entries
                .partition_point(|other| other.position < entry.position),
            _ => 0,
        };
        ready.entries.insert(index, entry);
        Ready::wake(ready);
    }

    /// Takes note of who takes from here.
    pub(crate) fn add_holding(&self, holding: &Arc<Holding>) {
        let mut holdings = self.holdings.lock();
        if holdings.len() == holdings.capacity() {
            holdings.retain(|holding| holding.strong_count() > 0);
        }
        holdings.push(Arc::downgrade(holding));
    }

    /// Takes up to `max` messages from the front, or leaves `waker` under the reader's number. With a `max` of 0,
    /// it is woken only when the queue is deleted.
    pub(crate) fn take(
        &self,
        max: usize,
        taken: &mut Vec<Entry>,
        waiting: Option<(u64, &Waker)>,
    ) -> Taken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Taken::Deleted;
        }
        let count = max.min(ready.entries.len());
        if count == 0 {
            if let Some((reader, waker)) = waiting {
                let list = match max {
                    0 => &mut ready.full,
                    _ => &mut ready.waiting,
                };
                list.insert(reader, waker);
            }
            return Taken::Nothing;
        }
        taken.extend(ready.entries.drain(..count));
        Taken::Messages
    }

    pub(crate) fn purge(&self) -> u64 {
        let purged = std::mem::take(&mut self.ready.lock().entries);
        purged.len() as u64
    }

    /// Drops the messages and ends the readers; answers how many were ready.
    pub(crate) fn delete(&self) -> u64 {
        let mut ready = self.ready.lock();
        ready.deleted = true;
        let entries = std::mem::take(&mut ready.entries);
        for (_, waker) in ready.full.0.drain(..) {
            waker.wake();
        }
        Ready::wake(ready);
        entries.len() as u64
    }

    pub(crate) fn add_consumer(&self) {
        self.consumers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_consumer(&self, reader: u64) {
        self.consumers.fetch_sub(1, Ordering::Relaxed);
        let mut ready = self.ready.lock();
        ready.waiting.remove(reader);
        ready.full.remove(reader);
    }
}

impl Waiting {
    fn insert(&mut self, reader: u64, waker: &Waker) {
        match self.0.iter_mut().find(|(waiting, _)| *waiting == reader) {
            Some((_, registered)) => registered.clone_from(waker),
            None => self.0.push((reader, waker.clone())),
        }
    }

    fn remove(&mut self, reader: u64) {
        self.0.retain(|(waiting, _)| *waiting != reader);
    }
}

impl Ready {
    /// Wakes who waits for a message. Where one waits, the queue is unlocked first: it would meet the lock at
    /// once.
    #[inline]
    fn wake(mut ready: MutexGuard<'_, Self>) {
        if ready.waiting.0.len() <= 1 {
            let waiting = ready.waiting.0.pop();
            drop(ready);
            if let Some((_, waker)) = waiting {
                waker.wake();
            }
            return;
        }
        for (_, waker) in ready.waiting.0.drain(..) {
            waker.wake();
        }
    }
}

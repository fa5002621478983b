use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use kombu_core::driver::{DeleteQueue, QueueInfo};
use kombu_core::message::Envelope;
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::time::Instant;

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
    /// What was taken from here. Counted only when somebody asks: a counter in this place would be written
    /// by consumers and keep the lock above from its publishers.
    holdings: Mutex<Vec<Weak<Holding>>>,
}

struct Ready {
    /// In order of position.
    entries: VecDeque<Entry>,
    next_position: u64,
    /// Not visible yet, by when they will be.
    delayed: BTreeMap<(Instant, u64), Delayed>,
    next_delayed: u64,
    /// Readers that found nothing. All are woken: a woken one may have no room in its window any more.
    waiting: Waiting,
    /// Readers without room. They are woken only when the queue is deleted.
    full: Waiting,
    consumers: u64,
    deleted: bool,
}

/// A message that becomes visible later.
enum Delayed {
    /// For the first time: it goes to the back then.
    New(Envelope),
    /// Again: it goes to where it was.
    Again(Entry),
}

/// Readers by number, each once.
#[derive(Default)]
struct Waiting(Vec<(u64, Waker)>);

/// Readers that have something to look at. Whoever is woken may come back here at once, so it is done without any
/// lock.
#[derive(Default)]
#[must_use = "they wait until they are woken"]
pub(crate) struct Woken {
    one: Option<Waker>,
    more: Vec<(u64, Waker)>,
}

impl Woken {
    #[inline]
    pub(crate) fn wake(self) {
        if let Some(waker) = self.one {
            waker.wake();
        }
        for (_, waker) in self.more {
            waker.wake();
        }
    }
}

/// What a reader found.
pub(crate) enum Taken {
    /// At least one message.
    Messages,
    /// Nothing; the waker is registered. The earliest delayed message is due then.
    Nothing(Option<Instant>),
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
                delayed: BTreeMap::new(),
                next_delayed: 0,
                waiting: Waiting::default(),
                full: Waiting::default(),
                consumers: 0,
                deleted: false,
            }),
            holdings: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn ready(&self) -> u64 {
        let mut ready = self.ready.lock();
        ready.show_due();
        ready.entries.len() as u64
    }

    pub(crate) fn consumers(&self) -> u64 {
        self.ready.lock().consumers
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

    #[inline]
    pub(crate) fn push(&self, envelope: &Envelope) -> Woken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Woken::default();
        }
        match envelope.delay() {
            None => ready.append(envelope.clone()),
            Some(delay) => ready.delay(delay, Delayed::New(envelope.clone())),
        }
        // Also for a delayed one: whoever waits has to wait for it too.
        ready.waiting.take()
    }

    /// Puts a message back where it was, visible after the delay.
    pub(crate) fn give_back_after(&self, entry: Entry, delay: Duration) -> Woken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Woken::default();
        }
        ready.delay(delay, Delayed::Again(entry));
        ready.waiting.take()
    }

    /// Puts a message back where it was.
    pub(crate) fn give_back(&self, entry: Entry) -> Woken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Woken::default();
        }
        ready.put_back(entry);
        ready.waiting.take()
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
        ready.show_due();
        let count = max.min(ready.entries.len());
        if count == 0 {
            if let Some((reader, waker)) = waiting {
                let list = match max {
                    0 => &mut ready.full,
                    _ => &mut ready.waiting,
                };
                list.insert(reader, waker);
            }
            return Taken::Nothing(ready.next_due());
        }
        taken.extend(ready.entries.drain(..count));
        Taken::Messages
    }

    pub(crate) fn purge(&self) -> u64 {
        let mut ready = self.ready.lock();
        ready.show_due();
        let purged = std::mem::take(&mut ready.entries);
        drop(ready);
        purged.len() as u64
    }

    /// Drops the messages and ends the readers, if the conditions hold; answers how many were ready.
    ///
    /// Conditions and deletion are one step: nothing can be pushed, and nobody start to consume, in between.
    pub(crate) fn delete(&self, options: DeleteQueue) -> Result<u64> {
        let mut ready = self.ready.lock();
        ready.show_due();
        let (messages, consumers) = (ready.entries.len(), ready.consumers);
        let problem = if options.if_unused && consumers > 0 {
            Some(format!(
                "has {consumers} consumers; cancel them, or delete it without `if_unused`"
            ))
        } else if options.if_empty && messages > 0 {
            Some(format!(
                "has {messages} messages; purge it, or delete it without `if_empty`"
            ))
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(Error::new(
                ErrorKind::PreconditionFailed,
                format!("queue `{}` {problem}", self.name),
            ));
        }
        ready.deleted = true;
        ready.delayed.clear();
        let entries = std::mem::take(&mut ready.entries);
        let woken = [ready.waiting.take(), ready.full.take()];
        drop(ready);
        woken.into_iter().for_each(Woken::wake);
        Ok(entries.len() as u64)
    }

    pub(crate) fn add_consumer(&self) {
        self.ready.lock().consumers += 1;
    }

    pub(crate) fn remove_consumer(&self, reader: u64) {
        let mut ready = self.ready.lock();
        ready.consumers -= 1;
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

    /// Takes everybody out, to be woken when no lock is held.
    #[inline]
    fn take(&mut self) -> Woken {
        if self.0.len() <= 1 {
            return Woken {
                one: self.0.pop().map(|(_, waker)| waker),
                more: Vec::new(),
            };
        }
        Woken {
            one: None,
            more: std::mem::take(&mut self.0),
        }
    }

    fn remove(&mut self, reader: u64) {
        self.0.retain(|(waiting, _)| *waiting != reader);
    }
}

impl Ready {
    fn append(&mut self, envelope: Envelope) {
        let position = self.next_position;
        self.next_position += 1;
        self.entries.push_back(Entry {
            envelope,
            position,
            failures: 0,
            redelivered: false,
        });
    }

    fn put_back(&mut self, entry: Entry) {
        let index = match self.entries.front() {
            Some(front) if front.position < entry.position => self
                .entries
                .partition_point(|other| other.position < entry.position),
            _ => 0,
        };
        self.entries.insert(index, entry);
    }

    fn delay(&mut self, delay: Duration, delayed: Delayed) {
        let number = self.next_delayed;
        self.next_delayed += 1;
        self.delayed
            .insert((Instant::now() + delay, number), delayed);
    }

    fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// Makes visible what is due. The clock is read only if something is delayed.
    #[inline]
    fn show_due(&mut self) {
        if self.delayed.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = self.delayed.first_entry() {
            if first.key().0 > now {
                return;
            }
            match first.remove() {
                Delayed::New(envelope) => self.append(envelope),
                Delayed::Again(entry) => self.put_back(entry),
            }
        }
    }
}

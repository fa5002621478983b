mod contents;
mod levels;
mod readers;
mod waiting;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use kombu_core::declare::{Overflow, Queue};
use kombu_core::driver::{DeleteQueue, QueueInfo};
use kombu_core::message::Envelope;
use kombu_core::virt::{Batch, Death, ReaderOptions};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::dead::{Corpse, DeadList};
use crate::held::Holding;
use crate::history::{Died, Recorder};
use crate::schedule::{Appointment, Schedule, after};
use crate::settling::Settling;

pub(crate) use self::contents::{Contents, Seen, are_settled};
use self::levels::Levels;
use self::readers::Readers;
use self::waiting::Waiting;
pub(crate) use self::waiting::Woken;

/// A message in a queue.
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    /// Where it stands; it keeps its place when it comes back.
    pub(crate) position: u64,
    /// Few messages have one, and entries are moved about.
    lifetime: Option<Box<Lifetime>>,
    pub(crate) failures: u32,
    pub(crate) redelivered: bool,
}

struct Lifetime {
    ends: Instant,
    /// It was over at once, but a consumer had room for the message.
    promised: bool,
}

impl Entry {
    /// When its time is over.
    fn ends(&self) -> Option<Instant> {
        let lifetime = self.lifetime.as_ref()?;
        (!lifetime.promised).then_some(lifetime.ends)
    }
}

/// What a queue tells its broker.
#[derive(Default)]
pub(crate) struct Surroundings {
    pub(crate) schedule: Schedule,
    pub(crate) dead: DeadList,
    pub(crate) recorder: Recorder,
    pub(crate) settling: Settling,
}

pub(crate) struct MemoryQueue {
    declaration: Arc<Queue>,
    limits: Limits,
    surroundings: Arc<Surroundings>,
    myself: Weak<MemoryQueue>,
    ready: Mutex<Ready>,
    /// What was taken from here. Counted only when somebody asks: a counter in this place would be written
    /// by consumers and keep the lock above from its publishers.
    holdings: Mutex<Vec<Weak<Holding>>>,
}

/// What the declaration asks for, for the hot path.
struct Limits {
    message_ttl: Option<Duration>,
    expires: Option<Duration>,
    max_length: u64,
    max_bytes: u64,
    has_length: bool,
    rejects: bool,
    dead_letters: bool,
}

struct Ready {
    messages: Levels,
    next_position: u64,
    /// Not visible yet, by when they will be.
    delayed: BTreeMap<(Instant, u64), Delayed>,
    next_delayed: u64,
    /// Readers that found nothing. All are woken: a woken one may have no room in its window any more.
    waiting: Waiting,
    /// Readers without room. They are woken only when the queue is deleted.
    full: Waiting,
    readers: Readers,
    /// Messages may be there whose time is over, or will be.
    may_expire: bool,
    /// Messages may be there that are kept for a consumer beyond their time.
    has_promises: bool,
    /// When the broker looks at this queue next.
    scheduled: Option<Appointment>,
    /// Since when nobody has used it.
    unused_since: Instant,
    deleted: bool,
}

/// A message that becomes visible later.
enum Delayed {
    /// For the first time: it goes to the back then.
    New(Envelope),
    /// Again: it goes to where it was.
    Again(Entry),
}

/// A reader that takes.
pub(crate) struct Taker<'a, 'b> {
    pub(crate) number: u64,
    pub(crate) waker: &'a Waker,
    pub(crate) batch: &'a mut Batch<'b>,
}

/// What a reader found.
pub(crate) enum Taken {
    /// At least one message. Others may have something to look at now.
    Messages(Woken),
    /// Nothing; the waker is registered. The earliest delayed message is due then.
    Nothing(Option<Instant>, Woken),
    /// The queue was deleted.
    Deleted,
}

/// The queue is full and refuses what comes.
pub(crate) struct Full;

impl MemoryQueue {
    pub(crate) fn new(declaration: Queue, surroundings: Arc<Surroundings>) -> Arc<Self> {
        let limits = Limits {
            message_ttl: declaration.get_message_ttl(),
            expires: declaration.get_expires(),
            max_length: declaration.get_max_length().unwrap_or(u64::MAX),
            max_bytes: declaration.get_max_length_bytes().unwrap_or(u64::MAX),
            has_length: declaration.get_max_length().is_some()
                || declaration.get_max_length_bytes().is_some(),
            rejects: declaration.get_overflow().is_some_and(Overflow::rejects),
            dead_letters: declaration.get_dead_letter_exchange().is_some(),
        };
        let ready = Ready {
            messages: Levels::new(
                declaration.get_max_priority().unwrap_or(0),
                declaration.get_max_length_bytes().is_some(),
            ),
            next_position: 0,
            delayed: BTreeMap::new(),
            next_delayed: 0,
            waiting: Waiting::default(),
            full: Waiting::default(),
            readers: Readers::new(declaration.is_single_active_consumer()),
            may_expire: false,
            has_promises: false,
            scheduled: None,
            unused_since: Instant::now(),
            deleted: false,
        };
        let queue = Arc::new_cyclic(|myself| MemoryQueue {
            declaration: Arc::new(declaration),
            limits,
            surroundings,
            myself: myself.clone(),
            ready: Mutex::new(ready),
            holdings: Mutex::default(),
        });
        queue.schedule(&mut queue.ready.lock());
        queue
    }

    pub(crate) fn name(&self) -> &Name {
        self.declaration.name()
    }

    pub(crate) fn declaration(&self) -> &Arc<Queue> {
        &self.declaration
    }

    pub(crate) fn surroundings(&self) -> &Arc<Surroundings> {
        &self.surroundings
    }

    /// Everything as it is now: delayed messages that are due are there, and expired ones are not.
    fn now(&self) -> MutexGuard<'_, Ready> {
        let mut ready = self.ready.lock();
        self.catch_up(&mut ready);
        ready
    }

    /// The clock is read only if something depends on it.
    #[inline]
    fn catch_up(&self, ready: &mut Ready) {
        if !ready.delayed.is_empty() || ready.may_expire {
            self.catch_up_with(ready, Instant::now());
        }
    }

    fn catch_up_with(&self, ready: &mut Ready, now: Instant) {
        self.show_due(ready, now);
        if ready.may_expire {
            self.bury_expired(ready, now);
        }
    }

    pub(crate) fn info(self: &Arc<Self>) -> QueueInfo {
        contents::still(std::slice::from_ref(self), |held, ready| {
            let unsettled = held.iter().map(|held| held.len() as u64).sum();
            let ready = &ready[0];
            QueueInfo::new(
                self.name().clone(),
                ready.messages.len() as u64,
                Some(unsettled),
                ready.readers.len() as u64,
            )
        })
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.ready.lock().deleted
    }

    /// Somebody declares the queue again, asks about it, or gets from it: it isn't unused.
    pub(crate) fn touch(&self) {
        if self.limits.expires.is_some() {
            self.ready.lock().unused_since = Instant::now();
        }
    }

    /// Stores a message that arrives now, or arrived earlier.
    #[inline]
    pub(crate) fn push(
        &self,
        envelope: &Envelope,
        arrival: Option<Instant>,
    ) -> std::result::Result<Woken, Full> {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Ok(Woken::default());
        }
        // What is due stands before this one.
        if self.limits.has_length || !ready.delayed.is_empty() {
            self.catch_up(&mut ready);
            let bytes = envelope.body().len() as u64;
            if self.limits.rejects && self.exceeds_limits(&ready, 1, bytes) {
                drop(ready);
                self.refuse(envelope, arrival);
                return Err(Full);
            }
        }
        match envelope.delay() {
            None => self.append(&mut ready, envelope.clone(), arrival),
            Some(delay) => self.delay(&mut ready, delay, Delayed::New(envelope.clone())),
        }
        // Also for a delayed one: whoever waits has to wait for it too.
        Ok(ready.waiting.take())
    }

    /// A message that was refused may have to be dead-lettered all the same.
    #[cold]
    fn refuse(&self, envelope: &Envelope, arrival: Option<Instant>) {
        if self.declaration.get_overflow() == Some(Overflow::RejectPublishDlx) {
            let refused = Entry {
                envelope: envelope.clone(),
                position: 0,
                lifetime: None,
                failures: 0,
                redelivered: false,
            };
            self.die(refused, Death::MaxLength, arrival);
        }
    }

    /// Whether a consumer would be given a message at once.
    pub(crate) fn has_ready_consumer(&self) -> bool {
        let ready = self.now();
        !ready.deleted && ready.messages.len() < ready.readers.room()
    }

    /// Puts a message back where it was, visible after the delay.
    pub(crate) fn give_back_after(&self, entry: Entry, delay: Duration) -> Woken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Woken::default();
        }
        self.delay(&mut ready, delay, Delayed::Again(entry));
        ready.waiting.take()
    }

    /// Puts a message back where it was.
    pub(crate) fn give_back(&self, entry: Entry) -> Woken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Woken::default();
        }
        self.put_back(&mut ready, entry);
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

    /// Takes up to `max` messages from the front, or leaves the waker of `reader`. With a `max` of 0, it is woken only when
    /// the queue is deleted.
    #[inline]
    pub(crate) fn take(
        &self,
        max: usize,
        taken: &mut Vec<Entry>,
        mut reader: Option<&mut Taker<'_, '_>>,
    ) -> Taken {
        let mut ready = self.ready.lock();
        if ready.deleted {
            return Taken::Deleted;
        }
        self.catch_up(&mut ready);
        let mut count = max.min(ready.messages.len());
        let mut woken = Woken::default();
        if let Some(reader) = &reader
            && ready.readers.are_selective()
        {
            count = max.min(ready.readers.share(reader.number, ready.messages.len()));
            // Whoever comes after this one may have something to look at now.
            if max == count && ready.messages.len() > count {
                woken = ready.waiting.take();
            }
        }
        if let Some(reader) = &mut reader
            && count > 0
        {
            reader.batch.count(count);
        }
        ready.messages.take(count, taken);
        // There may be less room for what is left, and another one is at the head.
        self.drop_heads(&mut ready, None);
        if ready.may_expire {
            ready.forget_promises();
            self.schedule(&mut ready);
        }
        if count == 0 {
            if let Some(reader) = reader {
                let list = match max {
                    0 => &mut ready.full,
                    _ => &mut ready.waiting,
                };
                list.insert(reader.number, reader.waker);
            }
            return Taken::Nothing(ready.next_due(), woken);
        }
        Taken::Messages(woken)
    }

    pub(crate) fn purge(&self) -> u64 {
        let purged = self.now().messages.clear();
        self.surroundings.settling.fewer();
        purged.len() as u64
    }

    /// Drops the messages and ends the readers, if the conditions hold; answers how many were ready.
    ///
    /// Conditions and deletion are one step: nothing can be pushed, and nobody start to consume, in between.
    pub(crate) fn delete(&self, options: DeleteQueue) -> Result<u64> {
        let mut ready = self.now();
        let (messages, consumers) = (ready.messages.len(), ready.readers.len());
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
                format!("queue `{}` {problem}", self.name()),
            ));
        }
        ready.deleted = true;
        ready.delayed.clear();
        if let Some(appointment) = ready.scheduled.take() {
            self.surroundings.schedule.remove(appointment);
        }
        let entries = ready.messages.clear();
        let woken = [ready.waiting.take(), ready.full.take()];
        drop(ready);
        woken.into_iter().for_each(Woken::wake);
        self.surroundings.settling.fewer();
        Ok(entries.len() as u64)
    }

    pub(crate) fn add_consumer(&self, number: u64, options: ReaderOptions) -> Result<()> {
        let mut ready = self.ready.lock();
        ready.readers.add(number, options, self.name())
    }

    /// Whether it was the last one of a queue that goes with it.
    #[must_use]
    pub(crate) fn remove_consumer(&self, reader: u64) -> bool {
        let mut ready = self.ready.lock();
        ready.readers.remove(reader);
        self.drop_heads(&mut ready, None);
        ready.waiting.remove(reader);
        ready.full.remove(reader);
        // What this one was served first may be somebody else's now.
        let woken = ready.waiting.take();
        if ready.may_expire {
            ready.forget_promises();
            self.schedule(&mut ready);
        }
        let last = ready.readers.is_empty();
        if last {
            ready.unused_since = Instant::now();
            self.schedule(&mut ready);
        }
        drop(ready);
        woken.wake();
        last && self.declaration.is_auto_delete()
    }

    /// The time that this queue was scheduled for has come, now or a while ago. Whether it had been unused for so long
    /// that it goes.
    pub(crate) fn look_at(&self, at: Instant) -> bool {
        let mut ready = self.ready.lock();
        ready.scheduled = None;
        if ready.deleted {
            return false;
        }
        self.catch_up_with(&mut ready, at);
        let woken = ready.waiting.take();
        let expired = self.is_over(&mut ready, at);
        drop(ready);
        woken.wake();
        expired
    }

    /// Whether nobody had used the queue for too long by then.
    pub(crate) fn has_expired(&self, at: Instant) -> bool {
        self.is_over(&mut self.ready.lock(), at)
    }

    /// The same. If it isn't, the broker looks again.
    fn is_over(&self, ready: &mut Ready, at: Instant) -> bool {
        let end = ready.unused_until(&self.limits);
        let is_over = end.is_some_and(|end| end <= at);
        if !is_over && !ready.deleted {
            self.schedule(ready);
        }
        is_over
    }

    /// A dead message goes to the dead.
    fn bury(&self, entry: Entry, death: Death, died: Instant) {
        if let Some(queue) = self.myself.upgrade() {
            self.surroundings.dead.add(Corpse {
                queue,
                entry,
                death,
                died,
                left_by: Vec::new(),
            });
        }
    }

    /// Puts a message to the back. Its time begins with its arrival, or now.
    fn append(&self, ready: &mut Ready, envelope: Envelope, arrival: Option<Instant>) {
        let ttl = match (self.limits.message_ttl, envelope.expiration()) {
            (Some(queue), Some(own)) => Some(queue.min(own)),
            (queue, own) => queue.or(own),
        };
        let position = ready.next_position;
        ready.next_position += 1;
        let promised =
            ttl.is_some_and(|ttl| ttl.is_zero()) && ready.messages.len() < ready.readers.room();
        ready.has_promises |= promised;
        let lifetime = ttl.map(|ttl| {
            Box::new(Lifetime {
                ends: after(arrival.unwrap_or_else(Instant::now), ttl),
                promised,
            })
        });
        ready.messages.push_back(Entry {
            envelope,
            position,
            lifetime,
            failures: 0,
            redelivered: false,
        });
        ready.may_expire |= ttl.is_some();
        self.drop_heads(ready, arrival);
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            // Not when somebody looks: what dies later in another queue is behind it.
            self.bury_expired(ready, arrival.unwrap_or_else(Instant::now));
        }
        if ready.may_expire {
            self.schedule(ready);
        }
    }

    fn put_back(&self, ready: &mut Ready, mut entry: Entry) {
        // It was promised to who gives it back.
        if let Some(lifetime) = &mut entry.lifetime {
            lifetime.promised = false;
            ready.may_expire = true;
        }
        ready.messages.put_back(entry);
        self.drop_heads(ready, None);
        if ready.may_expire {
            self.schedule(ready);
        }
    }

    /// Whether the queue would be too long with this many messages and bytes more. Those that a consumer has room for
    /// don't count: they are as good as delivered, and RabbitMQ has sent them by then.
    fn exceeds_limits(&self, ready: &Ready, messages: u64, bytes: u64) -> bool {
        let room = ready.readers.room();
        let waiting = ready.messages.len().saturating_sub(room) as u64;
        waiting + messages > self.limits.max_length
            || ready.messages.bytes_after(room) + bytes > self.limits.max_bytes
    }

    /// Drops what is too much, the oldest first.
    #[inline]
    fn drop_heads(&self, ready: &mut Ready, arrival: Option<Instant>) {
        if !self.limits.has_length || self.limits.rejects {
            return;
        }
        while self.exceeds_limits(ready, 0, 0) {
            let Some(head) = ready.messages.take_after(ready.readers.room()) else {
                return;
            };
            self.die(head, Death::MaxLength, arrival);
        }
    }

    /// Only what is at the head of the queue expires, as in RabbitMQ.
    fn bury_expired(&self, ready: &mut Ready, now: Instant) {
        let is_over = |entry: &Entry| entry.ends().is_some_and(|end| end <= now);
        for expired in ready.messages.take_while(is_over) {
            self.die(expired, Death::Expired, Some(now));
        }
        ready.may_expire = ready.messages.len() > 0;
    }

    /// A message dies, now or earlier.
    fn die(&self, entry: Entry, death: Death, died: Option<Instant>) {
        if self.limits.dead_letters {
            self.bury(entry, death, died.unwrap_or_else(Instant::now));
            return;
        }
        if self.surroundings.recorder.is_on() {
            self.record(&entry, death, died, Vec::new());
        }
        // Nobody who waits until all are settled has to be told: there was an appointment, or another message.
    }

    /// Keeps in mind that a message died, now or earlier, and where it was moved.
    #[cold]
    pub(crate) fn record(
        &self,
        entry: &Entry,
        death: Death,
        died: Option<Instant>,
        queues: Vec<Name>,
    ) {
        self.surroundings.recorder.die(Died {
            envelope: entry.envelope.clone(),
            queue: self.name().clone(),
            death,
            queues,
            at: died.unwrap_or_else(Instant::now),
        });
    }

    /// Has the broker look at this queue when something is over, or begins.
    fn schedule(&self, ready: &mut Ready) {
        let times = [
            ready.messages.front().and_then(Entry::ends),
            ready.next_due(),
            ready.unused_until(&self.limits),
        ];
        let next = times.into_iter().flatten().min();
        let Some(next) = next else { return };
        if ready.scheduled.is_none_or(|(at, _)| next < at) {
            if let Some(later) = ready.scheduled.take() {
                self.surroundings.schedule.remove(later);
            }
            let appointment = self.surroundings.schedule.add(next, self.myself.clone());
            ready.scheduled = Some(appointment);
        }
    }

    /// Keeps a message back for a while.
    fn delay(&self, ready: &mut Ready, delay: Duration, delayed: Delayed) {
        let number = ready.next_delayed;
        ready.next_delayed += 1;
        let due = after(Instant::now(), delay);
        ready.delayed.insert((due, number), delayed);
        // Nobody may be there who waits for it, and its time in the queue begins when it is due.
        self.schedule(ready);
    }

    /// Makes visible what is due.
    fn show_due(&self, ready: &mut Ready, now: Instant) {
        while let Some(first) = ready.delayed.first_entry() {
            let (due, _) = *first.key();
            if due > now {
                return;
            }
            match first.remove() {
                Delayed::New(envelope) => self.append(ready, envelope, Some(due)),
                Delayed::Again(entry) => self.put_back(ready, entry),
            }
        }
    }
}

impl Ready {
    /// If nobody has room any more, whoever messages were promised to is gone, or paused, or got others.
    fn forget_promises(&mut self) {
        if !self.has_promises || self.readers.room() > 0 {
            return;
        }
        self.has_promises = false;
        for entry in self.messages.iter_mut() {
            if let Some(lifetime) = &mut entry.lifetime {
                lifetime.promised = false;
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// When the queue goes, unless somebody uses it before.
    fn unused_until(&self, limits: &Limits) -> Option<Instant> {
        let expires = limits.expires.filter(|_| self.readers.is_empty())?;
        Some(after(self.unused_since, expires))
    }
}

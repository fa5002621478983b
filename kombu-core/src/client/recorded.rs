//! What was declared over a connection, to be declared again on its next session.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{BoxFuture, Connection, DeleteQueue, Destination};
use crate::engine::{Begin, Entity, Event, LETS_GO_WITHIN, Restore, Session, Shared, by, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::field::FieldTable;
use crate::name::Name;
use crate::watched::Watched;

use super::topology::Step;

/// How many declarations of a new session are under way at once.
const PIPELINED: usize = 64;

/// How often a broker is asked to delete what is abandoned.
const DELETIONS: u32 = 5;

/// One thing that was declared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Record {
    Exchange(Exchange, DeclareMode),
    Queue(Queue, DeclareMode),
    Bind(Destination, Binding),
}

pub(super) struct Entry {
    record: Record,
    /// Its place among the others.
    number: u64,
    /// It had gone when a session began, and nobody was told yet. The attempt that made it anew may have been lost
    /// before its answer came; the next one finds it there.
    missed: bool,
}

/// Everything that was declared, in the order in which it was first declared.
pub(super) struct Recorded {
    entries: Mutex<Entries>,
    /// The consumers of this connection that each queue has.
    consumers: Mutex<HashMap<Name, Consumers>>,
    /// Queues that are being declared.
    declaring: Mutex<Vec<Name>>,
    /// Queues that may be there with nobody to take them along.
    abandoned: UnboundedSender<Abandoned>,
    /// Their names, until they are deleted.
    leaving: Watched<Vec<Name>>,
    /// Since when the broker refuses us an exclusive queue of ours.
    refused_since: Mutex<Option<Instant>>,
    engine: Weak<Shared>,
}

#[derive(Default)]
struct Consumers {
    count: usize,
    /// The last one on which one of them was subscribed.
    session: Option<Weak<Session>>,
}

/// A queue whose last consumer was subscribed on this session, and on none after it.
type Abandoned = (Name, Weak<Session>);

#[derive(Default)]
struct Entries {
    by_number: BTreeMap<u64, Entry>,
    numbers: HashMap<Thing, u64>,
    next_number: u64,
}

/// What a record is about on the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Exchange(Name),
    Queue(Name),
    Binding {
        destination: Destination,
        exchange: Name,
        routing_key: Name,
        arguments: FieldTable,
    },
}

impl Entries {
    fn get_mut(&mut self, thing: &Thing) -> Option<&mut Entry> {
        self.by_number.get_mut(self.numbers.get(thing)?)
    }

    fn put(&mut self, thing: Thing, entry: Entry) {
        self.numbers.insert(thing, entry.number);
        self.by_number.insert(entry.number, entry);
    }
}

impl Recorded {
    /// Starts the task that deletes what is abandoned, which ends with this or with the connection.
    pub(super) fn start(engine: &Arc<Shared>) -> Arc<Self> {
        let (sender, abandoned) = unbounded_channel();
        let recorded = Arc::new(Recorded {
            entries: Mutex::default(),
            consumers: Mutex::default(),
            declaring: Mutex::default(),
            abandoned: sender,
            leaving: Watched::default(),
            refused_since: Mutex::default(),
            engine: Arc::downgrade(engine),
        });
        let (ended, weak) = (engine.ended(), Arc::downgrade(&recorded));
        engine.runtime.spawn(async move {
            tokio::select! {
                biased;
                () = ended => {}
                () = delete_abandoned(weak.clone(), abandoned) => {}
            }
            if let Some(recorded) = weak.upgrade() {
                recorded.leaving.set(Vec::new());
            }
        });
        recorded
    }

    /// Takes note of a step that succeeded. A later declaration of the same thing replaces the earlier one.
    pub(super) fn add(&self, step: &Step<'_>) {
        let record = match step {
            Step::Exchange(exchange, mode) => Record::Exchange((*exchange).clone(), *mode),
            Step::Queue(queue, mode) => Record::Queue((*queue).clone(), *mode),
            Step::Bind(destination, binding) => {
                Record::Bind(destination.clone(), (*binding).clone())
            }
        };
        let thing = record.thing();
        let mut entries = self.entries.lock();
        if let Some(other) = entries.get_mut(&thing) {
            other.record = record;
            other.missed = false;
            return;
        }
        let number = entries.next_number;
        entries.next_number += 1;
        let entry = Entry {
            record,
            number,
            missed: false,
        };
        entries.put(thing, entry);
    }

    /// Takes out what a deletion concerns, before the broker is asked for it: if the answer never comes, or nobody
    /// waits for it, the deletion may have been carried out all the same, and nothing of it must come back.
    pub(super) fn take(&self, deletion: &Deletion<'_>) -> Vec<Entry> {
        let mut entries = self.entries.lock();
        let Entries {
            by_number, numbers, ..
        } = &mut *entries;
        let concerned = by_number
            .values()
            .filter(|entry| deletion.concerns(&entry.record));
        let concerned: Vec<u64> = concerned.map(|entry| entry.number).collect();
        let mut taken = Vec::with_capacity(concerned.len());
        for number in concerned {
            if let Some(entry) = by_number.remove(&number) {
                numbers.remove(&entry.record.thing());
                taken.push(entry);
            }
        }
        taken
    }

    /// Puts back where it was what had been taken out for a deletion that the broker refused, except for what was
    /// declared again meanwhile.
    pub(super) fn put_back(&self, taken: Vec<Entry>) {
        let mut entries = self.entries.lock();
        for entry in taken {
            let thing = entry.record.thing();
            if !entries.numbers.contains_key(&thing) {
                entries.put(thing, entry);
            }
        }
    }

    /// A consumer receives from this queue, until what this answers is dropped.
    pub(super) fn consuming(self: &Arc<Self>, queue: &Name) -> Consuming {
        self.consumers
            .lock()
            .entry(queue.clone())
            .or_default()
            .count += 1;
        Consuming {
            recorded: self.clone(),
            queue: queue.clone(),
        }
    }

    /// A queue has lost its last consumer here. If others have some, it is theirs to declare again. Answers whether the
    /// broker was to delete what this connection declared.
    fn forget_unconsumed(&self, queue: &Name) -> bool {
        let thing = Thing::Queue(queue.clone());
        let mode = match self.entries.lock().get_mut(&thing) {
            Some(entry) => entry.record.goes_unconsumed(),
            None => None,
        };
        if mode.is_some() {
            self.take(&Deletion::Queue(queue));
        }
        mode == Some(DeclareMode::Ensure)
    }

    /// A queue is about to be declared, until what this answers is dropped.
    pub(super) fn declaring(&self, queue: &Name) -> Declaring<'_> {
        self.declaring.lock().push(queue.clone());
        Declaring {
            recorded: self,
            queue: queue.clone(),
        }
    }

    /// Resolves when none of these queues is about to be deleted because its last consumer had no session to leave it on, or
    /// when the connection has ended.
    pub(super) async fn until_left(&self, queues: &[Name]) {
        let is_left = |leaving: &Vec<Name>| !queues.iter().any(|queue| leaving.contains(queue));
        let left = self.leaving.until(|leaving| is_left(leaving).then_some(()));
        left.await;
    }

    /// Somebody consumes from it again, or it is deleted, or can't be.
    fn has_left(&self, queue: &Name) {
        self.leaving.change_if(|leaving| {
            let place = leaving.iter().position(|other| other == queue);
            place.map(|place| leaving.remove(place)).is_some()
        });
    }

    /// Whether somebody here wants it to be there.
    fn is_wanted(&self, queue: &Name) -> bool {
        let is_consumed = self.consumers.lock().contains_key(queue);
        let is_declared = self.declaring.lock().contains(queue);
        let thing = Thing::Queue(queue.clone());
        is_consumed || is_declared || self.entries.lock().numbers.contains_key(&thing)
    }

    fn set_missed(&self, record: &Record, missed: bool) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&record.thing())
            && entry.record == *record
        {
            entry.missed = missed;
        }
    }

    /// Declares again what is recorded. Whether it had gone.
    async fn declare(
        &self,
        record: &Record,
        mut missed: bool,
        driver: &Arc<dyn Connection>,
    ) -> Result<bool> {
        if !record.is_survivor() {
            record.declare(driver).await?;
            return Ok(false);
        }
        if !missed && record.is_missing(driver).await? {
            missed = true;
            self.set_missed(record, true);
        }
        // Also when it is there: it may have other attributes by now.
        record.declare(driver).await?;
        if missed {
            self.set_missed(record, false);
        }
        Ok(missed)
    }

    fn tell(&self, event: Event) {
        if let Some(engine) = self.engine.upgrade() {
            engine.tell(event);
        }
    }

    /// Whether the broker may still take an exclusive queue of ours for that of the lost session.
    fn may_be_held(&self, record: &Record) -> bool {
        let Record::Queue(queue, _) = record else {
            return false;
        };
        let mut since = self.refused_since.lock();
        queue.is_exclusive() && since.get_or_insert_with(Instant::now).elapsed() < LETS_GO_WITHIN
    }

    async fn declare_all(&self, driver: &Arc<dyn Connection>, limit: Duration) -> Result<()> {
        let mut records: Vec<_> = {
            let entries = self.entries.lock();
            let entries = entries.by_number.values();
            entries
                .map(|entry| (entry.record.clone(), entry.missed))
                .collect()
        };
        // What is bound has to be there before its bindings. Among themselves, neither needs the other.
        records.sort_by_key(|(record, _)| record.rank());
        for records in records.chunk_by(|(one, _), (other, _)| one.rank() == other.rank()) {
            let declare = |(record, missed): &(Record, bool)| {
                let (record, missed) = (record.clone(), *missed);
                async move {
                    let declaring = self.declare(&record, missed, driver);
                    let declared = by(deadline(limit), declaring, || no_answer(limit)).await;
                    (record, declared)
                }
            };
            let mut declared = stream::iter(records.iter().map(declare)).buffered(PIPELINED);
            while let Some((record, declared)) = declared.next().await {
                self.declared(record, declared)?;
            }
        }
        *self.refused_since.lock() = None;
        Ok(())
    }

    /// Tells what became of a record. An error is one of the session.
    fn declared(&self, record: Record, declared: Result<bool>) -> Result<()> {
        let error = match declared {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let (what, name) = match record {
                    Record::Exchange(exchange, _) => (Entity::Exchange, exchange.name().clone()),
                    Record::Queue(queue, _) => (Entity::Queue, queue.name().clone()),
                    Record::Bind(..) => return Ok(()),
                };
                tracing::warn!(%what, %name, "had gone, and was declared again");
                self.tell(Event::Recreated { what, name });
                return Ok(());
            }
            Err(error) => error,
        };
        let kind = error.kind();
        if kind == ErrorKind::ResourceLocked && self.may_be_held(&record) {
            return Err(error);
        }
        if !is_refusal(kind) && !matches!(kind, ErrorKind::NotFound | ErrorKind::Config) {
            return Err(error);
        }
        // Somebody changed it meanwhile, or this broker can't do what the one before could. Whoever uses it will be
        // told; the others go on.
        tracing::warn!(%error, "could not be declared again as it was");
        let reason = error.to_string();
        self.tell(Event::TopologyMismatch { reason });
        Ok(())
    }
}

/// That a queue has a consumer. The broker deletes some with their last one: declared again, they would have none, and fill up.
pub(super) struct Consuming {
    recorded: Arc<Recorded>,
    queue: Name,
}

impl Consuming {
    /// It has one on this session: from now on, the broker deletes it with the last.
    pub(super) fn is_subscribed(&self, session: &Arc<Session>) {
        if let Some(consumers) = self.recorded.consumers.lock().get_mut(&self.queue) {
            consumers.session = Some(Arc::downgrade(session));
        }
    }
}

impl Drop for Consuming {
    fn drop(&mut self) {
        // Held to the end: whoever consumes from it next declares it behind this.
        let mut consumers = self.recorded.consumers.lock();
        let Some(others) = consumers.get_mut(&self.queue) else {
            return;
        };
        others.count -= 1;
        if others.count > 0 {
            return;
        }
        let before = consumers.remove(&self.queue);
        // Without one, the broker deletes nothing.
        let Some(session) = before.and_then(|consumers| consumers.session) else {
            return;
        };
        let recorded = &self.recorded;
        if recorded.forget_unconsumed(&self.queue)
            && let Some(engine) = recorded.engine.upgrade()
            && !engine.is_present(&session)
        {
            recorded.leaving.change_if(|leaving| {
                leaving.push(self.queue.clone());
                true
            });
            if recorded
                .abandoned
                .send((self.queue.clone(), session))
                .is_err()
            {
                // The connection has ended.
                recorded.has_left(&self.queue);
            }
        }
    }
}

/// That a queue is being declared: whoever does that wants it to be there afterwards.
pub(super) struct Declaring<'a> {
    recorded: &'a Recorded,
    queue: Name,
}

impl Drop for Declaring<'_> {
    fn drop(&mut self) {
        let mut declaring = self.recorded.declaring.lock();
        if let Some(place) = declaring.iter().position(|queue| *queue == self.queue) {
            declaring.swap_remove(place);
        }
    }
}

/// Deletes queues that were declared again, and have had no consumer since: the broker waits for one before it does so.
async fn delete_abandoned(recorded: Weak<Recorded>, mut abandoned: UnboundedReceiver<Abandoned>) {
    // One that can't be deleted now keeps none of the others.
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            next = abandoned.recv() => match next {
                Some((queue, last)) => {
                    let recorded = recorded.clone();
                    under_way.push(async move {
                        delete_unwanted(&recorded, &queue, last).await;
                        if let Some(recorded) = recorded.upgrade() {
                            recorded.has_left(&queue);
                        }
                    });
                }
                None => return,
            },
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
        }
    }
}

/// Deletes a queue on a session that isn't the last of its consumers, as soon as there is one, unless somebody here wants it.
async fn delete_unwanted(recorded: &Weak<Recorded>, queue: &Name, mut last: Weak<Session>) {
    let mut pauses = None;
    for attempt in 1.. {
        let engine = recorded
            .upgrade()
            .and_then(|recorded| recorded.engine.upgrade());
        let Some((limit, next)) = engine.map(|engine| {
            pauses.get_or_insert_with(|| engine.backoff());
            (engine.deadlines.declare, engine.session_besides(last))
        }) else {
            return;
        };
        let Some(session) = next.await else {
            return;
        };
        if recorded
            .upgrade()
            .is_none_or(|recorded| recorded.is_wanted(queue))
        {
            return;
        }
        let unused = DeleteQueue::new(true, false);
        let deleting = session.driver.delete_queue(queue, unused);
        let error = match by(deadline(limit), deleting, || not_deleted(limit)).await {
            Ok(_) => return,
            Err(error) => error,
        };
        if !error.is_transient() {
            // Others may consume from it: then it goes with them.
            tracing::debug!(%queue, %error, "not deleted, though nobody consumes from it here");
            return;
        }
        if attempt == DELETIONS {
            tracing::warn!(%queue, %error, "nobody consumes from it here, and it can't be deleted: it stays");
            return;
        }
        if error.kind() == ErrorKind::ConnectionLost {
            last = Arc::downgrade(&session);
            continue;
        }
        last = Weak::new();
        drop(session);
        if let Some(pauses) = &mut pauses {
            sleep(pauses.pause()).await;
        }
    }
}

fn not_deleted(limit: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "no answer within {limit:?}: waiting for the broker to delete a queue that nobody consumes from"
        ),
    )
}

fn no_answer(limit: Duration) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "no answer within {limit:?}: waiting for the broker to declare again what was declared"
        ),
    )
}

/// What is to be deleted.
pub(super) enum Deletion<'a> {
    Queue(&'a Name),
    Exchange(&'a Name),
    Binding(&'a Destination, &'a Binding),
}

impl Deletion<'_> {
    /// Whether a record goes with it.
    fn concerns(&self, record: &Record) -> bool {
        match self {
            Deletion::Queue(name) => match record {
                Record::Queue(queue, _) => queue.name() == *name,
                Record::Bind(Destination::Queue(queue), _) => queue == *name,
                _ => false,
            },
            Deletion::Exchange(name) => match record {
                Record::Exchange(exchange, _) => exchange.name() == *name,
                Record::Bind(Destination::Exchange(exchange), _) if exchange == *name => true,
                Record::Bind(_, binding) => binding.exchange().name() == *name,
                Record::Queue(..) => false,
            },
            Deletion::Binding(destination, binding) => match record {
                Record::Bind(to, other) => to == *destination && is_same_binding(other, binding),
                _ => false,
            },
        }
    }
}

fn is_same_binding(one: &Binding, other: &Binding) -> bool {
    one.exchange().name() == other.exchange().name()
        && one.get_routing_key() == other.get_routing_key()
        && one.arguments() == other.arguments()
}

/// Whether the broker understood what was asked, and didn't do it.
pub(super) fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::PreconditionFailed
            | ErrorKind::ResourceLocked
            | ErrorKind::AccessRefused
            | ErrorKind::InvalidName
            | ErrorKind::Unsupported
    )
}

impl Record {
    fn thing(&self) -> Thing {
        match self {
            Record::Exchange(exchange, _) => Thing::Exchange(exchange.name().clone()),
            Record::Queue(queue, _) => Thing::Queue(queue.name().clone()),
            Record::Bind(destination, binding) => Thing::Binding {
                destination: destination.clone(),
                exchange: binding.exchange().name().clone(),
                routing_key: binding.get_routing_key().clone(),
                arguments: binding.arguments().clone(),
            },
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Record::Exchange(..) => 0,
            Record::Queue(..) => 1,
            Record::Bind(..) => 2,
        }
    }

    /// Whether it should still be there after the session that declared it.
    fn is_survivor(&self) -> bool {
        match self {
            Record::Exchange(exchange, DeclareMode::Ensure) => !exchange.is_auto_delete(),
            Record::Queue(queue, DeclareMode::Ensure) => {
                !queue.is_exclusive() && !queue.is_auto_delete() && queue.get_expires().is_none()
            }
            _ => false,
        }
    }

    /// How it was declared, if the broker deletes it with its last consumer.
    fn goes_unconsumed(&self) -> Option<DeclareMode> {
        match self {
            Record::Queue(queue, mode) if queue.is_auto_delete() => Some(*mode),
            _ => None,
        }
    }

    async fn is_missing(&self, driver: &Arc<dyn Connection>) -> Result<bool> {
        let found = match self {
            Record::Exchange(exchange, _) => {
                driver.declare_exchange(exchange, DeclareMode::Verify).await
            }
            Record::Queue(queue, _) => {
                let info = driver.declare_queue(queue, DeclareMode::Verify).await;
                info.map(drop)
            }
            Record::Bind(..) => Ok(()),
        };
        match found {
            Ok(()) => Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            // Then it is there, or may not be seen; declaring it says which.
            Err(error) if is_refusal(error.kind()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn declare(&self, driver: &Arc<dyn Connection>) -> Result<()> {
        match self {
            Record::Exchange(exchange, mode) => driver.declare_exchange(exchange, *mode).await,
            Record::Queue(queue, mode) => driver.declare_queue(queue, *mode).await.map(drop),
            Record::Bind(destination, binding) => driver.bind(destination, binding).await,
        }
    }
}

impl Restore for Recorded {
    fn restore(
        self: Arc<Self>,
        session: Arc<Session>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Begin>> {
        Box::pin(async move {
            self.declare_all(&session.driver, limit).await?;
            let nothing: Begin = Box::new(|| {});
            Ok(nothing)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_with_nobody_is_missed() {
        use DeclareMode::{Ensure, Verify};
        let exchange = || Exchange::topic("media");
        let queue = || Queue::new("jobs");
        let hour = Duration::from_secs(3600);
        let survivors = [
            Record::Exchange(exchange(), Ensure),
            Record::Queue(queue(), Ensure),
            Record::Queue(queue().durable(false), Ensure),
        ];
        for record in survivors {
            assert!(record.is_survivor(), "{record:?}");
        }
        let others = [
            Record::Exchange(exchange().auto_delete(true), Ensure),
            Record::Exchange(exchange(), Verify),
            Record::Queue(queue().exclusive(true), Ensure),
            Record::Queue(queue().auto_delete(true), Ensure),
            Record::Queue(queue().expires(hour), Ensure),
            Record::Queue(queue(), Verify),
            Record::Bind(
                Destination::Queue("jobs".into()),
                Binding::from(&exchange()),
            ),
        ];
        for record in others {
            assert!(!record.is_survivor(), "{record:?}");
        }
    }
}

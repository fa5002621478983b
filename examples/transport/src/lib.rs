//! How to write a transport, in one file: `shelf://name` is a shelf of queues within the process.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! use kombu::{Connection, Exchange, Queue};
//! use shelf_transport::Shelf;
//!
//! let registry = kombu::registry().with(Shelf::default());
//! let connection = Connection::builder(registry).url("shelf://demo").await?;
//!
//! let media = Exchange::topic("media");
//! let videos = Queue::new("videos").bind(&media, "video.#");
//! let mut consumer = connection.consumer(&videos).await?;
//! let producer = connection.producer(&media).await?;
//! producer.publish(&"lolcat1.avi").routing_key("video.new").await?;
//!
//! let delivery = consumer.try_next().await?.expect("the video");
//! assert_eq!(delivery.decode::<String>()?, "lolcat1.avi");
//! delivery.ack().await?;
//! connection.close().await
//! # }
//! ```
//!
//! Nothing of kombu knows this crate, and it depends on `kombu-core` alone. Exchanges, matching, windows and
//! dead letters are the same on every broker that has only queues, and are in [`kombu_core::virt`]. What is
//! left for such a broker are three parts, in this order below:
//!
//! 1. a [`Transport`], which answers to a URL scheme and connects;
//! 2. a [`QueueStore`], which is one session: it keeps the declarations, pushes, and finishes what was taken;
//! 3. a [`Reader`], which takes from one queue.
//!
//! The fourth part is the broker itself. Here it is a struct behind one mutex, in the simplest collections
//! that do the job; elsewhere it is a server, and the store speaks its protocol.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use kombu_core::driver::{
    BoxFuture, Capabilities, Connection, DeleteQueue, Feature, Op, QueueInfo, RawDelivery, Target,
    Transport,
};
use kombu_core::message::Envelope;
use kombu_core::virt::{
    Answer, Applied, Batch, Change, Finish, QueueStore, Reader, ReaderOptions, Table,
    VirtualConnection,
};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use serde::Deserialize;

// ---- 1. The transport -----------------------------------------------------------------------------------

/// The transport for `shelf://name` and `shelf://name/virtual-host`.
///
/// Its shelves live as long as the value; a clone has the same ones.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    brokers: Arc<Mutex<HashMap<String, Arc<Broker>>>>,
}

/// What the query of a URL can say. An unknown key is refused with the nearest known one.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    max_message_size: Option<usize>,
}

/// The three features that need nothing but a store: `virt` does them. Every other one is refused with a
/// typed error before it comes here.
const CAPABILITIES: Capabilities = Capabilities::basic()
    .emulated(Feature::AlternateExchange)
    .emulated(Feature::ExchangeBinding)
    .emulated(Feature::DeadLetter);

#[async_trait]
impl Transport for Shelf {
    fn name(&self) -> &'static str {
        "shelf"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["shelf"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    /// Before the first attempt: what the URL says is read, so that a typing error in it needs no broker to be found.
    fn resolve(&self, target: Target) -> Result<Target> {
        target.options::<Options>()?;
        Ok(target)
    }

    /// One attempt. Trying again, and connecting again after a loss, is the client's work.
    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: Options = target.options()?;
        let name = target.url().host_str().unwrap_or_default();
        if name.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "a shelf has a name, for example `shelf://demo`",
            ));
        }
        let virtual_host = target.url().path().trim_start_matches('/');
        let broker = self
            .brokers
            .lock()
            .entry(format!("{name}/{virtual_host}"))
            .or_default()
            .clone();
        VirtualConnection::open(Session::open(broker, options)).await
    }
}

// ---- 2. The store: one session with the broker ----------------------------------------------------------

/// One session. What its readers took and didn't finish goes back when it ends.
struct Session {
    broker: Arc<Broker>,
    number: u64,
    options: Options,
}

/// Who holds a message: a reader, or a single `take_one`.
#[derive(Clone, Debug, PartialEq)]
struct Holder {
    number: u64,
    session: u64,
    queue: u64,
    queue_name: Name,
}

impl Session {
    fn open(broker: Arc<Broker>, options: Options) -> Self {
        let number = broker.with(|state| {
            let number = state.next_number();
            state.sessions.insert(number);
            number
        });
        Session {
            broker,
            number,
            options,
        }
    }

    fn holder(&self, state: &mut State, queue: u64) -> Result<Holder> {
        Ok(Holder {
            number: state.next_number(),
            session: self.number,
            queue,
            queue_name: state.queue(queue)?.name.clone(),
        })
    }
}

impl Drop for Session {
    /// A connection that is dropped without being closed gives back what it held, too.
    fn drop(&mut self) {
        self.broker.with(|state| state.end_session(self.number));
    }
}

impl QueueStore for Session {
    /// A queue's number. One that is deleted and declared again gets another, so that nobody takes the new
    /// one for the old one.
    type Queue = u64;
    type Reader = ShelfReader;
    type Holder = Holder;

    fn capabilities(&self) -> Capabilities {
        match self.options.max_message_size {
            Some(bytes) => CAPABILITIES.with_max_message_size(bytes),
            None => CAPABILITIES,
        }
    }

    fn session(&self) -> u64 {
        self.number
    }

    // An `Op` that is ready answers at once. A store that asks a server returns `Op::pending`.
    fn load(&self) -> Op<Result<Table>> {
        Op::ready(Ok(self.broker.with(|state| state.table.clone())))
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        let newest = self.broker.with(|state| state.table.version());
        Op::ready(Ok(newest == version))
    }

    /// Declarations change by compare-and-swap: `changes` were worked out from version `base`, so all of
    /// them are made if that is still the newest, else none.
    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        self.broker.with(|state| state.apply(base, changes))
    }

    fn queue(&self, name: &Name) -> Option<u64> {
        self.broker.with(|state| state.numbers.get(name).copied())
    }

    /// Into all targets or none, and none if the table has changed since they were found: the client then
    /// routes again. So a binding holds for the very next publish on any connection.
    fn push(&self, targets: &[u64], version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        Op::ready(Ok(self.broker.with(|state| {
            if state.table.version() != version {
                return Answer::Stale;
            }
            for target in targets {
                state.push(*target, envelope);
            }
            Answer::Done
        })))
    }

    /// The options are for features that shelves don't claim: nobody asks for them here.
    async fn open_reader(&self, queue: &u64, _: ReaderOptions) -> Result<ShelfReader> {
        self.broker.with(|state| {
            let holder = self.holder(state, *queue)?;
            let seat = Seat {
                session: self.number,
                waker: None,
            };
            state.queue(*queue)?.readers.insert(holder.number, seat);
            Ok(ShelfReader {
                broker: self.broker.clone(),
                holder,
            })
        })
    }

    async fn take_one(&self, queue: &u64) -> Result<Option<(RawDelivery, Holder)>> {
        self.broker.with(|state| {
            let holder = self.holder(state, *queue)?;
            let delivery = state.take(&holder);
            Ok(delivery.map(|delivery| (delivery, holder)))
        })
    }

    fn finish(&self, holder: &Holder, id: u64, finish: Finish<'_, u64>) -> Op<Result<Answer>> {
        Op::ready(self.broker.with(|state| state.finish(holder, id, finish)))
    }

    async fn info(&self, queue: &u64) -> Result<QueueInfo> {
        self.broker.with(|state| {
            let held = state.held.values();
            let unsettled = held.filter(|held| held.holder.queue == *queue).count();
            let queue = state.queue(*queue)?;
            Ok(QueueInfo::new(
                queue.name.clone(),
                queue.ready.len() as u64,
                Some(unsettled as u64),
                queue.readers.len() as u64,
            ))
        })
    }

    async fn purge(&self, queue: &u64) -> Result<u64> {
        self.broker.with(|state| {
            let purged = std::mem::take(&mut state.queue(*queue)?.ready);
            Ok(purged.len() as u64)
        })
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        // Nothing can come between this process and itself. A store with a socket resolves when it breaks.
        Box::pin(std::future::pending())
    }

    async fn close(&self) -> Result<()> {
        self.broker.with(|state| state.end_session(self.number));
        Ok(())
    }
}

// ---- 3. The reader --------------------------------------------------------------------------------------

/// Takes from one queue for one consumer. Dropping it ends the consumer; what it took stays held.
struct ShelfReader {
    broker: Arc<Broker>,
    holder: Holder,
}

impl Reader for ShelfReader {
    type Holder = Holder;

    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>> {
        let holder = &self.holder;
        self.broker.with(|state| {
            if !state.sessions.contains(&holder.session) {
                // Nothing may be held for a session that has ended. The client ends the consumer.
                return Poll::Pending;
            }
            let Some(queue) = state.queues.get_mut(&holder.queue) else {
                return Poll::Ready(Err(Error::new(
                    ErrorKind::ConsumerCancelled,
                    format!(
                        "queue `{}` was deleted while it was being consumed",
                        holder.queue_name
                    ),
                )));
            };
            // With a full window, `max` is 0, and only the end of the queue is news.
            if max == 0 || queue.ready.is_empty() {
                if let Some(seat) = queue.readers.get_mut(&holder.number) {
                    seat.waker = Some(context.waker().clone());
                }
                return Poll::Pending;
            }
            for _ in 0..max {
                let Some(taken) = state.take(holder) else {
                    break;
                };
                batch.push(taken.envelope, taken.id, taken.failures, taken.redelivered);
            }
            Poll::Ready(Ok(()))
        })
    }

    fn holder(&self) -> Holder {
        self.holder.clone()
    }
}

impl Drop for ShelfReader {
    fn drop(&mut self) {
        self.broker.with(|state| {
            if let Some(queue) = state.queues.get_mut(&self.holder.queue) {
                queue.readers.remove(&self.holder.number);
            }
        });
    }
}

// ---- The broker -----------------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Broker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    table: Table,
    numbers: HashMap<Name, u64>,
    queues: HashMap<u64, ShelfQueue>,
    /// What was taken and isn't finished, by delivery. A message is either here or in its queue.
    held: HashMap<u64, Held>,
    sessions: HashSet<u64>,
    /// Readers to be woken once the lock is free.
    doorbells: Vec<Waker>,
    last_number: u64,
}

#[derive(Debug)]
struct ShelfQueue {
    name: Name,
    /// By position. A message keeps its position while it is held, so it goes back to where it was.
    ready: BTreeMap<u64, Message>,
    last_position: u64,
    /// Open readers, by number.
    readers: HashMap<u64, Seat>,
}

/// A reader's place at a queue.
#[derive(Debug)]
struct Seat {
    session: u64,
    /// Set while the reader has found nothing.
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Message {
    envelope: Envelope,
    failures: u32,
    redelivered: bool,
}

#[derive(Debug)]
struct Held {
    holder: Holder,
    position: u64,
    message: Message,
}

impl Broker {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let answer = work(&mut state);
        let doorbells = std::mem::take(&mut state.doorbells);
        drop(state);
        // Not under the lock: whoever is woken may come back here at once.
        for doorbell in doorbells {
            doorbell.wake();
        }
        answer
    }
}

impl State {
    /// A number for a queue, session, holder or delivery. None is used twice.
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn queue(&mut self, number: u64) -> Result<&mut ShelfQueue> {
        let queue = self.queues.get_mut(&number);
        queue.ok_or_else(|| Error::new(ErrorKind::NotFound, "the queue was deleted"))
    }

    fn apply(&mut self, base: u64, changes: &[Change]) -> Result<Applied> {
        if self.table.version() != base {
            return Ok(Applied::Stale);
        }
        for change in changes {
            if let Change::DeleteQueue(name, conditions) = change {
                self.check_deletable(name, *conditions)?;
            }
        }
        let mut messages = 0;
        for change in changes {
            match change {
                Change::PutQueue(queue, _) => self.add_queue(queue.name()),
                Change::DeleteQueue(name, _) => messages += self.delete_queue(name),
                // Exchanges and bindings are nothing but entries of the table.
                _ => {}
            }
            self.table.apply(change);
        }
        let version = base + 1;
        self.table.set_version(version);
        Ok(Applied::Done { version, messages })
    }

    /// Core has checked everything else; how full and how busy a queue is, only the store knows.
    fn check_deletable(&self, name: &Name, conditions: DeleteQueue) -> Result<()> {
        let Some(queue) = self.numbers.get(name).and_then(|it| self.queues.get(it)) else {
            return Ok(());
        };
        let obstacle = if conditions.if_unused && !queue.readers.is_empty() {
            "has consumers"
        } else if conditions.if_empty && !queue.ready.is_empty() {
            "has messages"
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!("queue `{name}` {obstacle}"),
        ))
    }

    fn add_queue(&mut self, name: &Name) {
        let number = self.next_number();
        let queue = ShelfQueue {
            name: name.clone(),
            ready: BTreeMap::new(),
            last_position: 0,
            readers: HashMap::new(),
        };
        self.numbers.insert(name.clone(), number);
        self.queues.insert(number, queue);
    }

    /// Answers how many messages went with it. Its readers are woken, and find it gone.
    fn delete_queue(&mut self, name: &Name) -> u64 {
        let number = self.numbers.remove(name);
        let Some(queue) = number.and_then(|number| self.queues.remove(&number)) else {
            return 0;
        };
        let waiting = queue.readers.into_values().filter_map(|seat| seat.waker);
        self.doorbells.extend(waiting);
        queue.ready.len() as u64
    }

    fn push(&mut self, queue: u64, envelope: &Envelope) {
        let message = Message {
            envelope: envelope.clone(), // a reference count: all queues share one message
            failures: 0,
            redelivered: false,
        };
        self.insert(queue, None, message);
    }

    /// Puts a message at its position, or at the end if it has none.
    fn insert(&mut self, queue: u64, position: Option<u64>, message: Message) {
        let Some(queue) = self.queues.get_mut(&queue) else {
            return; // it was deleted, and its messages went with it
        };
        let position = position.unwrap_or_else(|| {
            queue.last_position += 1;
            queue.last_position
        });
        queue.ready.insert(position, message);
        // All of them: one that is woken may have no room in its window any more.
        let waiting = queue
            .readers
            .values_mut()
            .filter_map(|seat| seat.waker.take());
        self.doorbells.extend(waiting);
    }

    /// Moves the first message from its queue to what is held, in one step.
    fn take(&mut self, holder: &Holder) -> Option<RawDelivery> {
        let queue = self.queues.get_mut(&holder.queue)?;
        let (position, message) = queue.ready.pop_first()?;
        let id = self.next_number();
        let delivery = RawDelivery {
            envelope: message.envelope.clone(),
            id,
            failures: message.failures,
            queue: 0,
            redelivered: message.redelivered,
            waited: Duration::ZERO,
        };
        let held = Held {
            holder: holder.clone(),
            position,
            message,
        };
        self.held.insert(id, held);
        Some(delivery)
    }

    fn finish(&mut self, holder: &Holder, id: u64, finish: Finish<'_, u64>) -> Result<Answer> {
        match finish {
            Finish::Forget | Finish::Discard { .. } => drop(self.unhold(holder, id)?),
            Finish::Release => {
                let held = self.unhold(holder, id)?;
                self.give_back(held, 0);
            }
            Finish::Retry { delay: None } => {
                let held = self.unhold(holder, id)?;
                self.give_back(held, 1);
            }
            Finish::Move { version, .. } if version != self.table.version() => {
                return Ok(Answer::Stale);
            }
            Finish::Move {
                targets, envelope, ..
            } => {
                let held = self.unhold(holder, id)?;
                // A delivery of a queue that was deleted meanwhile went with it.
                let targets = if self.queues.contains_key(&held.holder.queue) {
                    targets
                } else {
                    &[]
                };
                for target in targets {
                    self.push(*target, envelope);
                }
            }
            // Nothing is silently ignored: what can't be done is said, and the message stays held.
            _ => {
                let problem = "a shelf can't delay a retry";
                return Err(Error::new(ErrorKind::Unsupported, problem));
            }
        }
        Ok(Answer::Done)
    }

    /// Ends the hold on a message, if it is still there and this holder's.
    fn unhold(&mut self, holder: &Holder, id: u64) -> Result<Held> {
        match self.held.entry(id) {
            Entry::Occupied(held) if held.get().holder == *holder => Ok(held.remove()),
            _ => Err(Error::new(
                ErrorKind::SettleLost,
                format!(
                    "the delivery from queue `{}` was no longer held; the message goes to another consumer",
                    holder.queue_name
                ),
            )),
        }
    }

    fn give_back(&mut self, held: Held, failures: u32) {
        let mut message = held.message;
        message.redelivered = true;
        message.failures = message.failures.saturating_add(failures);
        self.insert(held.holder.queue, Some(held.position), message);
    }

    fn end_session(&mut self, session: u64) {
        self.sessions.remove(&session);
        for queue in self.queues.values_mut() {
            queue.readers.retain(|_, seat| seat.session != session);
        }
        let of_session = |_: &u64, held: &mut Held| held.holder.session == session;
        let ended: Vec<(u64, Held)> = self.held.extract_if(of_session).collect();
        for (_, held) in ended {
            self.give_back(held, 0);
        }
    }
}

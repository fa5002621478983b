use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_core::Stream;

use crate::declare::Queue;
use crate::driver::{
    BoxFuture, BrokerInfo, Capabilities, Destination, Notices, Op, QueueInfo, RawDelivery,
    SubscribeOptions,
};
use crate::error::{Error, Result};
use crate::message::Envelope;
use crate::name::Name;

use super::shared::Shared;
use super::table::{Change, Table};
use super::window::{Room, Window};

/// Queues on a broker, as one session sees them.
///
/// A value of this type is one session: what its readers hold comes back to the queues when it is
/// [closed](QueueStore::close) or dies. See the [module](super) for the contract.
pub trait QueueStore: Send + Sync + 'static {
    /// A queue that was looked up once. It is cheap to clone.
    type Queue: Clone + Send + Sync + 'static;
    /// Takes messages from one queue.
    type Reader: Reader<Holder = Self::Holder>;
    /// What a reader holds; finishing goes through it, also when the reader is gone.
    type Holder: Clone + Send + Sync + 'static;

    /// What the broker can do.
    fn capabilities(&self) -> Capabilities;

    /// The session's number, which no other session of this broker has or had: in the table, it says whose an
    /// exclusive queue is.
    fn session(&self) -> u64;

    /// All declarations, with their version.
    fn load(&self) -> Op<Result<Table>>;

    /// Whether `version` is still the newest.
    fn is_current(&self, version: u64) -> Op<Result<bool>>;

    /// Asks the broker for a sign of life: an error, or silence, means that the session is lost. The default compares
    /// the version that core has. A store asks for less where somebody else than the one that the session is with may have to answer that.
    fn ping(&self, version: u64) -> Op<Result<()>> {
        self.is_current(version).map(|current| current.map(drop))
    }

    /// Makes all of `changes`, if the table is still at version `base`.
    ///
    /// Core has checked them against that version. A store checks only what it alone knows: whether a queue
    /// to be deleted has messages or consumers.
    fn apply(&self, base: u64, changes: &[Change]) -> impl Future<Output = Result<Applied>> + Send;

    /// Looks up a queue; `None` if it isn't there.
    fn queue(&self, name: &Name) -> Option<Self::Queue>;

    /// Stores the message in all of `targets`, or in none if the table has a newer version.
    ///
    /// Pushes are stored in the order of the calls. A full queue that refuses what comes is left out, and so is,
    /// for an immediate message, one without a consumer that has room.
    fn push(
        &self,
        targets: &[Self::Queue],
        version: u64,
        envelope: &Envelope,
    ) -> Op<Result<Answer>>;

    /// How long after a message was pushed first it may be pushed again under its publish id, and is stored once all the same;
    /// see [`Publisher::repeats_within`](crate::driver::Publisher::repeats_within).
    fn repeats_within(&self) -> Option<Duration> {
        None
    }

    /// Runs `push`, which pushes several messages and doesn't block: a store may wait for its end before it sends them, and
    /// so send them together. The default just runs it.
    fn together(&self, push: &mut dyn FnMut()) {
        push();
    }

    /// Takes note of a published message that matches no queue, if `version` is still the newest.
    ///
    /// It is gone. A store may keep a record of it; the default doesn't.
    fn push_nowhere(&self, version: u64, envelope: &Envelope) -> Op<Result<Answer>>
    where
        Self: Sized,
    {
        let _ = envelope;
        Shared::compare(self, version)
    }

    /// Has answers to questions come past all queues, where the broker has such a way: whatever is published to the default
    /// exchange with this key, which no queue is called, on whichever session. There [`push_nowhere`](Self::push_nowhere) answers
    /// [`Answer::HandedOver`].
    ///
    /// `name` is that of a connection's answers on all of its sessions. The default has none: answers come to a queue.
    fn open_replies(
        &self,
        name: &Name,
    ) -> impl Future<Output = Result<Option<(Name, Replies)>>> + Send {
        let _ = name;
        std::future::ready(Ok(None))
    }

    /// Asked for a message that matches no queue: [`Answer::Done`] if `version` is still the newest as far as the message's
    /// exchange is concerned, and nothing has been done.
    ///
    /// An error says that nobody knows where the exchange leads; then a dead letter is [left](Finish::LeaveDead) to others.
    fn leads_nowhere(&self, version: u64, exchange: &Name) -> Op<Result<Answer>>
    where
        Self: Sized,
    {
        let _ = exchange;
        Shared::compare(self, version)
    }

    /// Looks for a queue or an exchange that the table of this version doesn't have.
    ///
    /// Where others use the broker in their own way, something may be there that nobody declared here.
    /// [`Answer::Stale`] says that the next [`load`](Self::load) has it, or that the version isn't the newest; anything
    /// else says that it isn't there. The default looks nowhere.
    fn look_for(&self, version: u64, missing: &Destination) -> Op<Result<Answer>>
    where
        Self: Sized,
    {
        let _ = missing;
        Shared::compare(self, version)
    }

    /// Starts to take from a queue, as a consumer of it.
    ///
    /// [`ErrorKind::AccessRefused`](crate::ErrorKind::AccessRefused) if somebody consumes from it exclusively, or if
    /// this one is to be exclusive and isn't the first.
    fn open_reader(
        &self,
        queue: &Self::Queue,
        options: ReaderOptions,
    ) -> impl Future<Output = Result<Self::Reader>> + Send;

    /// Takes one message, if there is one, without becoming a consumer.
    fn take_one(
        &self,
        queue: &Self::Queue,
    ) -> impl Future<Output = Result<Option<(RawDelivery, Self::Holder)>>> + Send;

    /// Ends the hold on a message that was taken.
    ///
    /// The work is queued when the call returns; dropping the answer undoes nothing. A message that isn't
    /// held any more answers [`ErrorKind::SettleLost`](crate::ErrorKind::SettleLost). Only a
    /// [`Finish::Move`] can be [`Answer::Stale`].
    fn finish(
        &self,
        holder: &Self::Holder,
        id: u64,
        finish: Finish<'_, Self::Queue>,
    ) -> Op<Result<Answer>>;

    /// Takes messages that died in their queues, of whichever session, to be moved to where their queue's dead-letter
    /// exchange leads. Only queues that have one keep their dead; what dies elsewhere is gone.
    ///
    /// Core calls it before it looks at a queue, and after [`dead_bell`](Self::dead_bell) rang, and not again before it has
    /// finished what it got. What is taken is held as a delivery is; what this session [left](Finish::LeaveDead) is for
    /// others. The default never has any.
    fn take_dead(&self) -> Op<Result<Vec<Dead<Self::Holder>>>> {
        Op::ready(Ok(Vec::new()))
    }

    /// Resolves when there may be something for [`take_dead`](Self::take_dead).
    fn dead_bell(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    /// Counts of a queue.
    fn info(&self, queue: &Self::Queue) -> impl Future<Output = Result<QueueInfo>> + Send;

    /// What the broker says of itself. By default, nothing.
    fn broker_info(&self) -> Op<Result<BrokerInfo>> {
        Op::ready(Ok(BrokerInfo::default()))
    }

    /// Removes the ready messages and answers how many they were.
    fn purge(&self, queue: &Self::Queue) -> impl Future<Output = Result<u64>> + Send;

    /// What the broker, or the store, tells by itself from now on. The default says nothing.
    fn notices(&self) -> Notices {
        Box::pin(futures_util::stream::pending())
    }

    /// Resolves when the session was lost, with the reason. A store that can't lose it never resolves.
    fn closed(&self) -> BoxFuture<'static, Error>;

    /// Ends the session; what its readers hold goes back. A second call does nothing.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Answers that come past all queues, until the session ends.
pub type Replies = Pin<Box<dyn Stream<Item = Envelope> + Send>>;

/// How a [`Reader`] is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ReaderOptions {
    /// Nobody else may consume from the queue meanwhile.
    pub exclusive: bool,
    /// Readers with a higher number are served first while they have room.
    pub priority: i32,
    /// What is taken needn't be held: all of it is finished with [`Finish::Forget`], and what isn't handed out may be lost. A store
    /// may hold it all the same.
    pub at_most_once: bool,
    /// How much the consumer can take. Stores whose queues don't ask for it may leave it alone.
    pub room: Room,
}

impl ReaderOptions {
    /// What a subscription asks of its readers.
    pub(super) fn of(options: &SubscribeOptions, window: &Arc<Window>) -> Self {
        ReaderOptions {
            exclusive: options.exclusive,
            priority: options.priority,
            at_most_once: options.no_ack && options.at_most_once,
            room: Room::of(window.clone()),
        }
    }
}

/// Why a message left its queue without being consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Death {
    /// Its consumer gave it up.
    Rejected,
    /// Its time was over.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It was handed out as often as its queue allows.
    DeliveryLimit,
}

impl Death {
    /// The reason as RabbitMQ writes it in `x-death`.
    pub fn as_str(self) -> &'static str {
        match self {
            Death::Rejected => "rejected",
            Death::Expired => "expired",
            Death::MaxLength => "maxlen",
            Death::DeliveryLimit => "delivery_limit",
        }
    }
}

/// A message that died in its queue and is held by this session until it is finished.
#[derive(Debug)]
pub struct Dead<H> {
    /// The queue's declaration.
    pub queue: Arc<Queue>,
    /// What it died of.
    pub death: Death,
    /// When it died.
    pub died: SystemTime,
    /// The message.
    pub envelope: Envelope,
    /// What finishes it.
    pub holder: H,
    /// Its number, as that of a delivery.
    pub id: u64,
}

/// Takes messages from one queue. Dropping it ends the consumer and gives back nothing.
pub trait Reader: Send + Unpin + 'static {
    /// See [`QueueStore::Holder`].
    type Holder;

    /// Takes up to `max` messages, in order of position, or registers the task to be woken. What the broker handed over by
    /// itself may be more, as long as the [`Room`] has it.
    ///
    /// `Ready(Ok(()))` means that at least one was taken. With a `max` of 0, nothing is taken, and the task needs
    /// to be woken only when the queue is deleted.
    /// [`ErrorKind::ConsumerCancelled`](crate::ErrorKind::ConsumerCancelled) means that the queue was
    /// deleted, and the reader isn't asked again; every other error ends the session.
    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>>;

    /// How many messages this reader has asked the broker for and doesn't have yet, at most.
    ///
    /// Several readers share a window: what one of them asked for isn't there for the others until its answer
    /// says that there are fewer, which wakes the task. A reader that takes at once never waits for any.
    #[inline]
    fn asked_for(&self) -> usize {
        0
    }

    /// Ends the consumer, as dropping does, and answers when the broker knows: then nothing is on its way here
    /// any more, and what was and isn't handed over is back.
    fn close(self) -> Op<Result<()>>
    where
        Self: Sized,
    {
        drop(self);
        Op::ready(Ok(()))
    }

    /// What finishes the messages that this reader takes.
    fn holder(&self) -> Self::Holder;
}

/// Where a [`Reader`] puts what it took.
#[derive(Debug)]
pub struct Batch<'a> {
    pub(super) queue: u16,
    pub(super) taken: &'a mut VecDeque<RawDelivery>,
    pub(super) window: &'a Window,
    /// How many of them the window has counted.
    pub(super) counted: u32,
}

impl Batch<'_> {
    /// Takes `count` messages, which are to be pushed before the reader answers, out of the consumer's [`Room`] at once.
    ///
    /// Without it, that is done when the reader has answered. A store whose queues look at the room does it in the step
    /// in which they let go of the messages, so that nobody sees room for messages that have it already.
    #[inline]
    pub fn count(&mut self, count: usize) {
        self.counted += count as u32;
        self.window.take(count as u32);
    }

    /// Adds a message that is now held under `id`.
    #[inline]
    pub fn push(&mut self, envelope: Envelope, id: u64, failures: u32, redelivered: bool) {
        self.taken.push_back(RawDelivery {
            envelope,
            id,
            failures,
            queue: self.queue,
            redelivered,
            waited: Duration::ZERO,
        });
    }
}

/// What a store said to a change of declarations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// All changes are made.
    Done {
        /// The version after them.
        version: u64,
        /// How many ready messages went with the deleted queues.
        messages: u64,
    },
    /// Somebody else changed the table first; nothing was changed.
    Stale,
}

/// What a store said to a write that depends on the table's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, everywhere.
    Done,
    /// The table has a newer version; nothing was done.
    Stale,
    /// It is done, except in at least one queue that is full and refuses what comes.
    Refused,
    /// It matches no queue, and was given to the broker for whoever listens past all queues, if anybody does.
    HandedOver,
    /// The message was immediate, and no queue had a consumer with room; nothing was done.
    NoConsumers,
}

/// How the hold on a message ends.
#[derive(Debug)]
#[non_exhaustive]
pub enum Finish<'a, Q> {
    /// The message is done.
    Forget,
    /// The message died, and there is no dead-letter target: it is gone, as if it was done.
    Discard {
        /// What it died of.
        death: Death,
    },
    /// The message died, and this session doesn't get it to where it belongs: it is left for
    /// [`take_dead`](QueueStore::take_dead) on other sessions. A delivery whose queue was deleted meanwhile is forgotten.
    ///
    /// A store that has no dead refuses this with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported); then the
    /// message is discarded.
    LeaveDead {
        /// What it died of, unless it was dead before.
        death: Death,
    },
    /// Back to its original position, marked as redelivered.
    Release,
    /// As a release, and counted as a failure; invisible until the delay is over.
    Retry {
        /// How long it stays invisible.
        delay: Option<Duration>,
    },
    /// Into the targets (at least one), and gone from here, in one step. A full target that refuses what comes
    /// is left out.
    ///
    /// A delivery whose queue was deleted meanwhile is forgotten and moved nowhere: it went with its queue. What died
    /// before its queue was deleted is moved.
    Move {
        /// What the message died of.
        death: Death,
        /// The queues to push to.
        targets: &'a [Q],
        /// The version of the table that the targets were found with.
        version: u64,
        /// The message as it is to be stored there.
        envelope: &'a Envelope,
    },
}

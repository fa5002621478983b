use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use futures_core::Stream;

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::error::{Error, Result};
use crate::name::Name;

use super::{
    BoxFuture, Caller, Capabilities, Publisher, RawDelivery, Settle, SubscribeOptions, Subscription,
};

/// A queue as the broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueInfo {
    /// The queue's name.
    pub name: Name,
    /// Messages that wait to be delivered.
    pub ready: u64,
    /// Messages that were delivered and aren't settled. `None` where the broker doesn't tell (AMQP).
    pub unsettled: Option<u64>,
    /// Consumers.
    pub consumers: u64,
}

impl QueueInfo {
    /// What is known about the queue of this name.
    pub fn new(name: Name, ready: u64, unsettled: Option<u64>, consumers: u64) -> Self {
        QueueInfo {
            name,
            ready,
            unsettled,
            consumers,
        }
    }
}

/// What a broker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerInfo {
    /// What it is, and its version: `RabbitMQ 3.10.8`. `None` where it doesn't tell.
    pub version: Option<String>,
    /// The time by its clock. `None` where it doesn't tell (AMQP).
    pub time: Option<SystemTime>,
}

impl BrokerInfo {
    /// What is known about the broker.
    pub fn new(version: Option<String>, time: Option<SystemTime>) -> Self {
        BrokerInfo { version, time }
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// A queue.
    Queue(Name),
    /// Another exchange.
    Exchange(Name),
}

/// Conditions for deleting a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteQueue {
    /// Only if it has no consumers.
    pub if_unused: bool,
    /// Only if it has no ready messages.
    pub if_empty: bool,
}

impl DeleteQueue {
    /// Delete it only under these conditions.
    pub fn new(if_unused: bool, if_empty: bool) -> Self {
        DeleteQueue {
            if_unused,
            if_empty,
        }
    }
}

/// What a broker tells by itself about a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// It takes no publishes for the time being, for example because it is short of memory. Settles and
    /// everything else go on.
    Blocked {
        /// Why, in the broker's words.
        reason: String,
    },
    /// It takes publishes again.
    Unblocked,
    /// Something that belongs to a queue had gone, or didn't answer, and was put right. Consumers go on.
    Repaired {
        /// The queue's name.
        queue: Name,
        /// What it was.
        reason: String,
    },
}

/// What a broker tells, in order.
pub type Notices = Pin<Box<dyn Stream<Item = Notice> + Send>>;

/// One session with a broker. It never comes back once it has ended.
///
/// Declarations arrive checked: names are short enough and not reserved, the capabilities cover them, and a
/// queue has a name. Bindings of an exchange or queue arrive one by one through
/// [`bind`](Connection::bind).
#[async_trait]
pub trait Connection: Send + Sync {
    /// What this broker can do.
    fn capabilities(&self) -> Capabilities;

    /// Declares an exchange, or with [`DeclareMode::Verify`] asks whether it is there.
    ///
    /// An equal declaration succeeds; another one fails with
    /// [`ErrorKind::PreconditionFailed`](crate::ErrorKind::PreconditionFailed) and names what differs.
    async fn declare_exchange(&self, exchange: &Exchange, mode: DeclareMode) -> Result<()>;

    /// Deletes an exchange and its bindings. One that is missing counts as deleted.
    async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<()>;

    /// Declares a queue, or with [`DeclareMode::Verify`] asks whether it is there.
    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo>;

    /// Deletes a queue and answers how many ready messages it had. One that is missing counts as deleted.
    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64>;

    /// Removes the ready messages of a queue and answers how many they were.
    async fn purge_queue(&self, name: &Name) -> Result<u64>;

    /// Binds a destination to the exchange of the binding. An equal binding succeeds.
    async fn bind(&self, destination: &Destination, binding: &Binding) -> Result<()>;

    /// Removes a binding. One that is missing counts as removed.
    async fn unbind(&self, destination: &Destination, binding: &Binding) -> Result<()>;

    /// Counts of a queue.
    async fn queue_info(&self, name: &Name) -> Result<QueueInfo>;

    /// What the broker says of itself. By default, nothing.
    async fn broker_info(&self) -> Result<BrokerInfo> {
        Ok(BrokerInfo::default())
    }

    /// Opens a publisher.
    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>>;

    /// Subscribes to all of `queues`, with one window over them.
    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>>;

    /// Opens what publishes questions and receives their answers.
    ///
    /// `name` is the same on every session of a connection: where answers come to is best called that, so that one which
    /// was on its way when a session was lost still arrives. The default has an exclusive queue of that name; a broker with
    /// a shorter way for answers overrides it.
    async fn open_caller(&self, name: &Name) -> Result<Caller> {
        Caller::with_queue(self, name).await
    }

    /// Takes one message if the queue has one, with what settles it.
    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>>;

    /// Resolves when the session has ended, whoever ended it, with the reason.
    fn closed(&self) -> BoxFuture<'static, Error>;

    /// What the broker tells by itself from now on. The default says nothing, as a broker that never blocks.
    fn notices(&self) -> Notices {
        Box::pin(futures_util::stream::pending())
    }

    /// Asks the broker for a sign of life. It is called every few seconds.
    async fn ping(&self) -> Result<()>;

    /// Ends the session: publishes that are under way are answered, queued settles are flushed, and what
    /// is unsettled goes back to its queues. A second call waits for the same end.
    async fn close(&self) -> Result<()>;

    /// The session is over without more ado: its end was waited for for too long, of a broker that is silent, say.
    ///
    /// [`closed`](Connection::closed) resolves, if it hasn't yet, so that whoever still has something of this session goes on with the
    /// next one. By default nothing is done, which is right where [`close`](Connection::close) begins with that.
    fn abandon(&self) {}
}

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::declare::{DeclareMode, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::{
    BoxFuture, Connection, Op, Outcome, Publisher, Received, Settle, Settlement, SubscribeOptions,
    Subscription, Tag,
};

/// How many answers a reply queue may send ahead.
const AHEAD: u32 = 1024;

/// What questions are published with, and where their answers come to.
pub struct Caller {
    /// Publishes the questions. Answers may come only to what it published.
    pub publisher: Arc<dyn Publisher>,
    /// What questions carry as their `reply_to`: whoever answers publishes to the default exchange with this key.
    pub reply_to: Name,
    /// The answers; none of them is settled. [`Received::Cancelled`](super::Received::Cancelled) says that answers may have
    /// been lost, and that further ones come.
    pub replies: Box<dyn Subscription>,
}

impl Caller {
    /// One whose answers come to an exclusive queue of this name, which is declared.
    ///
    /// # Errors
    ///
    /// Those of the operations that it takes.
    pub async fn with_queue<C: Connection + ?Sized>(connection: &C, name: &Name) -> Result<Self> {
        let queue = Caller::queue(name);
        connection
            .declare_queue(&queue, DeclareMode::Ensure)
            .await?;
        let replies = connection
            .open_subscription(std::slice::from_ref(name), &Caller::options())
            .await?;
        Ok(Caller {
            publisher: connection.open_publisher().await?,
            reply_to: name.clone(),
            replies,
        })
    }

    /// The queue for answers of this name.
    pub fn queue(name: &Name) -> Queue {
        Queue::new(name)
            .durable(false)
            .exclusive(true)
            .auto_delete(true)
    }

    /// How a queue for answers is subscribed to.
    pub fn options() -> SubscribeOptions {
        // The queue and what is on its way from it end together.
        SubscribeOptions::new(AHEAD).no_ack(true).at_most_once(true)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("reply_to", &self.reply_to)
            .finish_non_exhaustive()
    }
}

/// Answers that come past all queues, as a [`Subscription`]: nothing of it is settled, and there is no queue to take in or to
/// leave.
#[derive(Debug)]
pub struct PastQueues<S>(S);

impl<S> PastQueues<S> {
    /// A subscription to what comes over this stream.
    pub fn new(stream: S) -> Self {
        PastQueues(stream)
    }
}

impl<S: Stream<Item = Result<Received>> + Unpin> Stream for PastQueues<S> {
    type Item = Result<Received>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

impl<S: Stream<Item = Result<Received>> + Send + Unpin> Subscription for PastQueues<S> {
    fn settler(&self) -> Arc<dyn Settle> {
        Arc::new(Nothing)
    }

    fn set_window(&self, _: u32) {}

    fn pause(&mut self, _: bool) {}

    fn add(&mut self, _: &Name) -> BoxFuture<'_, Result<u16>> {
        Box::pin(std::future::ready(Err(Error::new(
            ErrorKind::Unsupported,
            "answers come from no other queue",
        ))))
    }

    fn remove(&mut self, _: u16) -> Op<Result<()>> {
        Op::ready(Ok(()))
    }

    fn cancel(self: Box<Self>) -> Op<Result<()>> {
        Op::ready(Ok(()))
    }
}

/// Settles what isn't settled.
struct Nothing;

impl Settle for Nothing {
    fn settle(&self, _: Tag, _: Outcome) -> Settlement {
        Settlement::done(Ok(()))
    }
}

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use kombu_serializers::Accept;

use crate::declare::Queue;
use crate::driver::{BoxFuture, SubscribeOptions, Subscription};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::connection::named;
use super::delivery::{Held, Link, LinkQueue};
use super::{Connection, Delivery};

/// Deliveries that may be unsettled at once unless the consumer says otherwise.
const DEFAULT_PREFETCH: u32 = 64;

/// A consumer to be: awaiting it declares its queues and subscribes.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenConsumer {
    connection: Connection,
    queues: Vec<Queue>,
    prefetch: u32,
    no_ack: Option<bool>,
    accept: Accept,
}

impl OpenConsumer {
    pub(super) fn new(connection: Connection, queues: Vec<Queue>) -> Self {
        OpenConsumer {
            connection,
            queues,
            prefetch: DEFAULT_PREFETCH,
            no_ack: None,
            accept: Accept::all(),
        }
    }

    /// How many deliveries may be unsettled at once, over all queues. Default: 64; 0 means no limit, which
    /// lets a full queue fill the memory.
    pub fn prefetch(mut self, deliveries: u32) -> Self {
        self.prefetch = deliveries;
        self
    }

    /// The broker forgets a message when it hands it out: a crash loses it, and settling is an error.
    /// Default: what the queues say, if they all say the same, else false.
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = Some(no_ack);
        self
    }

    /// Serializer names or content types that are decoded; everything else is refused before decoding.
    /// Default: every serializer that is built in or registered.
    pub fn accept<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.accept = Accept::only(names);
        self
    }

    async fn open(self) -> Result<Consumer> {
        let inner = self.connection.inner().clone();
        if self.queues.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "a consumer needs at least one queue",
            ));
        }
        self.accept.check(&inner.serializers)?;
        let queues: Vec<Queue> = self.queues.iter().map(named).collect();
        for queue in &queues {
            self.connection.declare_queue(queue).await?;
        }
        let no_ack = self
            .no_ack
            .unwrap_or_else(|| queues.iter().all(Queue::is_no_ack));
        let names: Vec<Name> = queues.iter().map(|queue| queue.name().clone()).collect();
        let options = SubscribeOptions::new(self.prefetch).no_ack(no_ack);
        let subscription = inner.driver.open_subscription(&names, &options).await?;
        let link_queues = queues
            .iter()
            .map(|queue| LinkQueue {
                name: queue.name().clone(),
                dead_letters: queue.get_dead_letter_exchange().is_some(),
            })
            .collect();
        let held = Held::new(self.prefetch);
        let link = Link {
            settler: subscription.settler(),
            queues: link_queues,
            serializers: inner.serializers.clone(),
            accept: self.accept,
            no_ack,
            held: Some(held),
        };
        tracing::debug!(queues = ?names, prefetch = self.prefetch, no_ack, "consumer opened");
        Ok(Consumer {
            subscription: Some(subscription),
            link: Arc::new(link),
            queues: names,
            _connection: self.connection,
        })
    }
}

impl IntoFuture for OpenConsumer {
    type Output = Result<Consumer>;
    type IntoFuture = BoxFuture<'static, Result<Consumer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.open()
                .await
                .map_err(|error| error.during("open consumer"))
        })
    }
}

/// Receives from one queue or several, with one window over all of them.
///
/// It is a [`Stream`] of `Result<Delivery>`; [`next`](Consumer::next) and [`try_next`](Consumer::try_next) are here
/// so that no import is needed. An `Err` item ends the stream. A body that can't be decoded isn't an item: it
/// is delivered, and decoding it fails.
///
/// All receiving methods are cancel safe: a delivery is either returned or still in the consumer.
///
/// # Drop
///
/// What was fetched and not received goes back to its original position. Deliveries that were received can
/// still be settled.
pub struct Consumer {
    subscription: Option<Box<dyn Subscription>>,
    link: Arc<Link>,
    queues: Vec<Name>,
    _connection: Connection,
}

impl Consumer {
    /// The queues, in the order in which they were given; those without a name have the one that they got.
    pub fn queues(&self) -> &[Name] {
        &self.queues
    }

    /// The next delivery, an error that ended the consumer, or `None` once it has ended.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        poll_fn(|context| self.poll_delivery(context)).await
    }

    /// The next delivery, or `None` once the consumer or its connection was closed by this program.
    pub async fn try_next(&mut self) -> Result<Option<Delivery>> {
        self.next().await.transpose()
    }

    /// The next delivery if one comes within `timeout`; nothing is lost when none does. A timeout of zero
    /// takes only what is there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] once the consumer has ended, and what ended it before that.
    pub async fn receive(&mut self, timeout: Duration) -> Result<Option<Delivery>> {
        match tokio::time::timeout(timeout, self.next()).await {
            Ok(Some(delivery)) => delivery.map(Some),
            Ok(None) => Err(Error::new(
                ErrorKind::Closed,
                "the consumer has ended; open another one",
            )
            .during("receive")),
            Err(_) => Ok(None),
        }
    }

    /// Changes how many deliveries may be unsettled at once. A smaller window takes effect as deliveries are
    /// settled; 0 means no limit.
    pub fn set_prefetch(&self, deliveries: u32) {
        if let Some(held) = &self.link.held {
            held.window.store(deliveries, Ordering::Relaxed);
        }
        if let Some(subscription) = &self.subscription {
            subscription.set_window(deliveries);
        }
    }

    /// Ends the consumer and waits until the broker sends it nothing more. Deliveries that were received can
    /// still be settled.
    pub async fn cancel(mut self) -> Result<()> {
        self.link.release_held();
        match self.subscription.take() {
            Some(subscription) => subscription
                .cancel()
                .await
                .map_err(|error| error.during("cancel consumer")),
            None => Ok(()),
        }
    }

    #[inline]
    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        let Some(subscription) = &mut self.subscription else {
            return Poll::Ready(None);
        };
        // A busy queue never makes the consumer wait: without the budget it would starve its worker.
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        match Pin::new(subscription).poll_next(context) {
            Poll::Ready(Some(Ok(raw))) => {
                budget.made_progress();
                let delivery = Delivery::new(raw, self.link.clone());
                tracing::debug!(?delivery, "received");
                Poll::Ready(Some(Ok(delivery)))
            }
            Poll::Ready(Some(Err(error))) => self.end(Some(error)),
            Poll::Ready(None) => self.end(None),
            Poll::Pending => {
                let Some(held) = &self.link.held else {
                    return Poll::Pending;
                };
                held.task.register(context.waker());
                match held.fills_window() {
                    None => Poll::Pending,
                    Some(held) => self.end(Some(Error::new(
                        ErrorKind::Undecodable,
                        format!(
                            "{held} deliveries that can't be decoded fill the window; give the queue a \
                             dead-letter exchange, settle them, or read them with another consumer"
                        ),
                    ))),
                }
            }
        }
    }

    #[cold]
    fn end(&mut self, error: Option<Error>) -> Poll<Option<Result<Delivery>>> {
        self.link.release_held();
        self.subscription = None;
        Poll::Ready(error.map(|error| Err(error.during("consume"))))
    }
}

impl Stream for Consumer {
    type Item = Result<Delivery>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Delivery>>> {
        self.get_mut().poll_delivery(context)
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.link.release_held();
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("queues", &self.queues)
            .field("ended", &self.subscription.is_none())
            .finish()
    }
}

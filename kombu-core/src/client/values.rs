//! What a consumer receives, decoded.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use serde::de::DeserializeOwned;
use tokio::time::{Sleep, sleep_until};

use crate::engine::{check_runtime, deadline};
use crate::error::Result;

use super::{Consumer, Delivery};

/// The messages of a consumer, decoded: a [`Stream`] of values, each with its delivery, which is still to be settled.
///
/// A body that isn't a `T` is no item: what becomes of it is the consumer's
/// [policy](super::OpenConsumer::on_undecodable). An error ends the stream, and so does the end of the consumer.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Exchange, Queue};
///
/// let connection = kombu::connect("memory://").await?;
/// let mut consumer = connection.consumer(&Queue::new("numbers")).await?;
/// let producer = connection.producer(Exchange::default()).routing_key("numbers").await?;
/// for number in 1..=3 {
///     producer.publish(&number).await?;
/// }
///
/// let mut sum = 0;
/// let mut numbers = consumer.values::<u32>().limit(3);
/// while let Some((number, delivery)) = numbers.try_next().await? {
///     sum += number;
///     delivery.ack().await?;
/// }
/// assert_eq!(sum, 6);
/// # Ok(())
/// # }
/// ```
///
/// # Drop
///
/// The consumer goes on, and nothing is lost.
#[must_use = "nothing is received until this is polled"]
pub struct Values<'a, T> {
    consumer: &'a mut Consumer,
    /// How many are still to come; `None` if that isn't limited.
    left: Option<usize>,
    patience: Option<Duration>,
    /// When the patience is over, while it waits.
    end: Option<Pin<Box<Sleep>>>,
    value: PhantomData<fn() -> T>,
}

impl<T> Values<'_, T> {
    /// Ends after so many values. Default: never.
    pub fn limit(mut self, values: usize) -> Self {
        self.left = Some(values);
        self
    }

    /// Ends when no value comes for so long. Default: never.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self.end = None;
        self
    }

    /// Whether it has waited for too long.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(patience) = self.patience else {
            return Poll::Pending;
        };
        let end = match &mut self.end {
            Some(end) => end,
            None => {
                check_runtime()?;
                self.end.insert(Box::pin(sleep_until(deadline(patience))))
            }
        };
        end.as_mut().poll(context).map(Ok)
    }
}

impl<T: DeserializeOwned> Values<'_, T> {
    /// The next value, an error that ended them, or `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<(T, Delivery)>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The same as a result, for `while let`.
    ///
    /// # Errors
    ///
    /// What ended the consumer.
    pub async fn try_next(&mut self) -> Result<Option<(T, Delivery)>> {
        self.next().await.transpose()
    }
}

impl<T: DeserializeOwned> Stream for Values<'_, T> {
    type Item = Result<(T, Delivery)>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.left == Some(0) {
            return Poll::Ready(None);
        }
        loop {
            match Pin::new(&mut *this.consumer).poll_next(context) {
                Poll::Ready(Some(Ok(delivery))) => match delivery.take::<T>() {
                    Ok(value) => {
                        this.end = None;
                        this.left = this.left.map(|left| left - 1);
                        return Poll::Ready(Some(Ok(value)));
                    }
                    Err(error) => tracing::warn!(%error, "a message is passed over"),
                },
                Poll::Ready(Some(Err(error))) => {
                    this.left = Some(0);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    this.left = Some(0);
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        let ended = this.poll_end(context);
        ended.map(|ended| {
            this.left = Some(0);
            ended.err().map(Err)
        })
    }
}

impl<T> fmt::Debug for Values<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values")
            .field("queues", &self.consumer.queues())
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    /// What comes, decoded, as a stream: one after the other, up to a limit, or until nothing comes any more. It is also
    /// what collects replies, from a queue that they were sent to.
    pub fn values<T: DeserializeOwned>(&mut self) -> Values<'_, T> {
        Values {
            consumer: self,
            left: None,
            patience: None,
            end: None,
            value: PhantomData,
        }
    }
}

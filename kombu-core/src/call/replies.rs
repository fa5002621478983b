use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::de::DeserializeOwned;

use crate::driver::BoxFuture;

use super::CallError;
use super::asking::{Asking, decoded};

/// The answers to one question, as they come. It is a [`Stream`] of `Result<Resp, CallError>`; an error ends it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Exchange, Queue};
///
/// let connection = kombu::connect("memory://").await?;
/// let mut questions = connection.consumer(&Queue::new("countdowns")).await?;
/// tokio::spawn(async move {
///     while let Some(delivery) = questions.try_next().await? {
///         let from = delivery.decode::<u32>()?;
///         if let Some(responder) = delivery.responder() {
///             for number in (1..=from).rev() {
///                 responder.part(&number).await?;
///             }
///             responder.end().await?;
///         }
///         delivery.ack().await?;
///     }
///     kombu::Result::Ok(())
/// });
///
/// let caller = connection.caller(Exchange::default()).routing_key("countdowns").await?;
/// let mut replies = caller.call::<_, u32>(&3).stream();
/// let mut numbers = Vec::new();
/// while let Some(number) = replies.next().await {
///     numbers.push(number?);
/// }
/// assert_eq!(numbers, [3, 2, 1]);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is asked until this is polled"]
pub struct Replies<Resp> {
    state: State,
    value: PhantomData<fn() -> Resp>,
}

enum State {
    Starting(BoxFuture<'static, Result<Asking, CallError>>),
    Asking(Box<Asking>),
    Ended,
}

impl<Resp: DeserializeOwned> Replies<Resp> {
    pub(super) fn new(starting: BoxFuture<'static, Result<Asking, CallError>>) -> Self {
        Replies {
            state: State::Starting(starting),
            value: PhantomData,
        }
    }

    /// The next answer, an error that ended them, or `None` after the last one. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Resp, CallError>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<Resp: DeserializeOwned> Stream for Replies<Resp> {
    type Item = Result<Resp, CallError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                State::Starting(starting) => match starting.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(asking)) => this.state = State::Asking(Box::new(asking)),
                    Poll::Ready(Err(error)) => {
                        this.state = State::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                State::Asking(asking) => {
                    let Poll::Ready(answer) = asking.poll(context) else {
                        return Poll::Pending;
                    };
                    let is_end = answer.as_ref().is_ok_and(|answer| answer.is_end());
                    let is_last = !answer.as_ref().is_ok_and(|answer| answer.has_more());
                    let value = answer.and_then(decoded);
                    if is_last || value.is_err() {
                        this.state = State::Ended;
                    }
                    return Poll::Ready((!is_end).then_some(value));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl<Resp> fmt::Debug for Replies<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}

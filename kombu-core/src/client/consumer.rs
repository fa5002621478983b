use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::driver::{BoxFuture, Received, SubscribeOptions};
use crate::engine::{Event, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Content;
use crate::name::Name;

use super::Delivery;
use super::subscribed::{Opened, Plan, Sources};

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
    state: State,
    intercepting: Option<Intercepting>,
    sources: Sources,
    options: SubscribeOptions,
    plan: Arc<Plan>,
}

enum State {
    Receiving(Opened),
    /// The session was lost.
    Reopening {
        last: Arc<Session>,
        /// Resolves on the next one.
        opening: BoxFuture<'static, Result<Opened>>,
    },
    Ended,
}

/// A delivery on its way through the interceptors.
struct Intercepting {
    delivery: Delivery,
    content: BoxFuture<'static, Result<Content>>,
}

impl Consumer {
    pub(super) fn new(
        plan: Arc<Plan>,
        sources: Sources,
        options: SubscribeOptions,
        opened: Opened,
    ) -> Self {
        Consumer {
            state: State::Receiving(opened),
            intercepting: None,
            sources,
            options,
            plan,
        }
    }

    /// The queues that it receives from, in the order in which they were given; those without a name have the one
    /// that they got. A queue that was deleted isn't among them any more.
    pub fn queues(&self) -> &[Name] {
        self.sources.names()
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
        let next = if timeout.is_zero() {
            // A timer, even one of no length, waits for its next tick; and a budget that is used up is no
            // reason to say that nothing is there.
            tokio::task::coop::consume_budget().await;
            let mut next = pin!(tokio::task::coop::unconstrained(self.next()));
            poll_fn(|context| {
                Poll::Ready(match next.as_mut().poll(context) {
                    Poll::Ready(next) => Ok(next),
                    Poll::Pending => Err(()),
                })
            })
            .await
        } else {
            tokio::time::timeout(timeout, self.next())
                .await
                .map_err(drop)
        };
        match next {
            Ok(Some(delivery)) => delivery.map(Some),
            Ok(None) => Err(Error::new(
                ErrorKind::Closed,
                "the consumer has ended; open another one",
            )
            .during("receive")),
            Err(()) => Ok(None),
        }
    }

    /// Changes how many deliveries may be unsettled at once. A smaller window takes effect as deliveries are
    /// settled; 0 means no limit.
    pub fn set_prefetch(&mut self, deliveries: u32) {
        self.options.window = deliveries;
        // A consumer that is being opened again takes the new window when it is open.
        if let State::Receiving(opened) = &self.state {
            opened.set_window(deliveries);
        }
    }

    /// Ends the consumer and waits until the broker sends it nothing more. Deliveries that were received can
    /// still be settled.
    pub async fn cancel(mut self) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Receiving(opened) => opened
                .subscription
                .cancel()
                .await
                .map_err(|error| error.during("cancel consumer")),
            State::Reopening { .. } | State::Ended => Ok(()),
        }
    }

    #[inline]
    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        // A busy queue never makes the consumer wait: without the budget it would starve its worker.
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        loop {
            if self.intercepting.is_some() {
                match self.poll_intercepted(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(delivery)) => {
                        budget.made_progress();
                        return Poll::Ready(Some(Ok(delivery)));
                    }
                    Poll::Ready(None) => {}
                }
            }
            let opened = match &mut self.state {
                State::Receiving(opened) => opened,
                State::Ended => return Poll::Ready(None),
                State::Reopening { .. } => match self.poll_reopened(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(error)) => return self.end(error),
                },
            };
            if opened.link.stopping.load(Ordering::Relaxed) {
                self.state = State::Ended;
                return Poll::Ready(None);
            }
            match Pin::new(&mut opened.subscription).poll_next(context) {
                Poll::Ready(Some(Ok(Received::Delivery(raw)))) => {
                    let delivery = Delivery::new(raw, Arc::clone(&opened.link));
                    tracing::debug!(?delivery, "received");
                    if self.plan.interceptors.is_empty() {
                        budget.made_progress();
                        return Poll::Ready(Some(Ok(delivery)));
                    }
                    self.intercepting = Some(Intercepting {
                        content: delivery.intercepted(),
                        delivery,
                    });
                }
                Poll::Ready(Some(Ok(Received::Cancelled { queue }))) => {
                    if let Some(error) = self.cancelled(queue) {
                        return self.end(error);
                    }
                }
                Poll::Ready(Some(Err(error))) if error.kind() != ErrorKind::ConnectionLost => {
                    return self.end(error);
                }
                Poll::Ready(_) => self.reopen(),
                Poll::Pending => {
                    let Some(held) = &opened.link.held else {
                        return Poll::Pending;
                    };
                    held.register(context);
                    let Some(held) = held.fills_window() else {
                        return Poll::Pending;
                    };
                    return self.end(Error::new(
                        ErrorKind::Undecodable,
                        format!(
                            "{held} deliveries that can't be decoded fill the window; give the queue a \
                             dead-letter exchange, settle them, or read them with another consumer"
                        ),
                    ));
                }
            }
        }
    }

    /// The delivery behind its interceptors, or `None` if one of them can't make anything of it.
    fn poll_intercepted(&mut self, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let Some(intercepting) = &mut self.intercepting else {
            return Poll::Ready(None);
        };
        let Poll::Ready(content) = intercepting.content.as_mut().poll(context) else {
            return Poll::Pending;
        };
        let intercepted = self.intercepting.take().and_then(|intercepting| {
            let mut delivery = intercepting.delivery;
            match delivery.replace(content) {
                Ok(()) => Some(delivery),
                Err(error) => {
                    tracing::warn!(%error, queue = %delivery.queue(), "an interceptor refused a delivery");
                    None
                }
            }
        });
        Poll::Ready(intercepted)
    }

    /// Ready when there is a subscription. An error ends the consumer.
    #[cold]
    fn poll_reopened(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let State::Reopening { opening, .. } = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        match opening.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(opened)) => {
                // It may have been changed meanwhile.
                opened.set_window(self.options.window);
                self.state = State::Receiving(opened);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// The session is over: the next one continues, if there is to be one.
    #[cold]
    fn reopen(&mut self) {
        if let State::Receiving(opened) = std::mem::replace(&mut self.state, State::Ended) {
            self.open_after(opened.session);
        }
    }

    fn open_after(&mut self, last: Arc<Session>) {
        self.sources.renumber();
        let (plan, sources, options) = (self.plan.clone(), self.sources.clone(), self.options);
        let ended = last.clone();
        self.state = State::Reopening {
            last,
            opening: Box::pin(async move { plan.open_after(ended, &sources, options).await }),
        };
    }

    /// A queue was deleted. Answers the error of a consumer that has no other one.
    #[cold]
    fn cancelled(&mut self, index: u16) -> Option<Error> {
        // It may have been left before the news came.
        let queue = self.sources.take(index)?;
        tracing::warn!(%queue, "a queue was deleted while it was being consumed");
        let engine = &self.plan.connection.inner().engine;
        engine.tell(Event::ConsumerCancelled {
            queue: queue.clone(),
        });
        self.sources.is_empty().then(|| {
            Error::new(
                ErrorKind::ConsumerCancelled,
                format!(
                    "queue `{queue}` was deleted while it was being consumed; declare it and open the consumer \
                     again"
                ),
            )
        })
    }

    #[cold]
    fn end(&mut self, error: Error) -> Poll<Option<Result<Delivery>>> {
        self.state = State::Ended;
        // Closed by this program: that is an end and not an error.
        if error.kind() == ErrorKind::Closed {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(error.during("consume"))))
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

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("queues", &self.sources.names())
            .field("ended", &matches!(self.state, State::Ended))
            .finish()
    }
}

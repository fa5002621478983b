use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::declare::Queue;
use crate::driver::{BoxFuture, Received, SubscribeOptions};
use crate::engine::{Session, by, check_runtime, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Content;
use crate::name::Name;
use futures_core::Stream;
use tokio::time::timeout_at;

use super::Delivery;
use super::connection::named;
use super::delivery::LinkQueue;
use super::recorded::Consuming;
use super::subscribed::{Opened, Plan, Sources, cancelled};

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
    paused: bool,
    plan: Arc<Plan>,
}

enum State {
    Receiving(Opened),
    /// The session was lost.
    Reopening {
        last: Arc<Session>,
        /// Resolves on the next one.
        opening: BoxFuture<'static, Result<(Opened, Sources)>>,
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
            paused: false,
            plan,
        }
    }

    /// The queues that it receives from, in the order in which they were given; those without a name have the one
    /// that they got. A queue that was left, or deleted, isn't among them any more.
    pub fn queues(&self) -> &[Name] {
        self.sources.names()
    }

    /// Whether whoever receives has been told of its end.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
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
            check_runtime().map_err(|error| error.during("receive"))?;
            tokio::time::timeout(timeout, self.next())
                .await
                .map_err(drop)
        };
        match next {
            Ok(Some(delivery)) => delivery.map(Some),
            Ok(None) => Err(has_ended().during("receive")),
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

    /// Receives from another queue as well, within the same window, and answers its name. The queue is declared as those
    /// that the consumer was opened with. One that the consumer receives from already stays as it is.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let mut consumer = connection.consumer(&Queue::new("normal")).await?;
    /// consumer.add_queue(&Queue::new("urgent")).await?;
    ///
    /// let producer = connection.producer(Exchange::default()).await?;
    /// producer.publish(&1).routing_key("urgent").await?;
    /// let delivery = consumer.try_next().await?.expect("a delivery");
    /// assert_eq!(delivery.queue(), "urgent");
    /// delivery.ack().await?;
    ///
    /// consumer.cancel_queue("normal").await?;
    /// assert_eq!(consumer.queues(), ["urgent"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Connection::declare_queue`](super::Connection::declare_queue); [`ErrorKind::AccessRefused`] if somebody
    /// consumes from it and either consumer is exclusive; [`ErrorKind::Timeout`] after
    /// [`Deadlines::declare`](crate::Deadlines::declare); [`ErrorKind::Closed`] once the consumer has ended. The consumer
    /// goes on with its other queues. If it was waiting for the next session and can't be opened there, it ends, and this
    /// is the error.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the queue may have been declared, and isn't received from.
    pub async fn add_queue(&mut self, queue: &Queue) -> Result<Name> {
        let queue = named(queue);
        self.add(&queue)
            .await
            .map_err(|error| error.during("add queue"))?;
        Ok(queue.name().clone())
    }

    async fn add(&mut self, queue: &Queue) -> Result<()> {
        let (connection, mode) = (self.plan.connection.clone(), self.plan.declare_mode);
        if matches!(self.state, State::Ended) {
            return Err(has_ended());
        }
        let consuming = connection.consuming(queue.name());
        let end = connection.deadline();
        let queues = std::slice::from_ref(queue);
        connection.ensure_queues(queues, mode, end).await?;
        if self.sources.names().contains(queue.name()) {
            return Ok(());
        }
        let limit = connection.inner().engine.deadlines.declare;
        check_runtime()?;
        let added = timeout_at(
            end,
            self.subscribe_to(LinkQueue::new(queue, mode), consuming),
        )
        .await;
        added.unwrap_or_else(|_| {
            let phase = match self.state {
                State::Receiving(_) => "waiting for the broker's answer",
                State::Reopening { .. } | State::Ended => "waiting for a connection",
            };
            Err(Error::new(
                ErrorKind::Timeout,
                format!("no answer within {limit:?}: {phase}"),
            ))
        })
    }

    async fn subscribe_to(&mut self, queue: LinkQueue, consuming: Consuming) -> Result<()> {
        loop {
            let reopened = poll_fn(|context| self.poll_reopened(context)).await;
            if let Err(error) = reopened {
                self.ended();
                return Err(error);
            }
            let State::Receiving(opened) = &mut self.state else {
                return Err(has_ended());
            };
            let adding = opened.subscription.add(&queue.name);
            let engine = &self.plan.connection.inner().engine;
            match engine.while_up(&opened.session, adding).await {
                Ok(index) => {
                    consuming.is_subscribed(&opened.session);
                    self.sources.add(index, &queue, consuming);
                    opened.link.queues.add(index, queue);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::ConnectionLost => self.reopen(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Leaves a queue, and waits until the broker sends nothing more from it. What was received from it can still be
    /// settled; the other queues go on. Leaving the last one ends the consumer, without an error. A queue that it
    /// doesn't receive from counts as left. The queue itself stays.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] after [`Deadlines::declare`](crate::Deadlines::declare), and what the broker says. The
    /// queue is left all the same.
    ///
    /// # Cancellation
    ///
    /// The queue is left when this is first awaited; dropping the future after that undoes nothing.
    pub async fn cancel_queue(&mut self, queue: impl Into<Name>) -> Result<()> {
        let queue = queue.into();
        let left = self.leave(&queue).await;
        let left = match left {
            Ok(()) => self.plan.connection.until_left(&[queue]).await,
            Err(error) => Err(error),
        };
        left.map_err(|error| error.during("cancel queue"))
    }

    async fn leave(&mut self, queue: &Name) -> Result<()> {
        let left = self.sources.take_all(queue);
        if left.is_empty() {
            return Ok(());
        }
        if self.sources.is_empty() {
            return self.stop().await;
        }
        self.give_back_intercepted(|queue| left.contains(&queue));
        let (session, answers): (_, Vec<_>) = match &mut self.state {
            State::Receiving(opened) => {
                let session = opened.session.clone();
                let leave = |queue: &u16| opened.leave(*queue);
                (session, left.iter().map(leave).collect())
            }
            State::Reopening { last, .. } => {
                let last = last.clone();
                self.open_after(last);
                return Ok(());
            }
            State::Ended => return Ok(()),
        };
        let engine = &self.plan.connection.inner().engine;
        let limit = engine.deadlines.declare;
        let answered = async {
            for answer in answers {
                match engine.while_up(&session, answer).await {
                    // With its session, everything goes back.
                    Err(error) if error.kind() == ErrorKind::ConnectionLost => {}
                    answer => answer?,
                }
            }
            Ok(())
        };
        let late = || {
            Error::new(
                ErrorKind::Timeout,
                format!("no answer within {limit:?}: waiting for the broker's answer"),
            )
        };
        by(deadline(limit), answered, late).await
    }

    /// Receives nothing until [`resume`](Consumer::resume): it stays a consumer, and what was fetched and not received
    /// goes back, for others to have. Deliveries that were received can still be settled. A consumer that is paused
    /// stays so when it goes on after a lost session, and still learns of its end.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use std::time::Duration;
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let mut consumer = connection.consumer(&Queue::new("jobs")).await?;
    /// consumer.pause();
    /// let producer = connection.producer(Exchange::default()).await?;
    /// producer.publish(&1).routing_key("jobs").await?;
    /// assert!(consumer.receive(Duration::ZERO).await?.is_none());
    /// consumer.resume();
    /// assert!(consumer.receive(Duration::ZERO).await?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause(&mut self) {
        self.set_paused(true);
    }

    /// Receives again after a [`pause`](Consumer::pause).
    pub fn resume(&mut self) {
        self.set_paused(false);
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    fn set_paused(&mut self, paused: bool) {
        if std::mem::replace(&mut self.paused, paused) == paused {
            return;
        }
        // A consumer that is being opened again is told when it is open.
        if let State::Receiving(opened) = &mut self.state {
            opened.subscription.pause(paused);
            if paused {
                opened.link.release_put_off();
            }
        }
        if paused {
            self.give_back_intercepted(|_| true);
        }
    }

    /// Gives back a delivery that is with the interceptors, if it came from such a queue.
    fn give_back_intercepted(&mut self, from: impl Fn(u16) -> bool) {
        let intercepting = self
            .intercepting
            .take_if(|intercepting| from(intercepting.delivery.queue_index()));
        if let Some(Intercepting { delivery, .. }) = intercepting {
            drop(delivery.release());
        }
    }

    /// Ends the consumer and waits until the broker sends it nothing more. Deliveries that were received can
    /// still be settled. If the session is lost meanwhile, what was fetched goes back when the broker notices. A queue that goes with its last consumer is gone then, also if this one had just lost its session, for which
    /// the next one is waited for.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if the broker doesn't answer within [`Deadlines::declare`](crate::Deadlines::declare) (30 s
    /// unless set otherwise), or there is no connection on which to delete such a queue. The consumer has ended then, too; what was
    /// fetched for it may stay unsettled until the session ends, and the queue is deleted as soon as there is a session.
    pub async fn cancel(mut self) -> Result<()> {
        self.stop()
            .await
            .map_err(|error| error.during("cancel consumer"))
    }

    async fn stop(&mut self) -> Result<()> {
        self.give_back_intercepted(|_| true);
        // Before the broker is asked: its queue may be gone before it has answered.
        let opened = match self.ended() {
            State::Receiving(opened) => opened,
            // With it goes what it would have opened.
            before => {
                drop(before);
                let names = self.sources.names();
                return self.plan.connection.until_left(names).await;
            }
        };
        let engine = &self.plan.connection.inner().engine;
        let limit = engine.deadlines.declare;
        let late = || {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "no answer within {limit:?}: waiting for the broker to end the consumer of {}",
                    self.sources.listed()
                ),
            )
        };
        let (session, cancelling) = (opened.session, opened.subscription.cancel());
        let cancelling = engine.while_up(&session, cancelling);
        match by(deadline(limit), cancelling, late).await {
            // With its session, everything goes back.
            Err(error) if error.kind() == ErrorKind::ConnectionLost => {}
            answer => answer?,
        }
        let names = self.sources.names();
        self.plan.connection.until_left(names).await
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
                self.ended();
                return Poll::Ready(None);
            }
            match Pin::new(&mut opened.subscription).poll_next(context) {
                Poll::Ready(Some(Ok(Received::Delivery(raw)))) => {
                    let Some(raw) = opened.link.fresh(raw) else {
                        continue;
                    };
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
                    if let Some(window) = held.take_widened(&*opened.link.settler) {
                        opened.subscription.set_window(window);
                        continue;
                    }
                    let Some(held) = held.fills_window(&*opened.link.settler) else {
                        if opened.link.stopping.load(Ordering::Relaxed) {
                            continue;
                        }
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
            Poll::Ready(Ok((mut opened, sources))) => {
                self.sources = sources;
                // It may have been changed meanwhile.
                opened.set_window(self.options.window);
                if self.paused {
                    opened.subscription.pause(true);
                }
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
            opening: Box::pin(async move { plan.open_after(ended, sources, options).await }),
        };
    }

    /// A queue was deleted. Answers the error of a consumer that has no other one.
    #[cold]
    fn cancelled(&mut self, index: u16) -> Option<Error> {
        // It may have been left before the news came.
        let queue = self.sources.take(index)?;
        self.plan.tell_deleted(&queue);
        self.sources.is_empty().then(|| cancelled(&queue))
    }

    /// Answers what it was in the middle of.
    fn ended(&mut self) -> State {
        self.sources.end();
        std::mem::replace(&mut self.state, State::Ended)
    }

    #[cold]
    fn end(&mut self, error: Error) -> Poll<Option<Result<Delivery>>> {
        self.ended();
        // Closed by this program: that is an end and not an error.
        if error.kind() == ErrorKind::Closed {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Err(error.during("consume"))))
    }
}

#[cold]
fn has_ended() -> Error {
    Error::new(
        ErrorKind::Closed,
        "the consumer has ended; open another one",
    )
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

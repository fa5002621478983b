use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::ops::Deref;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use kombu_serializers::Accept;
use tokio::time::{Instant, timeout};

use crate::declare::{DeclareMode, Queue};
use crate::driver::{BoxFuture, SubscribeOptions, Subscription};
use crate::engine::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::connection::named;
use super::delivery::{Held, Link, LinkQueue};
use super::intercept::{Interceptors, chain};
use super::{Connection, Delivery, Interceptor, UndecodablePolicy};

/// Deliveries that may be unsettled at once unless the consumer says otherwise.
const DEFAULT_PREFETCH: u32 = 64;

/// A consumer to be: awaiting it declares its queues and subscribes.
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenConsumer {
    connection: Connection,
    queues: Vec<Queue>,
    prefetch: u32,
    no_ack: Option<bool>,
    accept: Accept,
    declare_mode: Option<DeclareMode>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    undecodable: UndecodablePolicy,
}

impl OpenConsumer {
    pub(super) fn new(connection: Connection, queues: Vec<Queue>) -> Self {
        OpenConsumer {
            connection,
            queues,
            prefetch: DEFAULT_PREFETCH,
            no_ack: None,
            accept: Accept::all(),
            declare_mode: None,
            interceptors: Vec::new(),
            undecodable: UndecodablePolicy::default(),
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

    /// Whether queues, exchanges and bindings are declared, verified or neither, where the declarations don't
    /// say so themselves. Default: the connection's mode.
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.declare_mode = Some(mode);
        self
    }

    /// What becomes of deliveries that can't be decoded and are dropped without being settled.
    pub fn on_undecodable(mut self, policy: UndecodablePolicy) -> Self {
        self.undecodable = policy;
        self
    }

    /// Adds an interceptor for what this consumer receives, behind those of the connection.
    pub fn intercept(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    async fn open(self) -> Result<Consumer> {
        if self.queues.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "a consumer needs at least one queue",
            ));
        }
        self.accept.check(self.connection.serializers())?;
        let queues: Vec<Queue> = self.queues.iter().map(named).collect();
        let inherited = self.connection.inner().declare_mode;
        let mode = self.declare_mode.unwrap_or(inherited);
        let end = self.connection.deadline();
        self.connection.ensure_queues(&queues, mode, end).await?;
        let no_ack = self
            .no_ack
            .unwrap_or_else(|| queues.iter().all(Queue::is_no_ack));
        let options = SubscribeOptions::new(self.prefetch).no_ack(no_ack);
        let plan = Arc::new(Plan {
            names: queues.iter().map(|queue| queue.name().clone()).collect(),
            dead_letters: queues
                .iter()
                .map(|queue| {
                    let mode = queue.declare_mode().unwrap_or(mode);
                    mode == DeclareMode::Ensure && queue.get_dead_letter_exchange().is_some()
                })
                .collect(),
            accept: self.accept,
            undecodable: self.undecodable,
            interceptors: chain(&self.connection.inner().interceptors, self.interceptors),
            connection: self.connection,
        });
        let opened = plan.open(options, end).await?;
        tracing::debug!(queues = ?plan.names, prefetch = self.prefetch, no_ack, "consumer opened");
        Ok(Consumer {
            state: State::Receiving(opened),
            intercepting: None,
            options,
            plan,
        })
    }
}

/// What a consumer is opened with, for the first time and after every lost session.
struct Plan {
    names: Vec<Name>,
    dead_letters: Vec<bool>,
    accept: Accept,
    interceptors: Interceptors,
    undecodable: UndecodablePolicy,
    connection: Connection,
}

/// A subscription on one session, and what its deliveries refer to.
struct Opened {
    session: Arc<Session>,
    subscription: Box<dyn Subscription>,
    link: Receiving,
}

/// A consumer's own reference to what its deliveries refer to.
struct Receiving(Arc<Link>);

impl Deref for Receiving {
    type Target = Arc<Link>;

    fn deref(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.release_held();
    }
}

impl Opened {
    fn set_window(&self, deliveries: u32) {
        if let Some(held) = &self.link.held {
            held.window.store(deliveries, Ordering::Relaxed);
        }
        self.subscription.set_window(deliveries);
    }
}

impl Plan {
    /// The queues, for people.
    fn listed(&self) -> String {
        let names = self.names.iter().map(|name| format!("`{name}`"));
        names.collect::<Vec<_>>().join(", ")
    }

    async fn open(&self, options: SubscribeOptions, end: Instant) -> Result<Opened> {
        let (names, wanted) = (&self.names, &options);
        let (session, subscription) = self
            .connection
            .control_until(end, "subscribe", |session| async move {
                let subscription = session.driver.open_subscription(names, wanted).await?;
                Ok((session, subscription))
            })
            .await?;
        Ok(self.opened(session, subscription, options))
    }

    /// Opens it again on the session that follows, however long that takes to come. Once it is there, the broker
    /// has to answer within the deadline.
    async fn open_after(&self, last: Arc<Session>, options: SubscribeOptions) -> Result<Opened> {
        let engine = &self.connection.inner().engine;
        let mut session = engine.session_after(&last).await?;
        loop {
            let limit = engine.deadlines.declare;
            let opening = session.driver.open_subscription(&self.names, &options);
            let opened = timeout(limit, opening).await.unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "no answer within {limit:?}: waiting for the broker to subscribe the consumer of {} again \
                         after a lost connection; open another one",
                        self.listed()
                    ),
                ))
            });
            match opened {
                Ok(subscription) => return Ok(self.opened(session, subscription, options)),
                Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                    session = engine.session_after(&session).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn opened(
        &self,
        session: Arc<Session>,
        subscription: Box<dyn Subscription>,
        options: SubscribeOptions,
    ) -> Opened {
        let queues = self.names.iter().zip(&self.dead_letters);
        let link = Link {
            settler: subscription.settler(),
            queues: queues
                .map(|(name, dead_letters)| LinkQueue {
                    name: name.clone(),
                    dead_letters: *dead_letters,
                })
                .collect(),
            serializers: self.connection.serializers().clone(),
            accept: self.accept.clone(),
            no_ack: options.no_ack,
            held: Some(Held::new(options.window)),
            deliveries: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            interceptors: self.interceptors.clone(),
            undecodable: self.undecodable,
            session: session.clone(),
            connection: self.connection.clone(),
        };
        let link = Arc::new(link);
        self.connection.inner().open.add_link(&link);
        Opened {
            session,
            subscription,
            link: Receiving(link),
        }
    }
}

impl fmt::Debug for OpenConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConsumer")
            .field("queues", &self.queues)
            .field("prefetch", &self.prefetch)
            .field("no_ack", &self.no_ack)
            .field("accept", &self.accept)
            .finish_non_exhaustive()
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
    state: State,
    /// A delivery on its way through the interceptors.
    intercepting: Option<BoxFuture<'static, Option<Delivery>>>,
    options: SubscribeOptions,
    plan: Arc<Plan>,
}

enum State {
    Receiving(Opened),
    /// The session was lost; resolves on the next one.
    Reopening(BoxFuture<'static, Result<Opened>>),
    Ended,
}

impl Consumer {
    /// The queues, in the order in which they were given; those without a name have the one that they got.
    pub fn queues(&self) -> &[Name] {
        &self.plan.names
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
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if the broker doesn't answer within [`Deadlines::declare`](crate::Deadlines::declare) (30 s
    /// unless set otherwise). The consumer has ended then, too; what was fetched for it may stay unsettled until the
    /// session ends.
    pub async fn cancel(mut self) -> Result<()> {
        let State::Receiving(opened) = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        let limit = self.plan.connection.inner().engine.deadlines.declare;
        let cancelled = timeout(limit, opened.subscription.cancel()).await;
        cancelled
            .unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "no answer within {limit:?}: waiting for the broker to end the consumer of {}",
                        self.plan.listed()
                    ),
                ))
            })
            .map_err(|error| error.during("cancel consumer"))
    }

    #[inline]
    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        // A busy queue never makes the consumer wait: without the budget it would starve its worker.
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        loop {
            if let Some(delivery) = &mut self.intercepting {
                let Poll::Ready(delivery) = delivery.as_mut().poll(context) else {
                    return Poll::Pending;
                };
                self.intercepting = None;
                if let Some(delivery) = delivery {
                    budget.made_progress();
                    return Poll::Ready(Some(Ok(delivery)));
                }
            }
            let opened = match &mut self.state {
                State::Receiving(opened) => opened,
                State::Ended => return Poll::Ready(None),
                State::Reopening(reopening) => match reopening.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(opened)) => {
                        // It may have been changed meanwhile.
                        opened.set_window(self.options.window);
                        self.state = State::Receiving(opened);
                        continue;
                    }
                    Poll::Ready(Err(error)) => return self.end(error),
                },
            };
            if opened.link.stopping.load(Ordering::Relaxed) {
                self.state = State::Ended;
                return Poll::Ready(None);
            }
            match Pin::new(&mut opened.subscription).poll_next(context) {
                Poll::Ready(Some(Ok(raw))) => {
                    let delivery = Delivery::new(raw, Arc::clone(&opened.link));
                    tracing::debug!(?delivery, "received");
                    if self.plan.interceptors.is_empty() {
                        budget.made_progress();
                        return Poll::Ready(Some(Ok(delivery)));
                    }
                    self.intercepting = Some(Box::pin(intercepted(delivery)));
                }
                Poll::Ready(Some(Err(error))) if error.kind() != ErrorKind::ConnectionLost => {
                    return self.end(error);
                }
                Poll::Ready(_) => self.reopen(),
                Poll::Pending => {
                    let Some(held) = &opened.link.held else {
                        return Poll::Pending;
                    };
                    held.task.register(context.waker());
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

    /// The session is over: the next one continues, if there is to be one.
    #[cold]
    fn reopen(&mut self) {
        let State::Receiving(opened) = std::mem::replace(&mut self.state, State::Ended) else {
            return;
        };
        let (plan, options) = (self.plan.clone(), self.options);
        self.state = State::Reopening(Box::pin(async move {
            plan.open_after(opened.session, options).await
        }));
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

/// The delivery behind its interceptors, unless one of them can't make anything of it.
async fn intercepted(mut delivery: Delivery) -> Option<Delivery> {
    match delivery.intercept().await {
        Ok(()) => Some(delivery),
        Err(error) => {
            tracing::warn!(%error, queue = %delivery.queue(), "an interceptor refused a delivery");
            None
        }
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
            .field("queues", &self.plan.names)
            .field("ended", &matches!(self.state, State::Ended))
            .finish()
    }
}

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::client::{Connection, Consumer, Queues, UndecodablePolicy};
use crate::declare::{DeclareMode, Queue};
use crate::driver::{BoxFuture, Feature, Support};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Content;
use crate::name::Name;

use super::dispatch::Dispatch;
use super::lanes::OrderKey;
use super::reaction::Style;
use super::{Complete, Exit, Retries, Router, run};

/// How long handlers may go on when their component ends.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// How many messages that can't be handled have room beside the window.
const HELD: u32 = 64;

/// A component to be: handlers, the queues that they serve, and how. [`run`](Serve::run) runs it.
#[derive(Clone)]
#[must_use = "nothing is handled until it is run"]
pub struct Serve {
    connection: Connection,
    router: Router,
    queues: Vec<Queue>,
    concurrency: usize,
    prefetch: Option<u32>,
    retries: Retries,
    undecodable: UndecodablePolicy,
    max_processing_time: Option<Option<Duration>>,
    declare_mode: Option<DeclareMode>,
    tells_errors: bool,
    style: Option<Arc<dyn Style>>,
    obeys_commands: bool,
    grace: Duration,
    order: Option<OrderKey>,
}

/// What matters while it runs.
pub(super) struct Settings {
    pub(super) concurrency: usize,
    pub(super) grace: Duration,
    pub(super) order: Option<OrderKey>,
}

impl Serve {
    fn new(connection: Connection, router: Router) -> Self {
        Serve {
            connection,
            router,
            queues: Vec::new(),
            concurrency: 1,
            prefetch: None,
            retries: Retries::default(),
            undecodable: UndecodablePolicy::default(),
            max_processing_time: None,
            declare_mode: None,
            tells_errors: false,
            style: None,
            obeys_commands: false,
            grace: GRACE,
            order: None,
        }
    }

    /// Serves these queues as well, and declares them with their exchanges and bindings.
    pub fn queues(mut self, queues: impl Queues) -> Self {
        self.queues.extend(queues.into_queues());
        self
    }

    /// How many deliveries are handled at once, each in a task of its own. Default: 1.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// How many deliveries may be unsettled at once. Default: twice the concurrency.
    pub fn prefetch(mut self, deliveries: u32) -> Self {
        self.prefetch = Some(deliveries);
        self
    }

    /// How often, and after which pauses, a message comes again whose handler failed. Default: five times, after 1 s, 2 s,
    /// 4 s, 8 s and 16 s.
    ///
    /// The tries are counted by the broker, over all processes.
    pub fn retries(mut self, retries: Retries) -> Self {
        self.retries = retries;
        self
    }

    /// What becomes of messages that no handler can be called with, and of those that were tried for the last time.
    /// Default: rejected if their queue has a dead-letter exchange, else held until the component ends, or for as long as the broker
    /// bears. 64 of them are held beside the window; the component ends with [`ErrorKind::Undecodable`] when further ones fill that, too.
    pub fn on_undecodable(mut self, policy: UndecodablePolicy) -> Self {
        self.undecodable = policy;
        self
    }

    /// How long a handler may take, from when its message came. One that isn't done by then is cancelled, its future dropped, and
    /// that is an error as any other: whoever asked is told, and what is no question is [retried](Serve::retries). Default: that of a
    /// [consumer](crate::OpenConsumer::max_processing_time).
    pub fn max_processing_time(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.max_processing_time = Some(limit.into());
        self
    }

    /// Whether queues, exchanges and bindings are declared, verified or neither. Default: the connection's mode.
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.declare_mode = Some(mode);
        self
    }

    /// Answers a question whose handler failed with the name and text of the error, instead of just that it failed. For
    /// callers that are trusted. Default: false.
    pub fn tell_errors(mut self, tell: bool) -> Self {
        self.tells_errors = tell;
        self
    }

    /// Answers as callers expect it that look for more than a value.
    #[cfg(feature = "postage")]
    pub(crate) fn style(mut self, style: Arc<dyn Style>) -> Self {
        self.style = Some(style);
        self
    }

    /// Ends with [`Exit::Quit`] or [`Exit::Restart`] when a message of type `command` comes whose header `name` is `quit`
    /// or `restart`, unless the router has handlers for these. Default: false; true in a
    /// [`Component`](super::Component).
    pub fn obey_commands(mut self, obey: bool) -> Self {
        self.obeys_commands = obey;
        self
    }

    /// How long handlers may go on when it ends. What isn't done by then is cancelled, and goes back to its queue.
    /// Default: 30 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Handles messages for which this answers the same key one at a time, in their order; others beside them, up to the
    /// concurrency. A message that is retried comes behind those that have come since.
    ///
    /// ```
    /// use kombu::Name;
    /// # fn serve(serve: kombu::handler::Serve) -> kombu::handler::Serve {
    /// serve.concurrency(8).in_order_by(|message| message.header("customer").map(Name::from))
    /// # }
    /// ```
    pub fn in_order_by(
        mut self,
        key: impl Fn(&Content) -> Option<Name> + Send + Sync + 'static,
    ) -> Self {
        self.order = Some(Arc::new(key));
        self
    }

    /// Opens its consumer and handles what comes, until a handler or a command ends it, or the connection is closed or
    /// drained.
    ///
    /// # Errors
    ///
    /// Those of [`consumer`](Connection::consumer) and what ends one; [`ErrorKind::Config`] without queues, and if one of
    /// several handlers for the same messages wants the delivery for itself.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cancels its handlers, and what they had goes back. [`run_until`](Serve::run_until) ends it in an
    /// orderly way.
    pub fn run(self) -> BoxFuture<'static, Result<Exit>> {
        self.run_until(std::future::pending())
    }

    /// Opens its consumer and handles nothing yet: what comes from now on waits for [`Serving::run`].
    ///
    /// # Errors
    ///
    /// As [`run`](Serve::run), but for what ends a consumer.
    pub fn open(self) -> BoxFuture<'static, Result<Serving>> {
        Box::pin(async move { self.opened().await.map_err(|error| error.during("serve")) })
    }

    /// As [`run`](Serve::run), and ends with [`Exit::Stopped`] when `stop` resolves: it takes no more, gives back what it
    /// has not begun with, and waits for its handlers. While it still opens its consumer, it ends at once.
    pub fn run_until(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, Result<Exit>> {
        Box::pin(async move {
            let mut stop = Box::pin(stop);
            let serving = tokio::select! {
                biased;
                () = &mut stop => return Ok(Exit::Stopped),
                serving = self.open() => serving?,
            };
            serving.run_until(stop).await
        })
    }

    /// Handles as many messages as its queues have by now, one after the other, and answers how many: fewer if others
    /// take some, or if a handler ends it. What can't be handled or is released goes back when all are done.
    pub(crate) async fn run_available(self) -> Result<u64> {
        let dispatch = Dispatch {
            kept: Some(Mutex::default()),
            ..self.dispatch()?
        };
        let handled = self.handle_available(&dispatch).await;
        dispatch.give_back().await;
        handled.map_err(|error| error.during("serve"))
    }

    async fn handle_available(&self, dispatch: &Dispatch) -> Result<u64> {
        let mut handled = 0;
        for queue in &self.queues {
            let there = self.connection.declare_queue(queue).await?.ready;
            for _ in 0..there {
                let Some(delivery) = self.connection.get(queue.name()).await? else {
                    break;
                };
                handled += 1;
                if dispatch.handle(delivery).await.is_some() {
                    return Ok(handled);
                }
                if dispatch.count_kept() >= HELD as usize {
                    return Err(Error::new(
                        ErrorKind::Undecodable,
                        format!(
                            "{HELD} messages go back, which weren't handled or were released; others may be behind them"
                        ),
                    ));
                }
            }
        }
        Ok(handled)
    }

    fn dispatch(&self) -> Result<Dispatch> {
        if let Some(key) = self.router.conflict() {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "{key} has several handlers, and one of them takes the delivery for itself; leave it the only one, or \
                     have it return an `Outcome`"
                ),
            ));
        }
        let router = self.router.clone();
        let delayed = self
            .connection
            .capabilities()
            .support(Feature::DelayedRetry);
        Ok(Dispatch {
            router: match self.obeys_commands {
                true => router.with_commands(),
                false => router,
            },
            retries: self.retries,
            tells_errors: self.tells_errors,
            style: self.style.clone(),
            delays: delayed != Support::Unsupported,
            kept: None,
        })
    }

    async fn opened(self) -> Result<Serving> {
        let dispatch = self.dispatch()?;
        let twice = u32::try_from(self.concurrency.saturating_mul(2)).unwrap_or(u32::MAX);
        let consumer = self.connection.consumer(self.queues);
        let mut consumer = consumer
            .prefetch(self.prefetch.unwrap_or(twice))
            .on_undecodable(self.undecodable)
            .room_for_held(HELD);
        if let Some(limit) = self.max_processing_time {
            consumer = consumer.max_processing_time(limit);
        }
        if let Some(mode) = self.declare_mode {
            consumer = consumer.declare(mode);
        }
        let settings = Settings {
            concurrency: self.concurrency,
            grace: self.grace,
            order: self.order,
        };
        Ok(Serving {
            consumer: consumer.await?,
            dispatch,
            settings,
        })
    }
}

/// A component that receives: see [`Serve::open`].
///
/// # Drop
///
/// What it has received goes back.
#[must_use = "nothing is handled until it is run"]
pub struct Serving {
    consumer: Consumer,
    dispatch: Dispatch,
    settings: Settings,
}

impl Serving {
    /// Handles what comes, until a handler or a command ends it, or the connection is closed or drained.
    ///
    /// # Errors
    ///
    /// What ends its [consumer](Consumer).
    pub fn run(self) -> BoxFuture<'static, Result<Exit>> {
        self.run_until(std::future::pending())
    }

    /// As [`run`](Serving::run), and ends with [`Exit::Stopped`] when `stop` resolves, as [`Serve::run_until`] does.
    ///
    /// # Errors
    ///
    /// As `run`.
    pub fn run_until(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> BoxFuture<'static, Result<Exit>> {
        let Serving {
            consumer,
            dispatch,
            settings,
        } = self;
        Box::pin(async move {
            let ended = run::run(consumer, dispatch, settings, stop).await;
            ended.map_err(|error| error.during("serve"))
        })
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("consumer", &self.consumer)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Handles what comes to queues with the functions of a router. See [`handler`](crate::handler).
    pub fn serve(&self, router: impl Complete) -> Serve {
        Serve::new(self.clone(), router.into())
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("router", &self.router)
            .field("queues", &self.queues)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

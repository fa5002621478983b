use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use kombu_serializers::Accept;

use crate::declare::{DeclareMode, Queue};
use crate::driver::{BoxFuture, Operation, SubscribeOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::layers;

use super::connection::named;
use super::intercept::chain;
use super::subscribed::{Plan, Sources};
use super::{Connection, Consumer, Interceptor, UndecodablePolicy};

/// Deliveries that may be unsettled at once unless the consumer says otherwise.
const DEFAULT_PREFETCH: u32 = 64;

/// A consumer to be: awaiting it declares its queues and subscribes.
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenConsumer {
    connection: Connection,
    queues: Vec<Queue>,
    prefetch: u32,
    no_ack: Option<bool>,
    exclusive: bool,
    priority: Option<i32>,
    no_local: bool,
    accept: Accept,
    declare_mode: Option<DeclareMode>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    undecodable: UndecodablePolicy,
    room_for_held: u32,
    /// `None` if it is the transport's to say.
    max_processing_time: Option<Option<Duration>>,
}

impl OpenConsumer {
    pub(super) fn new(connection: Connection, queues: Vec<Queue>) -> Self {
        OpenConsumer {
            connection,
            queues,
            prefetch: DEFAULT_PREFETCH,
            no_ack: None,
            exclusive: false,
            priority: None,
            no_local: false,
            accept: Accept::all(),
            declare_mode: None,
            interceptors: Vec::new(),
            undecodable: UndecodablePolicy::default(),
            room_for_held: 0,
            max_processing_time: None,
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

    /// Keeps others away: nobody else consumes from the queues while this consumer is there. Single gets are none of
    /// that. Default: false.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{ErrorKind, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let jobs = Queue::new("jobs");
    /// let only = connection.consumer(&jobs).exclusive(true).await?;
    /// let refused = connection.consumer(&jobs).await.unwrap_err();
    /// assert_eq!((refused.kind(), refused.code()), (ErrorKind::AccessRefused, Some(403)));
    /// only.cancel().await?;
    /// connection.consumer(&jobs).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::AccessRefused`] if one of the queues has a consumer already; every other consumer gets
    /// the same error while this one is there. [`ErrorKind::Unsupported`] where the transport can't.
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Consumers with a higher number are served first, as long as they have room in their windows; those with a lower
    /// one get what is left. Default: what the queues' consumer argument `x-priority` says, if they all say the same,
    /// else 0.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Unsupported`] where the transport can't, unless it is 0.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Doesn't receive what is published over its own connection: such messages are dropped. Only together with
    /// [`exclusive`](OpenConsumer::exclusive), since they would be lost to other consumers of the queue. Default: false.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Unsupported`] if the consumer isn't exclusive, and where the transport can't.
    pub fn no_local(mut self, no_local: bool) -> Self {
        self.no_local = no_local;
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

    /// Holds so many deliveries that can't be decoded beside the window, before they begin to fill it.
    pub(crate) fn room_for_held(mut self, deliveries: u32) -> Self {
        self.room_for_held = deliveries;
        self
    }

    /// How long a delivery may be held. One that isn't settled by then is settled as a
    /// [`retry`](crate::Delivery::retry): the message comes again, its place in the window is free,
    /// [`lost`](crate::Delivery::lost) resolves, and settling it later is
    /// [`ErrorKind::SettleLost`](crate::ErrorKind::SettleLost). `None` sets no limit.
    ///
    /// Default: no limit; on RabbitMQ 25 min, since it closes the channel of a consumer that holds one for 30 min. Its time
    /// runs from when it sent the message, so what waited behind others has at most the rest of these 25 min;
    /// what has less than 5 min left is released instead of being received. Whoever raises RabbitMQ's limit (`consumer_timeout`)
    /// can raise this.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> kombu::Result<()> {
    /// use std::time::Duration;
    /// use kombu::{ErrorKind, Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let minute = Duration::from_secs(60);
    /// let mut consumer = connection.consumer(&Queue::new("jobs")).max_processing_time(minute).await?;
    /// let producer = connection.producer(Exchange::default()).routing_key("jobs").await?;
    /// producer.publish(&"hard").await?;
    ///
    /// let delivery = consumer.try_next().await?.expect("a delivery");
    /// delivery.lost().await; // after a minute
    /// assert_eq!(delivery.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    /// let again = consumer.try_next().await?.expect("a delivery");
    /// assert_eq!(again.attempt(), 2);
    /// # again.ack().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Config`] if it is zero.
    pub fn max_processing_time(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.max_processing_time = Some(limit.into());
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
        let max_processing_time = self
            .max_processing_time
            .unwrap_or_else(|| self.connection.capabilities().max_processing_time());
        if max_processing_time.is_some_and(|limit| limit.is_zero()) {
            return Err(Error::new(
                ErrorKind::Config,
                "a `max_processing_time` of zero leaves no time for anything; `None` sets no limit",
            ));
        }
        self.accept.check(self.connection.serializers())?;
        let queues: Vec<Queue> = self.queues.iter().map(named).collect();
        let options = self.options(&queues)?;
        let inherited = self.connection.inner().declare_mode;
        let mode = self.declare_mode.unwrap_or(inherited);
        let sources = Sources::new(&self.connection, &queues, mode);
        let subscribing = Operation::OpenSubscription(sources.names(), &options);
        layers::check(&subscribing, self.connection.capabilities())?;
        let drains = self.connection.inner().open.drains();
        let end = self.connection.deadline();
        self.connection.ensure_queues(&queues, mode, end).await?;
        let plan = Arc::new(Plan {
            declare_mode: mode,
            accept: self.accept,
            undecodable: self.undecodable,
            room_for_held: self.room_for_held,
            max_processing_time,
            interceptors: chain(&self.connection.inner().interceptors, self.interceptors),
            connection: self.connection,
            drains,
        });
        let opened = plan.open(&sources, options, end).await?;
        tracing::debug!(queues = ?sources.names(), ?options, "consumer opened");
        Ok(Consumer::new(plan, sources, options, opened))
    }

    fn options(&self, queues: &[Queue]) -> Result<SubscribeOptions> {
        let no_ack = self
            .no_ack
            .unwrap_or_else(|| queues.iter().all(Queue::is_no_ack));
        let origin = self.connection.inner().origin;
        let options = SubscribeOptions::new(self.prefetch)
            .no_ack(no_ack)
            .exclusive(self.exclusive)
            .no_local(self.no_local.then_some(origin));
        options.check()?;
        match self.priority {
            Some(priority) => Ok(options.priority(priority)),
            None => options.with_priority_of(queues),
        }
    }
}

impl fmt::Debug for OpenConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConsumer")
            .field("queues", &self.queues)
            .field("prefetch", &self.prefetch)
            .field("no_ack", &self.no_ack)
            .field("exclusive", &self.exclusive)
            .field("priority", &self.priority)
            .field("no_local", &self.no_local)
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

use std::fmt;
use std::future::IntoFuture;
use std::iter;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kombu_serializers::{Codec, Stage};
use serde::Serialize;
use tokio::time::Instant;

use crate::declare::{DeclareMode, DeliveryMode, Exchange, ExchangeKind};
use crate::driver::BoxFuture;
use crate::engine::{Begin, Restore, Session, Shared, by, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Content, PublishId};
use crate::name::Name;

use super::body::{Body, Encoded, Raw, Text, Value};
use super::destinations::Destinations;
use super::intercept::{Interceptors, chain};
use super::publish::{Prepared, Publish};
use super::publishing::{Published, Publishing};
use super::unconfirmed::Outbox;
use super::{Connection, Interceptor};
use crate::call::Answers;
use crate::driver::Publisher;

/// A producer to be: awaiting it declares its exchange and opens it.
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenProducer {
    connection: Connection,
    exchange: Exchange,
    routing_key: Name,
    destinations: Vec<(Exchange, Name)>,
    serializer: Option<String>,
    compression: Option<String>,
    delivery_mode: Option<DeliveryMode>,
    mandatory: Option<bool>,
    declare_mode: Option<DeclareMode>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    publishers: Publishers,
    /// When it has to be open, if that isn't counted from when it is awaited.
    end: Option<Instant>,
}

/// Where the publisher of a session comes from.
#[derive(Clone)]
pub(crate) enum Publishers {
    Plain,
    /// What publishes questions goes together with what receives their answers.
    Calling(Arc<Answers>),
}

impl Publishers {
    async fn open(&self, session: &Arc<Session>) -> Result<Arc<dyn Publisher>> {
        match self {
            Publishers::Plain => session.driver.open_publisher().await,
            Publishers::Calling(answers) => answers.open(session).await,
        }
    }
}

impl OpenProducer {
    pub(super) fn new(connection: Connection, exchange: Exchange) -> Self {
        OpenProducer {
            connection,
            exchange,
            routing_key: Name::EMPTY,
            destinations: Vec::new(),
            serializer: None,
            compression: None,
            delivery_mode: None,
            mandatory: None,
            declare_mode: None,
            interceptors: Vec::new(),
            publishers: Publishers::Plain,
            end: None,
        }
    }

    /// A producer whose answers come to these.
    pub(crate) fn calling(mut self, answers: Arc<Answers>) -> Self {
        self.publishers = Publishers::Calling(answers);
        self
    }

    /// Opens it by then.
    pub(crate) fn by(mut self, end: Instant) -> Self {
        self.end = Some(end);
        self
    }

    /// The routing key of messages that don't set one. Default: empty.
    pub fn routing_key(mut self, key: impl Into<Name>) -> Self {
        self.routing_key = key.into();
        self
    }

    /// Where messages go that set neither exchange nor routing key: to each of these, as
    /// [`Publish::destinations`] does. Their exchanges are declared as the producer's own. Default: none; an empty list is
    /// none.
    ///
    /// Such a publish is answered as one: it is an error if one destination fails (the error says how many did, and that
    /// the message may have been stored if others have it), and [`Published::routed`] if it reached a queue anywhere.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let (news, archive) = (Exchange::topic("news"), Exchange::fanout("archive"));
    /// let everything = Queue::new("everything").bind(&news, "#").bind(&archive, "");
    /// connection.declare_queue(&everything).await?;
    ///
    /// let producer = connection.producer(&news).destinations([(&news, "weather"), (&archive, "")]).await?;
    /// producer.publish("it rains").await?;
    /// producer.publish("to one only").routing_key("sport").await?;
    /// assert_eq!(connection.queue_info(&everything).await?.ready, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn destinations<E, K>(mut self, destinations: impl IntoIterator<Item = (E, K)>) -> Self
    where
        E: Into<Exchange>,
        K: Into<Name>,
    {
        let pair = |(exchange, key): (E, K)| (exchange.into(), key.into());
        self.destinations = destinations.into_iter().map(pair).collect();
        self
    }

    /// The serializer of values, by name. Default: `json`.
    pub fn serializer(mut self, name: impl Into<String>) -> Self {
        self.serializer = Some(name.into());
        self
    }

    /// Compresses bodies before they are sent, by name: `zlib`, `bzip2` or `zstd`, each a cargo feature of kombu, or
    /// what is registered in [`serializers().stages()`](Connection::serializers). Default: none.
    ///
    /// The header `compression` tells receivers, Python kombu's among them, and they need not be told otherwise.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # #[cfg(feature = "zlib")] {
    /// # use kombu::{Exchange, Queue};
    /// # let connection = kombu::connect("memory://").await?;
    /// # connection.declare_queue(&Queue::new("logs")).await?;
    /// let producer = connection.producer(Exchange::default()).compression("zlib").routing_key("logs").await?;
    /// let log = "all is well\n".repeat(1000);
    /// producer.publish(&log).await?;
    /// producer.publish(&log).uncompressed().await?;
    ///
    /// let delivery = connection.get("logs").await?.expect("a log");
    /// assert!(delivery.body().len() < 200); // what was on the wire
    /// assert_eq!(delivery.decode::<String>()?, log);
    /// delivery.ack().await?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::UnknownSerializer`] if there is none of that name.
    pub fn compression(mut self, name: impl Into<String>) -> Self {
        self.compression = Some(name.into());
        self
    }

    /// Whether messages should survive a restart of the broker. Default: what the exchange says, which is
    /// persistent unless it was set.
    pub fn delivery_mode(mut self, mode: DeliveryMode) -> Self {
        self.delivery_mode = Some(mode);
        self
    }

    /// Whether a message that matches no queue is an error. Default: yes on the default exchange and on direct
    /// exchanges, no on the others, where publishing to nobody is normal.
    pub fn mandatory(mut self, mandatory: bool) -> Self {
        self.mandatory = Some(mandatory);
        self
    }

    /// Whether the exchange is declared, verified or neither, where its declaration doesn't say so itself.
    /// Default: the connection's mode.
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.declare_mode = Some(mode);
        self
    }

    /// Adds an interceptor for what this producer publishes, behind those of the connection.
    pub fn intercept(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    async fn open(self) -> Result<Producer> {
        let end = self.end.unwrap_or_else(|| self.connection.deadline());
        let inner = self.connection.inner();
        let codec = match &self.serializer {
            Some(name) => Some(inner.serializers.by_name(name)?),
            // Bytes and text need none; a value without one is an error when it is published.
            None => inner.serializers.by_name("json").ok(),
        };
        let compression = match &self.compression {
            Some(name) => Some(inner.serializers.stages().by_name(name)?),
            None => None,
        };
        let others = self.destinations.iter().map(|(exchange, _)| exchange);
        let exchanges = iter::once(&self.exchange).chain(others);
        for exchange in exchanges.clone().filter(|exchange| exchange.is_default()) {
            // Always there; but a wrong declaration of it is still one.
            exchange.check()?;
        }
        let mode = self.declare_mode.unwrap_or(inner.declare_mode);
        self.connection
            .ensure_exchanges(exchanges, mode, end)
            .await?;
        let publishers = &self.publishers;
        let (session, publisher) = self
            .connection
            .control_until(end, "open producer", |session| async move {
                let publisher = publishers.open(&session).await?;
                Ok((session, publisher))
            })
            .await
            .map_err(|error| held_back(error, &inner.engine))?;
        let inner = Arc::new(Inner {
            outbox: Outbox::new(publisher),
            codec,
            compression,
            exchange: self.exchange.name().clone(),
            routing_key: self.routing_key,
            destinations: self.destinations.into_iter().collect(),
            delivery_mode: self
                .delivery_mode
                .unwrap_or_else(|| self.exchange.get_delivery_mode()),
            mandatory: self.mandatory,
            mandatory_by_default: is_mandatory_by_default(&self.exchange),
            id: inner.next_producer(),
            sequence: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            interceptors: chain(&inner.interceptors, self.interceptors),
            publishers: self.publishers,
            connection: self.connection,
        });
        inner.connection.inner().open.add_producer(&inner);
        let restore: Weak<Inner> = Arc::downgrade(&inner);
        inner.connection.inner().engine.register(restore);
        // A session that began in between did not know of this producer yet.
        let catching_up = inner.catch_up(&session);
        inner.connection.connected_by(end, catching_up).await?;
        Ok(Producer { inner })
    }
}

impl fmt::Debug for OpenProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenProducer")
            .field("exchange", &self.exchange)
            .field("serializer", &self.serializer)
            .finish_non_exhaustive()
    }
}

/// Publishing to nobody is a mistake where the key names the receiver, and normal where receivers choose.
pub(super) fn is_mandatory_by_default(exchange: &Exchange) -> bool {
    exchange.is_default() || *exchange.kind() == ExchangeKind::Direct
}

/// Whoever opens a producer on a line that the broker doesn't read waits for the same thing as one who publishes.
fn held_back(error: Error, engine: &Shared) -> Error {
    match engine.blocked() {
        Some(reason) if error.kind() == ErrorKind::Timeout => {
            let limit = engine.deadlines.declare;
            Error::new(
                ErrorKind::Backpressure,
                format!("no answer within {limit:?}: the broker takes no publishes: {reason}"),
            )
        }
        _ => error,
    }
}

impl IntoFuture for OpenProducer {
    type Output = Result<Producer>;
    type IntoFuture = BoxFuture<'static, Result<Producer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.open()
                .await
                .map_err(|error| error.during("open producer"))
        })
    }
}

/// Publishes to an exchange; a clone is another handle to the same producer.
///
/// What one producer publishes reaches a queue in the order of the calls, also where it has to wait for room; what
/// interceptors have to do comes before, and is done when a publish is awaited.
///
/// # Drop
///
/// Messages that were handed over are on their way and stay so; their confirms are no longer waited for.
#[derive(Clone)]
pub struct Producer {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(super) outbox: Outbox,
    publishers: Publishers,
    /// Missing only where neither the user named one nor `json` is built in.
    pub(super) codec: Option<Codec>,
    pub(super) compression: Option<Stage>,
    pub(super) exchange: Name,
    pub(super) routing_key: Name,
    /// Of messages that say nothing; none if this is empty.
    pub(super) destinations: Destinations,
    pub(super) delivery_mode: DeliveryMode,
    /// What the user asked for, whatever the exchange.
    pub(super) mandatory: Option<bool>,
    pub(super) mandatory_by_default: bool,
    pub(super) connection: Connection,
    pub(super) interceptors: Interceptors,
    id: u64,
    sequence: AtomicU64,
    closed: AtomicBool,
}

impl Inner {
    pub(super) fn next_id(&self) -> PublishId {
        PublishId {
            producer: self.id,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Moves on to the present session if that isn't the one that the publisher is of.
    ///
    /// Without a session it waits for the next one: its supervisor may have looked before this producer was
    /// known.
    async fn catch_up(self: &Arc<Self>, opened_on: &Arc<Session>) -> Result<()> {
        let engine = &self.connection.inner().engine;
        let mut session = engine.session().await?;
        if Arc::ptr_eq(&session, opened_on) {
            return Ok(());
        }
        loop {
            let limit = engine.deadlines.declare;
            match self.clone().restore(session.clone(), limit).await {
                Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                    session = engine.session_after(&session).await?;
                }
                Err(error) => return Err(error),
                Ok(begin) => {
                    begin();
                    return Ok(());
                }
            }
        }
    }

    /// How long a publish may take.
    pub(super) fn deadline(&self) -> Duration {
        self.connection.inner().engine.deadlines.publish
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Closed,
                format!(
                    "the producer for exchange `{}` is closed; open another one",
                    self.exchange
                ),
            ));
        }
        Ok(())
    }
}

impl Restore for Inner {
    fn restore(
        self: Arc<Self>,
        session: Arc<Session>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Begin>> {
        let producer = Arc::downgrade(&self);
        let publishers = self.publishers.clone();
        Box::pin(async move {
            let late = || {
                Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "no answer within {limit:?}: waiting for the broker to open a producer again"
                    ),
                )
            };
            let publisher = by(deadline(limit), publishers.open(&session), late).await?;
            let begin: Begin = Box::new(move || {
                if let Some(producer) = producer.upgrade() {
                    producer.outbox.begin(publisher);
                }
            });
            Ok(begin)
        })
    }

    fn end(&self) {
        let engine = &self.connection.inner().engine;
        self.outbox.end(&engine.end_reason());
        if let Publishers::Calling(answers) = &self.publishers {
            answers.end(&engine.end_reason());
        }
    }
}

impl Producer {
    /// Publishes a value, encoded by the serializer. Await the result: it resolves when the broker has the
    /// message.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # let connection = kombu::connect("memory://").await?;
    /// use kombu::{ErrorKind, Exchange};
    ///
    /// let producer = connection.producer(Exchange::default()).await?;
    /// let error = producer.publish(&[1, 2, 3]).routing_key("nobody").await.unwrap_err();
    /// assert_eq!((error.kind(), error.code()), (ErrorKind::Unroutable, Some(312)));
    ///
    /// let published = producer.publish(&[1, 2, 3]).routing_key("nobody").allow_unroutable().await?;
    /// assert!(!published.routed);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Encode`], [`ErrorKind::TooLarge`] and [`ErrorKind::InvalidName`] before anything is
    /// sent; [`ErrorKind::NotFound`] for a missing exchange, [`ErrorKind::Unroutable`], [`ErrorKind::Nacked`],
    /// [`ErrorKind::Closed`].
    #[inline]
    pub fn publish<'a, T>(&'a self, value: &'a T) -> Publish<'a, Value<'a, T>>
    where
        T: Serialize + ?Sized,
    {
        Publish::new(&self.inner, Value(value))
    }

    /// Publishes bytes as they are, as `application/data` unless a content type is set.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # let connection = kombu::connect("memory://").await?;
    /// # connection.declare_queue(&kombu::Queue::new("images")).await?;
    /// let producer = connection.producer(kombu::Exchange::default()).routing_key("images").await?;
    /// producer.publish_bytes(vec![0xff, 0xd8]).content_type("image/jpeg").await?;
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn publish_bytes(&self, body: impl Into<Bytes>) -> Publish<'_, Raw> {
        Publish::new(&self.inner, Raw(body.into()))
    }

    /// Publishes text as it is, as `text/plain` in UTF-8 unless a content type is set.
    pub fn publish_text(&self, text: impl Into<String>) -> Publish<'_, Text> {
        Publish::new(&self.inner, Text(text.into()))
    }

    /// Publishes a message once more as it is: its body byte for byte, with all of its headers and properties, and what it
    /// was encoded and compressed with. The exchange is this producer's, and so is the routing key, unless the producer has
    /// none: then it is the message's.
    ///
    /// The `user_id` alone is left out, since brokers refuse one that isn't the connection's.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let archive = Exchange::topic("archive");
    /// let mut orders = connection.consumer(&Queue::new("orders")).await?;
    /// let mut archived = connection.consumer(&Queue::new("archived").bind(&archive, "#")).await?;
    /// let producer = connection.producer(Exchange::default()).await?;
    /// producer.publish(&7).routing_key("orders").header("customer", 3).await?;
    ///
    /// let forwarding = connection.producer(&archive).await?;
    /// let order = orders.try_next().await?.expect("an order");
    /// forwarding.forward(&order).await?;
    /// order.ack().await?;
    ///
    /// let copy = archived.try_next().await?.expect("the same order");
    /// assert_eq!(copy.headers().get("customer").and_then(|value| value.as_i64()), Some(3));
    /// assert_eq!((copy.routing_key().as_str(), copy.body().as_ref()), ("orders", &b"7"[..]));
    /// # copy.ack().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward(&self, message: &Content) -> Publish<'_, Encoded> {
        let mut body = Encoded::nothing();
        body.body = message.body().clone();
        Publish::new(&self.inner, body).of(message)
    }

    /// Publishes all of `items` and answers for each of them, in the same order.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # let connection = kombu::connect("memory://").await?;
    /// # connection.declare_queue(&kombu::Queue::new("jobs")).await?;
    /// let producer = connection.producer(kombu::Exchange::default()).routing_key("jobs").await?;
    /// let jobs = [1, 2, 3];
    /// let results = producer.batch(jobs.iter().map(|job| producer.publish(job))).await;
    /// assert!(results.iter().all(|result| result.is_ok()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch<'a, B: Body>(
        &self,
        items: impl IntoIterator<Item = Publish<'a, B>>,
    ) -> Vec<Result<Published>> {
        // What the caller does in between, and encoding, holds nothing up.
        let mut prepared = items.into_iter().map(Publish::prepared).collect::<Vec<_>>();
        let mut publishing: Vec<Publishing> = Vec::with_capacity(prepared.len());
        // All are under way before the first answer is waited for.
        self.inner.outbox.together(&mut || {
            publishing.extend(prepared.drain(..).map(Prepared::start));
        });
        drop(prepared);
        let mut results = Vec::with_capacity(publishing.len());
        for publishing in publishing {
            results.push(publishing.await);
        }
        results
    }

    /// Closes the producer for all of its handles; the connection stays open. Publishes that come later fail
    /// with [`ErrorKind::Closed`].
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("exchange", &self.inner.exchange)
            .field("serializer", &self.inner.codec)
            .finish_non_exhaustive()
    }
}

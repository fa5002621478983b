use std::fmt;
use std::future::IntoFuture;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use kombu_serializers::{Codec, Stage};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::{Connection, Producer, Raw, Value};
use crate::declare::{DeclareMode, DeliveryMode, Exchange};
use crate::driver::BoxFuture;
use crate::error::Result;
use crate::name::Name;

use super::answer::Reading;
use super::{Answers, Call};

/// How long each attempt of a call waits, unless it is told otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often an unanswered question is sent again.
const MAX_RETRIES: u32 = 4;

/// What all callers of a connection share: one way out, and one place that answers come to.
pub(crate) struct Line {
    pub(super) answers: Arc<Answers>,
    pub(super) producer: Producer,
}

impl Line {
    /// The one that the connection has, or a new one, which may be somebody else's.
    async fn of(connection: &Connection, end: Instant) -> Result<Arc<Line>> {
        connection
            .connected_by(end, Line::open(connection, end))
            .await
    }

    async fn open(connection: &Connection, end: Instant) -> Result<Arc<Line>> {
        let mut shared = connection.inner().line.lock().await;
        if let Some(line) = shared.upgrade() {
            return Ok(line);
        }
        let inner = connection.inner();
        let runtime = inner.engine.runtime.clone();
        let answers = Arc::new(Answers::new(inner.interceptors.clone(), runtime));
        let producer = connection.producer(Exchange::default());
        let producer = producer.calling(answers.clone()).by(end).await?;
        let line = Arc::new(Line { answers, producer });
        *shared = Arc::downgrade(&line);
        Ok(line)
    }
}

/// The line of a connection, for as long as somebody uses it.
pub(crate) type SharedLine = tokio::sync::Mutex<Weak<Line>>;

/// A caller to be: awaiting it declares its exchange, and has answers come in.
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenCaller {
    connection: Connection,
    exchange: Exchange,
    routing_key: Name,
    serializer: Option<String>,
    compression: Option<String>,
    delivery_mode: Option<DeliveryMode>,
    declare_mode: Option<DeclareMode>,
    timeout: Option<Duration>,
    max_retries: u32,
    /// When it has to be open, if that isn't counted from when it is awaited.
    end: Option<Instant>,
}

impl OpenCaller {
    fn new(connection: Connection, exchange: Exchange) -> Self {
        OpenCaller {
            connection,
            exchange,
            routing_key: Name::EMPTY,
            serializer: None,
            compression: None,
            delivery_mode: None,
            declare_mode: None,
            timeout: Some(TIMEOUT),
            max_retries: MAX_RETRIES,
            end: None,
        }
    }

    /// Opens it by then.
    #[cfg(feature = "postage")]
    pub(crate) fn by(mut self, end: Instant) -> Self {
        self.end = Some(end);
        self
    }

    /// The routing key of questions that don't set one; for the default exchange, the queue. Default: empty.
    pub fn routing_key(mut self, key: impl Into<Name>) -> Self {
        self.routing_key = key.into();
        self
    }

    /// The serializer of questions, by name. Default: `json`. An answer's content type says how it is read.
    pub fn serializer(mut self, name: impl Into<String>) -> Self {
        self.serializer = Some(name.into());
        self
    }

    /// Compresses questions before they are sent, by name. Default: none.
    pub fn compression(mut self, name: impl Into<String>) -> Self {
        self.compression = Some(name.into());
        self
    }

    /// Whether questions should survive a restart of the broker. By default those need not that have a timeout and retries,
    /// since they are asked again: RabbitMQ writes what is persistent to its disk before it goes on. Others are what the exchange
    /// says.
    pub fn delivery_mode(mut self, mode: DeliveryMode) -> Self {
        self.delivery_mode = Some(mode);
        self
    }

    /// Whether the exchange is declared, verified or neither. Default: the connection's mode.
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.declare_mode = Some(mode);
        self
    }

    /// How long each attempt waits for its answer; `None` waits for ever. Default: 30 s.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// How often a question that isn't answered is sent again, with the same message id. Default: 4.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    async fn open(self) -> Result<Caller> {
        let end = self.end.unwrap_or_else(|| self.connection.deadline());
        let inner = self.connection.inner();
        let codec = match &self.serializer {
            Some(name) => Some(inner.serializers.by_name(name)?),
            None => None,
        };
        let compression = match &self.compression {
            Some(name) => Some(inner.serializers.stages().by_name(name)?),
            None => None,
        };
        if self.exchange.is_default() {
            self.exchange.check()?;
        } else {
            let mode = self.declare_mode.unwrap_or(inner.declare_mode);
            let exchanges = [&self.exchange];
            self.connection
                .ensure_exchanges(exchanges, mode, end)
                .await?;
        }
        let settings = Settings {
            codec,
            compression,
            delivery_mode: self.delivery_mode,
            exchange: self.exchange,
            routing_key: self.routing_key,
            timeout: self.timeout,
            max_retries: self.max_retries,
            reading: Reading {
                serializers: inner.serializers.clone(),
                max_decompressed_size: inner.max_decompressed_size,
            },
        };
        Ok(Caller {
            line: Line::of(&self.connection, end).await?,
            settings: Arc::new(settings),
            connection: self.connection,
        })
    }
}

impl IntoFuture for OpenCaller {
    type Output = Result<Caller>;
    type IntoFuture = BoxFuture<'static, Result<Caller>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.open()
                .await
                .map_err(|error| error.during("open caller"))
        })
    }
}

impl fmt::Debug for OpenCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCaller")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .finish_non_exhaustive()
    }
}

/// What every call of a caller begins with.
pub(super) struct Settings {
    pub(super) exchange: Exchange,
    pub(super) routing_key: Name,
    pub(super) codec: Option<Codec>,
    pub(super) compression: Option<Stage>,
    pub(super) delivery_mode: Option<DeliveryMode>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_retries: u32,
    pub(super) reading: Reading,
}

/// Asks questions and receives their answers; a clone is another handle to the same caller.
///
/// Any number of calls may wait at once. All callers of a connection share one reply queue, which is there as long as
/// one of them, or a call, is.
#[derive(Clone)]
pub struct Caller {
    pub(super) connection: Connection,
    pub(super) line: Arc<Line>,
    pub(super) settings: Arc<Settings>,
}

impl Caller {
    /// A question, encoded by the serializer, and the type of its answer. Await it for the answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # use kombu::{Exchange, Queue};
    /// # let connection = kombu::connect("memory://").await?;
    /// # let mut questions = connection.consumer(&Queue::new("upper")).await?;
    /// # tokio::spawn(async move {
    /// #     while let Ok(Some(delivery)) = questions.try_next().await {
    /// #         let text = delivery.decode::<String>()?.to_uppercase();
    /// #         delivery.reply(&text).await?;
    /// #         delivery.ack().await?;
    /// #     }
    /// #     kombu::Result::Ok(())
    /// # });
    /// use std::time::Duration;
    ///
    /// let caller = connection.caller(Exchange::default()).await?;
    /// let answer = caller
    ///     .call::<_, String>("hello")
    ///     .routing_key("upper")
    ///     .timeout(Duration::from_secs(5))
    ///     .max_retries(0)
    ///     .await?;
    /// assert_eq!(answer, "HELLO");
    /// # Ok(())
    /// # }
    /// ```
    pub fn call<'a, Req, Resp>(&'a self, request: &'a Req) -> Call<'a, Value<'a, Req>, Resp>
    where
        Req: Serialize + ?Sized,
        Resp: DeserializeOwned,
    {
        Call::new(self, Value::new(request))
    }

    /// The same with bytes that are sent as they are, as `application/data` unless a content type is set.
    pub fn call_bytes<Resp: DeserializeOwned>(
        &self,
        request: impl Into<Bytes>,
    ) -> Call<'_, Raw, Resp> {
        Call::new(self, Raw::new(request.into()))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("exchange", &self.settings.exchange)
            .field("routing_key", &self.settings.routing_key)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a caller, which publishes questions to an exchange and receives their answers; the exchange is declared.
    /// `Exchange::default()` routes to the queue named by the routing key.
    ///
    /// Answers come to one exclusive queue that all callers of the connection share, or over a shorter way where the
    /// broker has one (RabbitMQ's direct reply-to, an inbox of NATS). See [`call`](crate::call).
    ///
    /// # Errors
    ///
    /// When awaited: those of [`producer`](Connection::producer).
    pub fn caller(&self, exchange: impl Into<Exchange>) -> OpenCaller {
        OpenCaller::new(self.clone(), exchange.into())
    }
}

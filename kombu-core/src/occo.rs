//! OCCO's three objects: a producer of messages, a producer of calls, and a consumer that has a function run. Each comes from a
//! [`Config`], which names the broker, and nothing else does.
//!
//! ```
//! use kombu::occo::Config;
//! use kombu::handler::{Payload, Reply};
//!
//! // What it returns is the result of a call; of a message it only says that it was processed.
//! async fn core_func(Payload(message): Payload<String>) -> Reply<usize> {
//!     Reply(message.len())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! # let config = r#"{"protocol": "memory", "host": "occo-example", "routing_key": "test", "queue": "test"}"#;
//! let config: Config = serde_json::from_str(config).expect("a file says so");
//! let registry = kombu::registry();
//! let consumer = config.event_driven_consumer(&registry, core_func).await?;
//! let consuming = tokio::spawn(consumer.start_consuming());
//!
//! config.asynchronous_producer(&registry).await?.push_message("test message").await?;
//! let producer = config.rpc_producer(&registry).await?;
//! let length: usize = producer.push_message("another one").await?;
//! assert_eq!(length, 11);
//! # consuming.abort();
//! # Ok(())
//! # }
//! ```

use std::collections::HashSet;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::call::{CallError, Caller};
use crate::client::{Connection, Place, Producer, Registry};
use crate::declare::{Exchange, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::handler::{Exit, Handler, Retries, Router, Serve};
use crate::name::Name;
use crate::portability::Topology;

/// Where the broker is, and where messages go and come from. Each of the three objects takes what it needs of it.
///
/// ```
/// use kombu::occo::Config;
///
/// let config: Config = serde_saphyr::from_str(
///     "
///     protocol: amqp
///     host: 192.168.152.184
///     vhost: test
///     exhange: ''
///     routing_key: test
///     queue: test
///     user: test
///     password: test
///     ",
/// )
/// .expect("it is what OCCO's documentation shows");
/// assert_eq!(config.host.as_deref(), Some("192.168.152.184"));
/// ```
///
/// A text alone is a protocol, as [`Config::new`] has it:
///
/// ```
/// # use kombu::occo::Config;
/// let config: Config = serde_saphyr::from_str("memory").expect("a text is one");
/// assert!(config == Config::new("memory"));
/// ```
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "mqconfig", transform = crate::schema::or_text)
)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct Config {
    /// The scheme of a transport: `amqp`, `memory`, `redis`, `nats`. It has to be there, unless `url` is.
    pub protocol: Option<String>,
    /// All of it in one, in place of what follows up to `password`.
    pub url: Option<String>,
    /// Default: that of the transport.
    pub host: Option<String>,
    /// Default: that of the transport.
    pub port: Option<u16>,
    /// The virtual host, as the transport has them. Default: that of the transport.
    pub vhost: Option<String>,
    /// Who connects.
    pub user: Option<String>,
    /// As whom.
    pub password: Option<String>,
    /// A direct exchange. Default: the broker's own, which routes to the queue named by the key.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["exhange"])))]
    #[serde(alias = "exhange")]
    pub exchange: String,
    /// Where messages go that say nothing else.
    pub routing_key: Option<String>,
    /// What is consumed from. A consumer has to have it.
    pub queue: Option<String>,
    /// Whether queues go with their last consumer. Default: false.
    pub auto_delete: bool,
    /// The serializer of what is sent, by name. Default: `json`.
    pub serializer: Option<String>,
}

impl Config {
    /// A transport, and its defaults for the rest.
    pub fn new(protocol: impl Into<String>) -> Self {
        Config {
            protocol: Some(protocol.into()),
            ..Config::default()
        }
    }

    /// The URL of its connection, secrets included.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if there is no protocol, and those of [`Registry::url_of`].
    pub fn connection_url(&self, registry: &Registry) -> Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        let Some(protocol) = &self.protocol else {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "missing protocol specification: set `protocol` to one of {}, or `url`",
                    registry.schemes().join(", ")
                ),
            ));
        };
        let mut place = Place::new(protocol);
        place.host = self.host.as_deref();
        place.port = self.port;
        place.user = self.user.as_deref();
        place.password = self.password.as_deref();
        place.virtual_host = self.vhost.as_deref();
        registry.url_of(&place)
    }

    /// What its objects declare: the exchange, the queue that is consumed from, and without an exchange the one that messages go to.
    pub fn topology(&self) -> Topology {
        let key = self.routing_key.as_deref();
        let mut topology = Topology::new();
        if !self.exchange.is_empty() {
            topology = topology.exchange(self.exchange());
        } else if let Some(key) = key {
            topology = topology.queue(self.queue(key));
        }
        match &self.queue {
            Some(queue) => topology.queue(self.consumed(queue)),
            None => topology,
        }
    }

    async fn connect(&self, registry: &Registry) -> Result<Connection> {
        let url = self.connection_url(registry)?;
        Connection::builder(registry.clone()).url(url).await
    }

    fn exchange(&self) -> Exchange {
        match &*self.exchange {
            "" => Exchange::default(),
            name => Exchange::direct(name),
        }
    }

    fn queue(&self, name: &str) -> Queue {
        Queue::new(name).auto_delete(self.auto_delete)
    }

    /// What a consumer consumes from.
    fn consumed(&self, name: &str) -> Queue {
        let queue = self.queue(name);
        if self.exchange.is_empty() {
            return queue;
        }
        let key = self.routing_key.as_deref().unwrap_or_default();
        queue.bind(self.exchange(), key)
    }

    /// Connects, for messages that are only sent.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if there is no protocol, [`ErrorKind::UnknownScheme`] if it isn't one, and those of connecting.
    pub async fn asynchronous_producer(&self, registry: &Registry) -> Result<AsynchronousProducer> {
        let connection = self.connect(registry).await?;
        let mut producer = connection.producer(self.exchange());
        if let Some(serializer) = &self.serializer {
            producer = producer.serializer(serializer);
        }
        Ok(AsynchronousProducer {
            producer: producer.await?,
            destinations: Destinations::new(connection, self),
        })
    }

    /// Connects, for messages that are answered.
    ///
    /// # Errors
    ///
    /// As [`asynchronous_producer`](Config::asynchronous_producer).
    pub async fn rpc_producer(&self, registry: &Registry) -> Result<RpcProducer> {
        let connection = self.connect(registry).await?;
        let mut caller = connection.caller(self.exchange()).timeout(None);
        if let Some(serializer) = &self.serializer {
            caller = caller.serializer(serializer);
        }
        Ok(RpcProducer {
            caller: caller.await?,
            timeout: None,
            destinations: Destinations::new(connection, self),
        })
    }

    /// Connects, for messages to be processed by this function, one at a time. The queue is declared.
    ///
    /// A message that the function can't be called with, or with which it fails in a [critical](crate::call::Failure::critical)
    /// way, is held until the consumer ends, and goes back then; with 65 of them, that ends with
    /// [`ErrorKind::Undecodable`]. [`Outcome::Reject`](crate::handler::Outcome::Reject) sends one to the queue's dead-letter
    /// exchange, which a policy of the broker may set, or discards it. One with which it fails otherwise comes again, for as
    /// long as it fails, after pauses that grow to 5 min.
    ///
    /// # Errors
    ///
    /// As [`asynchronous_producer`](Config::asynchronous_producer), and [`ErrorKind::Config`] without a queue.
    pub async fn event_driven_consumer<H, Arguments>(
        &self,
        registry: &Registry,
        processor: H,
    ) -> Result<EventDrivenConsumer>
    where
        H: Handler<Arguments, ()>,
        Arguments: 'static,
    {
        let Some(queue) = &self.queue else {
            return Err(Error::new(
                ErrorKind::Config,
                "missing `queue`: a consumer has to know where its messages come from",
            ));
        };
        let connection = self.connect(registry).await?;
        let queue = self.consumed(queue);
        connection.declare_queue(&queue).await?;
        let router = Router::new().fallback(processor);
        let serve = connection.serve(router).queues(&queue).prefetch(1);
        let serve = serve.retries(Retries::endless());
        Ok(EventDrivenConsumer { connection, serve })
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TextOrMap;

        impl<'de> Visitor<'de> for TextOrMap {
            type Value = Config;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol, or a map of a configuration")
            }

            fn visit_str<E: serde::de::Error>(
                self,
                protocol: &str,
            ) -> std::result::Result<Config, E> {
                Ok(Config::new(protocol))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Config, A::Error> {
                // Not this one, but that of the fields.
                Config::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(TextOrMap)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor a URL that may hold one.
        f.debug_struct("Config")
            .field("protocol", &self.protocol)
            .field("host", &self.host)
            .field("vhost", &self.vhost)
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

/// Where messages go, and that what they go to is there.
struct Destinations {
    connection: Connection,
    config: Config,
    declared: Mutex<HashSet<Name>>,
}

impl Destinations {
    fn new(connection: Connection, config: &Config) -> Self {
        Destinations {
            connection,
            config: config.clone(),
            declared: Mutex::default(),
        }
    }

    /// The key of a message: its own, or else that of the configuration. On the default exchange its queue is declared, so
    /// that a consumer may come later.
    async fn key(&self, own: Option<Name>) -> Result<Name> {
        let configured = || self.config.routing_key.as_deref().map(Name::from);
        let Some(key) = own.or_else(configured) else {
            return Err(Error::new(
                ErrorKind::Config,
                "a routing key is mandatory: configure one, or give one with the message",
            ));
        };
        if self.config.exchange.is_empty() && !self.declared.lock().contains(&key) {
            self.declare(&key).await?;
        }
        Ok(key)
    }

    async fn declare(&self, key: &Name) -> Result<()> {
        let queue = self.config.queue(key);
        self.connection.declare_queue(&queue).await?;
        self.declared.lock().insert(key.clone());
        Ok(())
    }

    /// Declares its queue once more for a message that found none: it has gone since, with its last consumer or otherwise.
    /// Answers whether there is one now.
    async fn declare_again(&self, key: &Name) -> Result<bool> {
        let is_declared = self.config.exchange.is_empty();
        if is_declared {
            self.declare(key).await?;
        }
        Ok(is_declared)
    }
}

/// Sends messages, and expects nothing but the broker's answer.
pub struct AsynchronousProducer {
    producer: Producer,
    destinations: Destinations,
}

impl AsynchronousProducer {
    /// Sends a message to where the configuration says, and resolves when the broker has it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] without a routing key, and those of [`Producer::publish`].
    pub async fn push_message<T: Serialize + ?Sized>(&self, message: &T) -> Result<()> {
        self.push(message, None).await
    }

    /// The same with this routing key.
    ///
    /// # Errors
    ///
    /// Those of [`Producer::publish`].
    pub async fn push_message_to<T: Serialize + ?Sized>(
        &self,
        routing_key: impl Into<Name>,
        message: &T,
    ) -> Result<()> {
        self.push(message, Some(routing_key.into())).await
    }

    async fn push<T: Serialize + ?Sized>(&self, message: &T, key: Option<Name>) -> Result<()> {
        let key = self.destinations.key(key).await?;
        let publish = || self.producer.publish(message).routing_key(&key);
        let mut published = publish().await;
        if let Err(error) = &published
            && error.kind() == ErrorKind::Unroutable
            && self.destinations.declare_again(&key).await?
        {
            published = publish().await;
        }
        published.map(drop)
    }

    /// The connection, which is this producer's alone.
    pub fn connection(&self) -> &Connection {
        &self.destinations.connection
    }
}

/// Makes calls. Any number of them may wait at once.
pub struct RpcProducer {
    caller: Caller,
    timeout: Option<Duration>,
    destinations: Destinations,
}

impl RpcProducer {
    /// How long a call waits for its result, from now on. Default: for ever.
    #[must_use]
    pub fn with_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// Sends a message to where the configuration says, and waits for its result.
    ///
    /// # Errors
    ///
    /// What the processor failed with, or that there is no answer: see [`CallError`], and
    /// [`is_retryable`](CallError::is_retryable) for whether to ask again. Without a routing key
    /// [`CallError::Transport`].
    pub async fn push_message<T, R>(&self, message: &T) -> std::result::Result<R, CallError>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.push(message, None).await
    }

    /// The same with this routing key.
    ///
    /// # Errors
    ///
    /// As [`push_message`](RpcProducer::push_message).
    pub async fn push_message_to<T, R>(
        &self,
        routing_key: impl Into<Name>,
        message: &T,
    ) -> std::result::Result<R, CallError>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        self.push(message, Some(routing_key.into())).await
    }

    async fn push<T, R>(&self, message: &T, key: Option<Name>) -> std::result::Result<R, CallError>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let key = self.destinations.key(key).await;
        let key = key.map_err(CallError::Transport)?;
        let call = || {
            let call = self.caller.call(message).routing_key(&key);
            call.timeout(self.timeout).max_retries(0).into_future()
        };
        let answer = call().await;
        if let Err(CallError::Unroutable(_)) = &answer {
            let declared = self.destinations.declare_again(&key).await;
            if declared.map_err(CallError::Transport)? {
                return call().await;
            }
        }
        answer
    }

    /// The connection, which is this producer's alone.
    pub fn connection(&self) -> &Connection {
        &self.destinations.connection
    }
}

/// Has a function run for each message that comes.
pub struct EventDrivenConsumer {
    connection: Connection,
    serve: Serve,
}

impl EventDrivenConsumer {
    /// Processes messages until the connection is closed or the function ends it.
    ///
    /// # Errors
    ///
    /// Those of [`Serve::run`].
    pub async fn start_consuming(self) -> Result<Exit> {
        self.serve.run().await
    }

    /// The same until `cancel` resolves: the message that is being processed is finished, and no other is taken.
    ///
    /// # Errors
    ///
    /// Those of [`Serve::run`].
    pub async fn start_consuming_until(
        self,
        cancel: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Exit> {
        self.serve.run_until(cancel).await
    }

    /// Processes as many messages as the queue has by now, one at a time, and answers how many: fewer if other
    /// consumers take some, or if the function ends it. What can't be processed, and what the function
    /// [releases](crate::handler::Outcome::Release), goes back when all are done; what it gives back itself may be had once more
    /// in the same call, and counts again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Undecodable`] when 64 messages are to go back, and those of [`Connection::get`].
    pub async fn process_available(&self) -> Result<u64> {
        self.serve.clone().run_available().await
    }

    /// The connection, which is this consumer's alone.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

macro_rules! debug {
    ($($kind:ident $connection:ident;)*) => {$(
        impl fmt::Debug for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($kind)).field(self.$connection()).finish()
            }
        }
    )*};
}

debug! {
    AsynchronousProducer connection;
    RpcProducer connection;
    EventDrivenConsumer connection;
}

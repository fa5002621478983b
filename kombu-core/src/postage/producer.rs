use std::collections::BTreeMap;
use std::fmt;
use std::future::IntoFuture;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::call::Caller;
use crate::client::{self, Connection, Encoded, Owned, Publish};
use crate::declare::Exchange;
use crate::driver::BoxFuture;
use crate::error::Result;
use crate::message;
use crate::name::Name;

use super::built::Builders;
use super::{Arguments, Built, Fingerprint, Message, Nothing, Parameters, Rpc};

/// A producer to be: awaiting it declares its exchanges and opens it.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenProducer<F = Fingerprint> {
    connection: Connection,
    destinations: Vec<(Exchange, Name)>,
    fingerprint: F,
    serializer: Option<String>,
    messages: Builders,
    calls: Builders,
}

impl<F: Serialize + Send> OpenProducer<F> {
    /// Builds the messages of this name, which [`named`](Producer::named) sends, from parameters of one type; in place of an earlier
    /// builder of the name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::postage::{Message, Nothing, Parameters, Producer};
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// connection.declare_queue(&Queue::new("pings")).await?;
    /// let producer = Producer::open(&connection)
    ///     .to(Exchange::default(), "pings")
    ///     .message_builder("ping", |hops: u32| Message::command("ping", [("hops", hops + 1)]))
    ///     .await?;
    /// producer.named("ping", 1_u32).await?;
    /// producer.named("pong", Nothing {}).await?; // no builder: a command
    ///
    /// let ping = connection.get("pings").await?.expect("a ping");
    /// let ping = ping.take::<Message<Parameters<Vec<(String, u32)>>>>()?.0;
    /// assert_eq!(ping.content.parameters, [("hops".to_owned(), 2)]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn message_builder<P, C>(
        mut self,
        name: impl Into<String>,
        build: impl Fn(P) -> Message<C> + Send + Sync + 'static,
    ) -> Self
    where
        P: 'static,
        C: Serialize + Send + Sync + 'static,
    {
        self.messages.add(name.into(), build);
        self
    }

    /// The same for the calls of this name, which [`rpc_named`](Producer::rpc_named) makes.
    pub fn rpc_builder<P, C>(
        mut self,
        name: impl Into<String>,
        build: impl Fn(P) -> Message<C> + Send + Sync + 'static,
    ) -> Self
    where
        P: 'static,
        C: Serialize + Send + Sync + 'static,
    {
        self.calls.add(name.into(), build);
        self
    }

    /// Sends messages to this exchange with this key, too. The first one is the default exchange: that of calls, and of
    /// messages with a key of their own. Without any it is the broker's.
    pub fn to(mut self, exchange: impl Into<Exchange>, key: impl Into<Name>) -> Self {
        self.destinations.push((exchange.into(), key.into()));
        self
    }

    /// Who sends, in each message: anything that is written as a map. Default: the [`Fingerprint`] of this process on the
    /// connection's virtual host, without a name.
    pub fn fingerprint<G>(self, fingerprint: G) -> OpenProducer<G> {
        OpenProducer {
            connection: self.connection,
            destinations: self.destinations,
            fingerprint,
            serializer: self.serializer,
            messages: self.messages,
            calls: self.calls,
        }
    }

    /// The serializer, by name. Default: `json`, which is what Postage's own components read.
    pub fn serializer(mut self, name: impl Into<String>) -> Self {
        self.serializer = Some(name.into());
        self
    }

    async fn open(self) -> Result<Producer<F>> {
        let first = self.destinations.first().cloned();
        let (exchange, key) = first.unwrap_or((Exchange::default(), Name::EMPTY));
        let mut producer = self.connection.producer(&exchange).routing_key(&key);
        if let Some(serializer) = &self.serializer {
            producer = producer.serializer(serializer);
        }
        Ok(Producer {
            producer: producer.destinations(self.destinations).await?,
            caller: OnceCell::new(),
            connection: self.connection,
            exchange,
            key,
            serializer: self.serializer,
            fingerprint: self.fingerprint,
            messages: self.messages,
            calls: self.calls,
        })
    }
}

impl<F: Serialize + Send + 'static> IntoFuture for OpenProducer<F> {
    type Output = Result<Producer<F>>;
    type IntoFuture = BoxFuture<'static, Result<Producer<F>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

/// Sends messages of Postage's, and makes calls.
///
/// A publish goes to all destinations; with a [routing key](Publish::routing_key) of its own to the first exchange; with
/// [destinations](Publish::destinations) of its own to those, whatever its key.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::postage::{Fingerprint, Message, Nothing, Parameters, Producer};
/// use kombu::{Exchange, Queue};
///
/// let connection = kombu::connect("memory://").await?;
/// let pings = Exchange::direct("pings");
/// let mut consumer = connection.consumer(&Queue::new("pings").bind(&pings, "ping")).await?;
///
/// let me = Fingerprint::of_process().named("monitor", "service");
/// let producer = Producer::open(&connection).to(&pings, "ping").fingerprint(me.clone()).await?;
/// producer.command("ping", Nothing {}).await?;
///
/// let mut messages = consumer.values::<Message<Parameters<Nothing>>>();
/// let (message, delivery) = messages.try_next().await?.expect("a command");
/// assert_eq!(message, Message::command("ping", Nothing {}).from(me));
/// delivery.ack().await?;
/// # Ok(())
/// # }
/// ```
pub struct Producer<F = Fingerprint> {
    producer: client::Producer,
    /// Opened by the first call.
    caller: OnceCell<Caller>,
    connection: Connection,
    exchange: Exchange,
    key: Name,
    serializer: Option<String>,
    pub(super) fingerprint: F,
    messages: Builders,
    calls: Builders,
}

impl Producer {
    /// Starts opening one.
    pub fn open(connection: &Connection) -> OpenProducer {
        OpenProducer {
            fingerprint: Fingerprint::of_process().on(connection),
            connection: connection.clone(),
            destinations: Vec::new(),
            serializer: None,
            messages: Builders::default(),
            calls: Builders::default(),
        }
    }
}

impl<F: Serialize + Clone> Producer<F> {
    /// Sends a message, in the name of this producer.
    pub fn send<C: Serialize, G>(
        &self,
        message: Message<C, G>,
    ) -> Publish<'_, Owned<Message<C, F>>> {
        let message = message.from(self.fingerprint.clone());
        Publish::new(&self.producer.inner, Owned(message))
    }

    /// Sends a command.
    pub fn command<P: Serialize>(
        &self,
        name: impl Into<String>,
        parameters: P,
    ) -> Publish<'_, Owned<Message<Parameters<P>, F>>> {
        self.send(Message::command(name, parameters))
    }

    /// Sends the message of this name: what its [builder](OpenProducer::message_builder) makes of the parameters, or, without one,
    /// a command of this name with them.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Encode`](crate::ErrorKind::Encode) if the builder takes parameters of another type, and those of
    /// [`command`](Self::command).
    pub fn named<P: Serialize + Send + Sync + 'static>(
        &self,
        name: impl Into<String>,
        parameters: P,
    ) -> Publish<'_, Owned<Message<Built, F>>> {
        let messages = &self.messages;
        self.send(messages.build(name.into(), parameters, Message::command))
    }

    /// Makes the call of this name: asks what its [builder](OpenProducer::rpc_builder) makes of the parameters, or, without one, a
    /// command of this name with them.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::Encode`](crate::ErrorKind::Encode) if the builder takes parameters of another type, and those of
    /// [`rpc`](Self::rpc).
    pub fn rpc_named<P, T>(
        &self,
        name: impl Into<String>,
        parameters: P,
    ) -> Rpc<'_, Message<Built, F>, T>
    where
        P: Serialize + Send + Sync + 'static,
        T: DeserializeOwned,
    {
        let calls = &self.calls;
        let message = calls.build(name.into(), parameters, Message::rpc_command);
        Rpc::new(self.caller(), message.from(self.fingerprint.clone()))
    }

    /// Sends how the component is doing.
    pub fn status(&self, status: impl Into<String>) -> Publish<'_, Owned<Message<Nothing, F>>> {
        self.send(Message::status(status))
    }

    /// Sends a message without a type of its own.
    pub fn message<V: Serialize>(
        &self,
        args: impl IntoIterator<Item = V>,
        kwds: impl IntoIterator<Item = (String, V)>,
    ) -> Publish<'_, Owned<Message<Arguments<V>, F>>> {
        let kwds = kwds.into_iter().collect::<BTreeMap<_, _>>();
        self.send(Message::generic(args, kwds))
    }

    /// Calls: sends a command, and waits for its result.
    pub fn rpc<P: Serialize, T: DeserializeOwned>(
        &self,
        name: impl Into<String>,
        parameters: P,
    ) -> Rpc<'_, Message<Parameters<P>, F>, T> {
        let message = Message::rpc_command(name, parameters);
        Rpc::new(self.caller(), message.from(self.fingerprint.clone()))
    }

    /// Sends a message on as it is, in its sender's name, to all destinations.
    pub fn forward(&self, message: &message::Content) -> Publish<'_, Encoded> {
        self.producer.forward(message)
    }

    fn caller(&self) -> BoxFuture<'_, Result<&Caller>> {
        // Not `self`, whose fingerprint need not be shared between threads.
        let (cell, connection, exchange) = (&self.caller, &self.connection, &self.exchange);
        let (key, serializer) = (&self.key, &self.serializer);
        Box::pin(async move {
            if let Some(caller) = cell.get() {
                return Ok(caller);
            }
            // From here on, whoever else opens it.
            let end = connection.deadline();
            let open = || {
                let caller = connection.caller(exchange).routing_key(key).by(end);
                match serializer {
                    Some(serializer) => caller.serializer(serializer).into_future(),
                    None => caller.into_future(),
                }
            };
            let opening = connection.connected_by(end, cell.get_or_try_init(open));
            opening.await.map_err(|error| error.during("open caller"))
        })
    }
}

impl<F> fmt::Debug for Producer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("producer", &self.producer)
            .finish_non_exhaustive()
    }
}

//! Canopsis' way of messaging: senders and receivers by name, from a URI or a configuration.
//!
//! ```
//! use kombu::mom::Mom;
//! use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! let uri = "memory-pubsub://canopsis?senders=events,alerts&receivers=events";
//! let mut mom = Mom::open(kombu::registry(), uri.parse()?).await?;
//! for (sender, sent) in mom.send(&"it rains", "weather").await? {
//!     println!("{sender}: {}", sent?.routed); // to all of them
//! }
//! let received = mom.receive("events", Duration::from_secs(1)).await?.expect("an event");
//! assert_eq!(received.decode::<String>()?, "it rains");
//! received.ack().await?;
//! mom.close().await
//! # }
//! ```

mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use settings::{DataType, RECEIVER_CALLBACK_SEPARATOR, Receiver, Sender, Settings};

use crate::client::{
    Connection, ConnectionBuilder, Consumer, Delivery, Destinations, Producer, Publish, Published,
    Registry, Value,
};
use crate::declare::{Binding, Exchange, Queue};
use crate::driver::BoxFuture;
use crate::engine::{Deadlines, check_runtime, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::handler::{Exit, Handler, Retries, Router};
use crate::name::Name;

/// Middleware to be: awaiting it connects, and opens its senders and receivers.
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenMom {
    registry: Registry,
    settings: Settings,
    callbacks: BTreeMap<String, Router>,
    change: Option<Change>,
}

type Change = Box<dyn FnOnce(ConnectionBuilder) -> ConnectionBuilder + Send>;

impl OpenMom {
    /// Sets what the settings have no key for: layers, credentials, how often connecting is tried.
    pub fn connection(
        mut self,
        change: impl FnOnce(ConnectionBuilder) -> ConnectionBuilder + Send + 'static,
    ) -> Self {
        self.change = Some(Box::new(change));
        self
    }

    /// What a receiver's callback of this name is: a [handler](crate::handler).
    pub fn callback<H, Arguments>(mut self, name: impl Into<String>, handler: H) -> Self
    where
        H: Handler<Arguments, ()>,
        Arguments: 'static,
    {
        let router = Router::new().fallback(handler);
        self.callbacks.insert(name.into(), router);
        self
    }

    async fn open(self) -> Result<Mom> {
        let settings = self.settings.by_uri()?;
        let deadlines = Deadlines {
            connect: settings.conn_timeout,
            ..Deadlines::default()
        };
        let url = settings.url(&self.registry)?;
        let connecting = Connection::builder(self.registry).url(url);
        let mut connecting = connecting.deadlines(deadlines);
        if let Some(change) = self.change {
            connecting = change(connecting);
        }
        let connection = connecting.await?;
        let mut mom = Mom {
            producer: connection.producer(Exchange::default()).await?,
            connection,
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            callbacks: self.callbacks,
            settings,
        };
        for sender in mom.settings.senders.clone() {
            mom.add_sender(sender).await?;
        }
        let receivers = std::mem::take(&mut mom.settings.receivers);
        mom.set_receivers(receivers).await?;
        Ok(mom)
    }
}

impl IntoFuture for OpenMom {
    type Output = Result<Mom>;
    type IntoFuture = BoxFuture<'static, Result<Mom>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

impl fmt::Debug for OpenMom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenMom")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Senders and receivers by name, over one connection.
///
/// # Drop
///
/// Its receivers end, callbacks in the middle of their work; [`close`](Mom::close) lets these finish.
pub struct Mom {
    settings: Settings,
    connection: Connection,
    producer: Producer,
    senders: BTreeMap<Name, Exchange>,
    receivers: BTreeMap<Name, Receiving>,
    callbacks: BTreeMap<String, Router>,
}

/// What becomes of a receiver's messages.
enum Receiving {
    /// They are fetched.
    ByHand {
        queue: Name,
        consumer: Box<Consumer>,
    },
    /// They are handed to a function.
    Callback { queue: Name, callback: Callback },
}

/// A function that gets messages.
struct Callback {
    stop: oneshot::Sender<()>,
    /// Until somebody was told how it ended.
    task: Option<JoinHandle<Result<Exit>>>,
}

impl Callback {
    /// Hands it what the queue brings; when this is done, it is the queue's consumer.
    async fn open(
        connection: &Connection,
        receiver: &Name,
        queue: &Queue,
        router: Router,
        safe: bool,
    ) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let running: BoxFuture<'static, Result<Exit>> = match safe {
            true => {
                let serve = connection.serve(router).queues(queue);
                let serve = serve.retries(Retries::endless());
                serve.open().await?.run_until(stopped)
            }
            false => {
                router.check_takes_none(&format!("receiver `{receiver}` without `safe`"))?;
                let consumer = connection.consumer(queue).no_ack(true).await?;
                Box::pin(hand_over(consumer, router, stopped))
            }
        };
        let receiver = receiver.clone();
        let task = tokio::spawn(async move {
            let ended = running.await;
            match &ended {
                Ok(Exit::Stopped | Exit::Closed) => {}
                Ok(exit) => tracing::warn!(%receiver, ?exit, "a callback ended its receiver"),
                Err(error) => tracing::error!(%receiver, %error, "a callback's receiver ended"),
            }
            ended
        });
        Ok(Callback {
            stop,
            task: Some(task),
        })
    }

    fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// How it ended, once it has; an error in any case.
    async fn ended(&mut self, receiver: &str) -> Option<Error> {
        if !self.has_ended() {
            return None;
        }
        let told = match self.task.take() {
            None => None,
            Some(task) => task.await.ok().and_then(Result::err),
        };
        Some(told.unwrap_or_else(|| {
            let message =
                format!("the callback of receiver `{receiver}` has ended; set another one");
            Error::new(ErrorKind::Closed, message)
        }))
    }

    /// Ends it when it has finished what it has begun with, for which it has 30 s.
    async fn cancel(self) -> Result<()> {
        drop(self.stop);
        match self.task {
            None => Ok(()),
            Some(task) => match task.await {
                Ok(ended) => ended.map(drop),
                // It was ended with its runtime.
                Err(_) => Ok(()),
            },
        }
    }
}

/// Hands over what is gone when it is received.
async fn hand_over(
    mut consumer: Consumer,
    router: Router,
    stopped: impl Future<Output = ()> + Send,
) -> Result<Exit> {
    let mut stopped = pin!(stopped);
    loop {
        let delivery = tokio::select! {
            biased;
            () = &mut stopped => return Ok(Exit::Stopped),
            delivery = consumer.try_next() => delivery?,
        };
        let Some(delivery) = delivery else {
            return Ok(Exit::Closed);
        };
        let responder = delivery.responder();
        let answered = router.answer(&delivery, responder, None, &mut stopped);
        if let Some(exit) = answered.await {
            return Ok(exit);
        }
    }
}

impl Receiving {
    fn queue(&self) -> &Name {
        match self {
            Receiving::ByHand { queue, .. } | Receiving::Callback { queue, .. } => queue,
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Receiving::ByHand { consumer, .. } => consumer.has_ended(),
            Receiving::Callback { callback, .. } => callback.has_ended(),
        }
    }

    /// Ends it; a callback finishes what it has begun with.
    async fn cancel(self) -> Result<()> {
        match self {
            Receiving::ByHand { consumer, .. } => consumer.cancel().await,
            Receiving::Callback { callback, .. } => callback.cancel().await,
        }
    }
}

/// Ends them beside each other; answers the first error.
async fn cancel_all(receivers: Vec<Receiving>) -> Result<()> {
    let cancelled = join_all(receivers.into_iter().map(Receiving::cancel));
    cancelled.await.into_iter().collect()
}

impl Mom {
    /// Starts opening one, with the transports of a registry.
    pub fn open(registry: Registry, settings: Settings) -> OpenMom {
        OpenMom {
            registry,
            settings,
            callbacks: BTreeMap::new(),
            change: None,
        }
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The names of all senders.
    pub fn senders(&self) -> impl Iterator<Item = &Name> {
        self.senders.keys()
    }

    /// The names of all receivers.
    pub fn receivers(&self) -> impl Iterator<Item = &Name> {
        self.receivers.keys()
    }

    /// Adds a sender, in place of one of that name: its exchange is declared.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::declare_exchange`].
    pub async fn add_sender(&mut self, sender: Sender) -> Result<()> {
        let exchange = self.settings.exchange_of(&sender);
        self.connection.declare_exchange(&exchange).await?;
        self.senders.insert(sender.name.clone(), exchange);
        let known = &mut self.settings.senders;
        known.retain(|known| known.name != sender.name);
        known.push(sender);
        Ok(())
    }

    /// Has these senders and no others. One that stays is as it was.
    ///
    /// # Errors
    ///
    /// Those of [`add_sender`](Mom::add_sender); the senders behind that one aren't added.
    pub async fn set_senders(&mut self, senders: impl IntoIterator<Item = Sender>) -> Result<()> {
        let senders: Vec<Sender> = senders.into_iter().collect();
        let stays = |name: &Name| senders.iter().any(|sender| sender.name == *name);
        self.senders.retain(|name, _| stays(name));
        self.settings.senders.retain(|sender| stays(&sender.name));
        for sender in senders {
            if !self.settings.senders.contains(&sender) || !self.senders.contains_key(&sender.name)
            {
                self.add_sender(sender).await?;
            }
        }
        Ok(())
    }

    /// Has these receivers and no others, with the [callbacks](OpenMom::callback) that they name. The others end as if they
    /// were [cancelled](Mom::cancel_receivers), and one that stays is as it was, unless it has ended: then it is opened again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a callback that isn't known; nothing has changed then. Those of opening a receiver; the
    /// receivers behind that one aren't opened. What the first one ended with that was cancelled; all is as it was asked for
    /// then.
    pub async fn set_receivers(
        &mut self,
        receivers: impl IntoIterator<Item = Receiver>,
    ) -> Result<()> {
        let mut opening = Vec::new();
        for receiver in receivers {
            let router = match &receiver.callback {
                None => None,
                Some(name) => match self.callbacks.get(name) {
                    Some(router) => Some(router.clone()),
                    None => return Err(unknown("callback", name, self.callbacks.keys())),
                },
            };
            opening.push((receiver, router));
        }
        let left: Vec<Name> = self
            .receivers
            .keys()
            .filter(|name| !opening.iter().any(|(receiver, _)| receiver.name == **name))
            .cloned()
            .collect();
        let left = left.iter().filter_map(|name| self.receivers.remove(name));
        // The task of one that has ended has logged with what.
        let left = left.filter(|receiving| !receiving.has_ended());
        let cancelled = cancel_all(left.collect()).await;
        for (receiver, router) in opening {
            let receiving = self.receivers.get(&receiver.name);
            let stays = self.settings.receivers.contains(&receiver)
                && receiving.is_some_and(|receiving| !receiving.has_ended());
            if !stays {
                self.open_receiver(&receiver.name, router).await?;
                self.note(receiver);
            }
        }
        cancelled
    }

    fn note(&mut self, receiver: Receiver) {
        let known = &mut self.settings.receivers;
        known.retain(|known| known.name != receiver.name);
        known.push(receiver);
    }

    /// Adds a receiver, whose messages are [fetched](Mom::receive): its queue is declared, and gets what is sent from now on.
    /// One of that name stays as it is.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::consumer`].
    pub async fn add_receiver(&mut self, name: impl Into<Name>) -> Result<()> {
        let name = name.into();
        if !self.receivers.contains_key(&name) {
            self.open_receiver(&name, None).await?;
            let callback = None;
            self.note(Receiver { name, callback });
        }
        Ok(())
    }

    /// Has a [handler](crate::handler) run for each message of a receiver, from now on, those that wait
    /// included. A message that it can't be called with, or with which it fails in a
    /// [critical](crate::call::Failure::critical) way, is held until the receiver ends, and goes back then; 66 of them end
    /// it. [`Outcome::Reject`](crate::handler::Outcome::Reject) sends one to the queue's dead-letter exchange, which a policy
    /// of the broker may set, or discards it. One with which it fails otherwise comes again, for as long as it fails, after
    /// pauses that grow to 5 min. Without [`safe`](Settings::safe), each is tried once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a handler that takes the [`Delivery`] where nothing is [`safe`](Settings::safe), and those of
    /// [`Connection::consumer`]. The receiver goes on as it was.
    pub async fn on_receive<H, Arguments>(
        &mut self,
        name: impl Into<Name>,
        handler: H,
    ) -> Result<()>
    where
        H: Handler<Arguments, ()>,
        Arguments: 'static,
    {
        let (name, router) = (name.into(), Router::new().fallback(handler));
        self.open_receiver(&name, Some(router)).await?;
        // It isn't as the settings have it any more.
        self.settings.receivers.retain(|known| known.name != name);
        Ok(())
    }

    async fn open_receiver(&mut self, name: &Name, router: Option<Router>) -> Result<()> {
        // A queue of its own would go with the consumer that it has had.
        let queue = self.settings.queue(name);
        let queue = match self.receivers.get(name) {
            Some(receiving) => queue.with_name(receiving.queue()),
            None => crate::client::named(&queue),
        };
        let receiving = match router {
            None => {
                let consumer = self.connection.consumer(&queue);
                let consumer = consumer.prefetch(1).no_ack(!self.settings.safe).await?;
                Receiving::ByHand {
                    queue: queue.name().clone(),
                    consumer: Box::new(consumer),
                }
            }
            Some(router) => {
                let (connection, safe) = (&self.connection, self.settings.safe);
                let callback = Callback::open(connection, name, &queue, router, safe).await?;
                Receiving::Callback {
                    queue: queue.name().clone(),
                    callback,
                }
            }
        };
        // Not before its follower is there: the queue may go with its last consumer.
        if let Some(before) = self.receivers.insert(name.clone(), receiving)
            && let Err(error) = before.cancel().await
        {
            tracing::warn!(receiver = %name, %error, "what received before did not end in an orderly way");
        }
        Ok(())
    }

    /// Has a receiver get what a sender sends with this key, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for names that aren't known, and those of [`Connection::bind_queue`].
    pub async fn bind(&self, receiver: &str, sender: &str, key: impl Into<Name>) -> Result<()> {
        let exchange = self.sender(sender)?;
        let Some(receiving) = self.receivers.get(receiver) else {
            return Err(unknown("receiver", receiver, self.receivers.keys()));
        };
        let binding = Binding::new(exchange, key);
        self.connection
            .bind_queue(receiving.queue(), &binding)
            .await
    }

    fn sender(&self, name: &str) -> Result<&Exchange> {
        let sender = self.senders.get(name);
        sender.ok_or_else(|| unknown("sender", name, self.senders.keys()))
    }

    /// Sends a message with this key to all senders, or to [one](Outgoing::sender). Await it.
    pub fn send<'a, T: Serialize + ?Sized>(
        &'a self,
        message: &'a T,
        key: impl Into<Name>,
    ) -> Outgoing<'a, T> {
        Outgoing {
            mom: self,
            publish: self.producer.publish(message),
            key: key.into(),
            sender: None,
            timeout: self.settings.out_timeout,
        }
    }

    /// The next message of a receiver, waited for until the timeout; zero takes only what has come, and `None` waits for as
    /// long as the settings say. It has to be acknowledged, unless the settings say that nothing is
    /// ([`safe`](Settings::safe)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] for a name that isn't known; [`ErrorKind::PreconditionFailed`] for a receiver with a
    /// callback, and once that has ended, what ended it, or [`ErrorKind::Closed`]; and what ended its consumer.
    pub async fn receive(
        &mut self,
        receiver: &str,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Option<Delivery>> {
        let timeout = timeout.into().unwrap_or(self.settings.in_timeout);
        match self.receivers.get_mut(receiver) {
            Some(Receiving::ByHand { consumer, .. }) => consumer.receive(timeout).await,
            Some(Receiving::Callback { callback, .. }) => {
                let ended = callback.ended(receiver).await;
                Err(ended.unwrap_or_else(|| {
                    let message =
                        format!("receiver `{receiver}` has a callback, which gets its messages");
                    Error::new(ErrorKind::PreconditionFailed, message)
                }))
            }
            None => Err(unknown("receiver", receiver, self.receivers.keys())),
        }
    }

    /// Forgets senders; names that aren't known are passed over. Their exchanges stay.
    pub fn cancel_senders<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        for name in names {
            self.senders.remove(name);
            self.settings.senders.retain(|sender| sender.name != name);
        }
    }

    /// Forgets all senders.
    pub fn cancel_all_senders(&mut self) {
        self.senders.clear();
        self.settings.senders.clear();
    }

    /// Ends receivers; names that aren't known are passed over. Callbacks have 30 s to finish what they have begun
    /// with, and shared queues stay.
    ///
    /// # Errors
    ///
    /// What the first one ended with; the others are ended all the same.
    pub async fn cancel_receivers<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let left = names.into_iter();
        let left = left.filter_map(|name| self.receivers.remove(name));
        cancel_all(left.collect()).await
    }

    /// Ends all receivers.
    ///
    /// # Errors
    ///
    /// As [`cancel_receivers`](Mom::cancel_receivers).
    pub async fn cancel_all_receivers(&mut self) -> Result<()> {
        let left = std::mem::take(&mut self.receivers);
        cancel_all(left.into_values().collect()).await
    }

    /// Ends all receivers, and closes the connection.
    ///
    /// # Errors
    ///
    /// As [`cancel_receivers`](Mom::cancel_receivers) and [`Connection::close`].
    pub async fn close(mut self) -> Result<()> {
        let cancelled = self.cancel_all_receivers().await;
        self.connection.close().await?;
        cancelled
    }
}

impl Drop for Mom {
    fn drop(&mut self) {
        for receiving in self.receivers.values() {
            if let Receiving::Callback { callback, .. } = receiving
                && let Some(task) = &callback.task
            {
                task.abort();
            }
        }
    }
}

fn unknown<'a, N: fmt::Display + 'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a N>,
) -> Error {
    let known: Vec<String> = known.map(N::to_string).collect();
    let known = match known.as_slice() {
        [] => "there is none".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    };
    Error::new(
        ErrorKind::NotFound,
        format!("no {what} is called `{name}`; {known}"),
    )
}

impl fmt::Debug for Mom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mom")
            .field("connection", &self.connection)
            .field("senders", &self.senders.keys())
            .field("receivers", &self.receivers.keys())
            .finish_non_exhaustive()
    }
}

/// A message to be sent: awaiting it sends it, and resolves to what became of it for each sender, by name.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] for a sender that isn't known. What one sender can't send is an error of its own, and the others
/// send it: [`ErrorKind::Timeout`] for those that had no answer in time, whose messages may be sent all the same
/// ([`may_have_been_stored`](Error::may_have_been_stored)).
#[must_use = "nothing is sent until this is awaited"]
pub struct Outgoing<'a, T: ?Sized> {
    mom: &'a Mom,
    publish: Publish<'a, Value<'a, T>>,
    key: Name,
    sender: Option<Name>,
    timeout: Duration,
}

impl<T: Serialize + ?Sized> Outgoing<'_, T> {
    /// To this sender alone, by name or as a [`Sender`].
    pub fn sender(mut self, name: impl Into<Name>) -> Self {
        self.sender = Some(name.into());
        self
    }

    /// The serializer, by name. Default: `json`.
    pub fn serializer(mut self, name: &str) -> Self {
        self.publish = self.publish.serializer(name);
        self
    }

    /// The compression, by name. Default: none.
    pub fn compression(mut self, name: &str) -> Self {
        self.publish = self.publish.compression(name);
        self
    }

    /// The content type, in place of the serializer's.
    pub fn content_type(mut self, value: impl Into<Name>) -> Self {
        self.publish = self.publish.content_type(value);
        self
    }

    /// The content encoding, in place of the serializer's.
    pub fn content_encoding(mut self, value: impl Into<Name>) -> Self {
        self.publish = self.publish.content_encoding(value);
        self
    }

    /// How long it may take. Default: what the settings say.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What became of a message for each sender, by name.
type Sent = Vec<(Name, Result<Published>)>;

impl<'a, T: Serialize + ?Sized> IntoFuture for Outgoing<'a, T> {
    type Output = Result<Sent>;
    type IntoFuture = BoxFuture<'static, Result<Sent>>;

    fn into_future(self) -> Self::IntoFuture {
        let Outgoing {
            mom,
            publish,
            key,
            sender,
            timeout,
        } = self;
        let exchanges: Result<Vec<Exchange>> = match &sender {
            Some(name) => mom.sender(name).map(|exchange| vec![exchange.clone()]),
            None => Ok(mom.senders.values().cloned().collect()),
        };
        let started = exchanges.map(|exchanges| {
            let pairs = exchanges.iter().map(|exchange| (exchange, &key));
            let publish: Publish<'_, _, Destinations> = publish.destinations(pairs);
            let names: Vec<Name> = exchanges.iter().map(|one| one.name().clone()).collect();
            (names, publish.into_future())
        });
        Box::pin(async move {
            let (names, publishing) = started?;
            check_runtime().map_err(|error| error.during("send"))?;
            let late = || {
                let message = format!("no answer within {timeout:?}");
                let error = Error::new(ErrorKind::Timeout, message);
                error.with_maybe_stored().during("send")
            };
            let answers = publishing.until(deadline(timeout), late).await;
            Ok(names.into_iter().zip(answers).collect())
        })
    }
}

impl<T: ?Sized> fmt::Debug for Outgoing<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("key", &self.key)
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}

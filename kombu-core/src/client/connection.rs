use std::fmt;
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use kombu_serializers::{self as serializers, Accept};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::declare::{Binding, DeclareMode, Exchange, Queue};
use crate::driver::{
    BoxFuture, BrokerInfo, Capabilities, DeleteQueue, Destination, QueueInfo, Target,
};
use crate::engine::{self, Events, Health, Session, by};
use crate::error::{Error, ErrorKind, Result};
use crate::layers;
use crate::name::Name;

use crate::call::SharedLine;

use super::builder::Sizes;
use super::delivery::UndecodablePolicy;
use super::delivery::{Link, LinkQueue};
use super::drain::Open;
use super::getting;
use super::indexed::Indexed;
use super::intercept::Interceptors;
use super::put_off::Later;
use super::recorded::{Consuming, Deletion, Recorded, is_refusal};
use super::topology::{self, Step};
use super::{ConnectionBuilder, Delivery, OpenConsumer, OpenProducer, Queues, Registry};

/// A connection to a broker; a clone is another handle to the same one.
///
/// # Drop
///
/// Producers, consumers and deliveries keep the connection open. When the last of them is gone, the session
/// ends and what is unsettled goes back to its queues, but nothing is flushed for certain: call
/// [`close`](Connection::close) for that.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Arc<engine::Shared>,
    recorded: Arc<Recorded>,
    pub(crate) serializers: serializers::Registry,
    pub(super) capabilities: Capabilities,
    pub(super) max_message_size: usize,
    pub(crate) max_decompressed_size: usize,
    pub(crate) declare_mode: DeclareMode,
    pub(super) open: Open,
    pub(crate) interceptors: Interceptors,
    /// Random: tells what this connection publishes from what others do.
    pub(super) origin: u32,
    producers: AtomicU32,
    target: Target,
    pub(super) later: Later,
    /// Of its callers.
    pub(crate) line: SharedLine,
}

impl Inner {
    /// Names another producer: the origin, and a number.
    pub(super) fn next_producer(&self) -> u64 {
        let number = self.producers.fetch_add(1, Ordering::Relaxed);
        u64::from(self.origin) << 32 | u64::from(number)
    }
}

impl Connection {
    /// Starts building a connection with the transports of this registry.
    pub fn builder(registry: Registry) -> ConnectionBuilder {
        ConnectionBuilder::new(registry)
    }

    pub(super) fn new(
        engine: Arc<engine::Shared>,
        session: &Session,
        target: Target,
        serializers: serializers::Registry,
        sizes: Sizes,
        declare_mode: DeclareMode,
        interceptors: Interceptors,
    ) -> Self {
        let capabilities = session.driver.capabilities();
        let recorded = Recorded::start(&engine);
        let later = Later::start(&engine);
        // Before any producer: what they publish to has to be there first.
        let weak = Arc::downgrade(&recorded);
        engine.register(weak);
        let limit = sizes
            .message
            .unwrap_or(Capabilities::DEFAULT_MAX_MESSAGE_SIZE);
        Connection {
            inner: Arc::new(Inner {
                engine,
                recorded,
                serializers,
                capabilities,
                max_message_size: limit.min(capabilities.max_message_size()),
                max_decompressed_size: sizes.decompressed,
                declare_mode,
                open: Open::default(),
                interceptors,
                origin: fastrand::u32(..),
                producers: AtomicU32::new(0),
                target,
                later,
                line: SharedLine::default(),
            }),
        }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// When an operation that begins now has to be over.
    pub(crate) fn deadline(&self) -> Instant {
        engine::deadline(self.inner.engine.deadlines.declare)
    }

    /// Does work that waits for a session, or for somebody else who does.
    pub(crate) async fn connected_by<T>(
        &self,
        end: Instant,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = self.inner.engine.deadlines.declare;
        let late = || {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "no answer within {limit:?}: waiting for a connection, or for the broker's answer"
                ),
            )
        };
        by(end, work, late).await
    }

    /// Runs an operation on the present session, and on the next one if that is lost meanwhile, until its
    /// deadline.
    pub(super) async fn control<T, F>(
        &self,
        operation: &'static str,
        work: impl Fn(Arc<Session>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.control_until(self.deadline(), operation, work).await
    }

    /// The same for one part of several, which have one [`deadline`](Self::deadline) together.
    pub(super) async fn control_until<T, F>(
        &self,
        end: Instant,
        operation: &'static str,
        work: impl Fn(Arc<Session>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let engine = &self.inner.engine;
        let limit = engine.deadlines.declare;
        let waits_for_session = AtomicBool::new(true);
        let attempts = async {
            let mut session = engine.session().await?;
            let mut after_a_loss = None;
            loop {
                waits_for_session.store(false, Ordering::Relaxed);
                match engine.while_up(&session, work(session.clone())).await {
                    Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                        waits_for_session.store(true, Ordering::Relaxed);
                        session = engine.session_after(&session).await?;
                        after_a_loss.get_or_insert_with(|| engine.backoff());
                    }
                    // The broker may have done it on the lost session, and takes that for another one's.
                    Err(error) if error.kind() == ErrorKind::ResourceLocked => {
                        let Some(backoff) = &mut after_a_loss else {
                            return Err(error);
                        };
                        sleep(backoff.pause()).await;
                    }
                    answer => return answer,
                }
            }
        };
        let late = || {
            let phase = match waits_for_session.load(Ordering::Relaxed) {
                true => "waiting for a connection",
                false => "waiting for the broker's answer",
            };
            Error::new(
                ErrorKind::Timeout,
                format!("no answer within {limit:?}: {phase}"),
            )
        };
        let answer = engine::by(end, attempts, late).await;
        answer.map_err(|error| error.during(operation))
    }

    /// What happens to the connection from now on.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// let connection = kombu::connect("memory://").await?;
    /// let mut events = connection.events();
    /// tokio::spawn(async move {
    ///     while let Some(event) = events.next().await {
    ///         println!("{event:?}");
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> Events {
        Events::new(self.inner.engine.events())
    }

    /// How the connection is doing.
    pub fn health(&self) -> Health {
        self.inner.engine.health()
    }

    /// Where it connects to: the first of its URLs, completed as its transport does. A password doesn't show when this is
    /// printed.
    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// What this broker can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// The serializers of this connection. One that is registered here later is found by producers and
    /// consumers that are opened afterwards, and by consumers that are open, by content type.
    pub fn serializers(&self) -> &serializers::Registry {
        &self.inner.serializers
    }

    /// Opens a producer for an exchange, and declares that. `Exchange::default()` is the default exchange, which
    /// routes to the queue named by the routing key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let media = Exchange::topic("media");
    /// let videos = Queue::new("videos").bind(&media, "video.#");
    /// let connection = kombu::connect("memory://").await?;
    /// connection.declare_queue(&videos).await?;
    ///
    /// let producer = connection.producer(&media).serializer("msgpack").await?;
    /// let published = producer.publish(&("lolcat1.avi", 1_301_013)).routing_key("video.new").await?;
    /// assert!(published.routed);
    /// # connection.close().await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When awaited: those of [`declare_exchange`](Connection::declare_exchange), and
    /// [`ErrorKind::UnknownSerializer`].
    pub fn producer(&self, exchange: impl Into<Exchange>) -> OpenProducer {
        OpenProducer::new(self.clone(), exchange.into())
    }

    /// Opens a consumer of one queue or several, and declares them with their exchanges and bindings.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let (urgent, normal) = (Queue::new("urgent"), Queue::new("normal"));
    /// let mut consumer = connection.consumer([&urgent, &normal]).prefetch(10).await?;
    ///
    /// let producer = connection.producer(Exchange::default()).await?;
    /// producer.publish(&"now").routing_key("urgent").await?;
    /// while let Some(delivery) = consumer.try_next().await? {
    ///     let (text, delivery) = delivery.take::<String>()?;
    ///     assert_eq!((text.as_str(), delivery.queue().as_str()), ("now", "urgent"));
    ///     delivery.ack().await?;
    ///     break;
    /// }
    /// # connection.close().await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When awaited: those of [`declare_queue`](Connection::declare_queue), and
    /// [`ErrorKind::UnknownSerializer`] for a name on the accept list.
    pub fn consumer(&self, queues: impl Queues) -> OpenConsumer {
        OpenConsumer::new(self.clone(), queues.into_queues())
    }

    /// Takes one message from a queue if it has one. Nothing is declared.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such queue.
    pub async fn get(&self, queue: impl Into<Name>) -> Result<Option<Delivery>> {
        let queue = &checked(queue, "get")?;
        let runtime = &self.inner.engine.runtime;
        let (session, taken) = self
            .control("get", |session| async move {
                let taken = getting::get(runtime, session.clone(), queue.clone()).await?;
                Ok((session, taken))
            })
            .await?;
        let Some((raw, settler)) = taken else {
            return Ok(None);
        };
        let link = Link {
            settler,
            queues: Indexed::from_iter([(
                0,
                LinkQueue {
                    name: queue.clone(),
                    dead_letters: false,
                },
            )]),
            serializers: self.inner.serializers.clone(),
            accept: Accept::all(),
            no_ack: false,
            held: None,
            deliveries: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            interceptors: self.inner.interceptors.clone(),
            undecodable: UndecodablePolicy::default(),
            processing: None,
            replying: OnceCell::new(),
            session,
            connection: self.clone(),
        };
        let link = Arc::new(link);
        self.inner.open.add_link(&link);
        let mut delivery = Delivery::new(raw, link);
        tracing::debug!(?delivery, "received");
        if !self.inner.interceptors.is_empty() {
            let intercepted = delivery.intercepted().await;
            if let Err(error) = delivery.replace(intercepted) {
                return Err(error.with_delivery(delivery).during("get"));
            }
        }
        Ok(Some(delivery))
    }

    /// Declares an exchange, and the exchanges that it is bound to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PreconditionFailed`] if it is there with other attributes (the error names the first that
    /// differs), [`ErrorKind::AccessRefused`] for reserved names, [`ErrorKind::InvalidName`],
    /// [`ErrorKind::Unsupported`], and for a passive declaration [`ErrorKind::NotFound`].
    pub async fn declare_exchange(&self, exchange: &Exchange) -> Result<()> {
        let result = if exchange.is_default() {
            Err(Error::new(
                ErrorKind::AccessRefused,
                "the default exchange belongs to the broker and can't be declared; use it as it is",
            ))
        } else {
            let end = self.deadline();
            self.ensure_exchanges([exchange], DeclareMode::Ensure, end)
                .await
        };
        result.map_err(|error| error.during("declare exchange"))
    }

    /// Declares exchanges, except the default one; `mode` is for declarations that don't say otherwise themselves.
    pub(crate) async fn ensure_exchanges<'a>(
        &self,
        exchanges: impl IntoIterator<Item = &'a Exchange>,
        mode: DeclareMode,
        end: Instant,
    ) -> Result<()> {
        let steps = exchanges
            .into_iter()
            .flat_map(|exchange| topology::of_exchange(exchange, mode));
        self.declare(steps.collect(), end).await.map(drop)
    }

    /// Declares a queue with its exchanges and bindings, and answers what is in it.
    ///
    /// A queue without a name gets one, which the answer tells.
    ///
    /// # Errors
    ///
    /// As [`declare_exchange`](Connection::declare_exchange).
    pub async fn declare_queue(&self, queue: &Queue) -> Result<QueueInfo> {
        let queue = named(queue);
        let steps = topology::of_queue(&queue, DeclareMode::Ensure);
        match self.declare(steps, self.deadline()).await {
            Ok(Some(info)) => Ok(info),
            // `DeclareMode::Never`: nothing was asked yet.
            Ok(None) => self.queue_info(queue.name()).await,
            Err(error) => Err(error),
        }
        .map_err(|error| error.during("declare queue"))
    }

    /// Declares several queues: what can't be is refused before the first one is there.
    pub(super) async fn ensure_queues(
        &self,
        queues: &[Queue],
        mode: DeclareMode,
        end: Instant,
    ) -> Result<()> {
        let steps = queues
            .iter()
            .flat_map(|queue| topology::of_queue(queue, mode));
        self.declare(steps.collect(), end).await.map(drop)
    }

    /// Takes the steps one after the other, and answers what is in the last queue of them.
    async fn declare(&self, steps: Vec<Step<'_>>, end: Instant) -> Result<Option<QueueInfo>> {
        // All checks come first: a topology that can't be is refused before its first part is there.
        for step in &steps {
            match step {
                Step::Exchange(exchange, mode) => exchange.check_as(*mode)?,
                Step::Queue(queue, mode) => queue.check_as(*mode)?,
                Step::Bind(_, binding) => binding.check()?,
            }
            layers::check(&step.operation(), &self.inner.capabilities)?;
        }
        let mut info = None;
        let recorded = &self.inner.recorded;
        for step in &steps {
            let _declaring = match step {
                Step::Queue(queue, _) => Some(recorded.declaring(queue.name())),
                _ => None,
            };
            let declared = self
                .control_until(end, step.name(), |session| async move {
                    let driver = &session.driver;
                    Ok(match step {
                        Step::Exchange(exchange, mode) => {
                            driver.declare_exchange(exchange, *mode).await?;
                            None
                        }
                        Step::Queue(queue, mode) => {
                            // What is on its way to be deleted is asked for before.
                            recorded
                                .until_left(std::slice::from_ref(queue.name()))
                                .await;
                            Some(driver.declare_queue(queue, *mode).await?)
                        }
                        Step::Bind(destination, binding) => {
                            driver.bind(destination, binding).await?;
                            None
                        }
                    })
                })
                .await?;
            recorded.add(step);
            info = declared.or(info);
        }
        Ok(info)
    }

    /// Deletes an exchange and its bindings. One that is missing counts as deleted.
    ///
    /// Dropping the future doesn't undo what was sent: unless the broker refuses, the exchange isn't declared again
    /// after a lost session.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AccessRefused`] for the exchanges that every broker has.
    pub async fn delete_exchange(&self, name: impl Into<Name>) -> Result<()> {
        self.remove_exchange(name.into(), false).await
    }

    /// Deletes an exchange unless something is bound to it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PreconditionFailed`] if it has bindings.
    pub async fn delete_unused_exchange(&self, name: impl Into<Name>) -> Result<()> {
        self.remove_exchange(name.into(), true).await
    }

    async fn remove_exchange(&self, name: Name, if_unused: bool) -> Result<()> {
        let result = if name.is_empty() || name.starts_with("amq.") {
            Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "exchange `{name}` belongs to the broker and can't be deleted; delete your own ones"
                ),
            ))
        } else {
            let name = &name;
            let deletion = Deletion::Exchange(name);
            self.delete("delete exchange", &deletion, |session| async move {
                session.driver.delete_exchange(name, if_unused).await
            })
            .await
        };
        result.map_err(|error| error.during("delete exchange"))
    }

    /// Deletes a queue when awaited, and answers how many ready messages it had. One that is missing
    /// counts as deleted. Its consumers leave it, with [`Event::ConsumerCancelled`](crate::Event::ConsumerCancelled); those
    /// that have no other queue end with [`ErrorKind::ConsumerCancelled`].
    ///
    /// Dropping the future doesn't undo what was sent: unless the broker refuses, the queue isn't declared again
    /// after a lost session.
    pub fn delete_queue(&self, name: impl Into<Name>) -> QueueDeletion {
        QueueDeletion {
            connection: self.clone(),
            name: name.into(),
            options: DeleteQueue::default(),
        }
    }

    /// Removes the ready messages of a queue and answers how many they were. Unsettled ones stay.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`].
    pub async fn purge(&self, queue: impl Into<Name>) -> Result<u64> {
        let queue = &checked(queue, "purge")?;
        self.control("purge", |session| async move {
            session.driver.purge_queue(queue).await
        })
        .await
    }

    /// Counts the messages and consumers of a queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`].
    pub async fn queue_info(&self, queue: impl Into<Name>) -> Result<QueueInfo> {
        let queue = &checked(queue, "queue info")?;
        self.control("queue info", |session| async move {
            session.driver.queue_info(queue).await
        })
        .await
    }

    /// What the broker is, and what its clock says: for people who look for what is wrong.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// let connection = kombu::connect("memory://").await?;
    /// let broker = connection.broker_info().await?;
    /// assert!(broker.version.is_some_and(|version| version.starts_with("kombu ")));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] after [`Deadlines::declare`](crate::Deadlines::declare). What the broker doesn't tell, or not to this
    /// user, is no error.
    pub async fn broker_info(&self) -> Result<BrokerInfo> {
        self.control("broker info", |session| async move {
            session.driver.broker_info().await
        })
        .await
    }

    /// Binds a queue to an exchange while both are there. Consumers of the queue receive through it at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if either is missing, [`ErrorKind::AccessRefused`] for the default exchange.
    pub async fn bind_queue(&self, queue: impl Into<Name>, binding: &Binding) -> Result<()> {
        self.bind(Destination::Queue(queue.into()), binding).await
    }

    /// Binds an exchange to another one, so that what reaches the binding's exchange and matches flows on.
    ///
    /// # Errors
    ///
    /// As [`bind_queue`](Connection::bind_queue).
    pub async fn bind_exchange(&self, exchange: impl Into<Name>, binding: &Binding) -> Result<()> {
        self.bind(Destination::Exchange(exchange.into()), binding)
            .await
    }

    async fn bind(&self, destination: Destination, binding: &Binding) -> Result<()> {
        binding
            .check()
            .and_then(|()| check_destination(&destination))
            .map_err(|error| error.during("bind"))?;
        let to = &destination;
        self.control("bind", |session| async move {
            session.driver.bind(to, binding).await
        })
        .await?;
        self.inner.recorded.add(&Step::Bind(destination, binding));
        Ok(())
    }

    /// Removes a binding of a queue. One that is missing counts as removed.
    pub async fn unbind_queue(&self, queue: impl Into<Name>, binding: &Binding) -> Result<()> {
        self.unbind(Destination::Queue(queue.into()), binding).await
    }

    /// Removes a binding of an exchange. One that is missing counts as removed.
    pub async fn unbind_exchange(
        &self,
        exchange: impl Into<Name>,
        binding: &Binding,
    ) -> Result<()> {
        self.unbind(Destination::Exchange(exchange.into()), binding)
            .await
    }

    async fn unbind(&self, destination: Destination, binding: &Binding) -> Result<()> {
        binding
            .get_routing_key()
            .check_length("routing key")
            .and_then(|()| check_destination(&destination))
            .map_err(|error| error.during("unbind"))?;
        let from = &destination;
        let deletion = Deletion::Binding(from, binding);
        self.delete("unbind", &deletion, |session| async move {
            session.driver.unbind(from, binding).await
        })
        .await
    }

    /// A consumer receives from this queue, until what this answers is dropped.
    pub(super) fn consuming(&self, queue: &Name) -> Consuming {
        self.inner.recorded.consuming(queue)
    }

    /// Waits until the broker has deleted those of these queues that go with their last consumer, where that had no session on which
    /// the broker could have seen it leave.
    pub(super) async fn until_left(&self, queues: &[Name]) -> Result<()> {
        let inner = self.inner();
        let limit = inner.engine.deadlines.declare;
        let late = || {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "no answer within {limit:?}: waiting for a connection on which to delete what nobody consumes from; it is \
                     deleted as soon as there is one"
                ),
            )
        };
        let left = async {
            inner.recorded.until_left(queues).await;
            Ok(())
        };
        engine::by(engine::deadline(limit), left, late).await
    }

    /// Somebody deleted a queue: it isn't declared again.
    pub(crate) fn forget_queue(&self, name: &Name) {
        self.inner.recorded.take(&Deletion::Queue(name));
    }

    /// Deletes something, which won't be declared again whatever becomes of this; unless the broker refuses.
    async fn delete<T, F>(
        &self,
        operation: &'static str,
        deletion: &Deletion<'_>,
        work: impl Fn(Arc<Session>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let recorded = &self.inner.recorded;
        let taken = Mutex::new(Vec::new());
        let answer = self.control(operation, |session| {
            taken.lock().extend(recorded.take(deletion));
            work(session)
        });
        let answer = answer.await;
        if let Err(error) = &answer
            && is_refusal(error.kind())
        {
            recorded.put_back(taken.into_inner());
        }
        answer
    }

    /// Ends the connection for all of its handles: publishes that are under way are answered, queued settles
    /// are flushed, and what is unsettled goes back to its queues.
    ///
    /// Consumers end without an error; every later operation fails with [`ErrorKind::Closed`]. A second call does
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if the broker doesn't answer within [`Deadlines::settle`](crate::Deadlines::settle) (30 s
    /// unless set otherwise). The connection has ended then, too; what was unsettled goes back when the broker
    /// notices, and settles and publishes that were not answered may have been carried out.
    pub async fn close(&self) -> Result<()> {
        let engine = &self.inner.engine;
        let Some(session) = engine.end() else {
            return Ok(());
        };
        let limit = engine.deadlines.settle;
        let late = || {
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "no answer within {limit:?}: waiting for the broker to answer what was under way; the connection has \
                     ended without that"
                ),
            )
        };
        let closed = engine::by(engine::deadline(limit), session.driver.close(), late).await;
        // The supervisor waits as long as this does, and may be the first to give up.
        let closed = closed.and_then(|()| match session.is_abandoned() {
            true => Err(late()),
            false => Ok(()),
        });
        closed.map_err(|error| error.during("close"))
    }
}

/// A name that is short enough to be sent.
fn checked(name: impl Into<Name>, operation: &'static str) -> Result<Name> {
    let name = name.into();
    match name.check_length("name") {
        Ok(()) => Ok(name),
        Err(error) => Err(error.during(operation)),
    }
}

fn check_destination(destination: &Destination) -> Result<()> {
    let (Destination::Queue(name) | Destination::Exchange(name)) = destination;
    name.check_length("name")?;
    match destination {
        Destination::Exchange(name) if name.is_empty() => Err(Error::new(
            ErrorKind::AccessRefused,
            "the default exchange can't be bound; every queue is reachable through it by its name",
        )),
        _ => Ok(()),
    }
}

/// The queue itself, or with a fresh name if it has none.
///
/// Names are chosen on this side, on every transport: a queue that has to be declared again after a lost
/// session keeps its name, and AMQP lets nobody declare the names that its servers make (`amq.gen-…`).
pub(crate) fn named(queue: &Queue) -> Queue {
    let queue = queue.clone();
    if !queue.is_server_named() {
        return queue;
    }
    queue.with_name(Name::random("kombu.gen-"))
}

/// A queue to be deleted: awaiting it deletes.
#[derive(Debug)]
#[must_use = "the queue is deleted when this is awaited"]
pub struct QueueDeletion {
    connection: Connection,
    name: Name,
    options: DeleteQueue,
}

impl QueueDeletion {
    /// Only if it has no consumers; else [`ErrorKind::PreconditionFailed`].
    pub fn if_unused(mut self) -> Self {
        self.options.if_unused = true;
        self
    }

    /// Only if it has no ready messages; else [`ErrorKind::PreconditionFailed`].
    pub fn if_empty(mut self) -> Self {
        self.options.if_empty = true;
        self
    }
}

impl IntoFuture for QueueDeletion {
    type Output = Result<u64>;
    type IntoFuture = BoxFuture<'static, Result<u64>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (name, options) = (&checked(&self.name, "delete queue")?, self.options);
            let deletion = Deletion::Queue(name);
            self.connection
                .delete("delete queue", &deletion, |session| async move {
                    session.driver.delete_queue(name, options).await
                })
                .await
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection")
            .field(&format_args!("{}", self.inner.target))
            .finish()
    }
}

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use kombu_core::declare::{self, Binding, DeclareMode, Exchange, Queue, QueueType};
use kombu_core::driver::{
    BoxFuture, BrokerInfo, Caller, Capabilities, Connection, DeleteQueue, Destination, Notices,
    PastQueues, Publisher, QueueInfo, RawDelivery, Settle, SubscribeOptions, Subscription,
};
use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ExchangeBindOptions,
    ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Mutex as Slot;

use crate::caller::REPLY_TO;
use crate::error::{classify, settle_lost};
use crate::fields::{short, table_to};
use crate::greeting::Server;
use crate::ladder::{Ladder, remember};
use crate::lines::{CLOSED, Lines};
use crate::message::received;
use crate::publisher::AmqpPublisher;
use crate::settler::{AmqpSettler, Lane};
use crate::subscription::AmqpSubscription;
use crate::under_way::UnderWay;

/// How long the end of a session waits for the broker's answers.
const FLUSH: Duration = Duration::from_secs(5);

/// How many channels for gets are kept with nothing held on them.
const GETS: usize = 4;

const DELIVERY_LIMIT: &str = "x-delivery-limit";
/// The major version since which RabbitMQ drops a message that came back to a quorum queue 20 times, unless told
/// otherwise.
const LIMITS_DELIVERIES: u32 = 4;

/// One session with the broker.
pub(crate) struct Session(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) lines: Lines,
    capabilities: Capabilities,
    /// For declarations, one after the other. An error of the broker closes a channel; the next operation opens
    /// another one.
    control: Slot<Option<Channel>>,
    /// The same for what belongs to this connection, once the others have a connection of their own.
    own: Slot<Option<Channel>>,
    /// The same for what the broker may answer by closing the connection.
    expendable: Slot<Option<Channel>>,
    /// The same for looking at exchanges: no queue that doesn't answer holds that up.
    exchange_control: Slot<Option<Channel>>,
    /// For single gets, a channel for each queue: what the broker refuses at one costs nobody what came from another.
    gets: Slot<HashMap<Name, (Channel, Lane)>>,
    gotten: OnceLock<Arc<AmqpSettler>>,
    /// Exchanges that were there when this session looked.
    exchanges: Mutex<HashSet<Name>>,
    /// What this session has declared, or was told and has found.
    queues: Mutex<HashMap<Name, Arc<Queue>>>,
    settlers: Mutex<Vec<Weak<AmqpSettler>>>,
    pub(crate) under_way: UnderWay,
    pub(crate) ladder: Ladder,
    /// Where its tasks run, whoever calls from wherever.
    pub(crate) runtime: Handle,
    /// Somebody here doesn't want what is published here.
    marks_own: AtomicBool,
}

impl Session {
    pub(crate) fn open(lines: Lines, capabilities: Capabilities) -> Arc<dyn Connection> {
        Arc::new(Session(Arc::new(Shared {
            lines,
            capabilities,
            control: Slot::default(),
            own: Slot::default(),
            expendable: Slot::default(),
            exchange_control: Slot::default(),
            gets: Slot::default(),
            gotten: OnceLock::new(),
            exchanges: Mutex::default(),
            queues: Mutex::default(),
            settlers: Mutex::default(),
            under_way: UnderWay::default(),
            ladder: Ladder::default(),
            runtime: Handle::current(),
            marks_own: AtomicBool::new(false),
        })))
    }
}

impl Drop for Session {
    /// Its tasks hold what they share, and would wait for ever.
    fn drop(&mut self) {
        self.0.lines.end("nobody uses the session any more");
    }
}

/// Whom a declaration concerns.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Owner {
    Anybody,
    /// Only this connection may touch it.
    ThisConnection,
    /// Anybody, and the broker may close the connection instead of the channel to say no.
    AnybodyAtRisk,
    /// Anybody, and no queue is asked, which may not answer.
    AnybodyButQueues,
}

impl Shared {
    /// Runs one operation on the channel for declarations.
    ///
    /// The channel goes back only after success: one that the broker has closed, or whose answer nobody waited for,
    /// isn't used again.
    pub(crate) async fn control<T>(
        &self,
        owner: Owner,
        work: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T> {
        let slot = match owner {
            Owner::Anybody => &self.control,
            Owner::ThisConnection => &self.own,
            Owner::AnybodyAtRisk => &self.expendable,
            Owner::AnybodyButQueues => &self.exchange_control,
        };
        let mut slot = slot.lock().await;
        let channel = match (slot.take(), owner) {
            (Some(channel), _) if channel.status().connected() => channel,
            (_, Owner::Anybody | Owner::AnybodyButQueues) => self.lines.spare_channel().await?,
            (_, Owner::ThisConnection) => self.lines.channel().await?,
            (_, Owner::AnybodyAtRisk) => self.lines.expendable_channel().await?,
        };
        let answer = work(&channel).await.map_err(|error| self.refusal(error))?;
        *slot = Some(channel);
        Ok(answer)
    }

    /// Classifies what the broker answered on a channel, which it has closed with it.
    pub(crate) fn refusal(&self, error: lapin::Error) -> Error {
        if error.is_amqp_soft_error() {
            self.lines.refused();
        }
        let error = classify(error);
        if error.kind() == ErrorKind::ConnectionLost {
            // The next session is waited for, so this one has to be over.
            self.lines.end(error.message());
        }
        error
    }

    /// Whether only this connection may touch the queue.
    pub(crate) fn owner_of(&self, queue: &Name) -> Owner {
        let is_exclusive = |queue: Arc<Queue>| queue.is_exclusive();
        match self.declared(queue).is_some_and(is_exclusive) {
            true => Owner::ThisConnection,
            false => Owner::Anybody,
        }
    }

    fn owner_of_destination(&self, destination: &Destination) -> Owner {
        match destination {
            Destination::Queue(queue) => self.owner_of(queue),
            Destination::Exchange(_) => Owner::Anybody,
        }
    }

    /// Takes a queue that is there for what its user says. It may be one that says less than is known already.
    fn found(&self, queue: &Queue) {
        let mut queues = self.queues.lock();
        if queue.get_max_deliveries().is_some() || !queues.contains_key(queue.name()) {
            queues.insert(queue.name().clone(), Arc::new(queue.clone()));
        }
    }

    /// The queue as this session has declared it.
    pub(crate) fn declared(&self, queue: &Name) -> Option<Arc<Queue>> {
        self.queues.lock().get(queue).cloned()
    }

    /// A consumer of this queue has gone, and nothing has gone back.
    ///
    /// Where only one consumer is active at a time, RabbitMQ then makes another one the active one but sends it nothing
    /// until something else happens to the queue (3.10.8). Another consumer that comes is such a thing.
    pub(crate) async fn wake_next_consumer(&self, queue: &Name) {
        let is_single = |queue: Arc<Queue>| queue.is_single_active_consumer();
        if !self.declared(queue).is_some_and(is_single) {
            return;
        }
        let woken = async {
            if self.passive_queue(queue).await?.consumers == 0 {
                return Ok(());
            }
            let channel = self.lines.channel().await?;
            let woken = async {
                channel.basic_qos(1, BasicQosOptions::default()).await?;
                let options = BasicConsumeOptions::default();
                let queue = queue.as_str().into();
                channel
                    .basic_consume(queue, "kombu.wake".into(), options, FieldTable::default())
                    .await?;
                channel.close(200, "bye".into()).await
            };
            woken.await.map_err(|error| self.refusal(error))
        };
        if let Err(error) = woken.await {
            tracing::debug!(%error, %queue, "the next consumer may have to wait for the next message");
        }
    }

    pub(crate) fn mark_own_messages(&self) {
        self.marks_own.store(true, Ordering::Relaxed);
    }

    pub(crate) fn marks_own_messages(&self) -> bool {
        self.marks_own.load(Ordering::Relaxed)
    }

    /// Whether an exchange is there: publishing to one that isn't would cost a channel, and with it the confirms of
    /// everybody who publishes on it.
    pub(crate) async fn find_exchange(&self, name: &Name) -> Result<()> {
        if name.is_empty() || self.exchanges.lock().contains(name) {
            return Ok(());
        }
        self.passive_exchange(name).await?;
        remember(&mut self.exchanges.lock(), name);
        Ok(())
    }

    async fn passive_exchange(&self, name: &Name) -> Result<()> {
        let exchange = short(name)?;
        self.control(Owner::AnybodyButQueues, async |channel| {
            let options = ExchangeDeclareOptions {
                passive: true,
                ..ExchangeDeclareOptions::default()
            };
            channel
                .exchange_declare(
                    exchange,
                    ExchangeKind::Direct,
                    options,
                    FieldTable::default(),
                )
                .await
        })
        .await
    }

    pub(crate) fn forget_exchange(&self, name: &str) {
        self.exchanges.lock().remove(name);
    }

    pub(crate) async fn passive_queue(&self, name: &Name) -> Result<QueueInfo> {
        let queue = short(name)?;
        let found = self
            .control(self.owner_of(name), async |channel| {
                let options = QueueDeclareOptions {
                    passive: true,
                    ..QueueDeclareOptions::default()
                };
                channel
                    .queue_declare(queue, options, FieldTable::default())
                    .await
            })
            .await?;
        Ok(info(name, &found))
    }

    /// The arguments of a quorum queue that says nothing of a limit, where the broker would take that for a low one.
    fn without_limit(&self, queue: &Queue, arguments: &FieldTable) -> Option<FieldTable> {
        let is_unlimited = queue.get_queue_type() == Some(QueueType::Quorum)
            && !arguments.contains_key(DELIVERY_LIMIT);
        if !is_unlimited || self.lines.server().and_then(Server::major) < Some(LIMITS_DELIVERIES) {
            return None;
        }
        let mut arguments = arguments.clone();
        arguments.insert(DELIVERY_LIMIT.into(), AMQPValue::LongInt(-1));
        Some(arguments)
    }

    async fn declare_with(&self, queue: &Queue, arguments: FieldTable) -> Result<lapin::Queue> {
        let name = short(queue.name())?;
        let options = QueueDeclareOptions {
            durable: queue.is_durable(),
            exclusive: queue.is_exclusive(),
            auto_delete: queue.is_auto_delete(),
            ..QueueDeclareOptions::default()
        };
        let owner = match queue.is_exclusive() {
            true => Owner::ThisConnection,
            false => self.owner_of(queue.name()),
        };
        self.control(owner, async |channel| {
            channel.queue_declare(name, options, arguments).await
        })
        .await
    }

    pub(crate) fn add_settler(&self, settler: &Arc<AmqpSettler>) {
        let mut settlers = self.settlers.lock();
        settlers.retain(|settler| settler.strong_count() > 0);
        settlers.push(Arc::downgrade(settler));
    }

    /// The queue is gone; what was retried must not turn up in another one of its name.
    fn forget_queue(&self, name: &Name) {
        self.queues.lock().remove(name);
        let settlers = self.settlers.lock();
        for settler in settlers.iter().filter_map(Weak::upgrade) {
            settler.orphan(name);
        }
    }
}

/// Whether a queue is there with another limit, or with none.
fn is_about_limit(error: &Error) -> bool {
    error.kind() == ErrorKind::PreconditionFailed && error.message().contains(DELIVERY_LIMIT)
}

fn info(name: &Name, queue: &lapin::Queue) -> QueueInfo {
    QueueInfo::new(
        name.clone(),
        u64::from(queue.message_count()),
        None,
        u64::from(queue.consumer_count()),
    )
}

#[async_trait]
impl Connection for Session {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    async fn declare_exchange(&self, exchange: &Exchange, mode: DeclareMode) -> Result<()> {
        match mode {
            DeclareMode::Never => return Ok(()),
            DeclareMode::Verify => return self.0.passive_exchange(exchange.name()).await,
            DeclareMode::Ensure => {}
        }
        let name = short(exchange.name())?;
        let arguments = table_to(&exchange.arguments_table())?;
        let options = ExchangeDeclareOptions {
            durable: exchange.is_durable(),
            auto_delete: exchange.is_auto_delete(),
            internal: exchange.is_internal(),
            ..ExchangeDeclareOptions::default()
        };
        let kind = ExchangeKind::Custom(exchange.kind().as_str().to_owned());
        // RabbitMQ closes the connection over a kind that it doesn't have.
        let owner = match exchange.kind() {
            declare::ExchangeKind::Custom(_) => Owner::AnybodyAtRisk,
            _ => Owner::Anybody,
        };
        self.0
            .control(owner, async |channel| {
                channel
                    .exchange_declare(name, kind, options, arguments)
                    .await
            })
            .await
    }

    async fn delete_exchange(&self, name: &Name, if_unused: bool) -> Result<()> {
        self.0.forget_exchange(name);
        let exchange = short(name)?;
        let options = ExchangeDeleteOptions {
            if_unused,
            ..ExchangeDeleteOptions::default()
        };
        self.0
            .control(Owner::Anybody, async |channel| {
                channel.exchange_delete(exchange, options).await
            })
            .await
    }

    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo> {
        let name = queue.name();
        match mode {
            DeclareMode::Never | DeclareMode::Verify => {
                let found = self.0.passive_queue(name).await?;
                self.0.found(queue);
                return Ok(found);
            }
            DeclareMode::Ensure => {}
        }
        let arguments = table_to(&queue.arguments_table())?;
        let declared = match self.0.without_limit(queue, &arguments) {
            None => self.0.declare_with(queue, arguments).await?,
            Some(without_limit) => match self.0.declare_with(queue, without_limit).await {
                Err(error) if is_about_limit(&error) => {
                    let declared = self.0.declare_with(queue, arguments).await?;
                    tracing::warn!(
                        queue = %name,
                        "somebody declared this queue without `{DELIVERY_LIMIT}`, so that the broker drops what came back 20 \
                         times; delete and declare it, or set a policy"
                    );
                    declared
                }
                declared => declared?,
            },
        };
        let mut queues = self.0.queues.lock();
        queues.insert(name.clone(), Arc::new(queue.clone()));
        Ok(info(name, &declared))
    }

    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64> {
        let queue = short(name)?;
        // RabbitMQ closes the connection where the queue is a quorum queue, as others may have declared it.
        let owner = match self.0.owner_of(name) {
            Owner::Anybody if options.if_unused || options.if_empty => Owner::AnybodyAtRisk,
            owner => owner,
        };
        let options = QueueDeleteOptions {
            if_unused: options.if_unused,
            if_empty: options.if_empty,
            ..QueueDeleteOptions::default()
        };
        let messages = self
            .0
            .control(owner, async |channel| {
                channel.queue_delete(queue, options).await
            })
            .await?;
        self.0.forget_queue(name);
        self.0.ladder.forget(name).await;
        Ok(u64::from(messages))
    }

    async fn purge_queue(&self, name: &Name) -> Result<u64> {
        let queue = short(name)?;
        let messages = self
            .0
            .control(self.0.owner_of(name), async |channel| {
                channel
                    .queue_purge(queue, QueuePurgeOptions::default())
                    .await
            })
            .await?;
        Ok(u64::from(messages))
    }

    async fn bind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        let source = short(binding.exchange().name())?;
        let key = short(binding.get_routing_key())?;
        let arguments = table_to(binding.arguments())?;
        let owner = self.0.owner_of_destination(destination);
        self.0
            .control(owner, async |channel| match destination {
                Destination::Queue(queue) => {
                    let options = QueueBindOptions::default();
                    channel
                        .queue_bind(queue.as_str().into(), source, key, options, arguments)
                        .await
                }
                Destination::Exchange(exchange) => {
                    let options = ExchangeBindOptions::default();
                    channel
                        .exchange_bind(exchange.as_str().into(), source, key, options, arguments)
                        .await
                }
            })
            .await
    }

    async fn unbind(&self, destination: &Destination, binding: &Binding) -> Result<()> {
        let source = short(binding.exchange().name())?;
        let key = short(binding.get_routing_key())?;
        let arguments = table_to(binding.arguments())?;
        let owner = self.0.owner_of_destination(destination);
        self.0
            .control(owner, async |channel| match destination {
                Destination::Queue(queue) => {
                    channel
                        .queue_unbind(queue.as_str().into(), source, key, arguments)
                        .await
                }
                Destination::Exchange(exchange) => {
                    let options = ExchangeUnbindOptions::default();
                    channel
                        .exchange_unbind(exchange.as_str().into(), source, key, options, arguments)
                        .await
                }
            })
            .await
    }

    async fn queue_info(&self, name: &Name) -> Result<QueueInfo> {
        self.0.passive_queue(name).await
    }

    async fn broker_info(&self) -> Result<BrokerInfo> {
        let server = self.0.lines.server();
        Ok(BrokerInfo::new(server.map(Server::to_string), None))
    }

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(AmqpPublisher::open(self.0.clone()).await?))
    }

    /// Nothing is declared: the broker knows the way back by itself.
    async fn open_caller(&self, _: &Name) -> Result<Caller> {
        let (publisher, replies) = AmqpPublisher::calling(self.0.clone()).await?;
        Ok(Caller {
            publisher: Arc::new(publisher),
            reply_to: Name::from_static(REPLY_TO),
            replies: Box::new(PastQueues::new(replies)),
        })
    }

    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>> {
        let mut subscription = Box::new(AmqpSubscription::new(self.0.clone(), *options));
        for queue in queues {
            if let Err(error) = subscription.add(queue).await {
                subscription.cancel().await?;
                return Err(error);
            }
        }
        Ok(subscription)
    }

    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>> {
        // A get from a queue that isn't there would close the channel, and with it what others hold there.
        self.0.passive_queue(queue).await?;
        let name = short(queue)?;
        let settler = self.0.gotten.get_or_init(|| AmqpSettler::new(&self.0, 0));
        let mut gets = self.0.gets.lock().await;
        let (channel, lane) = match gets.remove(queue) {
            Some(open) if open.0.status().connected() => open,
            last => {
                if let Some((_, lane)) = last {
                    settler.lose(&lane);
                }
                if gets.len() >= GETS {
                    gets.retain(|_, (_, lane)| settler.holds(lane));
                }
                let channel = self.0.lines.channel().await?;
                let lane = Lane::open(self.0.clone(), channel.clone());
                (channel, lane)
            }
        };
        let got = channel.basic_get(name, BasicGetOptions::default()).await;
        let got = got.map_err(|error| {
            settler.lose(&lane);
            self.0.refusal(error)
        })?;
        gets.insert(queue.clone(), (channel, lane.clone()));
        let Some(message) = got else {
            return Ok(None);
        };
        let delivery = message.delivery;
        let (envelope, failures) = received(
            delivery.exchange.as_str(),
            delivery.routing_key.as_str(),
            &delivery.properties,
            delivery.data,
        );
        let tag = delivery.delivery_tag;
        if no_ack && !lane.forget(tag) {
            return Err(settle_lost());
        }
        let raw = RawDelivery {
            id: match no_ack {
                true => tag,
                false => settler.hold(&lane, tag, queue, &envelope, failures),
            },
            envelope,
            failures: failures.all(),
            queue: 0,
            redelivered: delivery.redelivered || failures.copied > 0,
            waited: Duration::ZERO,
        };
        Ok(Some((raw, settler.clone())))
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        self.0.lines.closed()
    }

    fn notices(&self) -> Notices {
        self.0.lines.notices()
    }

    /// lapin's own heartbeats find out that the broker is gone; what this asks for has to come back through it.
    async fn ping(&self) -> Result<()> {
        self.0.lines.check()?;
        self.0
            .passive_exchange(&Name::from_static("amq.direct"))
            .await
    }

    /// Consumers that have nothing to do would stay with this session once the broker speaks again.
    fn abandon(&self) {
        self.0.lines.end(CLOSED);
    }

    async fn close(&self) -> Result<()> {
        if self.0.lines.check().is_ok() {
            tokio::select! {
                biased;
                _ = self.0.lines.closed() => {}
                () = self.0.under_way.none() => {}
                () = tokio::time::sleep(FLUSH) => {}
            }
        }
        self.0.lines.close().await;
        Ok(())
    }
}

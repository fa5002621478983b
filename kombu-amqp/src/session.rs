use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use kombu_core::declare::{Binding, DeclareMode, Exchange, Queue, QueueType};
use kombu_core::driver::{
    BoxFuture, Capabilities, Connection, DeleteQueue, Destination, Notices, Publisher, QueueInfo,
    RawDelivery, Settle, SubscribeOptions, Subscription,
};
use kombu_core::{Error, Name, Result};
use lapin::options::{
    BasicGetOptions, ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
    ExchangeUnbindOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use parking_lot::Mutex;
use tokio::sync::Mutex as Slot;

use crate::error::classify;
use crate::fields::{short, table_to};
use crate::lines::Lines;
use crate::message::received;
use crate::publisher::AmqpPublisher;
use crate::settler::AmqpSettler;
use crate::subscription::AmqpSubscription;
use crate::under_way::UnderWay;

/// How long the end of a session waits for the broker's answers.
const FLUSH: Duration = Duration::from_secs(5);

/// One session with the broker.
pub(crate) struct Session(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) lines: Lines,
    capabilities: Capabilities,
    /// For declarations, one after the other. An error of the broker closes a channel; the next operation opens
    /// another one.
    control: Slot<Option<Channel>>,
    get: Slot<Option<(Channel, Arc<AmqpSettler>)>>,
    /// Exchanges that were there when this session looked.
    exchanges: Mutex<HashSet<Name>>,
    /// Whether a queue counts deliveries itself, for those that this session declared.
    quorum: Mutex<HashMap<Name, bool>>,
    settlers: Mutex<Vec<Weak<AmqpSettler>>>,
    pub(crate) under_way: UnderWay,
}

impl Session {
    pub(crate) fn open(lines: Lines, capabilities: Capabilities) -> Arc<dyn Connection> {
        Arc::new(Session(Arc::new(Shared {
            lines,
            capabilities,
            control: Slot::default(),
            get: Slot::default(),
            exchanges: Mutex::default(),
            quorum: Mutex::default(),
            settlers: Mutex::default(),
            under_way: UnderWay::default(),
        })))
    }
}

impl Shared {
    /// Runs one operation on the channel for declarations.
    ///
    /// The channel goes back only after success: one that the broker has closed, or whose answer nobody waited for,
    /// isn't used again.
    async fn control<T>(&self, work: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> Result<T> {
        let mut slot = self.control.lock().await;
        let channel = match slot.take() {
            Some(channel) => channel,
            None => self.lines.channel().await?,
        };
        let answer = work(&channel).await.map_err(classify)?;
        *slot = Some(channel);
        Ok(answer)
    }

    /// Whether an exchange is there: publishing to one that isn't would cost a channel, and with it the confirms of
    /// everybody who publishes on it.
    pub(crate) async fn find_exchange(&self, name: &Name) -> Result<()> {
        if name.is_empty() || self.exchanges.lock().contains(name) {
            return Ok(());
        }
        self.passive_exchange(name).await?;
        self.exchanges.lock().insert(name.clone());
        Ok(())
    }

    async fn passive_exchange(&self, name: &Name) -> Result<()> {
        let exchange = short(name)?;
        self.control(async |channel| {
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

    async fn passive_queue(&self, name: &Name) -> Result<QueueInfo> {
        let queue = short(name)?;
        let found = self
            .control(async |channel| {
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

    /// Whether the queue counts deliveries itself. Unknown ones don't.
    pub(crate) fn counts_deliveries(&self, queue: &Name) -> bool {
        self.quorum.lock().get(queue).copied().unwrap_or(false)
    }

    pub(crate) fn add_settler(&self, settler: &Arc<AmqpSettler>) {
        let mut settlers = self.settlers.lock();
        settlers.retain(|settler| settler.strong_count() > 0);
        settlers.push(Arc::downgrade(settler));
    }
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
        self.0
            .control(async |channel| {
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
            .control(async |channel| channel.exchange_delete(exchange, options).await)
            .await
    }

    async fn declare_queue(&self, queue: &Queue, mode: DeclareMode) -> Result<QueueInfo> {
        let name = queue.name();
        match mode {
            DeclareMode::Never | DeclareMode::Verify => return self.0.passive_queue(name).await,
            DeclareMode::Ensure => {}
        }
        let sent = short(name)?;
        let arguments = table_to(&queue.arguments_table())?;
        let options = QueueDeclareOptions {
            durable: queue.is_durable(),
            exclusive: queue.is_exclusive(),
            auto_delete: queue.is_auto_delete(),
            ..QueueDeclareOptions::default()
        };
        let declared = self
            .0
            .control(async |channel| channel.queue_declare(sent, options, arguments).await)
            .await?;
        let counts = queue.get_queue_type() == Some(QueueType::Quorum);
        self.0.quorum.lock().insert(name.clone(), counts);
        Ok(info(name, &declared))
    }

    async fn delete_queue(&self, name: &Name, options: DeleteQueue) -> Result<u64> {
        let queue = short(name)?;
        let options = QueueDeleteOptions {
            if_unused: options.if_unused,
            if_empty: options.if_empty,
            ..QueueDeleteOptions::default()
        };
        let messages = self
            .0
            .control(async |channel| channel.queue_delete(queue, options).await)
            .await?;
        Ok(u64::from(messages))
    }

    async fn purge_queue(&self, name: &Name) -> Result<u64> {
        let queue = short(name)?;
        let messages = self
            .0
            .control(async |channel| {
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
        self.0
            .control(async |channel| match destination {
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
        self.0
            .control(async |channel| match destination {
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

    async fn open_publisher(&self) -> Result<Arc<dyn Publisher>> {
        Ok(Arc::new(AmqpPublisher::open(self.0.clone()).await?))
    }

    async fn open_subscription(
        &self,
        queues: &[Name],
        options: &SubscribeOptions,
    ) -> Result<Box<dyn Subscription>> {
        let mut subscription = AmqpSubscription::open(self.0.clone(), *options).await?;
        for queue in queues {
            subscription.add(queue).await?;
        }
        Ok(Box::new(subscription))
    }

    async fn get(
        &self,
        queue: &Name,
        no_ack: bool,
    ) -> Result<Option<(RawDelivery, Arc<dyn Settle>)>> {
        // A get from a queue that isn't there would close the channel, and with it what others hold there.
        self.0.passive_queue(queue).await?;
        let name = short(queue)?;
        let mut slot = self.0.get.lock().await;
        let (channel, settler) = match slot.take() {
            Some(open) => open,
            None => {
                let channel = self.0.lines.channel().await?;
                let settler = AmqpSettler::open(self.0.clone(), channel.clone());
                (channel, settler)
            }
        };
        let got = channel
            .basic_get(name, BasicGetOptions { no_ack })
            .await
            .map_err(classify)?;
        *slot = Some((channel, settler.clone()));
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
        if !no_ack {
            settler.hold(delivery.delivery_tag, queue, &envelope, failures);
        }
        let raw = RawDelivery {
            envelope,
            id: delivery.delivery_tag,
            failures,
            queue: 0,
            redelivered: delivery.redelivered,
        };
        Ok(Some((raw, settler)))
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

    async fn close(&self) -> Result<()> {
        if self.0.lines.check().is_ok() {
            let settlers: Vec<_> = {
                let settlers = self.0.settlers.lock();
                settlers.iter().filter_map(Weak::upgrade).collect()
            };
            let flushed = async {
                for settler in settlers {
                    settler.flush().await;
                }
                self.0.under_way.none().await;
            };
            tokio::select! {
                biased;
                _ = self.0.lines.closed() => {}
                () = flushed => {}
                () = tokio::time::sleep(FLUSH) => {}
            }
        }
        self.0.lines.close().await;
        Ok(())
    }
}

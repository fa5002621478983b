use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::known::Known;
use super::{Binding, DeclareMode, Exchange, Overflow, QueueType, duration, is_default, is_true};
use crate::field::{FieldTable, FieldValue};
use crate::name::Name;

/// What keeps messages until a consumer has settled them.
///
/// By default it is durable, shared, and without limits. Each attribute that RabbitMQ takes as an
/// argument can be set by its setter or by [`argument`](Queue::argument) under RabbitMQ's name; both
/// give the same declaration, on every transport.
///
/// In files: `name`, `durable`, `exclusive`, `auto_delete`, `no_ack`, `alias`, `type` (`classic`,
/// `quorum`), `expires`, `message_ttl`, `max_length`, `max_length_bytes`, `overflow` (`drop-head`,
/// `reject-publish`), `max_priority`, `dead_letter_exchange`, `dead_letter_routing_key`,
/// `max_deliveries`, `single_active_consumer`, `declare` (`ensure`, `verify`, `never`), `arguments`,
/// `consumer_arguments`, `bindings`. An attribute wins over an argument that says the same.
///
/// ```
/// use kombu_core::declare::{Exchange, Queue};
/// use std::time::Duration;
///
/// let media = Exchange::topic("media");
/// let videos = Queue::new("videos")
///     .bind(&media, "video.#")
///     .message_ttl(Duration::from_secs(60))
///     .max_length(10_000);
///
/// assert!(videos.is_durable());
/// assert_eq!(videos.get_message_ttl(), Some(Duration::from_secs(60)));
/// assert_eq!(
///     Queue::new("videos").message_ttl(Duration::from_secs(60)),
///     Queue::new("videos").argument("x-message-ttl", 60_000),
/// );
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(transparent)]
pub struct Queue(pub(super) Attributes);

#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "queue")]
pub(super) struct Attributes {
    /// Default: its key in the file. Empty: the broker gives one.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) name: Name,
    /// Whether it survives a restart of the broker. Default: true.
    #[serde(skip_serializing_if = "is_true")]
    pub(super) durable: bool,
    /// Whether only the connection that declares it may use it. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) exclusive: bool,
    /// Whether it is deleted when its last consumer goes. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) auto_delete: bool,
    /// Whether messages count as settled when they are handed out. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) no_ack: bool,
    /// A name of the application's own; brokers never see it.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) alias: Option<Name>,
    /// How the broker keeps the messages.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    pub(super) queue_type: Option<QueueType>,
    /// How long the queue stays when nobody uses it. Default: for ever.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "is_default")]
    pub(super) expires: Option<Duration>,
    /// How long a message stays before it is dead-lettered or dropped. Default: for ever.
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Duration>"))]
    #[serde(with = "duration::option", skip_serializing_if = "is_default")]
    pub(super) message_ttl: Option<Duration>,
    /// How many messages may be ready at once. Default: no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) max_length: Option<u64>,
    /// How many bytes the bodies of ready messages may have together. Default: no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) max_length_bytes: Option<u64>,
    /// What happens to a message that a full queue has no room for. Default: the head is dropped.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) overflow: Option<Overflow>,
    /// The highest priority that makes a difference. Default: none does.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) max_priority: Option<u8>,
    /// Gets messages that are rejected, expire, overflow, or were delivered too often, by its name on the broker; `""` is the default exchange.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) dead_letter_exchange: Option<Name>,
    /// The routing key of messages that are dead-lettered. Default: their own.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) dead_letter_routing_key: Option<Name>,
    /// How often a message is handed out before it is dead-lettered. Default: no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) max_deliveries: Option<u32>,
    /// Whether only one of several consumers gets messages. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) single_active_consumer: bool,
    /// What a connection does about this declaration. Default: what the handle says.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) declare: Option<DeclareMode>,
    /// Arguments by the broker's names.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) arguments: FieldTable,
    /// Arguments for its consumers.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) consumer_arguments: FieldTable,
    /// Where its messages come from.
    #[serde(skip_serializing_if = "is_default")]
    pub(super) bindings: Vec<Binding>,
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            name: Name::EMPTY,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_ack: false,
            alias: None,
            queue_type: None,
            expires: None,
            message_ttl: None,
            max_length: None,
            max_length_bytes: None,
            overflow: None,
            max_priority: None,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
            max_deliveries: None,
            single_active_consumer: false,
            declare: None,
            arguments: FieldTable::new(),
            consumer_arguments: FieldTable::new(),
            bindings: Vec::new(),
        }
    }
}

impl Queue {
    /// A durable, shared queue of this name.
    pub fn new(name: impl Into<Name>) -> Self {
        Queue(Attributes {
            name: name.into(),
            ..Attributes::default()
        })
    }

    /// A queue that gets a fresh name when it is declared; the same as `Queue::new("")`.
    ///
    /// ```
    /// use kombu_core::declare::Queue;
    ///
    /// let answers = Queue::server_named().exclusive(true);
    /// assert!(answers.is_server_named());
    /// ```
    pub fn server_named() -> Self {
        Queue::default()
    }

    /// A queue that gets its own copy of everything that is published to a fanout exchange: fresh for each one who consumes,
    /// and gone when it isn't consumed any more, or with its connection. Python's `kombu.common.Broadcast`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let news = Queue::broadcast("news");
    /// let mut here = connection.consumer(&news).await?;
    /// let mut there = connection.consumer(&news).await?;
    ///
    /// let producer = connection.producer(Exchange::fanout("news")).await?;
    /// producer.publish("it rains").await?;
    /// for consumer in [&mut here, &mut there] {
    ///     let delivery = consumer.try_next().await?.expect("the news");
    ///     assert_eq!(delivery.decode::<String>()?, "it rains");
    ///     delivery.ack().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn broadcast(exchange: impl Into<Name>) -> Self {
        let exchange = Exchange::fanout(exchange);
        let queue = Queue::server_named().durable(false).exclusive(true);
        queue.alias(exchange.name().clone()).bind(exchange, "")
    }

    /// The same with another name, for example the one that the broker gave.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Name>) -> Self {
        self.0.name = name.into();
        self
    }

    /// Whether it survives a restart of the broker; true by default.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.0.durable = durable;
        self
    }

    /// Whether only the connection that declares it may use it; false by default.
    ///
    /// It goes with its connection, and, as in kombu, with its last consumer: an exclusive queue is
    /// always [`auto_delete`](Queue::auto_delete), too.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.0.exclusive = exclusive;
        self.0.settle_implied();
        self
    }

    /// Whether it is deleted when its last consumer goes; false by default. One that never had a
    /// consumer stays.
    #[must_use]
    pub fn auto_delete(mut self, auto_delete: bool) -> Self {
        self.0.auto_delete = auto_delete;
        self.0.settle_implied();
        self
    }

    /// Whether messages of this queue count as settled when they are handed out to a consumer; false by
    /// default. A consumer can say otherwise.
    #[must_use]
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.0.no_ack = no_ack;
        self
    }

    /// A name of the application's own, for example for a queue that the broker names; brokers never
    /// see it.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<Name>) -> Self {
        self.0.alias = Some(alias.into());
        self
    }

    /// How the broker keeps the messages (RabbitMQ: `x-queue-type`). By default the virtual host
    /// decides.
    #[must_use]
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.0.instead_of_argument(Known::QueueType).queue_type = Some(queue_type);
        self
    }

    /// A classic queue: [`QueueType::Classic`].
    #[must_use]
    pub fn classic(self) -> Self {
        self.queue_type(QueueType::Classic)
    }

    /// A quorum queue: [`QueueType::Quorum`]. It has to be durable and shared, and has no priorities.
    ///
    /// Without [`max_deliveries`](Queue::max_deliveries) a message may come back as often as it does. RabbitMQ 4 has to be asked for
    /// that, so there the queue has the argument `x-delivery-limit` -1, which other programs have to declare too.
    #[must_use]
    pub fn quorum(self) -> Self {
        self.queue_type(QueueType::Quorum)
    }

    /// How long the queue stays when nobody uses it (RabbitMQ: `x-expires`, in milliseconds). By default
    /// for ever. What is below a millisecond is rounded up.
    #[must_use]
    pub fn expires(mut self, expires: Duration) -> Self {
        self.0.instead_of_argument(Known::Expires).expires = Some(whole(expires));
        self
    }

    /// How long a message stays before it is dead-lettered or dropped (RabbitMQ: `x-message-ttl`, in
    /// milliseconds). By default for ever. What is below a millisecond is rounded up.
    #[must_use]
    pub fn message_ttl(mut self, ttl: Duration) -> Self {
        self.0.instead_of_argument(Known::MessageTtl).message_ttl = Some(whole(ttl));
        self
    }

    /// How many messages may be ready at once (RabbitMQ: `x-max-length`). No limit by default.
    #[must_use]
    pub fn max_length(mut self, messages: u64) -> Self {
        self.0.instead_of_argument(Known::MaxLength).max_length = Some(messages);
        self
    }

    /// How many bytes the bodies of ready messages may have together (RabbitMQ: `x-max-length-bytes`).
    /// No limit by default.
    #[must_use]
    pub fn max_length_bytes(mut self, bytes: u64) -> Self {
        self.0
            .instead_of_argument(Known::MaxLengthBytes)
            .max_length_bytes = Some(bytes);
        self
    }

    /// What happens to a message that a full queue has no room for (RabbitMQ: `x-overflow`). Without it,
    /// the head is dropped.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.0.instead_of_argument(Known::Overflow).overflow = Some(overflow);
        self
    }

    /// The highest priority that makes a difference; higher ones count as this one (RabbitMQ:
    /// `x-max-priority`). Without it, the queue doesn't look at priorities.
    #[must_use]
    pub fn max_priority(mut self, priority: u8) -> Self {
        self.0.instead_of_argument(Known::MaxPriority).max_priority = Some(priority);
        self
    }

    /// The exchange that gets messages that are rejected, expire, overflow, or were delivered too often
    /// (RabbitMQ: `x-dead-letter-exchange`); `""` is the default exchange. By default such messages are
    /// dropped. It isn't declared along with this queue.
    #[must_use]
    pub fn dead_letter_exchange(mut self, exchange: impl Into<Name>) -> Self {
        self.0
            .instead_of_argument(Known::DeadLetterExchange)
            .dead_letter_exchange = Some(exchange.into());
        self
    }

    /// The routing key of messages that are dead-lettered (RabbitMQ: `x-dead-letter-routing-key`). By
    /// default they keep their own.
    #[must_use]
    pub fn dead_letter_routing_key(mut self, routing_key: impl Into<Name>) -> Self {
        self.0
            .instead_of_argument(Known::DeadLetterRoutingKey)
            .dead_letter_routing_key = Some(routing_key.into());
        self
    }

    /// How often a message is handed out before it is dead-lettered. No limit by default.
    ///
    /// Needs a [`dead_letter_exchange`](Queue::dead_letter_exchange), and means
    /// [`quorum`](Queue::quorum) if no type is set. RabbitMQ's `x-delivery-limit` counts the deliveries
    /// after the first one, so `max_deliveries(3)` is `x-delivery-limit` 2.
    #[must_use]
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.0
            .instead_of_argument(Known::MaxDeliveries)
            .max_deliveries = Some(deliveries);
        self.0.settle_implied();
        self
    }

    /// Whether only one of several consumers gets messages, until it goes (RabbitMQ:
    /// `x-single-active-consumer`); false by default.
    #[must_use]
    pub fn single_active_consumer(mut self, single: bool) -> Self {
        self.0
            .instead_of_argument(Known::SingleActiveConsumer)
            .single_active_consumer = single;
        self
    }

    /// Sets what a connection does about this declaration; by default, what the handle says.
    #[must_use]
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.0.declare = Some(mode);
        self
    }

    /// It has to be there already: [`DeclareMode::Verify`].
    #[must_use]
    pub fn passive(self) -> Self {
        self.declare(DeclareMode::Verify)
    }

    /// Somebody else declares it: [`DeclareMode::Never`].
    #[must_use]
    pub fn no_declare(self) -> Self {
        self.declare(DeclareMode::Never)
    }

    /// Sets an argument by the name that the broker has for it.
    ///
    /// The names that RabbitMQ has for attributes of this type set these, if the value has the right
    /// type; any other is passed on as it is.
    #[must_use]
    pub fn argument(mut self, name: impl Into<Name>, value: impl Into<FieldValue>) -> Self {
        let (name, value) = (name.into(), value.into());
        if let Some(known) = Known::of_argument(&name) {
            known.clear(&mut self.0);
        }
        self.0.arguments.insert(name, value);
        self.0.adopt_arguments();
        self
    }

    /// Sets an argument for the consumers of this queue, for example `x-priority`.
    #[must_use]
    pub fn consumer_argument(
        mut self,
        name: impl Into<Name>,
        value: impl Into<FieldValue>,
    ) -> Self {
        self.0.consumer_arguments.insert(name, value);
        self
    }

    /// Lets the queue receive messages from an exchange.
    #[must_use]
    pub fn bind(self, exchange: impl Into<Exchange>, routing_key: impl Into<Name>) -> Self {
        self.bind_with(Binding::new(exchange, routing_key))
    }

    /// Lets the queue receive messages through a binding with arguments.
    #[must_use]
    pub fn bind_with(mut self, binding: Binding) -> Self {
        self.0.bindings.push(binding);
        self
    }

    /// Replaces all bindings, for example with ones whose exchanges were looked up.
    #[must_use]
    pub fn with_bindings(mut self, bindings: Vec<Binding>) -> Self {
        self.0.bindings = bindings;
        self
    }

    /// The name; empty as long as the broker hasn't given one.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// Whether the broker still has to give it a name.
    pub fn is_server_named(&self) -> bool {
        self.0.name.is_empty()
    }

    /// Whether it survives a restart of the broker.
    pub fn is_durable(&self) -> bool {
        self.0.durable
    }

    /// Whether only the connection that declares it may use it.
    pub fn is_exclusive(&self) -> bool {
        self.0.exclusive
    }

    /// Whether it is deleted when its last consumer goes.
    pub fn is_auto_delete(&self) -> bool {
        self.0.auto_delete
    }

    /// Whether its messages count as settled when they are handed out.
    pub fn is_no_ack(&self) -> bool {
        self.0.no_ack
    }

    /// The application's own name for it.
    pub fn get_alias(&self) -> Option<&Name> {
        self.0.alias.as_ref()
    }

    /// How the broker keeps the messages; `None` if the virtual host decides.
    pub fn get_queue_type(&self) -> Option<QueueType> {
        self.0.queue_type
    }

    /// How long it stays when nobody uses it, in whole milliseconds.
    pub fn get_expires(&self) -> Option<Duration> {
        self.0.expires
    }

    /// How long a message stays, in whole milliseconds.
    pub fn get_message_ttl(&self) -> Option<Duration> {
        self.0.message_ttl
    }

    /// How many messages may be ready at once.
    pub fn get_max_length(&self) -> Option<u64> {
        self.0.max_length
    }

    /// How many bytes the bodies of ready messages may have together.
    pub fn get_max_length_bytes(&self) -> Option<u64> {
        self.0.max_length_bytes
    }

    /// What happens to a message that it has no room for.
    pub fn get_overflow(&self) -> Option<Overflow> {
        self.0.overflow
    }

    /// The highest priority that makes a difference.
    pub fn get_max_priority(&self) -> Option<u8> {
        self.0.max_priority
    }

    /// The exchange that gets dead letters.
    pub fn get_dead_letter_exchange(&self) -> Option<&Name> {
        self.0.dead_letter_exchange.as_ref()
    }

    /// The routing key of dead letters.
    pub fn get_dead_letter_routing_key(&self) -> Option<&Name> {
        self.0.dead_letter_routing_key.as_ref()
    }

    /// How often a message is handed out before it is dead-lettered.
    pub fn get_max_deliveries(&self) -> Option<u32> {
        self.0.max_deliveries
    }

    /// Whether only one of several consumers gets messages.
    pub fn is_single_active_consumer(&self) -> bool {
        self.0.single_active_consumer
    }

    /// What a connection does about this declaration; `None` follows the handle.
    pub fn declare_mode(&self) -> Option<DeclareMode> {
        self.0.declare
    }

    /// The arguments that have no attribute of their own. What goes to a broker is
    /// [`arguments_table`](Self::arguments_table).
    pub fn arguments(&self) -> &FieldTable {
        &self.0.arguments
    }

    /// The arguments for its consumers.
    pub fn consumer_arguments(&self) -> &FieldTable {
        &self.0.consumer_arguments
    }

    /// The exchanges that it receives from.
    pub fn bindings(&self) -> &[Binding] {
        &self.0.bindings
    }

    /// All arguments by RabbitMQ's names, those of the attributes among them.
    ///
    /// ```
    /// use kombu_core::declare::Queue;
    /// use kombu_core::field::FieldValue;
    ///
    /// let table = Queue::new("jobs").max_priority(9).argument("x-queue-version", 2).arguments_table();
    /// assert_eq!(table.get("x-max-priority"), Some(&FieldValue::I64(9)));
    /// assert_eq!(table.get("x-queue-version"), Some(&FieldValue::I32(2)));
    /// ```
    pub fn arguments_table(&self) -> FieldTable {
        let mut table = self.0.arguments.clone();
        for known in Known::ALL {
            if let Some(value) = known.get(&self.0) {
                table.insert(known.argument(), value);
            }
        }
        table
    }
}

impl Attributes {
    /// Sets what other attributes imply.
    fn settle_implied(&mut self) {
        self.auto_delete |= self.exclusive;
        if self.max_deliveries.is_some() && !self.arguments.contains(Known::QueueType.argument()) {
            self.queue_type.get_or_insert(QueueType::Quorum);
        }
    }

    /// For a setter: what was given as an argument no longer counts.
    fn instead_of_argument(&mut self, known: Known) -> &mut Self {
        self.arguments.remove(known.argument());
        self
    }

    /// Moves what stands among the arguments and has an attribute to there.
    fn adopt_arguments(&mut self) {
        for known in Known::ALL {
            let Some(value) = self.arguments.get(known.argument()) else {
                continue;
            };
            let value = value.clone();
            if known.get(self).is_some() || known.set(self, &value) {
                self.arguments.remove(known.argument());
            }
        }
        self.settle_implied();
    }
}

fn whole(time: Duration) -> Duration {
    Duration::from_millis(duration::whole_millis(time))
}

impl<'de> Deserialize<'de> for Queue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut attributes = Attributes::deserialize(deserializer)?;
        attributes.adopt_arguments();
        Ok(Queue(attributes))
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.0.name)
            .field("durable", &self.0.durable)
            .field("exclusive", &self.0.exclusive)
            .field("auto_delete", &self.0.auto_delete)
            .field("no_ack", &self.0.no_ack)
            .field("alias", &self.0.alias)
            .field("declare", &self.0.declare)
            .field("arguments", &self.arguments_table())
            .field("consumer_arguments", &self.0.consumer_arguments)
            .field("bindings", &self.0.bindings)
            .finish()
    }
}

impl From<&Queue> for Queue {
    fn from(queue: &Queue) -> Self {
        queue.clone()
    }
}

impl From<&Queue> for Name {
    fn from(queue: &Queue) -> Self {
        queue.0.name.clone()
    }
}

impl From<Queue> for Name {
    fn from(queue: Queue) -> Self {
        queue.0.name
    }
}

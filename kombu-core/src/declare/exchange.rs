use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Binding, DeclareMode, DeliveryMode, ExchangeKind, is_default, is_true};
use crate::field::{FieldTable, FieldValue};
use crate::name::Name;

pub(super) const ALTERNATE: &str = "alternate-exchange";

/// What publishers send to, and what sends on to queues and other exchanges by their bindings.
///
/// By default it is durable, isn't deleted by itself, and messages sent to it are persistent.
/// `Exchange::default()` is AMQP's default exchange, which is always there and sends to the queue whose
/// name is the routing key.
///
/// In files: `name`, `type` (`direct`, `fanout`, `topic`, `headers`, or a plugin's), `durable`,
/// `auto_delete`, `internal`, `delivery_mode` (`persistent`, `transient`), `alternate_exchange`,
/// `declare` (`ensure`, `verify`, `never`), `arguments`, `bindings`.
///
/// ```
/// use kombu_core::declare::{Exchange, ExchangeKind};
///
/// let media = Exchange::topic("media").alternate_exchange("unrouted");
/// assert_eq!(media.kind(), &ExchangeKind::Topic);
/// assert!(media.is_durable());
/// assert_eq!(media, Exchange::topic("media").argument("alternate-exchange", "unrouted"));
/// ```
///
/// It belongs to no connection, and so it can do nothing by itself: what does something is a method of the
/// [`Connection`](crate::Connection), and there is no declaration that could be used while it is bound to none.
///
/// ```
/// # async fn delete(connection: kombu::Connection) -> kombu::Result<()> {
/// let media = kombu::Exchange::topic("media");
/// connection.delete_exchange(&media).await
/// # }
/// ```
///
/// ```compile_fail
/// # async fn delete(connection: kombu::Connection) -> kombu::Result<()> {
/// let media = kombu::Exchange::topic("media");
/// media.delete().await
/// # }
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(inline))]
#[serde(transparent)]
pub struct Exchange(Attributes);

#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "exchange")]
struct Attributes {
    /// Default: its key in the file.
    #[serde(skip_serializing_if = "is_default")]
    name: Name,
    /// How it chooses among its bindings. Default: direct.
    #[serde(rename = "type", skip_serializing_if = "is_default")]
    kind: ExchangeKind,
    /// Whether it survives a restart of the broker. Default: true.
    #[serde(skip_serializing_if = "is_true")]
    durable: bool,
    /// Whether it is deleted when its last binding goes. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    auto_delete: bool,
    /// Whether only other exchanges may send to it. Default: false.
    #[serde(skip_serializing_if = "is_default")]
    internal: bool,
    /// Whether messages that are sent to it survive a restart. Default: persistent.
    #[serde(skip_serializing_if = "is_default")]
    delivery_mode: DeliveryMode,
    /// The exchange that gets what no binding matches, by its name on the broker.
    #[serde(skip_serializing_if = "is_default")]
    alternate_exchange: Option<Name>,
    /// What a connection does about this declaration. Default: what the handle says.
    #[serde(skip_serializing_if = "is_default")]
    declare: Option<DeclareMode>,
    /// Arguments by the broker's names.
    #[serde(skip_serializing_if = "is_default")]
    arguments: FieldTable,
    /// Exchanges from which it receives.
    #[serde(skip_serializing_if = "is_default")]
    bindings: Vec<Binding>,
}

impl Default for Attributes {
    fn default() -> Self {
        Attributes {
            name: Name::EMPTY,
            kind: ExchangeKind::Direct,
            durable: true,
            auto_delete: false,
            internal: false,
            delivery_mode: DeliveryMode::Persistent,
            alternate_exchange: None,
            declare: None,
            arguments: FieldTable::new(),
            bindings: Vec::new(),
        }
    }
}

impl Exchange {
    fn new(kind: ExchangeKind, name: impl Into<Name>) -> Self {
        Exchange(Attributes {
            name: name.into(),
            kind,
            ..Attributes::default()
        })
    }

    /// An exchange that sends to the bindings whose key equals the routing key.
    pub fn direct(name: impl Into<Name>) -> Self {
        Self::new(ExchangeKind::Direct, name)
    }

    /// An exchange that sends to all of its bindings.
    pub fn fanout(name: impl Into<Name>) -> Self {
        Self::new(ExchangeKind::Fanout, name)
    }

    /// An exchange that sends to the bindings whose pattern matches the routing key.
    pub fn topic(name: impl Into<Name>) -> Self {
        Self::new(ExchangeKind::Topic, name)
    }

    /// An exchange that sends to the bindings whose arguments match the headers.
    pub fn headers(name: impl Into<Name>) -> Self {
        Self::new(ExchangeKind::Headers, name)
    }

    /// An exchange of a kind that is known by its name only, for example `x-consistent-hash`.
    ///
    /// `"direct"` and the other three give the same as their own constructors.
    pub fn custom(kind: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self::new(ExchangeKind::from(kind.into()), name)
    }

    /// The same with another name.
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

    /// Whether it is deleted when its last binding goes; false by default.
    #[must_use]
    pub fn auto_delete(mut self, auto_delete: bool) -> Self {
        self.0.auto_delete = auto_delete;
        self
    }

    /// Whether only other exchanges may send to it and publishers may not; false by default.
    /// RabbitMQ's `internal`.
    #[must_use]
    pub fn internal(mut self, internal: bool) -> Self {
        self.0.internal = internal;
        self
    }

    /// The delivery mode of messages that are published to it and don't set their own; persistent by
    /// default.
    #[must_use]
    pub fn delivery_mode(mut self, mode: DeliveryMode) -> Self {
        self.0.delivery_mode = mode;
        self
    }

    /// The exchange that gets the messages that match no binding of this one (RabbitMQ:
    /// `alternate-exchange`). None by default. It isn't declared along with this one.
    #[must_use]
    pub fn alternate_exchange(mut self, name: impl Into<Name>) -> Self {
        self.0.arguments.remove(ALTERNATE);
        self.0.alternate_exchange = Some(name.into());
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
    /// `alternate-exchange` sets the attribute of that name.
    #[must_use]
    pub fn argument(mut self, name: impl Into<Name>, value: impl Into<FieldValue>) -> Self {
        let (name, value) = (name.into(), value.into());
        if name == ALTERNATE {
            self.0.alternate_exchange = None;
        }
        self.0.arguments.insert(name, value);
        self.0.adopt_arguments();
        self
    }

    /// Lets this exchange receive messages from another one (RabbitMQ's exchange-to-exchange binding).
    #[must_use]
    pub fn bind(self, source: impl Into<Exchange>, routing_key: impl Into<Name>) -> Self {
        self.bind_with(Binding::new(source, routing_key))
    }

    /// Lets this exchange receive messages through a binding with arguments.
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

    /// The name; empty for the default exchange.
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// How it chooses among its bindings.
    pub fn kind(&self) -> &ExchangeKind {
        &self.0.kind
    }

    /// Whether this is AMQP's default exchange, the one without a name.
    pub fn is_default(&self) -> bool {
        self.0.name.is_empty()
    }

    /// Whether it survives a restart of the broker.
    pub fn is_durable(&self) -> bool {
        self.0.durable
    }

    /// Whether it is deleted when its last binding goes.
    pub fn is_auto_delete(&self) -> bool {
        self.0.auto_delete
    }

    /// Whether publishers may not send to it.
    pub fn is_internal(&self) -> bool {
        self.0.internal
    }

    /// The delivery mode of messages that don't set their own.
    pub fn get_delivery_mode(&self) -> DeliveryMode {
        self.0.delivery_mode
    }

    /// The exchange for messages that match no binding.
    pub fn get_alternate_exchange(&self) -> Option<&Name> {
        self.0.alternate_exchange.as_ref()
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

    /// All arguments by the broker's names, `alternate-exchange` among them.
    pub fn arguments_table(&self) -> FieldTable {
        let mut table = self.0.arguments.clone();
        if let Some(name) = &self.0.alternate_exchange {
            table.insert(ALTERNATE, name);
        }
        table
    }

    /// The exchanges that this one receives from.
    pub fn bindings(&self) -> &[Binding] {
        &self.0.bindings
    }
}

impl Attributes {
    /// Moves what stands among the arguments and has an attribute to there.
    fn adopt_arguments(&mut self) {
        if self.alternate_exchange.is_some() {
            self.arguments.remove(ALTERNATE);
        } else if let Some(FieldValue::Text(name)) = self.arguments.get(ALTERNATE) {
            self.alternate_exchange = Some(name.clone());
            self.arguments.remove(ALTERNATE);
        }
    }
}

impl<'de> Deserialize<'de> for Exchange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut attributes = Attributes::deserialize(deserializer)?;
        attributes.adopt_arguments();
        Ok(Exchange(attributes))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attributes {
            name,
            kind,
            durable,
            auto_delete,
            internal,
            delivery_mode,
            alternate_exchange,
            declare,
            arguments,
            bindings,
        } = &self.0;
        f.debug_struct("Exchange")
            .field("name", name)
            .field("kind", kind)
            .field("durable", durable)
            .field("auto_delete", auto_delete)
            .field("internal", internal)
            .field("delivery_mode", delivery_mode)
            .field("alternate_exchange", alternate_exchange)
            .field("declare", declare)
            .field("arguments", arguments)
            .field("bindings", bindings)
            .finish()
    }
}

impl From<&Exchange> for Exchange {
    fn from(exchange: &Exchange) -> Self {
        exchange.clone()
    }
}

impl From<&Exchange> for Name {
    fn from(exchange: &Exchange) -> Self {
        exchange.0.name.clone()
    }
}

impl From<Exchange> for Name {
    fn from(exchange: Exchange) -> Self {
        exchange.0.name
    }
}

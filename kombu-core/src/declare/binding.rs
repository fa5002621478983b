use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use super::{Exchange, is_default};
use crate::field::{FieldTable, FieldValue};
use crate::name::Name;

/// The way from an exchange into a queue or another exchange, which holds it.
///
/// In files the exchange is either written in full, `{exchange: {name: media, type: topic},
/// routing_key: video.#}`, and is then declared with the queue, or as its name alone, `{exchange:
/// media, routing_key: video.#}`, and is then declared by somebody else.
///
/// ```
/// use kombu_core::declare::{Binding, Exchange, Queue};
///
/// let reports = Exchange::headers("reports");
/// let pdf = Binding::from(&reports)
///     .match_all()
///     .argument("format", "pdf")
///     .argument("signed", true);
/// let queue = Queue::new("signed-pdf").bind_with(pdf);
/// assert_eq!(queue.bindings()[0].exchange(), &reports);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "binding")
)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// Where messages come from.
    #[cfg_attr(feature = "schema", schemars(with = "crate::schema::NameOrExchange"))]
    #[serde(serialize_with = "write_exchange", deserialize_with = "read_exchange")]
    exchange: Exchange,
    /// The key of these messages, or the pattern of a topic.
    #[serde(default, skip_serializing_if = "is_default")]
    routing_key: Name,
    /// On a headers exchange, what headers have to be.
    #[serde(default, skip_serializing_if = "is_default")]
    arguments: FieldTable,
}

impl Binding {
    /// The way in from `exchange` for messages with this routing key, or this pattern of a topic.
    pub fn new(exchange: impl Into<Exchange>, routing_key: impl Into<Name>) -> Self {
        Binding {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            arguments: FieldTable::new(),
        }
    }

    /// Sets the routing key, or the pattern; `""` by default. Fanout and headers exchanges don't look
    /// at it.
    #[must_use]
    pub fn routing_key(mut self, routing_key: impl Into<Name>) -> Self {
        self.routing_key = routing_key.into();
        self
    }

    /// Sets an argument: on a headers exchange, the value that a header has to have. With
    /// [`FieldValue::Void`] (`()` or `None`) any value will do.
    #[must_use]
    pub fn argument(mut self, name: impl Into<Name>, value: impl Into<FieldValue>) -> Self {
        self.arguments.insert(name, value);
        self
    }

    /// All headers have to match: `x-match` is `all`, as it is by default. For headers exchanges.
    #[must_use]
    pub fn match_all(self) -> Self {
        self.argument("x-match", "all")
    }

    /// One header that matches is enough: `x-match` is `any`. For headers exchanges.
    #[must_use]
    pub fn match_any(self) -> Self {
        self.argument("x-match", "any")
    }

    /// Puts another exchange into its place, for example the declaration that a name stood for.
    #[must_use]
    pub fn with_exchange(mut self, exchange: impl Into<Exchange>) -> Self {
        self.exchange = exchange.into();
        self
    }

    /// The exchange that messages come from.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// The routing key, or the pattern.
    pub fn get_routing_key(&self) -> &Name {
        &self.routing_key
    }

    /// The arguments.
    pub fn arguments(&self) -> &FieldTable {
        &self.arguments
    }
}

/// With the routing key `""`.
impl From<Exchange> for Binding {
    fn from(exchange: Exchange) -> Self {
        Binding::new(exchange, Name::EMPTY)
    }
}

/// With the routing key `""`.
impl From<&Exchange> for Binding {
    fn from(exchange: &Exchange) -> Self {
        Binding::new(exchange, Name::EMPTY)
    }
}

fn reference(name: &str) -> Exchange {
    Exchange::direct(name).no_declare()
}

fn write_exchange<S: Serializer>(exchange: &Exchange, serializer: S) -> Result<S::Ok, S::Error> {
    if *exchange == reference(exchange.name()) {
        exchange.name().serialize(serializer)
    } else {
        exchange.serialize(serializer)
    }
}

fn read_exchange<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Exchange, D::Error> {
    struct Written;

    impl<'de> Visitor<'de> for Written {
        type Value = Exchange;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of an exchange, or a map with its attributes")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<Exchange, E> {
            Ok(reference(name))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Exchange, A::Error> {
            Exchange::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_any(Written)
}

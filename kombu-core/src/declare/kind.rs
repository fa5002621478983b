use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::Name;

/// How an exchange chooses among its bindings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeKind {
    /// The binding's key equals the routing key.
    #[default]
    Direct,
    /// Every binding matches.
    Fanout,
    /// The binding's key is a pattern of words between dots: `*` is one word, `#` any number of them.
    Topic,
    /// The binding's arguments match the headers, all or any of them.
    Headers,
    /// A kind that a broker's plugin adds, for example `x-consistent-hash`.
    Custom(Name),
}

impl ExchangeKind {
    /// What AMQP has.
    pub(crate) const NAMES: [&str; 4] = ["direct", "fanout", "topic", "headers"];

    /// The name that AMQP has for it.
    pub fn as_str(&self) -> &str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
            ExchangeKind::Custom(name) => name,
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Name> for ExchangeKind {
    fn from(name: Name) -> Self {
        match name.as_str() {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            _ => ExchangeKind::Custom(name),
        }
    }
}

impl From<&str> for ExchangeKind {
    fn from(name: &str) -> Self {
        Name::from(name).into()
    }
}

impl Serialize for ExchangeKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ExchangeKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Name::deserialize(deserializer).map(Into::into)
    }
}

/// How the broker keeps the messages of a queue (RabbitMQ: `x-queue-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QueueType {
    /// On one node. The only type that can be exclusive, auto-deleted, not durable or have priorities.
    Classic,
    /// Replicated, always durable, and counts deliveries.
    Quorum,
}

impl QueueType {
    /// The name that RabbitMQ has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [QueueType::Classic, QueueType::Quorum]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// What happens to a message that a full queue has no room for (RabbitMQ: `x-overflow`).
///
/// RabbitMQ drops the head when nothing is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overflow {
    /// The oldest message makes room; it is dead-lettered if the queue has a target.
    DropHead,
    /// The new message is refused, and its publisher learns it.
    RejectPublish,
    /// The same, and the message is dead-lettered too if the queue has a target. Not on quorum queues.
    RejectPublishDlx,
}

impl Overflow {
    /// The name that RabbitMQ has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Overflow::DropHead => "drop-head",
            Overflow::RejectPublish => "reject-publish",
            Overflow::RejectPublishDlx => "reject-publish-dlx",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [
            Overflow::DropHead,
            Overflow::RejectPublish,
            Overflow::RejectPublishDlx,
        ]
        .into_iter()
        .find(|overflow| overflow.as_str() == name)
    }

    /// Whether a full queue refuses what comes.
    pub fn rejects(self) -> bool {
        self != Overflow::DropHead
    }
}

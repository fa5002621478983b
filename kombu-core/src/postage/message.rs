use std::collections::BTreeMap;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::field::FieldTable;

use super::Fingerprint;

/// What components say to each other: a map with these keys on the wire. Two messages are equal if these are.
///
/// ```
/// use kombu::postage::{Message, Nothing};
///
/// let ping = Message::command("ping", Nothing {});
/// let written = serde_json::to_value(&ping.from(())).expect("it can be written");
/// assert_eq!(
///     written,
///     serde_json::json!({
///         "type": "command", "name": "ping", "category": "message", "version": 2,
///         "fingerprint": null, "content": {"parameters": {}}, "_reserved": {},
///     })
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<C, F = Fingerprint> {
    /// `command`, `status`, `result`, or a type of one's own.
    #[serde(rename = "type")]
    pub kind: String,
    /// Which command or status it is. A result has none, which is written `none`.
    #[serde(default, serialize_with = "write_name", deserialize_with = "read_name")]
    pub name: Option<String>,
    /// Whether it is to be answered.
    pub category: Category,
    /// That of the format: 2, as a number or as text.
    #[serde(default = "version", deserialize_with = "number_or_text")]
    pub version: u32,
    /// Who sent it.
    #[serde(default)]
    pub fingerprint: F,
    /// What it carries: [`Parameters`], a [`RpcResult`], [`Arguments`], [`Nothing`], or a type of one's own.
    pub content: C,
    /// Without a meaning, and empty.
    #[serde(default, rename = "_reserved")]
    pub reserved: FieldTable,
}

/// What is done with a message. No other word is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// It is handled.
    #[default]
    Message,
    /// It is answered.
    Rpc,
}

/// What a command carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters<P> {
    /// What the command needs.
    pub parameters: P,
}

/// An empty map: a command without parameters has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nothing {}

/// What a message without a type of its own carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arguments<V> {
    /// By their places.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<V>,
    /// By their names.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pub kwds: BTreeMap<String, V>,
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcResult<T> {
    /// It went well.
    Success {
        /// What was asked for.
        value: T,
        /// Something about it, for people; mostly empty.
        message: String,
    },
    /// It can't be done.
    Error {
        /// Why.
        message: String,
    },
    /// The component failed.
    Exception {
        /// The name of what it failed with, for programs: `TimeoutError` if nobody answered.
        name: String,
        /// What it said.
        message: String,
    },
}

impl<T> RpcResult<T> {
    /// A value, with nothing said about it.
    pub fn success(value: T) -> Self {
        RpcResult::Success {
            value,
            message: String::new(),
        }
    }

    /// Whether it went well.
    pub fn is_success(&self) -> bool {
        matches!(self, RpcResult::Success { .. })
    }

    /// The value, if it went well.
    pub fn value(self) -> Option<T> {
        match self {
            RpcResult::Success { value, .. } => Some(value),
            RpcResult::Error { .. } | RpcResult::Exception { .. } => None,
        }
    }
}

impl<T: Serialize> Serialize for RpcResult<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("RpcResult", 3)?;
        let message = match self {
            RpcResult::Success { value, message } => {
                map.serialize_field("type", "success")?;
                map.serialize_field("value", value)?;
                message
            }
            RpcResult::Error { message } => {
                map.serialize_field("type", "error")?;
                map.serialize_field("value", &())?;
                message
            }
            RpcResult::Exception { name, message } => {
                map.serialize_field("type", "exception")?;
                map.serialize_field("value", name)?;
                message
            }
        };
        map.serialize_field("message", message)?;
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for RpcResult<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Written<T> {
            Success {
                value: T,
                #[serde(default)]
                message: String,
            },
            Error {
                #[serde(default)]
                message: String,
            },
            Exception {
                value: String,
                #[serde(default)]
                message: String,
            },
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Success { value, message } => RpcResult::Success { value, message },
            Written::Error { message } => RpcResult::Error { message },
            Written::Exception { value, message } => RpcResult::Exception {
                name: value,
                message,
            },
        })
    }
}

const COMMAND: &str = "command";
const RESULT: &str = "result";

impl<C> Message<C> {
    /// A message of a type of one's own.
    pub fn new(kind: impl Into<String>, name: impl Into<String>, content: C) -> Self {
        Message {
            name: Some(name.into()),
            ..Message::nameless(kind.into(), content)
        }
    }

    fn nameless(kind: String, content: C) -> Self {
        Message {
            kind,
            name: None,
            category: Category::Message,
            version: version(),
            fingerprint: Fingerprint::default(),
            content,
            reserved: FieldTable::new(),
        }
    }
}

impl<C, F> Message<C, F> {
    /// The same with other content.
    pub(super) fn map<D>(self, change: impl FnOnce(C) -> D) -> Message<D, F> {
        Message {
            kind: self.kind,
            name: self.name,
            category: self.category,
            version: self.version,
            fingerprint: self.fingerprint,
            content: change(self.content),
            reserved: self.reserved,
        }
    }

    /// The same from somebody.
    pub fn from<G>(self, fingerprint: G) -> Message<C, G> {
        let Message {
            kind,
            name,
            category,
            version,
            fingerprint: _,
            content,
            reserved,
        } = self;
        Message {
            kind,
            name,
            category,
            version,
            fingerprint,
            content,
            reserved,
        }
    }
}

impl<P> Message<Parameters<P>> {
    /// A command, which isn't answered.
    pub fn command(name: impl Into<String>, parameters: P) -> Self {
        Message::new(COMMAND, name, Parameters { parameters })
    }

    /// A command that is answered with a [`RpcResult`].
    pub fn rpc_command(name: impl Into<String>, parameters: P) -> Self {
        Message {
            category: Category::Rpc,
            ..Message::command(name, parameters)
        }
    }
}

impl Message<Nothing> {
    /// How a component is doing, in a word.
    pub fn status(name: impl Into<String>) -> Self {
        Message::new("status", name, Nothing {})
    }
}

impl<V> Message<Arguments<V>> {
    /// A message without a type of its own.
    pub fn generic(
        args: impl IntoIterator<Item = V>,
        kwds: impl IntoIterator<Item = (String, V)>,
    ) -> Self {
        let (args, kwds) = (args.into_iter().collect(), kwds.into_iter().collect());
        Message::nameless(NONE.to_owned(), Arguments { args, kwds })
    }
}

impl<T> Message<RpcResult<T>> {
    /// The answer that a call went well.
    pub fn result(value: T) -> Self {
        Message::answer(RpcResult::success(value))
    }

    /// Any answer to a call.
    pub fn answer(result: RpcResult<T>) -> Self {
        Message::nameless(RESULT.to_owned(), result)
    }
}

impl Message<RpcResult<()>> {
    /// The answer that something can't be done.
    pub fn error(message: impl Into<String>) -> Self {
        let message = message.into();
        Message::answer(RpcResult::Error { message })
    }

    /// The answer that the component failed.
    pub fn exception(name: impl Into<String>, message: impl Into<String>) -> Self {
        let (name, message) = (name.into(), message.into());
        Message::answer(RpcResult::Exception { name, message })
    }
}

fn version() -> u32 {
    2
}

/// What Postage writes in place of a name, or a type, that there isn't.
pub(super) const NONE: &str = "none";

fn write_name<S: Serializer>(name: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_deref().unwrap_or(NONE))
}

fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    Ok(name.filter(|name| name != NONE))
}

/// Some write the version as text.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Version {
        Number(u32),
        Text(String),
    }
    match Version::deserialize(deserializer)? {
        Version::Number(version) => Ok(version),
        Version::Text(version) => version.parse().map_err(serde::de::Error::custom),
    }
}

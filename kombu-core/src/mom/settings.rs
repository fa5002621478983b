use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use url::Url;

use crate::client::Registry;
use crate::declare::{Exchange, Queue};
use crate::driver::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

/// What stands between a receiver's name and its callback's.
pub const RECEIVER_CALLBACK_SEPARATOR: char = ':';

/// Who gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// Every receiver of that name, wherever it is: each has a queue of its own.
    PubSub,
    /// One of the receivers of that name: they share a queue, which outlives them.
    #[default]
    Pt2Pt,
}

impl FromStr for DataType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "pubsub" => Ok(DataType::PubSub),
            "" | "pt2pt" => Ok(DataType::Pt2Pt),
            _ => Err(config(format!(
                "`{text}` is no data type; there are `pubsub` and `pt2pt`"
            ))),
        }
    }
}

/// A sender by name: an exchange.
///
/// ```
/// use kombu::mom::Sender;
///
/// let sender: Sender = "canopsis.events:topic".parse()?;
/// assert_eq!((sender.name.as_str(), sender.mode.as_deref()), ("canopsis.events", Some("topic")));
/// # Ok::<(), kombu::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// Its name, which is the exchange's.
    pub name: Name,
    /// `direct`, `topic` or `fanout`. Default: `topic` for pub/sub, where receivers get all, and `direct` for point to point,
    /// where the key names the receiver.
    pub mode: Option<String>,
}

impl FromStr for Sender {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, mode) = match text.split_once(RECEIVER_CALLBACK_SEPARATOR) {
            None => (text, None),
            Some((name, mode @ ("direct" | "topic" | "fanout"))) => (name, Some(mode.to_owned())),
            Some((name, mode)) => {
                return Err(config(format!(
                    "sender `{name}` can't be `{mode}`; it is `direct`, `topic` or `fanout`"
                )));
            }
        };
        Ok(Sender {
            name: name.into(),
            mode,
        })
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.mode {
            Some(mode) => write!(f, ":{mode}"),
            None => Ok(()),
        }
    }
}

/// A receiver by name: a queue that is bound to the exchange of that name.
///
/// ```
/// use kombu::mom::Receiver;
///
/// let receiver: Receiver = "jobs:work".parse()?;
/// assert_eq!((receiver.name.as_str(), receiver.callback.as_deref()), ("jobs", Some("work")));
/// assert_eq!("jobs".parse::<Receiver>()?.callback, None);
/// # Ok::<(), kombu::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receiver {
    /// Its name.
    pub name: Name,
    /// The name of what its messages are handed to.
    pub callback: Option<String>,
}

impl FromStr for Receiver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, callback) = match text.split_once(RECEIVER_CALLBACK_SEPARATOR) {
            Some((name, callback)) => (name, Some(callback.to_owned())),
            None => (text, None),
        };
        Ok(Receiver {
            name: name.into(),
            callback,
        })
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.callback {
            Some(callback) => write!(f, "{RECEIVER_CALLBACK_SEPARATOR}{callback}"),
            None => Ok(()),
        }
    }
}

/// Where messages go and come from: read from a URI, or from a configuration file with these keys.
///
/// A URI's scheme is `protocol[-data_type]`; `kombu` is `amqp` by another name. Its query names senders and receivers, with
/// commas between them, and what is left is the transport's.
///
/// ```
/// use kombu::mom::{DataType, Settings};
///
/// let settings: Settings = "kombu-pubsub://canopsis:canopsis@demo.canopsis.org:5672".parse()?;
/// assert_eq!((settings.protocol.as_str(), settings.data_type), ("amqp", DataType::PubSub));
/// let settings: Settings = "memory-pt2pt://shop?senders=events:topic,jobs&receivers=jobs:work".parse()?;
/// assert_eq!((settings.senders.len(), settings.receivers.len()), (2, 1));
/// # Ok::<(), kombu::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// All of it in one, in place of the keys up to `pwd`.
    pub uri: Option<String>,
    /// The scheme of a transport. Default: `amqp`.
    pub protocol: String,
    /// Who gets a message. Default: point to point.
    pub data_type: DataType,
    /// Default: that of the transport.
    pub host: Option<String>,
    /// Default: that of the transport.
    pub port: Option<u16>,
    /// The virtual host. Default: that of the transport.
    pub path: Option<String>,
    /// Who connects.
    pub user: Option<String>,
    /// As whom.
    pub pwd: Option<String>,
    /// Whether what is received has to be acknowledged, or is gone at once. Default: true.
    pub safe: bool,
    /// How long connecting may take, in milliseconds. Default: 20 s.
    #[serde(deserialize_with = "milliseconds")]
    pub conn_timeout: Duration,
    /// How long a receive waits that doesn't say it, in milliseconds. Default: 100 ms.
    #[serde(deserialize_with = "milliseconds")]
    pub in_timeout: Duration,
    /// How long a send may take that doesn't say it, in milliseconds. Default: 2 s.
    #[serde(deserialize_with = "milliseconds")]
    pub out_timeout: Duration,
    /// Who sends.
    #[serde(deserialize_with = "names")]
    pub senders: Vec<Sender>,
    /// Who receives.
    #[serde(deserialize_with = "names")]
    pub receivers: Vec<Receiver>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            uri: None,
            protocol: "amqp".to_owned(),
            data_type: DataType::default(),
            host: None,
            port: None,
            path: None,
            user: None,
            pwd: None,
            safe: true,
            conn_timeout: Duration::from_secs(20),
            in_timeout: Duration::from_millis(100),
            out_timeout: Duration::from_secs(2),
            senders: Vec::new(),
            receivers: Vec::new(),
        }
    }
}

fn milliseconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// A list, or a text with commas.
fn names<'de, D, T>(deserializer: D) -> std::result::Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = Error>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        Nothing(()),
        Text(String),
        List(Vec<String>),
    }
    let parsed = match Names::deserialize(deserializer)? {
        Names::Nothing(()) => Ok(Vec::new()),
        Names::Text(text) => list(&text),
        Names::List(texts) => texts.iter().map(|text| text.parse()).collect(),
    };
    parsed.map_err(|error: Error| serde::de::Error::custom(error.message()))
}

fn list<T: FromStr<Err = Error>>(text: &str) -> Result<Vec<T>> {
    let names = text.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(str::parse)
        .collect()
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// A URI with a plain scheme, and the data type that the scheme named.
fn split_scheme(uri: &str) -> Result<(String, DataType)> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        let hint = "a URI starts with a scheme, for example `memory-pubsub://`";
        return Err(config(hint.to_owned()));
    };
    let (protocol, data_type) = scheme.split_once('-').unwrap_or((scheme, ""));
    let protocol = match protocol {
        "kombu" => "amqp",
        protocol => protocol,
    };
    Ok((format!("{protocol}://{rest}"), data_type.parse()?))
}

impl FromStr for Settings {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let (plain, data_type) = split_scheme(uri)?;
        let mut url =
            Url::parse(&plain).map_err(|problem| config(format!("malformed URI: {problem}")))?;
        let mut settings = Settings {
            protocol: url.scheme().to_owned(),
            data_type,
            ..Settings::default()
        };
        let mut rest = Vec::new();
        for (key, value) in url.query_pairs() {
            match &*key {
                "senders" => settings.senders = list(&value)?,
                "receivers" => settings.receivers = list(&value)?,
                _ => rest.push((key.into_owned(), value.into_owned())),
            }
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        settings.uri = Some(url.into());
        Ok(settings)
    }
}

impl Settings {
    /// The URL that the transport is connected by.
    pub(super) fn url(&self, registry: &Registry) -> Result<String> {
        if let Some(uri) = &self.uri {
            return Ok(split_scheme(uri)?.0);
        }
        let mut place = Place::new(match &*self.protocol {
            "kombu" => "amqp",
            protocol => protocol,
        });
        place.host = self.host.as_deref();
        place.port = self.port;
        place.user = self.user.as_deref();
        place.password = self.pwd.as_deref();
        place.virtual_host = self.path.as_deref();
        registry.url_of(&place)
    }

    /// All of it as one URI, secrets included.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::url_of`].
    pub fn uri(&self, registry: &Registry) -> Result<String> {
        let url = self.url(registry)?;
        let mut url = Url::parse(&url).map_err(|problem| config(problem.to_string()))?;
        let joined = |names: Vec<String>| names.join(",");
        let senders = joined(self.senders.iter().map(Sender::to_string).collect());
        let receivers = joined(self.receivers.iter().map(Receiver::to_string).collect());
        for (key, names) in [("senders", senders), ("receivers", receivers)] {
            if !names.is_empty() {
                url.query_pairs_mut().append_pair(key, &names);
            }
        }
        let data_type = match self.data_type {
            DataType::PubSub => "-pubsub://",
            DataType::Pt2Pt => "-pt2pt://",
        };
        Ok(url.as_str().replacen("://", data_type, 1))
    }

    /// The exchange of this name: of the kind that a sender says, or else that of the data type.
    pub(super) fn exchange(&self, name: &Name) -> Exchange {
        let mut senders = self.senders.iter();
        let sender = senders.find(|sender| sender.name == *name);
        let mode = sender.and_then(|sender| sender.mode.as_deref());
        match (mode, self.data_type) {
            (Some("topic"), _) | (None, DataType::PubSub) => Exchange::topic(name),
            (Some("fanout"), _) => Exchange::fanout(name),
            _ => Exchange::direct(name),
        }
    }

    /// What a receiver of this name receives from.
    pub(super) fn queue(&self, name: &Name) -> Queue {
        let exchange = self.exchange(name);
        let key = match exchange.kind() {
            crate::declare::ExchangeKind::Topic => Name::from_static("#"),
            crate::declare::ExchangeKind::Direct => name.clone(),
            _ => Name::EMPTY,
        };
        let queue = match self.data_type {
            DataType::PubSub => Queue::server_named().exclusive(true),
            DataType::Pt2Pt => Queue::new(name),
        };
        queue.bind(exchange, key)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor a URI that may hold one.
        f.debug_struct("Settings")
            .field("protocol", &self.protocol)
            .field("data_type", &self.data_type)
            .field("host", &self.host)
            .field("path", &self.path)
            .field("senders", &self.senders)
            .field("receivers", &self.receivers)
            .finish_non_exhaustive()
    }
}

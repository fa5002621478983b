use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use url::Url;
use url::form_urlencoded::{self, Serializer};

use crate::client::{Place, Registry};
use crate::declare::{Exchange, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;
use crate::portability::Topology;

/// What stands between a receiver's name and its callback's.
pub const RECEIVER_CALLBACK_SEPARATOR: char = ':';

/// Who gets a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// Its name: a sender stands for it where one is asked for.
impl From<&Sender> for Name {
    fn from(sender: &Sender) -> Name {
        sender.name.clone()
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
/// assert_eq!((settings.host.as_deref(), settings.port), (Some("demo.canopsis.org"), Some(5672)));
/// let settings: Settings = "memory-pt2pt://shop?senders=events:topic,jobs&receivers=jobs:work".parse()?;
/// assert_eq!((settings.senders.len(), settings.receivers.len()), (2, 1));
/// # Ok::<(), kombu::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Settings {
    /// All of it in one, which counts whatever the keys up to `pwd` say; senders and receivers that it names come to the others.
    /// What is parsed from a URI has its parts in these keys as well, unless it names several hosts.
    pub uri: Option<String>,
    /// The scheme of a transport. Default: `amqp`.
    pub protocol: String,
    /// Who gets a message. Default: point to point.
    pub data_type: DataType,
    /// A third part of a URI's scheme, for the program's own use.
    pub data_scope: Option<String>,
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
    pub conn_timeout: Duration,
    /// How long a receive waits that doesn't say it, in milliseconds. Default: 100 ms.
    pub in_timeout: Duration,
    /// How long a send may take that doesn't say it, in milliseconds. Default: 2 s.
    pub out_timeout: Duration,
    /// Who sends.
    pub senders: Vec<Sender>,
    /// Who receives.
    pub receivers: Vec<Receiver>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            uri: None,
            protocol: "amqp".to_owned(),
            data_type: DataType::default(),
            data_scope: None,
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

/// The keys of a file. One without a value, as canopsis' own has some, is as good as none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    uri: Option<String>,
    protocol: Option<String>,
    data_type: Option<String>,
    data_scope: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
    user: Option<String>,
    pwd: Option<String>,
    auto_connect: Option<bool>,
    safe: Option<bool>,
    conn_timeout: Option<u64>,
    in_timeout: Option<u64>,
    out_timeout: Option<u64>,
    ssl: Option<bool>,
    ssl_key: Option<String>,
    ssl_cert: Option<String>,
    #[serde(deserialize_with = "names")]
    senders: Vec<Sender>,
    #[serde(deserialize_with = "names")]
    receivers: Vec<Receiver>,
}

impl TryFrom<Written> for Settings {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let files = filled(written.ssl_key).or(filled(written.ssl_cert));
        for (is_wrong, advice) in [
            (
                written.ssl == Some(true) || files.is_some(),
                "`ssl`, `ssl_key` and `ssl_cert` are the protocol's to say: name one that encrypts, as in `amqps://`, with its files in the query of `uri`, as in `?key_file=key.pem&cert_file=cert.pem`",
            ),
            (
                written.auto_connect == Some(false),
                "`auto_connect` can't be false: what isn't to connect isn't opened",
            ),
        ] {
            if is_wrong {
                return Err(config(advice.to_owned()));
            }
        }
        let default = Settings::default();
        let data_type = filled(written.data_type).map(|text| text.parse());
        let milliseconds = |time: Option<u64>| time.map(Duration::from_millis);
        Ok(Settings {
            uri: filled(written.uri),
            protocol: filled(written.protocol).unwrap_or(default.protocol),
            data_type: data_type.transpose()?.unwrap_or_default(),
            data_scope: filled(written.data_scope),
            host: filled(written.host),
            port: written.port,
            path: filled(written.path),
            user: filled(written.user),
            pwd: filled(written.pwd),
            safe: written.safe.unwrap_or(default.safe),
            conn_timeout: milliseconds(written.conn_timeout).unwrap_or(default.conn_timeout),
            in_timeout: milliseconds(written.in_timeout).unwrap_or(default.in_timeout),
            out_timeout: milliseconds(written.out_timeout).unwrap_or(default.out_timeout),
            senders: written.senders,
            receivers: written.receivers,
        })
    }
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

/// Those that aren't there yet.
fn add<T: PartialEq>(known: &mut Vec<T>, others: Vec<T>) {
    for other in others {
        if !known.contains(&other) {
            known.push(other);
        }
    }
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// What a URI's scheme says.
struct Scheme<'a> {
    protocol: &'a str,
    data_type: Option<DataType>,
    data_scope: Option<&'a str>,
}

/// Its parts, and what is behind it.
fn split_scheme(uri: &str) -> Result<(Scheme<'_>, &str)> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        let hint = "a URI starts with a scheme, for example `memory-pubsub://`";
        return Err(config(hint.to_owned()));
    };
    let mut parts = scheme.splitn(3, '-');
    let protocol = parts.next().unwrap_or_default();
    let mut part = || parts.next().filter(|part| !part.is_empty());
    let scheme = Scheme {
        protocol: plain(protocol),
        data_type: part().map(str::parse).transpose()?,
        data_scope: part(),
    };
    Ok((scheme, rest))
}

/// The transport's scheme of a protocol.
fn plain(protocol: &str) -> &str {
    match protocol {
        "kombu" => "amqp",
        protocol => protocol,
    }
}

impl FromStr for Settings {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self> {
        let settings = Settings {
            uri: Some(uri.to_owned()),
            ..Settings::default()
        };
        settings.by_uri()
    }
}

impl Settings {
    /// With what the URI says in its place; what is left of that is the transport's.
    pub(super) fn by_uri(mut self) -> Result<Self> {
        let Some(uri) = self.uri.take() else {
            return Ok(self);
        };
        let (scheme, rest) = split_scheme(&uri)?;
        // Not by a parser of URLs, which would refuse a list of hosts.
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = format!("{}://{place}", scheme.protocol);
        let mut own = Serializer::new(String::new());
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "senders" => add(&mut self.senders, list::<Sender>(&value)?),
                "receivers" => add(&mut self.receivers, list::<Receiver>(&value)?),
                _ => drop(own.append_pair(&key, &value)),
            }
        }
        let own = own.finish();
        if !own.is_empty() {
            url = format!("{url}?{own}");
        }
        self.take_parts(&url);
        self.uri = Some(url);
        self.protocol = scheme.protocol.to_owned();
        self.data_type = scheme.data_type.unwrap_or(self.data_type);
        self.data_scope = scheme.data_scope.map(str::to_owned).or(self.data_scope);
        Ok(self)
    }

    /// Puts the parts of a transport's URL in their keys; those of a list of hosts have none.
    fn take_parts(&mut self, url: &str) {
        let Ok(url) = Url::parse(url) else {
            return;
        };
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8_lossy().into_owned();
            Some(text).filter(|text| !text.is_empty())
        };
        self.host = decoded(url.host_str().unwrap_or_default());
        self.port = url.port();
        self.path = decoded(url.path().strip_prefix('/').unwrap_or_default());
        self.user = decoded(url.username());
        self.pwd = decoded(url.password().unwrap_or_default());
    }

    /// The URL that the transport is connected by; a URI has been taken apart.
    pub(super) fn url(&self, registry: &Registry) -> Result<String> {
        if let Some(uri) = &self.uri {
            return Ok(uri.clone());
        }
        let mut place = Place::new(plain(&self.protocol));
        place.host = self.host.as_deref();
        place.port = self.port;
        place.user = self.user.as_deref();
        place.password = self.pwd.as_deref();
        place.virtual_host = self.path.as_deref();
        registry.url_of(&place)
    }

    /// The URL of the connection alone, secrets included: what a transport understands of all this.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::url_of`].
    pub fn connection_url(&self, registry: &Registry) -> Result<String> {
        self.clone().by_uri()?.url(registry)
    }

    /// The exchanges of its senders, and the queues of its receivers.
    pub fn topology(&self) -> Topology {
        // One that can't be read names nobody: connecting tells why.
        let settings = self.clone().by_uri().unwrap_or_else(|_| self.clone());
        let senders = settings.senders.iter();
        let topology = senders.fold(Topology::new(), |topology, sender| {
            topology.exchange(settings.exchange_of(sender))
        });
        let receivers = settings.receivers.iter();
        receivers.fold(topology, |topology, receiver| {
            topology.queue(settings.queue(&receiver.name))
        })
    }

    /// All of it as one URI, secrets included.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::url_of`].
    pub fn uri(&self, registry: &Registry) -> Result<String> {
        let settings = self.clone().by_uri()?;
        let url = settings.url(registry)?;
        let mut own = Serializer::new(String::new());
        let joined = |names: Vec<String>| names.join(",");
        let senders = joined(settings.senders.iter().map(Sender::to_string).collect());
        let receivers = joined(settings.receivers.iter().map(Receiver::to_string).collect());
        for (key, names) in [("senders", senders), ("receivers", receivers)] {
            if !names.is_empty() {
                own.append_pair(key, &names);
            }
        }
        let data_type = match settings.data_type {
            DataType::PubSub => "-pubsub",
            DataType::Pt2Pt => "-pt2pt",
        };
        let scope = settings.data_scope.map(|scope| format!("-{scope}"));
        let scheme = format!("{data_type}{}://", scope.unwrap_or_default());
        let url = url.replacen("://", &scheme, 1);
        let own = own.finish();
        let separator = match (own.is_empty(), url.contains('?')) {
            (true, _) => "",
            (false, true) => "&",
            (false, false) => "?",
        };
        Ok(format!("{url}{separator}{own}"))
    }

    /// The exchange of this name: of the kind that a sender says, or else that of the data type.
    pub(super) fn exchange_of(&self, sender: &Sender) -> Exchange {
        self.exchange_in(sender.mode.as_deref(), &sender.name)
    }

    fn exchange(&self, name: &Name) -> Exchange {
        let mut senders = self.senders.iter();
        let sender = senders.find(|sender| sender.name == *name);
        self.exchange_in(sender.and_then(|sender| sender.mode.as_deref()), name)
    }

    fn exchange_in(&self, mode: Option<&str>, name: &Name) -> Exchange {
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

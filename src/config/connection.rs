//! Connections: where they go, and how they behave.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kombu_core::declare::{DeclareMode, duration};
use kombu_core::mom::{DataType, Settings as Mom};
use kombu_core::{
    Connection, ConnectionBuilder, Deadlines, Error, ErrorKind, Place, Registry, Result,
    RetryPolicy, occo,
};
use serde::{Deserialize, Deserializer};

use super::environment::Surroundings;
#[cfg(feature = "schema")]
use super::schema::{OneOrSeveral, Written};
use super::url::Url;

/// A connection as a file has it. `url` counts whatever the parts say.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "connection")]
pub(super) struct Settings {
    /// Where to connect to; several in a list are tried in order and round again.
    #[cfg_attr(feature = "schema", schemars(with = "Option<OneOrSeveral<Url>>"))]
    #[serde(deserialize_with = "one_or_several")]
    url: Vec<Url>,
    /// Tries several URLs in an order that differs from program to program.
    shuffle: bool,
    /// The scheme of a transport, if there is no `url`.
    protocol: Option<String>,
    /// Default: that of the transport.
    host: Option<String>,
    /// Default: that of the transport.
    port: Option<u16>,
    /// Who connects.
    user: Option<String>,
    /// What proves it.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["pwd"])))]
    #[serde(alias = "pwd")]
    password: Option<String>,
    /// The virtual host, as the transport has them.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["path"])))]
    #[serde(alias = "path")]
    vhost: Option<String>,
    /// Whether it is encrypted: true, false, or whom to trust.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["ssl"])))]
    #[serde(alias = "ssl")]
    tls: Option<Encryption>,
    /// What URLs of this transport have behind their `?`.
    options: BTreeMap<String, Scalar>,
    /// How long connecting may take, as `deadlines.connect`.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "Option<Written>", extend("x-aliases" = ["conn_timeout"]))
    )]
    #[serde(alias = "conn_timeout", with = "duration::option")]
    connect_timeout: Option<Duration>,
    /// Between signs of life, on AMQP: the option `heartbeat`.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(with = "duration::option")]
    heartbeat: Option<Duration>,
    /// How long operations may take.
    deadlines: Option<Deadlines>,
    /// How connecting is tried again.
    retry: RetryPolicy,
    /// What it does about declarations that don't say. Default: ensure.
    declare: Option<DeclareMode>,
    /// The largest body in bytes that is sent. Default: 16 MiB.
    max_message_size: Option<usize>,
    /// The most bytes that a compressed body may come to. Default: 64 MiB.
    max_decompressed_size: Option<usize>,
    /// Canopsis': what is configured is connected when it is asked for.
    #[cfg_attr(feature = "schema", schemars(with = "bool", extend("not" = {"const": false}, "default" = null)))]
    #[serde(deserialize_with = "only_true")]
    auto_connect: bool,
    /// Who gets what senders send.
    data_type: DataType,
    /// Whether what receivers receive has to be acknowledged.
    safe: Option<bool>,
    /// How long a receiver waits for a message. Default: 100 ms.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(with = "duration::option")]
    in_timeout: Option<Duration>,
    /// How long a send may take. Default: 2 s.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(with = "duration::option")]
    out_timeout: Option<Duration>,
}

/// Whom to trust, and who we are: the options of the same names that URLs have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "tls", transform = super::schema::or_flag)
)]
#[serde(default, deny_unknown_fields, rename = "tls", remote = "Self")]
pub(super) struct Encryption {
    /// Default: true, if anything else is said here.
    enabled: Option<bool>,
    /// Authorities to trust, in place of the system's.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["ca"])))]
    #[serde(alias = "ca")]
    ca_file: Option<String>,
    /// Authorities to trust beside the others.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["extra_ca"])))]
    #[serde(alias = "extra_ca")]
    extra_ca_file: Option<String>,
    /// Our certificate.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["cert", "ssl_cert"])))]
    #[serde(alias = "cert", alias = "ssl_cert")]
    cert_file: Option<String>,
    /// Its private key.
    #[cfg_attr(feature = "schema", schemars(extend("x-aliases" = ["key", "ssl_key"])))]
    #[serde(alias = "key", alias = "ssl_key")]
    key_file: Option<String>,
    /// The name that the broker's certificate has to have. Default: the host's.
    server_name: Option<String>,
    /// Certificates are always checked: it can't be false.
    #[cfg_attr(feature = "schema", schemars(with = "bool", extend("not" = {"const": false}, "default" = null)))]
    #[serde(deserialize_with = "always")]
    verify: bool,
}

impl<'de> Deserialize<'de> for Encryption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct FlagOrMap;

        impl<'de> serde::de::Visitor<'de> for FlagOrMap {
            type Value = Encryption;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a map (tls)")
            }

            fn visit_bool<E>(self, enabled: bool) -> std::result::Result<Encryption, E> {
                Ok(Encryption {
                    enabled: Some(enabled),
                    ..Encryption::default()
                })
            }

            // What a variable says is text.
            fn visit_str<E: serde::de::Error>(
                self,
                text: &str,
            ) -> std::result::Result<Encryption, E> {
                match text.trim().parse() {
                    Ok(enabled) => self.visit_bool(enabled),
                    Err(_) => Err(E::invalid_type(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Encryption, A::Error> {
                // Not this one, but that of the fields.
                Encryption::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(FlagOrMap)
    }
}

impl Encryption {
    /// What canopsis' keys say; one without a value says nothing.
    pub(super) fn of_mom(
        enabled: Option<bool>,
        cert_file: Option<String>,
        key_file: Option<String>,
    ) -> Self {
        let filled = |file: Option<String>| file.filter(|file| !file.is_empty());
        Encryption {
            enabled,
            cert_file: filled(cert_file),
            key_file: filled(key_file),
            ..Encryption::default()
        }
    }

    fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let files = [
            ("ca_file", &self.ca_file),
            ("extra_ca_file", &self.extra_ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
            ("server_name", &self.server_name),
        ];
        files
            .into_iter()
            .filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
    }

    pub(super) fn has_files(&self) -> bool {
        self.files().next().is_some()
    }

    /// Keys without `enabled` say that it is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.enabled.unwrap_or(self.has_files())
    }

    /// The same for a URI of canopsis. That encryption isn't wanted is what its file says by default: a URI that has it overrides
    /// that, and otherwise the files are of no use.
    pub(super) fn said_in_uri(&self, uri: &str) -> Result<String> {
        let scheme = uri.split(['-', ':']).next().unwrap_or_default();
        match (self.enabled, is_encrypted(scheme)) {
            (Some(false), false) => Ok(uri.to_owned()),
            (Some(false), true) => {
                let enabled = None;
                let overridden = Encryption {
                    enabled,
                    ..self.clone()
                };
                overridden.said_in(uri)
            }
            _ => self.said_in(uri),
        }
    }

    /// A URL that says this, in its scheme and its query. Canopsis' schemes have more behind that of the transport.
    pub(super) fn said_in(&self, url: &str) -> Result<String> {
        let mut url = url.to_owned();
        if let Some((whole, rest)) = url.split_once("://") {
            let (scheme, more) = whole.split_at(whole.find('-').unwrap_or(whole.len()));
            let plain = ENCRYPTED.iter().find(|(plain, _)| *plain == scheme);
            let is_encrypted = is_encrypted(scheme);
            match (self.is_wanted(), plain) {
                (true, Some((_, encrypted))) => url = format!("{encrypted}{more}://{rest}"),
                (true, None) if !is_encrypted => {
                    return Err(config(&format!(
                        "`tls` (or `ssl`) is of no use to `{whole}://`; leave it out"
                    )));
                }
                (false, _) if is_encrypted && self.enabled == Some(false) => {
                    return Err(config(&format!(
                        "`{whole}://` encrypts, and `tls` (or `ssl`) says that it doesn't; leave that out, or take another scheme"
                    )));
                }
                _ => {}
            }
        }
        let mut query = Query::of(url);
        for (name, value) in self.files() {
            query.add(name, value);
        }
        Ok(query.url)
    }
}

fn is_encrypted(scheme: &str) -> bool {
    ENCRYPTED.iter().any(|(_, encrypted)| *encrypted == scheme)
}

/// A word, a number, true or false, as the query of a URL has them.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(inline, untagged)
)]
enum Scalar {
    Bool(bool),
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Any;

        impl serde::de::Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word, a whole number, true or false")
            }

            fn visit_bool<E>(self, value: bool) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Bool(value))
            }

            fn visit_i64<E>(self, number: i64) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> std::result::Result<Scalar, E> {
                let number = i64::try_from(number).map_err(|_| {
                    E::invalid_value(serde::de::Unexpected::Unsigned(number), &self)
                })?;
                Ok(Scalar::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Scalar, E> {
                Ok(Scalar::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Number(number) => write!(f, "{number}"),
            Scalar::Text(text) => f.write_str(text),
        }
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<Url>, D::Error> {
    struct Urls;

    impl<'de> serde::de::Visitor<'de> for Urls {
        type Value = Vec<Url>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a URL, or a list of URLs")
        }

        fn visit_unit<E>(self) -> std::result::Result<Vec<Url>, E> {
            Ok(Vec::new())
        }

        fn visit_str<E>(self, url: &str) -> std::result::Result<Vec<Url>, E> {
            Ok(vec![Url(url.to_owned())])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> std::result::Result<Vec<Url>, A::Error> {
            let mut urls = Vec::new();
            while let Some(url) = seq.next_element()? {
                urls.push(url);
            }
            Ok(urls)
        }
    }

    deserializer.deserialize_any(Urls)
}

fn only_true<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    match bool::deserialize(deserializer)? {
        true => Ok(true),
        false => Err(serde::de::Error::custom(
            "`auto_connect` can't be false: what isn't to connect isn't opened",
        )),
    }
}

fn always<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    match bool::deserialize(deserializer)? {
        true => Ok(true),
        false => Err(serde::de::Error::custom(
            "`verify` can't be false: certificates are always checked; name the authority of the broker's in `ca_file`, \
             and the name that it has in `server_name`",
        )),
    }
}

/// Schemes with and without encryption.
const ENCRYPTED: [(&str, &str); 4] = [
    ("amqp", "amqps"),
    ("redis", "rediss"),
    ("redis+sentinel", "rediss+sentinel"),
    ("nats", "tls"),
];

impl Settings {
    /// One that canopsis' keys describe.
    pub(super) fn of_mom(mom: &Mom) -> Self {
        Settings {
            connect_timeout: Some(mom.conn_timeout),
            data_type: mom.data_type,
            safe: Some(mom.safe),
            in_timeout: Some(mom.in_timeout),
            out_timeout: Some(mom.out_timeout),
            ..Settings::default()
        }
    }

    /// Whether it says where it goes.
    pub(super) fn has_place(&self) -> bool {
        !self.url.is_empty() || self.protocol.is_some()
    }

    /// Who gets what senders send.
    pub(super) fn data_type(&self) -> DataType {
        self.data_type
    }

    fn has_parts(&self) -> bool {
        let texts = [&self.host, &self.user, &self.password, &self.vhost];
        self.port.is_some() || texts.iter().any(|part| part.is_some())
    }

    /// What the file alone says about it can't be: it goes nowhere.
    pub(super) fn check(&self) -> Result<()> {
        if self.has_place() {
            return Ok(());
        }
        Err(config(match self.has_parts() {
            true => "it has parts of a URL and no `protocol`; set that, or `url`",
            false => {
                "it doesn't say where it goes; set `url`, or `protocol` and what else is known"
            }
        }))
    }

    /// All of its URLs, as this environment completes it.
    pub(super) fn urls(&self, around: &Surroundings, is_default: bool) -> Result<Vec<String>> {
        let registry = crate::registry();
        if is_default && let Some(url) = &around.url {
            // It is another place, to which nothing of this one belongs.
            return Ok(vec![url.0.clone()]);
        }
        if !self.url.is_empty() {
            return self.url.iter().map(|url| self.completed(&url.0)).collect();
        }
        let says_more = self.has_parts();
        if is_default
            && !says_more
            && let Some(url) = around.other_url(self.protocol.as_deref())
        {
            return Ok(vec![self.completed(&url.0)?]);
        }
        let protocol = match &self.protocol {
            Some(protocol) => protocol.as_str(),
            None if is_default && around.names_a_place() => "amqp",
            None => return self.check().map(|()| Vec::new()),
        };
        Ok(vec![self.completed(&self.url_of_parts(
            protocol, around, is_default, &registry,
        )?)?])
    }

    /// The first of its options that the transport of the file's place doesn't have, and why.
    pub(super) fn wrong_option(
        &self,
        around: &Surroundings,
        is_default: bool,
    ) -> Option<(&str, Error)> {
        if !self.has_place() || is_default && around.url.is_some() {
            return None;
        }
        let mut bare = self.clone();
        bare.options.clear();
        let urls = bare.urls(around, is_default).ok()?;
        let registry = crate::registry();
        // What else is wrong is told to who connects: it may not be meant for here.
        if urls.iter().any(|url| registry.check(url).is_err()) {
            return None;
        }
        self.options.iter().find_map(|(name, value)| {
            let value = value.to_string();
            let error = urls.iter().find_map(|url| {
                let mut query = Query::of(url.clone());
                query.add(name, &value);
                registry.check(&query.url).err()
            });
            Some((name.as_str(), error?))
        })
    }

    fn url_of_parts(
        &self,
        protocol: &str,
        around: &Surroundings,
        is_default: bool,
        registry: &Registry,
    ) -> Result<String> {
        // The scheme with encryption may be there where the other one is not.
        let mut place = Place::new(protocol);
        place.host = self.host.as_deref();
        place.port = self.port;
        place.user = self.user.as_deref();
        place.password = self.password.as_deref();
        place.virtual_host = self.vhost.as_deref();
        if is_default {
            around.complete(&mut place);
        }
        registry.url_of(&place)
    }

    /// The URL with what else the file says in its scheme and its query.
    pub(super) fn completed(&self, url: &str) -> Result<String> {
        let mut query = Query::of(match &self.tls {
            Some(tls) => tls.said_in(url)?,
            None => url.to_owned(),
        });
        if let Some(heartbeat) = self.heartbeat {
            let seconds = heartbeat.as_secs();
            if seconds == 0 || Duration::from_secs(seconds) != heartbeat {
                return Err(config(
                    "`heartbeat` is a number of whole seconds, as in `30s`; without a unit, it would be milliseconds",
                ));
            }
            query.add("heartbeat", &seconds.to_string());
        }
        for (name, value) in &self.options {
            query.add(name, &value.to_string());
        }
        Ok(query.url)
    }

    /// Builds a connection to these URLs that behaves as the file says.
    pub(super) fn builder(&self, urls: Vec<String>) -> ConnectionBuilder {
        let mut builder = Connection::builder(crate::registry());
        for url in urls {
            builder = builder.url(url);
        }
        if self.shuffle {
            builder = builder.shuffle_urls();
        }
        let mut deadlines = self.deadlines.unwrap_or_default();
        if let Some(limit) = self.connect_timeout {
            deadlines.connect = limit;
        }
        builder = builder.deadlines(deadlines).retry(self.retry.clone());
        if let Some(mode) = self.declare {
            builder = builder.declare(mode);
        }
        if let Some(bytes) = self.max_message_size {
            builder = builder.max_message_size(bytes);
        }
        if let Some(bytes) = self.max_decompressed_size {
            builder = builder.max_decompressed_size(bytes);
        }
        builder
    }

    /// What of it is for canopsis' senders and receivers.
    pub(super) fn mom(&self, url: String) -> Mom {
        let default = Mom::default();
        Mom {
            uri: Some(url),
            data_type: self.data_type,
            safe: self.safe.unwrap_or(default.safe),
            conn_timeout: self.connect_timeout.unwrap_or(default.conn_timeout),
            in_timeout: self.in_timeout.unwrap_or(default.in_timeout),
            out_timeout: self.out_timeout.unwrap_or(default.out_timeout),
            ..default
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither passwords nor options, among which there may be one.
        f.debug_struct("Settings")
            .field("url", &self.url)
            .field("protocol", &self.protocol)
            .field("host", &self.host)
            .field("vhost", &self.vhost)
            .field("deadlines", &self.deadlines)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

/// A URL to whose query something is added. Not by a parser of URLs, which would refuse a list of hosts.
struct Query {
    url: String,
}

impl Query {
    fn of(url: String) -> Self {
        Query { url }
    }

    /// What the URL says itself stays.
    fn add(&mut self, name: &str, value: &str) {
        let query = self.url.split_once('?').map(|(_, query)| query);
        let mut names = query.unwrap_or_default().split('&');
        if names.any(|pair| pair.split('=').next() == Some(name)) {
            return;
        }
        let separator = if query.is_some() { '&' } else { '?' };
        self.url.push(separator);
        self.url.push_str(name);
        self.url.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                    self.url.push(byte.into());
                }
                _ => self.url.push_str(&format!("%{byte:02X}")),
            }
        }
    }
}

fn config(message: &str) -> Error {
    Error::new(ErrorKind::Config, message)
}

/// Where the default connection goes if another library's part of the file says it.
pub(super) enum Elsewhere<'a> {
    Mom(&'a Mom),
    Occo(&'a occo::Config),
}

impl Elsewhere<'_> {
    pub(super) fn url(&self) -> Result<String> {
        let registry = crate::registry();
        match self {
            Elsewhere::Mom(mom) => mom.connection_url(&registry),
            Elsewhere::Occo(config) => config.connection_url(&registry),
        }
    }
}

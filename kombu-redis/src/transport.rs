use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
#[cfg(feature = "tls")]
use kombu_core::driver::tls::{Tls, rustls};
use kombu_core::driver::tls::{TlsOptions, TlsSource};
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::virt::VirtualConnection;
use kombu_core::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use serde::Deserialize;
use url::Url;

use crate::bell::Bells;
#[cfg(not(feature = "tls"))]
use crate::dial::Tls;
use crate::dial::{Dialer, Place, User, Wire};
use crate::error::{classify_connect, unexpected};
use crate::flight::number;
use crate::hear::{self, Ear};
use crate::left;
use crate::line::Line;
use crate::look;
use crate::pulse::{self, Pulse};
use crate::script::{self, Script};
use crate::store::{GIVEN_BACK, RedisStore, Shared, milliseconds};

/// The Redis transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redis;

/// What the query of a Redis URL can say.
///
/// Those from `ca_file` to `server_name` are for `rediss://` and `rediss+sentinel://` only, and refused elsewhere. There is no
/// option that leaves the server's certificate unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RedisOptions {
    /// The number of the database, where the path doesn't say it: in `redis+unix://` and `redis+sentinel://` URLs.
    /// Default: 0.
    pub db: Option<i64>,
    /// The same in a `redis+socket://` URL as kombu writes it. Default: what `db` says.
    pub virtual_host: Option<i64>,
    /// What every key and channel begins with: kombu's `global_keyprefix`. Python has to use the same. Default: nothing.
    pub prefix: String,
    /// Seconds after which a client that says nothing is taken for dead, and what it held goes back. Default: 10; at
    /// least 1.
    pub lease: u64,
    /// Where messages lie: `kombu`, as Python's kombu has them, is the only one so far.
    pub layout: Layout,
    /// Whose publishes to fanout exchanges reach our queues. Default: `ours`.
    pub fanout: Fanout,
    /// The largest body in bytes. Default: 16 MiB.
    pub max_message_size: Option<usize>,
    /// Who asks the Sentinels of a `redis+sentinel://` URL; whoever the URL names in front of the hosts asks the master.
    /// Default: nobody by name.
    pub sentinel_username: Option<String>,
    /// The password for the Sentinels. Default: none.
    pub sentinel_password: Option<Secret>,
    /// A file with certificates in PEM: the authorities that the server's may come from. Default: those that the system
    /// trusts. Files are read at each attempt to connect, so that renewed ones are found.
    pub ca_file: Option<PathBuf>,
    /// The same, beside those that the system trusts.
    pub extra_ca_file: Option<PathBuf>,
    /// A file with our own certificate in PEM, for a server that asks for it (`tls-auth-clients`), and what lies between it
    /// and its authority.
    pub cert_file: Option<PathBuf>,
    /// A file with the key of our own certificate in PEM, not encrypted. Default: `cert_file`, which may hold both.
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate has to be for, and that is sent to it; with Sentinels, theirs too. Default:
    /// the host of the URL, and with Sentinels what they say.
    pub server_name: Option<String>,
}

/// How queues lie in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Layout {
    /// As Python's kombu has them.
    #[default]
    Kombu,
}

/// Whose publishes to fanout exchanges reach our queues. In either case, ours reach both our queues and Python's consumers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Fanout {
    /// Those of this library.
    #[default]
    Ours,
    /// Python's too: kombu has them in no list, only on a channel, so they are stored by one of those who listen with this
    /// option. What nobody listens to is lost, as it is among Python's own; so is what comes while 256 others wait to be
    /// stored, of which a warning is given.
    Kombu,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// This text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("**")
    }
}

impl Default for RedisOptions {
    fn default() -> Self {
        RedisOptions {
            db: None,
            virtual_host: None,
            prefix: String::new(),
            lease: 10,
            layout: Layout::Kombu,
            fanout: Fanout::Ours,
            max_message_size: None,
            sentinel_username: None,
            sentinel_password: None,
            ca_file: None,
            extra_ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
        }
    }
}

impl RedisOptions {
    fn tls(&self) -> TlsOptions {
        let mut options = TlsOptions::default();
        options.ca_file = self.ca_file.clone();
        options.extra_ca_file = self.extra_ca_file.clone();
        options.cert_file = self.cert_file.clone();
        options.key_file = self.key_file.clone();
        options.server_name = self.server_name.clone();
        options
    }

    /// Options that would have no effect, or that nothing can work with, are refused.
    fn check(&self, scheme: &str, source: TlsSource) -> Result<()> {
        let of_sentinels = [
            ("sentinel_username", self.sentinel_username.is_some()),
            ("sentinel_password", self.sentinel_password.is_some()),
        ];
        let of_sentinels = of_sentinels.iter().find(|(_, is_given)| *is_given);
        let problem = self.tls().problem(source).or_else(|| {
            if self.lease == 0 {
                return Some("`lease` is 0; it has to be at least 1 s".to_owned());
            }
            if self.virtual_host.is_some() && !matches!(scheme, "redis+socket" | "redis+unix") {
                return Some("`virtual_host` is for `redis+socket://` only; write `db`".to_owned());
            }
            match of_sentinels {
                Some((name, _)) if !scheme.ends_with("+sentinel") => {
                    Some(format!("`{name}` is for `redis+sentinel://` only"))
                }
                _ => None,
            }
        });
        match problem {
            None => Ok(()),
            Some(problem) => Err(config(&format!("option of a `{scheme}` URL: {problem}"))),
        }
    }
}

/// How, and within which limits; `docs/semantics.md` says it whole.
const NOTES: &[(Feature, &str)] = &[
    (Feature::AlternateExchange, "routed by the client"),
    (Feature::ExchangeBinding, "routed by the client"),
    (
        Feature::CustomExchangeKind,
        "routed by a function that the program registers",
    ),
    (
        Feature::AutoDelete,
        "among what uses this library; Python's consumers don't count",
    ),
    (
        Feature::ExclusiveQueue,
        "goes with its session's lease, within 10 s of a crash unless `lease` says otherwise",
    ),
    (
        Feature::QueueExpiry,
        "among what uses this library; Python's consumers don't count; while anybody is connected with this library",
    ),
    (
        Feature::QueueMessageTtl,
        "while anybody is connected with this library; what Python publishes has none",
    ),
    (
        Feature::MessageTtl,
        "while anybody is connected with this library; what Python publishes has none",
    ),
    (Feature::DeadLetter, "moved by the client, with x-death"),
    (
        Feature::MaxLength,
        "exact among what publishes with this library",
    ),
    (
        Feature::MaxLengthBytes,
        "exact among what publishes and consumes with this library",
    ),
    (
        Feature::RejectPublish,
        "among what publishes with this library",
    ),
    (
        Feature::Priority,
        "up to 9 in four levels, as Python has them: neighbours may share one",
    ),
    (
        Feature::MaxDeliveries,
        "among what consumes with this library",
    ),
    (
        Feature::SingleActiveConsumer,
        "among what uses this library; Python's consumers don't count",
    ),
    (
        Feature::ExclusiveConsumer,
        "among what uses this library; Python's consumers don't count",
    ),
    (
        Feature::NoLocal,
        "the client drops what its own connection published",
    ),
    (
        Feature::DelayedPublish,
        "while anybody is connected with this library",
    ),
    (
        Feature::DelayedRetry,
        "while anybody is connected with this library",
    ),
];

/// What the transport does; Redis itself has lists.
pub(crate) const CAPABILITIES: Capabilities = {
    let mut all = Capabilities::basic();
    let mut index = 0;
    while index < Feature::ALL.len() {
        all = all.emulated(Feature::ALL[index]);
        index += 1;
    }
    all.without(Feature::ConsumerPriority)
        .without(Feature::Immediate)
        .with_max_priority(9)
        .with_notes(NOTES)
};

const SCHEMES: &[&str] = &[
    "redis",
    "redis+unix",
    "redis+socket",
    "redis+sentinel",
    #[cfg(feature = "tls")]
    "rediss",
    #[cfg(feature = "tls")]
    "rediss+sentinel",
];

#[async_trait]
impl Transport for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn schemes(&self) -> &'static [&'static str] {
        SCHEMES
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn takes_hosts(&self, scheme: &str) -> bool {
        scheme.ends_with("+sentinel")
    }

    /// A number is a database, and any other name begins the names of keys.
    fn set_virtual_host(&self, url: &mut Url, name: &str) {
        set_virtual_host(url, name);
    }

    fn virtual_host(&self, url: &Url) -> String {
        virtual_host(url)
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        target.options::<RedisOptions>()?;
        Ok(target)
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: RedisOptions = target.options()?;
        let scheme = target.url().scheme();
        #[cfg(feature = "tls")]
        if scheme.starts_with("rediss") {
            options.check(scheme, TlsSource::Options)?;
            let tls = Tls::new(&options.tls(), None).await?;
            return open(target, &options, Some(tls)).await;
        }
        let encrypted = match scheme {
            "redis+sentinel" => "rediss+sentinel",
            _ => "rediss",
        };
        options.check(scheme, TlsSource::None(encrypted))?;
        open(target, &options, None).await
    }
}

#[cfg(feature = "tls")]
impl Redis {
    /// The same with a TLS configuration of the program's own, for all that the options of a URL can't say: keys in
    /// hardware, revocation lists, an authority of the program's. It has `rediss://` and `rediss+sentinel://` only; options
    /// that name files are refused then.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use kombu_core::Registry;
    /// use kombu_redis::{Redis, rustls};
    ///
    /// let mut roots = rustls::RootCertStore::empty();
    /// # let mine: [rustls::pki_types::CertificateDer<'static>; 0] = [];
    /// roots.add_parsable_certificates(mine);
    /// let provider = Arc::new(rustls::crypto::ring::default_provider());
    /// let config = rustls::ClientConfig::builder_with_provider(provider)
    ///     .with_safe_default_protocol_versions()?
    ///     .with_root_certificates(roots)
    ///     .with_no_client_auth();
    /// let registry = Registry::new().with(Redis.with_tls_config(config));
    /// assert_eq!(registry.schemes(), ["rediss", "rediss+sentinel"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_tls_config(self, config: impl Into<Arc<rustls::ClientConfig>>) -> RedisWithTls {
        RedisWithTls {
            config: config.into(),
        }
    }
}

/// The Redis transport with a TLS configuration of the program's own; see [`Redis::with_tls_config`].
#[cfg(feature = "tls")]
#[derive(Clone, Debug)]
pub struct RedisWithTls {
    config: Arc<rustls::ClientConfig>,
}

#[cfg(feature = "tls")]
#[async_trait]
impl Transport for RedisWithTls {
    fn name(&self) -> &'static str {
        Redis.name()
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["rediss", "rediss+sentinel"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn takes_hosts(&self, scheme: &str) -> bool {
        Redis.takes_hosts(scheme)
    }

    /// A number is a database, and any other name begins the names of keys.
    fn set_virtual_host(&self, url: &mut Url, name: &str) {
        set_virtual_host(url, name);
    }

    fn virtual_host(&self, url: &Url) -> String {
        virtual_host(url)
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        Redis.resolve(target)
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: RedisOptions = target.options()?;
        options.check(target.url().scheme(), TlsSource::Program)?;
        let tls = Tls::new(&options.tls(), Some(self.config.clone())).await?;
        open(target, &options, Some(tls)).await
    }
}

async fn open(
    target: &Target,
    options: &RedisOptions,
    tls: Option<Tls>,
) -> Result<Arc<dyn Connection>> {
    let capabilities = match options.max_message_size {
        Some(bytes) => CAPABILITIES.with_max_message_size(bytes),
        None => CAPABILITIES,
    };
    let address = Address::of(target, options)?;
    let kinds = target.exchange_kinds().clone();
    let (ear, heard) = hear::ear(options.fanout, kinds.clone());
    let Begun {
        shared,
        ended,
        snapshots,
    } = begin(address, options, tls, ear).await?;
    if let Some(heard) = heard {
        tokio::spawn(hear::store(Arc::downgrade(&shared), heard));
    }
    // From here on, whoever gives up ends the session.
    let store = RedisStore::new(shared.clone(), capabilities);
    if let Some(snapshots) = snapshots {
        say_what_is_stored(&shared, snapshots).await;
    }
    drop(shared);
    store.clean_up(&ended).await;
    VirtualConnection::open_with(store, kinds).await
}

/// Where a server is, and what of it is ours.
#[derive(Clone)]
pub(crate) struct Address {
    place: Place,
    user: User,
    sentinel_user: User,
    pub(crate) db: i64,
    prefix: Arc<str>,
}

impl Address {
    fn of(target: &Target, options: &RedisOptions) -> Result<Self> {
        let url = target.url();
        let (place, db) = match url.scheme() {
            "redis+unix" | "redis+socket" => {
                if !matches!(url.host_str(), None | Some("" | "localhost")) {
                    return Err(config(
                        "a socket is on this machine; write `redis+unix:///path`, or `redis+unix://user:password@localhost/path`",
                    ));
                }
                let path = decoded(url.path(), "path")?;
                (Place::Unix(path.into()), options.virtual_host)
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let master = decoded(url.path().trim_start_matches('/'), "name of the master")?;
                if master.is_empty() || master.contains('/') {
                    return Err(config(&format!(
                        "the path is no name of a master; a URL with Sentinels is \
                         `{}://host1:26379,host2:26379/master?db=0`",
                        url.scheme()
                    )));
                }
                let first = (host(url), url.port());
                let others = target.other_hosts().iter().cloned();
                let sentinels = std::iter::once(first).chain(others);
                let sentinels = sentinels.map(|(host, port)| {
                    let host = host.trim_matches(['[', ']']).to_owned();
                    (host, port.unwrap_or(26379))
                });
                let sentinels = sentinels.collect();
                (Place::Watched { master, sentinels }, None)
            }
            scheme => {
                let db = match url.path().trim_start_matches('/') {
                    "" => None,
                    path => Some(path.parse().map_err(|_| {
                        config(&format!(
                            "`{path}` is no number of a database; a Redis URL is `{scheme}://host:port/0`"
                        ))
                    })?),
                };
                (Place::Tcp(host(url), url.port().unwrap_or(6379)), db)
            }
        };
        if db.is_some() && options.db.is_some() && db != options.db {
            return Err(config(match options.virtual_host {
                Some(_) => "`virtual_host` and `db` name different databases",
                None => "the path and `db` name different databases",
            }));
        }
        let name = match url.username() {
            "" => None,
            user => Some(decoded(user, "user")?),
        };
        let password = match url.password() {
            None => None,
            Some(password) => Some(decoded(password, "password")?),
        };
        let sentinel_password = options.sentinel_password.as_ref();
        Ok(Address {
            place,
            user: User { name, password },
            sentinel_user: User {
                name: options.sentinel_username.clone(),
                password: sentinel_password.map(|Secret(password)| password.clone()),
            },
            db: db.or(options.db).unwrap_or(0),
            prefix: options.prefix.as_str().into(),
        })
    }

    /// Connects to the server.
    pub(crate) async fn dial(
        &self,
        tls: Option<Tls>,
        config: AsyncConnectionConfig,
    ) -> Result<Wire> {
        let dialer = Dialer {
            user: &self.user,
            db: self.db,
            sentinel_user: &self.sentinel_user,
            tls,
        };
        dialer.dial(&self.place, config).await
    }

    /// What sessions have in common that see the same keys.
    fn session_place(&self) -> Arc<str> {
        format!("{}/{} {}", self.place, self.db, self.prefix).into()
    }

    /// The channel that Python's consumers of a fanout exchange listen at, for messages with this routing key.
    pub(crate) fn channel(&self, exchange: &str, routing_key: &str) -> String {
        let (prefix, db) = (&self.prefix, self.db);
        match routing_key {
            "" => format!("{prefix}/{db}.{exchange}"),
            key => format!("{prefix}/{db}.{exchange}/{key}"),
        }
    }
}

fn set_virtual_host(url: &mut Url, name: &str) {
    match name.parse::<u32>() {
        Ok(_) if matches!(url.scheme(), "redis" | "rediss") => url.set_path(name),
        Ok(_) => {
            url.query_pairs_mut().append_pair("db", name);
        }
        Err(_) => {
            let prefix = format!("{name}.");
            url.query_pairs_mut().append_pair("prefix", &prefix);
        }
    }
}

fn virtual_host(url: &Url) -> String {
    let option = |name: &str| url.query_pairs().find(|(key, _)| key == name);
    if let Some((_, prefix)) = option("prefix") {
        return prefix.strip_suffix('.').unwrap_or(&prefix).to_owned();
    }
    match (
        url.scheme(),
        option("db").or_else(|| option("virtual_host")),
    ) {
        (_, Some((_, db))) => db.into_owned(),
        ("redis" | "rediss", None) => url.path().trim_start_matches('/').to_owned(),
        _ => String::new(),
    }
}

fn host(url: &Url) -> String {
    match url.host_str() {
        None | Some("") => "localhost".to_owned(),
        Some(host) => host.trim_matches(['[', ']']).to_owned(),
    }
}

fn decoded(text: &str, what: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(config(&format!("the {what} of the URL isn't UTF-8"))),
    }
}

fn config(text: &str) -> Error {
    Error::new(ErrorKind::Config, text)
}

/// What the server says by itself.
struct Pushed {
    bells: Arc<Bells>,
    line: OnceLock<Weak<Line>>,
    ear: Option<Arc<Ear>>,
}

impl Pushed {
    fn take(&self, push: &PushInfo) {
        match push.kind {
            PushKind::Invalidate => match push.data.first() {
                Some(Value::Array(keys)) => {
                    for key in keys {
                        if let Value::BulkString(key) = key {
                            self.bells.ring(key);
                        }
                    }
                }
                // Everything was flushed.
                _ => self.bells.ring_all(),
            },
            PushKind::Message | PushKind::PMessage => {
                if let (Some(ear), Some(Value::BulkString(text))) = (&self.ear, push.data.last()) {
                    ear.hear(text);
                }
            }
            PushKind::Disconnection => {
                if let Some(line) = self.line.get().and_then(Weak::upgrade) {
                    line.lose(&Error::new(
                        ErrorKind::ConnectionLost,
                        "Redis has closed the connection",
                    ));
                }
            }
            _ => {}
        }
    }
}

/// A session.
struct Begun {
    shared: Arc<Shared>,
    /// What the server said to the end of each session that was left here.
    ended: Vec<Value>,
    /// Those of a server that writes no append-only file.
    snapshots: Option<Snapshots>,
}

/// Whether a server makes snapshots.
enum Snapshots {
    /// Its user may ask.
    Asked,
    Unknown,
}

/// Whether the user may ask when snapshots are made.
const MAY_ASK: &str = "return redis.acl_check_cmd('CONFIG', 'GET', 'save')";

/// Begins a session.
async fn begin(
    address: Address,
    options: &RedisOptions,
    tls: Option<Tls>,
    ear: Option<Arc<Ear>>,
) -> Result<Begun> {
    let place = address.place.to_string();
    let at = |error: Error| error.with_context(&format!("`{place}`"));
    let pushed = Arc::new(Pushed {
        bells: Arc::default(),
        line: OnceLock::new(),
        ear: ear.clone(),
    });
    let told = pushed.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            told.take(&push);
            Ok::<(), redis::aio::SendError>(())
        });
    let mut wire = address.dial(tls.clone(), config).await?;
    let mut greeting = script::load_all();
    // The youngest command that the scripts need; one that isn't there shows in a script only when it is met.
    greeting
        .cmd("SINTERCARD")
        .arg(1)
        .arg(format!("{}_kombu.rs.nothing", address.prefix));
    greeting.cmd("INFO").arg("cluster");
    let needed = greeting.len();
    greeting
        .cmd("CLIENT")
        .arg("TRACKING")
        .arg("ON")
        .arg("OPTIN");
    // For nothing, to see whether it is allowed.
    greeting.cmd("CLIENT").arg("CACHING").arg("YES");
    greeting.cmd("INFO").arg("memory").arg("persistence");
    // Refusals are written down there: who may not ask, doesn't.
    greeting.cmd("EVAL").arg(MAY_ASK).arg(0);
    let here = address.session_place();
    let left = left::at(&here);
    for session in &left {
        let mut end = Script::End.call(&address.prefix);
        end.arg(*session).arg(GIVEN_BACK);
        greeting.add_command(end);
    }
    let lease = Duration::from_secs(options.lease);
    let mut connect = Script::Connect.call(&address.prefix);
    connect.arg(milliseconds(Pulse::overdue(lease)));
    greeting.add_command(connect);
    let count = greeting.len();
    let answers = wire
        .connection
        .send_packed_commands(&greeting, 0, count)
        .await
        .map_err(|error| at(classify_connect(error)))?;
    let (needed, others) = answers.split_at(needed.min(answers.len()));
    // Before errors: a cluster has another one for a key that is elsewhere.
    if let Some(cluster) = needed.last().and_then(text)
        && cluster.contains("cluster_enabled:1")
    {
        return Err(at(Error::new(
            ErrorKind::Unsupported,
            "this is a Redis Cluster, where the keys of a queue lie apart; use one server, or a Sentinel",
        )));
    }
    for answer in needed {
        if let Value::ServerError(problem) = answer {
            return Err(at(crate::error::classify(problem)));
        }
    }
    let (telling, others) = others.split_at(2.min(others.len()));
    let refusal = telling.iter().find_map(|answer| match answer {
        Value::ServerError(problem) => Some(problem),
        _ => None,
    });
    if let Some(refusal) = refusal {
        tracing::warn!(
            %place,
            %refusal,
            pause = ?look::PAUSE,
            "this Redis doesn't tell of new messages, so consumers look for them now and then; give the user the right to \
             `CLIENT TRACKING` and `CLIENT CACHING`"
        );
    }
    let state = others.first().and_then(text).unwrap_or_default();
    let snapshots = match (field(state, "aof_enabled"), others.get(1)) {
        (Some("0"), Some(Value::Int(1))) => Some(Snapshots::Asked),
        (Some("0"), _) => Some(Snapshots::Unknown),
        _ => None,
    };
    if let Some(policy) = evicting(state) {
        tracing::warn!(
            %place,
            policy,
            "this Redis throws away queues when its memory is full; set its `maxmemory-policy` to `noeviction`"
        );
    }
    let session = match answers.last() {
        Some(Value::ServerError(problem)) if problem.code() == "LAYOUT" => {
            return Err(at(Error::new(
                ErrorKind::Unsupported,
                "a newer version of this library has written here what this one doesn't understand; use that, or \
                 another prefix",
            )));
        }
        Some(answer) => number(answer).ok_or_else(|| at(unexpected("a new session", answer)))?,
        None => return Err(at(unexpected("a new session", &Value::Nil))),
    };
    left::forget(&here, &left);
    let prefix = address.prefix.clone();
    let session = left::Session {
        place: here,
        number: session,
        lease,
    };
    let line = Line::open(wire, prefix, session);
    // Only the first is set.
    let _ = pushed.line.set(Arc::downgrade(&line));
    let is_told = refusal.is_none();
    let bells = pushed.bells.clone();
    let shared = Shared::new(line, bells, is_told, ear, address, tls, lease);
    tokio::spawn(pulse::beat(Arc::downgrade(&shared)));
    if !is_told {
        tokio::spawn(look::now_and_then(Arc::downgrade(&shared)));
    }
    let ended = others.iter().skip(2).take(left.len());
    Ok(Begun {
        shared,
        ended: ended.cloned().collect(),
        snapshots,
    })
}

/// For a server that writes no append-only file.
async fn say_what_is_stored(shared: &Shared, snapshots: Snapshots) {
    let place = &shared.address.place;
    if let Snapshots::Asked = snapshots {
        let mut question = redis::cmd("CONFIG");
        question.arg("GET").arg("save");
        // Without an answer, the session is over, or one doesn't know.
        let answer = shared.line.ask(question).await.unwrap_or(Value::Nil);
        if let Value::Map(settings) = &answer
            && let [(_, when)] = &settings[..]
            && text(when) == Some("")
        {
            tracing::warn!(
                %place,
                "this Redis stores nothing: when it ends, its queues are gone with all that is in them, durable ones too; \
                 set its `appendonly` to `yes`, or its `save`"
            );
            return;
        }
    }
    tracing::info!(
        %place,
        "this Redis writes no append-only file: if it is killed, what it confirmed since its last snapshot is gone"
    );
}

/// The policy of a server that makes room by throwing away keys. Lists of answers have an expiry, and other queues none.
fn evicting(state: &str) -> Option<&str> {
    let policy = field(state, "maxmemory_policy")?;
    (policy != "noeviction").then_some(policy)
}

/// A field of what `INFO` answers.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(text).ok(),
        Value::VerbatimString { text, .. } => Some(text),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use async_trait::async_trait;
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::message::Envelope;
use kombu_core::virt::VirtualConnection;
use kombu_core::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisConnectionInfo, Value,
};
use serde::Deserialize;
use url::Url;

use crate::bell::Bells;
use crate::error::{classify_connect, unexpected};
use crate::flight::number;
use crate::left;
use crate::line::Line;
use crate::pulse;
use crate::script::{self, Script};
use crate::store::{GIVEN_BACK, RedisStore, Shared};

/// The Redis transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redis;

/// What the query of a `redis://` URL can say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RedisOptions {
    /// The number of the database, where the path doesn't say it: in `redis+unix://` URLs. Default: 0.
    pub db: Option<i64>,
    /// What every key begins with: kombu's `global_keyprefix`. Python has to use the same. Default: nothing.
    pub prefix: String,
    /// Seconds after which a client that says nothing is taken for dead, and what it held goes back. Default: 10; at
    /// least 1.
    pub lease: u64,
    /// Where messages lie: `kombu`, as Python's kombu has them, is the only one so far.
    pub layout: Layout,
    /// The largest body in bytes. Default: 16 MiB.
    pub max_message_size: Option<usize>,
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

impl Default for RedisOptions {
    fn default() -> Self {
        RedisOptions {
            db: None,
            prefix: String::new(),
            lease: 10,
            layout: Layout::Kombu,
            max_message_size: None,
        }
    }
}

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
};

const SCHEMES: &[&str] = &["redis", "redis+unix", "redis+socket"];

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

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: RedisOptions = target.options()?;
        if options.lease == 0 {
            return Err(config("the lease of a session has to be at least 1 s"));
        }
        let capabilities = match options.max_message_size {
            Some(bytes) => CAPABILITIES.with_max_message_size(bytes),
            None => CAPABILITIES,
        };
        let address = Address::of(target.url(), &options)?;
        let (shared, ended) = begin(address, &options).await?;
        let kinds = target.exchange_kinds().clone();
        // From here on, whoever gives up ends the session.
        let store = RedisStore::new(shared, capabilities);
        store.clean_up(&ended).await;
        VirtualConnection::open_with(store, kinds).await
    }
}

/// Where a server is, and what of it is ours.
#[derive(Clone)]
pub(crate) struct Address {
    place: ConnectionAddr,
    username: Option<String>,
    password: Option<String>,
    db: i64,
    prefix: Arc<str>,
}

impl Address {
    fn of(url: &Url, options: &RedisOptions) -> Result<Self> {
        let decoded = |text: &str, what: &str| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err(config(&format!("the {what} of the URL isn't UTF-8"))),
        };
        let is_socket = matches!(url.scheme(), "redis+unix" | "redis+socket");
        let (place, db) = if is_socket {
            let path = decoded(url.path(), "path")?;
            (ConnectionAddr::Unix(path.into()), None)
        } else {
            let host = match url.host_str() {
                None | Some("") => "localhost",
                Some(host) => host.trim_matches(['[', ']']),
            };
            let db = match url.path().trim_start_matches('/') {
                "" => None,
                path => Some(path.parse().map_err(|_| {
                    config(&format!(
                        "`{path}` is no number of a database; a Redis URL is `redis://host:port/0`"
                    ))
                })?),
            };
            let port = url.port().unwrap_or(6379);
            (ConnectionAddr::Tcp(host.to_owned(), port), db)
        };
        if db.is_some() && options.db.is_some() && db != options.db {
            return Err(config("the path and `db` name different databases"));
        }
        let username = match url.username() {
            "" => None,
            user => Some(decoded(user, "user")?),
        };
        let password = match url.password() {
            None => None,
            Some(password) => Some(decoded(password, "password")?),
        };
        Ok(Address {
            place,
            username,
            password,
            db: db.or(options.db).unwrap_or(0),
            prefix: options.prefix.as_str().into(),
        })
    }

    fn client(&self) -> redis::RedisResult<Client> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.db)
            .set_protocol(ProtocolVersion::RESP3);
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let info = self.place.clone().into_connection_info()?;
        let info = info
            .set_redis_settings(settings)
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Client::open(info)
    }

    /// What sessions have in common that see the same keys.
    fn session_place(&self) -> Arc<str> {
        format!("{}/{} {}", self.place, self.db, self.prefix).into()
    }

    /// The channel that Python's consumers of a message's fanout exchange listen at.
    pub(crate) fn channel(&self, envelope: &Envelope) -> Arc<str> {
        let (prefix, db, exchange) = (&self.prefix, self.db, envelope.exchange());
        match envelope.routing_key().as_str() {
            "" => format!("{prefix}/{db}.{exchange}").into(),
            key => format!("{prefix}/{db}.{exchange}/{key}").into(),
        }
    }
}

fn config(text: &str) -> Error {
    Error::new(ErrorKind::Config, text)
}

/// What the server says by itself.
struct Pushed {
    bells: Arc<Bells>,
    line: OnceLock<Weak<Line>>,
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

/// Begins a session. Answers what the server said to the end of each session that was left here.
async fn begin(address: Address, options: &RedisOptions) -> Result<(Arc<Shared>, Vec<Value>)> {
    let place = address.place.to_string();
    let at = |error: Error| error.with_context(&format!("`{place}`"));
    let client = address
        .client()
        .map_err(|error| at(classify_connect(error)))?;
    let pushed = Arc::new(Pushed {
        bells: Arc::default(),
        line: OnceLock::new(),
    });
    let told = pushed.clone();
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            told.take(&push);
            Ok::<(), redis::aio::SendError>(())
        });
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| at(classify_connect(error)))?;
    let mut greeting = script::load_all();
    // The youngest command that the scripts need; one that isn't there shows in a script only when it is met.
    greeting
        .cmd("SINTERCARD")
        .arg(1)
        .arg(format!("{}_kombu.rs.nothing", address.prefix));
    greeting
        .cmd("CLIENT")
        .arg("TRACKING")
        .arg("ON")
        .arg("OPTIN");
    greeting.cmd("INFO").arg("cluster");
    let needed = greeting.len();
    greeting.cmd("INFO").arg("memory").arg("persistence");
    let here = address.session_place();
    let left = left::at(&here);
    for session in &left {
        let mut end = Script::End.call(&address.prefix);
        end.arg(*session).arg(GIVEN_BACK);
        greeting.add_command(end);
    }
    let lease = Duration::from_secs(options.lease);
    let mut connect = Script::Connect.call(&address.prefix);
    connect.arg(options.lease.saturating_mul(1000));
    greeting.add_command(connect);
    let count = greeting.len();
    let answers = connection
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
    let state = others.first().and_then(text).unwrap_or_default();
    if field(state, "aof_enabled") == Some("0") {
        tracing::info!(
            %place,
            "this Redis writes no append-only file: if it is killed, what it confirmed since its last snapshot is gone"
        );
    }
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
    let line = Line::open(connection, prefix, session);
    // Only the first is set.
    let _ = pushed.line.set(Arc::downgrade(&line));
    let shared = Shared::new(line, pushed.bells.clone(), address, lease);
    tokio::spawn(pulse::beat(Arc::downgrade(&shared)));
    let ended = others.iter().skip(1).take(left.len());
    Ok((shared, ended.cloned().collect()))
}

/// The policy of a server that makes room by throwing away keys without an expiry, which queues are.
fn evicting(state: &str) -> Option<&str> {
    let policy = field(state, "maxmemory_policy")?;
    policy.starts_with("allkeys-").then_some(policy)
}

/// A field of what `INFO` answers.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(text).ok(),
        Value::VerbatimString { text, .. } => Some(text),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

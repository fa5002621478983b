use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{ConnectOptions, Event, ReconnectToServer, ServerAddr};
use async_trait::async_trait;
use kombu_core::declare::Queue;
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::virt::VirtualConnection;
use kombu_core::{Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::sync::watch;
use url::Url;

use crate::api;
use crate::error::classify_connect;
use crate::known;
use crate::left;
use crate::line::{Line, Loss, lose};
use crate::names::Layout;
use crate::outlet;
use crate::pulse;
use crate::session::Shared;
use crate::store::NatsStore;

/// The NATS transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nats;

/// What the query of a `nats://` URL can say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NatsOptions {
    /// What the names of all streams and subjects begin with: a virtual host. Letters, digits, `-` and `_`. Default: `kombu`.
    pub prefix: String,
    /// The JetStream domain. Default: that of the server.
    pub domain: Option<String>,
    /// On how many servers of a cluster everything durable lies, 1 to 5. Temporary queues lie on one. Default: 1.
    pub replicas: usize,
    /// Where durable queues lie. Default: `file`.
    pub storage: Storage,
    /// A file with credentials, as `nsc` writes them. Default: none.
    pub credentials: Option<String>,
    /// The seed of a key, as `nk` writes it. Default: none.
    pub nkey: Option<String>,
    /// A file with certificates of authorities that are trusted beside those of the system. Default: none.
    pub ca: Option<String>,
    /// The largest message in bytes. Default: what the server takes, less 16 KiB for headers.
    pub max_message_size: Option<usize>,
}

/// Where a durable queue lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In the server's memory: it ends with the server.
    Memory,
}

impl Default for NatsOptions {
    fn default() -> Self {
        NatsOptions {
            prefix: "kombu".to_owned(),
            domain: None,
            replicas: 1,
            storage: Storage::File,
            credentials: None,
            nkey: None,
            ca: None,
            max_message_size: None,
        }
    }
}

/// What is left for headers of the server's limit.
const HEADERS: usize = 16 << 10;

/// Beyond what can be under way at once, so that nothing ever waits for room in the client's own queue.
const CAPACITY: usize = 1 << 20;

/// How often the server is asked whether it is there, if it says nothing.
const PING: Duration = Duration::from_secs(5);

/// What the transport does; NATS itself has streams.
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

/// Where a session's streams lie.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    server: String,
    prefix: String,
    pub(crate) replicas: usize,
    storage: Storage,
}

impl Place {
    /// The storage and the number of replicas of a queue.
    pub(crate) fn of(&self, queue: &Queue) -> (&'static str, usize) {
        if !queue.is_durable() {
            return ("memory", 1);
        }
        let storage = match self.storage {
            Storage::File => "file",
            Storage::Memory => "memory",
        };
        let is_temporary =
            queue.is_exclusive() || queue.is_auto_delete() || queue.get_expires().is_some();
        (storage, if is_temporary { 1 } else { self.replicas })
    }

    /// What sessions have in common that see the same streams.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.server, self.prefix)
    }
}

#[async_trait]
impl Transport for Nats {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["nats", "tls"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: NatsOptions = target.options()?;
        check(&options)?;
        let lost: Loss = watch::Sender::new(None);
        let client = connect(target.url(), &options, &lost).await?;
        let capabilities = {
            let limit = client.max_payload().saturating_sub(HEADERS);
            CAPABILITIES.with_max_message_size(options.max_message_size.unwrap_or(limit).min(limit))
        };
        let layout = Layout::new(&options.prefix);
        let api = match &options.domain {
            Some(domain) => format!("$JS.{domain}.API"),
            None => "$JS.API".to_owned(),
        };
        let place = Place {
            server: format!(
                "{}:{}",
                target.url().host_str().unwrap_or_default(),
                target.url().port().unwrap_or(4222)
            ),
            prefix: options.prefix.clone(),
            replicas: options.replicas,
            storage: options.storage,
        };
        let session = fastrand::u64(1..1 << 63);
        let line = Line::open(client, layout, session, api, lost);
        let begun = begin(line, place).await;
        let kinds = target.exchange_kinds().clone();
        // From here on, whoever gives up ends the session.
        let store = NatsStore::new(begun?, capabilities);
        VirtualConnection::open_with(store, kinds).await
    }
}

/// Begins a session.
async fn begin(line: Line, place: Place) -> Result<Arc<Shared>> {
    let made = async {
        api::create_shared(&line, &place).await?;
        known::begin(&line).await
    };
    if let Err(error) = made.await {
        line.hang_up();
        return Err(error);
    }
    let left = left::take(&place.name());
    let (shared, jobs) = Shared::new(line, place);
    for one in &left {
        // The others that are at them are told by the server itself.
        for (_, held) in &one.held {
            shared
                .line
                .tell(held.ack.clone(), bytes::Bytes::from_static(b"-NAK"));
        }
    }
    for one in left {
        shared.remove_session(one.session).await?;
    }
    tokio::spawn(outlet::serve(shared.clone()));
    tokio::spawn(pulse::serve(shared.clone(), jobs));
    Ok(shared)
}

fn config(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, text)
}

fn check(options: &NatsOptions) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if options.prefix.is_empty()
        || options.prefix.len() > 64
        || !options.prefix.bytes().all(is_plain)
    {
        return Err(config(
            "the `prefix` of a NATS URL has 1 to 64 letters, digits, `-` and `_`",
        ));
    }
    if !(1..=5).contains(&options.replicas) {
        return Err(config("`replicas` is a number from 1 to 5"));
    }
    Ok(())
}

/// Connects to one server, once: the client that comes of it never connects again.
async fn connect(url: &Url, options: &NatsOptions, lost: &Loss) -> Result<async_nats::Client> {
    let decoded = |text: &str, what: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(config(format!("the {what} of the URL isn't UTF-8"))),
    };
    let host = match url.host_str() {
        None | Some("") => "localhost",
        Some(host) => host,
    };
    let address = format!("{}://{host}:{}", url.scheme(), url.port().unwrap_or(4222));
    let parse = |address: &str| {
        address
            .parse::<ServerAddr>()
            .map_err(|problem| config("this is no address of a NATS server").with_source(problem))
    };
    let server = parse(&address)?;
    // Where the client goes when its connection is lost: nobody can be there.
    let nowhere = parse("nats://127.0.0.1:0")?;
    let servers = vec![server.clone(), nowhere.clone()];
    let is_first = AtomicBool::new(true);
    let mut connecting = ConnectOptions::new()
        .name("kombu")
        .client_capacity(CAPACITY)
        .subscription_capacity(CAPACITY)
        .request_timeout(None)
        .ping_interval(PING)
        .connection_timeout(Duration::from_secs(30))
        .ignore_discovered_servers()
        .max_reconnects(1)
        .reconnect_to_server_callback(move |_, _| {
            let addr = match is_first.swap(false, Ordering::Relaxed) {
                true => server.clone(),
                false => nowhere.clone(),
            };
            let target = ReconnectToServer {
                addr,
                delay: Some(Duration::ZERO),
            };
            async move { Some(target) }
        });
    let told = lost.clone();
    connecting = connecting.event_callback(move |event| {
        let told = told.clone();
        async move {
            let text = match event {
                Event::Disconnected => "NATS has closed the connection".to_owned(),
                Event::LameDuckMode => "the NATS server is about to stop".to_owned(),
                Event::ServerError(error) => {
                    tracing::warn!(%error, "NATS");
                    return;
                }
                _ => return,
            };
            lose(&told, ErrorKind::ConnectionLost, text);
        }
    });
    if let Some(path) = &options.ca {
        connecting = connecting.add_root_certificates(path.into());
    }
    if let Some(seed) = &options.nkey {
        connecting = connecting.nkey(seed.clone());
    }
    if let Some(path) = &options.credentials {
        connecting = connecting.credentials_file(path).await.map_err(|problem| {
            Error::new(
                ErrorKind::Credentials,
                format!("the file of credentials, `{path}`, can't be read"),
            )
            .with_source(problem)
        })?;
    }
    match (url.username(), url.password()) {
        ("", None) => {}
        (token, None) => connecting = connecting.token(decoded(token, "token")?),
        (user, Some(password)) => {
            connecting = connecting
                .user_and_password(decoded(user, "user")?, decoded(password, "password")?);
        }
    }
    let place = format!("`{host}:{}`", url.port().unwrap_or(4222));
    let client = connecting
        .connect(servers)
        .await
        .map_err(|error| classify_connect(error).with_context(&place))?;
    if client.connection_state() == State::Disconnected {
        lose(
            lost,
            ErrorKind::ConnectionLost,
            "NATS has closed the connection".to_owned(),
        );
    }
    Ok(client)
}

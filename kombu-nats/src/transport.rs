use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use kombu_core::declare::Queue;
use kombu_core::driver::tls::{Tls, TlsOptions, TlsSource, rustls};
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::virt::VirtualConnection;
use kombu_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use tokio::sync::watch;
use url::Url;

use crate::access::{self, Servers};
use crate::api;
use crate::known;
use crate::line::{self, Line, Loss};
use crate::names::Layout;
use crate::outlet;
use crate::permissions;
use crate::pulse;
use crate::session::Shared;
use crate::store::NatsStore;

/// The NATS transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nats;

/// What the query of a `nats://` or `tls://` URL can say.
///
/// Who connects is said in one place only: the URL (user and password, or a token), `credentials_file`, `nkey` or `nkey_file`.
/// Those from `ca_file` to `key_file` are for `tls://` only, and refused elsewhere. There is no option that leaves the server's
/// certificate unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct NatsOptions {
    /// What the names of all streams and subjects begin with: a virtual host. Letters, digits, `-` and `_`. Default: `kombu`.
    pub prefix: String,
    /// The JetStream domain: that of the hub, for one, through a leaf node which has one of its own. Default: that of the server.
    pub domain: Option<String>,
    /// On how many servers of a cluster everything durable lies, 1 to 5. Temporary queues lie on one. What is there already
    /// stays as it is. Default: 1.
    pub replicas: usize,
    /// Where durable queues lie. Default: `file`.
    pub storage: Storage,
    /// The largest body in bytes. Default, and never more: what the server takes, less 16 KiB for headers.
    pub max_message_size: Option<usize>,
    /// A file with a user's credentials, as `nsc` writes them. It is read at each attempt to connect. Default: none.
    pub credentials_file: Option<PathBuf>,
    /// The seed of a user's nkey, as `nk` writes it. Default: none.
    pub nkey: Option<Secret>,
    /// A file with that seed, which is read at each attempt to connect. Default: none.
    pub nkey_file: Option<PathBuf>,
    /// A file with certificates in PEM: the authorities that the server's may come from. Default: those that the system
    /// trusts. Files are read at each attempt to connect.
    pub ca_file: Option<PathBuf>,
    /// The same, beside those that the system trusts.
    pub extra_ca_file: Option<PathBuf>,
    /// A file with our own certificate in PEM, for a server that asks for it (`verify`), and what lies between it and its
    /// authority.
    pub cert_file: Option<PathBuf>,
    /// A file with the key of our own certificate in PEM, not encrypted. Default: `cert_file`, which may hold both.
    pub key_file: Option<PathBuf>,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(crate) String);

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
            max_message_size: None,
            credentials_file: None,
            nkey: None,
            nkey_file: None,
            ca_file: None,
            extra_ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// What is left for headers of the server's limit.
const HEADERS: usize = 16 << 10;

/// How, and within which limits; `docs/semantics.md` says it whole.
const NOTES: &[(Feature, &str)] = &[
    (Feature::AlternateExchange, "routed by the client"),
    (Feature::ExchangeBinding, "routed by the client"),
    (
        Feature::CustomExchangeKind,
        "routed by a function that the program registers",
    ),
    (Feature::AutoDelete, "deleted by the client"),
    (
        Feature::ExclusiveQueue,
        "goes with its session, within 30 s of a crash",
    ),
    (
        Feature::QueueExpiry,
        "while anybody is connected with this library",
    ),
    (
        Feature::QueueMessageTtl,
        "while anybody is connected with this library",
    ),
    (
        Feature::MessageTtl,
        "while anybody is connected with this library",
    ),
    (Feature::DeadLetter, "moved by the client, with x-death"),
    (Feature::MaxLength, "approximate where the head is dropped"),
    (
        Feature::MaxLengthBytes,
        "approximate in queues of more than 1,000 messages",
    ),
    (Feature::RejectPublish, "counts what is unsettled, too"),
    (
        Feature::Priority,
        "up to 9, by a subject and a consumer for each level",
    ),
    (
        Feature::MaxDeliveries,
        "what a crashed session held counts as a delivery",
    ),
    (Feature::SingleActiveConsumer, "by records of the sessions"),
    (Feature::ExclusiveConsumer, "by records of the sessions"),
    (
        Feature::NoLocal,
        "the client drops what its own connection published",
    ),
    (
        Feature::DelayedPublish,
        "while anybody is connected with this library; in order within seconds",
    ),
    (
        Feature::DelayedRetry,
        "while anybody is connected with this library; in order within seconds",
    ),
];

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
        .with_notes(NOTES)
};

/// Where a session's streams lie.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    servers: String,
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
        format!("{} {}", self.servers, self.prefix)
    }
}

fn virtual_host(url: &Url) -> String {
    let prefix = url.query_pairs().find(|(key, _)| key == "prefix");
    prefix
        .map(|(_, name)| name.into_owned())
        .unwrap_or_default()
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

    /// It is the prefix of all names.
    fn set_virtual_host(&self, url: &mut Url, name: &str) {
        url.query_pairs_mut().append_pair("prefix", name);
    }

    fn virtual_host(&self, url: &Url) -> String {
        virtual_host(url)
    }

    fn takes_hosts(&self, _scheme: &str) -> bool {
        true
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        target.options::<NatsOptions>()?;
        access::hide_token(target)
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: NatsOptions = target.options()?;
        if target.url().scheme() == "tls" {
            options.check("tls", TlsSource::Options)?;
            let tls = Tls::new(&options.tls(), None).await?;
            return open(target, &options, Some(&tls)).await;
        }
        options.check("nats", TlsSource::None("tls"))?;
        open(target, &options, None).await
    }
}

impl Nats {
    /// The same with a TLS configuration of the program's own, for all that the options of a URL can't say: keys in
    /// hardware, revocation lists, an authority of the program's. It has `tls://` only; options that name files of certificates
    /// are refused then.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use kombu_core::Registry;
    /// use kombu_nats::{Nats, rustls};
    ///
    /// let mut roots = rustls::RootCertStore::empty();
    /// # let mine: [rustls::pki_types::CertificateDer<'static>; 0] = [];
    /// roots.add_parsable_certificates(mine);
    /// let provider = Arc::new(rustls::crypto::ring::default_provider());
    /// let config = rustls::ClientConfig::builder_with_provider(provider)
    ///     .with_safe_default_protocol_versions()?
    ///     .with_root_certificates(roots)
    ///     .with_no_client_auth();
    /// let registry = Registry::new().with(Nats.with_tls_config(config));
    /// assert_eq!(registry.schemes(), ["tls"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_tls_config(self, config: impl Into<Arc<rustls::ClientConfig>>) -> NatsWithTls {
        NatsWithTls {
            config: config.into(),
        }
    }
}

/// The NATS transport with a TLS configuration of the program's own; see [`Nats::with_tls_config`].
#[derive(Clone, Debug)]
pub struct NatsWithTls {
    config: Arc<rustls::ClientConfig>,
}

#[async_trait]
impl Transport for NatsWithTls {
    fn name(&self) -> &'static str {
        Nats.name()
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["tls"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    /// It is the prefix of all names.
    fn set_virtual_host(&self, url: &mut Url, name: &str) {
        url.query_pairs_mut().append_pair("prefix", name);
    }

    fn virtual_host(&self, url: &Url) -> String {
        virtual_host(url)
    }

    fn takes_hosts(&self, scheme: &str) -> bool {
        Nats.takes_hosts(scheme)
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        Nats.resolve(target)
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: NatsOptions = target.options()?;
        options.check("tls", TlsSource::Program)?;
        let tls = Tls::new(&options.tls(), Some(self.config.clone())).await?;
        open(target, &options, Some(&tls)).await
    }
}

async fn open(
    target: &Target,
    options: &NatsOptions,
    tls: Option<&Tls>,
) -> Result<Arc<dyn Connection>> {
    let servers = Servers::of(target, options)?;
    let lost: Loss = watch::Sender::new(None);
    let refusals = permissions::refusals();
    let client = servers.connect(tls, &lost, &refusals).await?;
    let capabilities = {
        let payload = client.max_payload();
        let limit = payload - HEADERS.min(payload / 2);
        CAPABILITIES.with_max_message_size(options.max_message_size.unwrap_or(limit).min(limit))
    };
    let layout = Layout::new(&options.prefix);
    let api = match &options.domain {
        Some(domain) => format!("$JS.{domain}.API"),
        None => line::API.to_owned(),
    };
    let place = Place {
        servers: servers.to_string(),
        prefix: options.prefix.clone(),
        replicas: options.replicas,
        storage: options.storage,
    };
    let session = fastrand::u64(1..1 << 63);
    let line = Line::open(client, layout, session, api, lost, refusals)?;
    let begun = begin(line, place).await;
    let kinds = target.exchange_kinds().clone();
    // From here on, whoever gives up ends the session.
    let store = NatsStore::new(begun?, capabilities);
    VirtualConnection::open_with(store, kinds).await
}

/// Begins a session.
async fn begin(line: Line, place: Place) -> Result<Arc<Shared>> {
    let lost = line.lost();
    let made = async {
        let _trying = line.try_permissions()?;
        let making = async {
            api::create_shared(&line, &place).await?;
            known::begin(&line).await
        };
        tokio::try_join!(line.ping(), making).map(drop)
    };
    let made = tokio::select! {
        biased;
        error = lost => Err(error),
        made = made => made,
    };
    if let Err(error) = made {
        line.hang_up();
        return Err(error);
    }
    let (shared, jobs) = Shared::new(line, place);
    let begun = async {
        // Before anything that depends on the server's clock.
        let first_beat = pulse::beat(&shared, 0).await?;
        shared.end_left().await?;
        Ok(first_beat)
    };
    let first_beat = match begun.await {
        Ok(first_beat) => first_beat,
        Err(error) => {
            shared.line.hang_up();
            return Err(error);
        }
    };
    tokio::spawn(outlet::serve(shared.clone()));
    tokio::spawn(pulse::serve(shared.clone(), jobs, first_beat));
    Ok(shared)
}

impl NatsOptions {
    fn tls(&self) -> TlsOptions {
        let mut options = TlsOptions::default();
        options.ca_file = self.ca_file.clone();
        options.extra_ca_file = self.extra_ca_file.clone();
        options.cert_file = self.cert_file.clone();
        options.key_file = self.key_file.clone();
        options
    }

    /// Options that would have no effect, or that nothing can work with, are refused.
    fn check(&self, scheme: &str, source: TlsSource) -> Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_token = |text: &str, longest| {
            !text.is_empty() && text.len() <= longest && text.bytes().all(is_plain)
        };
        let problem = match () {
            () if !is_token(&self.prefix, 64) => {
                Some("`prefix` has 1 to 64 letters, digits, `-` and `_`".to_owned())
            }
            () if self
                .domain
                .as_ref()
                .is_some_and(|domain| !is_token(domain, 255)) =>
            {
                Some("`domain` is no name of a JetStream domain".to_owned())
            }
            () if !(1..=5).contains(&self.replicas) => {
                Some("`replicas` is a number from 1 to 5".to_owned())
            }
            () => self.tls().problem(source),
        };
        match problem {
            None => Ok(()),
            Some(problem) => Err(Error::new(
                ErrorKind::Config,
                format!("option of a `{scheme}` URL: {problem}"),
            )),
        }
    }
}

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_rs::Runtime;
use async_trait::async_trait;
#[cfg(feature = "tls")]
use kombu_core::driver::tls::{Tls, rustls};
use kombu_core::driver::tls::{TlsOptions, TlsSource};
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::{Error, ErrorKind, Result};
use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};
use lapin::{AsyncTcpStream, ConnectionProperties};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::time::sleep;
use url::Url;

use crate::error::{classify_connect, lost};
use crate::greeting::{Greeting, Server, Told};
use crate::lines::Lines;
use crate::session::Session;
use crate::socket::{self, Kit, Socket};

/// The AMQP 0-9-1 transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amqp;

/// What the query of an `amqp://` or `amqps://` URL can say.
///
/// Everything from `ca_file` on is for `amqps://` only, and refused elsewhere. There is no option that leaves the broker's
/// certificate unchecked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AmqpOptions {
    /// Seconds between signs of life. Default: 10, or the broker's if that is less; 0 asks for none.
    pub heartbeat: u16,
    /// The largest frame in bytes, from 4,096 to 1,048,576. Default: 131,072, or the broker's if that is less. A connection has
    /// buffers for 64 of them, and the properties and headers of a message have to fit into one.
    pub frame_max: u32,
    /// The most channels of a connection. Default: the broker's.
    pub channel_max: Option<u16>,
    /// The name that the broker shows for the connection.
    pub connection_name: Option<String>,
    /// The largest body in bytes that the broker takes; larger ones are refused before they are sent. Default: 16 MiB, as
    /// RabbitMQ's since 4.0; before, that was 128 MiB.
    pub max_message_size: Option<usize>,
    /// A file with certificates in PEM: the authorities that the broker's may come from. Default: those that the system
    /// trusts. Files are read at each attempt to connect, so that renewed ones are found.
    pub ca_file: Option<PathBuf>,
    /// The same, beside those that the system trusts.
    pub extra_ca_file: Option<PathBuf>,
    /// A file with our own certificate in PEM, for a broker that asks for it, and what lies between it and its authority.
    pub cert_file: Option<PathBuf>,
    /// A file with the key of our own certificate in PEM, not encrypted. Default: `cert_file`, which may hold both.
    pub key_file: Option<PathBuf>,
    /// The name that the broker's certificate has to be for, and that is sent to it. Default: the host of the URL.
    pub server_name: Option<String>,
    /// How the broker is told who connects. Default: `plain`.
    pub auth_mechanism: AuthMechanism,
}

/// How the broker is told who connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AuthMechanism {
    /// By user and password.
    #[default]
    Plain,
    /// By our certificate: SASL EXTERNAL. RabbitMQ needs its plugin `rabbitmq_auth_mechanism_ssl` for that.
    External,
}

impl Default for AmqpOptions {
    fn default() -> Self {
        AmqpOptions {
            heartbeat: 10,
            frame_max: 131_072,
            channel_max: None,
            connection_name: None,
            max_message_size: None,
            ca_file: None,
            extra_ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
            auth_mechanism: AuthMechanism::Plain,
        }
    }
}

/// From what the protocol asks for to what a connection's buffers of 64 frames should take.
const FRAME_MAX: RangeInclusive<u32> = 4096..=1024 * 1024;

impl AmqpOptions {
    fn tls(&self) -> TlsOptions {
        let mut options = TlsOptions::default();
        options.ca_file = self.ca_file.clone();
        options.extra_ca_file = self.extra_ca_file.clone();
        options.cert_file = self.cert_file.clone();
        options.key_file = self.key_file.clone();
        options.server_name = self.server_name.clone();
        options
    }

    /// Options that would have no effect, or contradict each other, are refused: they say that more was wanted. So are those
    /// that nothing can work with.
    fn check(&self, url: &Url, source: TlsSource) -> Result<()> {
        let external = self.auth_mechanism == AuthMechanism::External;
        let problem = self.tls().problem(source).or_else(|| match source {
            TlsSource::None(scheme) if external => Some(format!(
                "`auth_mechanism=external` needs TLS; write `{scheme}://`"
            )),
            TlsSource::Options if external && self.cert_file.is_none() => Some(
                "`auth_mechanism=external` needs a certificate; name it with `cert_file`"
                    .to_owned(),
            ),
            _ => None,
        });
        let has_user = !url.username().is_empty() || url.password().is_some();
        let problem = problem.or_else(|| {
            (external && has_user).then(|| {
                "`auth_mechanism=external` takes the user from the certificate; leave user and password out".to_owned()
            })
        });
        let problem = problem.or_else(|| {
            (!FRAME_MAX.contains(&self.frame_max)).then(|| {
                format!(
                    "`frame_max` is {}; it can be {} to {}",
                    self.frame_max,
                    FRAME_MAX.start(),
                    FRAME_MAX.end()
                )
            })
        });
        match problem {
            None => Ok(()),
            Some(problem) => Err(Error::new(
                ErrorKind::Config,
                format!("option of an `{}` URL: {problem}", url.scheme()),
            )),
        }
    }
}

/// How, and within which limits; `docs/semantics.md` says it whole.
const NOTES: &[(Feature, &str)] = &[
    (Feature::Priority, "on classic queues"),
    (Feature::MaxDeliveries, "on quorum queues"),
    (
        Feature::NoLocal,
        "the client drops what its own connection published",
    ),
    (
        Feature::DelayedPublish,
        "by a ladder of queues with a time to live, routed when it is due; at most 49 days, and not together with an expiration",
    ),
    (
        Feature::DelayedRetry,
        "by a ladder of queues with a time to live; a confirmed copy, which goes to the back",
    ),
];

/// What RabbitMQ does.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::basic()
    .native(Feature::AlternateExchange)
    .native(Feature::ExchangeBinding)
    .native(Feature::CustomExchangeKind)
    .native(Feature::AutoDelete)
    .native(Feature::ExclusiveQueue)
    .native(Feature::QueueExpiry)
    .native(Feature::QueueMessageTtl)
    .native(Feature::MessageTtl)
    .native(Feature::DeadLetter)
    .native(Feature::MaxLength)
    .native(Feature::MaxLengthBytes)
    .native(Feature::RejectPublish)
    .native(Feature::Priority)
    .native(Feature::MaxDeliveries)
    .native(Feature::SingleActiveConsumer)
    .native(Feature::ExclusiveConsumer)
    .native(Feature::ConsumerPriority)
    // RabbitMQ takes the flag and ignores it.
    .emulated(Feature::NoLocal)
    // A ladder of queues with a time to live.
    .emulated(Feature::DelayedPublish)
    .emulated(Feature::DelayedRetry)
    .with_broker_arguments()
    .with_notes(NOTES)
    // Below its `consumer_timeout` of 30 min, which closes the channel.
    .with_max_processing_time(Duration::from_secs(25 * 60));

const SCHEMES: &[&str] = &[
    "amqp",
    #[cfg(feature = "tls")]
    "amqps",
];

#[async_trait]
impl Transport for Amqp {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn schemes(&self) -> &'static [&'static str] {
        SCHEMES
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        target.options::<AmqpOptions>()?;
        Ok(target)
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: AmqpOptions = target.options()?;
        #[cfg(feature = "tls")]
        if target.url().scheme() == "amqps" {
            options.check(target.url(), TlsSource::Options)?;
            let tls = Tls::new(&options.tls(), None).await?;
            return open(target, options, Some(tls)).await;
        }
        options.check(target.url(), TlsSource::None("amqps"))?;
        open(target, options, None).await
    }
}

#[cfg(feature = "tls")]
impl Amqp {
    /// The same with a TLS configuration of the program's own, for all that the options of a URL can't say: keys in
    /// hardware, revocation lists, an authority of the program's. It has `amqps://` only; options that name files are
    /// refused then.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use kombu_amqp::{Amqp, rustls};
    /// use kombu_core::Registry;
    ///
    /// let mut roots = rustls::RootCertStore::empty();
    /// # let mine: [rustls::pki_types::CertificateDer<'static>; 0] = [];
    /// roots.add_parsable_certificates(mine);
    /// let provider = Arc::new(rustls::crypto::ring::default_provider());
    /// let config = rustls::ClientConfig::builder_with_provider(provider)
    ///     .with_safe_default_protocol_versions()?
    ///     .with_root_certificates(roots)
    ///     .with_no_client_auth();
    /// let registry = Registry::new().with(Amqp).with(Amqp.with_tls_config(config));
    /// assert_eq!(registry.schemes(), ["amqp", "amqps"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_tls_config(self, config: impl Into<Arc<rustls::ClientConfig>>) -> AmqpWithTls {
        AmqpWithTls {
            config: config.into(),
        }
    }
}

/// The AMQP 0-9-1 transport with a TLS configuration of the program's own; see [`Amqp::with_tls_config`].
#[cfg(feature = "tls")]
#[derive(Clone, Debug)]
pub struct AmqpWithTls {
    config: Arc<rustls::ClientConfig>,
}

#[cfg(feature = "tls")]
#[async_trait]
impl Transport for AmqpWithTls {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["amqps"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        Amqp.resolve(target)
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: AmqpOptions = target.options()?;
        options.check(target.url(), TlsSource::Program)?;
        let tls = Tls::new(&options.tls(), Some(self.config.clone())).await?;
        open(target, options, Some(tls)).await
    }
}

async fn open(
    target: &Target,
    options: AmqpOptions,
    tls: Option<Tls>,
) -> Result<Arc<dyn Connection>> {
    let capabilities = match options.max_message_size {
        Some(bytes) => CAPABILITIES.with_max_message_size(bytes),
        None => CAPABILITIES,
    };
    let dialer = Dialer {
        uri: uri(target.url(), &options, tls.is_some())?,
        tls,
        name: options.connection_name,
        told: Told::default(),
    };
    let lines = Lines::open(dialer).await?;
    Ok(Session::open(lines, capabilities))
}

/// How long lapin has for what it was told before the broker hung up. Where that is between the greeting and our answer to it,
/// lapin waits for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Makes connections to one place.
pub(crate) struct Dialer {
    uri: AMQPUri,
    tls: Option<Tls>,
    name: Option<String>,
    told: Told,
}

impl Dialer {
    /// What the broker is, if it told it when a connection was made.
    pub(crate) fn server(&self) -> Option<&Server> {
        self.told.get()
    }

    /// # Cancel safety
    ///
    /// Dropping the future ends the attempt.
    pub(crate) async fn dial(&self, role: &str) -> Result<lapin::Connection> {
        let mut properties = ConnectionProperties::default();
        if let Some(name) = &self.name {
            properties = properties.with_connection_name(format!("{name}{role}").into());
        }
        let (host, port) = (&self.uri.authority.host, self.uri.authority.port);
        let at = |error: Error| error.with_context(&format!("`{host}:{port}`"));
        let (stream, abandon) = socket::connect(host, port)
            .await
            .map_err(|error| at(lost(error.to_string()).with_source(error)))?;
        let socket = match &self.tls {
            #[cfg(feature = "tls")]
            Some(tls) => Socket::new(tls.encrypt(host, stream).await.map_err(at)?),
            _ => Socket::new(stream),
        };
        let mechanism = self.uri.query.auth_mechanism.unwrap_or_default();
        let socket = socket.expecting(Greeting::expect(mechanism.name(), self.told.clone()));
        let (socket, ended) = socket.with_end();
        // Asked for once: lapin's own reconnecting is off.
        let socket = Mutex::new(Some(socket));
        let connected = lapin::Connection::connector(
            self.uri.clone(),
            Runtime::new(Kit::current()),
            async move |_, _| match socket.lock().take() {
                Some(socket) => Ok(AsyncTcpStream::Plain(socket)),
                None => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
            },
            properties,
        );
        let connection = tokio::select! {
            biased;
            connected = connected => connected.map_err(|error| at(classify_connect(error)))?,
            () = async { ended.await; sleep(LAST_WORDS).await } => {
                return Err(at(lost("the broker hung up while the connection was made")));
            }
        };
        abandon.keep();
        Ok(connection)
    }
}

/// Built without TLS, there is none.
#[cfg(not(feature = "tls"))]
enum Tls {}

fn host(url: &Url) -> String {
    match url.host_str() {
        None | Some("") => "localhost".to_owned(),
        Some(host) => host.trim_matches(['[', ']']).to_owned(),
    }
}

/// `amqp://user:password@host:port/vhost`; what is missing is what RabbitMQ's own clients take: guest, localhost,
/// 5672 (5671 with TLS) and `/`. A path of `/` alone is the virtual host `/` too.
fn uri(url: &Url, options: &AmqpOptions, encrypted: bool) -> Result<AMQPUri> {
    let vhost = match url.path().strip_prefix('/').unwrap_or_default() {
        "" => "/".to_owned(),
        path => decoded(path, "virtual host")?,
    };
    let username = match url.username() {
        "" => "guest".to_owned(),
        user => decoded(user, "user")?,
    };
    let password = match url.password() {
        None => "guest".to_owned(),
        Some(password) => decoded(password, "password")?,
    };
    Ok(AMQPUri {
        // Encryption is below what lapin sees.
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username, password },
            host: host(url),
            port: url.port().unwrap_or(if encrypted { 5671 } else { 5672 }),
        },
        vhost,
        query: AMQPQueryString {
            frame_max: Some(options.frame_max),
            channel_max: options.channel_max,
            heartbeat: Some(options.heartbeat),
            auth_mechanism: Some(match options.auth_mechanism {
                AuthMechanism::Plain => SASLMechanism::Plain,
                AuthMechanism::External => SASLMechanism::External,
            }),
            ..AMQPQueryString::default()
        },
    })
}

fn decoded(text: &str, what: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Error::new(
            ErrorKind::Config,
            format!("the {what} of the URL isn't UTF-8"),
        )),
    }
}

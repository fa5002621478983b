use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::{Error, ErrorKind, Result};
use lapin::ConnectionProperties;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

use crate::error::classify_connect;
use crate::lines::Lines;
use crate::session::Session;

/// The AMQP 0-9-1 transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amqp;

/// What the query of an `amqp://` URL can say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AmqpOptions {
    /// Seconds between signs of life. Default: 10; 0 asks for none.
    pub heartbeat: u16,
    /// The largest frame in bytes. Default: the broker's.
    pub frame_max: Option<u32>,
    /// The most channels of a connection. Default: the broker's.
    pub channel_max: Option<u16>,
    /// The name that the broker shows for the connection.
    pub connection_name: Option<String>,
    /// The largest body in bytes that the broker takes. Default: 16 MiB, as RabbitMQ's.
    pub max_message_size: Option<usize>,
}

impl Default for AmqpOptions {
    fn default() -> Self {
        AmqpOptions {
            heartbeat: 10,
            frame_max: None,
            channel_max: None,
            connection_name: None,
            max_message_size: None,
        }
    }
}

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
    // Below its `consumer_timeout` of 30 min, which closes the channel.
    .with_max_processing_time(Duration::from_secs(25 * 60));

#[async_trait]
impl Transport for Amqp {
    fn name(&self) -> &'static str {
        "amqp"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["amqp"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: AmqpOptions = target.options()?;
        let capabilities = match options.max_message_size {
            Some(bytes) => CAPABILITIES.with_max_message_size(bytes),
            None => CAPABILITIES,
        };
        let dialer = Dialer {
            uri: uri(target.url(), &options)?,
            name: options.connection_name,
        };
        let lines = Lines::open(dialer).await?;
        Ok(Session::open(lines, capabilities))
    }
}

/// Makes connections to one place.
pub(crate) struct Dialer {
    uri: AMQPUri,
    name: Option<String>,
}

impl Dialer {
    pub(crate) async fn dial(&self, role: &str) -> Result<lapin::Connection> {
        let mut properties = ConnectionProperties::default();
        if let Some(name) = &self.name {
            properties = properties.with_connection_name(format!("{name}{role}").into());
        }
        lapin::Connection::connect_uri(self.uri.clone(), properties)
            .await
            .map_err(classify_connect)
    }
}

/// `amqp://user:password@host:port/vhost`; what is missing is what RabbitMQ's own clients take: guest, localhost,
/// 5672 and `/`. A path of `/` alone is the virtual host `/` too.
fn uri(url: &Url, options: &AmqpOptions) -> Result<AMQPUri> {
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
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username, password },
            host: match url.host_str() {
                None | Some("") => "localhost".to_owned(),
                Some(host) => host.trim_matches(['[', ']']).to_owned(),
            },
            port: url.port().unwrap_or(5672),
        },
        vhost,
        query: AMQPQueryString {
            frame_max: options.frame_max,
            channel_max: options.channel_max,
            heartbeat: Some(options.heartbeat),
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

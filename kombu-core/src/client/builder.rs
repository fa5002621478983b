use std::fmt;
use std::future::IntoFuture;

use kombu_serializers as serializers;

use crate::driver::BoxFuture;
use crate::error::{Error, ErrorKind, Result};

use super::{Connection, Registry};

/// A connection to be: awaiting it connects.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// let connection = kombu::Connection::builder(kombu::registry())
///     .url("memory://")
///     .max_message_size(1024 * 1024)
///     .await?;
/// # connection.close().await
/// # }
/// ```
#[must_use = "a builder does nothing until it is awaited"]
pub struct ConnectionBuilder {
    registry: Registry,
    url: Option<String>,
    serializers: serializers::Registry,
    max_message_size: Option<usize>,
}

impl ConnectionBuilder {
    pub(super) fn new(registry: Registry) -> Self {
        ConnectionBuilder {
            registry,
            url: None,
            serializers: serializers::Registry::default(),
            max_message_size: None,
        }
    }

    /// Where to connect to. Its scheme chooses the transport.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The serializers that producers choose by name and consumers by content type. Default: those that are built in.
    pub fn serializers(mut self, serializers: serializers::Registry) -> Self {
        self.serializers = serializers;
        self
    }

    /// The largest body in bytes that producers send. The broker's own limit holds where it is smaller.
    /// Default: 16 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = Some(bytes);
        self
    }

    async fn connect(self) -> Result<Connection> {
        let Some(url) = self.url else {
            return Err(Error::new(
                ErrorKind::Config,
                "no URL given; set one with `.url(\"memory://\")`",
            ));
        };
        let (transport, target) = self.registry.resolve(&url)?;
        let driver = transport.connect(&target).await?;
        tracing::info!(transport = transport.name(), %target, "connected");
        Ok(Connection::new(
            driver,
            target,
            self.serializers,
            self.max_message_size,
        ))
    }
}

impl IntoFuture for ConnectionBuilder {
    type Output = Result<Connection>;
    type IntoFuture = BoxFuture<'static, Result<Connection>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.connect()
                .await
                .map_err(|error| error.during("connect"))
        })
    }
}

impl fmt::Debug for ConnectionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password, and nobody has parsed it yet.
        let url = self.url.as_ref().map(|url| match url.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…"),
            None => "…".to_owned(),
        });
        f.debug_struct("ConnectionBuilder")
            .field("registry", &self.registry)
            .field("url", &url)
            .field("serializers", &self.serializers)
            .field("max_message_size", &self.max_message_size)
            .finish()
    }
}

use std::fmt;
use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::time::Duration;

use kombu_serializers as serializers;

use crate::declare::DeclareMode;
use crate::driver::{
    self, BoxFuture, Credentials, ExchangeKinds, Layer, Layered, RouteMessages, Target, Transport,
};
use crate::engine::{self, Attempt, Deadlines, RetryPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::layers::Capable;
use crate::name::Name;

use super::{Connection, Interceptor, Registry};

/// A session that may not be silent at all would be lost as soon as it is there.
const SHORTEST_LIVENESS: Duration = Duration::from_millis(1);

/// A connection to be: awaiting it connects.
///
/// It takes a tokio runtime with its timer enabled, as `#[tokio::main]` makes it.
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
    urls: Vec<String>,
    shuffle: bool,
    retry: RetryPolicy,
    deadlines: Deadlines,
    declare_mode: DeclareMode,
    layers: Vec<Arc<dyn Layer>>,
    exchange_kinds: ExchangeKinds,
    serializers: serializers::Registry,
    sizes: Sizes,
    interceptors: Vec<Arc<dyn Interceptor>>,
    credentials: Option<Provider>,
}

impl ConnectionBuilder {
    pub(super) fn new(registry: Registry) -> Self {
        ConnectionBuilder {
            registry,
            urls: Vec::new(),
            shuffle: false,
            retry: RetryPolicy::default(),
            deadlines: Deadlines::default(),
            declare_mode: DeclareMode::Ensure,
            layers: Vec::new(),
            exchange_kinds: ExchangeKinds::default(),
            interceptors: Vec::new(),
            credentials: None,
            serializers: serializers::Registry::default(),
            sizes: Sizes::default(),
        }
    }

    /// Where to connect to. Its scheme chooses the transport. Given several times, the next one is tried when
    /// one fails, in order and round again.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// Tries several URLs in an order that differs from program to program.
    pub fn shuffle_urls(mut self) -> Self {
        self.shuffle = true;
        self
    }

    /// How connecting is tried again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How long operations may take.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// How long operations may take, as far as it was said.
    pub fn get_deadlines(&self) -> Deadlines {
        self.deadlines
    }

    /// What producers and consumers do about what they use, where neither they nor the declaration say
    /// otherwise. Default: [`DeclareMode::Ensure`], declare it.
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.declare_mode = mode;
        self
    }

    /// Asks for credentials at each attempt to connect, in place of those in the URL: rotated ones are found.
    pub fn credentials<F, A>(mut self, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<Credentials>> + Send + 'static,
    {
        self.credentials = Some(Box::new(move || Box::pin(provider())));
        self
    }

    /// Adds an interceptor for everything that is published and received over the connection.
    pub fn intercept(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    /// Adds an exchange kind, for transports that route on this side: memory, Redis and NATS. Brokers with exchanges of
    /// their own have their plugins, and aren't told of this one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::virt::BindingRecord;
    /// use kombu::{Connection, Content, Exchange, Queue};
    ///
    /// // To the binding whose key is the longest beginning of the message's key.
    /// let longest = |message: &Content, bindings: &[&BindingRecord]| {
    ///     let starts = |index: &usize| message.routing_key().starts_with(bindings[*index].routing_key.as_str());
    ///     let found = (0..bindings.len()).filter(starts);
    ///     found.max_by_key(|index| bindings[*index].routing_key.len()).into_iter().collect()
    /// };
    /// let paths = Exchange::custom("x-longest-prefix", "paths");
    /// let connection = Connection::builder(kombu::registry())
    ///     .url("memory://")
    ///     .exchange_kind("x-longest-prefix", longest)
    ///     .await?;
    /// connection.declare_queue(&Queue::new("all").bind(&paths, "/")).await?;
    /// connection.declare_queue(&Queue::new("docs").bind(&paths, "/docs")).await?;
    ///
    /// let producer = connection.producer(&paths).await?;
    /// producer.publish(&1).routing_key("/docs/semantics").await?;
    /// assert_eq!(connection.queue_info("docs").await?.ready, 1);
    /// assert_eq!(connection.queue_info("all").await?.ready, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn exchange_kind(mut self, name: impl Into<Name>, kind: impl RouteMessages) -> Self {
        self.exchange_kinds.add(name, kind);
        self
    }

    /// Puts a layer around every session; the last one added is the outermost.
    pub fn layer(mut self, layer: impl Layer) -> Self {
        self.layers.push(Arc::new(layer));
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
        self.sizes.message = Some(bytes);
        self
    }

    /// The most bytes that a compressed body may come to when it is received; one that comes to more is undecodable,
    /// and that shows before more is held. Default: 64 MiB.
    pub fn max_decompressed_size(mut self, bytes: usize) -> Self {
        self.sizes.decompressed = bytes;
        self
    }

    async fn connect(self) -> Result<Connection> {
        if let Err(problem) = tokio::runtime::Handle::try_current() {
            return Err(Error::new(
                ErrorKind::Config,
                "kombu needs a tokio runtime; connect within `#[tokio::main]` or `Runtime::block_on`",
            )
            .with_source(problem));
        }
        if self.urls.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "no URL given; set one with `.url(\"memory://\")`",
            ));
        }
        if self.deadlines.liveness < SHORTEST_LIVENESS {
            return Err(Error::new(
                ErrorKind::Config,
                format!(
                    "`Deadlines::liveness` is {:?}, and no broker gives signs of life that fast; give it \
                     {SHORTEST_LIVENESS:?} at least",
                    self.deadlines.liveness
                ),
            ));
        }
        let kinds = Arc::new(self.exchange_kinds);
        let mut places = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            let (transport, target) = self.registry.resolve(url)?;
            places.push((transport, target.with_exchange_kinds(kinds.clone())));
        }
        if self.shuffle {
            fastrand::shuffle(&mut places);
        }
        let target = places[0].1.clone();
        let attempt = Places {
            places,
            layers: self.layers,
            credentials: self.credentials,
        };
        let (engine, session) = engine::start(attempt, self.retry, self.deadlines).await?;
        Ok(Connection::new(
            engine,
            &session,
            target,
            self.serializers,
            self.sizes,
            self.declare_mode,
            self.interceptors.into(),
        ))
    }
}

/// How large bodies may be, in bytes.
pub(super) struct Sizes {
    pub(super) message: Option<usize>,
    pub(super) decompressed: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            message: None,
            decompressed: 64 * 1024 * 1024,
        }
    }
}

/// Where to connect to, and what lies around each connection.
struct Places {
    places: Vec<(Arc<dyn Transport>, Target)>,
    layers: Vec<Arc<dyn Layer>>,
    credentials: Option<Provider>,
}

type Provider = Box<dyn Fn() -> BoxFuture<'static, Result<Credentials>> + Send + Sync>;

impl Attempt for Places {
    fn places(&self) -> usize {
        self.places.len()
    }

    fn connect(&self, place: usize) -> BoxFuture<'_, Result<Arc<dyn driver::Connection>>> {
        Box::pin(async move {
            let (transport, target) = &self.places[place];
            for layer in &self.layers {
                layer.before_connect().await?;
            }
            let asked;
            let target = match &self.credentials {
                Some(provider) => {
                    asked = target.with_credentials(&provider().await?)?;
                    &asked
                }
                None => target,
            };
            let mut connection: Arc<dyn driver::Connection> = transport.connect(target).await?;
            tracing::info!(transport = transport.name(), %target, "connected");
            for layer in &self.layers {
                connection = Arc::new(Layered::new(&**layer, connection));
            }
            connection = Arc::new(Layered::new(&Capable, connection));
            Ok(connection)
        })
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
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBuilder")
            .field("registry", &self.registry)
            .field("urls", &self.urls.len())
            .field("retry", &self.retry)
            .field("deadlines", &self.deadlines)
            .finish_non_exhaustive()
    }
}

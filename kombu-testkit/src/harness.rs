use std::any::Any;
use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use kombu_core::{Connection, ConnectionBuilder, Consumer, Name, Registry};

use crate::{Freedom, expect};

/// What the author of a transport writes: where the suite finds a broker for each case.
pub trait Harness: Send + Sync {
    /// The transport's name, for messages.
    fn name(&self) -> &str;

    /// The transports to connect with.
    fn registry(&self) -> Registry;

    /// A broker, or a virtual host of one, that nobody else uses: without declarations beyond those that every
    /// broker has, and without messages.
    ///
    /// Panic if there is none: a case that can't run has failed.
    fn broker(&self) -> impl Future<Output = Broker> + Send;

    /// Takes away what [`broker`](Harness::broker) gave. Called after each case, whether it passed or failed.
    ///
    /// The default drops it, and with it the value of [`Broker::keep`].
    fn clean_up(&self, broker: Broker) -> impl Future<Output = ()> + Send {
        drop(broker);
        async {}
    }
}

/// How many times the lag a count may take.
const PATIENCE: u32 = 20;

/// The broker of one case. Any number of connections can be made to it.
pub struct Broker {
    registry: Registry,
    url: String,
    lag: Duration,
    freedoms: &'static [Freedom],
    kept: Vec<Box<dyn Any + Send + Sync>>,
}

impl Broker {
    /// The broker at this URL. Every connection to the URL has to reach the same one.
    pub fn new(registry: Registry, url: impl Into<String>) -> Self {
        Broker {
            registry,
            url: url.into(),
            lag: Duration::from_millis(250),
            freedoms: &[],
            kept: Vec::new(),
        }
    }

    /// How long the broker may take to show what was done, and how long nothing must come until a case believes
    /// that nothing comes. Default: 250 ms.
    ///
    /// Zero makes the cases exact and fast; only a broker without a network can keep to it.
    #[must_use]
    pub fn with_lag(mut self, lag: Duration) -> Self {
        self.lag = lag;
        self
    }

    /// Sets what the broker may do otherwise than others. Default: nothing.
    #[must_use]
    pub fn with_freedoms(mut self, freedoms: &'static [Freedom]) -> Self {
        self.freedoms = freedoms;
        self
    }

    /// Whether the broker may do this otherwise than others.
    pub fn may(&self, freedom: Freedom) -> bool {
        self.freedoms.contains(&freedom)
    }

    /// Keeps a value until the broker isn't used any more: its `Drop` may clean up.
    #[must_use]
    pub fn keep(mut self, value: impl Any + Send + Sync) -> Self {
        self.kept.push(Box::new(value));
        self
    }

    /// The transports that connections are made with.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The URL, secrets included.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// See [`with_lag`](Broker::with_lag).
    pub fn lag(&self) -> Duration {
        self.lag
    }

    /// Starts building a connection.
    pub fn connection(&self) -> ConnectionBuilder {
        Connection::builder(self.registry.clone()).url(self.url.as_str())
    }

    /// A connection with the default options.
    ///
    /// # Panics
    ///
    /// If the broker can't be reached.
    pub async fn connect(&self) -> Connection {
        match self.connection().await {
            Ok(connection) => connection,
            Err(error) => panic!("no connection to the broker of this case: {error}"),
        }
    }

    /// Fails if the consumer gets anything within the [lag](Broker::with_lag).
    ///
    /// # Panics
    ///
    /// If it does, or ends.
    pub async fn assert_silent(&self, consumer: &mut Consumer) {
        match consumer.receive(self.lag).await {
            Ok(None) => {}
            Ok(Some(delivery)) => panic!("nothing was to come, and there is {delivery:?}"),
            Err(error) => panic!("nothing was to come, and there is an error: {error}"),
        }
    }

    /// Fails unless the queue has as many ready and unsettled messages within 20 times the [lag](Broker::with_lag): a busy
    /// machine shows late what was done, and nothing is waited for once it is shown.
    /// Unsettled ones aren't looked at where the broker doesn't tell.
    ///
    /// # Panics
    ///
    /// If it has other counts, or isn't there.
    pub async fn assert_counts(
        &self,
        connection: &Connection,
        queue: impl Into<Name>,
        ready: u64,
        unsettled: u64,
    ) {
        let queue = queue.into();
        let begin = Instant::now();
        loop {
            let info = expect::info(connection, &queue).await;
            let found = (info.ready, info.unsettled.unwrap_or(unsettled));
            if found == (ready, unsettled) {
                return;
            }
            assert!(
                begin.elapsed() < self.lag * PATIENCE,
                "`{queue}` has {} ready and {} unsettled messages, not {ready} and {unsettled}",
                found.0,
                found.1
            );
            tokio::task::yield_now().await;
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        let scheme = self.url.split("://").next().unwrap_or_default();
        f.debug_struct("Broker")
            .field("url", &format_args!("{scheme}://…"))
            .field("lag", &self.lag)
            .finish_non_exhaustive()
    }
}

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

use kombu_serializers::Accept;

use crate::declare::{DeclareMode, Queue};
use crate::driver::{BoxFuture, SubscribeOptions};
use crate::error::{Error, ErrorKind, Result};

use super::connection::named;
use super::intercept::chain;
use super::subscribed::{Plan, Sources};
use super::{Connection, Consumer, Interceptor, UndecodablePolicy};

/// Deliveries that may be unsettled at once unless the consumer says otherwise.
const DEFAULT_PREFETCH: u32 = 64;

/// A consumer to be: awaiting it declares its queues and subscribes.
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenConsumer {
    connection: Connection,
    queues: Vec<Queue>,
    prefetch: u32,
    no_ack: Option<bool>,
    accept: Accept,
    declare_mode: Option<DeclareMode>,
    interceptors: Vec<Arc<dyn Interceptor>>,
    undecodable: UndecodablePolicy,
}

impl OpenConsumer {
    pub(super) fn new(connection: Connection, queues: Vec<Queue>) -> Self {
        OpenConsumer {
            connection,
            queues,
            prefetch: DEFAULT_PREFETCH,
            no_ack: None,
            accept: Accept::all(),
            declare_mode: None,
            interceptors: Vec::new(),
            undecodable: UndecodablePolicy::default(),
        }
    }

    /// How many deliveries may be unsettled at once, over all queues. Default: 64; 0 means no limit, which
    /// lets a full queue fill the memory.
    pub fn prefetch(mut self, deliveries: u32) -> Self {
        self.prefetch = deliveries;
        self
    }

    /// The broker forgets a message when it hands it out: a crash loses it, and settling is an error.
    /// Default: what the queues say, if they all say the same, else false.
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = Some(no_ack);
        self
    }

    /// Serializer names or content types that are decoded; everything else is refused before decoding.
    /// Default: every serializer that is built in or registered.
    pub fn accept<I>(mut self, names: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.accept = Accept::only(names);
        self
    }

    /// Whether queues, exchanges and bindings are declared, verified or neither, where the declarations don't
    /// say so themselves. Default: the connection's mode.
    pub fn declare(mut self, mode: DeclareMode) -> Self {
        self.declare_mode = Some(mode);
        self
    }

    /// What becomes of deliveries that can't be decoded and are dropped without being settled.
    pub fn on_undecodable(mut self, policy: UndecodablePolicy) -> Self {
        self.undecodable = policy;
        self
    }

    /// Adds an interceptor for what this consumer receives, behind those of the connection.
    pub fn intercept(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors.push(Arc::new(interceptor));
        self
    }

    async fn open(self) -> Result<Consumer> {
        if self.queues.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "a consumer needs at least one queue",
            ));
        }
        self.accept.check(self.connection.serializers())?;
        let queues: Vec<Queue> = self.queues.iter().map(named).collect();
        let inherited = self.connection.inner().declare_mode;
        let mode = self.declare_mode.unwrap_or(inherited);
        self.connection.ensure_queues(&queues, mode).await?;
        let no_ack = self
            .no_ack
            .unwrap_or_else(|| queues.iter().all(Queue::is_no_ack));
        let options = SubscribeOptions::new(self.prefetch).no_ack(no_ack);
        let sources = Sources::new(&queues, mode);
        let plan = Arc::new(Plan {
            declare_mode: mode,
            accept: self.accept,
            undecodable: self.undecodable,
            interceptors: chain(&self.connection.inner().interceptors, self.interceptors),
            connection: self.connection,
        });
        let opened = plan.open(&sources, options).await?;
        tracing::debug!(queues = ?sources.names(), prefetch = self.prefetch, no_ack, "consumer opened");
        Ok(Consumer::new(plan, sources, options, opened))
    }
}

impl fmt::Debug for OpenConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConsumer")
            .field("queues", &self.queues)
            .field("prefetch", &self.prefetch)
            .field("no_ack", &self.no_ack)
            .field("accept", &self.accept)
            .finish_non_exhaustive()
    }
}

impl IntoFuture for OpenConsumer {
    type Output = Result<Consumer>;
    type IntoFuture = BoxFuture<'static, Result<Consumer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.open()
                .await
                .map_err(|error| error.during("open consumer"))
        })
    }
}


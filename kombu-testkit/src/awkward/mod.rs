//! `awkward://name`: a broker of queues that does nothing at once.
//!
//! It stands for the brokers that are behind a network. Each session sends its operations to the broker over
//! a channel, where they are done in order, some turns of the runtime later; the answers take turns as well, and
//! overtake each other. Readers get messages in odd batches and are woken for nothing. A session can be
//! [cut](Awkward::cut), and the answer to a publish [lost](Awkward::lose_replies) with it.
//!
//! With a [`Flaw`], it breaks one promise of the contract on purpose: a suite that finds nothing then is blind.

mod broker;
mod flaw;
mod line;
mod reader;
mod session;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::virt::VirtualConnection;
use kombu_core::{Error, ErrorKind, Registry, Result};
use parking_lot::Mutex;

pub use flaw::Flaw;

use crate::{Broker, Harness};
use flaw::Flawed;
use session::Session;

/// The transport for `awkward://name` and `awkward://name/virtual-host`.
///
/// Its brokers live as long as the value; a clone has the same ones, and commands the same sessions.
#[derive(Clone, Debug, Default)]
pub struct Awkward {
    brokers: Arc<Mutex<HashMap<String, Arc<broker::Broker>>>>,
    flaw: Option<Flaw>,
    patience: Option<Duration>,
}

const CAPABILITIES: Capabilities = Capabilities::basic()
    .native(Feature::AlternateExchange)
    .native(Feature::ExchangeBinding)
    .native(Feature::CustomExchangeKind)
    .native(Feature::AutoDelete)
    .native(Feature::ExclusiveQueue)
    .native(Feature::ExclusiveConsumer)
    .native(Feature::NoLocal)
    .native(Feature::QueueMessageTtl)
    .native(Feature::MessageTtl)
    .native(Feature::MaxLength)
    .native(Feature::MaxLengthBytes)
    .native(Feature::RejectPublish)
    .native(Feature::MaxDeliveries)
    .native(Feature::DeadLetter)
    .native(Feature::DelayedPublish)
    .native(Feature::DelayedRetry);

impl Awkward {
    /// One that breaks a promise.
    pub fn with_flaw(flaw: Flaw) -> Self {
        Awkward {
            flaw: Some(flaw),
            ..Awkward::default()
        }
    }

    /// One that says that it doesn't bear for longer that a delivery isn't settled.
    pub fn with_patience(patience: Duration) -> Self {
        Awkward {
            patience: Some(patience),
            ..Awkward::default()
        }
    }

    /// Cuts every session: what it asked for and wasn't done yet isn't done, and no answer comes any more.
    pub fn cut(&self) {
        for broker in self.brokers.lock().values() {
            broker.cut();
        }
    }

    /// Stores each of the next `count` publishes and cuts its session before the answer.
    pub fn lose_replies(&self, count: usize) {
        for broker in self.brokers.lock().values() {
            broker.lose_replies(count);
        }
    }
}

#[async_trait]
impl Transport for Awkward {
    fn name(&self) -> &'static str {
        "awkward"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["awkward"]
    }

    fn capabilities(&self) -> Capabilities {
        match self.patience {
            Some(patience) => CAPABILITIES.with_max_processing_time(patience),
            None => CAPABILITIES,
        }
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let name = target.url().host_str().unwrap_or_default();
        if name.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "an awkward broker has a name, for example `awkward://demo`",
            ));
        }
        let path = target.url().path();
        let virtual_host = path.strip_prefix('/').unwrap_or(path);
        let broker = self
            .brokers
            .lock()
            .entry(format!("{name}/{virtual_host}"))
            .or_default()
            .clone();
        let session = Session::open(broker, self.capabilities());
        let kinds = target.exchange_kinds().clone();
        match self.flaw {
            None => VirtualConnection::open_with(session, kinds).await,
            Some(flaw) => VirtualConnection::open_with(Flawed::new(session, flaw), kinds).await,
        }
    }
}

/// A broker of its own for each case.
#[derive(Clone, Debug, Default)]
pub struct AwkwardHarness {
    flaw: Option<Flaw>,
}

impl AwkwardHarness {
    /// The harness of the broker that keeps its promises.
    pub fn new() -> Self {
        AwkwardHarness::default()
    }

    /// The harness of one that breaks a promise.
    pub fn with_flaw(flaw: Flaw) -> Self {
        AwkwardHarness { flaw: Some(flaw) }
    }
}

impl Harness for AwkwardHarness {
    fn name(&self) -> &str {
        "awkward"
    }

    fn registry(&self) -> Registry {
        Registry::new().with(Awkward {
            flaw: self.flaw,
            ..Awkward::default()
        })
    }

    async fn broker(&self) -> Broker {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = NEXT.fetch_add(1, Ordering::Relaxed);
        Broker::new(self.registry(), format!("awkward://conformance-{name}"))
            .with_lag(Duration::from_millis(100))
    }
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use kombu_core::Result;
use kombu_core::driver::{Capabilities, Connection, Feature, Target, Transport};
use kombu_core::virt::VirtualConnection;
use serde::Deserialize;

use crate::broker;
use crate::like::Like;
use crate::store::MemoryStore;

/// The in-process transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

/// What the query of a `memory://` URL can say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// The largest body in bytes that the broker takes. Default: 16 MiB, as RabbitMQ's, or what the transport has that
    /// this one is like.
    pub max_message_size: Option<usize>,
    /// The transport whose capabilities and limits the connection has. Default: all that memory can do.
    pub like: Option<Like>,
    /// Has the broker record this many messages, as [`Inspector::record`](crate::Inspector::record) does; the largest
    /// number that any connection asks for holds. Default: nothing is recorded.
    pub history: Option<usize>,
}

impl MemoryOptions {
    /// What a connection with these options can do.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let all = self.like.map_or(CAPABILITIES, Like::capabilities);
        match self.max_message_size {
            Some(bytes) => all.with_max_message_size(bytes),
            None => all,
        }
    }
}

/// What the memory transport does, beyond what every transport does.
pub(crate) const CAPABILITIES: Capabilities = {
    let mut all = Capabilities::basic();
    let mut index = 0;
    while index < Feature::ALL.len() {
        all = all.native(Feature::ALL[index]);
        index += 1;
    }
    all
};

#[async_trait]
impl Transport for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn resolve(&self, target: Target) -> Result<Target> {
        target.options::<MemoryOptions>()?;
        if target.url().host_str().is_some_and(|name| !name.is_empty()) {
            return Ok(target);
        }
        static FRESH: AtomicU64 = AtomicU64::new(0);
        let mut url = target.url().clone();
        let number = FRESH.fetch_add(1, Ordering::Relaxed);
        // A fragment, so that no name that a user writes can be the same.
        url.set_fragment(Some(&format!("fresh-{number}")));
        Ok(Target::new(url))
    }

    async fn connect(&self, target: &Target) -> Result<Arc<dyn Connection>> {
        let options: MemoryOptions = target.options()?;
        let broker = broker::at(target.url());
        if let Some(limit) = options.history {
            broker.surroundings().recorder.keep_at_least(limit);
        }
        let kinds = target.exchange_kinds().clone();
        VirtualConnection::open_with(MemoryStore::new(broker, options), kinds).await
    }
}

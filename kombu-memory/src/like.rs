//! What other transports can do, for `memory://?like=…`: a unit test refuses what production would.

use kombu_core::driver::{Capabilities, Feature};
use serde::Deserialize;

use crate::transport::CAPABILITIES;

/// A transport that `memory://?like=…` takes after.
///
/// The messaging model is the same everywhere; what a broker lacks is refused with
/// [`ErrorKind::Unsupported`](kombu_core::ErrorKind::Unsupported) before anything is sent, here as there. What the
/// transport emulates counts as emulated.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{ErrorKind, Queue};
///
/// let connection = kombu::connect("memory://?like=redis").await?;
/// let jobs = Queue::new("jobs").max_priority(200); // Redis has 9
/// let error = connection.declare_queue(&jobs).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Unsupported);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Like {
    /// RabbitMQ over AMQP 0-9-1: no `immediate`.
    Amqp,
    /// Redis: priorities up to 9, neither consumer priorities nor `immediate`.
    Redis,
    /// NATS JetStream: as Redis, and bodies up to 1 MiB, the `max_payload` that its servers have by default.
    Nats,
}

impl Like {
    /// What that transport can do, as far as this one can do it too.
    pub(crate) const fn capabilities(self) -> Capabilities {
        match self {
            Like::Amqp => AMQP,
            Like::Redis => QUEUES_ONLY,
            Like::Nats => QUEUES_ONLY.with_max_message_size(1024 * 1024),
        }
    }
}

const AMQP: Capabilities = CAPABILITIES
    .emulated(Feature::DelayedPublish)
    .emulated(Feature::DelayedRetry)
    .emulated(Feature::NoLocal)
    .without(Feature::Immediate);

const QUEUES_ONLY: Capabilities = {
    let mut all = CAPABILITIES;
    let mut index = 0;
    while index < Feature::ALL.len() {
        let feature = Feature::ALL[index];
        if CAPABILITIES.has(feature) {
            all = all.emulated(feature);
        }
        index += 1;
    }
    all.without(Feature::ConsumerPriority)
        .without(Feature::Immediate)
        .with_max_priority(9)
};

use kombu_core::Name;
use kombu_core::serializers::Registry;
use kombu_core::virt::Death;
use tokio::time::Instant;

use super::message::{Peeked, impl_peeked};
use crate::history::{Died, Published};

/// What [`Inspector::history`](super::Inspector::history) found.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Exchange, Queue, memory::Death};
///
/// let connection = kombu::connect("memory://?history=100").await?;
/// let jobs = Queue::new("jobs").dead_letter_exchange("").dead_letter_routing_key("failed");
/// connection.declare_queue(&jobs).await?;
/// connection.declare_queue(&Queue::new("failed")).await?;
/// let producer = connection.producer(Exchange::default()).await?;
/// producer.publish(&7).routing_key("jobs").await?;
/// connection.get("jobs").await?.expect("the job").reject().await?;
///
/// let history = kombu::memory::inspect(&connection)?.history()?;
/// assert_eq!(history.deaths.len(), 1);
/// let death = &history.deaths[0];
/// assert_eq!((death.queue(), death.reason()), (&"jobs".into(), Death::Rejected));
/// assert_eq!(death.moved_to(), ["failed"]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct History {
    /// What was published, in the order in which the broker got it. Dead letters aren't in here.
    pub published: Vec<PublishRecord>,
    /// What left its queue without being consumed, in the order in which it was moved or discarded.
    pub deaths: Vec<DeathRecord>,
    /// How many older records of both sorts had no room.
    pub dropped: u64,
}

/// A message that was published, whether it reached a queue or not. It dereferences to its
/// [`Content`](kombu_core::message::Content).
#[derive(Clone, Debug)]
pub struct PublishRecord {
    message: Peeked,
    queues: Vec<Name>,
    at: Instant,
}

impl PublishRecord {
    pub(super) fn new(published: Published, serializers: &Registry) -> Self {
        PublishRecord {
            message: Peeked::new(published.envelope, serializers),
            queues: published.queues,
            at: published.at,
        }
    }

    /// The queues that stored it, in order of name: not those that were full. None if nobody was bound, which the
    /// publisher may have been told as an error.
    pub fn queues(&self) -> &[Name] {
        &self.queues
    }

    /// When it was published.
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl_peeked!(PublishRecord);

/// A message that left its queue without being consumed, as it was there. It dereferences to its
/// [`Content`](kombu_core::message::Content).
#[derive(Clone, Debug)]
pub struct DeathRecord {
    message: Peeked,
    queue: Name,
    reason: Death,
    moved_to: Vec<Name>,
    at: Instant,
}

impl DeathRecord {
    pub(super) fn new(died: Died, serializers: &Registry) -> Self {
        DeathRecord {
            message: Peeked::new(died.envelope, serializers),
            queue: died.queue,
            reason: died.death,
            moved_to: died.queues,
            at: died.at,
        }
    }

    /// The queue that it died in.
    pub fn queue(&self) -> &Name {
        &self.queue
    }

    /// What it died of.
    pub fn reason(&self) -> Death {
        self.reason
    }

    /// The queues that its dead-letter exchange led to, in order of name. None if it was discarded: its queue has no
    /// dead-letter exchange, or that leads nowhere.
    pub fn moved_to(&self) -> &[Name] {
        &self.moved_to
    }

    /// When it died.
    pub fn at(&self) -> Instant {
        self.at
    }
}

impl_peeked!(DeathRecord);

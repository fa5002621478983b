//! What a test sees of a broker that its program doesn't.

mod history;
mod message;
mod place;

use std::fmt;
use std::sync::Arc;

use kombu_core::declare::{Exchange, Queue};
use kombu_core::serializers::Registry;
use kombu_core::virt::BindingRecord;
use kombu_core::{Error, ErrorKind, Name, Result};

use crate::broker::Broker;
use crate::queue::{Contents, MemoryQueue, are_settled};

pub use self::history::{DeathRecord, History, PublishRecord};
pub use self::message::StoredMessage;
pub use self::place::Place;

/// Looks into a broker: by its name, its URL, or a connection to it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Exchange, Queue};
///
/// let connection = kombu::connect("memory://orders-test").await?;
/// connection.declare_queue(&Queue::new("orders")).await?;
/// let producer = connection.producer(Exchange::default()).await?;
/// producer.publish(&7).routing_key("orders").header("tenant", 3).await?;
///
/// let broker = kombu::memory::inspect("orders-test")?; // or `inspect(&connection)`
/// let orders = broker.queue("orders")?;
/// assert_eq!(orders.ready.len(), 1); // and it is still there
/// assert_eq!(orders.ready[0].decode::<u32>()?, 7);
/// assert_eq!(orders.ready[0].headers().get("tenant").and_then(|value| value.as_i64()), Some(3));
/// # kombu::memory::remove("orders-test");
/// # Ok(())
/// # }
/// ```
///
/// A fresh broker (`memory://`) has no name: inspect a connection to it. With a connection come its serializers.
///
/// # Errors
///
/// [`ErrorKind::NotFound`] if there is no such broker: nothing is made by looking. [`ErrorKind::Config`] for what isn't
/// on `memory://`.
pub fn inspect(place: impl Into<Place>) -> Result<Inspector> {
    let Place { url, serializers } = place.into();
    let broker = place::find(&url).map_err(|error| error.during("inspect"))?;
    Ok(Inspector {
        broker,
        serializers,
    })
}

/// Looks into a broker; [`inspect`] makes one.
///
/// Nothing that it answers is taken from a queue, counts as using one, or changes afterwards. While it lives, a fresh
/// broker stays, though all connections to it are closed.
///
/// With `#[tokio::test(start_paused = true)]`, everything happens at its instant and waits for nothing real. After a jump
/// of the clock (`tokio::time::advance`), dead letters are moved by the connections, which have to run before this sees
/// it; a [`queue_info`](kombu_core::Connection::queue_info) does it at once.
#[derive(Clone)]
pub struct Inspector {
    broker: Arc<Broker>,
    serializers: Registry,
}

/// What a queue has at one instant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueState {
    /// How it was declared, bindings left out: see [`Inspector::bindings`].
    pub declaration: Queue,
    /// The messages that can be taken, as they would be served.
    pub ready: Vec<StoredMessage>,
    /// Those that consumers have, whether received or only fetched, and have not settled; in order of their places in the
    /// queue.
    pub unsettled: Vec<StoredMessage>,
    /// Those that become visible later, in that order.
    pub delayed: Vec<StoredMessage>,
    /// How many consumers it has.
    pub consumers: usize,
}

impl Inspector {
    /// The declarations of all queues, in order of name.
    pub fn queues(&self) -> Vec<Queue> {
        let queues = self.queues_now().into_iter();
        queues
            .map(|queue| (**queue.declaration()).clone())
            .collect()
    }

    /// What a queue has now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if there is no such queue.
    pub fn queue(&self, name: impl Into<Name>) -> Result<QueueState> {
        let queue = self.find(&name.into())?;
        let Contents {
            ready,
            unsettled,
            delayed,
            consumers,
        } = queue.contents();
        let stored = |messages: Vec<_>| {
            let messages = messages.into_iter();
            let stored = messages.map(|seen| StoredMessage::new(seen, &self.serializers));
            stored.collect()
        };
        Ok(QueueState {
            declaration: (**queue.declaration()).clone(),
            ready: stored(ready),
            unsettled: stored(unsettled),
            delayed: stored(delayed),
            consumers,
        })
    }

    /// The exchanges that were declared, in order of name. Those that every broker has aren't among them.
    pub fn exchanges(&self) -> Vec<Exchange> {
        let table = self.broker.table();
        let declared = table.exchanges().filter(|found| !found.is_predeclared());
        let mut exchanges: Vec<_> = declared.cloned().collect();
        exchanges.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        exchanges
    }

    /// All bindings, in order of exchange and routing key.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let videos = Queue::new("videos").bind(Exchange::topic("media"), "video.#");
    /// connection.declare_queue(&videos).await?;
    /// let bindings = kombu::memory::inspect(&connection)?.bindings();
    /// assert_eq!((bindings[0].source.as_str(), bindings[0].routing_key.as_str()), ("media", "video.#"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn bindings(&self) -> Vec<BindingRecord> {
        let table = self.broker.table();
        let mut bindings: Vec<_> = table.bindings().cloned().collect();
        let key = |binding: &BindingRecord| {
            let BindingRecord {
                source,
                routing_key,
                destination,
                ..
            } = binding;
            (
                source.clone(),
                routing_key.clone(),
                format!("{destination:?}"),
            )
        };
        bindings.sort_by_cached_key(key);
        bindings
    }

    /// Has the broker record what is published and what dies, from now on: the latest `limit` messages of either sort. With
    /// 0, it stops and forgets.
    ///
    /// `memory://name?history=LIMIT` does it from the first connection on. While nothing is recorded, which is the
    /// default, publishing pays one comparison for it; while it is, publishes take turns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::Exchange;
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let broker = kombu::memory::inspect(&connection)?;
    /// broker.record(1_000);
    ///
    /// // What is tested tells the world, and nobody need be listening.
    /// let events = connection.producer(Exchange::topic("events")).await?;
    /// events.publish(&"paid").routing_key("order.paid").await?;
    ///
    /// let history = broker.history()?;
    /// assert_eq!(history.published.len(), 1);
    /// let event = &history.published[0];
    /// assert_eq!((event.exchange().as_str(), event.routing_key().as_str()), ("events", "order.paid"));
    /// assert_eq!(event.decode::<&str>()?, "paid");
    /// assert!(event.queues().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn record(&self, limit: usize) {
        self.broker.surroundings().recorder.keep(limit);
    }

    /// What was recorded, the oldest first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PreconditionFailed`] if nothing is being recorded: an empty history would prove nothing.
    pub fn history(&self) -> Result<History> {
        let Some((published, deaths, dropped)) = self.broker.surroundings().recorder.read() else {
            return Err(Error::new(
                ErrorKind::PreconditionFailed,
                "this broker records no history; call `record` first, or connect with `?history=1000`",
            )
            .during("inspect"));
        };
        let (published, deaths) = (published.into_iter(), deaths.into_iter());
        let serializers = &self.serializers;
        Ok(History {
            published: published
                .map(|record| PublishRecord::new(record, serializers))
                .collect(),
            deaths: deaths
                .map(|record| DeathRecord::new(record, serializers))
                .collect(),
            dropped,
        })
    }

    /// Forgets what was recorded so far, and goes on recording.
    pub fn clear_history(&self) {
        self.broker.surroundings().recorder.clear();
    }

    /// Resolves when no queue has a message any more: none is ready, unsettled, delayed, or dead and on its way to another
    /// queue.
    ///
    /// It waits for events, and asks nothing twice that hasn't changed. On a paused clock, time goes on meanwhile from one
    /// delay to the next. What nobody consumes keeps it waiting for ever: put a [`tokio::time::timeout`] around it, and
    /// print the inspector (`{broker:?}`) when that is over. Cancel safe.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    /// use std::time::Duration;
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let mut worker = connection.consumer(&Queue::new("jobs")).await?;
    /// tokio::spawn(async move {
    ///     while let Some(job) = worker.try_next().await? {
    ///         match job.attempt() {
    ///             1 => job.retry_after(Duration::from_secs(3600)).await?,
    ///             _ => job.ack().await?,
    ///         }
    ///     }
    ///     Ok::<_, kombu::Error>(())
    /// });
    /// let producer = connection.producer(Exchange::default()).await?;
    /// producer.publish(&7).routing_key("jobs").await?;
    ///
    /// let start = tokio::time::Instant::now();
    /// kombu::memory::inspect(&connection)?.settled().await;
    /// assert_eq!(start.elapsed(), Duration::from_secs(3600));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn settled(&self) {
        self.wait(None).await;
    }

    /// As [`settled`](Self::settled), for these queues only: others may keep what they have, such as dead letters that are
    /// left lying on purpose. Messages that are dead and on their way count, whichever queue they come from.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if one of the queues isn't there; one that goes later is settled.
    pub async fn settled_in<N: Into<Name>>(
        &self,
        queues: impl IntoIterator<Item = N>,
    ) -> Result<()> {
        let names: Vec<Name> = queues.into_iter().map(Into::into).collect();
        for name in &names {
            self.find(name)?;
        }
        self.wait(Some(&names)).await;
        Ok(())
    }

    async fn wait(&self, only: Option<&[Name]>) {
        let surroundings = self.broker.surroundings();
        let watcher = surroundings.settling.watch();
        loop {
            let fewer = watcher.fewer();
            if self.are_settled(only) {
                return;
            }
            tokio::select! {
                biased;
                () = fewer => {}
                // Whoever moves the dead does what is due after it.
                () = surroundings.schedule.until_due(), if !surroundings.dead.wait_for(None) => {
                    self.broker.catch_up(None);
                }
            }
        }
    }

    fn are_settled(&self, only: Option<&[Name]>) -> bool {
        loop {
            let version = self.broker.version();
            let mut queues = self.broker.queues();
            if let Some(names) = only {
                queues.retain(|queue| names.contains(queue.name()));
            }
            let settled = are_settled(&queues, &self.broker.surroundings().dead);
            // A queue that was declared in between may have what the others had.
            if !settled || self.broker.version() == version {
                return settled;
            }
        }
    }

    fn queues_now(&self) -> Vec<Arc<MemoryQueue>> {
        self.broker.catch_up(None);
        self.broker.queues()
    }

    fn find(&self, name: &Name) -> Result<Arc<MemoryQueue>> {
        self.broker.catch_up(None);
        self.broker.queue(name).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("no queue `{name}`; `queues()` tells which there are"),
            )
            .during("inspect")
        })
    }
}

impl fmt::Debug for Inspector {
    /// What the queues have, in numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queues = self.broker.queues();
        let counts = queues.iter().map(|queue| {
            let contents = queue.contents();
            let counts = format!(
                "{} ready, {} unsettled, {} delayed",
                contents.ready.len(),
                contents.unsettled.len(),
                contents.delayed.len()
            );
            (queue.name(), counts)
        });
        f.debug_map().entries(counts).finish()
    }
}

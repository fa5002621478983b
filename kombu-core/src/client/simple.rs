//! A queue as a collection: put, get, size and clear.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use serde::Serialize;

use crate::declare::{Exchange, Queue};
use crate::driver::BoxFuture;
use crate::error::Result;
use crate::name::Name;

use super::{Connection, Consumer, Delivery, Message, Producer, Published};

/// A simple queue to be: awaiting it declares and opens it.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenSimpleQueue {
    connection: Connection,
    queue: Queue,
    serializer: Option<String>,
}

/// A simple buffer to be: awaiting it declares and opens it.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct OpenSimpleBuffer(OpenSimpleQueue);

impl OpenSimpleBuffer {
    /// The serializer of what is put, by name. Default: `json`.
    pub fn serializer(self, name: impl Into<String>) -> Self {
        OpenSimpleBuffer(self.0.serializer(name))
    }
}

impl IntoFuture for OpenSimpleBuffer {
    type Output = Result<SimpleBuffer>;
    type IntoFuture = BoxFuture<'static, Result<SimpleBuffer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(SimpleBuffer(self.0.await?)) })
    }
}

impl OpenSimpleQueue {
    /// The serializer of what is put, by name. Default: `json`.
    pub fn serializer(mut self, name: impl Into<String>) -> Self {
        self.serializer = Some(name.into());
        self
    }
}

impl IntoFuture for OpenSimpleQueue {
    type Output = Result<SimpleQueue>;
    type IntoFuture = BoxFuture<'static, Result<SimpleQueue>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.connection.declare_queue(&self.queue).await?;
            let producer = self.connection.producer(Exchange::default());
            let mut producer = producer.routing_key(self.queue.name());
            if let Some(serializer) = self.serializer {
                producer = producer.serializer(serializer);
            }
            Ok(SimpleQueue {
                producer: producer.await?,
                consumer: None,
                connection: self.connection,
                queue: self.queue,
            })
        })
    }
}

/// One queue, to put into and get from, without a thought of exchanges.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use std::time::Duration;
///
/// let connection = kombu::connect("memory://").await?;
/// let mut jobs = connection.simple_queue("jobs").await?;
/// jobs.put(&"first").await?;
/// jobs.put(&"second").await?;
/// assert_eq!(jobs.size().await?, 2);
///
/// let job = jobs.get(Duration::from_secs(1)).await?.expect("a job");
/// assert_eq!(job.decode::<String>()?, "first");
/// job.ack().await?;
/// assert_eq!(jobs.clear().await?, 1);
/// assert!(jobs.get(Duration::ZERO).await?.is_none());
/// # Ok(())
/// # }
/// ```
pub struct SimpleQueue {
    connection: Connection,
    queue: Queue,
    producer: Producer,
    /// Opened when something is waited for; it fetches one ahead.
    consumer: Option<Consumer>,
}

impl SimpleQueue {
    /// The queue's name.
    pub fn name(&self) -> &Name {
        self.queue.name()
    }

    /// Puts a value at the end; resolves when the broker has it.
    ///
    /// # Errors
    ///
    /// Those of [`Producer::publish`].
    pub async fn put<T: Serialize + ?Sized>(&self, value: &T) -> Result<Published> {
        self.producer.publish(value).await
    }

    /// Takes the first message, and waits for one until the timeout; with a timeout of zero it takes only what is there. It has
    /// to be settled before the next one is waited for.
    ///
    /// Once something was waited for, the broker sends the next message when this one is settled: [`size`](SimpleQueue::size) and
    /// [`clear`](SimpleQueue::clear) don't have that one, and a timeout of zero takes it only if it has come: give it some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// Those of a [`Consumer`]. Cancel safe.
    pub async fn get(&mut self, timeout: Duration) -> Result<Option<Delivery>> {
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            None if timeout.is_zero() => return self.connection.get(self.name()).await,
            None => {
                let consumer = self.connection.consumer(&self.queue).prefetch(1).await?;
                self.consumer.insert(consumer)
            }
        };
        consumer.receive(timeout).await
    }

    /// How many messages wait.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::queue_info`].
    pub async fn size(&self) -> Result<u64> {
        Ok(self.connection.queue_info(self.name()).await?.ready)
    }

    /// Removes all messages that wait, and answers how many they were.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::purge`].
    pub async fn clear(&self) -> Result<u64> {
        self.connection.purge(self.name()).await
    }
}

impl fmt::Debug for SimpleQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimpleQueue").field(self.name()).finish()
    }
}

/// As a [`SimpleQueue`], for what need not survive: what is got is gone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use std::time::Duration;
///
/// let connection = kombu::connect("memory://").await?;
/// let mut ticks = connection.simple_buffer("ticks").await?;
/// ticks.put(&1).await?;
/// let tick = ticks.get(Duration::from_secs(1)).await?.expect("a tick");
/// assert_eq!(tick.decode::<u32>()?, 1);
/// assert_eq!(ticks.size().await?, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SimpleBuffer(SimpleQueue);

impl SimpleBuffer {
    /// The queue's name.
    pub fn name(&self) -> &Name {
        self.0.name()
    }

    /// As [`SimpleQueue::put`].
    ///
    /// # Errors
    ///
    /// Those of [`Producer::publish`].
    pub async fn put<T: Serialize + ?Sized>(&self, value: &T) -> Result<Published> {
        self.0.put(value).await
    }

    /// Takes the first message away, and waits for one until the timeout; with a timeout of zero it takes only what is
    /// there, as [`SimpleQueue::get`] does.
    ///
    /// # Errors
    ///
    /// Those of a [`Consumer`].
    pub async fn get(&mut self, timeout: Duration) -> Result<Option<Message>> {
        let Some(delivery) = self.0.get(timeout).await? else {
            return Ok(None);
        };
        let (message, acker) = delivery.split();
        acker.ack().await?;
        Ok(Some(message))
    }

    /// How many messages wait.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::queue_info`].
    pub async fn size(&self) -> Result<u64> {
        self.0.size().await
    }

    /// Removes all messages that wait, and answers how many they were.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::purge`].
    pub async fn clear(&self) -> Result<u64> {
        self.0.clear().await
    }
}

impl Connection {
    /// Opens a queue as a collection: what is put survives, as a durable queue does, and what is got has to be settled.
    pub fn simple_queue(&self, name: impl Into<Name>) -> OpenSimpleQueue {
        OpenSimpleQueue {
            connection: self.clone(),
            queue: Queue::new(name),
            serializer: None,
        }
    }

    /// The same for what need not survive: the queue isn't durable, and what is got is gone.
    pub fn simple_buffer(&self, name: impl Into<Name>) -> OpenSimpleBuffer {
        OpenSimpleBuffer(OpenSimpleQueue {
            connection: self.clone(),
            queue: Queue::new(name).durable(false),
            serializer: None,
        })
    }
}

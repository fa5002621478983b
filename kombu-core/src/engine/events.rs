use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::broadcast;

use crate::driver::BoxFuture;
use crate::error::ErrorKind;
use crate::name::Name;

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The first session is there.
    Connected,
    /// A session ended without being asked to.
    Lost {
        /// What ended it.
        kind: ErrorKind,
        /// The same in words.
        reason: String,
    },
    /// An attempt failed; the next one follows.
    Retrying {
        /// Failed attempts in a row.
        attempts: u32,
        /// What the last one met.
        kind: ErrorKind,
        /// The same in words.
        reason: String,
        /// When the next one follows.
        pause: Duration,
    },
    /// The next session is there, with what was declared and what wasn't confirmed.
    Restored {
        /// Failed attempts before it.
        attempts: u32,
    },
    /// The broker takes no publishes for the time being; those that are made wait until their deadline, and everything
    /// else goes on.
    Blocked {
        /// Why, in the broker's words.
        reason: String,
    },
    /// The broker takes publishes again, or the session is lost that it blocked: one that still blocks says so to the next
    /// session.
    Unblocked,
    /// An exchange or a queue that should have outlived the lost session was gone when the next one began, and was
    /// declared again: the broker lost its state, or somebody deleted it. What was in a queue is gone.
    ///
    /// It comes before [`Restored`](Event::Restored). What goes with its connection or its users (exclusive,
    /// `auto_delete`, `expires`) is declared again without it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Connection, Entity, Event, Faults, Queue};
    ///
    /// let faults = Faults::default();
    /// let connection = Connection::builder(kombu::registry())
    ///     .url("memory://recreated-example")
    ///     .layer(faults.clone())
    ///     .await?;
    /// connection.declare_queue(&Queue::new("jobs")).await?;
    /// let mut events = connection.events();
    ///
    /// kombu::memory::remove("recreated-example"); // the broker forgets everything
    /// faults.cut();
    /// while let Some(event) = events.next().await {
    ///     if let Event::Recreated { what, name } = event {
    ///         assert_eq!((what, name.as_str()), (Entity::Queue, "jobs"));
    ///         break;
    ///     }
    /// }
    /// # connection.close().await
    /// # }
    /// ```
    Recreated {
        /// What sort of thing it is.
        what: Entity,
        /// Its name.
        name: Name,
    },
    /// Something that belongs to a queue had gone on the broker, or didn't answer, and was put right within the session:
    /// consumers and producers go on. On NATS, for one, somebody may delete the stream in which a queue lies.
    Repaired {
        /// The queue's name.
        queue: Name,
        /// What it was, and what is lost by it.
        reason: String,
    },
    /// What was declared could not be declared again as it was.
    TopologyMismatch {
        /// What the broker said.
        reason: String,
    },
    /// A queue was deleted while a consumer received from it. The consumer goes on with its other queues, and ends with
    /// [`ErrorKind::ConsumerCancelled`] if this was the last one.
    ConsumerCancelled {
        /// The queue's name.
        queue: Name,
    },
    /// The connection was given up; every operation fails from now on.
    GivenUp {
        /// What the last attempt met.
        reason: String,
    },
}

/// What has a name on a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Entity {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Entity::Exchange => "exchange",
            Entity::Queue => "queue",
        })
    }
}

/// The events of a connection from now on, as a stream.
///
/// A reader that falls behind by more than 256 events misses the oldest. The stream ends with the connection: when it is
/// closed or given up, or its last handle is gone.
pub struct Events {
    next: BoxFuture<'static, (Option<Event>, broadcast::Receiver<Event>)>,
    ended: bool,
}

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Events {
            next: Box::pin(receive(receiver)),
            ended: false,
        }
    }

    /// The next event, or `None` once the connection has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

async fn receive(
    mut receiver: broadcast::Receiver<Event>,
) -> (Option<Event>, broadcast::Receiver<Event>) {
    loop {
        match receiver.recv().await {
            Ok(event) => return (Some(event), receiver),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return (None, receiver),
        }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready((event, receiver)) = self.next.as_mut().poll(context) else {
            return Poll::Pending;
        };
        match event {
            Some(_) => self.next = Box::pin(receive(receiver)),
            None => self.ended = true,
        }
        Poll::Ready(event)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("ended", &self.ended)
            .finish()
    }
}

/// How a connection is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether there is a session.
    pub connected: bool,
    /// How many sessions there were, the present one included.
    pub sessions: u64,
    /// Why the broker takes no publishes at present, in its words.
    pub blocked: Option<String>,
    /// What ended the last session, or kept the next one from coming.
    pub last_error: Option<String>,
}

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;

use crate::declare::Queue;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;

use super::{BoxFuture, Op};

/// How a subscription is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// How many deliveries may be unsettled at once, over all queues of the subscription. 0 means no limit.
    pub window: u32,
    /// The broker forgets a message when it hands it out; nothing is settled.
    pub no_ack: bool,
    /// With `no_ack`, the broker may forget messages as early as it sends them: those that are on their way are lost with the
    /// subscription, its queue, or a pause. A transport may do without.
    pub at_most_once: bool,
    /// Nobody else may consume from the queues meanwhile.
    pub exclusive: bool,
    /// Consumers with a higher number are served first while they have room. Default: 0.
    pub priority: i32,
    /// The origin ([`PublishId::origin`](crate::message::PublishId::origin)) whose messages aren't delivered but
    /// dropped: the consumer's own connection.
    pub no_local: Option<u32>,
}

impl SubscribeOptions {
    /// Options with this window, and with settling.
    pub fn new(window: u32) -> Self {
        SubscribeOptions {
            window,
            no_ack: false,
            at_most_once: false,
            exclusive: false,
            priority: 0,
            no_local: None,
        }
    }

    /// Sets whether the broker forgets a message when it hands it out.
    #[must_use]
    pub fn no_ack(mut self, no_ack: bool) -> Self {
        self.no_ack = no_ack;
        self
    }

    /// Sets whether it may forget messages that are on their way.
    #[must_use]
    pub fn at_most_once(mut self, at_most_once: bool) -> Self {
        self.at_most_once = at_most_once;
        self
    }

    /// Sets whether anybody else may consume from the queues.
    #[must_use]
    pub fn exclusive(mut self, exclusive: bool) -> Self {
        self.exclusive = exclusive;
        self
    }

    /// Sets the consumer's priority.
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets whose messages aren't delivered.
    #[must_use]
    pub fn no_local(mut self, origin: Option<u32>) -> Self {
        self.no_local = origin;
        self
    }

    /// Sets the priority that these queues' consumer argument `x-priority` says, if they all say the same, else 0: that of a
    /// consumer which says none itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for an `x-priority` that isn't a whole number of 32 bits.
    pub fn with_priority_of(self, queues: &[Queue]) -> Result<Self> {
        let priorities: Vec<i32> = queues
            .iter()
            .map(consumer_priority)
            .collect::<Result<_>>()?;
        Ok(self.priority(match &*priorities {
            [first, others @ ..] if others.iter().all(|other| other == first) => *first,
            _ => 0,
        }))
    }

    /// Fails with [`ErrorKind::Unsupported`] if they are refused on every transport: `no_local` is for exclusive consumers.
    pub fn check(&self) -> Result<()> {
        if self.no_local.is_some() && !self.exclusive {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "`no_local` drops what the consumer's own connection publishes, which other consumers of the queue may \
                 wait for: only exclusive consumers can ask for it; add `.exclusive(true)`, or leave it out",
            ));
        }
        Ok(())
    }
}

fn consumer_priority(queue: &Queue) -> Result<i32> {
    const ARGUMENT: &str = "x-priority";
    let Some(value) = queue.consumer_arguments().get(ARGUMENT) else {
        return Ok(0);
    };
    let number = value.as_i64().and_then(|number| number.try_into().ok());
    number.ok_or_else(|| {
        Error::new(
            ErrorKind::Config,
            format!(
                "queue `{}`: the consumer argument `{ARGUMENT}` takes a whole number of 32 bits, not {value:?}",
                queue.name()
            ),
        )
    })
}

/// Names a delivery within the subscription that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The queue's index: its place in the list that the subscription was opened with, or what
    /// [`Subscription::add`] answered.
    pub queue: u16,
    /// The driver's number for the delivery; never reused within a subscription.
    pub id: u64,
}

/// A message as a driver hands it over.
#[derive(Debug)]
pub struct RawDelivery {
    /// The message.
    pub envelope: Envelope,
    /// The delivery's number, for [`Settle::settle`].
    pub id: u64,
    /// How often the message was handed out and counted before: 0 at the first delivery.
    pub failures: u32,
    /// The queue's index, as in [`Tag`].
    pub queue: u16,
    /// Whether the message was handed out before.
    pub redelivered: bool,
    /// How much of [`Capabilities::max_processing_time`](super::Capabilities::max_processing_time) is over: how long ago
    /// the broker sent the message, if that time runs from there. Zero where it has no limit.
    pub waited: Duration,
}

/// What a subscription brings.
#[derive(Debug)]
pub enum Received {
    /// A message from one of its queues.
    Delivery(RawDelivery),
    /// A queue was deleted, or taken away, while it was being consumed: the subscription has left it, and brings
    /// nothing more from it. This isn't an end, even if it was the last one.
    Cancelled {
        /// The queue's index, as in [`Tag`].
        queue: u16,
    },
}

// The stream of a subscription is what every delivery comes through.
const _: () = assert!(size_of::<Option<Result<Received>>>() == size_of::<RawDelivery>());

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: the broker forgets it.
    Ack,
    /// Not our turn: back to its original position, not counted where the broker can tell.
    Release,
    /// Failed: back to this queue, counted, after the delay if there is one.
    Retry {
        /// How long it stays invisible.
        delay: Option<Duration>,
    },
    /// Given up: to the queue's dead-letter exchange, or discarded if it has none.
    Reject,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Ack => "ack",
            Outcome::Release => "release",
            Outcome::Retry { .. } => "retry",
            Outcome::Reject => "reject",
        })
    }
}

/// What is known about a settle that was queued, and the broker's answer where it gives one.
#[derive(Debug)]
pub struct Settlement {
    /// Whether the driver has the settle in its outbound queue.
    pub queued: Result<()>,
    /// Brings the broker's answer; `None` if there is nothing to wait for.
    pub confirmed: Option<Op<Result<()>>>,
}

impl Settlement {
    /// A settle that is done, or has failed, already.
    #[inline]
    pub fn done(result: Result<()>) -> Self {
        Settlement {
            queued: result,
            confirmed: None,
        }
    }

    /// A settle that is queued and whose answer comes later.
    pub fn queued(answer: BoxFuture<'static, Result<()>>) -> Self {
        Settlement {
            queued: Ok(()),
            confirmed: Some(Op::Pending(answer)),
        }
    }
}

/// Settles the deliveries of one subscription. It lives on when the subscription is gone.
pub trait Settle: Send + Sync {
    /// Queues `outcome` for the delivery.
    ///
    /// The call never blocks and needs no runtime (it is made from `Drop`). Dropping the [`Settlement`]
    /// doesn't undo it. A delivery that is no longer held answers
    /// [`ErrorKind::SettleLost`](crate::ErrorKind::SettleLost), and the settle never touches another one.
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement;

    /// Whether the delivery is still held, as far as that is known: the broker may have taken it back while the session
    /// goes on. Default: whatever wasn't settled.
    fn holds(&self, _tag: Tag) -> bool {
        true
    }
}

/// A stream of deliveries from one or several queues, with one window over all of them.
///
/// A queue that is deleted meanwhile is told as [`Received::Cancelled`], after everything that was fetched from it.
/// `Err` items end the stream, and so does the end of the session. Dropping the subscription gives back what was fetched and not yet handed
/// out; what was handed out stays with its holder and can be settled.
pub trait Subscription: Stream<Item = Result<Received>> + Send + Unpin {
    /// Settles what this subscription hands out.
    fn settler(&self) -> Arc<dyn Settle>;

    /// Changes the window; a smaller one takes effect as deliveries are settled. 0 means no limit.
    fn set_window(&self, window: u32);

    /// Stops or goes on receiving. While it is paused, the consumer stays one, but is given nothing, and what was
    /// fetched and not handed out goes back; others are served as if it had no room. It still learns that a queue was
    /// deleted, and that the session ended.
    fn pause(&mut self, paused: bool);

    /// Takes in another queue, under the same window, and answers its index. Indices are never used again.
    ///
    /// If the future is dropped, or fails, the queue is not taken in, and the others go on.
    fn add(&mut self, queue: &Name) -> BoxFuture<'_, Result<u16>>;

    /// Leaves a queue: what was fetched from it and not handed out goes back. The answer is there when the broker
    /// sends nothing more from it.
    fn remove(&mut self, queue: u16) -> Op<Result<()>>;

    /// Ends the subscription: what was fetched and not handed out goes back, and the broker sends no more.
    fn cancel(self: Box<Self>) -> Op<Result<()>>;
}

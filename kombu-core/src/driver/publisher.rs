use std::time::Duration;

use crate::error::Result;
use crate::message::Envelope;

use super::Op;

/// What the broker said to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The broker has taken the message over. `routed` is false if no queue matched.
    Acked {
        /// Whether at least one queue got the message.
        routed: bool,
    },
    /// The broker refused the message, for example because a queue is full.
    Nacked {
        /// Why, in the broker's words or ours.
        reason: String,
    },
    /// The broker gave a mandatory message back.
    Returned {
        /// AMQP's reply code: 312 (no route) or 313 (no consumers).
        code: u16,
    },
    /// The driver sent the message again on the same session, and this is the answer to the last time: the broker may have it
    /// twice.
    SentAgain(Box<Confirmation>),
}

impl Confirmation {
    /// What the broker said, however often the message was sent.
    #[must_use]
    pub fn last(self) -> Self {
        match self {
            Confirmation::SentAgain(answer) => answer.last(),
            answer => answer,
        }
    }
}

/// The second stage of a publish: the broker's answer.
pub type Confirm = Op<Result<Confirmation>>;

/// Publishes on one session.
///
/// Calls are ordered: what is published first reaches a queue first.
pub trait Publisher: Send + Sync {
    /// Starts publishing `envelope`.
    ///
    /// The first stage resolves when the driver has room for the message (back-pressure), the second when
    /// the broker answered. An error of the first stage means that the driver didn't take the message, and that the broker
    /// certainly doesn't have it; whatever is unsure is an error of the second. A message for an exchange that doesn't exist fails with
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) and disturbs no other publish.
    ///
    /// The publish id of the envelope is the same when the client sends a message again; a driver may use
    /// it to recognise repeats and returned messages. A mandatory envelope that no queue matches is
    /// answered with [`Confirmation::Returned`], every other one with [`Confirmation::Acked`].
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>>;

    /// How long after a message was published first it is recognised by its publish id when it comes again. After that it isn't
    /// sent again when its answer was lost: the error says that it may have been stored. `None`, which is the default, where
    /// that makes no difference: repeats are always recognised, or never.
    fn repeats_within(&self) -> Option<Duration> {
        None
    }

    /// Runs `publish`, which publishes several messages and doesn't block: a driver may wait for its end before it sends
    /// them, and so send them together. The default just runs it.
    fn together(&self, publish: &mut dyn FnMut()) {
        publish();
    }
}

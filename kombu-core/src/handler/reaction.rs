use std::fmt;
use std::time::Duration;

use kombu_serializers::erased_serde::Serialize as Erased;
use serde::Serialize;

use crate::call::{Failure, Replying, Responder};

use super::{HandlerError, Rejection};

/// What becomes of a delivery, in place of an ack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: the broker forgets it.
    #[default]
    Ack,
    /// Not our turn: back to its original position, for anybody, and not counted where the broker can tell. One that was
    /// handed out before goes back 100 ms later.
    Release,
    /// Failed: it comes again after the pause that the [retries](super::Retries) say, and up to as often.
    Retry,
    /// The same after this pause.
    RetryAfter(Duration),
    /// Given up: to the queue's dead-letter exchange, or discarded if it has none.
    Reject,
    /// Done, and the component ends: [`Exit::Quit`](super::Exit::Quit).
    Quit,
    /// Done, and the component ends to be started again: [`Exit::Restart`](super::Exit::Restart).
    Restart,
}

/// What a handler made of a message.
#[derive(Debug)]
pub struct Reaction(pub(super) Kind);

pub(super) enum Kind {
    Done { outcome: Outcome, answer: Answer },
    Failed(HandlerError),
    Rejected(Rejection),
}

/// Answers a question, if the message is one.
pub(super) type Answer = Option<Box<dyn FnOnce(&Responder, Option<&dyn Style>) -> Replying + Send>>;

/// How a component answers whose callers expect more than a value.
pub(crate) trait Style: Send + Sync {
    /// Answers with a plain value.
    fn reply(&self, responder: &Responder, value: &dyn Erased) -> Replying;

    /// Who answers, for what a handler made in this style by itself.
    #[cfg(feature = "postage")]
    fn sender(&self) -> &dyn Erased;

    /// Changes what is answered in place of a value.
    fn failure(&self, failure: Failure) -> Failure;
}

impl Reaction {
    /// What becomes of the delivery; `None` if the handler failed, or could not be called.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.0 {
            Kind::Done { outcome, .. } => Some(*outcome),
            Kind::Failed(_) | Kind::Rejected(_) => None,
        }
    }

    /// What the handler failed with, or panicked with.
    pub fn error(&self) -> Option<&HandlerError> {
        match &self.0 {
            Kind::Failed(error) => Some(error),
            Kind::Done { .. } | Kind::Rejected(_) => None,
        }
    }

    /// Why no handler could be called.
    pub fn rejection(&self) -> Option<&Rejection> {
        match &self.0 {
            Kind::Rejected(rejection) => Some(rejection),
            Kind::Done { .. } | Kind::Failed(_) => None,
        }
    }

    pub(super) fn done(outcome: Outcome) -> Self {
        let answer: Answer = match outcome {
            Outcome::Ack | Outcome::Quit | Outcome::Restart => {
                Some(Box::new(|responder, style| plain(responder, style, &())))
            }
            _ => None,
        };
        Reaction(Kind::Done { outcome, answer })
    }

    pub(super) fn failed(error: HandlerError) -> Self {
        Reaction(Kind::Failed(error))
    }

    pub(super) fn rejected(rejection: Rejection) -> Self {
        Reaction(Kind::Rejected(rejection))
    }

    pub(crate) fn value(value: impl Serialize + Send + 'static) -> Self {
        Reaction(Kind::Done {
            outcome: Outcome::Ack,
            answer: Some(Box::new(move |responder, style| {
                plain(responder, style, &value)
            })),
        })
    }

    /// A value that is in the component's style already, but for who answers.
    #[cfg(feature = "postage")]
    pub(crate) fn styled(
        reply: impl FnOnce(&Responder, Option<&dyn Erased>) -> Replying + Send + 'static,
    ) -> Self {
        Reaction(Kind::Done {
            outcome: Outcome::Ack,
            answer: Some(Box::new(move |responder, style| {
                reply(responder, style.map(Style::sender))
            })),
        })
    }
}

fn plain<T: Serialize>(responder: &Responder, style: Option<&dyn Style>, value: &T) -> Replying {
    match style {
        Some(style) => style.reply(responder, value),
        None => responder.reply(value),
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Done { outcome, .. } => outcome.fmt(f),
            Kind::Failed(error) => error.fmt(f),
            Kind::Rejected(rejection) => rejection.fmt(f),
        }
    }
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "a handler can't return `{Self}`",
    label = "not something that settles a delivery",
    note = "return `()`, an `Outcome`, a number, a text, `Reply(value)` for any value that is to be the answer, or a `Result` of one of these whose error is an error type, text or a `Failure`"
)]
pub trait IntoReaction {
    /// What it says.
    fn into_reaction(self) -> Reaction;
}

/// A value that a handler returns: the answer, if the message is a question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reply<T>(pub T);

impl<T: Serialize + Send + 'static> IntoReaction for Reply<T> {
    fn into_reaction(self) -> Reaction {
        Reaction::value(self.0)
    }
}

impl IntoReaction for () {
    fn into_reaction(self) -> Reaction {
        Reaction::done(Outcome::Ack)
    }
}

impl IntoReaction for Outcome {
    fn into_reaction(self) -> Reaction {
        Reaction::done(self)
    }
}

impl IntoReaction for Reaction {
    fn into_reaction(self) -> Reaction {
        self
    }
}

impl<T, E> IntoReaction for Result<T, E>
where
    T: IntoReaction,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn into_reaction(self) -> Reaction {
        match self {
            Ok(value) => value.into_reaction(),
            Err(error) => Reaction::failed(HandlerError::new(error)),
        }
    }
}

macro_rules! values {
    ($($kind:ty)*) => {$(
        impl IntoReaction for $kind {
            fn into_reaction(self) -> Reaction {
                Reaction::value(self)
            }
        }
    )*};
}

values! {
    bool char u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 usize isize String &'static str
}

impl<T: Serialize + Send + 'static> IntoReaction for Vec<T> {
    fn into_reaction(self) -> Reaction {
        Reaction::value(self)
    }
}

impl<T: Serialize + Send + 'static> IntoReaction for Option<T> {
    fn into_reaction(self) -> Reaction {
        Reaction::value(self)
    }
}

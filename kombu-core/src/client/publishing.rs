use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::driver::{BoxFuture, Confirmation};
use crate::engine::{by, check_runtime, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Content, Envelope};
use crate::name::Name;

use super::destinations::PublishingAll;
use super::producer::Inner;
use super::publish::seal;
use super::unconfirmed::{Entry, Handed};

/// What a broker answered to a publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The message id, if you set one.
    pub message_id: Option<Name>,
    /// Whether at least one queue has the message.
    pub routed: bool,
    /// Whether it was sent again after a lost session, so that it may be there twice.
    pub resent: bool,
}

/// A publish under way, without a borrow of its producer.
#[must_use = "only awaiting tells whether the broker has the message"]
pub struct Publishing {
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// It never came to the driver.
    Failed(Option<Error>),
    /// The driver answered at once, as one within the process does.
    Answered(Option<Result<Confirmation>>, Envelope),
    /// Its interceptors have it.
    Intercepted(BoxFuture<'static, Stage>),
    /// The driver has it, or will: the next session's, or when there is room.
    Tracked(Tracked),
    /// It goes to all destinations of its producer.
    ToAll(Box<PublishingAll>),
}

/// A publish that wasn't answered at once.
pub(super) struct Tracked {
    producer: Arc<Inner>,
    entry: Arc<Entry>,
    /// When there has to be an answer: it counts from the call, whatever the publish waited for since.
    end: Instant,
    /// Made when there is something to wait for.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Resolves when there may be room.
    room: Option<Pin<Box<OwnedNotified>>>,
}

/// Gives the message to the driver, or to the list of those that wait for one.
#[inline]
pub(super) fn hand_over(producer: &Arc<Inner>, envelope: Envelope, end: Option<Instant>) -> Stage {
    match producer.outbox.hand_over(&envelope) {
        Handed::Answered(answer) => Stage::Answered(Some(answer), envelope),
        Handed::Tracked(entry) => Stage::Tracked(Tracked {
            producer: producer.clone(),
            entry,
            end: end.unwrap_or_else(|| deadline(producer.deadline())),
            deadline: None,
            room: None,
        }),
    }
}

impl Stage {
    /// Interceptors come before it.
    #[cold]
    pub(super) fn intercepted(producer: Arc<Inner>, mut content: Content) -> Self {
        let limit = producer.deadline();
        let end = deadline(limit);
        Stage::Intercepted(Box::pin(async move {
            for interceptor in producer.interceptors.iter() {
                let late = || {
                    Error::new(
                        ErrorKind::Timeout,
                        format!("no answer within {limit:?}: waiting for an interceptor"),
                    )
                };
                let intercepted = by(end, interceptor.on_publish(&mut content), late).await;
                if let Err(error) = intercepted {
                    return Stage::Failed(Some(error));
                }
            }
            match seal(&producer, content) {
                Ok(envelope) => hand_over(&producer, envelope, Some(end)),
                Err(error) => Stage::Failed(Some(error)),
            }
        }))
    }
}

impl Tracked {
    /// Whether the driver has the message.
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.entry.poll_sent(context).is_ready() {
            return Poll::Ready(());
        }
        if !self.entry.is_queued() {
            return Poll::Pending;
        }
        let outbox = &self.producer.outbox;
        loop {
            let room = self
                .room
                .get_or_insert_with(|| Box::pin(outbox.more_room()));
            let may_be_room = room.as_mut().poll(context).is_ready();
            if may_be_room {
                self.room = None;
            }
            outbox.take_turns();
            if !self.entry.is_queued() {
                self.room = None;
                return self.entry.poll_sent(context);
            }
            if !may_be_room {
                return Poll::Pending;
            }
        }
    }

    /// Whether an answer can't come any more, or not in time.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        if let Some(error) = self.producer.outbox.end_of(&self.entry) {
            // It was lost with the last session, after the others were told of the end.
            return Poll::Ready(self.given_up(error));
        }
        if self.deadline.is_none() {
            if let Err(error) = check_runtime() {
                return Poll::Ready(self.given_up(error));
            }
            self.deadline = Some(Box::pin(sleep_until(self.end)));
        }
        let due = self.deadline.as_mut().map(|end| end.as_mut().poll(context));
        if due != Some(Poll::Ready(())) {
            return Poll::Pending;
        }
        let limit = self.producer.deadline();
        if self.producer.outbox.withdraw(&self.entry) {
            return Poll::Ready(Error::new(
                ErrorKind::Backpressure,
                format!(
                    "no room within {limit:?}: the broker hasn't confirmed what was published before; publish less \
                     at once, or look at what blocks the broker"
                ),
            ));
        }
        let phase = self.entry.phase();
        let engine = &self.producer.connection.inner().engine;
        let error = match engine.blocked() {
            None => Error::new(
                ErrorKind::Timeout,
                format!("no answer within {limit:?}: {phase}"),
            ),
            Some(reason) => Error::new(
                ErrorKind::Backpressure,
                format!(
                    "no answer within {limit:?}: {phase}; the broker takes no publishes: {reason}"
                ),
            ),
        };
        Poll::Ready(self.given_up(error))
    }

    /// Nobody waits for the answer any more, for this reason.
    fn given_up(&self, error: Error) -> Error {
        let may_be_stored = self.entry.may_be_stored();
        self.producer.outbox.forget(&self.entry);
        match may_be_stored {
            true => error.with_maybe_stored(),
            false => error,
        }
    }
}

impl Drop for Tracked {
    /// What had no room yet isn't made.
    fn drop(&mut self) {
        if self.entry.is_queued() {
            self.producer.outbox.withdraw(&self.entry);
        }
    }
}

impl Publishing {
    /// To the destinations of the producer.
    #[cold]
    pub(super) fn to_all(
        producer: &Arc<Inner>,
        prepared: Result<Content>,
        mandatory: Option<bool>,
    ) -> Self {
        let destinations = &producer.destinations;
        let all = PublishingAll::start(producer, prepared, mandatory, destinations);
        Publishing {
            stage: Stage::ToAll(Box::new(all)),
        }
    }

    /// Ready once the driver has the message, or has refused it.
    #[inline]
    pub(super) fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            match &mut self.stage {
                Stage::Failed(error) => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error)),
                        None => Poll::Pending,
                    };
                }
                Stage::Answered(..) => return Poll::Ready(Ok(())),
                Stage::Intercepted(publish) => match publish.as_mut().poll(context) {
                    Poll::Ready(stage) => self.stage = stage,
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Tracked(tracked) => {
                    if tracked.poll_sent(context).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    return tracked.poll_end(context).map(Err);
                }
                Stage::ToAll(all) => return all.poll_sent(context).map(Ok),
            }
        }
    }

    #[inline]
    fn poll_confirmed(&mut self, context: &mut Context<'_>) -> Poll<Result<Published>> {
        match &mut self.stage {
            Stage::Answered(answer, envelope) => match answer.take() {
                Some(answer) => Poll::Ready(published(answer, envelope, false)),
                None => Poll::Pending,
            },
            Stage::Tracked(tracked) => match tracked.entry.poll_answer(context) {
                Poll::Ready(answer) => {
                    tracked.producer.outbox.prune();
                    let resent = tracked.entry.was_resent();
                    // The broker refused it the second time; the first one may be there all the same.
                    let unsure = |error: Error| match resent {
                        true => error.with_maybe_stored(),
                        false => error,
                    };
                    let published = published(answer, &tracked.entry.envelope, resent);
                    Poll::Ready(published.map_err(unsure))
                }
                Poll::Pending => tracked.poll_end(context).map(Err),
            },
            Stage::ToAll(all) => all.poll_together(context),
            Stage::Failed(_) | Stage::Intercepted(_) => Poll::Pending,
        }
    }
}

impl Future for Publishing {
    type Output = Result<Published>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Published>> {
        let this = self.get_mut();
        // Where the broker answers at once, a loop of publishes would never let another task run.
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        let result = match this.poll_sent(context) {
            Poll::Ready(Ok(())) => this.poll_confirmed(context),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        if result.is_ready() {
            budget.made_progress();
        }
        result.map_err(|error| error.during("publish"))
    }
}

/// The first half of a publish: resolves to a [`Receipt`] when the driver has room for the message.
#[must_use = "nothing tells you the outcome unless you await it"]
pub struct Sending(pub(super) Publishing);

impl Future for Sending {
    type Output = Result<Receipt>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let this = &mut self.get_mut().0;
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        let Poll::Ready(sent) = this.poll_sent(context) else {
            return Poll::Pending;
        };
        budget.made_progress();
        let stage = std::mem::replace(&mut this.stage, Stage::Failed(None));
        let receipt = Receipt(Publishing { stage });
        Poll::Ready(
            sent.map(|()| receipt)
                .map_err(|error| error.during("publish")),
        )
    }
}

/// The second half of a publish: resolves when the broker has the message.
///
/// It borrows nothing and can be kept, moved to another task, or put into a `FuturesUnordered`. Dropping it
/// doesn't take the message back.
#[must_use = "only awaiting the receipt tells whether the broker has the message"]
pub struct Receipt(Publishing);

impl Future for Receipt {
    type Output = Result<Published>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Published>> {
        Pin::new(&mut self.get_mut().0).poll(context)
    }
}

macro_rules! opaque_debug {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque_debug!(Publishing Sending Receipt);

/// Turns the driver's answer into the user's.
#[inline]
fn published(answer: Result<Confirmation>, envelope: &Envelope, resent: bool) -> Result<Published> {
    match answer? {
        Confirmation::Acked { routed } => Ok(Published {
            message_id: envelope
                .rare
                .as_ref()
                .and_then(|rare| rare.message_id.clone()),
            routed,
            resent,
        }),
        Confirmation::Nacked { reason } => {
            let error = Error::new(
                ErrorKind::Nacked,
                format!(
                    "the broker refused a message for exchange `{}` with key `{}`: {reason}",
                    envelope.exchange(),
                    envelope.routing_key()
                ),
            );
            Err(match envelope.exchange().is_empty() {
                true => error,
                // Other queues that it matched may have taken it.
                false => error.with_maybe_stored(),
            })
        }
        Confirmation::Returned { code } => Err(returned(code, envelope)),
        Confirmation::SentAgain(answer) => {
            published(Ok(*answer), envelope, true).map_err(Error::with_maybe_stored)
        }
    }
}

#[cold]
fn returned(code: u16, envelope: &Envelope) -> Error {
    let (exchange, key) = (envelope.exchange(), envelope.routing_key());
    if code == 313 {
        return Error::new(
            ErrorKind::NoConsumers,
            format!(
                "no consumer is ready for an immediate message to exchange `{exchange}` with key `{key}`; open one, or \
                 publish without `.immediate(true)`"
            ),
        );
    }
    let message = if exchange.is_empty() {
        format!(
            "no queue is named `{key}`; declare it first, or publish with `.allow_unroutable()`"
        )
    } else {
        format!(
            "no queue is bound to exchange `{exchange}` for key `{key}`; bind one, or publish with \
             `.allow_unroutable()`"
        )
    };
    Error::new(ErrorKind::Unroutable, message).with_code(code)
}

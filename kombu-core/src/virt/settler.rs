use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use crate::declare::Queue;
use crate::driver::{Op, Outcome, RawDelivery, Settle, Settlement, Tag};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;

use super::dead_letter;
use super::dying::move_away;
use super::shared::Shared;
use super::store::{Answer, Death, Finish, QueueStore};
use super::window::Window;

/// Settles what one subscription hands out.
pub(super) struct VirtualSettler<S: QueueStore> {
    shared: Arc<Shared<S>>,
    window: Arc<Window>,
    /// Most subscriptions have one queue: it is found without a lock.
    first: OnceLock<Source<S::Holder>>,
    more: RwLock<Vec<Arc<Source<S::Holder>>>>,
}

/// A queue that deliveries come from.
struct Source<H> {
    declaration: Arc<Queue>,
    holder: H,
    /// What may have to be moved, by delivery. Kept only for queues with a dead-letter exchange.
    held: Mutex<HashMap<u64, Held>>,
}

struct Held {
    envelope: Envelope,
    failures: u32,
}

impl<H> Source<H> {
    fn dead_letters(&self) -> bool {
        self.declaration.get_dead_letter_exchange().is_some()
    }

    /// Whether a message that failed this often was handed out often enough.
    fn is_worn_out(&self, failures: u32) -> bool {
        let limit = self.declaration.get_max_deliveries();
        limit.is_some_and(|limit| failures >= limit)
    }
}

impl<S: QueueStore> VirtualSettler<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, window: Arc<Window>) -> Self {
        VirtualSettler {
            shared,
            window,
            first: OnceLock::new(),
            more: RwLock::default(),
        }
    }

    /// Takes in a queue; its index follows the last one's.
    pub(super) fn add(&self, declaration: Arc<Queue>, holder: S::Holder) {
        let source = Source {
            declaration,
            holder,
            held: Mutex::default(),
        };
        if let Err(source) = self.first.set(source) {
            self.more.write().push(Arc::new(source));
        }
    }

    #[inline]
    fn with_source<T>(&self, index: u16, ask: impl FnOnce(&Source<S::Holder>) -> T) -> Option<T> {
        match usize::from(index).checked_sub(1) {
            None => self.first.get().map(ask),
            Some(index) => {
                let source = self.more.read().get(index).cloned();
                source.as_deref().map(ask)
            }
        }
    }

    /// Whether the deliveries of a queue have to be [held](Self::hold).
    #[inline]
    pub(super) fn looks_at(&self, queue: u16) -> bool {
        self.with_source(queue, Source::dead_letters) == Some(true)
    }

    /// Takes note of a delivery before it is handed out. Whether it must not be, because it was handed out as often as
    /// its queue allows.
    #[inline]
    pub(super) fn hold(&self, delivery: &RawDelivery) -> bool {
        let worn_out = self.with_source(delivery.queue, |source| {
            if !source.dead_letters() {
                return false;
            }
            let held = Held {
                envelope: delivery.envelope.clone(),
                failures: delivery.failures,
            };
            source.held.lock().insert(delivery.id, held);
            source.is_worn_out(delivery.failures)
        });
        worn_out == Some(true)
    }

    /// Ends a delivery that is not handed out, as one that died.
    pub(super) fn give_up(&self, delivery: &RawDelivery, death: Death) {
        let tag = super::subscription::tag(delivery);
        let given_up = self.with_source(tag.queue, |source| {
            let held = source.held.lock().remove(&tag.id);
            held.map(|held| self.die(source, tag.id, &held.envelope, death))
        });
        // A session that is gone has given it back.
        drop(given_up);
    }

    fn die(
        &self,
        source: &Source<S::Holder>,
        id: u64,
        envelope: &Envelope,
        death: Death,
    ) -> Settlement {
        let (queue, holder) = (&source.declaration, source.holder.clone());
        let letter = dead_letter::letter(envelope, queue, death, SystemTime::now());
        let answer = move_away(&self.shared, queue, death, letter, holder, id);
        self.window.give_back();
        match answer {
            Op::Ready(result) => Settlement::done(done(result)),
            // Nobody may ever poll the answer, so it can't be what keeps the move going.
            Op::Pending(answer) => {
                let (sender, receiver) = oneshot::channel();
                let on_its_way = self.shared.under_way.one();
                self.shared.runtime.spawn(async move {
                    // The receiver is gone if nobody waits; the move is done all the same.
                    let _ = sender.send(answer.await);
                    drop(on_its_way);
                });
                Settlement::queued(Box::pin(async move { done(receiver.await.ok()) }))
            }
        }
    }

    fn settle_from(&self, source: &Source<S::Holder>, id: u64, outcome: Outcome) -> Settlement {
        let held = if source.dead_letters() {
            source.held.lock().remove(&id)
        } else {
            None
        };
        let finish = match (outcome, &held) {
            (Outcome::Reject, Some(held)) => {
                return self.die(source, id, &held.envelope, Death::Rejected);
            }
            (Outcome::Retry { .. }, Some(held))
                if source.is_worn_out(held.failures.saturating_add(1)) =>
            {
                return self.die(source, id, &held.envelope, Death::DeliveryLimit);
            }
            (Outcome::Ack, _) => Finish::Forget,
            (Outcome::Reject, _) => Finish::Discard {
                death: Death::Rejected,
            },
            (Outcome::Release, _) => Finish::Release,
            (Outcome::Retry { delay }, _) => Finish::Retry { delay },
        };
        let answer = self.shared.store.finish(&source.holder, id, finish);
        self.window.give_back();
        match answer {
            Op::Ready(result) => Settlement::done(done(result)),
            Op::Pending(answer) => {
                Settlement::queued(Box::pin(async move { done(Some(answer.await)) }))
            }
        }
    }
}

impl<S: QueueStore> Settle for VirtualSettler<S> {
    #[inline]
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        // Known here, and at once: a store would say so too, but an answer from afar comes after "queued".
        if self.shared.check_open().is_err() {
            return Settlement::done(Err(unknown_tag()));
        }
        self.with_source(tag.queue, |source| {
            self.settle_from(source, tag.id, outcome)
        })
        .unwrap_or_else(|| Settlement::done(Err(unknown_tag())))
    }
}

#[inline]
fn done(result: Option<Result<Answer>>) -> Result<()> {
    match result {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) if error.kind() == ErrorKind::ConnectionLost => Err(unanswered(error)),
        Some(Err(error)) => Err(error),
        None => Err(unknown_tag()),
    }
}

/// The session ended before the broker answered.
fn unanswered(loss: Error) -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the session that delivered this message ended before the broker answered: unless it had settled it, the message goes \
         to another consumer",
    )
    .with_source(loss)
}

fn unknown_tag() -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the session that delivered this message is gone; the message goes to another consumer",
    )
}

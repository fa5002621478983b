use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::declare::Queue;
use crate::driver::{Op, Outcome, RawDelivery, Settle, Settlement, Tag};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;

use super::dead_letter;
use super::shared::{Sender, Shared};
use super::store::{Answer, Finish, QueueStore};
use super::window::Window;

/// Settles what one subscription hands out.
pub(super) struct VirtualSettler<S: QueueStore> {
    shared: Arc<Shared<S>>,
    sources: Vec<Source<S::Holder>>,
    window: Arc<Window>,
}

/// A queue that deliveries come from.
pub(super) struct Source<H> {
    declaration: Arc<Queue>,
    holder: H,
    /// What a reject has to move, by delivery. Kept only for queues with a dead-letter exchange.
    held: Mutex<HashMap<u64, Envelope>>,
}

impl<H> Source<H> {
    pub(super) fn new(declaration: Arc<Queue>, holder: H) -> Self {
        Source {
            declaration,
            holder,
            held: Mutex::default(),
        }
    }

    fn dead_letters(&self) -> bool {
        self.declaration.get_dead_letter_exchange().is_some()
    }
}

impl<S: QueueStore> VirtualSettler<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        sources: Vec<Source<S::Holder>>,
        window: Arc<Window>,
    ) -> Self {
        VirtualSettler {
            shared,
            sources,
            window,
        }
    }

    /// Takes note of a delivery before it is handed out.
    pub(super) fn hold(&self, delivery: &RawDelivery) {
        let source = &self.sources[usize::from(delivery.queue)];
        if source.dead_letters() {
            source
                .held
                .lock()
                .insert(delivery.id, delivery.envelope.clone());
        }
    }

    /// Moves a rejected message to where its queue's dead-letter exchange leads; forgets it if that is
    /// nowhere, as RabbitMQ does.
    fn dead_letter(
        &self,
        source: &Source<S::Holder>,
        id: u64,
        envelope: &Envelope,
    ) -> Op<Result<Answer>> {
        let dead = dead_letter::rejected(envelope, &source.declaration);
        let holder = source.holder.clone();
        let moving =
            self.shared
                .clone()
                .dispatch(Sender::DeadLetters, dead, move |store, route, dead| {
                    if route.targets.is_empty() {
                        return Shared::compare(store, route.version);
                    }
                    let (targets, version) = (&route.targets, route.version);
                    store.finish(
                        &holder,
                        id,
                        Finish::Move {
                            targets,
                            version,
                            envelope: dead,
                        },
                    )
                });
        let shared = self.shared.clone();
        let holder = source.holder.clone();
        let queue = source.declaration.name().clone();
        Op::start(async move {
            match moving.await {
                Ok(true) => Ok(Answer::Done),
                Ok(false) => discard(&shared, &holder, id, &queue).await,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    discard(&shared, &holder, id, &queue).await
                }
                Err(error) => {
                    tracing::warn!(%error, %queue, "a rejected message could not be moved");
                    Err(error)
                }
            }
        })
    }
}

/// As RabbitMQ does where a dead-letter exchange is missing or leads nowhere.
async fn discard<S: QueueStore>(
    shared: &Shared<S>,
    holder: &S::Holder,
    id: u64,
    queue: &Name,
) -> Result<Answer> {
    tracing::warn!(%queue, "a rejected message is discarded: its dead-letter exchange leads to no queue");
    shared.store.finish(holder, id, Finish::Forget).await
}

impl<S: QueueStore> Settle for VirtualSettler<S> {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        let Some(source) = self.sources.get(usize::from(tag.queue)) else {
            return Settlement::done(Err(unknown_tag()));
        };
        // Known here, and at once: a store would say so too, but an answer from afar comes after "queued".
        if self.shared.check_open().is_err() {
            return Settlement::done(Err(unknown_tag()));
        }
        let held = if source.dead_letters() {
            source.held.lock().remove(&tag.id)
        } else {
            None
        };
        let finish = match (outcome, &held) {
            (Outcome::Reject, Some(envelope)) => {
                let answer = self.dead_letter(source, tag.id, envelope);
                self.window.give_back();
                return match answer {
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
                };
            }
            (Outcome::Ack | Outcome::Reject, _) => Finish::Forget,
            (Outcome::Release, _) => Finish::Release,
            (Outcome::Retry { delay }, _) => Finish::Retry { delay },
        };
        let answer = self.shared.store.finish(&source.holder, tag.id, finish);
        self.window.give_back();
        match answer {
            Op::Ready(result) => Settlement::done(done(result)),
            Op::Pending(answer) => {
                Settlement::queued(Box::pin(async move { done(Some(answer.await)) }))
            }
        }
    }
}

#[inline]
fn done(result: Option<Result<Answer>>) -> Result<()> {
    match result {
        Some(result) => result.map(|_| ()),
        None => Err(unknown_tag()),
    }
}

fn unknown_tag() -> Error {
    Error::new(
        ErrorKind::SettleLost,
        "the session that delivered this message is gone; the message goes to another consumer",
    )
}

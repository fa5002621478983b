//! Messages that died in their queues: expired, or pushed out of a full one. The store finds them, and here they are
//! moved to where their queue's dead-letter exchange leads.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::declare::Queue;
use crate::driver::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;

use super::dead_letter;
use super::shared::{Reached, Sender, Shared};
use super::store::{Answer, Dead, Death, Finish, QueueStore};

/// How long a store is left alone that doesn't tell its dead.
const PAUSE: Duration = Duration::from_secs(1);

/// How long whoever asks for something waits until the dead are moved: where one is to go may be out of reach.
const WAIT: Duration = Duration::from_secs(3);

/// Moves all that are dead now, each for itself: what becomes of one is no matter of the others, nor of the caller.
///
/// Where the store answers in time, nobody who asks afterwards sees a queue that still has them. Where it doesn't, the
/// work is a task's: the caller stops waiting, and what was taken has to be moved all the same.
pub(super) async fn bury<S: QueueStore>(shared: &Arc<Shared<S>>) {
    let buried = match start(shared) {
        done @ Op::Ready(_) => done.await,
        Op::Pending(burying) => {
            let waited = tokio::time::timeout(WAIT, burying).await;
            waited.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "moving them takes long")))
        }
    };
    if let Err(error) = buried {
        tracing::debug!(%error, "dead messages stay where they are");
    }
}

/// Begins to move them; what isn't done at once is done by a task.
fn start<S: QueueStore>(shared: &Arc<Shared<S>>) -> Op<Result<()>> {
    match Op::start(bury_all(shared.clone())) {
        done @ Op::Ready(_) => done,
        Op::Pending(burying) => {
            let on_its_way = shared.under_way.one();
            let burying = shared.runtime.spawn(async move {
                let buried = burying.await;
                drop(on_its_way);
                buried
            });
            // Only the end of the runtime ends it early.
            Op::pending(async move { burying.await.unwrap_or(Ok(())) })
        }
    }
}

async fn bury_all<S: QueueStore>(shared: Arc<Shared<S>>) -> Result<()> {
    // In turns, so that letters arrive in the order in which they were taken.
    let _turn = shared.burying.lock().await;
    loop {
        let dead = shared.store.take_dead().await?;
        if dead.is_empty() {
            return Ok(());
        }
        for Dead {
            queue,
            death,
            died,
            envelope,
            holder,
            id,
        } in dead
        {
            let letter = dead_letter::letter(&envelope, &queue, death, died);
            let moved = move_away(&shared, &queue, death, letter, holder, id).await;
            if let Err(error) = moved {
                tracing::debug!(%error, queue = %queue.name(), "a dead letter stays where it is");
            }
        }
        shared.check_open()?;
    }
}

/// Moves the dead for as long as the session lives.
pub(super) fn watch<S: QueueStore>(shared: &Arc<Shared<S>>) {
    let runtime = shared.runtime.clone();
    let (ended, shared) = (shared.ended(), Arc::downgrade(shared));
    runtime.spawn(async move {
        tokio::select! {
            biased;
            () = ended => {}
            () = watch_over(shared) => {}
        }
    });
}

async fn watch_over<S: QueueStore>(shared: Weak<Shared<S>>) {
    loop {
        let bell = match shared.upgrade() {
            Some(shared) => shared.store.dead_bell(),
            None => return,
        };
        bell.await;
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let burying = start(&strong);
        drop(strong);
        let buried = burying.await;
        if let Err(error) = buried {
            tracing::debug!(%error, "dead messages stay where they are");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Moves the letter of one dead message to where its queue's dead-letter exchange leads, and forgets it if that is nowhere, as
/// RabbitMQ does. Where that isn't known here, or can't be reached, it is left to other sessions.
///
/// An error means that it wasn't this session's any more.
pub(super) fn move_away<S: QueueStore>(
    shared: &Arc<Shared<S>>,
    queue: &Arc<Queue>,
    death: Death,
    letter: Envelope,
    holder: S::Holder,
    id: u64,
) -> Op<Result<Answer>> {
    let (shared, queue) = (shared.clone(), queue.clone());
    Op::start(async move {
        let mover = holder.clone();
        let moving = shared.clone().dispatch(
            Sender::DeadLetters(death),
            letter,
            move |store, route, letter| {
                if route.targets.is_empty() {
                    return store.leads_nowhere(route.version, letter.exchange());
                }
                let finish = Finish::Move {
                    death,
                    targets: &route.targets,
                    version: route.version,
                    envelope: letter,
                };
                store.finish(&mover, id, finish)
            },
        );
        let name = queue.name();
        match moving.await {
            Ok(Reached::Nowhere) => {}
            Ok(Reached::Refused) => {
                tracing::warn!(queue = %name, "a dead letter was refused by a full queue");
                return Ok(Answer::Done);
            }
            Ok(_) => return Ok(Answer::Done),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if is_over(&error) => return Err(error),
            Err(error) => {
                return leave(&shared, name, death, &holder, id, error).await;
            }
        }
        tracing::warn!(queue = %name, "a dead letter is discarded: its exchange leads to no queue");
        let discard = Finish::Discard { death };
        shared.store.finish(&holder, id, discard).await
    })
}

/// Whether the message went back with its session.
fn is_over(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::SettleLost | ErrorKind::ConnectionLost
    )
}

/// Leaves a dead message that can't be moved here now to whoever can, and discards it where the store can't.
async fn leave<S: QueueStore>(
    shared: &Shared<S>,
    queue: &Name,
    death: Death,
    holder: &S::Holder,
    id: u64,
    error: Error,
) -> Result<Answer> {
    let left = shared.store.finish(holder, id, Finish::LeaveDead { death });
    match left.await {
        Err(refused) if refused.kind() == ErrorKind::Unsupported => {
            tracing::warn!(%error, %queue, "a dead letter can't be moved: discarded");
            let discard = Finish::Discard { death };
            shared.store.finish(holder, id, discard).await
        }
        left => {
            tracing::warn!(%error, %queue, "a dead letter can't be moved here now: it waits for somebody who can");
            left
        }
    }
}

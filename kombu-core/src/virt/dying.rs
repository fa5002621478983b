//! Messages that died in their queues: expired, or pushed out of a full one. The store finds them, and here they are
//! moved to where their queue's dead-letter exchange leads.

use std::sync::{Arc, Weak};

use crate::driver::Op;
use crate::error::{ErrorKind, Result};
use crate::message::Envelope;

use super::dead_letter;
use super::shared::{Reached, Sender, Shared};
use super::store::{Answer, Dead, Death, Finish, QueueStore};
use crate::declare::Queue;

/// Moves all that are dead now.
///
/// Where the store answers at once, nobody who asks afterwards sees a queue that still has them.
pub(super) async fn bury<S: QueueStore>(shared: &Arc<Shared<S>>) -> Result<()> {
    loop {
        let dead = shared.store.take_dead().await?;
        if dead.is_empty() {
            return Ok(());
        }
        for Dead {
            queue,
            death,
            envelope,
            holder,
            id,
        } in dead
        {
            match move_away(shared, &queue, death, &envelope, holder, id).await {
                Ok(_) => {}
                // With its session, it is back among the dead.
                Err(error) if error.kind() == ErrorKind::SettleLost => {}
                Err(error) => return Err(error),
            }
        }
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
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if let Err(error) = bury(&shared).await {
            // The session is over; the next one finds what is left.
            tracing::debug!(%error, "dead messages stay where they are");
            return;
        }
    }
}

/// Moves one dead message to where its queue's dead-letter exchange leads, and forgets it if that is nowhere, as
/// RabbitMQ does.
pub(super) fn move_away<S: QueueStore>(
    shared: &Arc<Shared<S>>,
    queue: &Arc<Queue>,
    death: Death,
    envelope: &Envelope,
    holder: S::Holder,
    id: u64,
) -> Op<Result<Answer>> {
    let letter = dead_letter::letter(envelope, queue, death);
    let (shared, queue) = (shared.clone(), queue.clone());
    Op::start(async move {
        let mover = holder.clone();
        let moving = shared.clone().dispatch(
            Sender::DeadLetters(death),
            letter,
            move |store, route, letter| {
                if route.targets.is_empty() {
                    return Shared::compare(store, route.version);
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
            Err(error) => {
                tracing::warn!(%error, queue = %name, "a dead letter could not be moved");
                return Err(error);
            }
        }
        tracing::warn!(queue = %name, "a dead letter is discarded: its exchange leads to no queue");
        let discard = Finish::Discard { death };
        shared.store.finish(&holder, id, discard).await
    })
}

//! Counts of a queue.
//!
//! The server counts what was given back and not yet handed out again as held. So those who hold something are asked: what
//! nobody holds is ready.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kombu_core::Result;
use serde::{Deserialize, Serialize};

use crate::hold;
use crate::known::NatsQueue;
use crate::members;
use crate::session::Shared;

/// How long a session may take to say what it holds.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) struct Counts {
    pub(crate) ready: u64,
    /// Those of them that are certainly nobody's: others may be held by whoever can't be asked.
    pub(crate) certain: u64,
    pub(crate) unsettled: u64,
    /// How many more the consumers have room for.
    pub(crate) room: u64,
}

/// What one session has of a queue.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Share {
    held: u64,
    /// Given back, and invisible.
    delayed: u64,
    room: u64,
    /// Given back, and not seen again.
    #[serde(default)]
    back: u64,
}

pub(crate) fn own_share(shared: &Shared, stream: &str) -> Share {
    let holds = shared.holds();
    let of = holds.iter().filter(|hold| **hold.queue.stream() == *stream);
    Share {
        held: of.map(|hold| hold.count_in_queue() as u64).sum::<u64>()
            + shared.returns.on_their_way(stream) as u64,
        delayed: shared.returns.delayed(stream) as u64,
        room: shared.room(stream),
        back: shared.returns.back(stream).len() as u64,
    }
}

pub(crate) async fn counts(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<Counts> {
    count(shared, queue, false).await
}

/// The same; with the room of all consumers only if it is asked for.
pub(crate) async fn count(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    with_room: bool,
) -> Result<Counts> {
    for hold in shared.holds() {
        if hold.queue.is(queue)
            && let Some(ack) = hold.last()
        {
            hold::barrier(&shared.line, ack.clone()).await?;
            hold.forget_last(&ack);
        }
    }
    let before = own_share(shared, queue.stream());
    let looks = shared.looks(queue).await?;
    let pending: u64 = looks.iter().map(|look| look.num_pending).sum();
    let taken: u64 = looks.iter().map(|look| look.num_ack_pending).sum();
    let own = own_share(shared, queue.stream());
    // What was settled or taken meanwhile isn't ready.
    let mut all = Share {
        held: own.held.max(before.held),
        delayed: own.delayed.max(before.delayed),
        room: own.room.max(before.room),
        back: own.back,
    };
    if all.held + all.delayed < taken || with_room {
        ask_others(shared, queue, taken, with_room, &mut all).await?;
    }
    let unsettled = all.held.min(taken);
    let back = taken.saturating_sub(unsettled + all.delayed);
    Ok(Counts {
        ready: pending + back,
        certain: pending + back.min(all.back),
        unsettled,
        room: all.room,
    })
}

async fn ask_others(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    taken: u64,
    with_room: bool,
    all: &mut Share,
) -> Result<()> {
    let own = shared.line.session;
    let sessions = members::sessions(&shared.line).await?;
    let mut others = sessions.iter().filter(|session| **session != own).count();
    if others == 0 {
        return Ok(());
    }
    let inbox = shared.line.inbox();
    let mut answers = shared.line.listen(inbox.clone())?;
    let question = format!("{own} {}", queue.stream());
    let subject = shared.line.layout.question().into();
    shared.line.tell_with_reply(subject, inbox, question.into());
    let collecting = async {
        while others > 0 && (with_room || all.held + all.delayed < taken) {
            let Some(answer) = answers.next().await else {
                return;
            };
            // Nobody listens: the others are about to end.
            if answer.status.is_some() {
                return;
            }
            others -= 1;
            if let Ok(share) = serde_json::from_slice::<Share>(&answer.payload) {
                all.held += share.held;
                all.delayed += share.delayed;
                all.room += share.room;
                all.back += share.back;
            }
        }
    };
    // One that doesn't answer is dead, or will be.
    drop(tokio::time::timeout(PATIENCE, collecting).await);
    Ok(())
}

/// Answers another session's question; `None` if it is our own.
pub(crate) fn answer(shared: &Shared, question: &[u8]) -> Option<Vec<u8>> {
    let question = std::str::from_utf8(question).ok()?;
    let (who, stream) = question.split_once(' ')?;
    if who.parse() == Ok(shared.line.session) {
        return None;
    }
    serde_json::to_vec(&own_share(shared, stream)).ok()
}

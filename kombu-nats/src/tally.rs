//! Counts of a queue.
//!
//! The server counts what was given back and not yet handed out again as held. So those who hold something are asked: what
//! nobody holds is ready.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kombu_core::Result;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::ConsumerInfo;
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
    /// Those of these that were given back.
    pub(crate) certainly_back: u64,
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
    // Before the server is asked: what is settled from here on isn't ready, nor is what is taken.
    let before = own_share(shared, queue.stream());
    taken_in(shared, queue.stream()).await?;
    let looks = shared.looks(queue).await?;
    let pending: u64 = looks.iter().map(|look| look.num_pending).sum();
    let taken = taken_of(&looks);
    let own = own_share(shared, queue.stream());
    let mut all = Share {
        held: own.held.max(before.held),
        delayed: own.delayed.max(before.delayed),
        room: own.room.max(before.room),
        back: own.back,
    };
    let mut is_told_by_all = true;
    if all.held + all.delayed < taken || with_room {
        is_told_by_all = ask_others(shared, queue, taken, with_room, &mut all).await?;
    }
    let back_of = |taken: u64| taken.saturating_sub(all.held + all.delayed);
    let back = back_of(taken);
    let mut certainly_back = match is_told_by_all {
        true => back.min(all.back),
        false => 0,
    };
    if certainly_back > 0 {
        // What one of the others settled just before it answered is gone by now; what it took since then wasn't taken before.
        let later = taken_of(&shared.looks(queue).await?);
        certainly_back = certainly_back.min(back_of(later));
    }
    Ok(Counts {
        ready: pending + back,
        certain: pending + certainly_back,
        certainly_back,
        unsettled: all.held.min(taken),
        room: all.room,
    })
}

fn taken_of(looks: &[ConsumerInfo]) -> u64 {
    looks.iter().map(|look| look.num_ack_pending).sum()
}

/// Waits until the server has taken in what this session acknowledged of a stream.
async fn taken_in(shared: &Shared, stream: &str) -> Result<()> {
    for hold in shared.holds() {
        if **hold.queue.stream() == *stream
            && let Some(ack) = hold.last()
        {
            hold::barrier(&shared.line, ack.clone()).await?;
            hold.forget_last(&ack);
        }
    }
    Ok(())
}

/// Adds what the other sessions have of a queue. Answers whether each of them told all of it.
async fn ask_others(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    taken: u64,
    with_room: bool,
    all: &mut Share,
) -> Result<bool> {
    let own = shared.line.session;
    let sessions = members::sessions(&shared.line).await?;
    let mut others = sessions.iter().filter(|session| **session != own).count();
    if others == 0 {
        return Ok(true);
    }
    let inbox = shared.line.inbox();
    let mut answers = shared.line.listen(inbox.clone())?;
    let question = format!("{own} {}", queue.stream());
    let subject = shared.line.layout.question().into();
    shared.line.tell_with_reply(subject, inbox, question.into());
    let collecting = async {
        while others > 0 && (with_room || all.held + all.delayed < taken) {
            let Some(answer) = answers.next().await else {
                return false;
            };
            // Nobody listens: the others are about to end.
            if answer.status.is_some() {
                return false;
            }
            others -= 1;
            if let Ok(share) = serde_json::from_slice::<Share>(&answer.payload) {
                all.held += share.held;
                all.delayed += share.delayed;
                all.room += share.room;
                all.back += share.back;
            }
        }
        true
    };
    // One that doesn't answer is dead, or will be.
    let told = tokio::time::timeout(PATIENCE, collecting).await;
    Ok(told.unwrap_or(false))
}

/// The stream that another session asks about, if that is what it says; `None` if it is this one.
pub(crate) fn asked_about(shared: &Shared, question: &[u8]) -> Option<String> {
    let question = std::str::from_utf8(question).ok()?;
    let (who, stream) = question.split_once(' ')?;
    (who.parse() != Ok(shared.line.session)).then(|| stream.to_owned())
}

/// What is answered to that.
pub(crate) async fn answer(shared: &Shared, stream: &str) -> Result<String> {
    taken_in(shared, stream).await?;
    Ok(json!(own_share(shared, stream)).to_string())
}

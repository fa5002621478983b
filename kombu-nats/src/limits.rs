//! Queues of limited length.
//!
//! What a full queue refuses by the number of its messages, its stream refuses. The rest is done by whoever publishes: the
//! stream's own limits would take messages from those who hold them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kombu_core::declare::Queue;
use kombu_core::virt::{Answer, Death};
use kombu_core::{Overflow, Result};
use parking_lot::Mutex;

use crate::api;
use crate::hold::ACK;
use crate::known::NatsQueue;
use crate::line;
use crate::push::{self, Parcel};
use crate::session::Shared;
use crate::tally;

/// How soon what was published is counted.
const COUNTED: Duration = Duration::from_millis(5);

/// Whether publishers have something to do for the limits of a queue.
pub(crate) fn is_limited(queue: &Queue) -> bool {
    let drops = queue.get_max_length().is_some() && !refuses(queue);
    drops || queue.get_max_length_bytes().is_some() || queue.get_max_length() == Some(0)
}

/// Whether a full queue refuses what comes.
pub(crate) fn refuses(queue: &Queue) -> bool {
    matches!(
        queue.get_overflow(),
        Some(Overflow::RejectPublish | Overflow::RejectPublishDlx)
    )
}

/// Whether what a full queue refuses becomes a dead letter.
pub(crate) fn dead_letters(queue: &Queue) -> bool {
    queue.get_overflow() == Some(Overflow::RejectPublishDlx)
        && queue.get_dead_letter_exchange().is_some()
}

/// The number of messages above which the stream of a queue refuses more. None at all is no limit to a stream.
pub(crate) fn refused_above(queue: &Queue) -> Option<u64> {
    queue
        .get_max_length()
        .filter(|limit| *limit > 0 && refuses(queue))
}

/// The sizes of what is in limited queues, as far as they are known, by stream; and whose turn it is at one.
#[derive(Default)]
pub(crate) struct Sizes(Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<Known>>>>);

#[derive(Default)]
pub(crate) struct Known {
    /// Sizes and levels, by position.
    sizes: BTreeMap<u64, (u64, usize)>,
    read_to: u64,
}

impl Sizes {
    pub(crate) fn of(&self, queue: &NatsQueue) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.0.lock();
        all.entry(queue.stream().clone()).or_default().clone()
    }
}

impl Known {
    /// Learns of what is new, and answers how many bytes are ready.
    async fn ready(&mut self, shared: &Arc<Shared>, queue: &NatsQueue) -> Result<u64> {
        let info = api::stream_info(&shared.line, queue.stream(), None).await?;
        let Ok(info) = info else { return Ok(0) };
        let state = info.state;
        let from = (self.read_to + 1).max(state.first_seq);
        let asking = (from..=state.last_seq)
            .map(|position| api::message(&shared.line, queue.stream(), position));
        for answer in futures_util::future::join_all(asking).await {
            if let Ok(raw) = answer? {
                let level = raw.subject.rsplit('.').next();
                let level = level.and_then(|level| level.parse().ok()).unwrap_or(0);
                self.sizes
                    .insert(raw.position, (raw.payload.len() as u64, level));
            }
        }
        self.read_to = self.read_to.max(state.last_seq);
        self.sizes = self.sizes.split_off(&state.first_seq);
        let looks = shared.looks(queue).await?;
        let is_waiting = |position: u64, level: usize| {
            let look = looks.get(level).or(looks.first());
            look.is_some_and(|look| position > look.delivered.stream_seq)
        };
        let waiting: u64 = self
            .sizes
            .iter()
            .filter(|(position, (_, level))| is_waiting(**position, *level))
            .map(|(_, (size, _))| size)
            .sum();
        let back = shared.returns.back(queue.stream());
        let back: u64 = back
            .iter()
            .filter_map(|position| Some((*position, self.sizes.get(position)?)))
            .filter(|(position, (_, level))| !is_waiting(*position, *level))
            .map(|(_, (size, _))| size)
            .sum();
        Ok(waiting + back)
    }
}

/// Publishes into a limited queue.
pub(crate) fn push(shared: Arc<Shared>, parcel: Parcel) -> line::Answer<Answer> {
    if refuses(parcel.queue.declaration()) {
        let mut pushing: line::Answer<Answer> = Box::pin(async move {
            let sizes = shared.sizes.of(&parcel.queue);
            let mut sizes = sizes.lock().await;
            let ready = sizes.ready(&shared, &parcel.queue).await?;
            let declaration = parcel.queue.declaration();
            let limit = declaration.get_max_length_bytes();
            if limit.is_some_and(|limit| ready + parcel.body.len() as u64 > limit)
                || declaration.get_max_length() == Some(0)
            {
                return push::refused(&shared, &parcel).await;
            }
            let sent = push::send(&shared, &parcel);
            push::settle(&shared, &parcel, sent).await
        });
        // In its turn.
        return match line::begin(&mut pushing) {
            Some(answer) => Box::pin(async move { answer }),
            None => pushing,
        };
    }
    let sent = push::send(&shared, &parcel);
    Box::pin(async move {
        let answer = push::settle(&shared, &parcel, sent).await?;
        trim(&shared, &parcel.queue).await?;
        // The queue's consumer may not have counted it yet.
        shared.agenda.look_in(parcel.queue.name(), COUNTED);
        Ok(answer)
    })
}

/// Drops the head of a queue as long as there is too much in it.
pub(crate) async fn trim(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    let declaration = queue.declaration();
    if refuses(declaration) {
        return Ok(());
    }
    let sizes = shared.sizes.of(queue);
    let mut sizes = sizes.lock().await;
    loop {
        let counts = tally::count(shared, queue, false).await?;
        let mut excess = match declaration.get_max_length() {
            Some(limit) => counts.ready.saturating_sub(limit),
            None => 0,
        };
        if excess == 0
            && let Some(limit) = declaration.get_max_length_bytes()
            && sizes.ready(shared, queue).await? > limit
        {
            excess = 1;
        }
        if excess == 0 {
            return Ok(());
        }
        // What consumers have room for is as good as delivered.
        let limit = declaration.get_max_length().unwrap_or(0);
        let is_enough = |room| room > 0 && counts.ready <= limit.saturating_add(room);
        if is_enough(shared.room(queue.stream()))
            || is_enough(tally::count(shared, queue, true).await?.room)
        {
            return Ok(());
        }
        for _ in 0..excess {
            let Some(fetched) = shared.take_one(queue).await? else {
                return Ok(());
            };
            if declaration.get_dead_letter_exchange().is_none() {
                // Before it is counted again.
                let asking = shared
                    .line
                    .ask(fetched.ack, None, ACK, "a message that is dropped");
                asking.await?;
                continue;
            }
            let now = shared.clock.now();
            shared.bury(queue, fetched, Death::MaxLength, now);
        }
    }
}

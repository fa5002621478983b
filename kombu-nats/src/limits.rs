//! Queues of limited length.
//!
//! What a full queue refuses by the number of its messages, its stream refuses. The rest is done by whoever publishes: the
//! stream's own limits would take messages from those who hold them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kombu_core::declare::Queue;
use kombu_core::virt::{Answer, Death};
use kombu_core::{ErrorKind, Overflow, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::api::{self, StreamState};
use crate::hold::ACK;
use crate::known::NatsQueue;
use crate::line;
use crate::members;
use crate::push::{self, Parcel};
use crate::session::{PAUSE, Shared, to_the_end};
use crate::tally;

/// How soon what was published is counted.
const COUNTED: Duration = Duration::from_millis(5);

/// Up to how many messages the bytes of a queue are counted; those of a longer one are estimated by some of them.
const EXACT: u64 = 1000;
const SAMPLES: u64 = 50;
/// How many messages are read together.
const AT_ONCE: usize = 8;
/// What a stream needs for itself by message.
const OWN: u64 = 34;

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

/// What is known of limited queues, by stream.
#[derive(Default)]
pub(crate) struct Sizes(Mutex<HashMap<Arc<str>, Arc<Limited>>>);

/// A limited queue.
#[derive(Default)]
pub(crate) struct Limited {
    /// How often somebody wanted too much to be dropped.
    wishes: AtomicU64,
    /// Whose turn it is in this session.
    turn: tokio::sync::Mutex<Known>,
}

#[derive(Default)]
pub(crate) struct Known {
    /// Sizes and levels, as far as they are known, by position.
    sizes: BTreeMap<u64, (u64, usize)>,
    read_to: u64,
    /// How far a long queue was when some of it was read, and the share of bodies in what that takes.
    sampled_to: u64,
    share: f64,
    /// The wishes that were fulfilled.
    fulfilled: u64,
}

impl Sizes {
    pub(crate) fn of(&self, queue: &NatsQueue) -> Arc<Limited> {
        let mut all = self.0.lock();
        all.entry(queue.stream().clone()).or_default().clone()
    }

    /// The queue is gone.
    pub(crate) fn forget(&self, queue: &NatsQueue) {
        self.0.lock().remove(queue.stream());
    }
}

/// Waits until this session drops nothing from a limited queue, and keeps it from doing so.
pub(crate) async fn pause(limited: &Limited) -> impl Drop {
    limited.turn.lock().await
}

impl Known {
    /// Learns of what is new, and answers how many bytes are ready; or as good as none, if they are certainly no more than
    /// `enough`.
    async fn ready(&mut self, shared: &Arc<Shared>, queue: &NatsQueue, enough: u64) -> Result<u64> {
        let state = match api::stream_info(&shared.line, queue.stream(), None).await? {
            Ok(info) => info.state,
            Err(refused) if refused.is_missing() => return Ok(0),
            Err(refused) => return Err(refused.during("a look at a queue")),
        };
        if state.last_seq < self.read_to {
            // The stream was made again.
            *self = Known {
                fulfilled: self.fulfilled,
                ..Known::default()
            };
        }
        if state.bytes <= enough {
            return Ok(0);
        }
        if state.messages > EXACT {
            return self.estimate(shared, queue, &state).await;
        }
        self.sizes = self.sizes.split_off(&state.first_seq);
        let from = (self.read_to + 1).max(state.first_seq);
        let reading = (from..=state.last_seq).map(|position| read_size(shared, queue, position));
        let mut reading = futures_util::stream::iter(reading).buffered(AT_ONCE);
        while let Some(read) = reading.next().await {
            let (position, size) = read?;
            if let Some(size) = size {
                self.sizes.insert(position, size);
            }
            // Whoever asks next goes on from here.
            self.read_to = self.read_to.max(position);
        }
        drop(reading);
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
        let mut back: Vec<u64> = back
            .iter()
            .filter_map(|position| Some((*position, self.sizes.get(position)?)))
            .filter(|(position, (_, level))| !is_waiting(*position, *level))
            .map(|(_, (size, _))| *size)
            .collect();
        if !back.is_empty() {
            // Others may have some of them by now, or have settled them.
            let counts = tally::count(shared, queue, false).await?;
            let left = usize::try_from(counts.certainly_back);
            back.sort_unstable();
            back.truncate(left.unwrap_or(usize::MAX));
        }
        let back: u64 = back.iter().sum();
        Ok(waiting + back)
    }

    /// The same for a long queue, by what its bodies are of all bytes in some places of it.
    async fn estimate(
        &mut self,
        shared: &Arc<Shared>,
        queue: &NatsQueue,
        state: &StreamState,
    ) -> Result<u64> {
        if state.last_seq >= self.sampled_to + EXACT || self.sampled_to == 0 {
            let step = ((state.last_seq - state.first_seq) / SAMPLES).max(1);
            let places = (state.first_seq..=state.last_seq).step_by(step as usize);
            let reading =
                places.map(|position| api::message(&shared.line, queue.stream(), position));
            let mut reading = futures_util::stream::iter(reading).buffered(AT_ONCE);
            let (mut bodies, mut all) = (0, 0);
            while let Some(read) = reading.next().await {
                if let Ok(raw) = read? {
                    let body = raw.payload.len() as u64;
                    bodies += body;
                    all += body + (raw.headers.len() + raw.subject.len()) as u64 + OWN;
                }
            }
            drop(reading);
            self.share = bodies as f64 / (all.max(1)) as f64;
            self.sampled_to = state.last_seq;
            // It is read anew when it has become short.
            self.sizes.clear();
            self.read_to = 0;
        }
        let counts = tally::count(shared, queue, false).await?;
        let ready = counts.ready as f64 / state.messages.max(1) as f64;
        Ok((state.bytes as f64 * self.share * ready.min(1.0)) as u64)
    }
}

/// The size of the message at a position, and its level.
async fn read_size(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    position: u64,
) -> Result<(u64, Option<(u64, usize)>)> {
    let raw = api::message(&shared.line, queue.stream(), position).await?;
    let size = raw.ok().map(|raw| {
        let level = raw.subject.rsplit('.').next();
        let level = level.and_then(|level| level.parse().ok()).unwrap_or(0);
        (raw.payload.len() as u64, level)
    });
    Ok((position, size))
}

/// Publishes into a limited queue; again, while it can't be stored, until `end`.
pub(crate) fn push(shared: Arc<Shared>, parcel: Parcel, end: Instant) -> line::Answer<Answer> {
    if refuses(parcel.queue.declaration()) {
        let runtime = shared.line.runtime.clone();
        let mut pushing: line::Answer<Answer> = Box::pin(async move {
            let limited = shared.sizes.of(&parcel.queue);
            // Nobody may wait for it any more.
            let Ok(mut known) = timeout_at(end, limited.turn.lock()).await else {
                return Err(push::unreachable(&parcel.queue));
            };
            let declaration = parcel.queue.declaration();
            let size = parcel.body.len() as u64;
            let is_too_much = match declaration.get_max_length_bytes() {
                Some(limit) if size > limit => true,
                Some(limit) => {
                    let room = limit - size;
                    let ready = loop {
                        match known.ready(&shared, &parcel.queue, room).await {
                            Err(error) if shared.may_pass_by(&error, end.into()) => {
                                tokio::time::sleep(PAUSE).await;
                            }
                            counted => break counted?,
                        }
                    };
                    ready > room
                }
                None => false,
            };
            if is_too_much || declaration.get_max_length() == Some(0) {
                return push::refused(&shared, &parcel).await;
            }
            let sent = push::send(&shared, &parcel);
            drop(push::tell(&shared, &parcel));
            push::settle(&shared, &parcel, sent, end).await
        });
        // In its turn.
        return match line::begin(&runtime, &mut pushing) {
            Some(answer) => Box::pin(async move { answer }),
            None => Box::pin(to_the_end(pushing)),
        };
    }
    let sent = push::send(&shared, &parcel);
    drop(push::tell(&shared, &parcel));
    Box::pin(async move {
        let answer = push::settle(&shared, &parcel, sent, end).await?;
        // It is stored, whatever comes of the others.
        if let Err(error) = trim(&shared, &parcel.queue).await {
            tracing::debug!(%error, queue = %parcel.queue.name(), "a queue may be too long");
        }
        // The queue's consumer may not have counted it yet.
        shared.agenda.look_in(parcel.queue.name(), COUNTED);
        Ok(answer)
    })
}

/// Drops the head of a queue as long as there is too much in it.
pub(crate) async fn trim(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    if refuses(queue.declaration()) {
        return Ok(());
    }
    let (shared, queue) = (shared.clone(), queue.clone());
    match to_the_end(async move { trim_to_limit(&shared, &queue).await }).await {
        // Nothing is left of the queue.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        trimmed => trimmed,
    }
}

async fn trim_to_limit(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    let limited = shared.sizes.of(queue);
    let wish = limited.wishes.fetch_add(1, Ordering::AcqRel) + 1;
    let mut known = limited.turn.lock().await;
    if known.fulfilled >= wish {
        return Ok(());
    }
    let wishes = limited.wishes.load(Ordering::Acquire);
    if excess(shared, queue, &mut known).await? > 0 {
        // Two sessions that drop at the same time would drop twice as much.
        let turn = members::take_turn(shared, queue).await?;
        let dropped = drop_excess(shared, queue, &mut known).await;
        members::end_turn(shared, queue, turn).await?;
        dropped?;
    }
    known.fulfilled = wishes;
    Ok(())
}

/// How many messages are too many, and not as good as delivered.
async fn excess(shared: &Arc<Shared>, queue: &NatsQueue, known: &mut Known) -> Result<u64> {
    let declaration = queue.declaration();
    // Before it is counted: what a consumer takes meanwhile is in its room, or among what is ready.
    let room = shared.room(queue.stream());
    let counts = tally::count(shared, queue, false).await?;
    let mut excess = match declaration.get_max_length() {
        Some(limit) => counts.certain.saturating_sub(limit),
        None => 0,
    };
    if excess == 0
        && let Some(limit) = declaration.get_max_length_bytes()
        && known.ready(shared, queue, limit).await? > limit
    {
        excess = 1;
    }
    if excess == 0 {
        return Ok(0);
    }
    // What consumers have room for is as good as delivered.
    let limit = declaration.get_max_length().unwrap_or(0);
    let is_enough = |ready, room| room > 0 && ready <= limit.saturating_add(room);
    if is_enough(counts.ready, room) {
        return Ok(0);
    }
    let counts = tally::count(shared, queue, true).await?;
    match is_enough(counts.ready, counts.room) {
        true => Ok(0),
        false => Ok(excess),
    }
}

async fn drop_excess(shared: &Arc<Shared>, queue: &NatsQueue, known: &mut Known) -> Result<()> {
    loop {
        let excess = excess(shared, queue, known).await?;
        if excess == 0 {
            return Ok(());
        }
        for _ in 0..excess {
            let Some(fetched) = shared.take_one(queue).await? else {
                return Ok(());
            };
            if queue.declaration().get_dead_letter_exchange().is_some() {
                let now = shared.clock.now();
                shared.bury(queue, fetched, Death::MaxLength, now);
                continue;
            }
            // Before it is counted again.
            let asking = shared
                .line
                .ask(fetched.ack, None, ACK, "a message that is dropped");
            asking.await?;
        }
    }
}

//! Deliveries that don't count.
//!
//! The server counts every delivery. Which of them don't count is written down before their messages go back, for those that
//! come later, and told to the sessions that live.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use async_nats::HeaderMap;
use futures_util::future::join_all;
use kombu_core::Result;
use parking_lot::Mutex;
use serde_json::json;

use crate::api::{self, ACK_WAIT};
use crate::error::{self, code};
use crate::hold::Fetched;
use crate::known::NatsQueue;
use crate::line::{Line, Stored};
use crate::members;
use crate::message;
use crate::session::{PAUSE, Shared};

/// How many positions of a stream are written down together.
const BLOCK: u64 = 1024;
/// How many messages of a stream are remembered.
const MOST: usize = 1 << 20;

/// What is said of it in errors.
const WHAT: &str = "a note of what doesn't count";

/// How many deliveries of each message don't count, by stream.
#[derive(Debug, Default)]
pub(crate) struct Discounts(Mutex<HashMap<Arc<str>, OfStream>>);

#[derive(Debug, Default)]
struct OfStream {
    by_position: BTreeMap<u64, u32>,
    /// The position of what was written last of a block.
    written: HashMap<u64, u64>,
    /// What others had written was read.
    is_read: bool,
}

impl OfStream {
    fn learn(&mut self, all: impl IntoIterator<Item = (u64, u32)>) {
        for (position, count) in all {
            let known = self.by_position.entry(position).or_insert(0);
            *known = count.max(*known);
        }
        while self.by_position.len() > MOST {
            self.by_position.pop_first();
        }
    }

    fn of_block(&self, block: u64) -> BTreeMap<u64, u32> {
        let range = self.by_position.range(block * BLOCK..(block + 1) * BLOCK);
        range.map(|(position, count)| (*position, *count)).collect()
    }
}

impl Discounts {
    /// Another session says this: it matters to those that take messages from the stream, and so have read the rest.
    pub(crate) fn learn(&self, stream: &str, all: impl IntoIterator<Item = (u64, u32)>) {
        if let Some(of) = self.0.lock().get_mut(stream) {
            of.learn(all);
        }
    }

    /// The stream is gone.
    pub(crate) fn forget(&self, stream: &str) {
        self.0.lock().remove(stream);
    }

    /// How often a message came back for good reason.
    pub(crate) fn failures(&self, stream: &str, fetched: &Fetched) -> u32 {
        let delivered = fetched.delivered;
        if delivered.count < 2 {
            return 0;
        }
        let streams = self.0.lock();
        let of = streams.get(stream);
        let less = of.and_then(|of| of.by_position.get(&delivered.position));
        (delivered.count - 1).saturating_sub(less.copied().unwrap_or(0))
    }
}

/// One more delivery of each of these messages, which come sorted, doesn't count. Answers how many of each don't, as far as that is
/// written down now.
pub(crate) async fn add(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    positions: &[u64],
) -> (Vec<(u64, u32)>, Result<()>) {
    let mut blocks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for position in positions {
        blocks.entry(position / BLOCK).or_default().push(*position);
    }
    let writing = blocks
        .iter()
        .map(|(block, positions)| write(shared, queue.stream(), *block, positions));
    let mut all = Vec::new();
    let mut is_new = false;
    let mut done = Ok(());
    for written in join_all(writing).await {
        match written {
            Ok((counts, new)) => {
                all.extend(counts);
                is_new |= new;
            }
            Err(error) => done = Err(error),
        }
    }
    if is_new && let Err(error) = forget_gone(shared, queue).await {
        tracing::debug!(%error, queue = %queue.name(), "what doesn't count any more is kept");
    }
    (all, done)
}

/// Writes down a block, again where nobody answers, for as long as anybody holds what it is about; says, too, whether it is a new one.
async fn write(
    shared: &Shared,
    stream: &Arc<str>,
    block: u64,
    positions: &[u64],
) -> Result<(Vec<(u64, u32)>, bool)> {
    let line = &shared.line;
    let end = Instant::now() + ACK_WAIT;
    // What may be written down though no answer came.
    let mut unsure = None;
    loop {
        let (all, last) = {
            let mut streams = shared.discounts.0.lock();
            let of = streams.entry(stream.clone()).or_default();
            let mut all = of.of_block(block);
            for position in positions {
                *all.entry(*position).or_insert(0) += 1;
            }
            (all, of.written.get(&block).copied().unwrap_or(0))
        };
        let counts: Vec<(u64, u32)> = positions
            .iter()
            .filter_map(|position| Some((*position, *all.get(position)?)))
            .collect();
        let text = text(&all);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(last));
        let subject = subject(line, stream, block);
        let stored = line.put(&subject, Some(headers), text.clone().into());
        let error = match stored.await {
            Ok(Stored::At(position)) => {
                let mut streams = shared.discounts.0.lock();
                let of = streams.entry(stream.clone()).or_default();
                of.learn(counts.iter().copied());
                of.written.insert(block, position);
                return Ok((counts, last == 0));
            }
            Ok(Stored::Refused(refused)) if refused.err_code == code::WRONG_SEQUENCE => {
                match read(shared, stream, block).await {
                    // Ours.
                    Ok(there) if there.is_some() && there == unsure => {
                        return Ok((counts, last == 0));
                    }
                    Ok(_) => continue,
                    Err(error) => error,
                }
            }
            Ok(Stored::Refused(refused)) => refused.during(WHAT),
            Ok(Stored::Nowhere) => members::nowhere(line).await,
            Err(error) => {
                unsure = Some(text.into_bytes());
                error
            }
        };
        let is_passing = error::is_passing(&error);
        if line.is_over() || (is_passing && Instant::now() > end) {
            return Err(error);
        }
        if !is_passing {
            tracing::warn!(%error, stream = &**stream, "releases will count as failures");
            let mut streams = shared.discounts.0.lock();
            let of = streams.entry(stream.clone()).or_default();
            of.learn(counts.iter().copied());
            return Ok((counts, last == 0));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads what is written down of a queue, once.
pub(crate) async fn read_all(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    let stream = queue.stream();
    {
        // From here on, what others say of it is taken in.
        let mut streams = shared.discounts.0.lock();
        if streams.entry(stream.clone()).or_default().is_read {
            return Ok(());
        }
    }
    let blocks = members::keys(&shared.line, &format!("d.{stream}")).await?;
    let blocks = blocks.iter().filter_map(|block| block.parse().ok());
    let reading = blocks.map(|block| read(shared, stream, block));
    for read in join_all(reading).await {
        read?;
    }
    {
        let mut streams = shared.discounts.0.lock();
        streams.entry(stream.clone()).or_default().is_read = true;
    }
    forget_gone(shared, queue).await
}

/// Takes in what is written down of a block, and answers it.
async fn read(shared: &Shared, stream: &Arc<str>, block: u64) -> Result<Option<Vec<u8>>> {
    let line = &shared.line;
    let bucket = line.layout.sessions();
    let subject = subject(line, stream, block);
    let (text, position) = match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => (Some(raw.payload), raw.position),
        Err(refused) if refused.is_missing() => (None, 0),
        Err(refused) => return Err(refused.during(WHAT)),
    };
    let mut streams = shared.discounts.0.lock();
    let of = streams.entry(stream.clone()).or_default();
    of.learn(parsed(text.as_deref().unwrap_or_default()));
    of.written.insert(block, position);
    Ok(text)
}

/// Forgets what is in front of all messages that are there, where there is much.
pub(crate) async fn trim(shared: &Arc<Shared>) -> Result<()> {
    let long: Vec<NatsQueue> = {
        let known = shared.known.lock();
        let streams = shared.discounts.0.lock();
        let is_long = |of: &OfStream| of.by_position.len() as u64 > BLOCK;
        let queues = known.queues();
        queues
            .filter(|queue| streams.get(queue.stream()).is_some_and(is_long))
            .cloned()
            .collect()
    };
    for queue in long {
        forget_gone(shared, &queue).await?;
    }
    Ok(())
}

/// Forgets what is in front of all messages that are there; and all, if the queue is gone.
async fn forget_gone(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    let stream = queue.stream();
    {
        let streams = shared.discounts.0.lock();
        let is_empty = |of: &OfStream| of.written.is_empty() && of.by_position.is_empty();
        if streams.get(stream).is_none_or(is_empty) {
            return Ok(());
        }
    }
    let first = match api::stream_info(&shared.line, stream, None).await? {
        Ok(info) => info.state.first_seq,
        Err(refused) if refused.is_missing() => {
            shared.catch_up().await?;
            if !shared.known.lock().has(queue) {
                // Written down after whoever deleted it had forgotten it.
                forget(shared, queue);
            }
            return Ok(());
        }
        Err(refused) => return Err(refused.during(WHAT)),
    };
    let gone: Vec<u64> = {
        let mut streams = shared.discounts.0.lock();
        let Some(of) = streams.get_mut(stream) else {
            return Ok(());
        };
        of.by_position = of.by_position.split_off(&first);
        let blocks = of.written.keys().copied();
        let gone: Vec<u64> = blocks
            .filter(|block| (block + 1) * BLOCK <= first)
            .collect();
        for block in &gone {
            of.written.remove(block);
        }
        gone
    };
    for block in gone {
        members::purge(&shared.line, &subject(&shared.line, stream, block));
    }
    Ok(())
}

/// The queue is gone.
pub(crate) fn forget(shared: &Shared, queue: &NatsQueue) {
    shared.discounts.forget(queue.stream());
    purge(shared, queue);
}

/// The stream of a queue is made again: nothing is known of the new one's messages, and what others say of them is taken in as
/// before.
pub(crate) fn begin_anew(shared: &Shared, queue: &NatsQueue) {
    if let Some(of) = shared.discounts.0.lock().get_mut(queue.stream()) {
        *of = OfStream {
            is_read: of.is_read,
            ..OfStream::default()
        };
    }
    purge(shared, queue);
}

fn purge(shared: &Shared, queue: &NatsQueue) {
    let bucket = shared.line.layout.sessions();
    members::purge(
        &shared.line,
        &bucket.subject(&format!("d.{}.*", queue.stream())),
    );
}

fn subject(line: &Line, stream: &str, block: u64) -> String {
    let bucket = line.layout.sessions();
    bucket.subject(&format!("d.{stream}.{block}"))
}

/// Runs of positions with the same count: `[[first, last, count], …]`.
fn text(all: &BTreeMap<u64, u32>) -> String {
    let mut runs: Vec<(u64, u64, u32)> = Vec::new();
    for (position, count) in all {
        match runs.last_mut() {
            Some((_, last, of)) if *last + 1 == *position && *of == *count => *last = *position,
            _ => runs.push((*position, *position, *count)),
        }
    }
    json!(runs).to_string()
}

/// What can't be read says nothing.
fn parsed(text: &[u8]) -> Vec<(u64, u32)> {
    let runs: Vec<(u64, u64, u32)> = serde_json::from_slice(text).unwrap_or_default();
    let runs = runs.into_iter();
    // Nobody writes longer ones.
    runs.filter(|(first, last, _)| last.saturating_sub(*first) < BLOCK)
        .flat_map(|(first, last, count)| (first..=last).map(move |position| (position, count)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_count_is_written_in_runs() {
        let all: BTreeMap<u64, u32> = [(5, 1), (6, 1), (7, 1), (8, 2), (10, 2)].into();
        let golden = "[[5,7,1],[8,8,2],[10,10,2]]";
        assert_eq!(text(&all), golden);
        let read: BTreeMap<u64, u32> = parsed(golden.as_bytes()).into_iter().collect();
        assert_eq!(read, all);
        assert!(parsed(b"[[0,18446744073709551615,1]]").is_empty());
        assert!(parsed(b"something else").is_empty());
    }
}

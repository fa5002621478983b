//! Deliveries that don't count.
//!
//! The server counts every delivery. Which of them don't count is written down before their messages go back, for those that
//! come later, and told to the sessions that live.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_nats::{HeaderMap, Subject};
use futures_util::future::join_all;
use kombu_core::{ErrorKind, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api;
use crate::error::{self, code};
use crate::hold::Fetched;
use crate::known::NatsQueue;
use crate::line::{Line, Stored};
use crate::members;
use crate::message;
use crate::session::Shared;

/// How many positions of a stream are written down together.
const BLOCK: u64 = 1024;
/// How many messages of a stream are remembered.
const MOST: usize = 1 << 20;

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
    /// Another session says this.
    pub(crate) fn learn(&self, stream: &Arc<str>, all: impl IntoIterator<Item = (u64, u32)>) {
        let mut streams = self.0.lock();
        streams.entry(stream.clone()).or_default().learn(all);
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

/// One more delivery of each of these messages doesn't count. Answers how many of each don't.
pub(crate) async fn add(
    shared: &Shared,
    queue: &NatsQueue,
    positions: &[u64],
) -> Result<Vec<(u64, u32)>> {
    let mut blocks: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for position in positions {
        blocks.entry(position / BLOCK).or_default().push(*position);
    }
    let writing = blocks
        .iter()
        .map(|(block, positions)| write(shared, queue.stream(), *block, positions));
    let mut all = Vec::with_capacity(positions.len());
    let mut is_new = false;
    for written in join_all(writing).await {
        let (counts, new) = written?;
        all.extend(counts);
        is_new |= new;
    }
    if is_new {
        forget_gone(shared, queue).await?;
    }
    Ok(all)
}

/// Writes down a block; says, too, whether it is a new one.
async fn write(
    shared: &Shared,
    stream: &Arc<str>,
    block: u64,
    positions: &[u64],
) -> Result<(Vec<(u64, u32)>, bool)> {
    let line = &shared.line;
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
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(last));
        let subject = Subject::from(subject(line, stream, block));
        let stored = line.store(subject, Some(headers), text(&all).into());
        let written = match stored.await? {
            Stored::At(position) => Some(position),
            Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => {
                read(shared, stream, block).await?;
                continue;
            }
            Stored::Refused(refused) => {
                let error = refused.during("a note of what doesn't count");
                if error.kind() == ErrorKind::ConnectionLost {
                    return Err(error);
                }
                tracing::warn!(%error, stream = &**stream, "releases will count as failures");
                None
            }
            Stored::Nowhere => return Err(error::unexpected("a note of what doesn't count")),
        };
        let counts: Vec<(u64, u32)> = positions
            .iter()
            .filter_map(|position| Some((*position, *all.get(position)?)))
            .collect();
        let mut streams = shared.discounts.0.lock();
        let of = streams.entry(stream.clone()).or_default();
        of.learn(counts.iter().copied());
        of.written.extend(written.map(|position| (block, position)));
        return Ok((counts, last == 0));
    }
}

/// Reads what is written down of a queue, once.
pub(crate) async fn read_all(shared: &Shared, queue: &NatsQueue) -> Result<()> {
    let stream = queue.stream();
    {
        let streams = shared.discounts.0.lock();
        if streams.get(stream).is_some_and(|of| of.is_read) {
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

async fn read(shared: &Shared, stream: &Arc<str>, block: u64) -> Result<()> {
    let line = &shared.line;
    let bucket = line.layout.sessions();
    let subject = subject(line, stream, block);
    let (counts, position) = match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => (parsed(&raw.payload), raw.position),
        Err(refused) if refused.is_missing() => (Vec::new(), 0),
        Err(refused) => return Err(refused.during("a note of what doesn't count")),
    };
    let mut streams = shared.discounts.0.lock();
    let of = streams.entry(stream.clone()).or_default();
    of.learn(counts);
    of.written.insert(block, position);
    Ok(())
}

/// Forgets what is in front of all messages that are there.
async fn forget_gone(shared: &Shared, queue: &NatsQueue) -> Result<()> {
    let stream = queue.stream();
    {
        let streams = shared.discounts.0.lock();
        if streams.get(stream).is_none_or(|of| of.written.is_empty()) {
            return Ok(());
        }
    }
    let Ok(info) = api::stream_info(&shared.line, stream, None).await? else {
        return Ok(());
    };
    let first = info.state.first_seq;
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
        purge(&shared.line, &subject(&shared.line, stream, block));
    }
    Ok(())
}

/// The queue is gone.
pub(crate) fn forget(shared: &Shared, queue: &NatsQueue) {
    shared.discounts.0.lock().remove(queue.stream());
    let bucket = shared.line.layout.sessions();
    purge(
        &shared.line,
        &bucket.subject(&format!("d.{}.*", queue.stream())),
    );
}

fn purge(line: &Line, subjects: &str) {
    let bucket = line.layout.sessions();
    let purge = json!({ "filter": subjects });
    let subject = format!("STREAM.PURGE.{}", bucket.stream);
    drop(line.api::<Value>(&subject, &purge, "a purge"));
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

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::{Answer, Event, Outcome, Record, check};

/// What a history comes to, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Messages whose publish was answered with a queue that has them.
    pub stored: u64,
    /// Those of them that were sent again.
    pub resent: u64,
    /// Publishes that failed.
    pub failed: u64,
    /// Messages that were acked at least once.
    pub acked: u64,
    /// Messages that a consumer got more often than they were given back: those that a program handles again.
    pub again: u64,
    /// The longest that something expected took to come, counted from when it was expected; among others, the longest pause of
    /// its queue until it came.
    pub worst_wait: Duration,
    /// The longest that a call took beyond its deadline.
    pub worst_overrun: Duration,
}

pub(super) fn summary(records: &[Record]) -> Summary {
    let mut summary = Summary::default();
    let mut acked = HashSet::new();
    for record in records {
        match &record.event {
            Event::Published {
                routed: true,
                resent,
                ..
            } => {
                summary.stored += 1;
                summary.resent += u64::from(*resent);
            }
            Event::PublishFailed { .. } => summary.failed += 1,
            Event::Settled {
                message,
                outcome: Outcome::Ack,
                answer: Answer::Queued | Answer::Confirmed,
                ..
            } => {
                acked.insert(*message);
            }
            Event::Called { took, limit, .. } => {
                let overrun = Duration::from_micros(took.saturating_sub(*limit));
                summary.worst_overrun = summary.worst_overrun.max(overrun);
            }
            _ => {}
        }
    }
    summary.acked = acked.len() as u64;
    summary.again = handled_again(records).count() as u64;
    summary.worst_wait = waits(records)
        .map(|(_, wait)| wait)
        .max()
        .unwrap_or_default();
    summary
}

/// Messages that a consumer got more often than they were given back, and how much more often.
pub(super) fn handled_again(records: &[Record]) -> impl Iterator<Item = (u64, u64)> {
    let mut received: BTreeMap<u64, i64> = BTreeMap::new();
    for record in records {
        match &record.event {
            Event::Received { message, .. } => *received.entry(*message).or_default() += 1,
            Event::Settled {
                message,
                outcome: Outcome::Release | Outcome::Retry,
                answer: Answer::Queued | Answer::Confirmed,
                ..
            } => *received.entry(*message).or_default() -= 1,
            _ => {}
        }
    }
    let again = received
        .into_iter()
        .filter_map(|(message, times)| Some((message, u64::try_from(times - 1).ok()?)));
    again.filter(|(_, again)| *again > 0)
}

/// How long what was expected took to come, each with the time from which on it was expected. What never came took until the end.
/// For what was expected among others, the longest pause of its queue until it came.
pub(super) fn waits(records: &[Record]) -> impl Iterator<Item = (u64, Duration)> {
    let end = records.last().map_or(0, |record| record.at);
    let alone = check::expectations(records).into_iter();
    let alone = alone.map(move |(expected, received)| {
        let at = received.map_or(end, |record| record.at);
        (expected.at, (expected.at, at))
    });
    let among_others =
        check::movements(records).map(|movement| (movement.expected.at, movement.longest_pause));
    let waits = alone.chain(among_others);
    waits.map(|(expected, (from, until))| {
        (expected, Duration::from_micros(until.saturating_sub(from)))
    })
}

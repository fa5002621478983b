//! Sessions that could not be ended.
//!
//! The others find out when they have been silent for too long. This program knows at once that their line broke, and the
//! next session that it begins at the same place ends them first, and gives back what they held, so that nobody needs to wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::hold::Held;

/// What was left at a place.
#[derive(Default)]
struct Left {
    sessions: Vec<LeftSession>,
    /// By stream: somebody else may have sessions at the same place, and sees other streams.
    held: Vec<(Arc<str>, Held)>,
}

/// A session that was left.
struct LeftSession {
    number: u64,
    /// Whether the server knew that it lived.
    had_sign: bool,
    at: Instant,
}

static LEFT: Mutex<BTreeMap<String, Left>> = Mutex::new(BTreeMap::new());

/// How many sessions are remembered for a place: one that never comes back must not cost ever more.
const MOST: usize = 64;
/// How long one is remembered of which there is no sign: others have ended it, or it is another account's.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Leaves a session to the next one at its place.
pub(crate) fn leave(place: &str, session: u64, had_sign: bool, held: Vec<(Arc<str>, Held)>) {
    let mut all = LEFT.lock();
    let left = all.entry(place.to_owned()).or_default();
    if left.sessions.len() >= MOST {
        left.sessions.remove(0);
    }
    left.sessions.push(LeftSession {
        number: session,
        had_sign,
        at: Instant::now(),
    });
    left.held.retain(|(_, held)| held.is_ours());
    left.held.extend(held);
}

/// The sessions that were left at a place, and whether the server knew that they lived.
pub(crate) fn sessions(place: &str) -> Vec<(u64, bool)> {
    let all = LEFT.lock();
    all.get(place).map_or_else(Vec::new, |left| {
        let sessions = left.sessions.iter();
        sessions
            .map(|session| (session.number, session.had_sign))
            .collect()
    })
}

/// There is no sign of this session here, and if that is so for long, it is looked for no more.
pub(crate) fn is_missing(place: &str, session: u64) {
    if let Some(left) = LEFT.lock().get_mut(place) {
        left.sessions
            .retain(|other| other.number != session || other.at.elapsed() < REMEMBERED);
    }
}

/// This session has been ended.
pub(crate) fn forget(place: &str, session: u64) {
    if let Some(left) = LEFT.lock().get_mut(place) {
        left.sessions.retain(|other| other.number != session);
    }
}

/// What was held of streams that are known, once: whoever takes it gives it back.
pub(crate) fn take_held(place: &str, is_known: impl Fn(&str) -> bool) -> Vec<(Arc<str>, Held)> {
    let mut all = LEFT.lock();
    let Some(left) = all.get_mut(place) else {
        return Vec::new();
    };
    let (taken, rest) = std::mem::take(&mut left.held)
        .into_iter()
        .partition(|(stream, _)| is_known(stream));
    left.held = rest;
    if left.sessions.is_empty() && left.held.is_empty() {
        all.remove(place);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_was_left_is_given_back_once_by_somebody_who_sees_its_stream() {
        let held = |stream: &str, position| (stream.into(), Held::at(position, Instant::now()));
        leave("a place", 7, true, vec![held("mine", 1), held("other", 2)]);
        leave("a place", 8, false, vec![held("mine", 3)]);
        assert_eq!(sessions("a place"), [(7, true), (8, false)]);
        // This attempt ends one of them, and fails at the other.
        forget("a place", 7);
        assert_eq!(sessions("a place"), [(8, false)]);
        let take = || {
            let taken = take_held("a place", |stream| stream == "mine");
            let positions = taken.into_iter().map(|(_, held)| held.position);
            positions.collect::<Vec<_>>()
        };
        assert_eq!(take(), [1, 3]);
        assert!(take().is_empty());
        assert_eq!(take_held("a place", |_| true).len(), 1);
        forget("a place", 8);
        assert!(sessions("a place").is_empty());
    }
}

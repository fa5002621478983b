//! Sessions that could not be ended.
//!
//! The others find out when they have been silent for too long. This program knows at once that their line broke, and the
//! next session that it begins at the same place ends them first, so that what they held needn't wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::hold::Held;

/// A session that was left, and what it held, by stream.
#[derive(Clone)]
pub(crate) struct Left {
    pub(crate) session: u64,
    pub(crate) held: Vec<(Arc<str>, Held)>,
}

/// By place.
static LEFT: Mutex<BTreeMap<String, Vec<Left>>> = Mutex::new(BTreeMap::new());

/// How many sessions are remembered for a place: one that never comes back must not cost ever more.
const MOST: usize = 64;

/// Leaves a session to the next one at its place.
pub(crate) fn leave(place: &str, session: u64, mut held: Vec<(Arc<str>, Held)>) {
    // They go back in this order.
    held.sort_by(|(one, held), (other, more)| (one, held.position).cmp(&(other, more.position)));
    let mut left = LEFT.lock();
    let here = left.entry(place.to_owned()).or_default();
    if here.len() >= MOST {
        here.remove(0);
    }
    here.push(Left { session, held });
}

/// The sessions that were left at a place, with what nobody else can have been given yet.
pub(crate) fn at(place: &str) -> Vec<Left> {
    let mut left = LEFT.lock();
    for one in left.values_mut().flatten() {
        one.held.retain(|(_, held)| held.is_ours());
    }
    left.get(place).cloned().unwrap_or_default()
}

/// What this session held has gone back.
pub(crate) fn forget_held(place: &str, session: u64) {
    let mut left = LEFT.lock();
    let here = left.get_mut(place).into_iter().flatten();
    for one in here.filter(|one| one.session == session) {
        one.held.clear();
    }
}

/// This session has been ended.
pub(crate) fn forget(place: &str, session: u64) {
    let mut left = LEFT.lock();
    if let Some(here) = left.get_mut(place) {
        here.retain(|one| one.session != session);
        if here.is_empty() {
            left.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::api::ACK_WAIT;

    #[test]
    fn a_session_is_left_until_one_has_ended_it_and_what_others_may_hold_is_not() {
        let stream: Arc<str> = "stream".into();
        let now = Instant::now();
        let held = |position, since| (stream.clone(), Held::at(position, since));
        let long_ago = now.checked_sub(ACK_WAIT);
        let both = [Some(now), long_ago].into_iter().flatten();
        let both = both.zip(1..).map(|(since, position)| held(position, since));
        leave("a place", 7, both.collect());
        for _ in 0..2 {
            let left = at("a place");
            let positions = left[0].held.iter().map(|(_, held)| held.position);
            assert_eq!(positions.collect::<Vec<_>>(), [1]);
        }
        forget_held("a place", 7);
        assert!(at("a place")[0].held.is_empty());
        forget("a place", 7);
        assert!(at("a place").is_empty());
    }
}

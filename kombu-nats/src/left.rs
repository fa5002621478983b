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

/// Takes the sessions that were left at a place.
pub(crate) fn take(place: &str) -> Vec<Left> {
    LEFT.lock().remove(place).unwrap_or_default()
}

/// Leaves those that couldn't be ended to the next attempt.
pub(crate) fn put_back(place: &str, left: Vec<Left>) {
    let mut all = LEFT.lock();
    let here = all.entry(place.to_owned()).or_default();
    here.splice(0..0, left);
    here.truncate(MOST);
}

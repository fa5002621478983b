//! Sessions that could not be ended.
//!
//! The server finds out when their lease is over. This program knows at once that their line broke, and the next session that
//! it begins at the same place ends them first, so that what they held needn't wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Their numbers, and when their leases are over.
type Numbers = Vec<(u64, Instant)>;

/// By place.
static LEFT: Mutex<BTreeMap<Arc<str>, Numbers>> = Mutex::new(BTreeMap::new());

/// A session, as it is known to others.
pub(crate) struct Session {
    /// Its server, database and prefix.
    pub(crate) place: Arc<str>,
    pub(crate) number: u64,
    pub(crate) lease: Duration,
}

impl Session {
    /// Leaves it to the next one, unless its lease ends before that.
    pub(crate) fn leave(&self) {
        let now = Instant::now();
        let mut left = LEFT.lock();
        left.retain(|_, sessions| {
            sessions.retain(|(_, until)| *until > now);
            !sessions.is_empty()
        });
        let Some(until) = now.checked_add(self.lease) else {
            return;
        };
        let here = left.entry(self.place.clone()).or_default();
        if !here.iter().any(|(number, _)| *number == self.number) {
            here.push((self.number, until));
        }
    }
}

/// The sessions that were left at a place.
pub(crate) fn at(place: &str) -> Vec<u64> {
    let left = LEFT.lock();
    let here = left.get(place).into_iter().flatten();
    here.map(|(number, _)| *number).collect()
}

/// These have been ended.
pub(crate) fn forget(place: &str, ended: &[u64]) {
    let mut left = LEFT.lock();
    if let Some(here) = left.get_mut(place) {
        here.retain(|(number, _)| !ended.contains(number));
        if here.is_empty() {
            left.remove(place);
        }
    }
}

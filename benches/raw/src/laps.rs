//! How long each operation took, where that counts and not only how many there are in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

static LAPS: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

/// Takes note of an operation that began then and is done now.
pub fn done_since(begin: Instant) {
    let lap = begin.elapsed();
    LAPS.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(lap);
}

/// All that were noted since this was asked last, in no order.
pub fn take() -> Vec<Duration> {
    std::mem::take(&mut *LAPS.lock().unwrap_or_else(PoisonError::into_inner))
}

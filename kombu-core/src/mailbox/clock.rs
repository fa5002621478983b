use std::sync::atomic::{AtomicI64, Ordering};

use crate::field::FieldValue;
use crate::message::Content;

/// Lamport's clock, which Python's nodes look at.
#[derive(Debug, Default)]
pub(crate) struct Clock(AtomicI64);

impl Clock {
    /// The time of what is sent now.
    pub(crate) fn forward(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Something was received.
    pub(super) fn adjust(&self, received: &Content) {
        let time = received.headers().get("clock").and_then(FieldValue::as_i64);
        let later = |now: i64| Some(now.max(time.unwrap_or(0)).saturating_add(1));
        // The change always succeeds.
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

//! What a broker remembers of published and dead messages, if somebody has asked it to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use kombu_core::Name;
use kombu_core::message::Envelope;
use kombu_core::virt::Death;
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Default)]
pub(crate) struct Recorder {
    /// How many messages of either sort are kept; 0 while nothing is recorded.
    limit: AtomicUsize,
    published: Mutex<Log<Published>>,
    deaths: Mutex<Log<Died>>,
}

/// A message that a publisher sent.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) envelope: Envelope,
    pub(crate) queues: Vec<Name>,
    pub(crate) at: Instant,
}

/// A message that left its queue without being consumed.
#[derive(Clone)]
pub(crate) struct Died {
    pub(crate) envelope: Envelope,
    pub(crate) queue: Name,
    pub(crate) death: Death,
    /// Where it was moved.
    pub(crate) queues: Vec<Name>,
    pub(crate) at: Instant,
}

/// The latest records, the oldest first.
pub(crate) struct Log<T> {
    records: VecDeque<T>,
    dropped: u64,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Log {
            records: VecDeque::new(),
            dropped: 0,
        }
    }
}

impl<T> Log<T> {
    fn shrink_to(&mut self, limit: usize) {
        let surplus = self.records.len().saturating_sub(limit);
        self.records.drain(..surplus);
        self.dropped += surplus as u64;
    }
}

impl Recorder {
    /// All that the hot path asks.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.limit() > 0
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Keeps this many from now on; with 0, nothing.
    pub(crate) fn keep(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        if limit == 0 {
            return self.clear();
        }
        self.published.lock().shrink_to(limit);
        self.deaths.lock().shrink_to(limit);
    }

    /// Keeps at least this many from now on.
    pub(crate) fn keep_at_least(&self, limit: usize) {
        self.limit.fetch_max(limit, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        *self.published.lock() = Log::default();
        *self.deaths.lock() = Log::default();
    }

    /// Records what `publish` does, which says where the message was stored. One publish at a time, so that the records
    /// have the order of the queues.
    pub(crate) fn publish<T>(
        &self,
        envelope: &Envelope,
        publish: impl FnOnce(&mut Vec<Name>) -> T,
    ) -> T {
        let mut log = self.published.lock();
        let mut queues = Vec::new();
        let answer = publish(&mut queues);
        log.records.push_back(Published {
            envelope: envelope.clone(),
            queues,
            at: Instant::now(),
        });
        log.shrink_to(self.limit());
        answer
    }

    pub(crate) fn die(&self, died: Died) {
        let mut log = self.deaths.lock();
        log.records.push_back(died);
        log.shrink_to(self.limit());
    }

    /// What was published, what died, and how many older records were dropped; `None` while nothing is recorded.
    pub(crate) fn read(&self) -> Option<(Vec<Published>, Vec<Died>, u64)> {
        if !self.is_on() {
            return None;
        }
        let published = self.published.lock();
        let deaths = self.deaths.lock();
        Some((
            published.records.iter().cloned().collect(),
            deaths.records.iter().cloned().collect(),
            published.dropped + deaths.dropped,
        ))
    }
}

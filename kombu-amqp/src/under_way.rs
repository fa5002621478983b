use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Publishes without an answer, of all publishers of a session.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<Counted>);

#[derive(Default)]
struct Counted {
    count: AtomicUsize,
    none: Notify,
}

/// One of them; it is over when this is dropped.
pub(crate) struct OnItsWay(UnderWay);

impl UnderWay {
    pub(crate) fn one(&self) -> OnItsWay {
        self.begin();
        OnItsWay(self.clone())
    }

    /// Counts one more.
    pub(crate) fn begin(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts some less.
    pub(crate) fn end(&self, count: usize) {
        if self.0.count.fetch_sub(count, Ordering::Release) == count {
            self.0.none.notify_waiters();
        }
    }

    /// Resolves when there is none.
    pub(crate) async fn none(&self) {
        loop {
            let none = self.0.none.notified();
            if self.0.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.end(1);
    }
}

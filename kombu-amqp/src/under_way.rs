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
pub(crate) struct OnItsWay(Arc<Counted>);

impl UnderWay {
    pub(crate) fn one(&self) -> OnItsWay {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        OnItsWay(self.0.clone())
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
        if self.0.count.fetch_sub(1, Ordering::Release) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

use std::collections::VecDeque;
use std::sync::Arc;

use kombu_core::virt::Death;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::queue::{Entry, MemoryQueue};

/// Messages that died in a queue with a dead-letter exchange, until a session moves them there.
#[derive(Default)]
pub(crate) struct DeadList {
    dead: Mutex<Dead>,
    bell: Notify,
}

#[derive(Default)]
struct Dead {
    waiting: VecDeque<Corpse>,
    /// Those that are waiting, and those that a session has taken and not moved yet.
    on_their_way: usize,
}

pub(crate) struct Corpse {
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) entry: Entry,
    pub(crate) death: Death,
    pub(crate) died: Instant,
}

impl DeadList {
    pub(crate) fn add(&self, corpse: Corpse) {
        self.dead.lock().on_their_way += 1;
        self.add_again(corpse);
    }

    /// A session that had taken it ended before it was moved.
    pub(crate) fn add_again(&self, corpse: Corpse) {
        self.dead.lock().waiting.push_back(corpse);
        self.bell.notify_waiters();
    }

    /// Takes all that are waiting. Each of them is [added again](Self::add_again), or [arrives](Self::arrive).
    pub(crate) fn take_all(&self) -> VecDeque<Corpse> {
        std::mem::take(&mut self.dead.lock().waiting)
    }

    /// One of those that were taken is in its next queue, or gone.
    pub(crate) fn arrive(&self) {
        self.dead.lock().on_their_way -= 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dead.lock().waiting.is_empty()
    }

    /// Whether none is between its queue and the next one.
    pub(crate) fn have_arrived(&self) -> bool {
        self.dead.lock().on_their_way == 0
    }

    /// Resolves when there is one.
    pub(crate) async fn until_any(&self) {
        loop {
            let bell = self.bell.notified();
            if !self.is_empty() {
                return;
            }
            bell.await;
        }
    }
}

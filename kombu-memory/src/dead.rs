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
    dead: Mutex<VecDeque<Corpse>>,
    bell: Notify,
}

pub(crate) struct Corpse {
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) entry: Entry,
    pub(crate) death: Death,
    pub(crate) died: Instant,
}

impl DeadList {
    pub(crate) fn add(&self, corpse: Corpse) {
        self.dead.lock().push_back(corpse);
        self.bell.notify_waiters();
    }

    pub(crate) fn take_all(&self) -> VecDeque<Corpse> {
        std::mem::take(&mut *self.dead.lock())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dead.lock().is_empty()
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

use std::collections::{BTreeMap, VecDeque};
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
    /// By the sessions that couldn't move them, and don't get them again.
    waiting: BTreeMap<Vec<u64>, VecDeque<Corpse>>,
    /// Those that are waiting, and those that a session has taken and not moved yet.
    on_their_way: usize,
}

pub(crate) struct Corpse {
    pub(crate) queue: Arc<MemoryQueue>,
    pub(crate) entry: Entry,
    pub(crate) death: Death,
    pub(crate) died: Instant,
    /// The sessions that couldn't move it.
    pub(crate) left_by: Vec<u64>,
}

impl DeadList {
    pub(crate) fn add(&self, corpse: Corpse) {
        self.dead.lock().on_their_way += 1;
        self.add_again(corpse);
    }

    /// A session that had taken it ended before it was moved.
    pub(crate) fn add_again(&self, corpse: Corpse) {
        let mut dead = self.dead.lock();
        let left_by = corpse.left_by.clone();
        dead.waiting.entry(left_by).or_default().push_back(corpse);
        drop(dead);
        self.bell.notify_waiters();
    }

    /// Takes all that wait for this session. Each of them is [added again](Self::add_again), or
    /// [arrives](Self::arrive).
    pub(crate) fn take_for(&self, session: u64) -> VecDeque<Corpse> {
        let mut taken = VecDeque::new();
        self.dead.lock().waiting.retain(|left_by, corpses| {
            let stay = left_by.contains(&session);
            if !stay {
                taken.append(corpses);
            }
            stay
        });
        taken
    }

    /// A session has ended, and isn't to be kept from anything any more.
    pub(crate) fn forget(&self, session: u64) {
        let mut dead = self.dead.lock();
        for (mut left_by, corpses) in std::mem::take(&mut dead.waiting) {
            left_by.retain(|other| *other != session);
            let waiting = dead.waiting.entry(left_by.clone()).or_default();
            waiting.extend(corpses.into_iter().map(|corpse| Corpse {
                left_by: left_by.clone(),
                ..corpse
            }));
        }
    }

    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut self.dead.lock().waiting);
        // What goes with them must not find the lock taken.
        drop(waiting);
    }

    /// One of those that were taken is in its next queue, or gone.
    pub(crate) fn arrive(&self) {
        self.dead.lock().on_their_way -= 1;
    }

    /// Whether any wait for this session; without one, for the next that comes along.
    pub(crate) fn wait_for(&self, session: Option<u64>) -> bool {
        let dead = self.dead.lock();
        let mut left_by = dead.waiting.keys();
        left_by.any(|left_by| match session {
            Some(session) => !left_by.contains(&session),
            None => left_by.is_empty(),
        })
    }

    /// Whether none is between its queue and the next one.
    pub(crate) fn have_arrived(&self) -> bool {
        self.dead.lock().on_their_way == 0
    }

    /// Resolves when there is one for this session.
    pub(crate) async fn until_any_for(&self, session: u64) {
        loop {
            let bell = self.bell.notified();
            if self.wait_for(Some(session)) {
                return;
            }
            bell.await;
        }
    }
}

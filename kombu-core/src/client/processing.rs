//! Deliveries that are held for too long are given back.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::driver::Tag;
use crate::engine::deadline;

use super::delivery::Link;

/// How much longer than to others whoever takes deliveries away itself has time to do so: its thread may be blocked.
const MARGIN: Duration = Duration::from_secs(5);

struct Held {
    due: Instant,
    by: Keeper,
}

/// Who takes a delivery away when it is overdue.
#[derive(Clone, Copy, PartialEq)]
enum Keeper {
    Consumer,
    /// Somebody else, as long as that doesn't take too long.
    Other,
    /// It is taken away from somebody else.
    Nobody,
}

/// What came of taking a delivery away.
pub(super) enum Taking {
    Taken,
    /// The consumer has done so.
    WasTaken,
    Settled,
}

/// Since when the deliveries of one consumer are held.
pub(super) struct Processing {
    limit: Duration,
    held: Mutex<HashMap<Tag, Held>>,
    /// Told when deliveries were taken away.
    taken: Notify,
    /// The clock stops with it.
    _alive: watch::Sender<()>,
}

impl Processing {
    /// Watches over the deliveries of a consumer for as long as somebody refers to it.
    pub(super) fn watch(link: &Arc<Link>) {
        let Some(processing) = &link.processing else {
            return;
        };
        let gone = processing._alive.subscribe();
        let runtime = &link.connection.inner().engine.runtime;
        runtime.spawn(give_back_overdue(Arc::downgrade(link), gone));
    }

    pub(super) fn new(limit: Duration) -> Self {
        Processing {
            limit,
            held: Mutex::default(),
            taken: Notify::new(),
            _alive: watch::Sender::new(()),
        }
    }

    pub(super) fn begin(&self, tag: Tag) {
        let held = Held {
            due: deadline(self.limit),
            by: Keeper::Consumer,
        };
        self.held.lock().insert(tag, held);
    }

    /// Whether the delivery is still its holder's.
    pub(super) fn end(&self, tag: Tag) -> bool {
        let held = self.held.lock().remove(&tag);
        held.is_some_and(|held| held.by != Keeper::Nobody)
    }

    /// Whether the delivery was taken away, if it isn't settled.
    pub(super) fn is_taken(&self, tag: Tag) -> bool {
        let held = self.held.lock();
        held.get(&tag).is_none_or(|held| held.by == Keeper::Nobody)
    }

    /// Leaves it to the caller to take the delivery away, and answers when that is due; `None` if it was taken away.
    pub(super) fn entrust(&self, tag: Tag) -> Option<Instant> {
        let mut held = self.held.lock();
        let held = held.get_mut(&tag)?;
        held.by = Keeper::Other;
        Some(held.due)
    }

    /// Looks after the delivery again.
    pub(super) fn end_trust(&self, tag: Tag) {
        let mut all = self.held.lock();
        match all.get_mut(&tag) {
            Some(held) if held.by == Keeper::Other => held.by = Keeper::Consumer,
            Some(held) if held.by == Keeper::Nobody => drop(all.remove(&tag)),
            _ => {}
        }
    }

    /// Takes away one that was entrusted.
    pub(super) fn take(&self, tag: Tag) -> Taking {
        let held = self.held.lock().remove(&tag);
        match held {
            None => Taking::Settled,
            Some(held) if held.by == Keeper::Nobody => Taking::WasTaken,
            Some(_) => {
                self.taken.notify_waiters();
                Taking::Taken
            }
        }
    }

    /// Resolves when a delivery that isn't settled was taken away.
    pub(super) async fn taken(&self, tag: Tag) {
        loop {
            let taken = self.taken.notified();
            if self.is_taken(tag) {
                return;
            }
            taken.await;
        }
    }

    /// Takes away what is overdue, and answers when to look again.
    fn take_overdue(&self) -> (Vec<Tag>, Instant) {
        let now = Instant::now();
        let mut next = deadline(self.limit);
        let mut overdue = Vec::new();
        self.held.lock().retain(|tag, held| {
            let due = match held.by {
                Keeper::Consumer => held.due,
                Keeper::Other => held.due + MARGIN,
                Keeper::Nobody => return true,
            };
            if due > now {
                next = next.min(due);
                return true;
            }
            overdue.push(*tag);
            let is_others = held.by == Keeper::Other;
            held.by = Keeper::Nobody;
            is_others
        });
        overdue.sort_unstable_by_key(|tag| tag.id);
        (overdue, next)
    }
}

async fn give_back_overdue(link: Weak<Link>, mut gone: watch::Receiver<()>) {
    loop {
        let next = {
            let Some(link) = link.upgrade() else {
                return;
            };
            let Some(processing) = &link.processing else {
                return;
            };
            let (overdue, next) = processing.take_overdue();
            for tag in &overdue {
                link.retry_overdue(*tag, processing.limit);
            }
            if !overdue.is_empty() {
                processing.taken.notify_waiters();
            }
            next
        };
        tokio::select! {
            biased;
            _ = gone.changed() => return,
            () = sleep_until(next) => {}
        }
    }
}

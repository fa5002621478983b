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

/// The part of the broker's time that whoever handles a message has at least: a fifth.
const LEAST: u32 = 5;

/// How much longer than to others whoever takes deliveries away itself has time to do so: its thread may be blocked.
const MARGIN: Duration = Duration::from_secs(5);

struct Held {
    /// When it is taken away.
    due: Instant,
    /// How long the broker bears that it isn't settled.
    until: Option<Instant>,
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
    /// Whoever took it away has it, for as long as it likes.
    Taker,
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
    /// The broker's own, if it has one. Whoever sets a higher one knows that it is higher.
    brokers: Option<Duration>,
    held: Mutex<HashMap<Tag, Held>>,
    /// Told when deliveries were taken away.
    taken: Notify,
    /// Has the clock look at once.
    look: Arc<Notify>,
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

    pub(super) fn new(limit: Duration, brokers: Option<Duration>) -> Self {
        Processing {
            limit,
            brokers: brokers.map(|brokers| brokers.max(limit)),
            held: Mutex::default(),
            taken: Notify::new(),
            look: Arc::default(),
            _alive: watch::Sender::new(()),
        }
    }

    /// Whether a message has waited here for so long that the broker would hardly leave time to handle it.
    pub(super) fn is_stale(&self, waited: Duration) -> bool {
        let leaves = |brokers: Duration| brokers.saturating_sub(waited) < brokers / LEAST;
        self.brokers.is_some_and(leaves)
    }

    /// Somebody has the delivery, whose message has waited here for this long.
    pub(super) fn begin(&self, tag: Tag, waited: Duration) {
        let due = deadline(self.limit);
        let until = self
            .brokers
            .map(|brokers| deadline(brokers.saturating_sub(waited)));
        let held = Held {
            due: until.map_or(due, |until| until.min(due)),
            until,
            by: Keeper::Consumer,
        };
        self.held.lock().insert(tag, held);
    }

    /// How long the broker bears that the delivery isn't settled.
    pub(super) fn until(&self, tag: Tag) -> Option<Instant> {
        self.held.lock().get(&tag)?.until
    }

    /// A delivery is held that is due earlier than the clock may know.
    pub(super) fn look(&self) {
        self.look.notify_one();
    }

    /// Whether the delivery is still whose it was: of its holder, or of whoever `recalled` it.
    pub(super) fn end(&self, tag: Tag, recalled: bool) -> bool {
        let mut all = self.held.lock();
        let Some(held) = all.get(&tag) else {
            return false;
        };
        let is_takers = held.by == Keeper::Taker;
        let is_ours = is_takers == recalled && held.by != Keeper::Nobody;
        if is_ours || !is_takers {
            all.remove(&tag);
        }
        is_ours
    }

    /// Whether the delivery was taken away, if it isn't settled.
    pub(super) fn is_taken(&self, tag: Tag) -> bool {
        let held = self.held.lock();
        held.get(&tag)
            .is_none_or(|held| matches!(held.by, Keeper::Nobody | Keeper::Taker))
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
        let mut all = self.held.lock();
        match all.get_mut(&tag) {
            None => return Taking::Settled,
            Some(held) if held.by == Keeper::Nobody => {
                all.remove(&tag);
                return Taking::WasTaken;
            }
            Some(held) => held.by = Keeper::Taker,
        }
        drop(all);
        self.taken.notify_waiters();
        Taking::Taken
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
        // Whatever comes now isn't due before.
        let soonest = self
            .brokers
            .map_or(self.limit, |brokers| self.limit.min(brokers / LEAST));
        let mut next = deadline(soonest);
        let mut overdue = Vec::new();
        self.held.lock().retain(|tag, held| {
            let due = match held.by {
                Keeper::Consumer => held.due,
                Keeper::Other => held.due + MARGIN,
                Keeper::Nobody | Keeper::Taker => return true,
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
        let (next, look) = {
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
            let held = link.release_overdue(Instant::now());
            let next = held.map_or(next, |held| next.min(held));
            (next, processing.look.clone())
        };
        tokio::select! {
            biased;
            _ = gone.changed() => return,
            () = look.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

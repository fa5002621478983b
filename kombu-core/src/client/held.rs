use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::driver::{Settle, Tag};

/// How long a delivery that came again, and was dropped again, is held.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Deliveries of one consumer that were dropped unsettled and aren't given back yet.
pub(super) struct Held {
    window: AtomicU32,
    /// How many that can't be decoded have room beside the window.
    room: u32,
    tags: Mutex<Tags>,
    /// The consumer's task: it has to notice when held deliveries fill the window.
    task: AtomicWaker,
}

#[derive(Default)]
struct Tags {
    /// They can't be decoded and have nowhere to go. With the time until which the broker bears that.
    undecodable: Vec<(Option<Instant>, Tag)>,
    /// Their number has changed since the window was last widened for them.
    changed: bool,
    /// They were handed out before. With the time when they are given back, the earliest first.
    put_off: VecDeque<(Instant, Tag)>,
    /// The consumer has closed: nothing is held any more.
    closed: bool,
}

impl Held {
    pub(super) fn new(window: u32, room: u32) -> Self {
        Held {
            window: AtomicU32::new(window),
            room,
            tags: Mutex::default(),
            task: AtomicWaker::new(),
        }
    }

    pub(super) fn set_window(&self, deliveries: u32) {
        self.window.store(deliveries, Ordering::Relaxed);
    }

    /// The window, and what is held beside it.
    pub(super) fn widened_window(&self) -> u32 {
        match self.window.load(Ordering::Relaxed) {
            0 => 0,
            window => window.saturating_add(self.room.min(self.count())),
        }
    }

    /// The same if it has changed since this was last asked.
    pub(super) fn take_widened(&self, settler: &dyn Settle) -> Option<u32> {
        if self.room == 0 || !mem::take(&mut self.tags.lock().changed) {
            return None;
        }
        self.forget_lost(settler);
        Some(self.widened_window())
    }

    fn count(&self) -> u32 {
        u32::try_from(self.tags.lock().undecodable.len()).unwrap_or(u32::MAX)
    }

    /// Has [`wake`](Self::wake) wake this task. Look at the state again afterwards.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.task.register(context.waker());
    }

    pub(super) fn wake(&self) {
        self.task.wake();
    }

    /// Holds a delivery that can't be decoded until then, or until the consumer closes; false if it has.
    pub(super) fn hold(&self, tag: Tag, until: Option<Instant>) -> bool {
        {
            let mut tags = self.tags.lock();
            if tags.closed {
                return false;
            }
            tags.undecodable.push((until, tag));
            tags.changed = true;
        }
        self.wake();
        true
    }

    /// Stops holding what the broker doesn't bear to be held any longer, and answers it in the order in which it is to be
    /// given back, and when that is due for the next one.
    pub(super) fn take_overdue(&self, now: Instant) -> (Vec<Tag>, Option<Instant>) {
        let mut next = None;
        let taken = self.take_undecodable(|until, _| {
            let is_overdue = until.is_some_and(|until| until <= now);
            if let Some(until) = until.filter(|_| !is_overdue) {
                next = Some(next.map_or(until, |next: Instant| next.min(until)));
            }
            is_overdue
        });
        (taken, next)
    }

    /// Stops holding such of those that can't be decoded.
    fn take_undecodable(&self, mut is_taken: impl FnMut(Option<Instant>, Tag) -> bool) -> Vec<Tag> {
        let mut tags = self.tags.lock();
        let taken = tags
            .undecodable
            .extract_if(.., |(until, tag)| is_taken(*until, *tag));
        let taken = latest_first(taken.map(|(_, tag)| tag));
        if taken.is_empty() {
            return taken;
        }
        tags.changed = true;
        drop(tags);
        self.wake();
        taken
    }

    /// Holds a delivery that was handed out before for a moment, and answers until when; `None` if the consumer has
    /// closed.
    pub(super) fn put_off(&self, tag: Tag) -> Option<Instant> {
        let mut tags = self.tags.lock();
        if tags.closed {
            return None;
        }
        let due = Instant::now() + BACK_OFF;
        tags.put_off.push_back((due, tag));
        Some(due)
    }

    /// Stops holding what was put off until `now`, and answers it in the order in which it is to be given back.
    pub(super) fn take_due(&self, now: Instant) -> Vec<Tag> {
        let mut tags = self.tags.lock();
        let due = tags.put_off.iter().take_while(|(due, _)| *due <= now);
        let due = due.count();
        let taken = tags.put_off.drain(..due).map(|(_, tag)| tag);
        latest_first(taken)
    }

    /// The same with all that was put off, due or not.
    pub(super) fn take_put_off(&self) -> Vec<Tag> {
        let put_off = mem::take(&mut self.tags.lock().put_off);
        latest_first(put_off.into_iter().map(|(_, tag)| tag))
    }

    /// How many can't be decoded, if they fill the window and the room beside it.
    pub(super) fn fills_window(&self, settler: &dyn Settle) -> Option<u32> {
        let window = self.window.load(Ordering::Relaxed);
        let filling =
            || Some(self.count()).filter(|held| *held >= window.saturating_add(self.room));
        if window == 0 {
            return None;
        }
        filling()?;
        self.forget_lost(settler);
        filling()
    }

    /// Forgets what the broker has taken back.
    fn forget_lost(&self, settler: &dyn Settle) {
        self.take_undecodable(|_, tag| !settler.holds(tag));
    }

    /// Stops holding what came from this queue, and answers it in the order in which it is to be given back.
    pub(super) fn take_from(&self, queue: u16) -> Vec<Tag> {
        let mut tags = self.tags.lock();
        let mut taken = Vec::new();
        let mut keep = |tag: Tag| {
            if tag.queue == queue {
                taken.push(tag);
            }
            tag.queue != queue
        };
        tags.undecodable.retain(|(_, tag)| keep(*tag));
        tags.changed = true;
        tags.put_off.retain(|(_, tag)| keep(*tag));
        latest_first(taken)
    }

    /// Holds nothing any more; answers what was held, in the order in which it is to be given back.
    pub(super) fn close(&self) -> Vec<Tag> {
        let mut tags = self.tags.lock();
        tags.closed = true;
        let undecodable = mem::take(&mut tags.undecodable);
        let put_off = mem::take(&mut tags.put_off);
        let undecodable = undecodable.into_iter().map(|(_, tag)| tag);
        latest_first(undecodable.chain(put_off.into_iter().map(|(_, tag)| tag)))
    }
}

/// So that each goes back in front of its successor.
fn latest_first(tags: impl IntoIterator<Item = Tag>) -> Vec<Tag> {
    let mut tags: Vec<Tag> = tags.into_iter().collect();
    tags.reverse();
    tags
}

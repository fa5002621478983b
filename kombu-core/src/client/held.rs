use std::mem;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::driver::Tag;

/// Deliveries of one consumer that were dropped unsettled and aren't given back yet.
pub(super) struct Held {
    window: AtomicU32,
    tags: Mutex<Tags>,
    /// The consumer's task: it has to notice when held deliveries fill the window.
    task: AtomicWaker,
}

#[derive(Default)]
struct Tags {
    /// They can't be decoded and have nowhere to go.
    undecodable: Vec<Tag>,
    /// The consumer has closed: nothing is held any more.
    closed: bool,
}

impl Held {
    pub(super) fn new(window: u32) -> Self {
        Held {
            window: AtomicU32::new(window),
            tags: Mutex::default(),
            task: AtomicWaker::new(),
        }
    }

    pub(super) fn set_window(&self, deliveries: u32) {
        self.window.store(deliveries, Ordering::Relaxed);
    }

    /// Has [`wake`](Self::wake) wake this task. Look at the state again afterwards.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.task.register(context.waker());
    }

    pub(super) fn wake(&self) {
        self.task.wake();
    }

    /// Holds a delivery that can't be decoded until the consumer closes; false if it has.
    pub(super) fn hold(&self, tag: Tag) -> bool {
        {
            let mut tags = self.tags.lock();
            if tags.closed {
                return false;
            }
            tags.undecodable.push(tag);
        }
        self.wake();
        true
    }

    /// How many can't be decoded, if they fill the window.
    pub(super) fn fills_window(&self) -> Option<usize> {
        let window = self.window.load(Ordering::Relaxed) as usize;
        let held = self.tags.lock().undecodable.len();
        (window != 0 && held >= window).then_some(held)
    }

    /// Holds nothing any more; answers what was held, in the order in which it is to be given back.
    pub(super) fn close(&self) -> Vec<Tag> {
        let mut tags = self.tags.lock();
        tags.closed = true;
        // The last one first, so that each goes back in front of its successor.
        let mut held = mem::take(&mut tags.undecodable);
        held.reverse();
        held
    }
}

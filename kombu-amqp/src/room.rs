//! How much may be published without an answer.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::under_way::UnderWay;

/// Room for publishes without an answer, in units of 1 KiB: 128 MiB, or 2,048 small messages.
///
/// A producer has less than that under way. But those that it gave up stay here until the broker answers, and one that
/// blocks answers nothing.
const ROOM: usize = 128 * 1024;
/// What a message takes at least.
const LEAST: usize = ROOM / 2048;

/// The room of one publisher, and the count of all of the session.
pub(crate) struct Room {
    free: Semaphore,
    under_way: UnderWay,
}

/// The place of a publish: it is under way, and takes room, until this is dropped.
pub(crate) struct Place {
    room: Arc<Room>,
    count: usize,
    size: usize,
}

impl Room {
    pub(crate) fn new(under_way: UnderWay) -> Self {
        Room {
            free: Semaphore::new(ROOM),
            under_way,
        }
    }

    /// Counts a publish as under way; it takes no room yet.
    pub(crate) fn one(self: &Arc<Self>) -> Place {
        self.under_way.begin();
        Place {
            room: self.clone(),
            count: 1,
            size: 0,
        }
    }
}

impl Place {
    /// Takes room for a body of so many bytes, if there is enough and nobody waits for it.
    pub(crate) fn try_fill(&mut self, bytes: usize) -> bool {
        let size = size(bytes);
        let Ok(permit) = self.room.free.try_acquire_many(size) else {
            return false;
        };
        permit.forget();
        self.size = size as usize;
        true
    }

    /// The same when there is room. Those that wait have their turn in the order in which they were first polled.
    pub(crate) async fn fill(&mut self, bytes: usize) {
        let size = size(bytes);
        // It is never closed.
        if let Ok(permit) = self.room.free.acquire_many(size).await {
            permit.forget();
            self.size = size as usize;
        }
    }

    /// Takes over another place of the same publisher, to give up both at once: each time takes a lock.
    pub(crate) fn merge(mut self, mut other: Place) -> Place {
        self.count += std::mem::take(&mut other.count);
        self.size += std::mem::take(&mut other.size);
        self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.size > 0 {
            self.room.free.add_permits(self.size);
        }
        if self.count > 0 {
            self.room.under_way.end(self.count);
        }
    }
}

fn size(bytes: usize) -> u32 {
    (LEAST + bytes / 1024).min(ROOM) as u32
}

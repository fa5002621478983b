use std::sync::Arc;

use kombu_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::queue::{Entry, MemoryQueue};

/// What one reader took from its queue and has not finished.
pub(crate) struct Holding {
    queue: Arc<MemoryQueue>,
    entries: Mutex<Slots>,
}

/// Entries by number. A number names its slot and how often the slot was used, so a stale one is found out
/// and never hits another message.
#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The consumer that this is for, as long as it is one.
    reader: Option<u64>,
    /// The session is over: nothing is held here any more, and nothing will be.
    ended: bool,
}

struct Slot {
    uses: u32,
    entry: Option<Entry>,
}

impl Holding {
    pub(crate) fn new(queue: Arc<MemoryQueue>) -> Self {
        Holding {
            queue,
            entries: Mutex::default(),
        }
    }

    pub(crate) fn queue(&self) -> &Arc<MemoryQueue> {
        &self.queue
    }

    /// Counts a consumer, under this number.
    pub(crate) fn start_reading(&self, reader: u64) {
        self.queue.add_consumer();
        self.entries.lock().reader = Some(reader);
    }

    /// The consumer, if there is one, counts no longer.
    pub(crate) fn stop_reading(&self) {
        let reader = self.entries.lock().reader.take();
        if let Some(reader) = reader {
            self.queue.remove_consumer(reader);
        }
    }

    /// Keeps what was taken and tells the number of each.
    pub(crate) fn hold(&self, taken: &mut Vec<Entry>, mut tell: impl FnMut(&Entry, u64)) {
        let mut slots = self.entries.lock();
        if slots.ended {
            drop(slots);
            for entry in taken.drain(..).rev() {
                self.queue.give_back(entry);
            }
            return;
        }
        for entry in taken.drain(..) {
            slots.insert(entry, &mut tell);
        }
    }

    /// Ends the hold on one message and hands it to the caller.
    #[inline]
    pub(crate) fn remove(&self, id: u64) -> Result<Entry> {
        self.entries
            .lock()
            .remove(id)
            .ok_or_else(|| lost(&self.queue))
    }

    /// Ends the consumer and gives everything back, the latest first.
    pub(crate) fn end(&self) {
        self.stop_reading();
        let slots = {
            let mut entries = self.entries.lock();
            entries.ended = true;
            std::mem::take(&mut entries.slots)
        };
        let mut held: Vec<Entry> = slots.into_iter().filter_map(|slot| slot.entry).collect();
        held.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.position));
        for mut entry in held {
            entry.redelivered = true;
            self.queue.give_back(entry);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let slots = self.entries.lock();
        slots.free.len() == slots.slots.len()
    }
}

impl Slots {
    fn insert(&mut self, entry: Entry, tell: &mut impl FnMut(&Entry, u64)) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                uses: 0,
                entry: None,
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.uses = slot.uses.wrapping_add(1);
        tell(&entry, u64::from(slot.uses) << 32 | u64::from(index));
        slot.entry = Some(entry);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let index = id as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.uses) != id >> 32 {
            return None;
        }
        let entry = slot.entry.take()?;
        self.free.push(index);
        Some(entry)
    }
}

#[cold]
fn lost(queue: &MemoryQueue) -> Error {
    Error::new(
        ErrorKind::SettleLost,
        format!(
            "the delivery from queue `{}` was no longer held; the message goes to another consumer",
            queue.name()
        ),
    )
}

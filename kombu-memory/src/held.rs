use std::sync::Arc;

use kombu_core::virt::{Death, ReaderOptions};
use kombu_core::{Error, ErrorKind, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::dead::Corpse;
use crate::queue::{Entry, MemoryQueue, Surroundings, Taken, Taker, Woken};

/// What one reader took from its queue and has not finished.
pub(crate) struct Holding {
    queue: Arc<MemoryQueue>,
    /// Those of the queue, whose place in memory belongs to publishers.
    surroundings: Arc<Surroundings>,
    held: Mutex<Held>,
}

/// Entries by number. A number names its slot and how often the slot was used, so a stale one is found out
/// and never hits another message.
#[derive(Default)]
pub(crate) struct Held {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The consumer that this is for, as long as it is one.
    reader: Option<u64>,
    /// The session is over: nothing is held here any more, and nothing will be.
    ended: bool,
}

/// An entry in somebody's hands.
pub(crate) struct HeldEntry {
    pub(crate) entry: Entry,
    /// It died, and is on its way to the dead-letter exchange.
    /// Few have, and slots are written for every message.
    dying: Option<Box<Dying>>,
}

pub(crate) struct Dying {
    death: Death,
    died: Instant,
    /// The sessions that couldn't move it.
    left_by: Vec<u64>,
}

impl HeldEntry {
    /// When it died, if it was before it was taken.
    pub(crate) fn died(&self) -> Option<Instant> {
        self.dying.as_ref().map(|dying| dying.died)
    }
}

struct Slot {
    uses: u32,
    entry: Option<HeldEntry>,
}

impl Holding {
    pub(crate) fn new(queue: Arc<MemoryQueue>) -> Self {
        Holding {
            surroundings: queue.surroundings().clone(),
            queue,
            held: Mutex::default(),
        }
    }

    pub(crate) fn queue(&self) -> &Arc<MemoryQueue> {
        &self.queue
    }

    pub(crate) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Counts a consumer, under this number.
    pub(crate) fn start_reading(&self, reader: u64, options: ReaderOptions) -> Result<()> {
        let mut held = self.held.lock();
        if held.ended {
            return Err(Error::new(
                ErrorKind::ConnectionLost,
                "the session has ended",
            ));
        }
        self.queue.add_consumer(reader, options)?;
        held.reader = Some(reader);
        Ok(())
    }

    /// The consumer, if there is one, counts no longer. Whether the queue goes with it.
    #[must_use]
    pub(crate) fn stop_reading(&self) -> bool {
        let reader = self.held.lock().reader.take();
        reader.is_some_and(|reader| self.queue.remove_consumer(reader))
    }

    /// Holds a message that died; `None` if the session is over.
    pub(crate) fn hold_dead(&self, corpse: Corpse) -> Option<u64> {
        let mut held = self.held.lock();
        if held.ended {
            self.surroundings.dead.add_again(corpse);
            return None;
        }
        let mut number = None;
        let dying = Dying {
            death: corpse.death,
            died: corpse.died,
            left_by: corpse.left_by,
        };
        let tell = &mut |_: &Entry, id| number = Some(id);
        held.insert(corpse.entry, Some(Box::new(dying)), tell);
        number
    }

    fn corpse(&self, entry: Entry, dying: Dying) -> Corpse {
        Corpse {
            queue: self.queue.clone(),
            entry,
            death: dying.death,
            died: dying.died,
            left_by: dying.left_by,
        }
    }

    /// A message is dead, and this session can't move it to where it belongs: another one may.
    pub(crate) fn leave_dead(&self, id: u64, death: Death, session: u64) -> Result<()> {
        self.remove(id, |HeldEntry { entry, dying }| {
            let mut dying = match dying {
                Some(dying) => *dying,
                None if self.queue.is_deleted() => return None::<Woken>,
                None => Dying {
                    death,
                    died: Instant::now(),
                    left_by: Vec::new(),
                },
            };
            dying.left_by.push(session);
            dying.left_by.sort_unstable();
            self.surroundings.dead.add(self.corpse(entry, dying));
            None
        })
    }

    /// Moves messages from the queue to here, and to the reader's batch. The lock is held for all of it, so that no
    /// message is ever in neither place.
    #[inline]
    pub(crate) fn take(
        &self,
        max: usize,
        scratch: &mut Vec<Entry>,
        mut reader: Taker<'_, '_>,
    ) -> Taken {
        let mut held = self.held.lock();
        if held.ended {
            return Taken::Nothing(None, Woken::default());
        }
        let taken = self.queue.take(max, scratch, Some(&mut reader));
        for entry in scratch.drain(..) {
            held.insert(entry, None, &mut |entry, id| {
                reader.batch.push(
                    entry.envelope.clone(),
                    id,
                    entry.failures,
                    entry.redelivered,
                );
            });
        }
        taken
    }

    /// The same with one message, for nobody's batch.
    pub(crate) fn take_one(&self, mut tell: impl FnMut(&Entry, u64)) {
        let mut held = self.held.lock();
        if held.ended {
            return;
        }
        let mut taken = Vec::new();
        // Without a reader there is nobody to be woken for having been left out.
        let _ = self.queue.take(1, &mut taken, None);
        for entry in taken {
            held.insert(entry, None, &mut tell);
        }
    }

    /// Keeps what is held as it is while the guard lives.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    /// Ends the hold on one message.
    #[inline]
    pub(crate) fn forget(&self, id: u64) -> Result<()> {
        if self.held.lock().remove(id).is_none() {
            return Err(lost(&self.queue));
        }
        self.surroundings.settling.fewer();
        Ok(())
    }

    /// Ends the hold on one message and puts it somewhere else. As in [`take`](Self::take), the lock is held
    /// for both.
    pub(crate) fn remove<W: IntoIterator<Item = Woken>>(
        &self,
        id: u64,
        put: impl FnOnce(HeldEntry) -> W,
    ) -> Result<()> {
        let mut held = self.held.lock();
        let Some(entry) = held.remove(id) else {
            return Err(lost(&self.queue));
        };
        let was_dead = entry.dying.is_some();
        let woken = put(entry);
        if was_dead {
            self.surroundings.dead.arrive();
        }
        drop(held);
        woken.into_iter().for_each(Woken::wake);
        self.surroundings.settling.fewer();
        Ok(())
    }

    /// The same for a message that moves to other queues; `put` gets the time of its death if it died before. One that is
    /// not dead itself went with its queue if that was deleted, and is put nowhere.
    pub(crate) fn move_away(
        &self,
        id: u64,
        put: impl FnOnce(HeldEntry) -> Vec<Woken>,
    ) -> Result<()> {
        self.remove(id, |held| {
            if held.dying.is_some() || !self.queue.is_deleted() {
                put(held)
            } else {
                Vec::new()
            }
        })
    }

    /// Ends the consumer, gives everything back, the latest first, and takes nothing any more. Whether the queue goes
    /// with its consumer.
    #[must_use]
    pub(crate) fn end(&self) -> bool {
        let goes = self.stop_reading();
        let mut held = self.held.lock();
        held.ended = true;
        held.free.clear();
        let slots = std::mem::take(&mut held.slots);
        let mut entries: Vec<_> = slots.into_iter().filter_map(|slot| slot.entry).collect();
        entries.sort_unstable_by_key(|held| std::cmp::Reverse(held.entry.position));
        let mut woken = Vec::new();
        for HeldEntry { mut entry, dying } in entries {
            if let Some(dying) = dying {
                self.surroundings.dead.add_again(self.corpse(entry, *dying));
            } else {
                entry.redelivered = true;
                woken.push(self.queue.give_back(entry));
            }
        }
        drop(held);
        woken.into_iter().for_each(Woken::wake);
        // What came from a queue that was deleted is gone.
        self.surroundings.settling.fewer();
        goes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.lock().len() == 0
    }
}

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let held = self.slots.iter().filter_map(|slot| slot.entry.as_ref());
        held.map(|held| &held.entry)
    }

    fn insert(
        &mut self,
        entry: Entry,
        dying: Option<Box<Dying>>,
        tell: &mut impl FnMut(&Entry, u64),
    ) {
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
        slot.entry = Some(HeldEntry { entry, dying });
    }

    fn remove(&mut self, id: u64) -> Option<HeldEntry> {
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

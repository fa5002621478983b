use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kombu_core::driver::{DeleteQueue, QueueInfo};
use kombu_core::message::{Envelope, PublishId};
use kombu_core::virt::{Answer, Applied, Change, Finish, Table};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::reader::Bell;
use super::session::Holder;

/// A virtual host: what a server would keep.
#[derive(Default)]
pub(super) struct Broker {
    state: Mutex<State>,
    lines: Mutex<Vec<watch::Sender<bool>>>,
    replies_to_lose: AtomicUsize,
}

#[derive(Default)]
pub(super) struct State {
    table: Table,
    queues: HashMap<Name, AwkwardQueue>,
    /// What was taken and isn't finished, by delivery. A message is either here or in its queue.
    held: HashMap<u64, Held>,
    sessions: HashSet<u64>,
    /// Publishes that were stored: one whose answer was lost comes again under the same id.
    published: HashSet<PublishId>,
    /// Rung once the lock is free.
    bells: Vec<Arc<Bell>>,
    /// When something becomes visible that wasn't planned for yet.
    alarms: Vec<Instant>,
    last_number: u64,
}

struct AwkwardQueue {
    /// One that is deleted and declared again has another.
    number: u64,
    /// By position. A message keeps its position while it is held, so it goes back to where it was.
    ready: BTreeMap<u64, Message>,
    last_position: u64,
    /// Not visible yet, in the order in which they will be. One that was here before has a position.
    delayed: BTreeMap<(Instant, u64), (Option<u64>, Message)>,
    seats: Vec<Seat>,
}

/// A reader's place at a queue.
struct Seat {
    holder: Holder,
    bell: Arc<Bell>,
    /// It found nothing, and wants to be rung for.
    waits: bool,
}

struct Message {
    envelope: Envelope,
    failures: u32,
    redelivered: bool,
}

struct Held {
    holder: Holder,
    queue: u64,
    position: u64,
    message: Message,
}

/// A message that is held under its id.
pub(super) struct Taken {
    pub(super) envelope: Envelope,
    pub(super) id: u64,
    pub(super) failures: u32,
    pub(super) redelivered: bool,
}

/// A [`Finish`] that can be sent.
pub(super) enum Ending {
    Forget,
    GiveBack {
        failures: u32,
        delay: Option<Duration>,
    },
    Move {
        targets: Vec<Name>,
        version: u64,
        envelope: Envelope,
    },
}

impl Ending {
    pub(super) fn from(finish: Finish<'_, Name>) -> Result<Self> {
        Ok(match finish {
            Finish::Forget | Finish::Discard { .. } => Ending::Forget,
            Finish::Release => Ending::GiveBack {
                failures: 0,
                delay: None,
            },
            Finish::Retry { delay } => Ending::GiveBack { failures: 1, delay },
            Finish::Move {
                targets,
                version,
                envelope,
                ..
            } => Ending::Move {
                targets: targets.to_vec(),
                version,
                envelope: envelope.clone(),
            },
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this transport can't settle like that",
                ));
            }
        })
    }
}

impl Broker {
    pub(super) fn with<T>(self: &Arc<Self>, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let answer = work(&mut state);
        let bells = std::mem::take(&mut state.bells);
        let alarms = std::mem::take(&mut state.alarms);
        drop(state);
        // Not under the lock: whoever is woken may come back here at once.
        for bell in bells {
            bell.ring();
        }
        for due in alarms {
            let broker = Arc::downgrade(self);
            tokio::spawn(async move {
                sleep_until(due).await;
                if let Some(broker) = Weak::upgrade(&broker) {
                    broker.with(State::show_due);
                }
            });
        }
        answer
    }

    pub(super) fn add_line(&self, cut: watch::Sender<bool>) {
        self.lines.lock().push(cut);
    }

    pub(super) fn cut(&self) {
        for cut in self.lines.lock().drain(..) {
            cut.send_replace(true);
        }
    }

    pub(super) fn lose_replies(&self, count: usize) {
        self.replies_to_lose.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether the answer to a publish is to be lost.
    pub(super) fn loses_reply(&self) -> bool {
        self.replies_to_lose
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                count.checked_sub(1)
            })
            .is_ok()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

impl State {
    /// A number for a queue, session, position in time or delivery. None is used twice.
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn begin_session(&mut self) -> u64 {
        let number = self.next_number();
        self.sessions.insert(number);
        number
    }

    pub(super) fn end_session(&mut self, session: u64) {
        self.sessions.remove(&session);
        for queue in self.queues.values_mut() {
            queue.seats.retain(|seat| seat.holder.session != session);
        }
        let of_session = |_: &u64, held: &mut Held| held.holder.session == session;
        let ended: Vec<(u64, Held)> = self.held.extract_if(of_session).collect();
        for (_, held) in ended {
            self.give_back(held, 0, None);
        }
    }

    pub(super) fn load(&self) -> (Table, HashSet<Name>) {
        (self.table.clone(), self.queues.keys().cloned().collect())
    }

    pub(super) fn version(&self) -> u64 {
        self.table.version()
    }

    pub(super) fn apply(&mut self, base: u64, changes: &[Change]) -> Result<Applied> {
        if self.table.version() != base {
            return Ok(Applied::Stale);
        }
        for change in changes {
            if let Change::DeleteQueue(name, conditions) = change {
                self.check_deletable(name, *conditions)?;
            }
        }
        let mut messages = 0;
        for change in changes {
            match change {
                Change::PutQueue(queue, _) => self.add_queue(queue.name()),
                Change::DeleteQueue(name, _) => messages += self.delete_queue(name),
                // Exchanges and bindings are nothing but entries of the table.
                _ => {}
            }
            self.table.apply(change);
        }
        let version = base + 1;
        self.table.set_version(version);
        Ok(Applied::Done { version, messages })
    }

    fn check_deletable(&mut self, name: &Name, conditions: DeleteQueue) -> Result<()> {
        self.show_due();
        let Some(queue) = self.queues.get(name) else {
            return Ok(());
        };
        let obstacle = if conditions.if_unused && !queue.seats.is_empty() {
            "has consumers"
        } else if conditions.if_empty && !queue.ready.is_empty() {
            "has messages"
        } else {
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::PreconditionFailed,
            format!("queue `{name}` {obstacle}"),
        ))
    }

    fn add_queue(&mut self, name: &Name) {
        let queue = AwkwardQueue {
            number: self.next_number(),
            ready: BTreeMap::new(),
            last_position: 0,
            delayed: BTreeMap::new(),
            seats: Vec::new(),
        };
        self.queues.insert(name.clone(), queue);
    }

    fn delete_queue(&mut self, name: &Name) -> u64 {
        let Some(queue) = self.queues.remove(name) else {
            return 0;
        };
        for seat in queue.seats {
            seat.bell.ring_out();
        }
        queue.ready.len() as u64
    }

    pub(super) fn check_queue(&mut self, name: &Name) -> Result<()> {
        self.queue(name).map(drop)
    }

    fn queue(&mut self, name: &Name) -> Result<&mut AwkwardQueue> {
        self.show_due();
        let queue = self.queues.get_mut(name);
        queue.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no queue `{name}`")))
    }

    pub(super) fn add_seat(&mut self, holder: &Holder, bell: Arc<Bell>) -> Result<()> {
        let queue = self.queue(&holder.queue)?;
        queue.seats.push(Seat {
            holder: holder.clone(),
            bell,
            waits: false,
        });
        Ok(())
    }

    pub(super) fn remove_seat(&mut self, holder: &Holder) {
        if let Some(queue) = self.queues.get_mut(&holder.queue) {
            queue.seats.retain(|seat| seat.holder != *holder);
        }
    }

    pub(super) fn info(&mut self, name: &Name) -> Result<QueueInfo> {
        let queue = self.queue(name)?;
        let (number, ready, consumers) = (queue.number, queue.ready.len(), queue.seats.len());
        let held = self.held.values().filter(|held| held.queue == number);
        Ok(QueueInfo::new(
            name.clone(),
            ready as u64,
            Some(held.count() as u64),
            consumers as u64,
        ))
    }

    pub(super) fn purge(&mut self, name: &Name) -> Result<u64> {
        let purged = std::mem::take(&mut self.queue(name)?.ready);
        Ok(purged.len() as u64)
    }

    /// Into all targets or none, once.
    pub(super) fn publish(
        &mut self,
        targets: &[Name],
        version: u64,
        envelope: &Envelope,
    ) -> Answer {
        if self.published.contains(&envelope.publish_id()) {
            return Answer::Done;
        }
        if self.table.version() != version {
            return Answer::Stale;
        }
        self.published.insert(envelope.publish_id());
        for target in targets {
            self.store(target, envelope);
        }
        Answer::Done
    }

    fn store(&mut self, queue: &Name, envelope: &Envelope) {
        let message = Message {
            envelope: envelope.clone(),
            failures: 0,
            redelivered: false,
        };
        self.put(queue, None, message, envelope.delay());
    }

    /// Puts a message at its position, or at the end if it has none.
    fn put(
        &mut self,
        name: &Name,
        position: Option<u64>,
        message: Message,
        delay: Option<Duration>,
    ) {
        let number = self.next_number();
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        if let Some(delay) = delay {
            let due = Instant::now() + delay;
            queue.delayed.insert((due, number), (position, message));
            self.alarms.push(due);
            return;
        }
        let position = position.unwrap_or_else(|| {
            queue.last_position += 1;
            queue.last_position
        });
        queue.ready.insert(position, message);
        // All of them: one that is rung for may have no room in its window any more.
        for seat in &mut queue.seats {
            if std::mem::take(&mut seat.waits) {
                self.bells.push(seat.bell.clone());
            }
        }
    }

    /// Makes visible what is due.
    fn show_due(&mut self) {
        let now = Instant::now();
        let mut due = Vec::new();
        for (name, queue) in &mut self.queues {
            let later = queue.delayed.split_off(&(now, u64::MAX));
            let here = std::mem::replace(&mut queue.delayed, later);
            due.extend(here.into_values().map(|message| (name.clone(), message)));
        }
        for (name, (position, message)) in due {
            self.put(&name, position, message, None);
        }
    }

    /// Moves the first messages from their queue to what is held, in one step. A reader that finds nothing is
    /// rung for later.
    pub(super) fn take(&mut self, holder: &Holder, count: usize) -> VecDeque<Taken> {
        self.show_due();
        let mut taken = VecDeque::new();
        if !self.sessions.contains(&holder.session) {
            return taken;
        }
        while taken.len() < count {
            let id = self.next_number();
            let Some(queue) = self.queues.get_mut(&holder.queue) else {
                break;
            };
            let Some((position, message)) = queue.ready.pop_first() else {
                break;
            };
            taken.push_back(Taken {
                envelope: message.envelope.clone(),
                id,
                failures: message.failures,
                redelivered: message.redelivered,
            });
            let held = Held {
                holder: holder.clone(),
                queue: queue.number,
                position,
                message,
            };
            self.held.insert(id, held);
        }
        taken
    }

    /// As [`take`](Self::take), for a reader that has a seat.
    pub(super) fn take_seated(&mut self, holder: &Holder, count: usize) -> VecDeque<Taken> {
        let is_seated =
            |queue: &AwkwardQueue| queue.seats.iter().any(|seat| seat.holder == *holder);
        if !self.queues.get(&holder.queue).is_some_and(is_seated) {
            return VecDeque::new();
        }
        let taken = self.take(holder, count);
        if taken.is_empty()
            && let Some(queue) = self.queues.get_mut(&holder.queue)
            && let Some(seat) = queue.seats.iter_mut().find(|seat| seat.holder == *holder)
        {
            seat.waits = true;
        }
        taken
    }

    /// Gives back what never came to its consumer, as if it had not been taken.
    pub(super) fn untake(&mut self, holder: &Holder, ids: &[u64]) {
        for id in ids {
            if let Ok(held) = self.unhold(holder, *id) {
                self.put_back(held, None);
            }
        }
    }

    pub(super) fn finish(&mut self, holder: &Holder, id: u64, ending: Ending) -> Result<Answer> {
        match ending {
            Ending::Forget => drop(self.unhold(holder, id)?),
            Ending::GiveBack { failures, delay } => {
                let held = self.unhold(holder, id)?;
                self.give_back(held, failures, delay);
            }
            Ending::Move { version, .. } if version != self.table.version() => {
                return Ok(Answer::Stale);
            }
            Ending::Move {
                targets, envelope, ..
            } => {
                let held = self.unhold(holder, id)?;
                let is_the_same = |queue: &AwkwardQueue| queue.number == held.queue;
                if !self.queues.get(&holder.queue).is_some_and(is_the_same) {
                    // It went with its queue.
                    return Ok(Answer::Done);
                }
                for target in targets {
                    self.store(&target, &envelope);
                }
            }
        }
        Ok(Answer::Done)
    }

    /// Ends the hold on a message, if it is still there and this holder's.
    fn unhold(&mut self, holder: &Holder, id: u64) -> Result<Held> {
        match self.held.entry(id) {
            Entry::Occupied(held) if held.get().holder == *holder => Ok(held.remove()),
            _ => Err(Error::new(
                ErrorKind::SettleLost,
                format!(
                    "the delivery from queue `{}` was no longer held; the message goes to another consumer",
                    holder.queue
                ),
            )),
        }
    }

    fn give_back(&mut self, mut held: Held, failures: u32, delay: Option<Duration>) {
        held.message.redelivered = true;
        held.message.failures = held.message.failures.saturating_add(failures);
        self.put_back(held, delay);
    }

    fn put_back(&mut self, held: Held, delay: Option<Duration>) {
        let name = held.holder.queue;
        let is_the_same = |queue: &AwkwardQueue| queue.number == held.queue;
        if self.queues.get(&name).is_some_and(is_the_same) {
            self.put(&name, Some(held.position), held.message, delay);
        }
    }
}

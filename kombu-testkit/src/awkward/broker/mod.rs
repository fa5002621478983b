mod dying;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kombu_core::driver::{DeleteQueue, QueueInfo};
use kombu_core::message::{Envelope, PublishId};
use kombu_core::virt::{Answer, Applied, Change, Death, Finish, ReaderOptions, Table};
use kombu_core::{Error, ErrorKind, Name, Queue, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use self::dying::{Corpse, Dying};
use super::reader::Bell;
use super::session::Holder;

/// A virtual host: what a server would keep.
#[derive(Default)]
pub(super) struct Broker {
    state: Mutex<State>,
    lines: Mutex<Vec<watch::Sender<bool>>>,
    replies_to_lose: AtomicUsize,
    /// Somebody died.
    news: Notify,
}

#[derive(Default)]
pub(super) struct State {
    table: Table,
    queues: HashMap<Name, AwkwardQueue>,
    /// What was taken and isn't finished, by delivery. A message is either here or in its queue.
    held: HashMap<u64, Held>,
    /// Those that wait for a session to move them.
    dead: VecDeque<Corpse>,
    /// Some of them aren't told yet.
    news: bool,
    sessions: HashSet<u64>,
    /// Publishes that were stored, and what was said to them: one whose answer was lost comes again under the same id.
    published: HashMap<PublishId, Answer>,
    /// Rung once the lock is free.
    bells: Vec<Arc<Bell>>,
    /// When something becomes visible that wasn't planned for yet.
    alarms: Vec<Instant>,
    last_number: u64,
}

struct AwkwardQueue {
    declaration: Arc<Queue>,
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
    options: ReaderOptions,
    /// It found nothing, and wants to be rung for.
    waits: bool,
}

struct Message {
    envelope: Envelope,
    failures: u32,
    redelivered: bool,
    /// When its time is over. It begins when the message is in the queue.
    ends: Option<Instant>,
    /// It was over at once, but a reader had room for the message.
    promised: bool,
}

struct Held {
    holder: Holder,
    queue: u64,
    position: u64,
    message: Message,
    /// It died before it was taken.
    dying: Option<Dying>,
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
    LeaveDead(Death),
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
            Finish::LeaveDead { death } => Ending::LeaveDead(death),
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
        state.bury();
        let news = std::mem::take(&mut state.news);
        let bells = std::mem::take(&mut state.bells);
        let alarms = std::mem::take(&mut state.alarms);
        drop(state);
        // Not under the lock: whoever is woken may come back here at once.
        for bell in bells {
            bell.ring();
        }
        if news {
            self.news.notify_waiters();
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

    /// Resolves when there are dead that this session may take.
    pub(super) async fn until_any_dead(&self, session: u64) {
        loop {
            let news = self.news.notified();
            if self.state.lock().has_dead_for(session) {
                return;
            }
            news.await;
        }
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
        let mut unused = Vec::new();
        for queue in self.queues.values_mut() {
            if queue.leave(|seat| seat.holder.session == session) {
                unused.push(queue.declaration.name().clone());
            }
        }
        let of_session = |_: &u64, held: &mut Held| held.holder.session == session;
        let ended: Vec<(u64, Held)> = self.held.extract_if(of_session).collect();
        for (_, held) in ended {
            match held.dying {
                Some(_) => self.leave_dead(held, None),
                None => self.give_back(held, 0, None),
            }
        }
        unused.extend(self.table.owned_by(session));
        for queue in unused {
            self.remove_queue(&queue);
        }
    }

    /// Deletes a queue that goes with its session, or with its last reader.
    fn remove_queue(&mut self, name: &Name) {
        if self.queues.contains_key(name) {
            let changes = self.table.removal_of_queue(name, DeleteQueue::default());
            // Nothing was asked for that could be refused.
            let _ = self.apply(self.table.version(), &changes);
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
                Change::PutQueue(queue, _) => self.add_queue(queue),
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

    fn add_queue(&mut self, declaration: &Queue) {
        let queue = AwkwardQueue {
            declaration: Arc::new(declaration.clone()),
            number: self.next_number(),
            ready: BTreeMap::new(),
            last_position: 0,
            delayed: BTreeMap::new(),
            seats: Vec::new(),
        };
        self.queues.insert(declaration.name().clone(), queue);
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

    pub(super) fn add_seat(
        &mut self,
        holder: &Holder,
        bell: Arc<Bell>,
        options: ReaderOptions,
    ) -> Result<()> {
        let queue = self.queue(&holder.queue)?;
        let is_kept = queue.seats.iter().any(|seat| seat.options.exclusive);
        if is_kept || options.exclusive && !queue.seats.is_empty() {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!("somebody else consumes from queue `{}`", holder.queue),
            ));
        }
        queue.seats.push(Seat {
            holder: holder.clone(),
            bell,
            options,
            waits: false,
        });
        Ok(())
    }

    pub(super) fn remove_seat(&mut self, holder: &Holder) {
        let queue = self.queues.get_mut(&holder.queue);
        if queue.is_some_and(|queue| queue.leave(|seat| seat.holder == *holder)) {
            self.remove_queue(&holder.queue);
        }
    }

    pub(super) fn info(&mut self, name: &Name) -> Result<QueueInfo> {
        let queue = self.queue(name)?;
        let (number, ready, consumers) = (queue.number, queue.ready.len(), queue.seats.len());
        let held = self.held.values();
        let held = held.filter(|held| held.queue == number && held.dying.is_none());
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
        if let Some(answer) = self.published.get(&envelope.publish_id()) {
            return *answer;
        }
        if self.table.version() != version {
            return Answer::Stale;
        }
        let answer = self.store(targets, envelope);
        self.published.insert(envelope.publish_id(), answer);
        answer
    }

    /// Into all targets but those that refuse it.
    fn store(&mut self, targets: &[Name], envelope: &Envelope) -> Answer {
        let mut answer = Answer::Done;
        for target in targets {
            // What comes next finds the queue as this one left it.
            self.bury();
            let message = Message {
                envelope: envelope.clone(),
                failures: 0,
                redelivered: false,
                ends: None,
                promised: false,
            };
            let queue = self.queues.get(target);
            if queue.is_some_and(|queue| queue.refuses(envelope)) {
                self.refuse(target, message);
                answer = Answer::Refused;
            } else {
                self.put(target, None, message, envelope.delay());
            }
        }
        answer
    }

    /// Puts a message at its position, or at the end if it has none.
    fn put(
        &mut self,
        name: &Name,
        position: Option<u64>,
        mut message: Message,
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
            queue.start_time_of(&mut message);
            queue.last_position += 1;
            queue.last_position
        });
        self.alarms.extend(message.ends);
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
        self.bury();
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
                dying: None,
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
        if let Some(seat) = self.seat(holder) {
            seat.bell.send(taken.len());
            seat.waits = taken.is_empty();
        }
        taken
    }

    fn seat(&mut self, holder: &Holder) -> Option<&mut Seat> {
        let queue = self.queues.get_mut(&holder.queue)?;
        let mut seats = queue.seats.iter_mut();
        seats.find(|seat| seat.holder == *holder)
    }

    /// Gives back what never came to its consumer, as if it had not been taken.
    pub(super) fn untake(&mut self, holder: &Holder, ids: &[u64]) {
        if let Some(seat) = self.seat(holder) {
            seat.bell.arrive(ids.len());
        }
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
                if held.dying.is_some() || self.is_there(&held) {
                    return Ok(self.store(&targets, &envelope));
                }
                // It went with its queue.
            }
            Ending::LeaveDead(death) => {
                let held = self.unhold(holder, id)?;
                if held.dying.is_some() || self.is_there(&held) {
                    self.leave_dead(held, Some(death));
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

    fn put_back(&mut self, mut held: Held, delay: Option<Duration>) {
        if self.is_there(&held) {
            held.message.promised = false;
            let position = Some(held.position);
            self.put(&held.holder.queue, position, held.message, delay);
        }
    }

    /// Whether the queue that a message came from wasn't deleted meanwhile.
    fn is_there(&self, held: &Held) -> bool {
        let queue = self.queues.get(&held.holder.queue);
        queue.is_some_and(|queue| queue.number == held.queue)
    }
}

//! What dies in its queue, and waits until a session moves it.

use std::sync::Arc;
use std::time::SystemTime;

use kombu_core::message::Envelope;
use kombu_core::virt::{Dead, Death};
use kombu_core::{Name, Overflow, Queue};
use tokio::time::Instant;

use super::super::session::Holder;
use super::{AwkwardQueue, Held, Message, Seat, State};

pub(super) struct Corpse {
    queue: u64,
    message: Message,
    dying: Dying,
}

pub(super) struct Dying {
    declaration: Arc<Queue>,
    death: Death,
    died: SystemTime,
    /// The sessions that couldn't move it, and don't get it again.
    left_by: Vec<u64>,
}

impl AwkwardQueue {
    /// Takes readers away. Whether the queue goes with the last one of them.
    pub(super) fn leave(&mut self, leaves: impl Fn(&Seat) -> bool) -> bool {
        let before = self.seats.len();
        self.seats.retain(|seat| !leaves(seat));
        let last = before > 0 && self.seats.is_empty();
        last && self.declaration.is_auto_delete()
    }

    /// How many messages are as good as delivered.
    fn room(&self) -> usize {
        let rooms = self.seats.iter().map(|seat| {
            let left = seat.options.room.left();
            left.saturating_sub(seat.bell.on_their_way())
        });
        rooms.fold(0, usize::saturating_add)
    }

    /// Whether it would be too long with so many messages and bytes more.
    fn exceeds(&self, messages: u64, bytes: u64) -> bool {
        let waiting = || self.ready.values().skip(self.room());
        let size = |message: &Message| message.envelope.body().len() as u64;
        let max_length = self.declaration.get_max_length();
        let max_bytes = self.declaration.get_max_length_bytes();
        max_length.is_some_and(|max| waiting().count() as u64 + messages > max)
            || max_bytes.is_some_and(|max| waiting().map(size).sum::<u64>() + bytes > max)
    }

    fn rejects(&self) -> bool {
        let overflow = self.declaration.get_overflow();
        overflow.is_some_and(Overflow::rejects)
    }

    pub(super) fn refuses(&self, envelope: &Envelope) -> bool {
        self.rejects() && self.exceeds(1, envelope.body().len() as u64)
    }

    /// A message has arrived here.
    pub(super) fn start_time_of(&self, message: &mut Message) {
        let times = [
            self.declaration.get_message_ttl(),
            message.envelope.expiration(),
        ];
        let Some(time) = times.into_iter().flatten().min() else {
            return;
        };
        message.ends = Some(Instant::now() + time);
        message.promised = time.is_zero() && self.ready.len() < self.room();
    }

    /// A message of this queue that is to be dead-lettered, if the queue does that.
    fn corpse(&self, message: Message, death: Death) -> Option<Corpse> {
        self.declaration.get_dead_letter_exchange()?;
        Some(Corpse {
            queue: self.number,
            message,
            dying: Dying::new(&self.declaration, death),
        })
    }

    /// Takes out what is dead by now, and what it died of.
    fn next_dead(&mut self, now: Instant) -> Option<(Message, Death)> {
        let room = self.room();
        let head = self.ready.first_entry()?;
        let is_kept = head.get().promised && room > 0;
        if !is_kept && head.get().ends.is_some_and(|end| end <= now) {
            return Some((head.remove(), Death::Expired));
        }
        if self.rejects() || !self.exceeds(0, 0) {
            return None;
        }
        let position = *self.ready.keys().nth(room)?;
        Some((self.ready.remove(&position)?, Death::MaxLength))
    }
}

impl State {
    /// Takes the dead out of the queues.
    pub(super) fn bury(&mut self) {
        let now = Instant::now();
        for queue in self.queues.values_mut() {
            while let Some((message, death)) = queue.next_dead(now) {
                self.dead.extend(queue.corpse(message, death));
                self.news = true;
            }
        }
    }

    /// A queue has refused a message, which may have to be dead-lettered all the same.
    pub(super) fn refuse(&mut self, queue: &Name, message: Message) {
        if let Some(queue) = self.queues.get(queue)
            && queue.declaration.get_overflow() == Some(Overflow::RejectPublishDlx)
        {
            self.dead.extend(queue.corpse(message, Death::MaxLength));
            self.news = true;
        }
    }

    pub(super) fn has_dead_for(&self, session: u64) -> bool {
        let mut dead = self.dead.iter();
        dead.any(|corpse| !corpse.dying.left_by.contains(&session))
    }

    /// Gives a session all dead that it may move.
    pub(in super::super) fn take_dead(&mut self, holder: &Holder) -> Vec<Dead<Holder>> {
        self.show_due();
        let mut taken = Vec::new();
        if !self.sessions.contains(&holder.session) {
            return taken;
        }
        for corpse in std::mem::take(&mut self.dead) {
            if corpse.dying.left_by.contains(&holder.session) {
                self.dead.push_back(corpse);
                continue;
            }
            let id = self.next_number();
            let declaration = corpse.dying.declaration.clone();
            let holder = Holder {
                queue: declaration.name().clone(),
                ..holder.clone()
            };
            taken.push(Dead {
                queue: declaration,
                death: corpse.dying.death,
                died: corpse.dying.died,
                envelope: corpse.message.envelope.clone(),
                holder: holder.clone(),
                id,
            });
            let held = Held {
                holder,
                queue: corpse.queue,
                position: 0,
                message: corpse.message,
                dying: Some(corpse.dying),
            };
            self.held.insert(id, held);
        }
        taken
    }

    /// A message is dead, or still is. It isn't given to its holder again if that leaves it.
    pub(super) fn leave_dead(&mut self, held: Held, left: Option<Death>) {
        let queue = self.queues.get(&held.holder.queue);
        let dying = match (held.dying, left, queue) {
            (Some(dying), _, _) => Some(dying),
            (None, Some(death), Some(queue)) => Some(Dying::new(&queue.declaration, death)),
            _ => None,
        };
        let Some(mut dying) = dying else { return };
        if left.is_some() {
            dying.left_by.push(held.holder.session);
        }
        self.news = true;
        self.dead.push_back(Corpse {
            queue: held.queue,
            message: held.message,
            dying,
        });
    }
}

impl Dying {
    fn new(declaration: &Arc<Queue>, death: Death) -> Self {
        Dying {
            declaration: declaration.clone(),
            death,
            died: SystemTime::now(),
            left_by: Vec::new(),
        }
    }
}

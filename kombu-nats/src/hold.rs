//! What a session holds, and how it gives that back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;
use kombu_core::Result;
use kombu_core::virt::{Death, Room};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::api::{self, ACK_WAIT, Delivered, nanoseconds};
use crate::error;
use crate::heard::{Heard, Told};
use crate::known::NatsQueue;
use crate::line::Line;
use crate::message;
use crate::session::{Looked, PAUSE, Shared};

pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");
/// Says that the holder lives. It changes nothing for a message that was acknowledged; one that went back with a delay would
/// wait anew.
pub(crate) const PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Gives a message back, to come again after this time.
pub(crate) fn nak(delay: Option<Duration>) -> Bytes {
    match delay {
        None => Bytes::from_static(b"-NAK"),
        Some(delay) => format!(r#"-NAK {{"delay":{}}}"#, nanoseconds(delay)).into(),
    }
}

/// How long before the server takes a message for abandoned nobody here settles it any more.
const MARGIN: Duration = Duration::from_secs(2);

/// How long after it took an acknowledgement a server may have the message all the same: others have to agree.
const REMOVAL: Duration = Duration::from_secs(1);

/// A message that the server has handed over.
pub(crate) struct Fetched {
    pub(crate) delivered: Delivered,
    pub(crate) ack: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) body: Bytes,
    /// When the server can have sent it at the earliest.
    pub(crate) since: Instant,
}

impl Fetched {
    /// `None` for what isn't a message of a stream. The server can't have sent it before this time.
    pub(crate) fn sent(message: Message, since: Instant) -> Option<Self> {
        let ack = message.reply?;
        Some(Fetched {
            delivered: Delivered::of(&ack)?,
            ack,
            headers: message.headers,
            body: message.payload,
            since,
        })
    }

    /// When its time is over in this queue, in ns by the server's clock.
    pub(crate) fn expires(&self, queue: &NatsQueue) -> Option<u64> {
        let own = message::expiration(self.headers.as_ref());
        let left = queue.time_to_live(own)?;
        Some(self.delivered.stored.saturating_add(nanoseconds(left)))
    }
}

/// Who holds messages of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Holder(pub(crate) Arc<Hold>);

#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) queue: NatsQueue,
    held: Mutex<HashMap<u64, Held>>,
    /// Which acknowledgements the server has taken in.
    heard: Heard,
    /// What was acknowledged last, unless the server is known to have taken it in.
    last: Mutex<Option<Subject>>,
    /// How much its consumer can hold, and since when it could hold more, by the server's clock; `u64::MAX` while it can't.
    room: Option<Room>,
    room_since: AtomicU64,
}

#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) ack: Subject,
    pub(crate) position: u64,
    /// When its time is over, by the server's clock.
    pub(crate) expires: Option<u64>,
    /// When the server last heard of it.
    pub(crate) since: Instant,
    /// What it died of in its queue, which may be gone by now, and when, in ns by the server's clock.
    pub(crate) death: Option<(Death, u64)>,
    /// How often it was to become a dead letter, and couldn't.
    pub(crate) tries: u32,
    /// What kept it from that last may pass.
    pub(crate) may_pass: bool,
    /// The streams of those queues that have its letter already.
    pub(crate) has_letter: Vec<Arc<str>>,
}

impl Holder {
    pub(crate) fn new(queue: NatsQueue, room: Option<Room>, now: u64) -> Self {
        Holder(Arc::new(Hold {
            queue,
            held: Mutex::default(),
            heard: Heard::default(),
            last: Mutex::default(),
            room,
            room_since: AtomicU64::new(now),
        }))
    }

    pub(crate) fn queue(&self) -> &NatsQueue {
        &self.0.queue
    }

    pub(crate) fn hold(&self, id: u64, fetched: &Fetched, death: Option<(Death, u64)>) {
        let held = Held {
            ack: fetched.ack.clone(),
            position: fetched.delivered.position,
            expires: fetched.expires(&self.0.queue),
            since: fetched.since,
            death,
            tries: 0,
            may_pass: false,
            has_letter: Vec::new(),
        };
        let mut all = self.0.held.lock();
        all.insert(id, held);
        if self
            .0
            .room
            .as_ref()
            .is_some_and(|room| all.len() >= room.limit())
        {
            self.0.room_since.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Takes note of how much room there is at this time.
    pub(crate) fn look_at_room(&self, has_room: bool, now: u64) {
        let since = &self.0.room_since;
        match (has_room, since.load(Ordering::Relaxed)) {
            (true, u64::MAX) => since.store(now, Ordering::Relaxed),
            (true, _) => {}
            (false, _) => since.store(u64::MAX, Ordering::Relaxed),
        }
    }

    /// Something isn't held any more.
    pub(crate) fn freed(&self, now: u64) {
        let held = self.0.count();
        if self.0.room.as_ref().is_some_and(|room| held < room.limit()) {
            self.look_at_room(true, now);
        }
    }

    /// Since when its consumer could take more; `u64::MAX` if it can't.
    pub(crate) fn room_since(&self) -> u64 {
        self.0.room_since.load(Ordering::Relaxed)
    }

    /// Ends the hold; `None` if there is none any more, as far as can be known here.
    pub(crate) fn let_go(&self, id: u64) -> Option<Held> {
        let held = self.0.held.lock().remove(&id)?;
        held.is_ours().then_some(held)
    }

    /// The same for a message that is acknowledged next.
    pub(crate) fn let_go_for_good(&self, id: u64) -> Option<Held> {
        let mut all = self.0.held.lock();
        let held = all.remove(&id)?;
        // Under the same lock: whoever counts sees one of the two.
        *self.0.last.lock() = Some(held.ack.clone());
        held.is_ours().then_some(held)
    }

    /// Holds what was held elsewhere.
    pub(crate) fn take_over(&self, id: u64, held: Held) {
        self.0.held.lock().insert(id, held);
    }

    pub(crate) fn get(&self, id: u64) -> Option<Held> {
        self.0.held.lock().get(&id).cloned()
    }

    /// Takes note of something about what is held.
    pub(crate) fn note(&self, id: u64, note: impl FnOnce(&mut Held)) {
        if let Some(held) = self.0.held.lock().get_mut(&id) {
            note(held);
        }
    }
}

impl Hold {
    /// What has to be waited for until the server's counts are right.
    pub(crate) fn last(&self) -> Option<Subject> {
        self.last.lock().clone()
    }

    /// The server has taken that in.
    pub(crate) fn forget_last(&self, ack: &Subject) {
        let mut last = self.last.lock();
        if last.as_ref() == Some(ack) {
            *last = None;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// How many of those that lie in its queue: the dead may lie elsewhere.
    pub(crate) fn count_in_queue(&self) -> usize {
        let held = self.held.lock();
        let is_there =
            |held: &&Held| held.death.is_none() || *held.stream() == **self.queue.stream();
        held.values().filter(is_there).count()
    }

    /// How many of a level.
    pub(crate) fn count_at(&self, level: u8) -> usize {
        let held = self.held.lock();
        let of = held
            .values()
            .filter(|held| api::level_of(&held.ack) == level);
        of.count()
    }

    /// Tells the server that all are still held. What it takes for abandoned by now, since this program stood still, isn't.
    pub(crate) fn progress(&self, line: &Line) {
        let now = Instant::now();
        self.held.lock().retain(|_, held| {
            let is_ours = held.is_ours();
            if is_ours {
                held.since = now;
                line.tell(held.ack.clone(), PROGRESS);
            }
            is_ours
        });
    }

    /// Ends all holds.
    pub(crate) fn let_go_of_all(&self) -> Vec<Held> {
        self.held.lock().drain().map(|(_, held)| held).collect()
    }

    /// All that is held, for whoever comes after this session.
    pub(crate) fn all(&self) -> Vec<Held> {
        self.held.lock().values().cloned().collect()
    }
}

/// Whether the server can't have given something to somebody else yet that it heard of at this time.
pub(crate) fn is_ours(since: Instant) -> bool {
    since.elapsed() + MARGIN < ACK_WAIT
}

impl Held {
    #[cfg(test)]
    pub(crate) fn at(position: u64, since: Instant) -> Self {
        Held {
            ack: format!("$JS.ACK.stream.c0.1.{position}.{position}.0.0").into(),
            position,
            expires: None,
            since,
            death: None,
            tries: 0,
            may_pass: false,
            has_letter: Vec::new(),
        }
    }

    /// Whether the server can't have given it to somebody else yet.
    pub(crate) fn is_ours(&self) -> bool {
        is_ours(self.since)
    }

    /// The stream that it lies in.
    pub(crate) fn stream(&self) -> &str {
        api::stream_of(&self.ack)
    }

    /// The id of the letter that a dead message becomes: made of its place, and of when it was stored there, since a stream that
    /// is made again begins anew.
    pub(crate) fn letter_id(&self) -> String {
        let stored = Delivered::of(&self.ack).map_or(0, |delivered| delivered.stored);
        format!("dlx:{}:{}:{stored:x}", self.stream(), self.position)
    }
}

/// A message that died in its queue.
pub(crate) struct Corpse {
    pub(crate) holder: Holder,
    pub(crate) id: u64,
    pub(crate) death: Death,
    /// When, in ns by the server's clock.
    pub(crate) died: u64,
    pub(crate) fetched: Fetched,
    /// What is read once more comes a few at a time: all of them might be more than there is memory, or time, for.
    pub(crate) _turn: Option<OwnedSemaphorePermit>,
}

/// Settles that were told to the server are done when it answers this. False if nobody is there to answer.
pub(crate) fn barrier(line: &Line, ack: Subject) -> crate::line::Answer<bool> {
    let asking = line.ask(ack, None, PROGRESS, "a settle");
    Box::pin(async move {
        let answer: Result<Option<Message>> = asking.await;
        answer.map(|answer| answer.is_some())
    })
}

/// Tells the server that a message was acknowledged.
pub(crate) fn acknowledge(shared: &Shared, holder: &Holder, held: &Held) -> Told {
    holder.0.heard.tell(&shared.line, held)
}

/// Waits until the server has taken that in.
pub(crate) async fn acknowledged(
    shared: &Arc<Shared>,
    holder: &Holder,
    held: &Held,
    told: Told,
) -> Result<()> {
    let queue = holder.queue();
    let heard = &holder.0.heard;
    let mut is_heard = heard.is_heard(&shared.line, held, told).await?;
    if is_heard || *held.stream() != **queue.stream() {
        return Ok(());
    }
    // Nobody was there: its queue is gone, or it has no leader now, or its consumer had to be made again.
    while !is_heard {
        match shared.look_at_whole(queue).await? {
            // And the message with it.
            Looked::Gone => return Ok(()),
            Looked::Repaired => break,
            Looked::Whole => {}
        }
        let asking = shared
            .line
            .ask(held.ack.clone(), None, ACK, "an acknowledgement");
        is_heard = asking.await?.is_some();
    }
    let end = Instant::now() + REMOVAL;
    loop {
        match api::message(&shared.line, queue.stream(), held.position).await? {
            Ok(_) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
            // It comes again.
            Ok(_) => return Err(error::settle_lost()),
            Err(refused) if refused.is_missing() => return Ok(()),
            Err(refused) => return Err(refused.during("an acknowledgement")),
        }
    }
}

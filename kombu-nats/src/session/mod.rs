//! One session: what its readers, publishers and tasks have in common.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use futures_util::future::join_all;
use kombu_core::driver::{Notice, Notices, QueueInfo};
use kombu_core::virt::{Room, Table};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock, Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::api::{self, ACK_WAIT, ConsumerInfo};
use crate::bell::Bells;
use crate::clock::Clock;
use crate::discounts::Discounts;
use crate::error;
use crate::hold::{self, Corpse, Fetched, Hold, Holder};
use crate::known::{self, Known, NatsQueue};
use crate::limits::{self, Sizes};
use crate::line::Line;
use crate::members;
use crate::names::encoded;
use crate::outlet::Outlet;
use crate::pulse::Agenda;
use crate::push::Unreachable;
use crate::reader::Inlet;
use crate::returns::{self, Return, Returns};
use crate::tally;
use crate::transport::Place;

mod dead;
mod ending;
mod streams;

pub(crate) use self::streams::{CHANGED_LEADER, Looked, Wanted};

/// How long a pull may go without an answer.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// How long a look waits for what is there and doesn't answer.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// How many dead messages that can't be moved a session keeps at most, and how late the others come again.
pub(crate) const MOST_KEPT: usize = 10_000;
pub(crate) const TRY_LATER: Duration = Duration::from_secs(30);

/// How long it is enough to have told the others that messages of a queue expire.
const MARKED: Duration = Duration::from_secs(60);

/// How often somebody who takes one message looks for what is due.
const OVERDUE: usize = 50;

/// What came of a pull.
enum Pulled {
    Message(Fetched),
    Nothing,
    /// There is no consumer to pull from: then the server says nothing.
    Nobody,
}

impl Pulled {
    fn of(message: Message, asked: Instant) -> Self {
        match message.status {
            None => Fetched::sent(message, asked).map_or(Pulled::Nothing, Pulled::Message),
            Some(StatusCode::NO_RESPONDERS) => Pulled::Nobody,
            Some(_) => Pulled::Nothing,
        }
    }
}

/// What a session does for those who don't wait for it.
pub(crate) enum Job {
    /// A reader is gone: takes what is still on its way, and ends the consumer.
    Leave {
        leaving: Box<crate::reader::Leaving>,
        reply: Option<oneshot::Sender<Result<()>>>,
    },
    /// What a pull still brings goes back.
    Empty {
        inlet: Arc<Inlet>,
        _on_its_way: Option<OwnedRwLockReadGuard<()>>,
    },
    /// Those that wait for messages of a queue are to be woken once more.
    Ring(NatsQueue),
    /// A dead message that couldn't be moved is tried again.
    TryAgain { holder: Holder, id: u64 },
    /// Messages go back.
    Return(NatsQueue, Vec<Return>),
    /// Nobody has the session any more.
    End,
}

pub(crate) struct Shared {
    pub(crate) line: Line,
    pub(crate) place: Place,
    pub(crate) known: Mutex<Known>,
    /// Whose turn it is to read declarations.
    reading: tokio::sync::Mutex<()>,
    pub(crate) outlet: Outlet,
    pub(crate) unreachable: Unreachable,
    pub(crate) bells: Bells,
    pub(crate) clock: Clock,
    pub(crate) returns: Returns,
    pub(crate) discounts: Discounts,
    pub(crate) agenda: Agenda,
    pub(crate) sizes: Sizes,
    pub(crate) jobs: mpsc::UnboundedSender<Job>,
    /// Held for reading by consumers that are about to leave: the end of the session waits for them.
    pub(crate) leaving: Arc<RwLock<()>>,
    /// Whose turn it is to look for what is over.
    pub(crate) looking: tokio::sync::Mutex<()>,
    inlets: Mutex<Vec<Weak<Inlet>>>,
    /// Streams that single messages are pulled from.
    pulling: Mutex<Vec<Arc<str>>>,
    holds: Mutex<Vec<Weak<Hold>>>,
    /// By stream.
    own: Mutex<HashMap<Arc<str>, Holder>>,
    notices: broadcast::Sender<Notice>,
    /// When others were told last that messages of a stream may expire.
    marked: Mutex<HashMap<Arc<str>, Instant>>,
    /// Sessions that this one listens for, because they may be dead.
    pub(crate) suspects: Mutex<HashSet<u64>>,
    /// What was told of late, and when.
    told: Mutex<HashMap<(Name, String), Instant>>,
    /// How much the consumers of this session have room for.
    rooms: Mutex<Vec<(NatsQueue, u64, Room)>>,
    dead: Mutex<VecDeque<Corpse>>,
    pub(crate) deaths: Notify,
    /// How many dead messages wait to be tried again.
    pub(crate) kept: AtomicUsize,
    /// Whose turn it is of those, by stream.
    tried_again: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
    next: AtomicU64,
    is_ending: AtomicBool,
    /// Nothing is left of it on the server.
    has_ended: AtomicBool,
}

/// Goes on though nobody waits, or asks, for it any more: others wait for what it holds.
pub(crate) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::ConnectionLost,
            "the runtime of the session is gone",
        ))
    })
}

impl Shared {
    pub(crate) fn new(line: Line, place: Place) -> (Arc<Self>, mpsc::UnboundedReceiver<Job>) {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let shared = Shared {
            known: Mutex::new(Known::new(line.layout.clone())),
            line,
            place,
            reading: tokio::sync::Mutex::default(),
            outlet: Outlet::default(),
            unreachable: Unreachable::default(),
            bells: Bells::default(),
            clock: Clock::default(),
            returns: Returns::default(),
            discounts: Discounts::default(),
            agenda: Agenda::default(),
            sizes: Sizes::default(),
            jobs,
            leaving: Arc::default(),
            looking: tokio::sync::Mutex::default(),
            inlets: Mutex::default(),
            pulling: Mutex::default(),
            holds: Mutex::default(),
            own: Mutex::default(),
            notices: broadcast::Sender::new(64),
            suspects: Mutex::default(),
            marked: Mutex::default(),
            told: Mutex::default(),
            rooms: Mutex::default(),
            dead: Mutex::default(),
            deaths: Notify::new(),
            kept: AtomicUsize::new(0),
            tried_again: Mutex::default(),
            next: AtomicU64::new(1),
            is_ending: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        };
        (Arc::new(shared), receiver)
    }

    /// A number that nothing else of this session has.
    pub(crate) fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The holder of what is taken singly from a queue.
    pub(crate) fn own_holder(&self, queue: &NatsQueue) -> Holder {
        let mut own = self.own.lock();
        if let Some(holder) = own.get(queue.stream()) {
            return holder.clone();
        }
        {
            let known = self.known.lock();
            own.retain(|_, holder| known.has(holder.queue()) || holder.0.count() > 0);
        }
        let holder = self.holder(queue, None);
        own.insert(queue.stream().clone(), holder.clone());
        holder
    }

    /// A new holder of messages of a queue.
    pub(crate) fn holder(&self, queue: &NatsQueue, room: Option<Room>) -> Holder {
        let holder = Holder::new(queue.clone(), room, self.clock.now());
        let mut holds = self.holds.lock();
        holds.retain(|hold| hold.strong_count() > 0);
        holds.push(Arc::downgrade(&holder.0));
        holder
    }

    pub(crate) fn holds(&self) -> Vec<Arc<Hold>> {
        self.holds.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn add_inlet(&self, inlet: &Arc<Inlet>) {
        let mut inlets = self.inlets.lock();
        inlets.retain(|inlet| inlet.strong_count() > 0);
        inlets.push(Arc::downgrade(inlet));
    }

    pub(crate) fn inlets(&self) -> Vec<Arc<Inlet>> {
        let inlets = self.inlets.lock();
        inlets.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn add_room(&self, queue: &NatsQueue, number: u64, room: Room) {
        self.rooms.lock().push((queue.clone(), number, room));
    }

    pub(crate) fn remove_room(&self, number: u64) {
        self.rooms.lock().retain(|(_, other, _)| *other != number);
    }

    /// How many more messages the consumers of a queue's stream have room for.
    pub(crate) fn room(&self, stream: &str) -> u64 {
        let rooms = self.rooms.lock();
        let of = rooms
            .iter()
            .filter(|(queue, ..)| **queue.stream() == *stream);
        of.map(|(_, _, room)| room.left().min(1 << 32) as u64).sum()
    }

    /// Reads the declarations that are new.
    pub(crate) async fn catch_up(self: &Arc<Self>) -> Result<Table> {
        self.catch_up_to(None).await
    }

    /// The same as far as this revision, if it is given.
    pub(crate) async fn catch_up_to(self: &Arc<Self>, newest: Option<u64>) -> Result<Table> {
        let shared = self.clone();
        to_the_end(async move {
            let read = known::catch_up(&shared.line, &shared.known, &shared.reading, newest).await;
            shared.forget_gone();
            read
        })
        .await
    }

    /// Forgets all that is known here of queues that turned out to be gone.
    fn forget_gone(&self) {
        let gone = self.known.lock().take_gone();
        for queue in gone {
            self.sizes.forget(&queue);
            self.returns.forget_all(queue.stream());
            self.discounts.forget(queue.stream());
            self.unreachable.forget(&queue);
            self.marked.lock().remove(queue.stream());
            self.agenda.forget(queue.name());
        }
    }

    /// Whether a route is the one that counts now.
    pub(crate) async fn is_route_current(
        self: &Arc<Self>,
        version: u64,
        exchange: &Name,
        targets: &[NatsQueue],
    ) -> Result<bool> {
        let newest = known::revision(&self.line).await?;
        if newest + 1 != self.known.lock().table().version() {
            self.catch_up_to(Some(newest)).await?;
        }
        let mut known = self.known.lock();
        Ok(known.still_holds(version, exchange, targets))
    }

    pub(crate) async fn is_current(&self, version: u64) -> Result<bool> {
        if self.known.lock().table().version() != version {
            return Ok(false);
        }
        let revision = known::revision(&self.line).await?;
        Ok(revision + 1 == version)
    }

    /// Does something again while nobody can answer it, for as long as somebody waits for it.
    pub(crate) async fn patiently<T, F>(&self, work: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match work().await {
                Err(error) if error::is_passing(&error) && !self.line.is_over() => {
                    tracing::debug!(%error, "NATS is asked again");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// The same where nobody may wait for it any more: begun again until this time at the latest.
    pub(crate) async fn patiently_until<T, F>(
        &self,
        end: Instant,
        work: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match work().await {
                Err(error) if self.may_pass_by(&error, end) => {
                    tracing::debug!(%error, "NATS is asked again");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Whether the same may be answered on this session until then.
    pub(crate) fn may_pass_by(&self, error: &kombu_core::Error, end: Instant) -> bool {
        error::is_passing(error) && !self.line.is_over() && Instant::now() < end
    }

    /// What is put right from now on.
    pub(crate) fn notices(&self) -> Notices {
        let notices = self.notices.subscribe();
        Box::pin(futures_util::stream::unfold(
            notices,
            async |mut notices| {
                loop {
                    match notices.recv().await {
                        Ok(notice) => return Some((notice, notices)),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            },
        ))
    }

    /// What the consumer of each level says of itself, the lowest first.
    pub(crate) async fn looks(self: &Arc<Self>, queue: &NatsQueue) -> Result<Vec<ConsumerInfo>> {
        loop {
            let asking = (0..queue.levels())
                .map(|level| api::consumer_info(&self.line, queue.stream(), level));
            let mut infos = Vec::new();
            for info in join_all(asking).await {
                match info? {
                    Ok(info) => infos.push(info),
                    Err(refused) if refused.is_missing() => break,
                    Err(refused) => return Err(refused.during("a look at a queue")),
                }
            }
            if infos.len() == usize::from(queue.levels()) {
                return Ok(infos);
            }
            if !self.repair(queue).await? {
                return Err(error::missing_queue(queue.name()));
            }
        }
    }

    pub(crate) async fn info(self: &Arc<Self>, queue: &NatsQueue) -> Result<QueueInfo> {
        self.returns.idle(self, queue).await;
        if queue.declaration().get_expires().is_some() {
            members::use_queue(&self.line, queue.name()).await?;
        }
        let counts = tally::counts(self, queue).await?;
        let (members, _) = members::of(&self.line, queue).await?;
        Ok(QueueInfo::new(
            queue.name().clone(),
            counts.ready,
            Some(counts.unsettled),
            members.consumers.len() as u64,
        ))
    }

    /// Takes one message that is there, from the highest level that has one.
    pub(crate) async fn take_one(self: &Arc<Self>, queue: &NatsQueue) -> Result<Option<Fetched>> {
        self.returns.idle(self, queue).await;
        for _ in 0..OVERDUE {
            for level in (0..queue.levels()).rev() {
                if let Some(fetched) = self.take_from(queue, level).await? {
                    return Ok(Some(fetched));
                }
            }
            let is_soon_there =
                self.returns.is_overdue(queue.stream()) || self.is_told_late(queue).await?;
            if !is_soon_there {
                break;
            }
            // The server's timer is about to go off, or it is about to tell its consumers.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(None)
    }

    /// Whether a message is there that a pull came too soon for: the server confirms it before it tells its consumers, which takes
    /// 2.10 a moment, and 2.9 one where its machine is busy.
    async fn is_told_late(self: &Arc<Self>, queue: &NatsQueue) -> Result<bool> {
        let stream = api::stream_info(&self.line, queue.stream(), None);
        let looks = self.looks(queue).await?;
        let taken: u64 = looks.iter().map(|look| look.num_ack_pending).sum();
        Ok(match stream.await? {
            Ok(stream) => stream.state.messages > taken,
            Err(_) => false,
        })
    }

    /// Takes one message that is there.
    pub(crate) async fn take_from(
        self: &Arc<Self>,
        queue: &NatsQueue,
        level: u8,
    ) -> Result<Option<Fetched>> {
        loop {
            match self.pull(queue, level).await? {
                Pulled::Message(fetched) => return Ok(Some(fetched)),
                Pulled::Nothing => return Ok(None),
                Pulled::Nobody => {
                    if !self.repair(queue).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn pull(self: &Arc<Self>, queue: &NatsQueue, level: u8) -> Result<Pulled> {
        let subject = self
            .line
            .pull_subject(queue.stream(), &api::consumer(level));
        let asked = Instant::now();
        let mut arrivals = self.line.pull_one(subject)?;
        self.pulling.lock().push(queue.stream().clone());
        let (reply, answer) = oneshot::channel();
        let (shared, queue) = (self.clone(), queue.clone());
        // Whoever asks may stop waiting, and what comes then has to go back.
        tokio::spawn(async move {
            let mut is_late = false;
            let taken = match timeout(SILENCE, arrivals.next()).await {
                Ok(Some(message)) => Ok(Pulled::of(message, asked)),
                Ok(None) => Err(shared.line.lose_connection()),
                Err(_) => {
                    is_late = true;
                    Ok(Pulled::Nobody)
                }
            };
            if taken.is_ok() {
                let mut pulling = shared.pulling.lock();
                let stream = queue.stream();
                if let Some(index) = pulling.iter().position(|other| other == stream) {
                    pulling.swap_remove(index);
                }
            }
            if let Ok(Pulled::Message(fetched)) = &taken {
                shared.see(&queue, fetched);
            }
            let mut unwanted = match reply.send(taken) {
                Err(Ok(Pulled::Message(fetched))) => Some(fetched),
                _ => None,
            };
            if is_late
                && let Ok(Some(message)) = timeout(ACK_WAIT, arrivals.next()).await
                && let Pulled::Message(fetched) = Pulled::of(message, asked)
            {
                shared.see(&queue, &fetched);
                unwanted = Some(fetched);
            }
            if let Some(fetched) = unwanted {
                shared.give_back_fetched(&queue, &fetched);
                shared.flush_returns();
            }
        });
        answer.await.unwrap_or_else(|_| Err(self.line.loss()))
    }

    /// Takes note of what the server handed over.
    pub(crate) fn see(&self, queue: &NatsQueue, fetched: &Fetched) {
        self.agenda.taken_from(queue.name());
        if fetched.delivered.count > 1 {
            self.returns.see(queue.stream(), fetched.delivered.position);
        }
    }

    /// Gives a message back.
    pub(crate) fn give_back(
        &self,
        queue: &NatsQueue,
        held: hold::Held,
        counts: bool,
        delay: Option<Duration>,
    ) {
        if !held.is_ours() {
            // It is somebody else's by now.
            return;
        }
        if *held.stream() != **queue.stream() {
            // A dead message, which lies elsewhere.
            self.line.tell(held.ack, hold::nak(delay));
            return;
        }
        match delay {
            Some(delay) => self.agenda.ring_in(queue.name(), delay),
            None => self.look_after(queue, held.expires),
        }
        let back = Return {
            ack: held.ack,
            position: held.position,
            expires: held.expires,
            since: held.since,
            counts,
            delay,
        };
        self.returns.add(queue, back);
    }

    /// A message that is on its way into a queue is beyond its time by then. If only the message says so, the others are told
    /// to look at the queue as well: this session may not be there any more.
    pub(crate) fn expires_in(&self, queue: &NatsQueue, left: Duration) {
        self.agenda.look_in(queue.name(), left);
        self.mark_expiring(queue);
    }

    fn mark_expiring(&self, queue: &NatsQueue) {
        if queue.declaration().get_message_ttl().is_some() {
            return;
        }
        let mut marked = self.marked.lock();
        let now = Instant::now();
        if marked
            .get(queue.stream())
            .is_none_or(|at| *at + MARKED < now)
        {
            marked.insert(queue.stream().clone(), now);
            drop(marked);
            members::mark_expiring(&self.line, queue);
        }
    }

    /// What goes back may be beyond its time, or beyond the limits of its queue.
    pub(crate) fn look_after(&self, queue: &NatsQueue, expires: Option<u64>) {
        if let Some(expires) = expires {
            let left = Duration::from_nanos(expires.saturating_sub(self.clock.now()));
            self.agenda.look_in(queue.name(), left);
        }
        if limits::is_limited(queue.declaration()) {
            self.agenda.look_in(queue.name(), Duration::ZERO);
        }
    }

    pub(crate) fn give_back_fetched(&self, queue: &NatsQueue, fetched: &Fetched) {
        if !hold::is_ours(fetched.since) {
            return;
        }
        let back = Return::of(fetched, queue);
        self.look_after(queue, back.expires);
        self.returns.add(queue, back);
    }

    /// Lets go back what is to go back.
    pub(crate) fn flush_returns(&self) {
        self.returns.flush(self);
    }

    /// Tells all sessions which deliveries don't count.
    pub(crate) fn tell_uncounted(&self, queue: &NatsQueue, counts: &[(u64, u32)]) {
        for some in counts.chunks(1000) {
            let text = returns::uncounted(self.line.session, queue.stream(), some);
            let bell = self.line.layout.bell(queue.name());
            self.line.tell(bell.into(), text.into());
        }
    }

    /// Tells all sessions that there is something to do at a queue.
    pub(crate) fn ring(&self, queue: &Name, changed: bool) {
        self.bells.ring(&encoded(queue), changed);
        let what = if changed { "changed" } else { "more" };
        self.line
            .tell(self.line.layout.bell(queue).into(), what.into());
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}

//! One session: what its readers, publishers and tasks have in common.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use futures_util::future::join_all;
use kombu_core::driver::{Notice, Notices, QueueInfo};
use kombu_core::virt::{Applied, Change, Death, Room, Table};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock, Semaphore, broadcast, mpsc, oneshot};
use tokio::time::timeout;

use crate::api::{self, ACK_WAIT, ConsumerInfo, DUPLICATE_WINDOW, Delivered};
use crate::bell::Bells;
use crate::clock::Clock;
use crate::discounts::{self, Discounts};
use crate::error::{self, ApiError, code};
use crate::hold::{self, Corpse, Fetched, Hold, Holder};
use crate::known::{self, Known, NatsQueue, Written};
use crate::left;
use crate::limits::{self, Sizes};
use crate::line::{Line, PATIENCE};
use crate::members;
use crate::message;
use crate::names::encoded;
use crate::outlet::Outlet;
use crate::pulse::Agenda;
use crate::push::Unreachable;
use crate::reader::Inlet;
use crate::returns::{self, Return, Returns};
use crate::tally;
use crate::transport::Place;
use crate::unreadable;

/// How long the end of a session waits for consumers that are leaving.
const LEAVING: Duration = Duration::from_secs(3);

/// How long a pull may go without an answer.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);
/// How long a look waits for what is there and doesn't answer.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
/// How long a stream that was gone is left alone before it is made again.
const DELETION: Duration = Duration::from_millis(250);
/// How long the same isn't told again.
const TOLD: Duration = Duration::from_secs(5);

/// How soon a dead message is tried again that couldn't be moved; twice as late each time.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// The longest pause where what keeps it may pass. It is sent again before the streams that may have its letter forget it.
const LONGEST: Duration = Duration::from_secs(20);
/// The same where it may not: it is larger than the server takes, for one.
const LONGEST_REFUSED: Duration = Duration::from_secs(600);
const _: () = assert!(LONGEST.as_secs() + 2 * PATIENCE.as_secs() < DUPLICATE_WINDOW.as_secs());

/// How many of those a session keeps at most, and how late the others come again.
pub(crate) const MOST_KEPT: usize = 10_000;
pub(crate) const TRY_LATER: Duration = Duration::from_secs(30);
/// How many of them are read again at once.
const TRIED_AT_ONCE: usize = 8;

/// How long it is enough to have told the others that messages of a queue expire.
const MARKED: Duration = Duration::from_secs(60);

/// How often somebody who takes one message looks for what is due.
const OVERDUE: usize = 50;

/// Why a queue that is as it should be didn't answer.
pub(crate) const CHANGED_LEADER: &str = "its stream didn't answer, as while it changes its leader";

/// What came of a look at a queue that doesn't answer.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Looked {
    /// It was deleted.
    Gone,
    Whole,
    /// Something of it was made again.
    Repaired,
}

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

/// How long a dead message waits that couldn't be moved so often, if what keeps it may pass or not.
fn pause(tries: u32, may_pass: bool) -> Duration {
    let longest = match may_pass {
        true => LONGEST,
        false => LONGEST_REFUSED,
    };
    let pause = TRY_AGAIN * 2_u32.saturating_pow(tries.min(16));
    pause.min(longest)
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
    /// Whose turn it is of those.
    tried_again: Arc<Semaphore>,
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

/// How a set of changes is made.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    /// With the number of messages that go with queues.
    Counts,
    /// Whatever is in them.
    Nothing,
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
            tried_again: Arc::new(Semaphore::new(TRIED_AT_ONCE)),
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
                Err(error)
                    if error::is_passing(&error)
                        && !self.line.is_over()
                        && Instant::now() < end =>
                {
                    tracing::debug!(%error, "NATS is asked again");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Whoever waits for it asks again if it can't be done now.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        base: u64,
        changes: &[Change],
        wanted: Wanted,
    ) -> Result<Applied> {
        if self.known.lock().table().version() != base {
            return Ok(Applied::Stale);
        }
        let mut messages = 0;
        let mut gone = Vec::new();
        for change in changes {
            if let Change::DeleteQueue(name, options) = change
                && let Some(queue) = self.known.lock().queue(name)
            {
                gone.push((queue, *options));
            }
        }
        for (queue, options) in &gone {
            let is_asked = options.if_unused || options.if_empty;
            if wanted == Wanted::Nothing && !is_asked {
                continue;
            }
            let info = match self.info(queue).await {
                // Its server is gone, which keeps nobody from deleting it.
                Err(error) if error::is_passing(&error) && !is_asked => continue,
                info => info?,
            };
            messages += info.ready;
            let refused = match () {
                () if options.if_unused && info.consumers > 0 => format!(
                    "has {} consumers; cancel them, or delete it without `if_unused`",
                    info.consumers
                ),
                () if options.if_empty && info.ready > 0 => format!(
                    "has {} messages; purge it, or delete it without `if_empty`",
                    info.ready
                ),
                () => continue,
            };
            return Err(Error::new(
                ErrorKind::PreconditionFailed,
                format!("queue `{}` {refused}", queue.name()),
            ));
        }
        // Nobody reads them in between, or they would be taken in twice.
        let written = {
            let _turn = self.reading.lock().await;
            if self.known.lock().table().version() != base {
                return Ok(Applied::Stale);
            }
            known::write(&self.line, &self.known, changes).await
        };
        self.forget_gone();
        let is_done = match written {
            Ok(Written::Done) => true,
            Ok(Written::Stale) => return Ok(Applied::Stale),
            // Some of them are made: the rest is told apart by whoever looks again.
            Ok(Written::Partly) => false,
            Err(error) if error::is_passing(&error) => false,
            Err(error) => return Err(error),
        };
        if !is_done {
            let end = Instant::now() + 2 * PATIENCE;
            self.patiently_until(end, || self.catch_up()).await?;
        }
        for (queue, _) in &gone {
            if !self.known.lock().has(queue) {
                self.remove(queue).await?;
            }
        }
        for change in changes {
            let Change::PutQueue(declaration, _) = change else {
                continue;
            };
            let queue = self.known.lock().queue(declaration.name());
            if let Some(queue) = queue {
                // Its record is there: if it can't be made now, whoever uses it makes it.
                let end = Instant::now() + 2 * PATIENCE;
                let making = self.patiently_until(end, || async {
                    if !self.known.lock().has(&queue) {
                        return Err(error::missing_queue(queue.name()));
                    }
                    let made = self.make_stream(&queue, None).await;
                    if made.as_ref().is_err_and(error::is_passing) && is_done {
                        self.take_back(&queue).await;
                    }
                    made?;
                    self.make_consumers(&queue).await
                });
                match making.await {
                    // Somebody has deleted it already.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    made => made?,
                }
                if declaration.get_expires().is_some() {
                    members::use_queue(&self.line, queue.name()).await?;
                }
            }
        }
        if !is_done {
            return Ok(Applied::Stale);
        }
        let version = self.known.lock().table().version();
        Ok(Applied::Done { version, messages })
    }

    /// Removes what belongs to a queue whose record is gone.
    async fn remove(&self, queue: &NatsQueue) -> Result<()> {
        let deleting = api::delete_stream(&self.line, queue.stream());
        members::forget(&self.line, queue.name());
        discounts::forget(self, queue);
        unreadable::forget(&self.line, queue.stream());
        // What is delayed for it is dropped when it is due: a purge would take the consumer's place from what is for others.
        match deleting.await {
            // Where its server is gone, it goes when that comes back.
            Err(error) if error::is_passing(&error) => {}
            deleted => drop(deleted?),
        }
        self.ring(queue.name(), true);
        Ok(())
    }

    /// The stream of a queue is gone, with its messages.
    fn forget_messages(&self, queue: &NatsQueue) {
        for hold in self.holds() {
            if hold.queue.is(queue) {
                drop(hold.let_go_of_all());
            }
        }
        self.sizes.forget(queue);
        self.returns.forget_all(queue.stream());
    }

    /// Makes the stream of a queue, unless it is there; with this position for its first message, if it is given.
    async fn make_stream(
        self: &Arc<Self>,
        queue: &NatsQueue,
        begins_at: Option<u64>,
    ) -> Result<()> {
        let refused_above = limits::refused_above(queue.declaration());
        loop {
            let (line, place) = (&self.line, &self.place);
            let made = api::create_queue(line, place, queue, refused_above, begins_at).await;
            match made? {
                Ok(()) => return Ok(()),
                Err(refused) if refused.err_code == code::OVERLAP => {
                    self.clear_away(queue).await?;
                }
                Err(refused) => return Err(refused.during("the stream of a queue")),
            }
        }
    }

    /// Makes the consumers of a queue, unless they are there.
    async fn make_consumers(&self, queue: &NatsQueue) -> Result<()> {
        let made = api::create_consumers(&self.line, queue).await?;
        made.map_err(|refused| refused.during("the consumer of a queue"))
    }

    /// The new stream of a queue that was just declared may be given to a server that has just died. It waits there for ever,
    /// unless it is taken away. One that was there before may have messages, and isn't.
    async fn take_back(&self, queue: &NatsQueue) {
        let is_alone = self.place.of(queue.declaration()).1 == 1 && self.line.is_with_a_cluster();
        if !is_alone || queue.is_adopted() {
            return;
        }
        let look = api::stream_info(&self.line, queue.stream(), None).await;
        if look.is_err_and(|error| error::is_passing(&error)) {
            // Whoever leads it would have to answer, and does nothing.
            drop(api::delete_stream(&self.line, queue.stream()));
        }
    }

    /// Deletes streams that others left at the subject of a queue: only that of its record belongs there.
    async fn clear_away(self: &Arc<Self>, queue: &NatsQueue) -> Result<()> {
        let subject = self.line.layout.subject(queue.name(), "*");
        let streams = api::streams_at(&self.line, &subject).await?;
        // The record as it is after the streams were found.
        self.catch_up().await?;
        if !self.known.lock().has(queue) {
            return Err(error::missing_queue(queue.name()));
        }
        for stream in streams {
            if self.line.layout.id_of(queue.name(), &stream).is_none() {
                return Err(Error::new(
                    ErrorKind::PreconditionFailed,
                    format!(
                        "stream `{stream}`, which isn't this library's, takes what is published to queue `{}`; give it other \
                         subjects, or use another prefix",
                        queue.name()
                    ),
                ));
            }
            if stream != **queue.stream() {
                match api::delete_stream(&self.line, &stream).await {
                    // Where its server is gone, its place is free all the same.
                    Err(error) if error::is_passing(&error) => {}
                    deleted => drop(deleted?),
                }
            }
        }
        Ok(())
    }

    /// Looks after a queue whose stream doesn't answer; false if it isn't there any more. An error if that can't be known now.
    pub(crate) async fn repair(self: &Arc<Self>, queue: &NatsQueue) -> Result<bool> {
        let looked = self.look_at_whole(queue).await?;
        if looked == Looked::Whole {
            self.tell_repaired(queue, CHANGED_LEADER);
        }
        Ok(looked != Looked::Gone)
    }

    /// Looks whether all of a queue is there, and makes again what isn't.
    pub(crate) async fn look_at_whole(self: &Arc<Self>, queue: &NatsQueue) -> Result<Looked> {
        let end = Instant::now() + PATIENCE;
        // There is no leader, for one.
        self.patiently_until(end, || self.try_to_repair(queue))
            .await
    }

    async fn try_to_repair(self: &Arc<Self>, queue: &NatsQueue) -> Result<Looked> {
        self.catch_up().await?;
        if !self.known.lock().has(queue) {
            return Ok(Looked::Gone);
        }
        let mut stream = api::stream_info(&self.line, queue.stream(), None).await?;
        if stream.as_ref().is_err_and(ApiError::is_missing) {
            // The server may still be at removing its files, and would remove those of a new one.
            tokio::time::sleep(DELETION).await;
            stream = api::stream_info(&self.line, queue.stream(), None).await?;
        }
        let is_gone = stream.is_err();
        let mut is_whole = stream.is_ok();
        let reason = match stream {
            Err(refused) if !refused.is_missing() => {
                return Err(refused.during("a look at a queue"));
            }
            Err(_) => "its stream was gone, with its messages, and is made again",
            Ok(_) => {
                for level in 0..queue.levels() {
                    match api::consumer_info(&self.line, queue.stream(), level).await? {
                        Ok(_) => {}
                        Err(refused) if refused.is_missing() => is_whole = false,
                        Err(refused) => return Err(refused.during("a look at a queue")),
                    }
                }
                "its consumer was gone, and is made again: what was unsettled comes again"
            }
        };
        if is_whole {
            tokio::time::sleep(PAUSE).await;
            return Ok(Looked::Whole);
        }
        if is_gone {
            // What is held of it, or known of its positions, is nothing of the new one's.
            self.forget_messages(queue);
            discounts::begin_anew(self, queue);
            // In microseconds: none had so many messages.
            let begins_at = self.clock.now() / 1_000;
            match self.make_stream(queue, Some(begins_at)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Looked::Gone),
                made => made?,
            }
        }
        self.make_consumers(queue).await?;
        self.ring(queue.name(), false);
        self.tell_repaired(queue, reason);
        Ok(Looked::Repaired)
    }

    /// Tells whoever listens that something of a queue was put right.
    pub(crate) fn tell_repaired(&self, queue: &NatsQueue, reason: &str) {
        self.agenda.clear_again(queue.name());
        let now = Instant::now();
        let mut told = self.told.lock();
        told.retain(|_, at| *at + TOLD > now);
        let what = (queue.name().clone(), reason.to_owned());
        // Whatever waits for the same sees it put right.
        if told.insert(what, now).is_none() {
            // Nobody has to listen.
            drop(self.notices.send(Notice::Repaired {
                queue: queue.name().clone(),
                reason: reason.to_owned(),
            }));
        }
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
            if !self.returns.is_overdue(queue.stream()) {
                break;
            }
            // The server's timer is about to go off.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(None)
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

    /// Whether a message that was pulled is beyond its time. Then it is dead, and taken care of.
    pub(crate) fn bury_if_expired(
        &self,
        queue: &NatsQueue,
        fetched: Fetched,
        pulled: u64,
    ) -> Option<Fetched> {
        let Some(expires) = fetched.expires(queue) else {
            return Some(fetched);
        };
        // Another program may have published it.
        self.mark_expiring(queue);
        // What came while somebody waited for it was as good as delivered.
        let looked = match fetched.delivered.count {
            1 => pulled,
            _ => self.clock.now(),
        };
        if looked < expires || (fetched.delivered.count == 1 && pulled < fetched.delivered.stored) {
            return Some(fetched);
        }
        self.bury(queue, fetched, Death::Expired, expires);
        None
    }

    /// Takes note of what the server handed over.
    pub(crate) fn see(&self, queue: &NatsQueue, fetched: &Fetched) {
        self.agenda.taken_from(queue.name());
        if fetched.delivered.count > 1 {
            self.returns.see(queue.stream(), fetched.delivered.position);
        }
    }

    /// Takes in a message that died: it is forgotten unless its queue has a dead-letter exchange.
    pub(crate) fn bury(&self, queue: &NatsQueue, fetched: Fetched, death: Death, died: u64) {
        if queue.declaration().get_dead_letter_exchange().is_none() {
            self.line.tell(fetched.ack, hold::ACK);
            return;
        }
        self.take_in_dead(queue, fetched, death, died);
    }

    /// Holds a dead message until core has moved it.
    pub(crate) fn take_in_dead(
        &self,
        queue: &NatsQueue,
        fetched: Fetched,
        death: Death,
        died: u64,
    ) {
        let holder = self.own_holder(queue);
        let id = self.next();
        holder.hold(id, &fetched, Some((death, died)));
        self.dead.lock().push_back(Corpse {
            holder,
            id,
            death,
            died,
            fetched,
            _turn: None,
        });
        self.deaths.notify_one();
    }

    /// Has a dead message moved that couldn't be before. What it is made of lies in its stream.
    pub(crate) async fn try_again(&self, holder: Holder, id: u64) -> Result<()> {
        let tried = self.find_again(&holder, id).await;
        self.kept.fetch_sub(1, Ordering::Relaxed);
        if let Some(corpse) = tried? {
            self.dead.lock().push_back(corpse);
            self.deaths.notify_one();
        }
        Ok(())
    }

    async fn find_again(&self, holder: &Holder, id: u64) -> Result<Option<Corpse>> {
        let mut tries = 0;
        let (raw, turn) = loop {
            let Some(held) = holder.get(id) else {
                return Ok(None);
            };
            tokio::time::sleep(pause(held.tries + tries, held.may_pass)).await;
            // It is never closed.
            let turn = self.tried_again.clone().acquire_owned().await.ok();
            match api::message(&self.line, held.stream(), held.position).await {
                Ok(Ok(raw)) => break (raw, turn),
                Ok(Err(refused)) if refused.is_missing() => {
                    let queue = holder.queue().name();
                    tracing::warn!(%queue, "a dead letter that couldn't be moved went with its queue");
                    drop(holder.let_go_for_good(id));
                    return Ok(None);
                }
                Err(error) if self.line.is_over() => return Err(error),
                _ => tries += 1,
            }
        };
        let Some(held) = holder.get(id) else {
            return Ok(None);
        };
        let Some((death, died)) = held.death else {
            return Ok(None);
        };
        let own = [message::DUE, message::TO, message::DEATH];
        let fetched = Fetched {
            delivered: Delivered {
                count: 1,
                position: raw.position,
                stored: raw.stored,
            },
            ack: held.ack,
            headers: Some(message::without(&message::parse(&raw.headers), &own)),
            body: raw.payload.into(),
            since: held.since,
        };
        Ok(Some(Corpse {
            holder: holder.clone(),
            id,
            death,
            died,
            fetched,
            _turn: turn,
        }))
    }

    pub(crate) fn take_dead(&self) -> Vec<Corpse> {
        self.dead.lock().drain(..).collect()
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

    /// A consumer of this session is gone.
    pub(crate) async fn leave(self: &Arc<Self>, queue: &NatsQueue, number: u64) -> Result<()> {
        let session = self.line.session;
        let leaving = self.patiently(|| {
            members::remove(&self.line, queue, move |member| {
                (member.session, member.number) == (session, number)
            })
        });
        match leaving.await? {
            Some(left) => self.after_leaving(queue, left == 0).await,
            None => Ok(()),
        }
    }

    /// A consumer of a queue was taken off its list.
    pub(crate) async fn after_leaving(
        self: &Arc<Self>,
        queue: &NatsQueue,
        was_last: bool,
    ) -> Result<()> {
        if was_last && queue.declaration().is_auto_delete() {
            return self.delete(queue, true).await;
        }
        if let Some(expires) = queue.declaration().get_expires() {
            self.patiently(|| members::use_queue(&self.line, queue.name()))
                .await?;
            self.agenda.look_in(queue.name(), expires);
        }
        self.ring(queue.name(), true);
        Ok(())
    }

    /// Deletes a queue that is to go, unless it is another one by now, or, if that matters, somebody uses it again.
    pub(crate) async fn delete(self: &Arc<Self>, queue: &NatsQueue, if_unused: bool) -> Result<()> {
        let options = kombu_core::driver::DeleteQueue::default();
        loop {
            let table = self.catch_up().await?;
            if !self.known.lock().has(queue) {
                return Ok(());
            }
            if if_unused {
                let (members, _) = members::of(&self.line, queue).await?;
                if !members.consumers.is_empty() {
                    return Ok(());
                }
            }
            let changes = table.removal_of_queue(queue.name(), options);
            match self
                .apply(table.version(), &changes, Wanted::Nothing)
                .await?
            {
                Applied::Done { .. } => return Ok(()),
                Applied::Stale => {}
            }
        }
    }

    /// Ends the session: gives back what it holds and removes what is its own.
    pub(crate) async fn end(self: &Arc<Self>) -> Result<()> {
        // A lost one is left to the next.
        if self.line.is_over() || self.is_ending.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Those that left before take with them what is on its way to them, and nobody takes anything from here on.
        let _left = timeout(LEAVING, self.leaving.write()).await;
        let inlets: Vec<_> = self.inlets.lock().drain(..).collect();
        let inlets: Vec<_> = inlets.iter().filter_map(Weak::upgrade).collect();
        join_all(inlets.iter().map(|inlet| inlet.empty(self))).await;
        for hold in self.holds() {
            for held in hold.let_go_of_all() {
                self.give_back(&hold.queue, held, false, None);
            }
        }
        self.returns.all_idle(self).await;
        self.returns.leave_to_others(self);
        for hold in self.holds() {
            if limits::is_limited(hold.queue.declaration()) && self.known.lock().has(&hold.queue) {
                drop(limits::trim(self, &hold.queue).await);
            }
        }
        let ended = self.remove_session(self.line.session).await;
        // A last answer: what was told before it has been taken in by then.
        drop(known::revision(&self.line).await);
        if ended.is_ok() {
            self.has_ended.store(true, Ordering::Release);
        }
        ended
    }

    /// Removes what belongs to a session that is over: its consumers, for others wait for their turn, then its queues. One
    /// that can't be removed now keeps none of the others; then there is an error, and the session's key stays for whoever
    /// tries again.
    pub(crate) async fn remove_session(self: &Arc<Self>, session: u64) -> Result<()> {
        let table = self.catch_up().await?;
        let used = members::keys(&self.line, "u").await?;
        let queues: Vec<NatsQueue> = {
            let known = self.known.lock();
            let all = known.queues();
            all.filter(|queue| used.contains(&encoded(queue.name())))
                .cloned()
                .collect()
        };
        let mut all_removed = Ok(());
        for queue in queues {
            if let Err(error) = self.remove_consumers(&queue, session).await {
                tracing::debug!(%error, session, queue = %queue.name(), "consumers of a session stay");
                all_removed = Err(error);
            }
        }
        for name in table.owned_by(session) {
            let queue = self.known.lock().queue(&name);
            if let Some(queue) = queue
                && let Err(error) = self.delete(&queue, false).await
            {
                tracing::debug!(%error, session, queue = %name, "a queue of a session stays");
                all_removed = Err(error);
            }
        }
        all_removed?;
        members::die(&self.line, session).await
    }

    async fn remove_consumers(self: &Arc<Self>, queue: &NatsQueue, session: u64) -> Result<()> {
        let left = members::remove(&self.line, queue, |member| member.session == session);
        match left.await? {
            Some(left) => self.after_leaving(queue, left == 0).await,
            None => Ok(()),
        }
    }

    /// Ends the sessions of this program that were left here, and gives back what they held.
    pub(crate) async fn end_left(self: &Arc<Self>) -> Result<()> {
        let place = self.place.name();
        let ending = left::sessions(&place).into_iter();
        let ending = ending.map(async |(session, had_sign)| {
            // That of another account, or one that others have ended, has no sign; nor has one whose server had no room for it.
            if !had_sign || members::sign(&self.line, session).await?.is_some() {
                self.remove_session(session).await?;
                left::forget(&place, session);
            }
            Ok(())
        });
        join_all(ending).await.into_iter().collect::<Result<()>>()?;
        let held = {
            let known = self.known.lock();
            left::take_held(&place, |stream| known.queue_of(stream).is_some())
        };
        for (stream, held) in held {
            let queue = self.known.lock().queue_of(&stream);
            if let Some(queue) = queue {
                // It was handed out.
                self.give_back(&queue, held, true, None);
            }
        }
        Ok(())
    }

    /// Leaves what a lost session has to the next one.
    pub(crate) fn leave_to_next(&self, has_sign: bool) {
        let inlets = self.inlets();
        let mut waiting: Vec<Arc<str>> = self.pulling.lock().clone();
        waiting.extend(inlets.iter().filter_map(|inlet| inlet.waits_for()));
        waiting.sort();
        waiting.dedup();
        unreadable::take_note(&self.line, waiting.into_iter());
        let mut held = Vec::new();
        for hold in self.holds() {
            held.extend(
                hold.all()
                    .into_iter()
                    .map(|one| (hold.queue.stream().clone(), one)),
            );
        }
        left::leave(&self.place.name(), self.line.session, has_sign, held);
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_will_take_is_tried_less_and_less() {
        assert!(pause(1, true) <= Duration::from_secs(1));
        assert_eq!(pause(1, false), pause(1, true));
        assert_eq!(pause(1_000, true), LONGEST);
        assert_eq!(pause(1_000, false), LONGEST_REFUSED);
    }
}

//! Publishes that the broker has not answered, in the order in which they were made.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use crate::driver::{Confirm, Confirmation, Op, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;

/// Unconfirmed publishes of one producer after which further ones wait.
const MAX_COUNT: usize = 1024;
/// The same in bytes of their bodies.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A producer's way to the broker: the publisher of the present session, and what it hasn't answered.
pub(super) struct Outbox {
    /// Held for reading by whoever publishes and for writing when a session begins or the connection
    /// ends, so that every publish is either sent on a session or in the list when the next one begins.
    publisher: RwLock<Arc<dyn Publisher>>,
    entries: Mutex<VecDeque<Arc<Entry>>>,
    count: AtomicUsize,
    bytes: AtomicUsize,
    /// Publishes without room, in the order of the calls. Whoever hands one over holds the queue meanwhile; it is never
    /// locked by whoever holds `publisher`.
    queue: Mutex<VecDeque<Arc<Entry>>>,
    /// How many these are. Nobody overtakes them.
    queued: AtomicUsize,
    room: Arc<Notify>,
    /// Why there is no connection any more.
    ended: OnceLock<(ErrorKind, String)>,
}

/// One publish that wasn't answered at once.
pub(super) struct Entry {
    pub(super) envelope: Envelope,
    stage: Mutex<Stage>,
    /// Taken by a driver at least once, so the broker may have it.
    sent: AtomicBool,
    /// When it was handed to a driver first, if that one asks for it.
    since: OnceLock<Instant>,
    /// Handed to another driver after that.
    resent: AtomicBool,
    /// The driver has something to tell, or wasn't asked yet.
    has_news: AtomicBool,
    /// Whoever waits for the answer.
    task: AtomicWaker,
    room: Arc<Notify>,
}

enum Stage {
    /// For room in the outbox.
    Queued,
    /// For a session.
    Waiting,
    /// For room in the driver.
    Sending(Op<Result<Confirm>>),
    /// For the broker's answer.
    Confirming(Confirm),
    /// It is there; `None` after it was taken.
    Answered(Option<Result<Confirmation>>),
}

/// What became of a publish when it was handed over.
pub(super) enum Handed {
    Answered(Result<Confirmation>),
    Tracked(Arc<Entry>),
}

/// Whether an error means that the session is over, and says nothing about the message.
fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionLost)
}

/// The broker wouldn't know by now whether it has the message.
fn too_late_to_repeat() -> Error {
    Error::new(
        ErrorKind::ConnectionLost,
        "the connection was lost before the broker answered, and for so long that the message could be stored twice if it were \
         sent again",
    )
    .with_maybe_stored()
}

impl Outbox {
    pub(super) fn new(publisher: Arc<dyn Publisher>) -> Self {
        Outbox {
            publisher: RwLock::new(publisher),
            entries: Mutex::default(),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            queue: Mutex::default(),
            queued: AtomicUsize::new(0),
            room: Arc::default(),
            ended: OnceLock::new(),
        }
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.count.load(Ordering::Relaxed) < MAX_COUNT
            && self.bytes.load(Ordering::Relaxed) < MAX_BYTES
    }

    /// Publishes without an answer.
    pub(super) fn count(&self) -> usize {
        self.take_turns();
        self.count.load(Ordering::Relaxed) + self.queued.load(Ordering::Relaxed)
    }

    /// Resolves when every publish has been answered.
    pub(super) async fn empty(&self) {
        loop {
            let room = self.room.notified();
            if self.count() == 0 {
                return;
            }
            room.await;
        }
    }

    /// Resolves when there may be more room than when this was called.
    pub(super) fn more_room(&self) -> OwnedNotified {
        self.room.clone().notified_owned()
    }

    /// Publishes on the present session, or puts the message by for the next one, or for when there is room.
    #[inline]
    pub(super) fn hand_over(&self, envelope: &Envelope) -> Handed {
        if self.queued.load(Ordering::Relaxed) > 0 || !self.has_room() {
            return self.queue_up(envelope);
        }
        let publisher = self.publisher.read();
        match publisher.publish(envelope) {
            Op::Ready(Some(Ok(Op::Ready(Some(Ok(answer)))))) => Handed::Answered(Ok(answer)),
            Op::Ready(Some(Err(error))) if !is_lost(&error) => Handed::Answered(Err(error)),
            Op::Ready(Some(Ok(Op::Ready(Some(Err(error)))))) if !is_lost(&error) => {
                Handed::Answered(Err(error))
            }
            other => self.track(envelope, &**publisher, other),
        }
    }

    /// Runs `publish`, in which several messages are handed over: the driver may send them together.
    pub(super) fn together(&self, publish: &mut dyn FnMut()) {
        // Not locked meanwhile, for whoever hands over locks it.
        let publisher = self.publisher.read().clone();
        publisher.together(publish);
    }

    #[cold]
    fn track(
        &self,
        envelope: &Envelope,
        publisher: &dyn Publisher,
        op: Op<Result<Confirm>>,
    ) -> Handed {
        let entry = self.entry(envelope, Stage::Waiting);
        entry.took(publisher, op);
        self.follow(&entry);
        Handed::Tracked(entry)
    }

    #[cold]
    fn queue_up(&self, envelope: &Envelope) -> Handed {
        let entry = self.entry(envelope, Stage::Queued);
        {
            let mut queue = self.queue.lock();
            // The end of the connection finds what is in the queue.
            if let Some(error) = self.end_error() {
                return Handed::Answered(Err(error));
            }
            queue.push_back(entry.clone());
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        self.take_turns();
        Handed::Tracked(entry)
    }

    fn entry(&self, envelope: &Envelope, stage: Stage) -> Arc<Entry> {
        Arc::new(Entry {
            envelope: envelope.clone(),
            stage: Mutex::new(stage),
            sent: AtomicBool::new(false),
            since: OnceLock::new(),
            resent: AtomicBool::new(false),
            has_news: AtomicBool::new(true),
            task: AtomicWaker::new(),
            room: self.room.clone(),
        })
    }

    /// Takes in what was handed to the publisher, which the caller holds.
    fn follow(&self, entry: &Arc<Entry>) {
        self.answer_if_ended(entry);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.bytes
            .fetch_add(entry.envelope.body().len(), Ordering::Relaxed);
        self.entries.lock().push_back(entry.clone());
    }

    /// Hands over what is queued, as far as there is room. Whoever waits for room does it for those in front of it, too:
    /// they may not be polled.
    pub(super) fn take_turns(&self) {
        self.prune();
        if self.queued.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut queue = self.queue.lock();
        while self.has_room()
            && let Some(entry) = queue.pop_front()
        {
            {
                let publisher = self.publisher.read();
                entry.took(&**publisher, publisher.publish(&entry.envelope));
                self.follow(&entry);
            }
            self.queued.fetch_sub(1, Ordering::Relaxed);
            entry.task.wake();
            self.prune();
        }
    }

    /// Takes a publish out of the queue; false if it had its turn.
    pub(super) fn withdraw(&self, entry: &Arc<Entry>) -> bool {
        let mut queue = self.queue.lock();
        let Some(place) = queue.iter().position(|other| Arc::ptr_eq(other, entry)) else {
            return false;
        };
        queue.remove(place);
        self.queued.fetch_sub(1, Ordering::Relaxed);
        drop(queue);
        self.room.notify_waiters();
        true
    }

    fn end_error(&self) -> Option<Error> {
        let (kind, reason) = self.ended.get()?;
        Some(Error::new(*kind, reason.clone()))
    }

    /// Why a publish that waits for a session won't get one.
    pub(super) fn end_of(&self, entry: &Entry) -> Option<Error> {
        let error = self.end_error()?;
        entry.is_waiting().then_some(error)
    }

    fn answer_if_ended(&self, entry: &Entry) {
        if let Some(error) = self.end_of(entry) {
            entry.answer(Err(match entry.may_be_stored() {
                true => error.with_maybe_stored(),
                false => error,
            }));
        }
    }

    /// A new session: sends again what the last one left without an answer, in order, and takes it for
    /// everything that follows.
    pub(super) fn begin(&self, publisher: Arc<dyn Publisher>) {
        let mut current = self.publisher.write();
        let entries = self.entries.lock().clone();
        let limit = publisher.repeats_within();
        for entry in &entries {
            drop(entry.advanced());
            // Also what the old session's driver still sits on: nothing of it reaches the broker any more.
            if entry.is_answered() {
                continue;
            }
            if entry.may_be_stored() && limit.is_some_and(|limit| entry.age() > limit) {
                entry.answer(Err(too_late_to_repeat()));
                continue;
            }
            entry.send_again(&*publisher);
        }
        *current = publisher;
        drop(current);
        self.prune();
    }

    /// The connection has ended: nothing that waits for a session, or for room, will get one.
    pub(super) fn end(&self, error: &Error) {
        {
            let _held = self.publisher.write();
            // It ends once.
            drop(self.ended.set((error.kind(), error.message().to_owned())));
            let entries = self.entries.lock().clone();
            for entry in &entries {
                drop(entry.advanced());
                self.answer_if_ended(entry);
            }
        }
        let queue = std::mem::take(&mut *self.queue.lock());
        self.queued.fetch_sub(queue.len(), Ordering::Relaxed);
        for entry in queue {
            entry.answer(Err(Error::new(error.kind(), error.message())));
        }
        self.room.notify_waiters();
    }

    /// Forgets a publish that nobody waits for any more.
    pub(super) fn forget(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries.lock();
        let before = entries.len();
        entries.retain(|other| !Arc::ptr_eq(other, entry));
        let gone = entries.len() < before;
        drop(entries);
        // What the driver is still busy with refers to the entry as the one to wake.
        *entry.stage.lock() = Stage::Answered(None);
        if gone {
            self.count_out(1, entry.envelope.body().len());
        }
    }

    /// Takes what has been answered off the front. What is at the front then wakes whoever waits for room.
    pub(super) fn prune(&self) {
        let (mut count, mut bytes) = (0, 0);
        while let Some(entry) = self.pop_answered() {
            count += 1;
            bytes += entry.envelope.body().len();
        }
        if count > 0 {
            self.count_out(count, bytes);
        }
    }

    fn pop_answered(&self) -> Option<Arc<Entry>> {
        let mut entries = self.entries.lock();
        let front = entries.front()?;
        if !matches!(*front.advanced(), Stage::Answered(_)) {
            self.answer_if_ended(front);
            if !front.is_answered() {
                return None;
            }
        }
        entries.pop_front()
    }

    fn count_out(&self, count: usize, bytes: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.room.notify_waiters();
    }
}

impl Entry {
    pub(super) fn was_resent(&self) -> bool {
        self.resent.load(Ordering::Relaxed)
    }

    /// What the publish is waiting for.
    pub(super) fn phase(&self) -> &'static str {
        match &*self.stage.lock() {
            Stage::Queued => "waiting for room",
            Stage::Waiting => "waiting for a connection",
            Stage::Sending(_) => "waiting for room in the connection",
            Stage::Confirming(_) | Stage::Answered(_) => "waiting for the broker's confirm",
        }
    }

    /// How long ago it was handed to a driver first.
    fn age(&self) -> Duration {
        self.since.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Whether a driver took it, or is about to.
    pub(super) fn may_be_stored(&self) -> bool {
        self.sent.load(Ordering::Relaxed) || matches!(&*self.stage.lock(), Stage::Sending(_))
    }

    /// Whether the driver has the message.
    pub(super) fn poll_sent(self: &Arc<Self>, context: &Context<'_>) -> Poll<()> {
        let is_sent = |stage: &Stage| matches!(stage, Stage::Confirming(_) | Stage::Answered(_));
        if is_sent(&self.stage.lock()) {
            return Poll::Ready(());
        }
        self.task.register(context.waker());
        match is_sent(&self.advanced()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    pub(super) fn poll_answer(
        self: &Arc<Self>,
        context: &Context<'_>,
    ) -> Poll<Result<Confirmation>> {
        let mut answer = self.take_answer();
        if answer.is_none() {
            self.task.register(context.waker());
            answer = self.take_answer();
        }
        answer.map_or(Poll::Pending, Poll::Ready)
    }

    fn take_answer(self: &Arc<Self>) -> Option<Result<Confirmation>> {
        match &mut *self.advanced() {
            Stage::Answered(answer) => answer.take(),
            _ => None,
        }
    }

    /// Takes note of what the driver made of the message. If the broker's answer has to be waited for, the driver isn't
    /// asked for it yet: it has nobody to wake until somebody waits.
    fn took(self: &Arc<Self>, publisher: &dyn Publisher, op: Op<Result<Confirm>>) {
        if publisher.repeats_within().is_some() {
            self.since.get_or_init(Instant::now);
        }
        let mut stage = self.stage.lock();
        self.has_news.store(true, Ordering::Release);
        match op {
            Op::Ready(Some(Ok(confirm @ Op::Pending(_)))) => {
                self.sent.store(true, Ordering::Relaxed);
                *stage = Stage::Confirming(confirm);
            }
            op => {
                *stage = Stage::Sending(op);
                drop(stage);
                drop(self.advanced());
            }
        }
    }

    /// Gets on as far as the driver lets it. The driver wakes the entry, which wakes whoever waits: so the
    /// answer isn't lost when another task asked last.
    fn advanced(self: &Arc<Self>) -> MutexGuard<'_, Stage> {
        let mut stage = self.stage.lock();
        let is_with_driver = matches!(*stage, Stage::Sending(_) | Stage::Confirming(_));
        if !is_with_driver || !self.has_news.swap(false, Ordering::AcqRel) {
            return stage;
        }
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            let next = match &mut *stage {
                Stage::Queued | Stage::Waiting | Stage::Answered(_) => return stage,
                Stage::Sending(op) => match Pin::new(op).poll(&mut context) {
                    Poll::Pending => return stage,
                    Poll::Ready(Ok(confirm)) => {
                        self.sent.store(true, Ordering::Relaxed);
                        Stage::Confirming(confirm)
                    }
                    Poll::Ready(Err(error)) if is_lost(&error) => Stage::Waiting,
                    Poll::Ready(Err(error)) => Stage::Answered(Some(Err(error))),
                },
                Stage::Confirming(confirm) => match Pin::new(confirm).poll(&mut context) {
                    Poll::Pending => return stage,
                    Poll::Ready(Err(error)) if is_lost(&error) => Stage::Waiting,
                    Poll::Ready(answer) => Stage::Answered(Some(answer)),
                },
            };
            *stage = next;
        }
    }

    /// Whether there was no room yet.
    pub(super) fn is_queued(&self) -> bool {
        matches!(&*self.stage.lock(), Stage::Queued)
    }

    /// Whether it is for the next session to send this.
    fn is_waiting(&self) -> bool {
        matches!(&*self.stage.lock(), Stage::Waiting)
    }

    fn is_answered(&self) -> bool {
        matches!(&*self.stage.lock(), Stage::Answered(_))
    }

    fn send_again(self: &Arc<Self>, publisher: &dyn Publisher) {
        if self.may_be_stored() {
            self.sent.store(true, Ordering::Relaxed);
            self.resent.store(true, Ordering::Relaxed);
        }
        self.took(publisher, publisher.publish(&self.envelope));
        self.task.wake();
    }

    fn answer(&self, answer: Result<Confirmation>) {
        *self.stage.lock() = Stage::Answered(Some(answer));
        self.task.wake();
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_news.store(true, Ordering::Release);
        self.task.wake();
        self.room.notify_waiters();
    }
}

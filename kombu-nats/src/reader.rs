//! Takes messages from a queue for a consumer.
//!
//! A pull takes what is there and is over at once, or, while messages come one by one, a moment later. Where nothing is there,
//! the reader listens at the subjects of the queue for the next message, which it doesn't take from there: so nothing is ever
//! on its way to somebody who has left.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::{Message, Subject, Subscriber};
use futures_util::{Stream, StreamExt};
use kombu_core::Result;
use kombu_core::driver::Op;
use kombu_core::virt::{Batch, Reader, Room};
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::time::{Instant, Sleep};

use crate::api;
use crate::bell::Bell;
use crate::error;
use crate::hold::{Fetched, Holder, PROGRESS};
use crate::known::NatsQueue;
use crate::members;
use crate::message;
use crate::session::{Job, PAUSE, SILENCE, Shared};

/// The most messages that are taken at once.
const MAX_BATCH: usize = 256;
/// Where so many are wanted, half of them are, and the other half while those are handed out.
const HALF: usize = MAX_BATCH / 2;
/// How long a pull waits for more while messages come one by one.
const LINGER: Duration = Duration::from_millis(20);
/// How often an idle queue is looked at without a bell: what comes back by itself rings none.
const IDLE: Duration = Duration::from_secs(1);
/// How soon it is looked at again when the bell rang and nothing was there yet.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Where pulls of a reader bring their messages. The session has it too, so that what comes when it ends goes back.
#[derive(Debug)]
pub(crate) struct Inlet {
    queue: NatsQueue,
    bell: Arc<Bell>,
    state: Mutex<InletState>,
}

#[derive(Debug)]
struct InletState {
    arrivals: Option<Subscriber>,
    /// What came while the reader wasn't asked.
    came: VecDeque<Message>,
    /// How many messages may come.
    left: usize,
}

impl InletState {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        if let Some(message) = self.came.pop_front() {
            return Poll::Ready(Some(message));
        }
        match &mut self.arrivals {
            Some(arrivals) => Pin::new(arrivals).poll_next(context),
            None => Poll::Pending,
        }
    }
}

impl Inlet {
    fn open(
        shared: &Shared,
        queue: &NatsQueue,
        bell: &Arc<Bell>,
        inbox: &Subject,
    ) -> Result<Arc<Self>> {
        let inlet = Arc::new(Inlet {
            queue: queue.clone(),
            bell: bell.clone(),
            state: Mutex::new(InletState {
                arrivals: Some(shared.line.listen(inbox.clone())?),
                came: VecDeque::new(),
                left: 0,
            }),
        });
        shared.add_inlet(&inlet);
        Ok(inlet)
    }

    /// Tells the server that what has come, and hasn't been looked at yet, is held all the same.
    pub(crate) fn progress(&self, shared: &Shared) {
        let mut state = self.state.lock();
        let mut context = Context::from_waker(Waker::noop());
        while let Some(arrivals) = &mut state.arrivals
            && let Poll::Ready(Some(message)) = Pin::new(arrivals).poll_next(&mut context)
        {
            state.came.push_back(message);
        }
        for message in state.came.iter().filter(|message| message.status.is_none()) {
            if let Some(ack) = &message.reply {
                shared.line.tell(ack.clone(), PROGRESS);
            }
        }
        drop(state);
        // It isn't woken by arrivals any more.
        self.bell.task.wake();
    }

    /// Takes what is still on its way, and gives it back. Nothing comes here afterwards.
    pub(crate) async fn empty(&self, shared: &Shared) {
        let (arrivals, came, mut left) = {
            let mut state = self.state.lock();
            let came = std::mem::take(&mut state.came);
            (state.arrivals.take(), came, state.left)
        };
        let Some(arrivals) = arrivals else {
            return;
        };
        let mut arrivals = futures_util::stream::iter(came).chain(arrivals);
        let rest = async {
            while left > 0
                && let Some(message) = arrivals.next().await
                && message.status.is_none()
            {
                left -= 1;
                if let Some(fetched) = Fetched::of(message) {
                    shared.give_back_fetched(&self.queue, &fetched);
                }
            }
        };
        drop(tokio::time::timeout(SILENCE, rest).await);
    }
}

/// A pull that is under way.
struct Pull {
    count: usize,
    came: usize,
    /// When it was asked for, by the server's clock.
    at: u64,
}

pub(crate) struct NatsReader {
    shared: Arc<Shared>,
    queue: NatsQueue,
    holder: Holder,
    number: u64,

    inbox: Subject,
    inlet: Arc<Inlet>,
    has_left: bool,
    bell: Arc<Bell>,
    doorbell: Option<Subscriber>,
    asked: Option<Pull>,
    here: VecDeque<Fetched>,
    /// Something came just now, and more may follow.
    is_hot: bool,
    /// The level that is pulled from next.
    level: u8,
    sweep: Sweep,
    /// How long to wait without a bell.
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    checking: Option<crate::line::Answer<Check>>,
    /// Whether it is this consumer's turn, where only one is served.
    is_active: bool,
}

/// How far a look at all levels is.
#[derive(Clone, Copy, PartialEq)]
enum Sweep {
    /// There may be messages.
    Due,
    /// Some levels had none.
    Begun,
    /// There were none, and the bell will ring for the next one.
    Nothing,
}

/// What a look at the declarations says.
struct Check {
    is_there: bool,
    is_active: bool,
}

/// What is left when a reader is gone.
pub(crate) struct Leaving {
    queue: NatsQueue,
    number: u64,
    inlet: Arc<Inlet>,
    here: VecDeque<Fetched>,
    _on_its_way: Option<OwnedRwLockReadGuard<()>>,
}

impl NatsReader {
    pub(crate) fn new(
        shared: Arc<Shared>,
        queue: NatsQueue,
        number: u64,
        is_active: bool,
        room: Room,
    ) -> Result<Self> {
        let inbox = shared.line.inbox();
        let bell: Arc<Bell> = Arc::default();
        let inlet = Inlet::open(&shared, &queue, &bell, &inbox)?;
        shared.bells.add(queue.name(), &bell);
        shared.add_room(&queue, number, room.clone());
        Ok(NatsReader {
            holder: shared.holder(&queue, Some(room)),
            level: queue.levels() - 1,
            shared,
            queue,
            number,

            inbox,
            inlet,
            has_left: false,
            bell,
            doorbell: None,
            asked: None,
            here: VecDeque::new(),
            is_hot: false,
            sweep: Sweep::Due,
            patience: IDLE,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            checking: None,
            is_active,
        })
    }

    /// It is this consumer's turn.
    pub(crate) fn activate(&mut self) {
        self.is_active = true;
    }

    fn ask(&mut self, max: usize) {
        // What it keeps for itself is missing elsewhere meanwhile.
        let lingers = self.is_hot && max >= 4 && self.queue.levels() == 1;
        let count = match max {
            _ if lingers => (max / 4).min(HALF),
            MAX_BATCH.. => HALF,
            _ => max,
        };
        let consumer = api::consumer(self.level);
        let line = &self.shared.line;
        let subject = line.pull_subject(self.queue.stream(), &consumer);
        self.inlet.state.lock().left = count;
        let pull = match lingers {
            true => api::lingering_pull(count, LINGER),
            false => api::pull(count),
        };
        line.tell_with_reply(subject, self.inbox.clone(), pull);
        self.asked = Some(Pull {
            count,
            came: 0,
            at: self.shared.clock.now(),
        });
        self.timer.as_mut().reset(Instant::now() + SILENCE);
    }

    /// Looks whether the queue is still there, and whose turn it is.
    fn check(&mut self, repairs: bool) {
        let (shared, queue, number) = (self.shared.clone(), self.queue.clone(), self.number);
        self.checking = Some(Box::pin(async move {
            loop {
                match look(&shared, &queue, number, repairs).await {
                    // There is no leader, for one.
                    Err(error) if error.is_transient() && !shared.line.is_over() => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    looked => return looked,
                }
            }
        }));
    }

    /// Takes what the pull brings; false if there is nothing more now.
    fn poll_arrivals(&mut self, context: &mut Context<'_>) -> Result<bool> {
        let message = {
            let mut state = self.inlet.state.lock();
            match state.poll_next(context) {
                Poll::Ready(Some(message)) => {
                    state.left = match message.status {
                        None => state.left.saturating_sub(1),
                        Some(_) => 0,
                    };
                    message
                }
                Poll::Ready(None) => return Err(self.shared.line.loss()),
                Poll::Pending => return Ok(false),
            }
        };
        let Some(pull) = &mut self.asked else {
            return Ok(true);
        };
        if let Some(status) = message.status {
            let is_over = matches!(status.as_u16(), 404 | 408);
            let found_some = pull.came > 0;
            self.asked = None;
            match is_over {
                true if found_some && self.queue.levels() == 1 => {
                    self.is_hot = true;
                    self.sweep = Sweep::Due;
                }
                true => self.go_down(),
                // The consumer is gone, or the server can't now.
                false => self.check(true),
            }
            return Ok(true);
        }
        pull.came += 1;
        let at = pull.at;
        if pull.came == pull.count {
            // There is as much as we can take.
            self.is_hot = false;
            self.asked = None;
            self.sweep = Sweep::Due;
        }
        self.take(message, at);
        Ok(true)
    }

    fn take(&mut self, message: Message, pulled: u64) {
        let Some(fetched) = Fetched::of(message) else {
            return;
        };
        self.shared.see(&self.queue, &fetched);
        // Beyond its time only if nobody had room for it when it came.
        let since = self.holder.room_since();
        let pulled = match since < fetched.delivered.stored {
            true => since,
            false => pulled,
        };
        if let Some(fetched) = self.shared.bury_if_expired(&self.queue, fetched, pulled) {
            self.patience = AT_ONCE;
            self.here.push_back(fetched);
        }
    }

    /// A level had no more.
    fn go_down(&mut self) {
        self.is_hot = false;
        if self.level > 0 {
            self.level -= 1;
            self.sweep = Sweep::Begun;
            return;
        }
        self.level = self.queue.levels() - 1;
        self.sweep = match self.doorbell {
            Some(_) => Sweep::Nothing,
            // It could have come in between.
            None => Sweep::Due,
        };
        if self.sweep == Sweep::Nothing {
            self.timer.as_mut().reset(Instant::now() + self.patience);
            self.patience = (self.patience * 2).min(IDLE);
        } else {
            let subject = self.shared.line.layout.subject(self.queue.name(), "*");
            self.doorbell = self.shared.line.listen_once(subject.into()).ok();
        }
    }

    /// Whether a message came by; one may be there now.
    fn poll_doorbell(&mut self, context: &mut Context<'_>) -> bool {
        let mut has_rung = self.bell.take();
        if let Some(doorbell) = &mut self.doorbell
            && Pin::new(doorbell).poll_next(context).is_ready()
        {
            self.doorbell = None;
            has_rung = true;
        }
        if has_rung {
            // It is stored a moment after the bell rings.
            self.patience = AT_ONCE;
            self.is_hot = true;
        }
        has_rung
    }

    fn hand_over(&mut self, max: usize, batch: &mut Batch<'_>) {
        while self.here.len() > max
            && let Some(fetched) = self.here.pop_back()
        {
            self.shared.give_back_fetched(&self.queue, &fetched);
        }
        batch.count(self.here.len());
        for fetched in self.here.drain(..) {
            let id = self.shared.next();
            self.holder.hold(id, &fetched, None);
            let count = fetched.delivered.count;
            let failures = self.shared.returns.failures(self.queue.stream(), &fetched);
            let body = fetched.body;
            let envelope = message::read(fetched.headers.as_ref(), body, self.queue.name());
            batch.push(envelope, id, failures, count > 1);
        }
        if self.level < self.queue.levels() - 1 {
            // Something of a higher priority may have come.
            self.level = self.queue.levels() - 1;
            self.sweep = Sweep::Due;
        }
    }

    /// There is no room for what a pull brings, and nobody may ask again: it goes back.
    fn turn_away(&mut self) -> Result<()> {
        self.inbox = self.shared.line.inbox();
        let next = Inlet::open(&self.shared, &self.queue, &self.bell, &self.inbox)?;
        let job = Job::Empty {
            inlet: std::mem::replace(&mut self.inlet, next),
            _on_its_way: self.shared.leaving.clone().try_read_owned().ok(),
        };
        // Without its task, the session is over.
        drop(self.shared.jobs.send(job));
        self.asked = None;
        self.is_hot = false;
        self.sweep = Sweep::Due;
        Ok(())
    }

    fn leaving(&mut self) -> Box<Leaving> {
        self.shared.remove_room(self.number);
        self.has_left = true;
        Box::new(Leaving {
            queue: self.queue.clone(),
            number: self.number,
            inlet: self.inlet.clone(),
            here: std::mem::take(&mut self.here),
            _on_its_way: self.shared.leaving.clone().try_read_owned().ok(),
        })
    }
}

impl Reader for NatsReader {
    type Holder = Holder;

    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>> {
        self.bell.task.register(context.waker());
        let has_room = max > 0 && self.is_active;
        self.holder.look_at_room(has_room, self.shared.clock.now());
        loop {
            if let Some(checking) = &mut self.checking {
                match checking.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(checked) => {
                        self.checking = None;
                        let checked = checked?;
                        if !checked.is_there {
                            return Poll::Ready(Err(error::deleted(self.queue.name())));
                        }
                        self.is_active = checked.is_active;
                        self.sweep = Sweep::Due;
                    }
                }
            }
            if self.bell.take_changed() {
                self.check(false);
                continue;
            }
            while self.poll_arrivals(context)? {}
            if self.checking.is_some() {
                continue;
            }
            if !self.here.is_empty() && (self.asked.is_none() || max < self.here.len() || max > 0) {
                let handed = self.here.len().min(max);
                self.hand_over(max, batch);
                let is_next_due = self.asked.is_none() && self.sweep == Sweep::Due && !self.is_hot;
                if handed == HALF
                    && max > HALF
                    && is_next_due
                    && self.is_active
                    && !self.shared.returns.is_busy(&self.queue)
                {
                    // On its way while these are looked at.
                    self.ask(max - handed);
                }
                if max > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            if self.asked.is_some() && max == 0 {
                self.turn_away()?;
            }
            if self.asked.is_some() {
                if self.timer.as_mut().poll(context).is_ready() {
                    self.asked = None;
                    self.check(true);
                    continue;
                }
                return Poll::Pending;
            }
            if max == 0 || !self.is_active {
                return Poll::Pending;
            }
            if self.sweep == Sweep::Nothing {
                if self.poll_doorbell(context) {
                    self.sweep = Sweep::Due;
                    continue;
                }
                // Begun when the last look found nothing.
                match self.timer.as_mut().poll(context) {
                    Poll::Ready(()) => self.sweep = Sweep::Due,
                    Poll::Pending => return Poll::Pending,
                }
            }
            // What goes back may be what is asked for; the bell rings when it is there.
            self.shared.flush_returns();
            if self.shared.returns.is_busy(&self.queue) {
                return Poll::Pending;
            }
            self.ask(max);
        }
    }

    fn asked_for(&self) -> usize {
        self.asked.as_ref().map_or(0, |pull| pull.count - pull.came)
    }

    fn close(mut self) -> Op<Result<()>> {
        let (reply, answer) = oneshot::channel();
        let leaving = self.leaving();
        let shared = self.shared.clone();
        drop(shared.jobs.send(Job::Leave {
            leaving,
            reply: Some(reply),
        }));
        Op::pending(async move {
            match answer.await {
                Ok(left) => left,
                Err(_) => Err(shared.line.loss()),
            }
        })
    }

    fn holder(&self) -> Holder {
        self.holder.clone()
    }
}

impl Drop for NatsReader {
    fn drop(&mut self) {
        if !self.has_left {
            let leaving = self.leaving();
            // Without its task, the session is over.
            drop(self.shared.jobs.send(Job::Leave {
                leaving,
                reply: None,
            }));
        }
    }
}

async fn look(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    number: u64,
    repairs: bool,
) -> Result<Check> {
    let is_there = match repairs {
        true => shared.repair(queue).await?,
        false => {
            shared.catch_up().await?;
            shared.known.lock().has(queue)
        }
    };
    let mut is_active = true;
    if is_there && queue.declaration().is_single_active_consumer() {
        let (members, _) = members::of(&shared.line, queue).await?;
        is_active = members.is_first(shared.line.session, number);
    }
    Ok(Check {
        is_there,
        is_active,
    })
}

/// Ends a consumer whose reader is gone.
pub(crate) async fn leave(shared: &Arc<Shared>, leaving: Leaving) -> Result<()> {
    for fetched in &leaving.here {
        shared.give_back_fetched(&leaving.queue, fetched);
    }
    leaving.inlet.empty(shared).await;
    shared.flush_returns();
    shared.leave(&leaving.queue, leaving.number).await
}

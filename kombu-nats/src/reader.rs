//! Takes messages from a queue for a consumer.
//!
//! A pull takes what is there and is over at once. Servers of before April 2024 lose a message that comes again while all pulls that
//! wait have run out (nats-server's pull request 5338): it lies until they take it for abandoned. Where nothing is there, the
//! reader listens for news of the queue and pulls again: so nothing is ever on its way to somebody who has left.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, Subject, Subscriber};
use futures_util::{FutureExt, Stream, StreamExt};
use kombu_core::Result;
use kombu_core::driver::Op;
use kombu_core::virt::{Batch, Reader, Room};
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::time::Sleep;

use crate::api::{self, ACK_WAIT};
use crate::bell::Bell;
use crate::error;
use crate::hold::{Fetched, Holder, PROGRESS, is_ours};
use crate::known::NatsQueue;
use crate::members;
use crate::message;
use crate::session::{CHANGED_LEADER, Job, Looked, PAUSE, SILENCE, Shared};

/// The most messages that are taken at once.
pub(crate) const MAX_BATCH: usize = 512;
/// Where so many are wanted, half of them are, and the other half while those are handed out.
const HALF: usize = MAX_BATCH / 2;
/// How often an idle queue is looked at without a bell: what comes back by itself rings none.
const IDLE: Duration = Duration::from_secs(1);
/// After so many rings it listens anew: what rings while nobody looks is kept until somebody does.
const RINGS: u64 = 64;
/// How soon it is looked at again when the bell rang and nothing was there yet, after the first few times, which are at once.
const AT_ONCE: Duration = Duration::from_millis(1);
const FEW: u8 = 2;

/// How many bytes are asked for at once, as far as can be told from those that came before: what a pull brings stands in
/// front of every other answer.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// How many messages the first pull of a reader asks for, which knows nothing of their size.
pub(crate) const FIRST: usize = 8;

/// Where pulls of a reader bring their messages. The session has it too, so that what comes when it ends goes back.
#[derive(Debug)]
pub(crate) struct Inlet {
    queue: NatsQueue,
    bell: Arc<Bell>,
    /// Pulls are answered at subjects below it.
    inbox: Subject,
    state: Mutex<InletState>,
}

#[derive(Debug)]
struct InletState {
    arrivals: Option<Subscriber>,
    /// What came while the reader wasn't asked, and when the server last heard of it.
    came: VecDeque<(Message, Instant)>,
    /// What was asked for, the newest last, and hasn't come.
    pulls: VecDeque<Asked>,
    /// When it was asked the last time.
    asked: Instant,
}

/// A pull whose answers may come.
#[derive(Debug)]
struct Asked {
    number: u64,
    left: usize,
    at: Instant,
}

impl InletState {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Message, Instant)>> {
        if let Some(came) = self.came.pop_front() {
            return Poll::Ready(Some(came));
        }
        let Some(arrivals) = &mut self.arrivals else {
            return Poll::Pending;
        };
        let message = std::task::ready!(Pin::new(arrivals).poll_next(context));
        Poll::Ready(message.map(|message| {
            let since = self.take_note(&message);
            (message, since)
        }))
    }

    /// Something came: that much less is to come. Answers when the server can have sent it at the earliest.
    fn take_note(&mut self, message: &Message) -> Instant {
        if message.status.is_some() {
            let number = number_of(message);
            self.pulls.retain(|pull| Some(pull.number) != number);
            return self.asked;
        }
        // A message doesn't say which pull it answers. Those that got no answer for long may never get one.
        let since = self.pulls.front().map_or(self.asked, |oldest| oldest.at);
        let Some(newest) = self.pulls.back_mut() else {
            return since;
        };
        newest.left -= 1;
        if newest.left == 0 {
            self.pulls.pop_back();
        }
        since
    }

    /// The server has answered what was asked for after these pulls: no more of them comes.
    fn forget_until(&mut self, number: u64) {
        self.pulls.retain(|pull| pull.number > number);
    }

    /// How much of a pull hasn't come.
    fn left_of(&self, number: u64) -> usize {
        let mut all = self.pulls.iter();
        all.find(|pull| pull.number == number)
            .map_or(0, |pull| pull.left)
    }
}

/// The number of the pull that a status is about.
fn number_of(status: &Message) -> Option<u64> {
    status.subject.rsplit('.').next()?.parse().ok()
}

impl Inlet {
    fn open(shared: &Shared, queue: &NatsQueue, bell: &Arc<Bell>) -> Result<Arc<Self>> {
        let inbox = shared.line.inbox();
        let arrivals = shared.line.listen(format!("{inbox}.*").into())?;
        let inlet = Arc::new(Inlet {
            queue: queue.clone(),
            bell: bell.clone(),
            inbox,
            state: Mutex::new(InletState {
                arrivals: Some(arrivals),
                came: VecDeque::new(),
                pulls: VecDeque::new(),
                asked: Instant::now(),
            }),
        });
        shared.add_inlet(&inlet);
        Ok(inlet)
    }

    /// The stream that it waits for messages of, if it does.
    pub(crate) fn waits_for(&self) -> Option<Arc<str>> {
        let is_waiting = !self.state.lock().pulls.is_empty();
        is_waiting.then(|| self.queue.stream().clone())
    }

    /// Takes note of a pull, and answers where its messages are to go.
    fn expect(&self, number: u64, count: usize) -> Subject {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.asked = now;
        state.pulls.retain(|pull| pull.at + ACK_WAIT > now);
        state.pulls.push_back(Asked {
            number,
            left: count,
            at: now,
        });
        format!("{}.{number}", self.inbox).into()
    }

    /// Tells the server that what has come, and hasn't been looked at yet, is held all the same.
    pub(crate) fn progress(&self, shared: &Shared) {
        let mut state = self.state.lock();
        let mut context = Context::from_waker(Waker::noop());
        while let Some(arrivals) = &mut state.arrivals
            && let Poll::Ready(Some(message)) = Pin::new(arrivals).poll_next(&mut context)
        {
            let since = state.take_note(&message);
            state.came.push_back((message, since));
        }
        for (message, since) in &mut state.came {
            if message.status.is_none()
                && let Some(ack) = &message.reply
                && is_ours(*since)
            {
                *since = Instant::now();
                shared.line.tell(ack.clone(), PROGRESS);
            }
        }
        drop(state);
        // It isn't woken by arrivals any more.
        self.bell.task.wake();
    }

    /// Takes what is still on its way, and gives it back. Nothing comes here afterwards.
    pub(crate) async fn empty(&self, shared: &Shared) {
        let (arrivals, came) = {
            let mut state = self.state.lock();
            (state.arrivals.take(), std::mem::take(&mut state.came))
        };
        let Some(mut arrivals) = arrivals else {
            return;
        };
        let give_back = |message, since| {
            if let Some(fetched) = Fetched::sent(message, since) {
                shared.give_back_fetched(&self.queue, &fetched);
            }
        };
        for (message, since) in came {
            give_back(message, since);
        }
        loop {
            let is_expected = !self.state.lock().pulls.is_empty();
            let next = match is_expected {
                true => tokio::time::timeout(SILENCE, arrivals.next()).await.ok(),
                false => arrivals.next().now_or_never(),
            };
            let Some(Some(message)) = next else {
                return;
            };
            let since = self.state.lock().take_note(&message);
            give_back(message, since);
        }
    }
}

/// Takes messages for the session itself.
pub(crate) struct Pulls {
    shared: Arc<Shared>,
    subject: Subject,
    inlet: Arc<Inlet>,
    number: u64,
    is_answered: bool,
}

impl Pulls {
    pub(crate) fn open(shared: &Arc<Shared>, queue: &NatsQueue, level: u8) -> Result<Self> {
        let consumer = api::consumer(level);
        Ok(Pulls {
            shared: shared.clone(),
            subject: shared.line.pull_subject(queue.stream(), &consumer),
            inlet: Inlet::open(shared, queue, &Arc::default())?,
            number: 0,
            is_answered: true,
        })
    }

    /// Takes up to so many that are there.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<Fetched>> {
        self.number += 1;
        self.is_answered = true;
        let inbox = self.inlet.expect(self.number, count);
        let line = &self.shared.line;
        line.tell_with_reply(self.subject.clone(), inbox, api::pull(count));
        let mut taken = Vec::with_capacity(count);
        while self.inlet.state.lock().left_of(self.number) > 0 {
            let next = poll_fn(|context| self.inlet.state.lock().poll_next(context));
            match tokio::time::timeout(SILENCE, next).await {
                Ok(Some((message, since))) => match message.status {
                    None => taken.extend(Fetched::sent(message, since)),
                    Some(status) => self.is_answered = matches!(status.as_u16(), 404 | 408),
                },
                Ok(None) => return Err(line.lose_connection()),
                // What comes later is taken next, or goes back.
                Err(_) => {
                    self.is_answered = false;
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// Whether all that was asked for has come, or the server has said that there is no more.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// The server has answered what was asked for later: there is nothing that it still has to say.
    pub(crate) fn forget_silent(&self) {
        self.inlet.state.lock().forget_until(self.number);
    }
}

impl Drop for Pulls {
    fn drop(&mut self) {
        // Without its task, the session is over.
        drop(self.shared.jobs.send(Job::Empty {
            inlet: self.inlet.clone(),
            _on_its_way: None,
        }));
    }
}

/// A pull that is under way.
struct Pull {
    number: u64,
    /// How many it asked for.
    count: usize,
    /// When it was asked for, by the server's clock.
    at: u64,
}

pub(crate) struct NatsReader {
    shared: Arc<Shared>,
    queue: NatsQueue,
    holder: Holder,
    number: u64,

    inlet: Arc<Inlet>,
    has_left: bool,
    bell: Arc<Bell>,
    doorbell: Option<Subscriber>,
    asked: Option<Pull>,
    /// The number of the last pull.
    pulls: u64,
    /// When the last answer to a pull came.
    heard: Instant,
    /// How many messages a pull asks for at most, and how large they were of late.
    most: usize,
    size: usize,
    here: VecDeque<Fetched>,
    /// The level that is pulled from next.
    level: u8,
    sweep: Sweep,
    /// How long to wait without a bell, after so many looks at once.
    patience: Duration,
    at_once: u8,
    timer: Pin<Box<Sleep>>,
    checking: Option<crate::line::Answer<Check>>,
    silence: Option<Silence>,
    /// Whether it is this consumer's turn, where only one is served.
    is_active: bool,
}

/// A queue that doesn't answer.
struct Silence {
    since: Instant,
    /// Whether a look at it found nothing to be put right.
    is_whole: bool,
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
    /// Whether nothing had to be put right.
    was_whole: bool,
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
        let bell: Arc<Bell> = Arc::default();
        let inlet = Inlet::open(&shared, &queue, &bell)?;
        shared.bells.add(queue.name(), &bell);
        shared.add_room(&queue, number, room.clone());
        Ok(NatsReader {
            holder: shared.holder(&queue, Some(room)),
            level: queue.levels() - 1,
            shared,
            queue,
            number,

            inlet,
            has_left: false,
            bell,
            doorbell: None,
            asked: None,
            pulls: 0,
            heard: Instant::now(),
            most: FIRST,
            size: 0,
            here: VecDeque::new(),
            sweep: Sweep::Due,
            patience: IDLE,
            at_once: 0,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            checking: None,
            silence: None,
            is_active,
        })
    }

    /// It is this consumer's turn.
    pub(crate) fn activate(&mut self) {
        self.is_active = true;
    }

    fn ask(&mut self, max: usize) {
        let count = match max {
            MAX_BATCH.. => HALF,
            _ => max,
        };
        let count = count.min(self.most).min(MAX_BYTES / self.size.max(1));
        let count = count.max(1);
        let consumer = api::consumer(self.level);
        let line = &self.shared.line;
        let subject = line.pull_subject(self.queue.stream(), &consumer);
        self.pulls += 1;
        let inbox = self.inlet.expect(self.pulls, count);
        line.tell_with_reply(subject, inbox, api::pull(count));
        self.asked = Some(Pull {
            number: self.pulls,
            count,
            at: self.shared.clock.now(),
        });
        self.heard = Instant::now();
        self.timer.as_mut().reset((self.heard + SILENCE).into());
    }

    /// Looks whether the queue is still there, and whose turn it is.
    fn check(&mut self, repairs: bool) {
        let (shared, queue, number) = (self.shared.clone(), self.queue.clone(), self.number);
        let is_silent = self.silence.is_some();
        self.checking = Some(Box::pin(async move {
            if is_silent {
                // There may be a leader in a moment.
                tokio::time::sleep(PAUSE).await;
            }
            loop {
                match look(&shared, &queue, number, repairs).await {
                    // There is no leader, for one.
                    Err(error) if error::is_passing(&error) && !shared.line.is_over() => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    // There is no room for what has to be made again, for one.
                    Err(error) if error.is_transient() && !shared.line.is_over() => {
                        tokio::time::sleep(SILENCE).await;
                    }
                    looked => return looked,
                }
            }
        }));
    }

    fn fall_silent(&mut self) {
        self.silence.get_or_insert(Silence {
            since: Instant::now(),
            is_whole: false,
        });
    }

    /// Takes what pulls bring, late or not; false if there is nothing more now.
    fn poll_arrivals(&mut self, context: &mut Context<'_>) -> Result<bool> {
        let asked = self.asked.as_ref().map(|pull| pull.number);
        let (message, since, left) = {
            let mut state = self.inlet.state.lock();
            match state.poll_next(context) {
                Poll::Ready(Some((message, since))) => {
                    let left = asked.map(|number| state.left_of(number));
                    (message, since, left)
                }
                Poll::Ready(None) => return Err(self.shared.line.lose_connection()),
                Poll::Pending => return Ok(false),
            }
        };
        let is_from_queue = message.status != Some(StatusCode::NO_RESPONDERS);
        if is_from_queue {
            self.heard = Instant::now();
            if self.silence.take_if(|silence| silence.is_whole).is_some() {
                self.shared.tell_repaired(&self.queue, CHANGED_LEADER);
            }
        }
        let Some(status) = message.status else {
            self.take(message, since);
            if left == Some(0) {
                // There is as much as we can take.
                if self.asked.take().is_some_and(|pull| pull.count > 1) {
                    // And most likely more: rings say nothing new.
                    self.doorbell = None;
                }
                self.sweep = Sweep::Due;
                self.most = (self.most * 2).min(MAX_BATCH);
            }
            return Ok(true);
        };
        // The end of one that was given up says nothing of the next.
        if asked.is_some() && asked == number_of(&message) && self.asked.take().is_some() {
            match matches!(status.as_u16(), 404 | 408) {
                true => self.go_down(),
                // The consumer is gone, or the server can't now.
                false => {
                    if !is_from_queue {
                        self.fall_silent();
                    }
                    self.check(true);
                }
            }
        }
        Ok(true)
    }

    fn take(&mut self, message: Message, since: Instant) {
        let pulled = match &mut self.asked {
            Some(pull) => pull.at,
            None => self.shared.clock.now(),
        };
        self.size = message.length.max(self.size - self.size / 8);
        let Some(fetched) = Fetched::sent(message, since) else {
            return;
        };
        if !is_ours(since) {
            // It comes again, here or elsewhere.
            return;
        }
        self.shared.see(&self.queue, &fetched);
        // Beyond its time only if nobody had room for it when it came.
        let since = self.holder.room_since();
        let pulled = match since < fetched.delivered.stored {
            true => since,
            false => pulled,
        };
        if let Some(fetched) = self.shared.bury_if_expired(&self.queue, fetched, pulled) {
            self.patience = AT_ONCE;
            // It is what the bell rang for.
            self.at_once = 0;
            self.here.push_back(fetched);
        }
    }

    /// A level had no more.
    fn go_down(&mut self) {
        if self.level > 0 {
            self.level -= 1;
            self.sweep = Sweep::Begun;
            return;
        }
        self.level = self.queue.levels() - 1;
        self.sweep = match self.doorbell {
            Some(_) if self.at_once > 0 => {
                self.at_once -= 1;
                Sweep::Due
            }
            Some(_) => Sweep::Nothing,
            // It could have come in between.
            None => Sweep::Due,
        };
        if self.sweep == Sweep::Nothing {
            let until = Instant::now() + self.patience;
            self.timer.as_mut().reset(until.into());
            self.patience = (self.patience * 2).min(IDLE);
        } else if self.doorbell.is_none() {
            let news = self.queue.news().subject().clone();
            self.doorbell = self.shared.line.listen_for(news, RINGS).ok();
        }
    }

    /// Whether a message came by; one may be there now.
    fn poll_doorbell(&mut self, context: &mut Context<'_>) -> bool {
        let mut has_rung = self.bell.take();
        while let Some(doorbell) = &mut self.doorbell
            && let Poll::Ready(ring) = Pin::new(doorbell).poll_next(context)
        {
            has_rung = true;
            if ring.is_none() {
                self.doorbell = None;
            }
        }
        if has_rung {
            // It is stored a moment after the bell rings.
            self.patience = AT_ONCE;
            self.at_once = FEW;
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
            let failures = self
                .shared
                .discounts
                .failures(self.queue.stream(), &fetched);
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
        let next = Inlet::open(&self.shared, &self.queue, &self.bell)?;
        let job = Job::Empty {
            inlet: std::mem::replace(&mut self.inlet, next),
            _on_its_way: self.shared.leaving.clone().try_read_owned().ok(),
        };
        // Without its task, the session is over.
        drop(self.shared.jobs.send(job));
        self.asked = None;
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
            if let Some(checking) = &mut self.checking
                && let Poll::Ready(checked) = checking.as_mut().poll(context)
            {
                self.checking = None;
                let checked = checked?;
                if !checked.is_there {
                    return Poll::Ready(Err(error::deleted(self.queue.name())));
                }
                self.is_active = checked.is_active;
                self.sweep = Sweep::Due;
                if self.asked.is_none() {
                    self.inlet.state.lock().forget_until(self.pulls);
                }
                // What was put right is told, and what came meanwhile was only late.
                let heard = self.heard;
                let is_silent = |silence: &Silence| {
                    checked.was_whole && (silence.is_whole || heard < silence.since)
                };
                self.silence = self.silence.take().filter(is_silent);
                if let Some(silence) = &mut self.silence {
                    silence.is_whole = true;
                }
            }
            if self.checking.is_none() && self.bell.take_changed() {
                self.check(false);
                continue;
            }
            let is_looked_at = self.checking.is_some();
            while self.poll_arrivals(context)? {}
            if self.checking.is_some() != is_looked_at {
                continue;
            }
            if !self.here.is_empty() && (self.asked.is_none() || max < self.here.len() || max > 0) {
                let handed = self.here.len().min(max);
                self.hand_over(max, batch);
                let is_next_due = self.asked.is_none() && self.sweep == Sweep::Due;
                if handed == HALF
                    && max > HALF
                    && is_next_due
                    && self.checking.is_none()
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
            if self.checking.is_some() {
                return Poll::Pending;
            }
            if self.asked.is_some() && max == 0 {
                self.turn_away()?;
            }
            if self.asked.is_some() {
                if self.timer.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                let until = self.heard + SILENCE;
                if until > Instant::now() {
                    self.timer.as_mut().reset(until.into());
                    continue;
                }
                // What it brings all the same is taken, or goes back.
                self.asked = None;
                self.fall_silent();
                self.check(true);
                continue;
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
        let asked = self.asked.as_ref();
        asked.map_or(0, |pull| self.inlet.state.lock().left_of(pull.number))
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
    let looked = match repairs {
        true => shared.look_at_whole(queue).await?,
        false => {
            shared.catch_up().await?;
            match shared.known.lock().has(queue) {
                true => Looked::Whole,
                false => Looked::Gone,
            }
        }
    };
    let is_there = looked != Looked::Gone;
    let mut is_active = true;
    if is_there && queue.declaration().is_single_active_consumer() {
        let (members, _) = members::of(&shared.line, queue).await?;
        is_active = members.is_first(shared.line.session, number);
    }
    Ok(Check {
        is_there,
        was_whole: looked == Looked::Whole,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: Option<u16>, subject: &str) -> Message {
        Message {
            subject: subject.into(),
            reply: None,
            payload: bytes::Bytes::new(),
            headers: None,
            status: status.and_then(|status| status.to_string().parse().ok()),
            description: None,
            length: 0,
        }
    }

    #[test]
    fn a_message_may_be_the_answer_to_any_pull_that_is_not_over() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let asked = |number, left| Asked {
            number,
            left,
            at: at(number),
        };
        let mut state = InletState {
            arrivals: None,
            came: VecDeque::new(),
            pulls: [asked(1, 4), asked(2, 2)].into(),
            asked: at(2),
        };
        let came = message(None, "kombu.q.jobs.0");
        assert_eq!(state.take_note(&came), at(1));
        assert_eq!((state.left_of(1), state.left_of(2)), (4, 1));
        // A look at the queue was answered meanwhile.
        state.forget_until(1);
        assert_eq!(state.take_note(&came), at(2));
        state.pulls.push_back(asked(3, 5));
        state.take_note(&message(Some(404), "inbox.3"));
        assert_eq!(state.left_of(3), 0);
    }
}

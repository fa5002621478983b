//! Messages that go back to their queues.
//!
//! The server hands them out again in the order in which it is told, and takes a pull in before what it was told just
//! before. So those of one queue go together, sorted; where one goes back behind others that belong after it, those are
//! taken again first; and nothing of this session pulls until the server has answered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use futures_util::future::join_all;
use kombu_core::Result;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::api;
use crate::discounts;
use crate::error;
use crate::hold::{self, Fetched, PROGRESS, is_ours};
use crate::known::NatsQueue;
use crate::line::Line;
use crate::reader::{FIRST, MAX_BATCH, MAX_BYTES, Pulls};
use crate::session::{Job, Looked, PAUSE, Shared};

/// What is said of it in errors.
const WHAT: &str = "a message that goes back";

/// How long the server may take to notice that a message is due.
const LATE: Duration = Duration::from_secs(1);

/// How many messages of a stream that were given back are remembered.
const MOST: usize = 1 << 20;

/// A message that goes back.
#[derive(Clone, Debug)]
pub(crate) struct Return {
    pub(crate) ack: Subject,
    pub(crate) position: u64,
    /// When its time is over, by the server's clock.
    pub(crate) expires: Option<u64>,
    /// When the server last heard of it.
    pub(crate) since: Instant,
    /// Whether the delivery counts: otherwise others are told that it doesn't.
    pub(crate) counts: bool,
    pub(crate) delay: Option<Duration>,
}

impl Return {
    /// What was never handed out.
    pub(crate) fn of(fetched: &Fetched, queue: &NatsQueue) -> Self {
        Return {
            ack: fetched.ack.clone(),
            position: fetched.delivered.position,
            expires: fetched.expires(queue),
            since: fetched.since,
            counts: false,
            delay: None,
        }
    }

    fn level(&self) -> u8 {
        api::level_of(&self.ack)
    }

    fn text(&self) -> Bytes {
        hold::nak(self.delay)
    }
}

/// What this session has given back of a stream, and hasn't seen since.
#[derive(Debug, Default)]
struct GivenBack {
    /// Ready, by position.
    back: BTreeMap<u64, Back>,
    /// Invisible until then.
    delayed: HashMap<u64, Instant>,
    due: BTreeSet<(Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Back {
    level: u8,
    /// When its time is over, by the server's clock.
    expires: Option<u64>,
}

impl GivenBack {
    fn insert(&mut self, position: u64, back: Back) {
        if self.back.len() < MOST {
            self.back.insert(position, back);
        }
    }

    fn delay(&mut self, position: u64, due: Instant) {
        let now = Instant::now();
        while let Some((first, position)) = self.due.first().copied()
            && first + LATE <= now
        {
            self.due.pop_first();
            self.delayed.remove(&position);
        }
        if self.due.len() < MOST {
            if let Some(before) = self.delayed.insert(position, due) {
                self.due.remove(&(before, position));
            }
            self.due.insert((due, position));
        }
    }

    fn see(&mut self, position: u64) {
        self.back.remove(&position);
        if let Some(due) = self.delayed.remove(&position) {
            self.due.remove(&(due, position));
        }
    }
}

/// What is to go back, by stream.
type Waiting = HashMap<Arc<str>, (NatsQueue, Vec<Return>)>;

#[derive(Debug, Default)]
pub(crate) struct Returns {
    waiting: Mutex<Waiting>,
    /// Streams whose messages are on their way back, and how many.
    busy: Mutex<HashMap<Arc<str>, usize>>,
    idle: Notify,
    given_back: Mutex<HashMap<Arc<str>, GivenBack>>,
    pub(crate) bell: Notify,
}

impl Returns {
    pub(crate) fn add(&self, queue: &NatsQueue, back: Return) {
        let mut waiting = self.waiting.lock();
        let of = waiting.entry(queue.stream().clone());
        of.or_insert_with(|| (queue.clone(), Vec::new()))
            .1
            .push(back);
        drop(waiting);
        self.bell.notify_one();
    }

    /// Tells the server that what waits to go back is still held.
    pub(crate) fn progress(&self, line: &Line) {
        let mut waiting = self.waiting.lock();
        for back in waiting.values_mut().flat_map(|(_, returns)| returns) {
            if is_ours(back.since) {
                back.since = Instant::now();
                line.tell(back.ack.clone(), PROGRESS);
            }
        }
    }

    /// Lets what waits go back.
    pub(crate) fn flush(&self, shared: &Shared) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        let mut busy = self.busy.lock();
        let ready: Vec<Arc<str>> = waiting
            .keys()
            .filter(|stream| !busy.contains_key(*stream))
            .cloned()
            .collect();
        for stream in ready {
            if let Some((queue, returns)) = waiting.remove(&stream) {
                busy.insert(stream, returns.len());
                // Without its task, the session is over.
                drop(shared.jobs.send(Job::Return(queue, returns)));
            }
        }
    }

    /// Whether messages of a queue are on their way back.
    pub(crate) fn is_busy(&self, queue: &NatsQueue) -> bool {
        self.busy.lock().contains_key(queue.stream())
    }

    /// How many messages of a stream are about to go back, and aren't ready yet.
    pub(crate) fn on_their_way(&self, stream: &str) -> usize {
        let waiting = self.waiting.lock();
        let waits = waiting.get(stream).map_or(0, |(_, returns)| returns.len());
        waits + self.busy.lock().get(stream).copied().unwrap_or(0)
    }

    /// Resolves when none are.
    pub(crate) async fn idle(&self, shared: &Shared, queue: &NatsQueue) {
        let over = shared.line.over();
        let lost = shared.line.lost();
        tokio::pin!(over, lost);
        loop {
            let idle = self.idle.notified();
            self.flush(shared);
            if !self.is_busy(queue) || shared.line.is_over() {
                return;
            }
            tokio::select! {
                biased;
                () = idle => {}
                () = &mut over => return,
                _ = &mut lost => return,
            }
        }
    }

    /// The same for all queues.
    pub(crate) async fn all_idle(&self, shared: &Shared) {
        let queues: Vec<NatsQueue> = {
            let waiting = self.waiting.lock();
            waiting.values().map(|(queue, _)| queue.clone()).collect()
        };
        for queue in queues {
            self.idle(shared, &queue).await;
        }
        while !self.busy.lock().is_empty() && !shared.line.is_over() {
            drop(tokio::time::timeout(Duration::from_millis(50), self.idle.notified()).await);
        }
    }

    fn change<T>(&self, stream: &str, change: impl FnOnce(&mut GivenBack) -> T) -> Option<T> {
        self.given_back.lock().get_mut(stream).map(change)
    }

    /// A message was handed over: if it was given back here, it isn't any more.
    pub(crate) fn see(&self, stream: &str, position: u64) {
        self.change(stream, |of| of.see(position));
    }

    /// The positions of those that were given back to a stream.
    pub(crate) fn back(&self, stream: &str) -> Vec<u64> {
        let all = self.change(stream, |of| of.back.keys().copied().collect());
        all.unwrap_or_default()
    }

    /// How many were given back at a level, if one of them belongs behind a position.
    fn around(&self, stream: &str, level: u8, position: u64) -> usize {
        let count = self.change(stream, |of| {
            let is_at = |back: &Back| back.level == level;
            match of.back.range(position..).any(|(_, back)| is_at(back)) {
                true => of.back.values().filter(|back| is_at(back)).count(),
                false => 0,
            }
        });
        count.unwrap_or(0)
    }

    /// The position of the first of them at a level, and when its time is over, by the server's clock.
    pub(crate) fn first(&self, stream: &str, level: u8) -> Option<(u64, Option<u64>)> {
        self.change(stream, |of| {
            let mut all = of.back.iter();
            let first = all.find(|(_, back)| back.level == level);
            first.map(|(position, back)| (*position, back.expires))
        })
        .flatten()
    }

    /// None of those of a level is there any more.
    pub(crate) fn forget(&self, stream: &str, level: u8) {
        self.change(stream, |of| of.back.retain(|_, back| back.level != level));
    }

    /// How many messages of a stream this session has made invisible.
    pub(crate) fn delayed(&self, stream: &str) -> usize {
        let now = Instant::now();
        let count = self.change(stream, |of| of.due.range((now, 0)..).count());
        count.unwrap_or(0)
    }

    /// Whether the server should have handed out a message again that this session has made invisible.
    pub(crate) fn is_overdue(&self, stream: &str) -> bool {
        let now = Instant::now();
        let is = self.change(stream, |of| {
            let mut due = of.due.range(..=(now, u64::MAX)).rev();
            due.next().is_some_and(|(due, _)| *due + LATE > now)
        });
        is.unwrap_or(false)
    }

    /// Tells the other sessions what will be over in their queues, which this one doesn't see any more.
    pub(crate) fn leave_to_others(&self, shared: &Shared) {
        let mut left: HashMap<Arc<str>, Vec<String>> = HashMap::new();
        for (stream, of) in self.given_back.lock().iter() {
            for (position, back) in &of.back {
                if let Some(expires) = back.expires {
                    let of = left.entry(stream.clone()).or_default();
                    of.push(format!("{position}:{expires}:{}", back.level));
                }
            }
        }
        for (stream, left) in left {
            let queue = shared.known.lock().queue_of(&stream);
            let Some(queue) = queue else { continue };
            for some in left.chunks(1000) {
                let text = format!("left {} {stream} {}", shared.line.session, some.join(" "));
                let bell = shared.line.layout.bell(queue.name());
                shared.line.tell(bell.into(), text.into());
            }
        }
    }

    /// Messages of a queue that another session gave back before it ended. Answers when the first of them is over.
    fn take_over(
        &self,
        stream: &Arc<str>,
        left: impl Iterator<Item = (u64, u64, u8)>,
    ) -> Option<u64> {
        let mut all = self.given_back.lock();
        let of = all.entry(stream.clone()).or_default();
        let mut first = None;
        for (position, expires, level) in left {
            let back = Back {
                level,
                expires: Some(expires),
            };
            of.insert(position, back);
            first = first.into_iter().chain([expires]).min();
        }
        first
    }

    /// A stream is gone, with what was to go back to it.
    pub(crate) fn forget_all(&self, stream: &str) {
        self.waiting.lock().remove(stream);
        self.given_back.lock().remove(stream);
    }
}

/// Takes messages of a queue back to the server: again, where that doesn't answer, for as long as they are ours.
pub(crate) async fn go_back(
    shared: &Arc<Shared>,
    queue: NatsQueue,
    mut returns: Vec<Return>,
) -> Result<()> {
    let mut went = tell(shared, &queue, &mut returns).await;
    while let Err(error) = &went
        && !returns.is_empty()
        && !shared.line.is_over()
    {
        tracing::debug!(%error, queue = %queue.name(), "messages wait to go back");
        tokio::time::sleep(PAUSE).await;
        went = tell(shared, &queue, &mut returns).await;
    }
    shared.returns.busy.lock().remove(queue.stream());
    shared.returns.idle.notify_waiters();
    shared.ring(queue.name(), false);
    // What came meanwhile.
    shared.returns.flush(shared);
    went
}

/// Takes back what is ours; what the server has heard of is taken out.
async fn tell(shared: &Arc<Shared>, queue: &NatsQueue, returns: &mut Vec<Return>) -> Result<()> {
    let known = &shared.returns;
    let stream = queue.stream();
    keep_ours(shared, queue, returns);
    for level in 0..queue.levels() {
        let ready = returns.iter().filter(|back| back.delay.is_none());
        let first = ready.filter(|back| back.level() == level);
        let first = first.map(|back| back.position).min();
        // Those that went back before, if one of them belongs behind.
        let around = first.map_or(0, |first| known.around(stream, level, first));
        if around > 0 {
            take_again(shared, queue, level, around, returns).await?;
        }
    }
    returns.sort_by_key(|back| back.position);
    keep_ours(shared, queue, returns);
    let uncounted = returns.iter_mut().filter(|back| !back.counts);
    let mut uncounted: Vec<&mut Return> = uncounted.collect();
    if !uncounted.is_empty() {
        let positions: Vec<u64> = uncounted.iter().map(|back| back.position).collect();
        let (counts, added) = discounts::add(shared, queue, &positions).await;
        for back in &mut uncounted {
            // It has been written down.
            let found = counts.binary_search_by_key(&back.position, |(position, _)| *position);
            back.counts = found.is_ok();
        }
        shared.tell_uncounted(queue, &counts);
        added?;
        keep_ours(shared, queue, returns);
    }
    // Each is asked for its answer: nobody hears it while the consumer has no leader, for one.
    let asking: Vec<_> = returns
        .iter()
        .map(|back| {
            let asking = shared.line.ask(back.ack.clone(), None, back.text(), WHAT);
            remember(shared, queue, back);
            asking
        })
        .collect();
    let mut answers = join_all(asking).await.into_iter();
    // Whoever is silent may have heard it, and somebody else may have the message by now: only what nobody was there for goes again.
    returns.retain(|_| matches!(answers.next(), Some(Ok(None))));
    for back in &*returns {
        known.see(stream, back.position);
    }
    if returns.is_empty() || shared.look_at_whole(queue).await? != Looked::Whole {
        // What its consumer held before that was made again is ready, or nothing is there any more.
        returns.clear();
        return Ok(());
    }
    Err(error::nobody(WHAT))
}

/// Leaves out what somebody else may have by now, and all of a queue that is gone.
fn keep_ours(shared: &Shared, queue: &NatsQueue, returns: &mut Vec<Return>) {
    let is_there = shared.known.lock().has(queue);
    returns.retain(|back| is_there && is_ours(back.since));
    let mut busy = shared.returns.busy.lock();
    if let Some(count) = busy.get_mut(queue.stream()) {
        *count = returns.len();
    }
}

/// Takes what was given back at a level before, to give it back together with what goes back now.
async fn take_again(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    level: u8,
    mut wanted: usize,
    returns: &mut Vec<Return>,
) -> Result<()> {
    let known = &shared.returns;
    let stream = queue.stream();
    let look = api::consumer_info(&shared.line, stream, level).await?;
    // Others may hold some, or have had them: then the server hands out what nobody has had, which is to stay as it is.
    let held = shared.holds();
    let held = held.iter().filter(|hold| **hold.queue.stream() == **stream);
    let held = held.map(|hold| hold.count_at(level)).sum::<usize>() + known.delayed(stream);
    let is_at = |back: &&Return| back.level() == level;
    let on_their_way = returns.iter().filter(is_at).count() + {
        let waiting = known.waiting.lock();
        let waiting = waiting.get(stream);
        waiting.map_or(0, |(_, waiting)| waiting.iter().filter(is_at).count())
    };
    let held = (held + on_their_way) as u64;
    let back = look.map_or(0, |look| look.num_ack_pending.saturating_sub(held));
    let mut count = if back == wanted as u64 { wanted } else { 1 };
    wanted = wanted.min(usize::try_from(back).unwrap_or(usize::MAX));
    let mut pulls = Pulls::open(shared, queue, level)?;
    let mut is_all = wanted == 0;
    // Nothing is known of their size before the first ones came.
    let mut largest = MAX_BYTES / FIRST;
    while wanted > 0 && !is_all {
        count = count.min(wanted).min(MAX_BATCH);
        count = count.min(MAX_BYTES / largest).max(1);
        let taken = pulls.take(count).await?;
        is_all = taken.len() < count;
        wanted -= taken.len();
        count *= 2;
        let sizes = taken.iter().map(|fetched| fetched.body.len());
        largest = sizes.max().unwrap_or(0).max(1);
        for fetched in taken {
            shared.see(queue, &fetched);
            // Nothing that went back is left in front of it.
            is_all |= fetched.delivered.count == 1;
            returns.push(Return::of(&fetched, queue));
        }
        if !pulls.is_answered() {
            return Err(error::silence(WHAT));
        }
    }
    if is_all {
        known.forget(stream, level);
    }
    Ok(())
}

/// Takes note of where a message is that goes back.
fn remember(shared: &Shared, queue: &NatsQueue, back: &Return) {
    let mut all = shared.returns.given_back.lock();
    let of = all.entry(queue.stream().clone()).or_default();
    match back.delay {
        None => {
            let level = back.level();
            let expires = back.expires;
            of.insert(back.position, Back { level, expires });
            drop(all);
            // A look that was due before found it on its way.
            shared.look_after(queue, expires);
        }
        Some(delay) => {
            if let Some(due) = Instant::now().checked_add(delay) {
                of.delay(back.position, due);
            }
        }
    }
}

/// What a ring says of deliveries that don't count.
pub(crate) fn uncounted(session: u64, stream: &str, counts: &[(u64, u32)]) -> String {
    let mut text = format!("more {session} {stream}");
    for (position, count) in counts {
        text.push_str(&format!(" {position}:{count}"));
    }
    text
}

/// Takes in what another session's ring says. Answers the stream of what it leaves to others, with when the first of it is over.
pub(crate) fn take_ring(shared: &Shared, text: &[u8]) -> Option<(Arc<str>, u64)> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let (what, who, stream) = (words.next()?, words.next()?, words.next()?);
    if who.parse() == Ok(shared.line.session) {
        return None;
    }
    let stream = stream.into();
    if what == "left" {
        let left = words.filter_map(|word| {
            let (position, rest) = word.split_once(':')?;
            let (expires, level) = rest.split_once(':')?;
            Some((
                position.parse().ok()?,
                expires.parse().ok()?,
                level.parse().ok()?,
            ))
        });
        let first = shared.returns.take_over(&stream, left)?;
        return Some((stream, first));
    }
    let counts = words.filter_map(|word| {
        let (position, count) = word.split_once(':')?;
        Some((position.parse().ok()?, count.parse().ok()?))
    });
    shared.discounts.learn(&stream, counts);
    None
}

/// Looks after what another session left.
pub(crate) async fn look_after_left(
    shared: &Arc<Shared>,
    stream: Arc<str>,
    expires: u64,
) -> Result<()> {
    let mut queue = shared.known.lock().queue_of(&stream);
    if queue.is_none() {
        shared.catch_up().await?;
        queue = shared.known.lock().queue_of(&stream);
    }
    if let Some(queue) = queue {
        shared.look_after(&queue, Some(expires));
    }
    Ok(())
}

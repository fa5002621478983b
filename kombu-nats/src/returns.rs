//! Messages that go back to their queues.
//!
//! The server hands them out again in the order in which it is told, and takes a pull in before what it was told just
//! before. So those of one queue go together, sorted; where one goes back behind others that belong after it, those are
//! taken again first; and nothing of this session pulls until the server has answered.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use kombu_core::Result;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::api::nanoseconds;
use crate::hold::Fetched;
use crate::known::NatsQueue;
use crate::session::{Job, Shared};

const NAK: Bytes = Bytes::from_static(b"-NAK");

/// How long the server may take to notice that a message is due.
const LATE: Duration = Duration::from_secs(1);

/// How many messages that were given back are remembered.
const MOST: usize = 10_000;

/// A message that goes back.
#[derive(Clone, Debug)]
pub(crate) struct Return {
    pub(crate) ack: Subject,
    pub(crate) position: u64,
    /// When its time is over, by the server's clock.
    pub(crate) expires: Option<u64>,
    /// Whether the delivery counts: otherwise others are told that it doesn't.
    pub(crate) counts: bool,
    pub(crate) delay: Option<Duration>,
}

/// A message that was given back, and that nobody here has seen since.
#[derive(Debug)]
struct Back {
    stream: Arc<str>,
    position: u64,
    expires: Option<u64>,
}

/// What is to go back, by stream.
type Waiting = HashMap<Arc<str>, (NatsQueue, Vec<Return>)>;

#[derive(Debug, Default)]
pub(crate) struct Returns {
    waiting: Mutex<Waiting>,
    /// Streams whose messages are on their way back, and how many.
    busy: Mutex<HashMap<Arc<str>, usize>>,
    idle: Notify,
    /// What is invisible until then.
    delayed: Mutex<VecDeque<(Arc<str>, u64, Instant)>>,
    back: Mutex<Vec<Back>>,
    uncounted: Mutex<Uncounted>,
    pub(crate) bell: Notify,
}

/// How many deliveries of a message don't count, as far as this session was told.
#[derive(Debug, Default)]
struct Uncounted {
    by_message: HashMap<(Arc<str>, u64), u32>,
    oldest: VecDeque<(Arc<str>, u64)>,
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

    /// A message was handed over: if it was given back here, it isn't any more.
    pub(crate) fn see(&self, stream: &str, position: u64) {
        let mut back = self.back.lock();
        if !back.is_empty() {
            back.retain(|back| back.position != position || *back.stream != *stream);
        }
        drop(back);
        let mut delayed = self.delayed.lock();
        if !delayed.is_empty() {
            delayed.retain(|(of, at, _)| *at != position || **of != *stream);
        }
    }

    /// The positions of those that were given back to a stream.
    pub(crate) fn back(&self, stream: &str) -> Vec<u64> {
        let back = self.back.lock();
        let of = back.iter().filter(|back| *back.stream == *stream);
        of.map(|back| back.position).collect()
    }

    /// The position of the first of them, and when its time is over, by the server's clock.
    pub(crate) fn first(&self, stream: &str) -> Option<(u64, Option<u64>)> {
        let back = self.back.lock();
        let of = back.iter().filter(|back| *back.stream == *stream);
        of.map(|back| (back.position, back.expires)).min()
    }

    /// None of them is there any more.
    pub(crate) fn forget(&self, stream: &str) {
        self.back.lock().retain(|back| *back.stream != *stream);
    }

    /// How many messages of a stream this session has made invisible.
    pub(crate) fn delayed(&self, stream: &str) -> usize {
        let now = Instant::now();
        let mut delayed = self.delayed.lock();
        delayed.retain(|(_, _, due)| *due + LATE > now);
        let of = delayed
            .iter()
            .filter(|(of, _, due)| **of == *stream && *due > now);
        of.count()
    }

    /// Whether the server should have handed out a message again that this session has made invisible.
    pub(crate) fn is_overdue(&self, stream: &str) -> bool {
        let now = Instant::now();
        let delayed = self.delayed.lock();
        let mut of = delayed.iter().filter(|(of, ..)| **of == *stream);
        of.any(|(_, _, due)| (*due..*due + LATE).contains(&now))
    }

    /// Tells the other sessions what will be over in their queues, which this one doesn't see any more.
    pub(crate) fn leave_to_others(&self, shared: &Shared) {
        let mut left: HashMap<Arc<str>, Vec<String>> = HashMap::new();
        for back in self.back.lock().iter() {
            if let Some(expires) = back.expires {
                let of = left.entry(back.stream.clone()).or_default();
                of.push(format!("{}:{expires}", back.position));
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

    /// Messages of a queue that another session gave back before it ended.
    fn take_over(&self, stream: &Arc<str>, left: impl Iterator<Item = (u64, u64)>) -> Option<u64> {
        let mut all = self.back.lock();
        let mut first = None;
        for (position, expires) in left {
            if all.len() < MOST {
                all.push(Back {
                    stream: stream.clone(),
                    position,
                    expires: Some(expires),
                });
                first = first.into_iter().chain([expires]).min();
            }
        }
        first
    }

    /// Takes note that a delivery of these messages doesn't count.
    pub(crate) fn discount(&self, stream: &Arc<str>, positions: impl Iterator<Item = u64>) {
        let mut uncounted = self.uncounted.lock();
        for position in positions {
            let message = (stream.clone(), position);
            let count = uncounted.by_message.entry(message.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                uncounted.oldest.push_back(message);
            }
            if uncounted.oldest.len() > MOST
                && let Some(oldest) = uncounted.oldest.pop_front()
            {
                uncounted.by_message.remove(&oldest);
            }
        }
    }

    /// How often a message came back for good reason, after so many deliveries.
    pub(crate) fn failures(&self, stream: &Arc<str>, fetched: &Fetched) -> u32 {
        let delivered = fetched.delivered;
        if delivered.count < 2 {
            return 0;
        }
        let uncounted = self.uncounted.lock();
        let message = (stream.clone(), delivered.position);
        let less = uncounted.by_message.get(&message).copied().unwrap_or(0);
        (delivered.count - 1).saturating_sub(less)
    }
}

/// Takes messages of a queue back to the server.
pub(crate) async fn go_back(
    shared: &Arc<Shared>,
    queue: NatsQueue,
    returns: Vec<Return>,
) -> Result<()> {
    let went = tell(shared, &queue, returns).await;
    shared.returns.busy.lock().remove(queue.stream());
    shared.returns.idle.notify_waiters();
    shared.ring(queue.name(), false);
    // What came meanwhile.
    shared.returns.flush(shared);
    went
}

async fn tell(shared: &Arc<Shared>, queue: &NatsQueue, mut returns: Vec<Return>) -> Result<()> {
    let known = &shared.returns;
    let stream = queue.stream();
    let first = returns
        .iter()
        .filter(|back| back.delay.is_none())
        .map(|back| back.position)
        .min();
    // Those that went back before, if one of them belongs behind.
    let before = known.back(stream);
    let after = match first {
        Some(first) if before.iter().any(|back| *back > first) => before.len(),
        _ => 0,
    };
    for level in (0..queue.levels()).rev() {
        let mut left = after;
        while left > 0
            && let Some(fetched) = shared.pull_again(queue, level).await?
        {
            left -= 1;
            returns.push(Return {
                ack: fetched.ack.clone(),
                position: fetched.delivered.position,
                expires: fetched.expires(queue),
                counts: false,
                delay: None,
            });
        }
    }
    if let Some(count) = known.busy.lock().get_mut(stream) {
        *count = returns.len();
    }
    returns.sort_by_key(|back| back.position);
    let uncounted: Vec<u64> = returns
        .iter()
        .filter(|back| !back.counts)
        .map(|back| back.position)
        .collect();
    known.discount(stream, uncounted.iter().copied());
    shared.tell_uncounted(queue, &uncounted);
    let mut last = None;
    for back in returns {
        // Each is asked for its answer, and the last answer says that all are done.
        let text = match back.delay {
            None => NAK,
            Some(delay) => format!(r#"-NAK {{"delay":{}}}"#, nanoseconds(delay)).into(),
        };
        last = Some(
            shared
                .line
                .ask(back.ack, None, text, "a message that goes back"),
        );
        let Some(delay) = back.delay else {
            // A look that was due before found it on its way.
            shared.look_after(queue, back.expires);
            let mut all = known.back.lock();
            if all.len() < MOST {
                all.push(Back {
                    stream: stream.clone(),
                    position: back.position,
                    expires: back.expires,
                });
            }
            continue;
        };
        if let Some(due) = Instant::now().checked_add(delay) {
            let delayed = (stream.clone(), back.position, due);
            known.delayed.lock().push_back(delayed);
        }
    }
    match last {
        Some(answer) => answer.await.map(drop),
        None => Ok(()),
    }
}

/// What a ring says of deliveries that don't count.
pub(crate) fn uncounted(session: u64, stream: &str, positions: &[u64]) -> String {
    let mut text = format!("more {session} {stream}");
    for position in positions {
        text.push(' ');
        text.push_str(&position.to_string());
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
            let (position, expires) = word.split_once(':')?;
            Some((position.parse().ok()?, expires.parse().ok()?))
        });
        let first = shared.returns.take_over(&stream, left)?;
        return Some((stream, first));
    }
    let positions = words.filter_map(|word| word.parse().ok());
    shared.returns.discount(&stream, positions);
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

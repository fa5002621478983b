//! Messages that wait in a stream of their own: delayed ones go to their queues when they are due, and dead ones to whoever can
//! move them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;
use futures_util::StreamExt;
use kombu_core::virt::Death;
use kombu_core::{ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::api::{self, Delivered};
use crate::hold::{self, ACK, Fetched};
use crate::known::NatsQueue;
use crate::line::Stored;
use crate::message;
use crate::push::{self, LEFT_ALONE, Parcel};
use crate::session::{SILENCE, Shared};

/// How many are taken at once.
const BATCH: usize = 64;
/// How many are on their way to their queues at most.
const MOST: usize = 4 * BATCH;
/// How often one waits longer than before for a queue that can't be reached, up to that.
const LONGER: u32 = 6;
/// How often they are looked at, though nothing is known to be due.
const IDLE: Duration = Duration::from_secs(1);
/// What is due as soon is waited for here.
const SOON: Duration = Duration::from_millis(20);

const DEATHS: [Death; 4] = [
    Death::Rejected,
    Death::Expired,
    Death::MaxLength,
    Death::DeliveryLimit,
];

/// Leaves a dead message to whoever can move it.
pub(crate) async fn leave_dead(shared: &Arc<Shared>, parcel: &Parcel, death: Death) -> Result<()> {
    let mut headers = parcel.headers(shared)?;
    let now = shared.clock.now() / 1_000_000;
    headers.insert(message::DUE, message::digits(now));
    headers.insert(message::TO, parcel.subject.as_str());
    headers.insert(message::DEATH, death.as_str());
    // What it was refused by isn't where it lies.
    let id = format!("dead:{}:{:x}", parcel.queue.stream(), fastrand::u128(..));
    message::replace_id(&mut headers, &id);
    let subject = Subject::from(shared.line.layout.later_subject(parcel.queue.stream()));
    let storing = shared
        .line
        .store(subject, Some(headers), parcel.body.clone());
    let news = shared.line.layout.later_news();
    shared.line.tell(news.into(), Bytes::new());
    match storing.await? {
        Stored::At(_) => Ok(()),
        Stored::Refused(refused) => Err(refused.during("a dead message")),
        Stored::Nowhere => Err(crate::error::nobody("a dead message")),
    }
}

/// Moves what is due, until the session is over.
pub(crate) async fn serve(shared: Arc<Shared>) -> Result<()> {
    loop {
        match move_due(&shared).await {
            Err(error) if !shared.line.is_over() => {
                tracing::debug!(%error, "what is delayed waits");
                tokio::time::sleep(IDLE).await;
            }
            moved => return moved,
        }
    }
}

/// A message that is due.
struct Due {
    fetched: Fetched,
    /// The subject that it is for.
    to: Subject,
    _room: OwnedSemaphorePermit,
    /// The end of the session waits for it.
    _taking: Arc<OwnedRwLockReadGuard<()>>,
}

/// What is on its way to queues: to each in turn, and to none behind what is for another, which may not answer.
struct Moving {
    /// By the stream of the queue, as long as a task moves them.
    waiting: Mutex<HashMap<Arc<str>, VecDeque<Due>>>,
    room: Arc<Semaphore>,
}

impl Moving {
    fn new() -> Arc<Self> {
        Arc::new(Moving {
            waiting: Mutex::default(),
            room: Arc::new(Semaphore::new(MOST)),
        })
    }

    fn add(self: &Arc<Self>, shared: &Arc<Shared>, queue: NatsQueue, due: Due) {
        let mut waiting = self.waiting.lock();
        if let Some(waiting) = waiting.get_mut(queue.stream()) {
            return waiting.push_back(due);
        }
        waiting.insert(queue.stream().clone(), [due].into());
        drop(waiting);
        let (moving, shared) = (self.clone(), shared.clone());
        tokio::spawn(async move {
            while let Some(due) = moving.next(&queue) {
                move_to(&shared, &queue, due).await;
            }
        });
    }

    /// The next one for a queue. If there is none, its task has ended.
    fn next(&self, queue: &NatsQueue) -> Option<Due> {
        let mut waiting = self.waiting.lock();
        let next = waiting.get_mut(queue.stream())?.pop_front();
        if next.is_none() {
            waiting.remove(queue.stream());
        }
        next
    }
}

async fn move_due(shared: &Arc<Shared>) -> Result<()> {
    let line = &shared.line;
    let moving = Moving::new();
    let inbox = line.inbox();
    let mut arrivals = line.listen(inbox.clone())?;
    let stream = line.layout.later();
    let pull = line.pull_subject(&stream, &api::consumer(0));
    let mut next: Option<Instant> = None;
    loop {
        // Armed before the look that finds nothing.
        let mut doorbell = line.listen_for(line.layout.later_news().into(), 1)?;
        let mut came = 0;
        {
            // The end of the session waits for what was taken here.
            let Ok(taking) = shared.leaving.clone().try_read_owned() else {
                return Ok(());
            };
            let taking = Arc::new(taking);
            next = next.filter(|next| *next > Instant::now());
            let asked = std::time::Instant::now();
            line.tell_with_reply(pull.clone(), inbox.clone(), api::pull(BATCH));
            while came < BATCH {
                match timeout(SILENCE, arrivals.next()).await {
                    Ok(Some(message)) if message.status.is_none() => {
                        came += 1;
                        // The last token of its subject is the stream that it is for.
                        let stream = message.subject.rsplit('.').next().unwrap_or_default();
                        let stream = stream.to_owned();
                        let Some(fetched) = Fetched::sent(message, asked) else {
                            continue;
                        };
                        match take(shared, &stream, fetched, &moving, &taking).await {
                            Ok(due) => next = next.into_iter().chain(due).min(),
                            Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                                return Err(error);
                            }
                            // It comes again.
                            Err(error) => tracing::debug!(%error, "a delayed message waits"),
                        }
                    }
                    Ok(Some(_)) => break,
                    Ok(None) => return Err(line.loss()),
                    Err(_) => {
                        // The stream, or its consumer, may be gone.
                        api::create_shared(line, &shared.place).await?;
                        break;
                    }
                }
            }
        }
        if came == BATCH {
            continue;
        }
        let idle = Instant::now() + IDLE;
        let until = next.map_or(idle, |next| next.min(idle));
        if let Ok(Some(_)) = timeout_at(until, doorbell.next()).await {
            // It is stored a moment after the bell rings.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Takes one, and says when it is due if it isn't yet.
async fn take(
    shared: &Arc<Shared>,
    stream: &str,
    mut fetched: Fetched,
    moving: &Arc<Moving>,
    taking: &Arc<OwnedRwLockReadGuard<()>>,
) -> Result<Option<Instant>> {
    let line = &shared.line;
    let Some((due, to)) = message::due(fetched.headers.as_ref()) else {
        // Not ours.
        line.tell(fetched.ack, ACK);
        return Ok(None);
    };
    let to = Subject::from(to);
    let left = Duration::from_nanos((due * 1_000_000).saturating_sub(shared.clock.now()));
    if left > SOON {
        go_back(shared, &fetched, left);
        return Ok(Instant::now().checked_add(left + Duration::from_millis(1)));
    }
    tokio::time::sleep(left).await;
    let mut queue = shared.known.lock().queue_of(stream);
    if queue.is_none() {
        shared.catch_up().await?;
        queue = shared.known.lock().queue_of(stream);
    }
    let Some(queue) = queue else {
        let is_deleted = shared.known.lock().was_of_deleted(stream);
        let is_gone = is_deleted || {
            let looking = timeout(SILENCE, api::stream_info(line, stream, None));
            matches!(looking.await, Ok(Ok(Err(refused))) if refused.is_missing())
        };
        if !is_gone {
            // All declarations may be gone, and whoever declares the queue again has what is in it.
            return Ok(wait_for(shared, &fetched));
        }
        line.tell(fetched.ack, ACK);
        return Ok(None);
    };
    let Some(headers) = fetched.headers.take() else {
        line.tell(fetched.ack, ACK);
        return Ok(None);
    };
    let reason = headers.get(message::DEATH).cloned();
    let headers = message::without(&headers, &[message::DUE, message::TO, message::DEATH]);
    fetched.headers = Some(headers);
    let reason = reason.and_then(|reason| {
        let mut all = DEATHS.into_iter();
        all.find(|death| death.as_str() == reason.as_str())
    });
    if let Some(death) = reason {
        let died = fetched.delivered.stored;
        shared.take_in_dead(&queue, fetched, death, died);
        return Ok(None);
    }
    if shared.unreachable.has(&queue) {
        return Ok(wait_for(shared, &fetched));
    }
    let Ok(room) = moving.room.clone().acquire_owned().await else {
        return Ok(None);
    };
    let due = Due {
        fetched,
        to,
        _room: room,
        _taking: taking.clone(),
    };
    moving.add(shared, queue, due);
    Ok(None)
}

/// It comes again after this time.
fn go_back(shared: &Shared, fetched: &Fetched, left: Duration) {
    let left = (!left.is_zero()).then_some(left);
    shared.line.tell(fetched.ack.clone(), hold::nak(left));
}

/// Its queue can't be reached: it comes again when that may have changed, and says when that is.
fn wait_for(shared: &Shared, fetched: &Fetched) -> Option<Instant> {
    let left = LEFT_ALONE * fetched.delivered.count.saturating_sub(1).clamp(1, LONGER);
    go_back(shared, fetched, left);
    Instant::now().checked_add(left)
}

/// Moves one to its queue.
async fn move_to(shared: &Arc<Shared>, queue: &NatsQueue, mut due: Due) {
    if !hold::is_ours(due.fetched.since) {
        // Somebody else's by now.
        return;
    }
    if shared.is_ending() {
        return go_back(shared, &due.fetched, Duration::ZERO);
    }
    let headers = due.fetched.headers.take().unwrap_or_default();
    let sent = send(shared, queue, due.to, headers, &due.fetched).await;
    match sent {
        Ok(()) => shared.line.tell(due.fetched.ack, ACK),
        Err(error) => {
            tracing::debug!(%error, queue = %queue.name(), "a delayed message waits");
            if hold::is_ours(due.fetched.since) {
                wait_for(shared, &due.fetched);
            }
        }
    }
}

async fn send(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    subject: Subject,
    mut headers: async_nats::HeaderMap,
    fetched: &Fetched,
) -> Result<()> {
    let Delivered {
        position, stored, ..
    } = fetched.delivered;
    message::replace_id(&mut headers, &format!("later:{position}:{stored:x}"));
    if let Some(left) = queue.time_to_live(message::expiration(Some(&headers))) {
        shared.expires_in(queue, left);
    }
    let parcel = Parcel::new(queue.clone(), subject, headers, fetched.body.clone());
    push::by_itself(shared, parcel).await.map(drop)
}

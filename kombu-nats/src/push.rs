//! A message on its way into its queues.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::{join_all, ready};
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Death};
use kombu_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::api::DUPLICATE_WINDOW;
use crate::error::{self, code};
use crate::known::NatsQueue;
use crate::later;
use crate::limits;
use crate::line::{self, Stored};
use crate::message;
use crate::news::{self, UnderWay};
use crate::session::{PAUSE, Shared};

/// How long the same message may be sent again, and is stored once: streams remember it for longer, by what it may be on its way.
pub(crate) const SAME: Duration = Duration::from_secs(12);
const _: () = assert!(SAME.as_secs() * 2 < DUPLICATE_WINDOW.as_secs());

/// How long a queue that can't be reached is waited for, though nobody may wait for the answer any more: as long as whoever
/// publishes does, unless told otherwise.
pub(crate) const PUBLISH: Duration = Duration::from_secs(30);
/// The same for what a session sends by itself, and can send again later.
const BY_ITSELF: Duration = Duration::from_secs(3);
/// How long a queue that couldn't be reached is left alone by what a session sends by itself.
pub(crate) const LEFT_ALONE: Duration = Duration::from_secs(5);

/// Queues that couldn't be reached, by their streams, and when they are tried again.
#[derive(Default)]
pub(crate) struct Unreachable(Mutex<HashMap<Arc<str>, Instant>>);

impl Unreachable {
    /// Whether a queue is left alone now.
    pub(crate) fn has(&self, queue: &NatsQueue) -> bool {
        let all = self.0.lock();
        let until = all.get(queue.stream());
        until.is_some_and(|until| *until > Instant::now())
    }

    /// Whether it may be tried. Of those that ask for one that couldn't be reached, one finds out for all.
    fn may_try(&self, queue: &NatsQueue) -> bool {
        let now = Instant::now();
        match self.0.lock().get_mut(queue.stream()) {
            None => true,
            Some(until) if *until > now => false,
            Some(until) => {
                *until = now + LEFT_ALONE;
                true
            }
        }
    }

    fn learn(&self, queue: &NatsQueue, is_reached: bool) {
        let mut all = self.0.lock();
        match is_reached {
            true => drop(all.remove(queue.stream())),
            false => drop(all.insert(queue.stream().clone(), Instant::now() + LEFT_ALONE)),
        }
    }

    /// The queue is gone.
    pub(crate) fn forget(&self, queue: &NatsQueue) {
        self.learn(queue, true);
    }
}

/// What a stream is told of a message.
pub(crate) struct Parcel {
    pub(crate) queue: NatsQueue,
    pub(crate) subject: Subject,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the headers are made of once more, if they have been sent.
    envelope: Option<Envelope>,
    is_delayed: bool,
}

impl Parcel {
    /// A parcel of these headers.
    pub(crate) fn new(queue: NatsQueue, subject: Subject, headers: HeaderMap, body: Bytes) -> Self {
        Parcel {
            queue,
            subject,
            headers,
            body,
            envelope: None,
            is_delayed: false,
        }
    }

    /// The same under another id.
    pub(crate) fn with_id(mut self, id: &str, envelope: &Envelope) -> Self {
        message::set_other_id(&mut self.headers, id, envelope);
        self.envelope = None;
        self
    }

    pub(crate) fn headers(&self, shared: &Arc<Shared>) -> Result<HeaderMap> {
        match &self.envelope {
            Some(envelope) if self.headers.is_empty() => {
                Ok(parcel(shared, &self.queue, envelope)?.headers)
            }
            _ => Ok(self.headers.clone()),
        }
    }
}

/// Sends a message to all of its queues; those that have it already by this publish take it once. Where it can't be stored, it
/// goes again until `end`.
pub(crate) fn start(
    shared: &Arc<Shared>,
    targets: &[NatsQueue],
    envelope: &Envelope,
    end: Instant,
) -> line::Answer<Answer> {
    let parcel = |queue| parcel(shared, queue, envelope);
    let started = match targets {
        [queue] => parcel(queue).map(|parcel| one(shared, parcel, end)),
        _ => {
            let parcels: Result<Vec<_>> = targets.iter().map(parcel).collect();
            parcels.map(|parcels| all(shared, parcels, end))
        }
    };
    started.unwrap_or_else(|error| Box::pin(ready(Err(error))))
}

pub(crate) fn parcel(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    envelope: &Envelope,
) -> Result<Parcel> {
    let mut headers = message::headers(envelope, queue.name())?;
    message::set_id(&mut headers, envelope);
    let mut subject = queue.subject(queue.level(envelope.priority())).clone();
    let is_delayed = envelope.delay().is_some();
    if let Some(delay) = envelope.delay() {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let due = (shared.clock.now() / 1_000_000).saturating_add(delay);
        headers.insert(message::DUE, message::digits(due));
        headers.insert(message::TO, subject.as_str());
        // All queues' are in one stream.
        let id = message::publish_id(envelope.publish_id());
        message::set_other_id(&mut headers, &format!("{id}:{}", queue.stream()), envelope);
        subject = shared.line.layout.later_subject(queue.stream()).into();
    } else if let Some(left) = queue.time_to_live(envelope.expiration()) {
        shared.expires_in(queue, left);
    }
    Ok(Parcel {
        queue: queue.clone(),
        subject,
        headers,
        body: envelope.body().clone(),
        envelope: Some(envelope.clone()),
        is_delayed,
    })
}

fn all(shared: &Arc<Shared>, parcels: Vec<Parcel>, end: Instant) -> line::Answer<Answer> {
    let sending: Vec<_> = parcels
        .into_iter()
        .map(|parcel| one(shared, parcel, end))
        .collect();
    Box::pin(async move {
        let (mut answer, mut failed, mut is_stored) = (Answer::Done, None, false);
        for sent in join_all(sending).await {
            match sent {
                Ok(Answer::Stale) => return Ok(Answer::Stale),
                Ok(Answer::Refused) => answer = Answer::Refused,
                Ok(_) => is_stored = true,
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        match failed {
            None => Ok(answer),
            Some(error) if is_stored => Err(error.with_maybe_stored()),
            Some(error) => Err(error),
        }
    })
}

/// Sends a parcel that the session can send again later: a queue that can't be reached isn't waited for.
pub(crate) async fn by_itself(shared: &Arc<Shared>, parcel: Parcel) -> Result<Answer> {
    let queue = parcel.queue.clone();
    if !shared.unreachable.may_try(&queue) {
        return Err(unreachable(&queue));
    }
    let sent = one(shared, parcel, Instant::now() + BY_ITSELF).await;
    let is_silent =
        |error: &Error| matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
    let is_reached = !sent.as_ref().is_err_and(is_silent);
    shared.unreachable.learn(&queue, is_reached);
    sent
}

pub(crate) fn unreachable(queue: &NatsQueue) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "queue `{}` can't be reached: the server that has it may be gone",
            queue.name()
        ),
    )
}

/// Sends a parcel; again, while it can't be stored, until `end`.
fn one(shared: &Arc<Shared>, mut parcel: Parcel, end: Instant) -> line::Answer<Answer> {
    let shared = shared.clone();
    if limits::is_limited(parcel.queue.declaration()) && !parcel.is_delayed {
        return limits::push(shared, parcel, end);
    }
    let first = match parcel.envelope {
        // Cloning them is what a publish costs most.
        Some(_) => {
            let headers = std::mem::take(&mut parcel.headers);
            Sent::now(store(&shared, &parcel, headers))
        }
        None => send(&shared, &parcel),
    };
    let under_way = tell(&shared, &parcel);
    Box::pin(async move {
        let answer = match first.answer.await {
            Ok(Stored::At(_)) => Ok(Answer::Done),
            // Seldom, and larger than all the rest.
            other => {
                let sent = Sent {
                    at: first.at,
                    answer: Box::pin(ready(other)),
                };
                Box::pin(settle(&shared, &parcel, sent, end)).await
            }
        };
        drop(under_way);
        answer
    })
}

/// A parcel that was sent.
pub(crate) struct Sent {
    at: Instant,
    answer: line::Answer<Stored>,
}

impl Sent {
    fn now(answer: line::Answer<Stored>) -> Self {
        Sent {
            at: Instant::now(),
            answer,
        }
    }
}

fn store(shared: &Shared, parcel: &Parcel, headers: HeaderMap) -> line::Answer<Stored> {
    let subject = parcel.subject.clone();
    shared
        .line
        .store(subject, Some(headers), parcel.body.clone())
}

/// Wakes whoever waits for a parcel that was sent.
pub(crate) fn tell(shared: &Arc<Shared>, parcel: &Parcel) -> Option<UnderWay> {
    if parcel.is_delayed {
        let news = shared.line.layout.later_news();
        shared.line.tell(news.into(), Bytes::new());
        return None;
    }
    Some(news::tell(shared, &parcel.queue))
}

pub(crate) fn send(shared: &Arc<Shared>, parcel: &Parcel) -> Sent {
    Sent::now(match parcel.headers(shared) {
        Ok(headers) => store(shared, parcel, headers),
        Err(error) => Box::pin(async move { Err(error) }),
    })
}

/// Takes the answer to a parcel. It goes again, until `end`, if its stream had to be made again, or has found a leader; one that
/// may be stored all the same, only as long as the stream would know it again.
pub(crate) async fn settle(
    shared: &Arc<Shared>,
    parcel: &Parcel,
    mut sent: Sent,
    end: Instant,
) -> Result<Answer> {
    // Since when it may be stored.
    let mut unsure: Option<Instant> = None;
    let told = |error: Error, unsure: Option<Instant>| match unsure {
        Some(_) => error.with_maybe_stored(),
        None => error,
    };
    loop {
        match sent.answer.await {
            Ok(Stored::At(_)) => return Ok(Answer::Done),
            Ok(Stored::Refused(refused)) if refused.err_code == code::STORE_FAILED => {
                return match limits::refuses(parcel.queue.declaration()) {
                    true => self::refused(shared, parcel).await,
                    false => Err(told(refused.during("a message"), unsure)),
                };
            }
            // It was stored, and removed again, which a server forgets that is killed.
            Ok(Stored::Refused(refused)) if refused.err_code == code::ACCOUNT_IS_FULL => {
                return Err(refused.during("a message").with_maybe_stored());
            }
            Ok(Stored::Refused(refused)) => {
                let error = refused.during("a message");
                if !error::is_passing(&error) {
                    return Err(told(error, unsure));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Stored::Nowhere) => {}
            Err(error) if error::is_passing(&error) => {
                unsure.get_or_insert(sent.at);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionLost || shared.line.is_over() => {
                return Err(error.with_maybe_stored());
            }
            Err(error) => return Err(told(error, unsure)),
        }
        let end = unsure.map_or(end, |since| end.min(since + SAME));
        let repairing = shared.patiently(|| shared.repair(&parcel.queue));
        match timeout_at(end, repairing).await {
            Ok(Ok(true)) if Instant::now() < end => {}
            Ok(Ok(false)) => return Ok(Answer::Stale),
            Ok(Err(error)) => return Err(told(error, unsure)),
            Ok(Ok(true)) | Err(_) => return Err(given_up(&parcel.queue, unsure)),
        }
        sent = send(shared, parcel);
        drop(tell(shared, parcel));
    }
}

/// There was no answer for too long.
fn given_up(queue: &NatsQueue, unsure: Option<Instant>) -> Error {
    let Some(_) = unsure else {
        return unreachable(queue);
    };
    Error::new(
        ErrorKind::Timeout,
        format!(
            "queue `{}` didn't answer, and might not know the message again by now",
            queue.name()
        ),
    )
    .with_maybe_stored()
}

/// A full queue refuses a message. It may become a dead letter all the same.
pub(crate) async fn refused(shared: &Arc<Shared>, parcel: &Parcel) -> Result<Answer> {
    if limits::dead_letters(parcel.queue.declaration()) {
        later::leave_dead(shared, parcel, Death::MaxLength).await?;
    }
    Ok(Answer::Refused)
}

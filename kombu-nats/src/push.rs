//! A message on its way into its queues.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Death};
use kombu_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::api::DUPLICATE_WINDOW;
use crate::error::{self, code};
use crate::known::NatsQueue;
use crate::later;
use crate::limits;
use crate::line::{self, Stored};
use crate::message;
use crate::news::{self, UnderWay};
use crate::session::{PAUSE, Shared};

/// How long the same message may be sent again, and is stored once: as long as streams remember it, less what it may be on its
/// way.
pub(crate) const SAME: Duration = DUPLICATE_WINDOW.saturating_sub(Duration::from_secs(3));

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

/// Sends a message to all of its queues; those that have it already by this publish take it once.
pub(crate) fn start(
    shared: &Arc<Shared>,
    targets: &[NatsQueue],
    envelope: &Envelope,
) -> line::Answer<Answer> {
    let mut parcels = Vec::with_capacity(targets.len());
    for queue in targets {
        match parcel(shared, queue, envelope) {
            Ok(parcel) => parcels.push(parcel),
            Err(error) => return Box::pin(async move { Err(error) }),
        }
    }
    all(shared, parcels)
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

/// Sends parcels to their queues.
pub(crate) fn all(shared: &Arc<Shared>, mut parcels: Vec<Parcel>) -> line::Answer<Answer> {
    if parcels.len() == 1
        && let Some(parcel) = parcels.pop()
    {
        return one(shared, parcel);
    }
    let sending: Vec<_> = parcels
        .into_iter()
        .map(|parcel| one(shared, parcel))
        .collect();
    Box::pin(async move {
        let mut answer = Answer::Done;
        for sent in join_all(sending).await {
            match sent? {
                Answer::Stale => return Ok(Answer::Stale),
                Answer::Refused => answer = Answer::Refused,
                _ => {}
            }
        }
        Ok(answer)
    })
}

fn one(shared: &Arc<Shared>, mut parcel: Parcel) -> line::Answer<Answer> {
    let shared = shared.clone();
    if limits::is_limited(parcel.queue.declaration()) && !parcel.is_delayed {
        return limits::push(shared, parcel);
    }
    let at = Instant::now();
    let first = match parcel.envelope {
        // Cloning them is what a publish costs most.
        Some(_) => {
            let headers = std::mem::take(&mut parcel.headers);
            store(&shared, &parcel, headers)
        }
        None => send(&shared, &parcel),
    };
    let under_way = tell(&shared, &parcel);
    Box::pin(async move {
        let settled = settle(&shared, &parcel, first, at).await;
        drop(under_way);
        settled
    })
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

pub(crate) fn send(shared: &Arc<Shared>, parcel: &Parcel) -> line::Answer<Stored> {
    match parcel.headers(shared) {
        Ok(headers) => store(shared, parcel, headers),
        Err(error) => Box::pin(async move { Err(error) }),
    }
}

/// Takes the answer to a parcel, which was sent at this time. It goes again if its stream had to be made again, or has found a
/// leader; one that may be stored all the same, only as long as the stream would know it again.
pub(crate) async fn settle(
    shared: &Arc<Shared>,
    parcel: &Parcel,
    mut sent: line::Answer<Stored>,
    at: Instant,
) -> Result<Answer> {
    let mut is_unsure = false;
    let told = |error: Error, is_unsure| match is_unsure {
        true => error.with_maybe_stored(),
        false => error,
    };
    loop {
        match sent.await {
            Ok(Stored::At(_)) => return Ok(Answer::Done),
            Ok(Stored::Refused(refused)) if refused.err_code == code::STORE_FAILED => {
                return match limits::refuses(parcel.queue.declaration()) {
                    true => self::refused(shared, parcel).await,
                    false => Err(refused.during("a message")),
                };
            }
            Ok(Stored::Refused(refused)) => {
                let error = refused.during("a message");
                if !error::is_passing(&error) {
                    return Err(told(error, is_unsure));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Stored::Nowhere) => {}
            Err(error) if error::is_passing(&error) => is_unsure = true,
            Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                return Err(error.with_maybe_stored());
            }
            Err(error) => return Err(told(error, is_unsure)),
        }
        // Whoever waits for it has a deadline.
        let repaired = shared.patiently(|| async {
            match is_unsure && at.elapsed() > SAME {
                true => Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "queue `{}` didn't answer, and wouldn't know the message again by now",
                        parcel.queue.name()
                    ),
                )),
                false => shared.repair(&parcel.queue).await,
            }
        });
        match repaired.await {
            Ok(true) => {}
            Ok(false) => return Ok(Answer::Stale),
            Err(error) => return Err(told(error, is_unsure)),
        }
        sent = send(shared, parcel);
        drop(tell(shared, parcel));
    }
}

/// A full queue refuses a message. It may become a dead letter all the same.
pub(crate) async fn refused(shared: &Arc<Shared>, parcel: &Parcel) -> Result<Answer> {
    if limits::dead_letters(parcel.queue.declaration()) {
        later::leave_dead(shared, parcel, Death::MaxLength).await?;
    }
    Ok(Answer::Refused)
}

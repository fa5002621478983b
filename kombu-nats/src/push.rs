//! A message on its way into its queues.

use std::sync::Arc;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Death};
use kombu_core::{ErrorKind, Result};

use crate::error::code;
use crate::known::NatsQueue;
use crate::later;
use crate::limits;
use crate::line::{self, Stored};
use crate::message;
use crate::session::Shared;

/// What a stream is told of a message.
pub(crate) struct Parcel {
    pub(crate) queue: NatsQueue,
    pub(crate) subject: Subject,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
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
        shared.agenda.look_in(queue.name(), left);
    }
    Ok(Parcel {
        queue: queue.clone(),
        subject,
        headers,
        body: envelope.body().clone(),
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

fn one(shared: &Arc<Shared>, parcel: Parcel) -> line::Answer<Answer> {
    let shared = shared.clone();
    if limits::is_limited(parcel.queue.declaration()) && !is_delayed(&parcel) {
        return limits::push(shared, parcel);
    }
    let first = send(&shared, &parcel);
    Box::pin(async move { settle(&shared, &parcel, first).await })
}

fn is_delayed(parcel: &Parcel) -> bool {
    parcel.headers.get(message::DUE).is_some()
}

pub(crate) fn send(shared: &Shared, parcel: &Parcel) -> line::Answer<Stored> {
    shared.line.store(
        parcel.subject.clone(),
        Some(parcel.headers.clone()),
        parcel.body.clone(),
    )
}

/// Takes the answer to a parcel, which goes again if its stream had to be made again.
pub(crate) async fn settle(
    shared: &Arc<Shared>,
    parcel: &Parcel,
    mut sent: line::Answer<Stored>,
) -> Result<Answer> {
    loop {
        let stored = match sent.await {
            Ok(stored) => stored,
            Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                return Err(error.with_maybe_stored());
            }
            Err(error) => return Err(error),
        };
        match stored {
            Stored::At(_) => return Ok(Answer::Done),
            Stored::Refused(refused) if refused.err_code == code::STORE_FAILED => {
                return match limits::refuses(parcel.queue.declaration()) {
                    true => self::refused(shared, parcel).await,
                    false => Err(refused.during("a message")),
                };
            }
            Stored::Refused(refused) => return Err(refused.during("a message")),
            Stored::Nowhere => {}
        }
        if !shared.repair(&parcel.queue).await? {
            return Ok(Answer::Stale);
        }
        sent = send(shared, parcel);
    }
}

/// A full queue refuses a message. It may become a dead letter all the same.
pub(crate) async fn refused(shared: &Arc<Shared>, parcel: &Parcel) -> Result<Answer> {
    if limits::dead_letters(parcel.queue.declaration()) {
        later::leave_dead(shared, parcel, Death::MaxLength).await?;
    }
    Ok(Answer::Refused)
}

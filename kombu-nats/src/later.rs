//! Messages that wait in a stream of their own: delayed ones go to their queues when they are due, and dead ones to whoever can
//! move them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use kombu_core::virt::Death;
use kombu_core::{ErrorKind, Result};
use tokio::time::{Instant, timeout, timeout_at};

use crate::api;
use crate::hold::{ACK, Fetched};
use crate::known::NatsQueue;
use crate::line::Stored;
use crate::message;
use crate::push::{self, Parcel};
use crate::session::{SILENCE, Shared};

/// How many are taken at once.
const BATCH: usize = 64;
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
        Stored::Nowhere => Err(crate::error::unexpected("a dead message")),
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

async fn move_due(shared: &Arc<Shared>) -> Result<()> {
    let line = &shared.line;
    let inbox = line.inbox();
    let mut arrivals = line.listen(inbox.clone())?;
    let stream = line.layout.later();
    let pull = line.pull_subject(&stream, &api::consumer(0));
    let mut next: Option<Instant> = None;
    loop {
        // Armed before the look that finds nothing.
        let mut doorbell = line.listen_once(line.layout.later_news().into())?;
        let mut came = 0;
        {
            // The end of the session waits for what was taken here.
            let Ok(_taking) = shared.leaving.try_read() else {
                return Ok(());
            };
            next = next.filter(|next| *next > Instant::now());
            line.tell_with_reply(pull.clone(), inbox.clone(), api::pull(BATCH));
            while came < BATCH {
                match timeout(SILENCE, arrivals.next()).await {
                    Ok(Some(message)) if message.status.is_none() => {
                        came += 1;
                        match take(shared, message).await {
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
async fn take(shared: &Arc<Shared>, message: Message) -> Result<Option<Instant>> {
    let line = &shared.line;
    // The last token of its subject is the stream that it is for.
    let stream = message
        .subject
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .to_owned();
    let Some(mut fetched) = Fetched::of(message) else {
        return Ok(None);
    };
    let Some((due, to)) = message::due(fetched.headers.as_ref()) else {
        // Not ours.
        line.tell(fetched.ack, ACK);
        return Ok(None);
    };
    let to = Subject::from(to);
    let left = Duration::from_nanos((due * 1_000_000).saturating_sub(shared.clock.now()));
    if left > SOON {
        let nak = format!(r#"-NAK {{"delay":{}}}"#, api::nanoseconds(left));
        line.tell(fetched.ack, nak.into());
        return Ok(Instant::now().checked_add(left + Duration::from_millis(1)));
    }
    tokio::time::sleep(left).await;
    let mut queue = shared.known.lock().queue_of(&stream);
    if queue.is_none() {
        shared.catch_up().await?;
        queue = shared.known.lock().queue_of(&stream);
    }
    let (Some(queue), Some(headers)) = (queue, fetched.headers.take()) else {
        line.tell(fetched.ack, ACK);
        return Ok(None);
    };
    let reason = headers.get(message::DEATH).cloned();
    let headers = message::without(&headers, &[message::DUE, message::TO, message::DEATH]);
    let reason = reason.and_then(|reason| {
        let mut all = DEATHS.into_iter();
        all.find(|death| death.as_str() == reason.as_str())
    });
    if let Some(death) = reason {
        fetched.headers = Some(headers);
        let died = fetched.delivered.stored;
        shared.take_in_dead(&queue, fetched, death, died);
        return Ok(None);
    }
    send(
        shared,
        queue,
        to,
        headers,
        fetched.body,
        fetched.delivered.position,
    )
    .await?;
    line.tell(fetched.ack, ACK);
    Ok(None)
}

async fn send(
    shared: &Arc<Shared>,
    queue: NatsQueue,
    subject: Subject,
    mut headers: async_nats::HeaderMap,
    body: Bytes,
    position: u64,
) -> Result<()> {
    message::replace_id(&mut headers, &format!("later:{position}"));
    if let Some(left) = queue.time_to_live(message::expiration(Some(&headers))) {
        shared.expires_in(&queue, left);
    }
    let parcel = Parcel::new(queue, subject, headers, body);
    push::all(shared, vec![parcel]).await.map(drop)
}

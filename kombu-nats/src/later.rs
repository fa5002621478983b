//! Delayed messages: they wait in a stream of their own, and go to their queues when they are due.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures_util::StreamExt;
use kombu_core::Result;

use crate::api;
use crate::hold::{ACK, Fetched};
use crate::message;
use crate::push;
use crate::session::Shared;

/// How many are taken at once.
const BATCH: usize = 64;
/// How long the server waits for one.
const WAIT: Duration = Duration::from_secs(20);
/// What is due as soon is waited for here.
const SOON: Duration = Duration::from_millis(20);

/// Moves what is due, until the session is over.
pub(crate) async fn serve(shared: Arc<Shared>) -> Result<()> {
    let line = &shared.line;
    let stream = line.layout.later();
    let inbox = line.inbox();
    let mut arrivals = line.listen(inbox.clone())?;
    let subject = line.pull_subject(&stream, &api::consumer(0));
    let wait = api::nanoseconds(WAIT);
    loop {
        let pull = format!(r#"{{"batch":{BATCH},"expires":{wait}}}"#);
        line.tell_with_reply(subject.clone(), inbox.clone(), pull.into());
        let mut came = 0;
        while came < BATCH {
            let next = tokio::time::timeout(WAIT + Duration::from_secs(2), arrivals.next()).await;
            match next {
                Ok(Some(message)) if message.status.is_none() => {
                    came += 1;
                    take(&shared, message).await?;
                }
                Ok(Some(message)) => {
                    let status = message.status.map_or(0, |status| status.as_u16());
                    if !matches!(status, 404 | 408) {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        // The stream, or its consumer, may be gone.
                        api::create_shared(line, &shared.place).await?;
                    }
                    break;
                }
                Ok(None) => return Err(line.loss()),
                Err(_) => break,
            }
        }
    }
}

async fn take(shared: &Arc<Shared>, message: Message) -> Result<()> {
    let line = &shared.line;
    // The last token of its subject is the stream that it is for.
    let stream = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
    let Some(fetched) = Fetched::of(message) else {
        return Ok(());
    };
    let Some((due, to)) = message::due(fetched.headers.as_ref()) else {
        // Not ours.
        line.tell(fetched.ack, ACK);
        return Ok(());
    };
    let left = Duration::from_nanos((due * 1_000_000).saturating_sub(shared.clock.now()));
    if left > SOON {
        let nak = format!(r#"-NAK {{"delay":{}}}"#, api::nanoseconds(left));
        line.tell(fetched.ack, nak.into());
        return Ok(());
    }
    tokio::time::sleep(left).await;
    let Some(headers) = &fetched.headers else {
        return Ok(());
    };
    let mut headers = message::without(headers, &[message::DUE, message::TO]);
    message::replace_id(&mut headers, &format!("later:{}", fetched.delivered.position));
    let mut queue = shared.known.lock().queue_of(&stream);
    if queue.is_none() {
        shared.catch_up().await?;
        queue = shared.known.lock().queue_of(&stream);
    }
    if let Some(queue) = queue {
        if let Some(left) = queue.time_to_live(message::expiration(Some(&headers))) {
            shared.agenda.look_in(queue.name(), left);
        }
        let parcel = push::Parcel {
            queue,
            subject: to.into(),
            headers,
            body: fetched.body,
        };
        push::all(shared, vec![parcel]).await?;
    }
    line.tell(fetched.ack, ACK);
    Ok(())
}

//! Removes what is ready in a queue. The stream's own purge would take what is unsettled as well, so it is taken and
//! acknowledged, in batches.

use std::sync::Arc;

use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use kombu_core::Result;
use tokio::time::timeout;

use crate::api;
use crate::error;
use crate::hold::{self, ACK, Fetched};
use crate::known::NatsQueue;
use crate::session::{SILENCE, Shared, to_the_end};

/// How many are taken at once, and how many bytes unless a single one has more.
const BATCH: usize = 500;
const MAX_BYTES: usize = 8 << 20;

/// What one batch was.
struct Purged {
    count: u64,
    /// The furthest of them.
    position: u64,
    /// When the server has answered this, it has removed all of them.
    last: Option<Subject>,
}

/// Removes what is ready now: what comes meanwhile may stay.
pub(crate) async fn purge(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<u64> {
    shared.returns.idle(shared, queue).await;
    let end = loop {
        match api::stream_info(&shared.line, queue.stream(), None).await? {
            Ok(info) => break info.state.last_seq,
            Err(refused) if !refused.is_missing() => return Err(refused.during("a purge")),
            Err(_) if shared.repair(queue).await? => {}
            Err(_) => return Err(error::missing_queue(queue.name())),
        }
    };
    let mut count = 0;
    let mut last = None;
    for level in (0..queue.levels()).rev() {
        loop {
            let (shared, queue) = (shared.clone(), queue.clone());
            // What is taken has to be removed, or it comes again only when the server gives it up.
            let batch = to_the_end(async move { purge_batch(&shared, &queue, level).await });
            let batch = batch.await?;
            count += batch.count;
            last = batch.last.or(last);
            if batch.count == 0 || batch.position > end {
                break;
            }
        }
    }
    if let Some(last) = last {
        hold::barrier(&shared.line, last).await?;
    }
    Ok(count)
}

async fn purge_batch(shared: &Arc<Shared>, queue: &NatsQueue, level: u8) -> Result<Purged> {
    let many = format!(r#"{{"batch":{BATCH},"max_bytes":{MAX_BYTES},"no_wait":true}}"#);
    let (purged, is_too_large) = pull(shared, queue, level, many.into(), BATCH).await?;
    match purged.count == 0 && is_too_large {
        true => Ok(pull(shared, queue, level, api::pull(1), 1).await?.0),
        false => Ok(purged),
    }
}

/// Removes what one pull brings; and whether a message was too large for it.
async fn pull(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    level: u8,
    request: Bytes,
    count: usize,
) -> Result<(Purged, bool)> {
    let line = &shared.line;
    let inbox = line.inbox();
    let mut arrivals = line.listen(inbox.clone())?;
    let subject = line.pull_subject(queue.stream(), &api::consumer(level));
    line.tell_with_reply(subject, inbox, request);
    let mut purged = Purged {
        count: 0,
        position: 0,
        last: None,
    };
    while purged.count < count as u64 {
        let message = match timeout(SILENCE, arrivals.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(line.loss()),
            Err(_) => return Err(error::silence("a purge")),
        };
        match message.status {
            None => {}
            Some(StatusCode::NO_RESPONDERS) => return Err(error::nobody("a purge")),
            Some(status) => return Ok((purged, status.as_u16() == 409)),
        }
        let Some(fetched) = Fetched::of(message) else {
            continue;
        };
        shared.see(queue, &fetched);
        line.tell(fetched.ack.clone(), ACK);
        purged.count += 1;
        purged.position = purged.position.max(fetched.delivered.position);
        purged.last = Some(fetched.ack);
    }
    Ok((purged, false))
}

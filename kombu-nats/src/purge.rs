//! Removes what is ready in a queue. The stream's own purge would take what is unsettled as well, so it is taken and
//! acknowledged, in batches.

use std::sync::Arc;

use async_nats::Subject;
use kombu_core::Result;

use crate::api;
use crate::error;
use crate::hold::{self, ACK};
use crate::known::NatsQueue;
use crate::reader::{FIRST, MAX_BYTES, Pulls};
use crate::session::{Looked, Shared, to_the_end};

/// How many are taken at once.
const BATCH: usize = 500;

/// What one batch was.
struct Purged {
    count: u64,
    /// The furthest of them.
    position: u64,
    /// The largest of them.
    size: usize,
    /// When the server has answered this, it has removed all of them.
    last: Option<Subject>,
}

/// Removes what is ready now: what comes meanwhile may stay.
pub(crate) async fn purge(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<u64> {
    shared.returns.idle(shared, queue).await;
    let end = shared.patiently(|| last_position(shared, queue)).await?;
    let mut count = 0;
    for level in (0..queue.levels()).rev() {
        let mut last = None;
        let mut pulls = Pulls::open(shared, queue, level)?;
        let (mut most, mut size) = (FIRST, 1);
        loop {
            let wanted = most.min(MAX_BYTES / size).max(1);
            let (taking, of) = (shared.clone(), queue.clone());
            // What is taken has to be removed, or it comes again only when the server gives it up.
            let purging = to_the_end(async move {
                let batch = purge_batch(&taking, &of, &mut pulls, wanted).await?;
                Ok((batch, pulls))
            });
            let batch: Purged;
            (batch, pulls) = purging.await?;
            count += batch.count;
            last = batch.last.or(last);
            (most, size) = ((2 * most).min(BATCH), size.max(batch.size));
            if !pulls.is_answered() {
                // Its consumer is gone, or it takes its time: then what it sends comes before its answer to this.
                let looking = shared.patiently(|| shared.look_at_whole(queue));
                if looking.await? == Looked::Gone {
                    return Err(error::missing_queue(queue.name()));
                }
                pulls.forget_silent();
            } else if batch.count == 0 || batch.position > end {
                break;
            }
        }
        // Each level has a consumer of its own.
        if let Some(last) = last {
            shared
                .patiently(|| hold::barrier(&shared.line, last.clone()))
                .await?;
        }
    }
    Ok(count)
}

/// The position of what was published last.
async fn last_position(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<u64> {
    loop {
        match api::stream_info(&shared.line, queue.stream(), None).await? {
            Ok(info) => return Ok(info.state.last_seq),
            Err(refused) if !refused.is_missing() => return Err(refused.during("a purge")),
            Err(_) if shared.repair(queue).await? => {}
            Err(_) => return Err(error::missing_queue(queue.name())),
        }
    }
}

/// Removes what one pull brings.
async fn purge_batch(
    shared: &Arc<Shared>,
    queue: &NatsQueue,
    pulls: &mut Pulls,
    count: usize,
) -> Result<Purged> {
    let mut purged = Purged {
        count: 0,
        position: 0,
        size: 0,
        last: None,
    };
    for fetched in pulls.take(count).await? {
        shared.see(queue, &fetched);
        shared.line.tell(fetched.ack.clone(), ACK);
        purged.count += 1;
        purged.position = purged.position.max(fetched.delivered.position);
        purged.size = purged.size.max(fetched.body.len());
        purged.last = Some(fetched.ack);
    }
    Ok(purged)
}

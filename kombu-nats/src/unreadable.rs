//! Messages whose headers aren't text.
//!
//! Anybody may publish one. The client takes its frame for a broken line and ends the session, whoever pulls it, each time that the
//! server hands it out again. So where two sessions in a row were lost while they pulled from the same queue, the next one looks at
//! what the server has handed out, and stores such a message anew, at the end of its queue, as something that can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::header::HeaderName;
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use kombu_core::Result;
use parking_lot::Mutex;

use crate::api::{self, Raw};
use crate::hold::ACK;
use crate::known::NatsQueue;
use crate::line::Stored;
use crate::session::Shared;

/// How soon after each other two sessions are lost to the same message: it comes again after half of that.
const SOON: Duration = Duration::from_secs(60);
/// How many messages are looked at together.
const SOME: u64 = 16;
/// How many are looked at.
const MOST: u64 = 10_000;

/// When a session was lost that pulled from a stream, and how many were before it.
static LOST: Mutex<BTreeMap<Arc<str>, (Instant, u32)>> = Mutex::new(BTreeMap::new());

/// A session was lost while it pulled from these streams.
pub(crate) fn take_note(streams: impl Iterator<Item = Arc<str>>) {
    let now = Instant::now();
    let mut lost = LOST.lock();
    lost.retain(|_, (at, _)| *at + SOON > now);
    for stream in streams {
        let (at, times) = lost.entry(stream).or_insert((now, 0));
        *at = now;
        *times += 1;
    }
}

/// Looks at the queues at which sessions were lost again and again.
pub(crate) async fn look(shared: Arc<Shared>) -> Result<()> {
    let suspects: Vec<Arc<str>> = {
        let lost = LOST.lock();
        let often = lost.iter().filter(|(_, (_, times))| *times > 1);
        often.map(|(stream, _)| stream.clone()).collect()
    };
    if suspects.is_empty() {
        return Ok(());
    }
    shared.catch_up().await?;
    for stream in suspects {
        let queue = shared.known.lock().queue_of(&stream);
        if let Some(queue) = queue {
            look_at(&shared, &queue).await?;
            LOST.lock().remove(&stream);
        }
    }
    Ok(())
}

async fn look_at(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<()> {
    for level in 0..queue.levels() {
        let look = api::consumer_info(&shared.line, queue.stream(), level).await?;
        let Ok(look) = look else { continue };
        let last = look.delivered.stream_seq;
        let first = (look.ack_floor.stream_seq + 1).max(last.saturating_sub(MOST));
        let mut from = first;
        while from <= last {
            let to = (from + SOME - 1).min(last);
            let asking =
                (from..=to).map(|position| api::message(&shared.line, queue.stream(), position));
            for answer in join_all(asking).await {
                if let Ok(raw) = answer?
                    && !raw.is_text
                {
                    store_anew(shared, queue, level, raw).await?;
                }
            }
            from = to + 1;
        }
    }
    Ok(())
}

async fn store_anew(shared: &Arc<Shared>, queue: &NatsQueue, level: u8, raw: Raw) -> Result<()> {
    let line = &shared.line;
    let mut headers = HeaderMap::new();
    for text in raw.headers.lines().skip(1) {
        if let Some((name, value)) = text.split_once(':')
            && let Ok(name) = name.parse::<HeaderName>()
        {
            headers.append(name, value.trim());
        }
    }
    // Two sessions may be at it.
    headers.insert("Nats-Msg-Id", format!("text:{}", raw.position));
    let subject = Subject::from(raw.subject);
    let storing = line.store(subject, Some(headers), Bytes::from(raw.payload));
    match storing.await? {
        Stored::At(_) => {}
        Stored::Refused(refused) => return Err(refused.during("a message")),
        Stored::Nowhere => return Ok(()),
    }
    // It was handed out, and nobody could read where to acknowledge it.
    let (stream, position) = (queue.stream(), raw.position);
    let consumer = api::consumer(level);
    let ack = format!(
        "$JS.ACK.{stream}.{consumer}.1.{position}.{position}.{}.0",
        raw.stored
    );
    let asking = line.ask(ack.into(), None, ACK, "an acknowledgement");
    asking.await?;
    shared.tell_repaired(
        queue,
        "a message had headers that aren't UTF-8, and is stored anew with what can be read of them",
    );
    Ok(())
}

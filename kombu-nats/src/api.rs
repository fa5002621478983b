//! JetStream's interface: streams, consumers, and messages that are looked at.

use std::time::{Duration, Instant};

use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use futures_util::StreamExt;
use kombu_core::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{self, ApiError, code};
use crate::known::NatsQueue;
use crate::line::{Answer, Line, PATIENCE};
use crate::transport::Place;
use crate::unreadable;

/// How long a batch may be silent until it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

type Asked<T> = std::result::Result<T, ApiError>;

/// How long the holder of a message may be silent.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long a stream remembers which publishes it has. What died, or was delayed, is moved again where its mover was lost before it
/// acknowledged it, which is when the server gives it to somebody else.
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(45);
const _: () = assert!(ACK_WAIT.as_secs() + 10 < DUPLICATE_WINDOW.as_secs());

/// A message as it lies in a stream.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) position: u64,
    /// When it was stored, in ns since 1970 by the server's clock.
    pub(crate) stored: u64,
    pub(crate) subject: String,
    pub(crate) headers: String,
    /// Whether the client could read it, if it were handed out.
    pub(crate) is_text: bool,
    pub(crate) payload: Vec<u8>,
}

#[derive(Deserialize)]
struct RawAnswer {
    message: RawText,
}

#[derive(Deserialize)]
struct RawText {
    seq: u64,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
    time: String,
}

fn ask_for(line: &Line, stream: &str, which: &Value) -> Answer<Asked<Raw>> {
    let subject = format!("STREAM.MSG.GET.{stream}");
    let asking = line.api::<RawAnswer>(&subject, which, "a message");
    Box::pin(async move {
        Ok(match asking.await? {
            Ok(RawAnswer { message }) => {
                let headers = base64(&message.hdrs);
                Ok(Raw {
                    position: message.seq,
                    stored: crate::clock::parse(&message.time),
                    subject: message.subject,
                    is_text: unreadable::is_readable(&headers),
                    headers: String::from_utf8_lossy(&headers).into_owned(),
                    payload: base64(&message.data),
                })
            }
            Err(refused) => Err(refused),
        })
    })
}

/// The last message with this subject.
pub(crate) fn last_message(line: &Line, stream: &str, subject: &str) -> Answer<Asked<Raw>> {
    ask_for(line, stream, &json!({ "last_by_subj": subject }))
}

/// The message at a position.
pub(crate) fn message(line: &Line, stream: &str, position: u64) -> Answer<Asked<Raw>> {
    ask_for(line, stream, &json!({ "seq": position }))
}

/// The first message with this subject at a position or behind it.
pub(crate) fn next_message(
    line: &Line,
    stream: &str,
    subject: &str,
    position: u64,
) -> Answer<Asked<Raw>> {
    ask_for(
        line,
        stream,
        &json!({ "seq": position, "next_by_subj": subject }),
    )
}

/// Removes a message of a stream, if it is there.
pub(crate) async fn remove(line: &Line, stream: &str, position: u64) -> Result<()> {
    let subject = format!("STREAM.MSG.DELETE.{stream}");
    let request = json!({ "seq": position, "no_erase": true });
    // Refused if somebody else was faster.
    let asking = line.api::<Value>(&subject, &request, "a message that is over");
    asking.await.map(drop)
}

#[derive(Deserialize)]
struct Created {
    name: String,
    #[serde(default)]
    num_pending: u64,
}

/// The messages from a position on, in order, as far as they come: those that are replaced meanwhile don't, and a purge may end
/// it.
pub(crate) async fn messages_from(line: &Line, stream: &str, position: u64) -> Result<Vec<Raw>> {
    let config = json!({
        "stream_name": stream,
        "config": {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": position,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": nanoseconds(Duration::from_secs(10)),
            "num_replicas": 1,
            "mem_storage": true,
        }
    });
    let subject = format!("CONSUMER.CREATE.{stream}");
    let created = line.api::<Created>(&subject, &config, "a look at all declarations");
    let created = created
        .await?
        .map_err(|refused| refused.during("a look at all declarations"))?;
    let inbox = line.inbox();
    let mut messages = line.listen(inbox.clone())?;
    let pull = line.pull_subject(stream, &created.name);
    let mut found = Vec::new();
    let mut heard = Instant::now();
    'asking: while (found.len() as u64) < created.num_pending {
        let left = created.num_pending - found.len() as u64;
        let batch = left.min(1000);
        let request = json!({ "batch": batch, "no_wait": true }).to_string();
        line.tell_with_reply(pull.clone(), inbox.clone(), request.into());
        for _ in 0..batch {
            let next = match tokio::time::timeout(ASK_AGAIN, messages.next()).await {
                Ok(next) => next,
                // Of what a purge takes from a batch, the server says nothing until it is asked for more.
                Err(_) if heard.elapsed() < PATIENCE => break,
                Err(_) => return Err(error::silence("a look at all declarations")),
            };
            let Some(message) = next else {
                return Err(line.loss());
            };
            heard = Instant::now();
            match message.status {
                None => {}
                // Those that were replaced meanwhile don't come.
                Some(StatusCode::NOT_FOUND) => break 'asking,
                Some(_) => return Err(error::nobody("a look at all declarations")),
            }
            let reply = message.reply.as_deref().unwrap_or_default();
            if let Some(delivered) = Delivered::of(reply) {
                found.push(Raw {
                    position: delivered.position,
                    stored: delivered.stored,
                    subject: message.subject.to_string(),
                    headers: String::new(),
                    is_text: true,
                    payload: message.payload.to_vec(),
                });
            }
        }
    }
    let subject = format!("CONSUMER.DELETE.{stream}.{}", created.name);
    drop(line.api::<Value>(&subject, &Value::Null, "the end of a look"));
    Ok(found)
}

/// What the subject that acknowledges a message says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Delivered {
    /// How often it was delivered, this time included.
    pub(crate) count: u32,
    pub(crate) position: u64,
    /// When it was stored, in ns since 1970 by the server's clock.
    pub(crate) stored: u64,
}

impl Delivered {
    pub(crate) fn of(reply: &str) -> Option<Self> {
        let parts = reply.split('.').count();
        // With a domain and an account's hash before the stream, since 2.4.
        let skipped = match parts {
            0..9 => return None,
            9 => 4,
            _ => 6,
        };
        let mut parts = reply.split('.').skip(skipped);
        let mut number = || parts.next()?.parse::<u64>().ok();
        let (count, position, _) = (number()?, number()?, number()?);
        Some(Delivered {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            position,
            stored: number()?,
        })
    }
}

/// How the subject begins that acknowledges a message: with the stream and the consumer that it came from.
pub(crate) fn consumer_of(ack: &str) -> &str {
    let skipped = match ack.split('.').count() {
        9 => 3,
        _ => 5,
    };
    let end = ack.match_indices('.').nth(skipped);
    end.map_or(ack, |(end, _)| &ack[..end])
}

/// The stream that a message lies in, by the subject that acknowledges it.
pub(crate) fn stream_of(ack: &str) -> &str {
    consumer_of(ack).rsplit('.').nth(1).unwrap_or_default()
}

/// The level of the consumer that a message came from, by the subject that acknowledges it.
pub(crate) fn level_of(ack: &str) -> u8 {
    let consumer = consumer_of(ack).rsplit('.').next().unwrap_or_default();
    let level = consumer.strip_prefix('c').map(str::parse);
    level.and_then(std::result::Result::ok).unwrap_or(0)
}

/// What a consumer says of itself.
#[derive(Debug, Deserialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) delivered: Position,
    pub(crate) ack_floor: Position,
    pub(crate) num_ack_pending: u64,
    pub(crate) num_pending: u64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Position {
    #[serde(default)]
    pub(crate) stream_seq: u64,
}

pub(crate) fn consumer_info(line: &Line, stream: &str, level: u8) -> Answer<Asked<ConsumerInfo>> {
    let subject = format!("CONSUMER.INFO.{stream}.{}", consumer(level));
    line.api(&subject, &Value::Null, "a look at a queue")
}

/// The name of the consumer of a level.
pub(crate) fn consumer(level: u8) -> String {
    format!("c{level}")
}

#[derive(Deserialize)]
pub(crate) struct StreamInfo {
    pub(crate) state: StreamState,
}

#[derive(Deserialize)]
pub(crate) struct StreamState {
    #[serde(default)]
    pub(crate) messages: u64,
    /// With headers, and what the stream needs itself.
    #[serde(default)]
    pub(crate) bytes: u64,
    #[serde(default)]
    pub(crate) first_seq: u64,
    #[serde(default)]
    pub(crate) last_seq: u64,
    #[serde(default)]
    pub(crate) subjects: std::collections::HashMap<String, u64>,
}

pub(crate) fn stream_info(
    line: &Line,
    stream: &str,
    subjects: Option<&str>,
) -> Answer<Asked<StreamInfo>> {
    let subject = format!("STREAM.INFO.{stream}");
    let filter = match subjects {
        Some(filter) => json!({ "subjects_filter": filter }),
        None => Value::Null,
    };
    line.api(&subject, &filter, "a look at a stream")
}

pub(crate) fn delete_stream(line: &Line, stream: &str) -> Answer<Asked<Value>> {
    let subject = format!("STREAM.DELETE.{stream}");
    line.api(&subject, &Value::Null, "the end of a queue")
}

/// Makes a stream, unless it is there.
async fn create_stream(line: &Line, config: &Value) -> Result<Asked<()>> {
    let name = config["name"].as_str().unwrap_or_default();
    let subject = format!("STREAM.CREATE.{name}");
    Ok(
        match line.api::<Value>(&subject, config, "a stream").await? {
            Ok(_) => Ok(()),
            // With other attributes, of which only the first position differs, from whoever makes it again.
            Err(refused) if refused.err_code == code::STREAM_IN_USE => Ok(()),
            Err(refused) => Err(refused),
        },
    )
}

/// Makes what everybody shares: the two buckets, and the stream of what is delayed.
pub(crate) async fn create_shared(line: &Line, place: &Place) -> Result<()> {
    for bucket in [line.layout.topology(), line.layout.sessions()] {
        let config = json!({
            "name": bucket.stream,
            "subjects": [bucket.subject(">")],
            "max_msgs_per_subject": 1,
            "discard": "new",
            "storage": "file",
            "num_replicas": place.replicas,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "max_age": 0, "max_bytes": -1, "max_msgs": -1, "max_consumers": -1, "max_msg_size": -1,
            "retention": "limits",
            "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
        });
        ensure_stream(line, &config).await?;
    }
    let later = line.layout.later();
    let subjects = line.layout.later_subject("*");
    ensure_stream(
        line,
        &work_queue(&later, &subjects, "file", place.replicas, None),
    )
    .await?;
    if let Ok(_there) = consumer_info(line, &later, 0).await? {
        return Ok(());
    }
    create_consumer(line, &later, 0, "")
        .await?
        .map_err(|refused| refused.during("the consumer of what is delayed"))
}

/// Makes a stream that is mostly there. One that is asked for again is made by whoever leads it, who may be missing; those who
/// are asked for it answer.
async fn ensure_stream(line: &Line, config: &Value) -> Result<()> {
    let name = config["name"].as_str().unwrap_or_default();
    match stream_info(line, name, None).await? {
        Ok(_) => return Ok(()),
        Err(refused) if refused.is_missing() => {}
        Err(refused) => return Err(refused.during("a look at a stream")),
    }
    create_stream(line, config)
        .await?
        .map_err(|refused| refused.during("a stream"))
}

fn work_queue(
    name: &str,
    subjects: &str,
    storage: &str,
    replicas: usize,
    max: Option<u64>,
) -> Value {
    json!({
        "name": name,
        "subjects": [subjects],
        "retention": "workqueue",
        "storage": storage,
        "num_replicas": replicas,
        "discard": if max.is_some() { "new" } else { "old" },
        "max_msgs": max.map_or(-1, |max| i64::try_from(max).unwrap_or(-1)),
        "max_age": 0, "max_bytes": -1, "max_consumers": -1, "max_msg_size": -1,
        "duplicate_window": nanoseconds(DUPLICATE_WINDOW),
    })
}

async fn create_consumer(line: &Line, stream: &str, level: u8, filter: &str) -> Result<Asked<()>> {
    let name = consumer(level);
    let mut config = json!({
        "stream_name": stream,
        "config": {
            "durable_name": name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": nanoseconds(ACK_WAIT),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 4096,
            "replay_policy": "instant",
        }
    });
    if !filter.is_empty() {
        config["config"]["filter_subject"] = filter.into();
    }
    let subject = format!("CONSUMER.DURABLE.CREATE.{stream}.{name}");
    let created = line.api::<Value>(&subject, &config, "the consumer of a queue");
    Ok(created.await?.map(drop))
}

/// Makes the stream of a queue, unless it is there. One that is made again begins at a position that none before it had.
pub(crate) async fn create_queue(
    line: &Line,
    place: &Place,
    queue: &NatsQueue,
    refused_above: Option<u64>,
    begins_at: Option<u64>,
) -> Result<Asked<()>> {
    let declaration = queue.declaration();
    let (storage, replicas) = place.of(declaration);
    let subjects = line.layout.subject(queue.name(), "*");
    let mut config = work_queue(queue.stream(), &subjects, storage, replicas, refused_above);
    if let Some(begins_at) = begins_at {
        // Servers older than 2.10 leave it alone.
        config["first_seq"] = begins_at.into();
    }
    create_stream(line, &config).await
}

/// Makes the consumers of a queue, unless they are there.
pub(crate) async fn create_consumers(line: &Line, queue: &NatsQueue) -> Result<Asked<()>> {
    for level in 0..queue.levels() {
        let filter: &Subject = queue.subject(level);
        let filter = if queue.levels() > 1 {
            filter.as_str()
        } else {
            ""
        };
        if let Err(refused) = create_consumer(line, queue.stream(), level, filter).await? {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(()))
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

/// The streams that keep what is published to a subject.
pub(crate) async fn streams_at(line: &Line, subject: &str) -> Result<Vec<String>> {
    let names = line.api::<Names>(
        "STREAM.NAMES",
        &json!({ "subject": subject }),
        "names of streams",
    );
    let names = names
        .await?
        .map_err(|refused| refused.during("names of streams"))?;
    Ok(names.streams.unwrap_or_default())
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What JSON holds in base 64; nothing if it isn't that.
fn base64(text: &str) -> Vec<u8> {
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.unwrap_or_default()
}

/// A pull that takes what is there.
pub(crate) fn pull(count: usize) -> Bytes {
    match count {
        1 => Bytes::from_static(br#"{"batch":1,"no_wait":true}"#),
        count => format!(r#"{{"batch":{count},"no_wait":true}}"#).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_a_delivery_is_read_in_both_forms() {
        let expected = Some(Delivered {
            count: 3,
            position: 17,
            stored: 1_600_000_000_000_000_000,
        });
        let old = "$JS.ACK.stream.c0.3.17.20.1600000000000000000.5";
        let new = "$JS.ACK.hub.Gd7q.stream.c0.3.17.20.1600000000000000000.5.x";
        assert_eq!(Delivered::of(old), expected);
        assert_eq!(Delivered::of(new), expected);
        assert_eq!(Delivered::of("somewhere.else"), None);
        assert_eq!(level_of(&old.replace("c0", "c7")), 7);
        assert_eq!(level_of(&new.replace("c0", "c7")), 7);
        assert_eq!(consumer_of(old), "$JS.ACK.stream.c0");
        assert_eq!(consumer_of(new), "$JS.ACK.hub.Gd7q.stream.c0");
        assert_eq!((stream_of(old), stream_of(new)), ("stream", "stream"));
    }
}

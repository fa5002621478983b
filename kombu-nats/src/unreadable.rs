//! Messages whose headers the client can't read.
//!
//! Anybody may publish one. The client takes its frame for a broken line and ends the session, whoever pulls it, each time that the
//! server hands it out again, and doesn't say why. So sessions that are lost while they pull from a queue leave a note, for all
//! programs; whoever finds one of late looks at what the server has handed out, and stores such a message anew, at the end of its
//! queue, as something that can be read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use kombu_core::Result;
use parking_lot::Mutex;

use crate::api::{self, Raw, nanoseconds};
use crate::error::{self, code};
use crate::hold::ACK;
use crate::known::NatsQueue;
use crate::line::{Line, Stored};
use crate::members;
use crate::message;
use crate::news;
use crate::session::Shared;

/// How soon after each other two sessions are lost to the same message: it comes again after half of that.
const SOON: Duration = Duration::from_secs(60);

/// What a note says: a session was lost; and then that somebody looks, which this is followed by the number of.
const LOST: &str = "lost";
const LOOKS: &str = "looks ";

/// When a session of this program was lost that pulled from a stream, and the server that it was with.
static PULLED: Mutex<BTreeMap<Arc<str>, (Instant, String)>> = Mutex::new(BTreeMap::new());

/// A session was lost while it pulled from these streams.
pub(crate) fn take_note(line: &Line, streams: impl Iterator<Item = Arc<str>>) {
    let now = Instant::now();
    let server = line.server();
    let mut pulled = PULLED.lock();
    pulled.retain(|_, (at, _)| *at + SOON > now);
    pulled.extend(streams.map(|stream| (stream, (now, server.clone()))));
}

/// The headers of a message, with what goes on in the next line.
fn fields(text: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines().skip(1) {
        match fields.last_mut() {
            Some(last) if goes_on && line.starts_with(char::is_whitespace) => last.push_str(line),
            _ if line.is_empty() => goes_on = false,
            _ => {
                fields.push(line.to_owned());
                goes_on = true;
            }
        }
    }
    fields
}

/// Whether the client can read a message with these headers, and takes it for one.
pub(crate) fn is_readable(headers: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(headers) else {
        return false;
    };
    // With a status, it isn't one.
    let begins = |line: &str| line.trim_end() == "NATS/1.0";
    text.lines().next().is_none_or(begins)
        && fields(text).iter().all(|field| {
            field.split_once(':').is_some_and(|(name, value)| {
                name.parse::<HeaderName>().is_ok() && value.trim().parse::<HeaderValue>().is_ok()
            })
        })
}

/// What can be read of headers.
fn readable(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in fields(text) {
        if let Some((name, value)) = field.split_once(':')
            && let Ok(name) = name.parse::<HeaderName>()
            && let Ok(value) = value.replace('\r', " ").trim().parse::<HeaderValue>()
        {
            headers.append(name, value);
        }
    }
    headers
}

/// Looks at the queues at which sessions were lost of late, here and elsewhere.
pub(crate) async fn look(shared: Arc<Shared>) -> Result<()> {
    let pulled = PULLED.lock().clone();
    if pulled.is_empty() {
        return Ok(());
    }
    shared.patiently(|| shared.catch_up()).await?;
    for (stream, (_, server)) in pulled {
        let Some(queue) = shared.known.lock().queue_of(&stream) else {
            continue;
        };
        PULLED.lock().remove(&stream);
        if shared.line.is_restarted(&server) {
            // That is why.
            continue;
        }
        let looking = async {
            if shared.patiently(|| is_second(&shared, &stream)).await?
                && shared.patiently(|| look_at(&shared, &queue)).await?
            {
                // From here on, it is another one.
                forget(&shared.line, &stream);
            }
            Ok(())
        };
        let looked: Result<()> = looking.await;
        if let Err(error) = looked {
            tracing::warn!(%error, queue = %queue.name(), "what ends sessions may be there");
        }
    }
    Ok(())
}

fn subject(line: &Line, stream: &str) -> String {
    line.layout.sessions().subject(&format!("l.{stream}"))
}

/// Nothing is left of a stream, or of what ended sessions there.
pub(crate) fn forget(line: &Line, stream: &str) {
    members::purge(line, &subject(line, stream));
}

/// Takes note of a lost session. Whether it is the second in a short time, and nobody else looks why.
async fn is_second(shared: &Shared, stream: &str) -> Result<bool> {
    let line = &shared.line;
    let subject = subject(line, stream);
    let bucket = line.layout.sessions();
    let (last, is_second) = match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) if shared.clock.now().saturating_sub(raw.stored) > nanoseconds(SOON) => {
            (raw.position, false)
        }
        Ok(raw) if looks(line, &raw.payload).await? => return Ok(false),
        Ok(raw) => (raw.position, true),
        Err(refused) if refused.is_missing() => (0, false),
        Err(refused) => return Err(refused.during("a note of a lost session")),
    };
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(last));
    let text = match is_second {
        true => format!("{LOOKS}{}", line.session),
        false => LOST.to_owned(),
    };
    match line.put(&subject, Some(headers), text.into()).await? {
        Stored::At(_) => Ok(is_second),
        // Somebody else was faster.
        Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => Ok(false),
        Stored::Refused(refused) => Err(refused.during("a note of a lost session")),
        Stored::Nowhere => Err(error::nobody("a note of a lost session")),
    }
}

/// Whether a note says that somebody else looks, who wasn't lost meanwhile.
async fn looks(line: &Line, note: &[u8]) -> Result<bool> {
    let note = std::str::from_utf8(note).ok();
    let looker = note.and_then(|note| note.strip_prefix(LOOKS)?.parse().ok());
    match looker {
        // Its answer was lost.
        Some(session) if session == line.session => Ok(false),
        Some(session) => Ok(members::sign(line, session)
            .await?
            .is_some_and(|sign| !sign.is_last)),
        None => Ok(false),
    }
}

/// Looks at what was handed out and isn't settled, one by one. Whether something was put right.
async fn look_at(shared: &Arc<Shared>, queue: &NatsQueue) -> Result<bool> {
    let mut was_there = false;
    for level in 0..queue.levels() {
        let look = api::consumer_info(&shared.line, queue.stream(), level).await?;
        let Ok(look) = look else { continue };
        let subject = match queue.levels() {
            1 => shared.line.layout.subject(queue.name(), "*"),
            _ => queue.subject(level).to_string(),
        };
        let mut next = look.ack_floor.stream_seq + 1;
        while next <= look.delivered.stream_seq {
            let message = api::next_message(&shared.line, queue.stream(), &subject, next).await?;
            let Ok(raw) = message else { break };
            next = raw.position + 1;
            if !raw.is_text && raw.position <= look.delivered.stream_seq {
                store_anew(shared, queue, level, raw).await?;
                was_there = true;
            }
        }
    }
    Ok(was_there)
}

async fn store_anew(shared: &Arc<Shared>, queue: &NatsQueue, level: u8, raw: Raw) -> Result<()> {
    let line = &shared.line;
    let mut headers = readable(&raw.headers);
    // Two sessions may be at it.
    headers.insert("Nats-Msg-Id", format!("text:{}", raw.position));
    let left = queue.time_to_live(message::expiration(Some(&headers)));
    let subject = Subject::from(raw.subject);
    let storing = line.store(subject, Some(headers), Bytes::from(raw.payload));
    let _under_way = news::tell(shared, queue);
    match storing.await? {
        Stored::At(_) => {}
        Stored::Refused(refused) => return Err(refused.during("a message")),
        Stored::Nowhere => return Err(error::nobody("a message")),
    }
    if let Some(left) = left {
        shared.expires_in(queue, left);
    }
    // It was handed out, and nobody could read where to acknowledge it.
    const WHAT: &str = "an acknowledgement";
    let (stream, position) = (queue.stream(), raw.position);
    let consumer = api::consumer(level);
    let ack = format!(
        "$JS.ACK.{stream}.{consumer}.1.{position}.{position}.{}.0",
        raw.stored
    );
    let acknowledging = shared.patiently_until(Instant::now() + SOON / 2, || {
        let asking = line.ask(ack.as_str().into(), None, ACK, WHAT);
        async move { asking.await?.map(drop).ok_or_else(|| error::nobody(WHAT)) }
    });
    acknowledging.await?;
    // The queue may have become too long.
    shared.look_after(queue, None);
    shared.tell_repaired(
        queue,
        "a message had headers that no client of NATS reads, and is stored anew with what can be read of them",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_readable_by_the_rules_of_the_client() {
        let all: [(&[u8], bool); 13] = [
            (b"", true),
            (b"NATS/1.0\r\n\r\n", true),
            (b"NATS/1.0\r\nName: Ren\xc3\xa9\r\nother:\r\n\r\n", true),
            (b"NATS/1.0\r\nName: one\r\n two: three\r\n\r\n", true),
            (b"NATS/1.0\r\nName: at the end\r\r\n\r\n", true),
            (b"NATS/1.0\r\nName: Ren\xe9\r\n\r\n", false),
            (b"NATS/1.0\r\nno colon\r\n\r\n", false),
            (b"NATS/1.0\r\nPr\xc3\xa9nom: x\r\n\r\n", false),
            (b"NATS/1.0\r\ntwo words: x\r\n\r\n", false),
            (b"NATS/1.0\r\nName: a\rb\r\n\r\n", false),
            (b"NATS/1.0\r\n\r\n goes on: x\r\n\r\n", false),
            (b"NATS/1.0 503\r\n\r\n", false),
            (b"NATS/2.0\r\n\r\n", false),
        ];
        for (headers, expected) in all {
            let text = String::from_utf8_lossy(headers);
            assert_eq!(is_readable(headers), expected, "{text:?}");
        }
    }

    #[test]
    fn of_headers_that_are_not_readable_the_others_stay() {
        let text =
            "NATS/1.0\r\nPr\u{e9}nom: x\r\nName: a\rb\r\nno colon\r\nlast: one\r\n two\r\n\r\n";
        let headers = readable(text);
        let value = |name: &str| headers.get(name).map(HeaderValue::as_str);
        assert_eq!(
            (value("Name"), value("last")),
            (Some("a b"), Some("one two"))
        );
        assert_eq!(headers.len(), 2);
    }
}

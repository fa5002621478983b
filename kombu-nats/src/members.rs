//! Who consumes from a queue, and which sessions live.
//!
//! The server knows neither. So each queue with consumers has a key that lists them, which is changed by whoever has read
//! it last, and each session has one that it writes again and again.

use std::time::Duration;

use async_nats::HeaderMap;
use kombu_core::{Error, ErrorKind, Name, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{self, ACK_WAIT, nanoseconds};
use crate::error::{self, code};
use crate::known::NatsQueue;
use crate::line::{Line, Stored};
use crate::message;
use crate::names::encoded;
use crate::session::Shared;

/// What the key of a turn says while it is somebody's.
const IN_TURN: &[u8] = b"1";
/// How long a turn may take.
const TURN: Duration = Duration::from_secs(5);
/// How long whoever waits for a turn looks away at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How often what a server forgot is cleared when it has begun, and how long that is good for.
pub(crate) const CLEARINGS: u32 = 3;
pub(crate) const CLEARED_AGAIN: Duration = ACK_WAIT.saturating_add(Duration::from_secs(2));
const CLEARED: Duration = Duration::from_secs(600);

/// The consumers of a queue, those first that came first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Members {
    /// The stream of the queue: those of an earlier one of that name don't count.
    stream: String,
    pub(crate) consumers: Vec<Member>,
}

/// A consumer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) session: u64,
    /// Its number among those of the session.
    pub(crate) number: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) exclusive: bool,
}

impl Members {
    pub(crate) fn has(&self, session: u64, number: u64) -> bool {
        let mut all = self.consumers.iter();
        all.any(|member| (member.session, member.number) == (session, number))
    }

    /// Whether this consumer is the one that is served, where only one is.
    pub(crate) fn is_first(&self, session: u64, number: u64) -> bool {
        let first = self.consumers.first();
        first.is_some_and(|member| (member.session, member.number) == (session, number))
    }
}

fn key(queue: &NatsQueue) -> String {
    format!("u.{}", encoded(queue.name()))
}

/// The consumers of a queue, and the position of what says so; 0 if nothing does.
pub(crate) async fn of(line: &Line, queue: &NatsQueue) -> Result<(Members, u64)> {
    let bucket = line.layout.sessions();
    let subject = bucket.subject(&key(queue));
    match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => {
            let mut members: Members = match raw.payload.is_empty() {
                true => Members::default(),
                false => serde_json::from_slice(&raw.payload)
                    .map_err(|problem| error::unexpected("for consumers").with_source(problem))?,
            };
            if members.stream != **queue.stream() {
                members = Members::default();
            }
            members.stream = queue.stream().to_string();
            Ok((members, raw.position))
        }
        Err(refused) if refused.is_missing() => {
            let members = Members {
                stream: queue.stream().to_string(),
                consumers: Vec::new(),
            };
            Ok((members, 0))
        }
        Err(refused) => Err(refused.during("the consumers of a queue")),
    }
}

/// Changes the consumers of a queue, until nobody else does at the same time.
pub(crate) async fn change(
    line: &Line,
    queue: &NatsQueue,
    mut change: impl FnMut(&mut Members) -> Result<()>,
) -> Result<Members> {
    let bucket = line.layout.sessions();
    loop {
        let (mut members, position) = of(line, queue).await?;
        let before = members.clone();
        change(&mut members)?;
        if members == before {
            return Ok(members);
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            "Nats-Expected-Last-Subject-Sequence",
            message::digits(position),
        );
        let text = json!(members).to_string();
        let subject = bucket.subject(&key(queue));
        match line.put(&subject, Some(headers), text.into()).await? {
            Stored::At(_) => return Ok(members),
            Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => {}
            Stored::Refused(refused) => return Err(refused.during("a consumer")),
            Stored::Nowhere => return Err(nowhere(line).await),
        }
    }
}

/// Takes consumers of a queue off its list. Answers how many are left; `None` if none was there.
pub(crate) async fn remove(
    line: &Line,
    queue: &NatsQueue,
    is_gone: impl Fn(&Member) -> bool,
) -> Result<Option<usize>> {
    let mut was_there = false;
    let members = change(line, queue, |members| {
        let before = members.consumers.len();
        members.consumers.retain(|member| !is_gone(member));
        was_there = members.consumers.len() < before;
        Ok(())
    });
    let left = members.await?.consumers.len();
    Ok(was_there.then_some(left))
}

/// Adds a consumer.
pub(crate) async fn join(line: &Line, queue: &NatsQueue, member: Member) -> Result<Members> {
    change(line, queue, |members| {
        if members.has(member.session, member.number) {
            // Written down before, though no answer came.
            return Ok(());
        }
        let others = &members.consumers;
        let is_refused = others.iter().any(|other| other.exclusive)
            || (member.exclusive && !others.is_empty());
        if is_refused {
            return Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "queue `{}` has a consumer that is the only one, or is to have one; close that one, or consume \
                     without `exclusive`",
                    queue.name()
                ),
            ));
        }
        members.consumers.push(member.clone());
        Ok(())
    })
    .await
}

/// Waits for the turn of this session to drop messages of a queue, and answers what [`end_turn`] needs.
pub(crate) async fn take_turn(shared: &Shared, queue: &NatsQueue) -> Result<u64> {
    let line = &shared.line;
    let bucket = line.layout.sessions();
    let subject = bucket.subject(&turn_key(queue));
    let mut pause = Duration::from_millis(2);
    loop {
        let last = match api::last_message(line, &bucket.stream, &subject).await? {
            Ok(raw) if raw.payload == IN_TURN => {
                let since = shared.clock.now().saturating_sub(raw.stored);
                match since > nanoseconds(TURN) {
                    // It died meanwhile.
                    true => Some(raw.position),
                    false => None,
                }
            }
            Ok(raw) => Some(raw.position),
            Err(refused) if refused.is_missing() => Some(0),
            Err(refused) => return Err(refused.during("a turn")),
        };
        if let Some(last) = last {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(last));
            let storing = line.put(&subject, Some(headers), IN_TURN.into());
            match storing.await? {
                Stored::At(position) => return Ok(position),
                Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => {}
                Stored::Refused(refused) => return Err(refused.during("a turn")),
                Stored::Nowhere => return Err(nowhere(line).await),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// It is the others' turn.
pub(crate) async fn end_turn(shared: &Shared, queue: &NatsQueue, turn: u64) -> Result<()> {
    let line = &shared.line;
    let subject = line.layout.sessions().subject(&turn_key(queue));
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(turn));
    // Refused if somebody took the turn away.
    line.put(&subject, Some(headers), "{}".into())
        .await
        .map(drop)
}

/// Whether this session is to clear what the server that it is with forgot when it was killed: when that has begun, twice more
/// when what was unsettled then has come again, and from time to time, for others' sake.
pub(crate) async fn take_clearing(shared: &Shared) -> Result<bool> {
    let line = &shared.line;
    let bucket = line.layout.sessions();
    let subject = bucket.subject(&format!("c.{}", line.server()));
    let (last, times) = match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => {
            let text = std::str::from_utf8(&raw.payload).unwrap_or_default();
            let times: u32 = text.parse().unwrap_or(CLEARINGS);
            let pause = match times {
                ..CLEARINGS => CLEARED_AGAIN,
                _ => CLEARED,
            };
            if shared.clock.now().saturating_sub(raw.stored) < nanoseconds(pause) {
                return Ok(false);
            }
            (raw.position, times)
        }
        Err(refused) if refused.is_missing() => (0, 0),
        Err(refused) => return Err(refused.during("a look at a key")),
    };
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(last));
    let text = (times + 1).min(CLEARINGS).to_string();
    let storing = line.put(&subject, Some(headers), text.into());
    // Refused if somebody else does it.
    Ok(matches!(storing.await?, Stored::At(_)))
}

fn turn_key(queue: &NatsQueue) -> String {
    format!("t.{}", encoded(queue.name()))
}

/// Forgets all that is known of the consumers of a queue that is gone.
pub(crate) fn forget(line: &Line, queue: &Name) {
    let bucket = line.layout.sessions();
    for kind in ["u", "e", "t", "x"] {
        purge(line, &bucket.subject(&format!("{kind}.{}", encoded(queue))));
    }
}

/// Forgets what is written at these subjects. Nobody waits for it.
pub(crate) fn purge(line: &Line, subjects: &str) {
    let purge = json!({ "filter": subjects });
    let subject = format!("STREAM.PURGE.{}", line.layout.sessions().stream);
    drop(line.api::<serde_json::Value>(&subject, &purge, "a purge"));
}

/// The subject of a session's sign of life.
fn session_subject(line: &Line, session: u64) -> String {
    line.layout.sessions().subject(&format!("s.{session}"))
}

/// Says that this session lives, after it has said so at `last`; 0 if there is no sign of it. Answers the position of this sign;
/// 0 if the server refused it and has forgotten the last one too, as one does whose account is full.
///
/// Others may have ended it meanwhile: that is lost.
pub(crate) async fn live(line: &Line, last: u64) -> Result<u64> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", message::digits(last));
    let subject = session_subject(line, line.session);
    match line.put(&subject, Some(headers), "{}".into()).await? {
        Stored::At(position) => Ok(position),
        Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => {
            match sign(line, line.session).await? {
                // Ours, whose answer didn't come.
                Some(sign) if !sign.is_last => Ok(sign.position),
                _ => Err(Error::new(
                    ErrorKind::ConnectionLost,
                    "NATS doesn't know this session any more: it was silent for too long, or the server lost its data",
                )),
            }
        }
        Stored::Refused(refused) if refused.err_code == code::ACCOUNT_IS_FULL && last != 0 => {
            match sign(line, line.session).await? {
                None => Ok(0),
                Some(_) => Err(refused.during("a sign of life")),
            }
        }
        Stored::Refused(refused) => Err(refused.during("a sign of life")),
        Stored::Nowhere => Err(nowhere(line).await),
    }
}

/// Nobody takes what is written about sessions: for a moment, or because it is gone.
pub(crate) async fn nowhere(line: &Line) -> Error {
    let stream = line.layout.sessions().stream;
    match api::stream_info(line, &stream, None).await {
        Ok(Err(refused)) if refused.err_code == code::STREAM_NOT_FOUND => line.lose_data(),
        Ok(_) => error::nobody("what is written about sessions"),
        Err(error) => error,
    }
}

/// The last that was heard of a session.
pub(crate) struct Sign {
    pub(crate) position: u64,
    /// Others have taken the session for dead, and it ends.
    pub(crate) is_last: bool,
}

/// What the key of a session says when others end it.
const LAST: &[u8] = b"ended";

impl Sign {
    fn of(raw: &api::Raw) -> Self {
        Sign {
            position: raw.position,
            is_last: raw.payload == LAST,
        }
    }
}

pub(crate) async fn sign(line: &Line, session: u64) -> Result<Option<Sign>> {
    let bucket = line.layout.sessions();
    let subject = session_subject(line, session);
    match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => Ok(Some(Sign::of(&raw))),
        Err(refused) if refused.is_missing() => Ok(None),
        Err(refused) => Err(refused.during("a look at a session")),
    }
}

/// Ends a session that has given no sign since this one. False if it has.
pub(crate) async fn end(line: &Line, session: u64, sign: &Sign) -> Result<bool> {
    if sign.is_last {
        return Ok(true);
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Expected-Last-Subject-Sequence",
        message::digits(sign.position),
    );
    let subject = session_subject(line, session);
    match line.put(&subject, Some(headers), LAST.into()).await? {
        Stored::At(_) => Ok(true),
        Stored::Refused(refused) if refused.err_code == code::WRONG_SEQUENCE => Ok(false),
        Stored::Refused(refused) => Err(refused.during("the end of a session")),
        Stored::Nowhere => Err(nowhere(line).await),
    }
}

/// Forgets a session that is over.
pub(crate) async fn die(line: &Line, session: u64) -> Result<()> {
    let bucket = line.layout.sessions();
    let purge = json!({ "filter": session_subject(line, session) });
    let subject = format!("STREAM.PURGE.{}", bucket.stream);
    let purging = line.api::<serde_json::Value>(&subject, &purge, "the end of a session");
    purging.await.map(drop)
}

/// The keys of one sort, without it.
pub(crate) async fn keys(line: &Line, sort: &str) -> Result<Vec<String>> {
    let bucket = line.layout.sessions();
    let pattern = bucket.subject(&format!("{sort}.*"));
    let info = api::stream_info(line, &bucket.stream, Some(&pattern)).await?;
    let info = match info {
        Ok(info) => info,
        Err(refused) if refused.err_code == code::STREAM_NOT_FOUND => return Err(line.lose_data()),
        Err(refused) => return Err(refused.during("a look at sessions")),
    };
    let start = pattern.len() - 1;
    let subjects = info.state.subjects.keys();
    Ok(subjects
        .filter_map(|subject| subject.get(start..).map(str::to_owned))
        .collect())
}

/// The sessions that live, or have died not long ago.
pub(crate) async fn sessions(line: &Line) -> Result<Vec<u64>> {
    let keys = keys(line, "s").await?;
    Ok(keys.iter().filter_map(|key| key.parse().ok()).collect())
}

/// The sessions that have been silent for longer than this, those first that said something last so long ago.
pub(crate) async fn silent(line: &Line, now: u64, longest: Duration) -> Result<Vec<(u64, Sign)>> {
    let bucket = line.layout.sessions();
    let signs = bucket.subject("s.*");
    let start = signs.len() - 1;
    let before = now.saturating_sub(nanoseconds(longest));
    let mut found = Vec::new();
    let mut next = 1;
    loop {
        let raw = match api::next_message(line, &bucket.stream, &signs, next).await? {
            Ok(raw) => raw,
            Err(refused) if refused.is_missing() => return Ok(found),
            Err(refused) => return Err(refused.during("a look at sessions")),
        };
        next = raw.position + 1;
        match raw.stored {
            // Those behind it are younger.
            stored if (before..=now).contains(&stored) => return Ok(found),
            // The clock was set back since.
            stored if stored > now => {}
            _ => {
                let session = raw.subject.get(start..).map(str::parse);
                if let Some(Ok(session)) = session {
                    found.push((session, Sign::of(&raw)));
                }
            }
        }
    }
}

/// When something of this sort was last written for a key, in ns by the server's clock.
pub(crate) async fn written(line: &Line, sort: &str, key: &str) -> Result<Option<u64>> {
    let bucket = line.layout.sessions();
    let subject = bucket.subject(&format!("{sort}.{key}"));
    match api::last_message(line, &bucket.stream, &subject).await? {
        Ok(raw) => Ok(Some(raw.stored)),
        Err(refused) if refused.is_missing() => Ok(None),
        Err(refused) => Err(refused.during("a look at a key")),
    }
}

/// Takes note that messages of a queue may expire, which its declaration doesn't say. Nobody waits for it: if it is lost, it is
/// said again.
pub(crate) fn mark_expiring(line: &Line, queue: &NatsQueue) {
    let bucket = line.layout.sessions();
    let subject = bucket.subject(&format!("x.{}", encoded(queue.name())));
    drop(line.put(&subject, None, "{}".into()));
}

/// Takes note that a queue is used, which keeps it from expiring.
pub(crate) async fn use_queue(line: &Line, queue: &Name) -> Result<()> {
    let bucket = line.layout.sessions();
    let subject = bucket.subject(&format!("e.{}", encoded(queue)));
    line.put(&subject, None, "{}".into()).await.map(drop)
}

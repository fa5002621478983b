//! What the server hands over to consumers that wait for it.
//!
//! A look that finds too little leaves the consumer parked: as long as it has room and its queue is empty, whoever publishes has
//! the server give it the message, and say so at a channel of the session. So it needn't be told by the bell, and ask.
//!
//! The session listens at a connection of its own: Redis closes one that listens if more than some megabytes wait there, which a
//! look may bring. So what is handed over doesn't come in order with the answers to looks. All of it is counted by the consumer's
//! window, on both sides: what is on its way takes room, and an answer waits for what was handed over before it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::bell::Bell;
use crate::dial::Wire;
use crate::error::{classify, classify_connect};
use crate::line::Line;
use crate::store::Shared;
use crate::work::{Holder, give_back};

/// Messages by their numbers.
pub(crate) type Messages = VecDeque<(u64, Vec<u8>)>;

/// The inboxes of a session.
#[derive(Debug, Default)]
pub(crate) struct Hands(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    inboxes: HashMap<u64, Weak<Inbox>>,
    windows: HashMap<u64, Weak<Window>>,
    /// The numbers of windows by their addresses, which come again.
    numbers: HashMap<usize, u64>,
    last_number: u64,
}

/// What was handed over to a window.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// How many messages have arrived.
    arrived: AtomicU64,
    /// How many of those are in no inbox any more.
    accepted: AtomicU64,
    news: Notify,
}

impl Window {
    /// Whether all has arrived that was handed over before it had been this many.
    pub(crate) fn has_arrived(&self, count: u64) -> bool {
        self.arrived.load(Ordering::Acquire) >= count
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// Resolves when that is so.
    pub(crate) async fn until_arrived(&self, count: u64) {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if self.has_arrived(count) {
                return;
            }
            news.await;
        }
    }
}

/// Where a reader finds what was handed over to it.
#[derive(Debug)]
pub(crate) struct Inbox {
    reader: u64,
    pub(crate) window_number: u64,
    pub(crate) window: Arc<Window>,
    /// With how many the window had been handed over before.
    waiting: Mutex<VecDeque<(u64, Messages)>>,
    bell: Arc<Bell>,
}

impl Inbox {
    /// Takes what was handed over before the window had this many.
    pub(crate) fn take_before(&self, count: u64, to: &mut Messages) {
        let mut waiting = self.waiting.lock();
        let had = to.len();
        while waiting.front().is_some_and(|(before, _)| *before < count) {
            if let Some((_, mut messages)) = waiting.pop_front() {
                to.append(&mut messages);
            }
        }
        let count = (to.len() - had) as u64;
        self.window.accepted.fetch_add(count, Ordering::AcqRel);
    }
}

impl Hands {
    /// An inbox for the reader with this number, in the window at an address.
    pub(crate) fn open(&self, reader: u64, address: usize, bell: Arc<Bell>) -> Arc<Inbox> {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        let number = state.numbers.get(&address).copied();
        let known =
            number.and_then(|number| Some((number, state.windows.get(&number)?.upgrade()?)));
        let (window_number, window) = known.unwrap_or_else(|| {
            state.last_number += 1;
            (state.last_number, Arc::default())
        });
        state.numbers.insert(address, window_number);
        state.windows.insert(window_number, Arc::downgrade(&window));
        let inbox = Arc::new(Inbox {
            reader,
            window_number,
            window,
            waiting: Mutex::default(),
            bell,
        });
        state.inboxes.insert(reader, Arc::downgrade(&inbox));
        inbox
    }

    /// Its reader is gone; what it hasn't taken goes back.
    pub(crate) fn close(&self, inbox: &Inbox, line: &Line, holder: &Holder) {
        let mut guard = self.0.lock();
        let state = &mut *guard;
        state.inboxes.remove(&inbox.reader);
        let windows = &mut state.windows;
        windows.retain(|_, window| window.strong_count() > 0);
        state
            .numbers
            .retain(|_, number| windows.contains_key(number));
        drop(guard);
        let mut left = Messages::new();
        inbox.take_before(u64::MAX, &mut left);
        // Each goes in front of its successor.
        while let Some((id, _)) = left.pop_back() {
            give_back(line, holder, id);
        }
    }

    /// Takes note of what was handed over, as `push.lua` writes it.
    fn take(&self, text: &[u8], line: &Line) {
        let Some(handed) = Handed::read(text) else {
            line.lose(&Error::new(
                ErrorKind::Protocol,
                "what Redis handed over to a consumer can't be read",
            ));
            return;
        };
        let count = handed.messages.len() as u64;
        let state = self.0.lock();
        let inbox = state.inboxes.get(&handed.reader).and_then(Weak::upgrade);
        let window = state.windows.get(&handed.window).and_then(Weak::upgrade);
        let left = match &inbox {
            // Within the lock: it may be closed at the same time.
            Some(inbox) => {
                let mut waiting = inbox.waiting.lock();
                waiting.push_back((handed.before, handed.messages));
                Messages::new()
            }
            None => handed.messages,
        };
        let inboxes = state.inboxes.values().filter_map(Weak::upgrade);
        let of_the_window: Vec<_> = inboxes
            .filter(|inbox| inbox.window_number == handed.window)
            .collect();
        drop(state);
        let accepted = left.len() as u64;
        if !left.is_empty() {
            let holder = Holder::new(handed.reader, handed.queue);
            holder.leave();
            for (id, _) in left.into_iter().rev() {
                give_back(line, &holder, id);
            }
        }
        // Behind that: who waits for it goes on.
        if let Some(window) = window {
            window.accepted.fetch_add(accepted, Ordering::AcqRel);
            window.arrived.fetch_add(count, Ordering::AcqRel);
            window.news.notify_waiters();
        }
        for inbox in of_the_window {
            inbox.bell.task.wake();
        }
    }
}

/// How long the other connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has the server hand messages to this session. If it can't, consumers ask for each.
pub(crate) async fn listen(shared: &Arc<Shared>) -> bool {
    let problem = match timeout(PATIENCE, subscribe(shared)).await {
        Ok(Ok(wire)) => {
            tokio::spawn(look_after(Arc::downgrade(shared), wire));
            return true;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "there is no answer".to_owned(),
    };
    tracing::debug!(%problem, "this Redis can't hand messages to consumers, so they ask for each");
    false
}

async fn subscribe(shared: &Arc<Shared>) -> Result<Wire> {
    let told = Arc::downgrade(shared);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            if let Some(shared) = told.upgrade() {
                hear(&shared, &push);
            }
            Ok::<(), redis::aio::SendError>(())
        });
    let mut wire = shared.address.dial(shared.tls.clone(), config).await?;
    let mut command = redis::cmd("SUBSCRIBE");
    let (line, db) = (&shared.line, shared.address.db);
    command.arg(format!(
        "{}_kombu.rs.handed.{db}.{}",
        line.prefix, line.session
    ));
    let answer = wire.connection.send_packed_command(&command).await;
    match answer.map_err(classify_connect)? {
        Value::ServerError(refusal) => Err(classify(&refusal)),
        _ => Ok(wire),
    }
}

fn hear(shared: &Shared, push: &PushInfo) {
    match (&push.kind, push.data.last()) {
        (PushKind::Message, Some(Value::BulkString(text))) => shared.hands.take(text, &shared.line),
        (PushKind::Disconnection, _) => shared.line.lose(&Error::new(
            ErrorKind::ConnectionLost,
            "Redis has closed the connection at which it handed over messages",
        )),
        _ => {}
    }
}

/// What is handed over at a dead connection would wait for ever: it ends the session. Runs until that is over, or nobody has it
/// any more, and ends the connection then.
async fn look_after(shared: Weak<Shared>, mut wire: Wire) {
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let (line, lease) = (strong.line.clone(), strong.pulse.lease());
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep(lease) => {}
            () = line.over() => return,
        }
        let ping = redis::cmd("PING");
        let answered = timeout(lease / 3, wire.connection.send_packed_command(&ping)).await;
        if !matches!(answered, Ok(Ok(_))) {
            line.lose(&Error::new(
                ErrorKind::ConnectionLost,
                "the connection at which Redis hands over messages is dead",
            ));
        }
    }
}

/// What `push.lua` says to a consumer.
#[derive(Debug, PartialEq)]
struct Handed {
    reader: u64,
    window: u64,
    /// How many the window had been handed over before.
    before: u64,
    queue: Name,
    messages: Messages,
}

impl Handed {
    fn read(text: &[u8]) -> Option<Handed> {
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let (head, mut rest) = (text.get(..end)?, text.get(end + 1..)?);
        let mut numbers = std::str::from_utf8(head)
            .ok()?
            .split(' ')
            .map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        let mut next = |length: u64| {
            let (one, others) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = others;
            Some(one)
        };
        let (reader, window, before) = (number()?, number()?, number()?);
        let queue = Name::from(std::str::from_utf8(next(number()?)?).ok()?);
        let mut messages = Messages::new();
        while let Some(id) = number() {
            messages.push_back((id, next(number()?)?.to_vec()));
        }
        Some(Handed {
            reader,
            window,
            before,
            queue,
            messages,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_handed_over_is_read_as_it_is_written() {
        let handed = Handed::read(b"3 17 5 4 110 2 120 0\nfilehi").unwrap();
        let messages = [(110, b"hi".to_vec()), (120, Vec::new())];
        let expected = Handed {
            reader: 3,
            window: 17,
            before: 5,
            queue: Name::from("file"),
            messages: messages.into(),
        };
        assert_eq!(handed, expected);
        for other in [
            &b""[..],
            b"3 17 5",
            b"3 17 5 9\nfile",
            b"3 17 5 4 110\nfile",
            b"3 17 5 4 110 3\nfilehi",
        ] {
            assert_eq!(Handed::read(other), None, "{}", other.escape_ascii());
        }
    }
}

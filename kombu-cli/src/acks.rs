//! Acknowledgements on their way, and which of them the broker has carried out. RabbitMQ answers none of them: it has those of a
//! session in which it answered something that was asked later.

use std::mem;

use futures_util::future::{BoxFuture, join_all};
use kombu::{Connection, Delivery, ErrorKind, Name, Settling};
use tokio::time::{Duration, Instant, sleep_until};

/// How many wait for an answer together at most, while as many are gathered.
const TOGETHER: usize = 1_000;
/// So many don't wait any longer for others.
const ENOUGH: usize = TOGETHER / 4;
/// How long others are waited for: asking takes the broker some work.
const APART: Duration = Duration::from_millis(100);

/// What was acknowledged, from when that was sent until it is known what became of it.
pub(crate) struct Acks<'a> {
    from: &'a Connection,
    queue: Name,
    sent: Vec<Sent>,
    checking: Option<BoxFuture<'static, Checked>>,
    due: Instant,
}

struct Sent {
    settling: Settling,
    /// How many sessions there were, this one included.
    session: u64,
    /// The message may be at the other end twice.
    is_twice: bool,
}

/// What became of some acknowledgements.
#[derive(Default)]
pub(crate) struct Checked {
    /// The messages are gone from their queue.
    pub(crate) done: u64,
    /// Of those, how many may be at the other end twice.
    pub(crate) twice: u64,
    /// The messages may come again, because their session was lost, or gave no answer.
    pub(crate) in_doubt: u64,
    /// What isn't the end of a session.
    pub(crate) error: Option<kombu::Error>,
}

impl<'a> Acks<'a> {
    pub(crate) fn new(from: &'a Connection, queue: Name) -> Self {
        Acks {
            from,
            queue,
            sent: Vec::new(),
            checking: None,
            due: Instant::now(),
        }
    }

    pub(crate) fn send(&mut self, delivery: Delivery, is_twice: bool) {
        let session = self.from.health().sessions;
        self.sent.push(Sent {
            settling: delivery.ack(),
            session,
            is_twice,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.checking.is_none()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.sent.len() < TOGETHER
    }

    /// What became of those that were sent first. Cancel safe.
    pub(crate) async fn next(&mut self) -> Checked {
        if self.checking.is_none() && self.sent.len() < ENOUGH {
            sleep_until(self.due).await;
        }
        let checking = self.checking.get_or_insert_with(|| {
            self.due = Instant::now() + APART;
            let sent = mem::take(&mut self.sent);
            Box::pin(check(self.from.clone(), self.queue.clone(), sent))
        });
        let checked = checking.await;
        self.checking = None;
        checked
    }
}

async fn check(from: Connection, queue: Name, sent: Vec<Sent>) -> Checked {
    let confirmed = sent.into_iter().map(async |sent| {
        let result = sent.settling.confirmed().await;
        (result, sent.session, sent.is_twice)
    });
    let confirmed = join_all(confirmed).await;
    let good = confirmed.iter().filter(|(result, ..)| result.is_ok());
    let last = good.map(|(_, session, _)| *session).max();
    let answered = match last {
        Some(session) => answers(&from, queue, session).await,
        None => false,
    };
    let mut checked = Checked::default();
    for (result, session, is_twice) in confirmed {
        match result {
            Ok(()) if answered && Some(session) == last => {
                checked.done += 1;
                checked.twice += u64::from(is_twice);
                continue;
            }
            Err(error) if error.kind() != ErrorKind::SettleLost => {
                checked.error.get_or_insert(error);
            }
            _ => {}
        }
        checked.in_doubt += 1;
    }
    checked
}

/// Whether the broker answers something in this session.
async fn answers(from: &Connection, queue: Name, session: u64) -> bool {
    let health = from.health();
    if !health.connected || health.sessions != session {
        return false;
    }
    let is_answer = match from.queue_info(queue).await {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    is_answer && from.health().sessions == session
}

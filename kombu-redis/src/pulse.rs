//! What a session does by itself: it says that it lives, ends those that don't, and does what is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use kombu_core::Result;
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::bell::{self, Bell};
use crate::error;
use crate::flight::number;
use crate::script::Script;
use crate::store::{GIVEN_BACK, Shared, milliseconds};

/// When it does so next.
pub(crate) struct Pulse {
    lease: Duration,
    next: Mutex<Option<Instant>>,
    sooner: Notify,
}

impl Pulse {
    pub(crate) fn new(lease: Duration) -> Self {
        Pulse {
            lease,
            next: Mutex::new(None),
            sooner: Notify::new(),
        }
    }

    /// How long after its last sign of life a session is overdue. Another third of the lease later, it is taken for dead.
    pub(crate) fn overdue(lease: Duration) -> Duration {
        lease - lease / 3
    }

    /// The session's lease.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// Something is due by then.
    pub(crate) fn due_in(&self, time: Duration) {
        let Some(at) = Instant::now().checked_add(time) else {
            return;
        };
        let mut next = self.next.lock();
        if next.is_none_or(|next| at < next) {
            *next = Some(at);
            drop(next);
            self.sooner.notify_one();
        }
    }

    /// Resolves when it is time.
    async fn until_due(&self, latest: Instant) {
        loop {
            let next = *self.next.lock();
            let at = next.map_or(latest, |next| next.min(latest));
            if timeout_at(at, self.sooner.notified()).await.is_err() {
                *self.next.lock() = None;
                return;
            }
        }
    }
}

/// Sessions that are overdue, by their numbers: since when, as the server says, and when that was seen first.
type Overdue = BTreeMap<Vec<u8>, (Vec<u8>, Instant)>;

/// Runs until the session is over, or nobody has it any more.
pub(crate) async fn beat(shared: Weak<Shared>) {
    let mut overdue = Overdue::new();
    let sooner = Arc::new(Bell::new());
    if let Some(strong) = shared.upgrade() {
        let key = bell::sooner_key(&strong.line.prefix);
        strong.bells.add(&[key], &sooner);
    }
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        if strong.line.is_over() {
            return;
        }
        let begin = Instant::now();
        let watch = strong
            .is_told
            .then(|| bell::sooner_key(&strong.line.prefix));
        // The look comes behind what it rang for.
        sooner.take();
        if let Err(problem) = tick(&strong, watch, &mut overdue).await {
            tracing::debug!(error = %problem, "a session with Redis couldn't do what is due");
        }
        let pulse = strong.pulse.clone();
        let over = strong.line.over();
        drop(strong);
        let latest = begin + pulse.lease / 3;
        tokio::select! {
            () = pulse.until_due(latest) => {}
            () = sooner.rung() => {}
            () = over => return,
        }
    }
}

async fn tick(shared: &Arc<Shared>, watch: Option<Vec<u8>>, overdue: &mut Overdue) -> Result<()> {
    let lease = shared.pulse.lease;
    let mut command = shared.line.call(Script::Tick);
    command
        .arg(milliseconds(Pulse::overdue(lease)))
        .arg(GIVEN_BACK);
    for (session, (since, seen)) in &*overdue {
        if seen.elapsed() >= lease / 3 {
            command.arg(session).arg(since);
        }
    }
    let answer = shared.line.ask_and_watch(command, watch).await?;
    match &answer {
        Value::Array(parts) if parts.len() == 4 => {
            *overdue = seen(&parts[3], overdue);
            if let Some(first) = overdue.values().map(|(_, seen)| *seen).min() {
                shared
                    .pulse
                    .due_in((lease / 3).saturating_sub(first.elapsed()));
            }
            let wait = number(&parts[0]).unwrap_or(milliseconds(lease));
            // Not in the same millisecond again.
            shared.pulse.due_in(Duration::from_millis(wait + 1));
            if number(&parts[1]).is_some_and(|dead| dead > 0) {
                shared.line.deaths.notify_one();
            }
            shared.remove_all(&parts[2]).await
        }
        Value::BulkString(text) if text == b"LOST" => {
            let over = error::session_over();
            shared.line.lose(&over);
            Err(over)
        }
        other => Err(error::unexpected("a sign of life", other)),
    }
}

/// Those that are overdue now. What was seen before, and is so since the same time, has said nothing meanwhile.
fn seen(answer: &Value, before: &Overdue) -> Overdue {
    let Value::Array(found) = answer else {
        return Overdue::new();
    };
    let found = found.chunks_exact(2).filter_map(|pair| match pair {
        [Value::BulkString(session), Value::BulkString(since)] => Some((session, since)),
        _ => None,
    });
    let now = Instant::now();
    let found = found.map(|(session, since)| {
        let first = match before.get(session) {
            Some((before, first)) if before == since => *first,
            _ => now,
        };
        (session.clone(), (since.clone(), first))
    });
    found.collect()
}

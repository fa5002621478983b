//! What a session does by itself: it says that it lives, ends those that don't, and does what is due.

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
use crate::store::{GIVEN_BACK, Shared};

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

/// Runs until the session is over, or nobody has it any more.
pub(crate) async fn beat(shared: Weak<Shared>) {
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
        if let Err(problem) = tick(&strong, watch).await {
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

async fn tick(shared: &Arc<Shared>, watch: Option<Vec<u8>>) -> Result<()> {
    let lease = shared.pulse.lease.as_millis() as u64;
    let mut command = shared.line.call(Script::Tick);
    command.arg(lease).arg(GIVEN_BACK);
    let answer = shared.line.ask_and_watch(command, watch).await?;
    match &answer {
        Value::Array(parts) if parts.len() == 3 => {
            let wait = number(&parts[0]).unwrap_or(lease);
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

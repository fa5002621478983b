//! When a queue has nothing more: nothing came for so long from a broker that was there.

use std::time::Duration;

use kombu::{Connection, Consumer, Delivery, Name};
use tokio::time::{Instant, sleep};

use crate::failure::Result;

/// Until when a broker gives again what a lost session had. NATS takes longest, 30 s.
const COMES_BACK: Duration = Duration::from_secs(35);

/// How long is waited for the next message, and the last session that was lost.
#[derive(Debug)]
pub(crate) struct Idle {
    time: Duration,
    sessions: u64,
    comes_back: Option<Instant>,
}

impl Idle {
    /// Of so long a time.
    pub(crate) fn of(time: Duration) -> Self {
        Idle {
            time,
            sessions: 1,
            comes_back: None,
        }
    }

    /// The next message, or none when nothing came for too long, or nothing can come any more. Cancel safe.
    pub(crate) async fn next(
        &mut self,
        connection: &Connection,
        consumer: &mut Consumer,
    ) -> Result<Option<Delivery>> {
        let queue = consumer.queues().first().cloned();
        tokio::select! {
            biased;
            next = consumer.try_next() => Ok(next?),
            () = self.passes(connection, queue.unwrap_or_default()) => Ok(None),
        }
    }

    /// Resolves when the broker was there for so long. It may be away for some seconds before that is noticed: it is asked.
    async fn passes(&mut self, connection: &Connection, queue: Name) {
        loop {
            let before = connection.health().sessions;
            sleep(self.time.max(self.comes_back_within(before))).await;
            let asked = connection.queue_info(queue.clone()).await;
            let is_away = asked.is_err_and(|error| error.is_transient());
            let health = connection.health();
            if !is_away && health.connected && health.sessions == before {
                return;
            }
        }
    }

    /// How long what a lost session had may still come, if this is how many sessions there were.
    fn comes_back_within(&mut self, sessions: u64) -> Duration {
        let now = Instant::now();
        if sessions > self.sessions {
            self.sessions = sessions;
            self.comes_back = Some(now + COMES_BACK);
        }
        let comes_back = self.comes_back.unwrap_or(now);
        comes_back.saturating_duration_since(now)
    }
}

//! Messages that are dead: held by the session until core has moved them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kombu_core::Result;
use kombu_core::virt::Death;
use tokio::sync::Semaphore;

use super::Shared;
use crate::api::{self, DUPLICATE_WINDOW, Delivered};
use crate::hold::{self, Corpse, Fetched, Holder};
use crate::known::NatsQueue;
use crate::line::PATIENCE;
use crate::message;

/// How soon a dead message is tried again that couldn't be moved; twice as late each time.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// The longest pause where what keeps it may pass. It is sent again before the streams that may have its letter forget it.
const LONGEST: Duration = Duration::from_secs(20);
/// The same where it may not: it is larger than the server takes, for one.
const LONGEST_REFUSED: Duration = Duration::from_secs(600);
const _: () = assert!(LONGEST.as_secs() + 2 * PATIENCE.as_secs() < DUPLICATE_WINDOW.as_secs());

/// How many of a stream are read again at once.
const TRIED_AT_ONCE: usize = 8;

/// How long a dead message waits that couldn't be moved so often, if what keeps it may pass or not.
fn pause(tries: u32, may_pass: bool) -> Duration {
    let longest = match may_pass {
        true => LONGEST,
        false => LONGEST_REFUSED,
    };
    let pause = TRY_AGAIN * 2_u32.saturating_pow(tries.min(16));
    pause.min(longest)
}

impl Shared {
    /// Whether a message that was pulled is beyond its time. Then it is dead, and taken care of.
    pub(crate) fn bury_if_expired(
        &self,
        queue: &NatsQueue,
        fetched: Fetched,
        pulled: u64,
    ) -> Option<Fetched> {
        let Some(expires) = fetched.expires(queue) else {
            return Some(fetched);
        };
        // Another program may have published it.
        self.mark_expiring(queue);
        // What came while somebody waited for it was as good as delivered.
        let looked = match fetched.delivered.count {
            1 => pulled,
            _ => self.clock.now(),
        };
        if looked < expires || (fetched.delivered.count == 1 && pulled < fetched.delivered.stored) {
            return Some(fetched);
        }
        self.bury(queue, fetched, Death::Expired, expires);
        None
    }

    /// Takes in a message that died: it is forgotten unless its queue has a dead-letter exchange.
    pub(crate) fn bury(&self, queue: &NatsQueue, fetched: Fetched, death: Death, died: u64) {
        if queue.declaration().get_dead_letter_exchange().is_none() {
            self.line.tell(fetched.ack, hold::ACK);
            return;
        }
        self.take_in_dead(queue, fetched, death, died);
    }

    /// Holds a dead message until core has moved it.
    pub(crate) fn take_in_dead(
        &self,
        queue: &NatsQueue,
        fetched: Fetched,
        death: Death,
        died: u64,
    ) {
        let holder = self.own_holder(queue);
        let id = self.next();
        holder.hold(id, &fetched, Some((death, died)));
        self.dead.lock().push_back(Corpse {
            holder,
            id,
            death,
            died,
            fetched,
            _turn: None,
        });
        self.deaths.notify_one();
    }

    /// Has a dead message moved that couldn't be before. What it is made of lies in its stream.
    pub(crate) async fn try_again(&self, holder: Holder, id: u64) -> Result<()> {
        let tried = self.find_again(&holder, id).await;
        self.kept.fetch_sub(1, Ordering::Relaxed);
        if let Some(corpse) = tried? {
            self.dead.lock().push_back(corpse);
            self.deaths.notify_one();
        }
        Ok(())
    }

    /// Whose turn it is to be read again of a stream's dead: one that doesn't answer keeps none of the others.
    fn turns_at(&self, stream: &str) -> Arc<Semaphore> {
        let mut all = self.tried_again.lock();
        all.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = all.entry(stream.into());
        turns
            .or_insert_with(|| Arc::new(Semaphore::new(TRIED_AT_ONCE)))
            .clone()
    }

    async fn find_again(&self, holder: &Holder, id: u64) -> Result<Option<Corpse>> {
        let mut tries = 0;
        let (raw, turn) = loop {
            let Some(held) = holder.get(id) else {
                return Ok(None);
            };
            tokio::time::sleep(pause(held.tries + tries, held.may_pass)).await;
            // It is never closed.
            let turn = self.turns_at(held.stream()).acquire_owned().await.ok();
            match api::message(&self.line, held.stream(), held.position).await {
                Ok(Ok(raw)) => break (raw, turn),
                Ok(Err(refused)) if refused.is_missing() => {
                    let queue = holder.queue().name();
                    tracing::warn!(%queue, "a dead letter that couldn't be moved went with its queue");
                    drop(holder.let_go_for_good(id));
                    return Ok(None);
                }
                Err(error) if self.line.is_over() => return Err(error),
                _ => tries += 1,
            }
        };
        let Some(held) = holder.get(id) else {
            return Ok(None);
        };
        let Some((death, died)) = held.death else {
            return Ok(None);
        };
        let own = [message::DUE, message::TO, message::DEATH];
        let fetched = Fetched {
            delivered: Delivered {
                count: 1,
                position: raw.position,
                stored: raw.stored,
            },
            ack: held.ack,
            headers: Some(message::without(&message::parse(&raw.headers), &own)),
            body: raw.payload.into(),
            since: held.since,
        };
        Ok(Some(Corpse {
            holder: holder.clone(),
            id,
            death,
            died,
            fetched,
            _turn: turn,
        }))
    }

    pub(crate) fn take_dead(&self) -> Vec<Corpse> {
        self.dead.lock().drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_will_take_is_tried_less_and_less() {
        assert!(pause(1, true) <= Duration::from_secs(1));
        assert_eq!(pause(1, false), pause(1, true));
        assert_eq!(pause(1_000, true), LONGEST);
        assert_eq!(pause(1_000, false), LONGEST_REFUSED);
    }
}

//! Which publish a returned message belongs to.
//!
//! RabbitMQ returns an unroutable message before it confirms it, in the order of the publishes. lapin hands each return
//! out with the next confirm that resolves, whosever that is. So a confirm by itself doesn't say that its message
//! was stored:
//!
//! - it carries nothing: every return before it was handed out, its own among them;
//! - it carries the return of a later publish: its own would have come first;
//! - it carries the return of an earlier one: its own may still follow, and it has to wait.

use std::collections::BTreeMap;

use kombu_core::Name;
use kombu_core::driver::Confirmation;
use kombu_core::message::Envelope;
use kombu_core::{Error, Result};
use lapin::message::BasicReturnMessage;
use tokio::sync::oneshot;

use crate::under_way::OnItsWay;

/// A publish without an answer.
pub(crate) struct Outstanding {
    pub(crate) exchange: Name,
    pub(crate) routing_key: Name,
    pub(crate) envelope: Envelope,
    pub(crate) answer: oneshot::Sender<Result<Confirmation>>,
    pub(crate) _on_its_way: OnItsWay,
}

#[derive(Default)]
pub(crate) struct Returns {
    next: u64,
    /// By number, in the order of the calls.
    outstanding: BTreeMap<u64, (Outstanding, Option<u16>)>,
    /// Confirmed, but their returns may still come.
    waiting: Vec<(u64, bool)>,
}

impl Returns {
    pub(crate) fn add(&mut self, publish: Outstanding) -> u64 {
        let number = self.next;
        self.next += 1;
        self.outstanding.insert(number, (publish, None));
        number
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Answers all publishes to one exchange with the broker's error.
    pub(crate) fn refuse(&mut self, exchange: &str, error: &Error) {
        let is_refused = |(number, (publish, _)): (&u64, &(Outstanding, _))| {
            (publish.exchange == *exchange).then_some(*number)
        };
        let refused: Vec<_> = self.outstanding.iter().filter_map(is_refused).collect();
        for number in refused {
            let mut copy = Error::new(error.kind(), error.message());
            if let Some(code) = error.code() {
                copy = copy.with_code(code);
            }
            if let Some((publish, _)) = self.outstanding.remove(&number) {
                drop(publish.answer.send(Err(copy)));
            }
        }
        self.waiting
            .retain(|(number, _)| self.outstanding.contains_key(number));
    }

    pub(crate) fn confirmed(
        &mut self,
        number: u64,
        acked: bool,
        returned: Option<&BasicReturnMessage>,
    ) {
        self.waiting.push((number, acked));
        let latest = match returned {
            None => u64::MAX,
            Some(message) => self.mark(message).unwrap_or(u64::MAX),
        };
        let unconfirmed = self.outstanding.len() - self.waiting.len();
        let mut index = 0;
        while index < self.waiting.len() {
            let (number, acked) = self.waiting[index];
            let is_marked = self
                .outstanding
                .get(&number)
                .is_some_and(|(_, returned)| returned.is_some());
            if is_marked || latest > number || unconfirmed == 0 {
                self.waiting.swap_remove(index);
                self.answer(number, acked);
            } else {
                index += 1;
            }
        }
    }

    /// Finds the publish that a return belongs to: the first that looks like it and isn't returned yet. Between two that
    /// look alike in everything it makes no difference.
    fn mark(&mut self, message: &BasicReturnMessage) -> Option<u64> {
        let found = self
            .outstanding
            .iter_mut()
            .find(|(_, (publish, returned))| {
                returned.is_none()
                    && publish.exchange == *message.delivery.exchange.as_str()
                    && publish.routing_key == *message.delivery.routing_key.as_str()
                    && publish.envelope.body()[..] == message.delivery.data[..]
            });
        let (number, (_, returned)) = found?;
        *returned = Some(message.reply_code);
        Some(*number)
    }

    fn answer(&mut self, number: u64, acked: bool) {
        let Some((publish, returned)) = self.outstanding.remove(&number) else {
            return;
        };
        let answer = match returned {
            Some(code) if publish.envelope.mandatory() => Confirmation::Returned { code },
            Some(_) => Confirmation::Acked { routed: false },
            None if acked => Confirmation::Acked { routed: true },
            None => Confirmation::Nacked {
                reason: "the broker refused the message: a queue is full, or could not store it"
                    .to_owned(),
            },
        };
        // The receiver is gone if nobody waits.
        drop(publish.answer.send(Ok(answer)));
    }
}

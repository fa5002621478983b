//! Which publish a returned message belongs to.
//!
//! RabbitMQ returns an unroutable message before it confirms it, in the order of the publishes. lapin hands each return
//! out with the next confirm that it resolves, whosever that is, and resolves those of one frame in any order. So a confirm
//! by itself doesn't say that its message was stored, and has to be looked at together with all that were resolved before:
//!
//! - it carries nothing: every return before it was handed out, its own among them;
//! - it carries the return of a later publish: its own would have come first;
//! - it carries the return of an earlier one: its own may still follow, and it has to wait for a later confirm that
//!   carries nothing, or the return of a later publish.

use std::collections::BTreeMap;

use kombu_core::Name;
use kombu_core::Result;
use kombu_core::driver::Confirmation;
use kombu_core::message::Envelope;
use lapin::message::BasicReturnMessage;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::message::{self, Properties};
use crate::under_way::OnItsWay;

/// A publish without an answer.
pub(crate) struct Outstanding {
    pub(crate) exchange: Name,
    pub(crate) properties: Properties,
    pub(crate) envelope: Envelope,
    /// It was sent before, over a channel that the broker has closed.
    pub(crate) may_be_stored: bool,
    pub(crate) answer: oneshot::Sender<Result<Confirmation>>,
    pub(crate) _on_its_way: (OnItsWay, OwnedSemaphorePermit),
}

/// What the broker said to one.
pub(crate) struct Confirmed {
    pub(crate) number: u64,
    pub(crate) acked: bool,
    /// The return that lapin handed out with it, of whichever publish.
    pub(crate) returned: Option<Box<BasicReturnMessage>>,
}

#[derive(Default)]
pub(crate) struct Returns {
    next: u64,
    /// By number, in the order of the calls.
    outstanding: BTreeMap<u64, (Outstanding, Option<u16>)>,
    /// Confirmed, but their returns may still come.
    waiting: Vec<(u64, bool)>,
    /// How many of them waited already when the last confirms came.
    waited: usize,
    /// Empty between batches.
    answers: Vec<(u64, bool)>,
}

impl Returns {
    pub(crate) fn add(&mut self, publish: Outstanding) -> u64 {
        let number = self.next;
        self.next += 1;
        self.outstanding.insert(number, (publish, None));
        number
    }

    /// Takes all publishes out, in the order of the calls: their channel is gone, and with it what was to come for them.
    pub(crate) fn take(&mut self) -> Vec<Outstanding> {
        self.waiting.clear();
        self.waited = 0;
        let outstanding = std::mem::take(&mut self.outstanding);
        outstanding
            .into_values()
            .map(|(publish, _)| publish)
            .collect()
    }

    /// Takes all confirms that have come.
    pub(crate) fn confirmed(&mut self, batch: impl IntoIterator<Item = Confirmed>) {
        let mut answers = std::mem::take(&mut self.answers);
        let mut latest = 0;
        for confirmed in batch {
            let carried = match &confirmed.returned {
                None => u64::MAX,
                Some(message) => self.mark(message).unwrap_or(u64::MAX),
            };
            latest = latest.max(carried);
            let answer = (confirmed.number, confirmed.acked);
            match carried > confirmed.number {
                true => answers.push(answer),
                false => self.waiting.push(answer),
            }
        }
        let unconfirmed = self.outstanding.len() - self.waiting.len() - answers.len();
        let came_before = self.waited;
        let mut index = 0;
        self.waiting.retain(|(number, acked)| {
            let is_marked = matches!(self.outstanding.get(number), Some((_, Some(_))));
            let is_over = is_marked || unconfirmed == 0 || index < came_before && latest > *number;
            index += 1;
            if is_over {
                answers.push((*number, *acked));
            }
            !is_over
        });
        self.waited = self.waiting.len();
        for (number, acked) in answers.drain(..) {
            self.answer(number, acked);
        }
        self.answers = answers;
    }

    /// Finds the publish that a return belongs to: the first that looks like it and isn't returned yet. Between two that
    /// look alike in everything it makes no difference.
    fn mark(&mut self, message: &BasicReturnMessage) -> Option<u64> {
        let returned = &message.delivery;
        let mut alike = self.outstanding.iter().filter(|(_, (publish, marked))| {
            let envelope = &publish.envelope;
            marked.is_none()
                && publish.exchange == *returned.exchange.as_str()
                && *envelope.routing_key() == *returned.routing_key.as_str()
                && envelope.body()[..] == returned.data[..]
        });
        // Two may differ in their headers only, and go different ways.
        let exact = alike.clone().find(|(_, (publish, _))| {
            let sent = publish.properties.of(&publish.envelope);
            sent.is_ok_and(|sent| message::is_returned(&sent, &returned.properties))
        });
        let number = *exact.or_else(|| alike.next())?.0;
        let (_, returned) = self.outstanding.get_mut(&number)?;
        *returned = Some(message.reply_code);
        Some(number)
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
        let answer = match publish.may_be_stored {
            true => Confirmation::SentAgain(Box::new(answer)),
            false => answer,
        };
        // The receiver is gone if nobody waits.
        drop(publish.answer.send(Ok(answer)));
    }
}

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

use std::collections::VecDeque;

use kombu_core::Name;
use kombu_core::Result;
use kombu_core::driver::Confirmation;
use kombu_core::message::Envelope;
use lapin::message::BasicReturnMessage;
use tokio::sync::oneshot;

use crate::message::{self, Properties};
use crate::room::Place;

/// A publish without an answer.
pub(crate) struct Outstanding {
    pub(crate) exchange: Name,
    pub(crate) properties: Properties,
    pub(crate) envelope: Envelope,
    /// It was sent before, over a channel that the broker has closed.
    pub(crate) may_be_stored: bool,
    pub(crate) answer: oneshot::Sender<Result<Confirmation>>,
    pub(crate) place: Place,
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
    /// In the order of the calls, and whether they were returned.
    outstanding: Numbered<(Outstanding, Option<u16>)>,
    /// Confirmed, but their returns may still come.
    waiting: Vec<(u64, bool)>,
    /// How many of them waited already when the last confirms came.
    waited: usize,
    /// Empty between batches.
    answers: Vec<(u64, bool)>,
}

impl Returns {
    pub(crate) fn add(&mut self, publish: Outstanding) -> u64 {
        self.outstanding.push((publish, None))
    }

    /// Takes all publishes out, in the order of the calls: their channel is gone, and with it what was to come for them.
    pub(crate) fn take(&mut self) -> Vec<Outstanding> {
        self.waiting.clear();
        self.waited = 0;
        let outstanding = std::mem::take(&mut self.outstanding);
        let outstanding = outstanding.values.into_iter().flatten();
        outstanding.map(|(publish, _)| publish).collect()
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
        let unconfirmed = self.outstanding.count - self.waiting.len() - answers.len();
        let came_before = self.waited;
        let mut index = 0;
        self.waiting.retain(|(number, acked)| {
            let is_marked = matches!(self.outstanding.get(*number), Some((_, Some(_))));
            let is_over = is_marked || unconfirmed == 0 || index < came_before && latest > *number;
            index += 1;
            if is_over {
                answers.push((*number, *acked));
            }
            !is_over
        });
        self.waited = self.waiting.len();
        let answered = answers
            .drain(..)
            .filter_map(|(number, acked)| self.answer(number, acked));
        drop(answered.reduce(Place::merge));
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
        let (number, _) = exact.or_else(|| alike.next())?;
        drop(alike);
        let (_, returned) = self.outstanding.get_mut(number)?;
        *returned = Some(message.reply_code);
        Some(number)
    }

    /// Returns the place of the publish, which is free now.
    fn answer(&mut self, number: u64, acked: bool) -> Option<Place> {
        let (publish, returned) = self.outstanding.remove(number)?;
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
        Some(publish.place)
    }
}

/// Values by consecutive numbers, of which those that came first go first, more or less.
struct Numbered<T> {
    /// The number of the first value, there or not.
    first: u64,
    values: VecDeque<Option<T>>,
    /// How many are there.
    count: usize,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Numbered {
            first: 0,
            values: VecDeque::new(),
            count: 0,
        }
    }
}

impl<T> Numbered<T> {
    fn push(&mut self, value: T) -> u64 {
        let number = self.first + self.values.len() as u64;
        self.values.push_back(Some(value));
        self.count += 1;
        number
    }

    fn get(&self, number: u64) -> Option<&T> {
        let place = number.checked_sub(self.first)?;
        self.values.get(place as usize)?.as_ref()
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let place = number.checked_sub(self.first)?;
        self.values.get_mut(place as usize)?.as_mut()
    }

    fn remove(&mut self, number: u64) -> Option<T> {
        let place = number.checked_sub(self.first)?;
        let value = self.values.get_mut(place as usize)?.take()?;
        self.count -= 1;
        while let Some(None) = self.values.front() {
            self.values.pop_front();
            self.first += 1;
        }
        Some(value)
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &T)> + Clone {
        let numbered = (self.first..).zip(&self.values);
        numbered.filter_map(|(number, value)| Some((number, value.as_ref()?)))
    }
}

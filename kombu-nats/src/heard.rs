//! Which acknowledgements the server has taken in: one question to a consumer answers for all that it was told before.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use kombu_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::api;
use crate::hold::{self, ACK, Held};
use crate::line::Line;

/// What the consumers of a queue were told: it has one for each level, and its dead may lie elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<Box<str>, Consumer>>);

#[derive(Debug, Default)]
struct Consumer {
    /// How many acknowledgements it was told.
    told: u64,
    /// The last question, and how many it was told before.
    asked: Option<(u64, Question)>,
}

/// Whether somebody was there to answer, or why that can't be said.
type Question = Shared<BoxFuture<'static, std::result::Result<bool, (ErrorKind, Arc<str>)>>>;

/// How many acknowledgements a consumer was told up to one of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told(u64);

impl Heard {
    /// Acknowledges a message.
    pub(crate) fn tell(&self, line: &Line, held: &Held) -> Told {
        // It is counted when it is on its way: what is asked afterwards comes behind it.
        line.tell(held.ack.clone(), ACK);
        self.with(held, |consumer| {
            consumer.told += 1;
            Told(consumer.told)
        })
    }

    /// Whether the server has taken in an acknowledgement, as [`hold::barrier`] says it. Where that stays unanswered, it isn't asked
    /// again: another server may answer that, which never heard of the acknowledgement.
    pub(crate) async fn is_heard(&self, line: &Line, held: &Held, told: Told) -> Result<bool> {
        let question = self.with(held, |consumer| match &consumer.asked {
            Some((before, question)) if *before >= told.0 => question.clone(),
            _ => {
                let question = ask(line, held);
                consumer.asked = Some((consumer.told, question.clone()));
                question
            }
        });
        let answer = question.await;
        answer.map_err(|(kind, why)| Error::new(kind, &*why))
    }

    fn with<T>(&self, held: &Held, what: impl FnOnce(&mut Consumer) -> T) -> T {
        let name = api::consumer_of(&held.ack);
        let mut consumers = self.0.lock();
        if let Some(consumer) = consumers.get_mut(name) {
            return what(consumer);
        }
        what(consumers.entry(name.into()).or_default())
    }
}

fn ask(line: &Line, held: &Held) -> Question {
    // Others wait for it, too, whatever becomes of the runtime of who asks.
    let _entered = line.runtime.enter();
    let asking = hold::barrier(line, held.ack.clone());
    let asking = asking.map(|answer| match answer {
        Ok(is_heard) => Ok(is_heard),
        Err(error) => Err((error.kind(), error.message().into())),
    });
    asking.boxed().shared()
}

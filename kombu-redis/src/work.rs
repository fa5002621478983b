//! What a session asks of the server.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kombu_core::virt::{Answer, Death};
use kombu_core::{Name, Result};
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use crate::line::Line;

/// Where an answer goes. It is dropped if the session is lost first.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// Messages that the server counts as held, by their numbers, until they are handed over. Those that aren't go back.
pub(crate) struct Taken {
    pub(crate) messages: VecDeque<(u64, Vec<u8>)>,
    /// There may be more, which were too much for one answer.
    pub(crate) has_more: bool,
    /// How many had been handed over to the window before.
    pub(crate) handed: u64,
    /// Others may have come between this look and the moment from which the bell rings.
    pub(crate) may_have_missed: bool,
    pub(crate) line: Arc<Line>,
    pub(crate) holder: Holder,
}

impl Taken {
    /// Gives back what is beyond the first `count`, the last one first: so each goes in front of its successor.
    pub(crate) fn keep(&mut self, count: usize) {
        while self.messages.len() > count {
            if let Some((id, _)) = self.messages.pop_back() {
                give_back(&self.line, &self.holder, id);
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.keep(0);
    }
}

pub(crate) fn give_back(line: &Line, holder: &Holder, id: u64) {
    if holder.0.at_most_once {
        return;
    }
    line.send(Work::Finish(Finishing {
        holder: holder.clone(),
        id,
        end: End::Back {
            failed: false,
            delay: None,
        },
        reply: None,
    }));
}

/// One thing to be done, in its turn.
pub(crate) enum Work {
    Push(Push),
    Finish(Finishing),
    Take(Take),
    Ask(Ask),
    /// The session's end, in as many calls as it takes.
    End,
}

/// A message for queues.
pub(crate) struct Push {
    /// The server's version of the declarations.
    pub(crate) version: u64,
    /// The exchanges that the message came by, whose rows may have changed.
    pub(crate) exchanges: Arc<[Name]>,
    pub(crate) targets: Vec<Target>,
    pub(crate) parcel: Parcel,
    pub(crate) delay: Option<u64>,
    /// The channel that Python's consumers of a fanout listen at.
    pub(crate) channel: Option<Arc<str>>,
    /// For one queue without limits, at once and for as long as it takes: its text is all that the server has to know.
    pub(crate) is_plain: bool,
    /// Not together with others: what was wrong may have been one of them.
    pub(crate) alone: bool,
    pub(crate) reply: Reply<Answer>,
}

/// A queue and the list of it that a message belongs to.
#[derive(Clone, PartialEq)]
pub(crate) struct Target {
    pub(crate) queue: Name,
    pub(crate) step: u8,
}

/// A message as it lies in a list.
pub(crate) struct Parcel {
    pub(crate) text: Bytes,
    /// How long it may wait, in ms.
    pub(crate) expiration: Option<u64>,
    /// The size of its body.
    pub(crate) bytes: usize,
}

/// Who holds messages of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Holder(pub(crate) Arc<Hold>);

#[derive(Debug)]
pub(crate) struct Hold {
    /// `None` holds the dead, of all queues.
    pub(crate) number: Option<u64>,
    pub(crate) queue: Name,
    /// It has nothing to finish: the server forgets what it sends.
    pub(crate) at_most_once: bool,
    gone: AtomicBool,
}

impl Holder {
    pub(crate) fn new(number: u64, queue: Name) -> Self {
        Holder::with(Some(number), queue, false)
    }

    pub(crate) fn at_most_once(number: u64, queue: Name) -> Self {
        Holder::with(Some(number), queue, true)
    }

    pub(crate) fn of_the_dead() -> Self {
        Holder::with(None, Name::default(), false)
    }

    fn with(number: Option<u64>, queue: Name, at_most_once: bool) -> Self {
        Holder(Arc::new(Hold {
            number,
            queue,
            at_most_once,
            gone: AtomicBool::new(false),
        }))
    }

    /// Its reader is gone: the server may forget it when nothing is held any more.
    pub(crate) fn leave(&self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.0.gone.load(Ordering::Relaxed)
    }

    pub(crate) fn is(&self, other: &Holder) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The end of the hold on a message.
pub(crate) struct Finishing {
    pub(crate) holder: Holder,
    pub(crate) id: u64,
    pub(crate) end: End,
    /// `None` if nobody waits.
    pub(crate) reply: Option<Reply<Answer>>,
}

pub(crate) enum End {
    Forget,
    Back {
        failed: bool,
        delay: Option<u64>,
    },
    LeaveDead(Death),
    Move {
        version: u64,
        exchanges: Arc<[Name]>,
        targets: Vec<Target>,
        parcel: Parcel,
    },
}

/// Taking messages from a queue.
pub(crate) struct Take {
    pub(crate) holder: Holder,
    pub(crate) count: usize,
    pub(crate) taker: Taker,
    pub(crate) reply: Reply<Taken>,
}

impl Take {
    /// Whether the server is to tell of changes.
    pub(crate) fn arms(&self) -> bool {
        matches!(&self.taker, Taker::Consumer(waiting) if !waiting.keys.is_empty())
    }
}

/// Who takes messages.
pub(crate) enum Taker {
    /// Somebody who gets one; if the queue isn't declared, others made it.
    Once {
        is_declared: bool,
    },
    Consumer(Waiting),
}

/// How a consumer waits for messages.
pub(crate) struct Waiting {
    /// The keys to be told of when they change, if the server tells.
    pub(crate) keys: Arc<[Vec<u8>]>,
    pub(crate) window: u64,
    /// How many messages that were handed over to the window it has.
    pub(crate) accepted: u64,
    /// The database, if it may be handed what comes later.
    pub(crate) handed_at: Option<i64>,
}

/// Anything else; the answer is the server's.
pub(crate) struct Ask {
    pub(crate) command: Cmd,
    /// A key that the server is to tell of when it changes, from before the command on.
    pub(crate) watch: Option<Vec<u8>>,
    pub(crate) reply: Reply<Value>,
}

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kombu_core::{Delivery, Error, ErrorKind, Published};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::History;

/// One thing that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since the history began, by tokio's clock.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a program did, or what befell it. Messages are told apart by a number that the program puts into them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A publish was called. The order of these records is the order in which a producer publishes.
    Publishing {
        /// Whose message it is.
        producer: u32,
        /// Its number.
        message: u64,
    },
    /// A publish was answered.
    Published {
        /// The message's number.
        message: u64,
        /// Whether at least one queue has it.
        routed: bool,
        /// Whether it was sent again, so that it may be there twice.
        resent: bool,
    },
    /// A publish failed.
    PublishFailed {
        /// The message's number.
        message: u64,
        /// What it was answered.
        error: String,
        /// Whether the broker may have the message all the same.
        may_have_been_stored: bool,
    },
    /// A consumer got a message.
    Received {
        /// Who got it.
        consumer: u32,
        /// From where.
        queue: String,
        /// The message's number.
        message: u64,
        /// Whether it was handed out before.
        redelivered: bool,
        /// Which counted try this is.
        attempt: u32,
    },
    /// A consumer settled a message, and knows the answer.
    Settled {
        /// Who settled it.
        consumer: u32,
        /// The message's number.
        message: u64,
        /// What was to become of it.
        outcome: Outcome,
        /// What came of that.
        answer: Answer,
    },
    /// Something was done to the connection or to the broker.
    Fault {
        /// What.
        what: String,
    },
    /// What a queue had at the end, when nobody consumed from it any more.
    Left {
        /// The queue.
        queue: String,
        /// The numbers of its messages.
        messages: Vec<u64>,
    },
}

/// What was to become of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ack,
    /// Back to its place, not counted.
    Release,
    /// Back to the queue, counted.
    Retry,
    /// Given up.
    Reject,
}

/// What came of a settle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The driver has it, and a fault that comes later may still lose it.
    Queued,
    /// The broker has done it.
    Confirmed,
    /// The delivery was no longer ours; the message goes to somebody else.
    Lost,
    /// Another error: nobody knows.
    Failed(String),
}

impl Answer {
    /// The answer to a settle for whose confirm was waited.
    pub fn of_confirmed(result: &Result<(), Error>) -> Self {
        match result {
            Ok(()) => Answer::Confirmed,
            Err(error) => Answer::of_error(error),
        }
    }

    /// The answer to a settle for which only the driver's queue was waited.
    pub fn of_queued(result: &Result<(), Error>) -> Self {
        match result {
            Ok(()) => Answer::Queued,
            Err(error) => Answer::of_error(error),
        }
    }

    fn of_error(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::SettleLost => Answer::Lost,
            _ => Answer::Failed(error.to_string()),
        }
    }
}

/// Takes down what happens; a clone writes into the same history.
#[derive(Clone, Debug)]
pub struct Recorder {
    begin: Instant,
    records: Arc<Mutex<Vec<Record>>>,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder::new()
    }
}

impl Recorder {
    /// Begins a history now.
    pub fn new() -> Self {
        Recorder {
            begin: Instant::now(),
            records: Arc::default(),
        }
    }

    /// Takes down one event.
    pub fn record(&self, event: Event) {
        let at = self.begin.elapsed().as_micros() as u64;
        // A case that panicked while it wrote has failed; the records are still whole.
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.push(Record { at, event });
    }

    /// Takes down that a publish is called.
    pub fn publishing(&self, producer: u32, message: u64) {
        self.record(Event::Publishing { producer, message });
    }

    /// Takes down what a publish was answered.
    pub fn answered(&self, message: u64, answer: &Result<Published, Error>) {
        self.record(match answer {
            Ok(published) => Event::Published {
                message,
                routed: published.routed,
                resent: published.resent,
            },
            Err(error) => Event::PublishFailed {
                message,
                error: error.to_string(),
                may_have_been_stored: error.may_have_been_stored(),
            },
        });
    }

    /// Takes down a delivery.
    pub fn received(&self, consumer: u32, message: u64, delivery: &Delivery) {
        self.record(Event::Received {
            consumer,
            queue: delivery.queue().to_string(),
            message,
            redelivered: delivery.redelivered(),
            attempt: delivery.attempt(),
        });
    }

    /// Takes down what came of a settle.
    pub fn settled(&self, consumer: u32, message: u64, outcome: Outcome, answer: Answer) {
        self.record(Event::Settled {
            consumer,
            message,
            outcome,
            answer,
        });
    }

    /// Takes down a fault.
    pub fn fault(&self, what: impl Into<String>) {
        self.record(Event::Fault { what: what.into() });
    }

    /// Takes down what a queue had at the end.
    pub fn left(&self, queue: impl Into<String>, messages: Vec<u64>) {
        self.record(Event::Left {
            queue: queue.into(),
            messages,
        });
    }

    /// How long the history lasts by now.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Everything until now.
    pub fn history(&self) -> History {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        History::from_iter(records.iter().cloned())
    }
}

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
    /// Something was done to the connection or to the broker. One of the name `over` says that what was done before has ended.
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
    /// A message is to be received next within a time that begins now.
    Expected {
        /// The message's number.
        message: u64,
        /// Not earlier than so many microseconds from now.
        after: u64,
        /// And not later.
        within: u64,
    },
    /// A message is to be received, and others may be before it in its queue: that has to move until then.
    ExpectedAmongOthers {
        /// The queue.
        queue: String,
        /// The message's number.
        message: u64,
        /// The longest time in microseconds, from now on, in which nobody receives anything from there.
        pause: u64,
        /// The message comes not later than so many microseconds from now.
        within: u64,
    },
    /// A call that had a deadline is over.
    Called {
        /// Which one.
        call: String,
        /// What kind of error it ended with, if it was one.
        error: Option<String>,
        /// How many microseconds it took.
        took: u64,
        /// How many it may have taken.
        limit: u64,
    },
    /// How many of something there are, at a moment at which there should be as many as before.
    Counted {
        /// What was counted.
        what: String,
        /// How many there are.
        count: u64,
        /// How many more than at the first time there may be.
        slack: u64,
    },
}

/// The name of the end of a fault.
pub(super) const OVER: &str = "over";

impl Event {
    /// That a publish was answered, or failed.
    pub fn of_answer(message: u64, answer: &Result<Published, Error>) -> Self {
        match answer {
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
        }
    }
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

    /// The same over a network that fails, for a delivery whose session was there when it was settled: if that ended before the
    /// answer came, the broker may have done it all the same. `answered` says whether the broker answers settles at all.
    pub fn of_sent(result: &Result<(), Error>, answered: bool) -> Self {
        match result {
            Ok(()) if answered => Answer::Confirmed,
            Ok(()) => Answer::Queued,
            Err(error) => Answer::Failed(error.to_string()),
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
        self.record(Event::of_answer(message, answer));
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

    /// Takes down a fault. Shortly before it, and until it is [`over`](Recorder::over), acks that nobody answers may be undone.
    pub fn fault(&self, what: impl Into<String>) {
        self.record(Event::Fault { what: what.into() });
    }

    /// Takes down that the faults which were taken down are over. One of which this isn't said doesn't last.
    pub fn over(&self) {
        self.fault(OVER);
    }

    /// Takes down what a queue had at the end.
    pub fn left(&self, queue: impl Into<String>, messages: Vec<u64>) {
        self.record(Event::Left {
            queue: queue.into(),
            messages,
        });
    }

    /// Takes down that a message is to be received in a time that begins now: `after` the first of these, and within the
    /// second.
    pub fn expect(&self, message: u64, after: Duration, within: Duration) {
        self.record(Event::Expected {
            message,
            after: after.as_micros() as u64,
            within: within.as_micros() as u64,
        });
    }

    /// Takes down that a message is to be received from a queue in which others may be before it: `within` this time, and until
    /// then something is received there without a longer `pause`, which begins now.
    pub fn expect_among_others(
        &self,
        queue: impl Into<String>,
        message: u64,
        pause: Duration,
        within: Duration,
    ) {
        self.record(Event::ExpectedAmongOthers {
            queue: queue.into(),
            message,
            pause: pause.as_micros() as u64,
            within: within.as_micros() as u64,
        });
    }

    /// Awaits a call that has to be over within `limit`, and takes down how it ended and how long it took.
    ///
    /// One that takes a minute longer is dropped, and counts as if it had ended then.
    pub async fn call<T>(
        &self,
        call: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, Error>> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let begin = Instant::now();
        let answer = tokio::time::timeout(limit + PATIENCE, work).await.ok();
        self.record(Event::Called {
            call: call.to_owned(),
            error: match &answer {
                Some(Ok(_)) => None,
                Some(Err(error)) => Some(format!("{:?}", error.kind())),
                None => Some("none: it was dropped".to_owned()),
            },
            took: begin.elapsed().as_micros() as u64,
            limit: limit.as_micros() as u64,
        });
        answer
    }

    /// Takes down how many of something there are.
    pub fn count(&self, what: impl Into<String>, count: u64, slack: u64) {
        self.record(Event::Counted {
            what: what.into(),
            count,
            slack,
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

//! What happened between a program and its broker, written down, and one checker that reads it.
//!
//! ```
//! use std::time::Duration;
//!
//! use kombu::{Exchange, Queue};
//! use kombu_testkit::history::{Answer, Outcome, Recorder};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! let connection = kombu::connect("memory://").await?;
//! let mut consumer = connection.consumer(&Queue::new("jobs")).await?;
//! let producer = connection.producer(Exchange::default()).routing_key("jobs").await?;
//! let recorder = Recorder::new();
//!
//! recorder.publishing(0, 7);
//! recorder.answered(7, &producer.publish(&7u64).await);
//! let (message, delivery) = consumer.try_next().await?.expect("a message").take::<u64>()?;
//! recorder.received(0, message, &delivery);
//! let acked = delivery.ack().confirmed().await;
//! recorder.settled(0, message, Outcome::Ack, Answer::of_confirmed(&acked));
//!
//! recorder.history().assert_sound(Duration::from_secs(10));
//! # Ok(())
//! # }
//! ```

mod check;
mod record;
mod summary;

pub use check::Flaw;
pub use record::{Answer, Event, Outcome, Record, Recorder};
pub use summary::Summary;

use std::collections::HashSet;
use std::time::Duration;

/// A sequence of records, in the order in which they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    records: Vec<Record>,
}

impl FromIterator<Record> for History {
    fn from_iter<I: IntoIterator<Item = Record>>(records: I) -> Self {
        History {
            records: records.into_iter().collect(),
        }
    }
}

impl History {
    /// The records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// One line of JSON for each record.
    ///
    /// # Panics
    ///
    /// Never: a record has nothing that JSON lacks.
    pub fn to_lines(&self) -> String {
        let mut lines = String::new();
        for record in &self.records {
            lines.push_str(&serde_json::to_string(record).expect("a record in JSON"));
            lines.push('\n');
        }
        lines
    }

    /// Reads what [`to_lines`](History::to_lines) wrote.
    ///
    /// # Errors
    ///
    /// That of the first line that isn't a record.
    pub fn from_lines(lines: &str) -> Result<Self, serde_json::Error> {
        let lines = lines.lines().filter(|line| !line.trim().is_empty());
        let records = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(History { records })
    }

    /// What is wrong with it. `patience` is how long nobody may receive anything while a message is ready: it
    /// has to cover the longest outage and the longest time that consumers hold a full window.
    pub fn flaws(&self, patience: Duration) -> Vec<Flaw> {
        check::flaws(&self.records, patience)
    }

    /// The same, where replies can be lost on their way: of a message that was sent again there may be two copies, and if the
    /// one that handed out the first copy is lost, the second one is the first to be seen, behind others.
    pub fn flaws_of_a_network(&self, patience: Duration) -> Vec<Flaw> {
        let resent: HashSet<u64> = self
            .records
            .iter()
            .filter_map(|record| match record.event {
                Event::Published {
                    message,
                    resent: true,
                    ..
                } => Some(message),
                _ => None,
            })
            .collect();
        let mut flaws = self.flaws(patience);
        flaws.retain(
            |flaw| !matches!(flaw, Flaw::OutOfOrder { message, .. } if resent.contains(message)),
        );
        flaws
    }

    /// What it comes to, in numbers.
    pub fn summary(&self) -> Summary {
        summary::summary(&self.records)
    }

    /// Messages that a consumer got more often than they were given back, and how much more often.
    pub fn handled_again(&self) -> Vec<(u64, u64)> {
        summary::handled_again(&self.records).collect()
    }

    /// How long what was expected took to come, each with the time in microseconds from which on it was expected. What never
    /// came took until the end. For what was expected among others, the longest pause of its queue until it came.
    pub fn waits(&self) -> Vec<(u64, Duration)> {
        summary::waits(&self.records).collect()
    }

    /// Fails if there is any flaw, and shows what happened to the messages that are concerned.
    ///
    /// # Panics
    ///
    /// Then.
    #[track_caller]
    pub fn assert_sound(&self, patience: Duration) {
        let flaws = self.flaws(patience);
        if flaws.is_empty() {
            return;
        }
        let mut report = format!("{} flaws in the history", flaws.len());
        for flaw in flaws.iter().take(10) {
            report.push_str(&format!("\n{flaw}\n"));
            report.push_str(&self.around(flaw).to_lines());
        }
        panic!("{report}");
    }

    /// What concerns the message of a flaw.
    fn around(&self, flaw: &Flaw) -> History {
        let Some(message) = flaw.message() else {
            return History::default();
        };
        let concerns = |event: &Event| match event {
            Event::Publishing { message: other, .. }
            | Event::Published { message: other, .. }
            | Event::PublishFailed { message: other, .. }
            | Event::Received { message: other, .. }
            | Event::Settled { message: other, .. } => *other == message,
            Event::Expected { message: other, .. }
            | Event::ExpectedAmongOthers { message: other, .. } => *other == message,
            Event::Left { messages, .. } => messages.contains(&message),
            Event::Fault { .. } | Event::Called { .. } | Event::Counted { .. } => false,
        };
        let records = self.records.iter();
        records
            .filter(|record| concerns(&record.event))
            .cloned()
            .collect()
    }
}

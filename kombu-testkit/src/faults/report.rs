use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Fault;
use crate::history::{Event, Flaw, History};

/// How much of what is broken a row tells.
const TOLD: usize = 20;

/// What is said of a history without a fault.
const NO_FAULT: &str = "no fault";

/// What a fault did to a program: one line of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// On which transport.
    pub transport: String,
    /// What was done.
    pub fault: String,
    /// How often.
    pub tried: u64,
    /// Messages whose publish was answered, and that nobody got.
    pub lost: u64,
    /// Messages that were handled again.
    pub duplicated: u64,
    /// The longest that something took to go on when the fault was over, or that a call took beyond its deadline, in ms.
    pub worst_stall: u64,
    /// How long that may be, in ms.
    pub allowed: u64,
    /// What must not be, in words, the first twenty. If there is anything, the row is broken.
    pub broken: Vec<String>,
}

impl Row {
    /// What a whole history came to. `patience` is that of [`History::flaws_of_a_network`].
    pub fn of(
        transport: impl Into<String>,
        fault: impl Into<String>,
        tried: u64,
        history: &History,
        patience: Duration,
        allowed: Duration,
    ) -> Self {
        let flaws = history.flaws_of_a_network(patience);
        let summary = history.summary();
        let lost = flaws.iter().filter(|flaw| is_loss(flaw)).count();
        let worst = summary.worst_wait.max(summary.worst_overrun);
        Row {
            transport: transport.into(),
            fault: fault.into(),
            tried,
            lost: lost as u64,
            duplicated: summary.again,
            worst_stall: worst.as_millis() as u64,
            allowed: allowed.as_millis() as u64,
            broken: flaws.iter().take(TOLD).map(ToString::to_string).collect(),
        }
    }

    /// One row for each fault of a history with many. What a message met counts for the last fault before the end of its story,
    /// as far as it is known; without any fault, there is a row for that.
    pub fn of_each(
        transport: &str,
        history: &History,
        patience: Duration,
        allowed: Duration,
    ) -> Vec<Self> {
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        // What was the last fault when, in the order of the records.
        let mut faults: Vec<(u64, &str)> = Vec::new();
        let mut last_of: BTreeMap<u64, u64> = BTreeMap::new();
        let known: Vec<String> = Fault::ALL.iter().map(ToString::to_string).collect();
        let row_of = |what: &str| Row {
            transport: transport.to_owned(),
            fault: what.to_owned(),
            allowed: allowed.as_millis() as u64,
            ..Row::default()
        };
        for record in history.records() {
            match &record.event {
                Event::Fault { what } if known.contains(what) => {
                    faults.push((record.at, what));
                    let row = rows.entry(what.clone()).or_insert_with(|| row_of(what));
                    row.tried += 1;
                }
                Event::Publishing { message, .. } | Event::Received { message, .. } => {
                    last_of.insert(*message, record.at);
                }
                _ => {}
            }
        }
        let fault_at = |at: u64| {
            let before = faults.partition_point(|(begin, _)| *begin <= at);
            let fault = faults.get(before.saturating_sub(1));
            fault.map_or(NO_FAULT, |(_, what)| what).to_owned()
        };
        let mut at = |at: u64, change: &dyn Fn(&mut Row)| {
            let what = fault_at(at);
            change(rows.entry(what).or_insert_with_key(|what| row_of(what)));
        };
        for flaw in history.flaws_of_a_network(patience) {
            let last = flaw.message().and_then(|message| last_of.get(&message));
            at(last.copied().unwrap_or(u64::MAX), &|row| {
                row.lost += u64::from(is_loss(&flaw));
                if row.broken.len() < TOLD {
                    row.broken.push(flaw.to_string());
                }
            });
        }
        for (message, _) in history.handled_again() {
            let last = last_of.get(&message).copied();
            at(last.unwrap_or(u64::MAX), &|row| row.duplicated += 1);
        }
        for (expected, waited) in history.waits() {
            let waited = waited.as_millis() as u64;
            at(expected, &|row| {
                row.worst_stall = row.worst_stall.max(waited)
            });
        }
        rows.into_values().collect()
    }

    /// Whether something is as it must not be.
    pub fn is_broken(&self) -> bool {
        self.lost > 0 || self.worst_stall > self.allowed || !self.broken.is_empty()
    }
}

fn is_loss(flaw: &Flaw) -> bool {
    matches!(flaw, Flaw::Lost { .. } | Flaw::Late { at: None, .. })
}

/// All rows as a table in Markdown, sorted, followed by what is broken.
pub fn table(rows: &[Row]) -> String {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| (&row.transport, &row.fault));
    let mut text = String::from(
        "| transport | fault | tried | lost | duplicated | worst stall, ms | allowed, ms |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
    );
    for row in &sorted {
        let mark = if row.is_broken() { " **broken**" } else { "" };
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "| {} | {}{mark} | {} | {} | {} | {} | {} |",
            row.transport,
            row.fault,
            row.tried,
            row.lost,
            row.duplicated,
            row.worst_stall,
            row.allowed
        );
    }
    for row in sorted {
        for broken in row.broken.iter().take(5) {
            let _ = writeln!(text, "\n{}, {}: {broken}", row.transport, row.fault);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Outcome, Record};

    fn history(events: impl IntoIterator<Item = (u64, Event)>) -> History {
        let records = events.into_iter().map(|(at, event)| Record {
            at: at * 1000,
            event,
        });
        History::from_iter(records)
    }

    fn fault(fault: Fault) -> Event {
        Event::Fault {
            what: fault.to_string(),
        }
    }

    fn published(message: u64) -> [(u64, Event); 2] {
        let producer = 0;
        [
            (0, Event::Publishing { producer, message }),
            (
                0,
                Event::Published {
                    message,
                    routed: true,
                    resent: false,
                },
            ),
        ]
    }

    fn received(message: u64) -> Event {
        Event::Received {
            consumer: 0,
            queue: "jobs".into(),
            message,
            redelivered: false,
            attempt: 1,
        }
    }

    fn settled(message: u64, answer: Answer) -> Event {
        Event::Settled {
            consumer: 0,
            message,
            outcome: Outcome::Ack,
            answer,
        }
    }

    #[test]
    fn each_fault_has_a_row_with_what_it_did() {
        let mut events: Vec<_> = [1, 2, 3].into_iter().flat_map(published).collect();
        events.extend([
            (5, received(1)),
            (10, fault(Fault::Cut)),
            (11, settled(1, Answer::Lost)),
            (
                12,
                Event::Expected {
                    message: 2,
                    after: 0,
                    within: 50_000,
                },
            ),
            (20, received(1)),
            (20, settled(1, Answer::Confirmed)),
            (30, received(2)),
            (30, settled(2, Answer::Confirmed)),
            (40, fault(Fault::Kill)),
            (41, received(3)),
            (50, fault(Fault::Kill)),
        ]);
        let second = Duration::from_secs(1);
        let rows = Row::of_each("some", &history(events), second, second);
        let found: Vec<_> = rows
            .iter()
            .map(|row| {
                let name = row.fault.as_str();
                (
                    name,
                    row.tried,
                    row.lost,
                    row.duplicated,
                    row.worst_stall,
                    row.is_broken(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [("cut", 1, 0, 1, 18, false), ("killed", 2, 1, 0, 0, true)]
        );
        let table = table(&rows);
        assert!(
            table.contains("| some | cut | 1 | 0 | 1 | 18 | 1000 |\n"),
            "{table}"
        );
        assert!(
            table.contains("| some | killed **broken** | 2 | 1 | 0 | 0 | 1000 |"),
            "{table}"
        );
        assert!(table.contains("message 3 is lost"), "{table}");
    }

    #[test]
    fn what_is_wrong_without_a_fault_has_a_row_too() {
        let second = Duration::from_secs(1);
        let rows = Row::of_each("some", &history(published(1)), second, second);
        let [row] = &rows[..] else {
            panic!("not one row: {rows:?}");
        };
        assert_eq!(
            (row.fault.as_str(), row.tried, row.lost),
            ("no fault", 0, 1)
        );
        assert!(row.is_broken());
        let mut fine = Vec::from(published(1));
        fine.extend([(1, received(1)), (1, settled(1, Answer::Confirmed))]);
        assert_eq!(Row::of_each("some", &history(fine), second, second), []);
    }

    #[test]
    fn what_takes_longer_than_it_may_is_broken() {
        let row = Row {
            worst_stall: 11,
            allowed: 10,
            ..Row::default()
        };
        assert!(row.is_broken());
    }
}

//! Declarations as they are kept on the server: one key for each exchange, queue and binding.
//!
//! Those that are gone leave a mark, so that whoever reads on from what it knows learns of it. Read in the order in which
//! they were written, what is left of the records makes the table: a binding counts if both of its ends were there
//! before it.
//!
//! When there are many marks, the older ones are removed, and one record says as far as where: whoever hadn't read that far
//! reads all records anew.

use kombu_core::driver::Destination;
use kombu_core::virt::{BindingRecord, Change, Table};
use kombu_core::{Error, ErrorKind, Exchange, FieldTable, Name, Queue, Result};
use serde::{Deserialize, Serialize};

use crate::names::{Bucket, encoded, exchange_key, hash, queue_key};

/// The version of everything that lies on the server.
pub(crate) const LAYOUT: u32 = 1;

/// The key of the version.
pub(crate) const LAYOUT_KEY: &str = "layout";

/// The key that says which marks were removed.
pub(crate) const TRIMMED_KEY: &str = "trimmed";

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    Layout(u32),
    Exchange(Exchange),
    NoExchange(Name),
    Queue(QueueRecord),
    NoQueue(Name),
    Binding(BindingText),
    NoBinding(BindingText),
    /// Marks up to this position may be gone.
    Trimmed(u64),
}

/// A queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QueueRecord {
    pub(crate) queue: Queue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<u64>,
    /// What the name of its stream ends with.
    pub(crate) id: String,
    /// Its stream was there before the record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) adopted: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BindingText {
    source: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<Name>,
    routing_key: Name,
    #[serde(default, skip_serializing_if = "FieldTable::is_empty")]
    arguments: FieldTable,
}

impl BindingText {
    fn new(record: &BindingRecord) -> Self {
        let (queue, exchange) = match &record.destination {
            Destination::Queue(name) => (Some(name.clone()), None),
            Destination::Exchange(name) => (None, Some(name.clone())),
        };
        BindingText {
            source: record.source.clone(),
            queue,
            exchange,
            routing_key: record.routing_key.clone(),
            arguments: record.arguments.clone(),
        }
    }

    fn record(self) -> Option<BindingRecord> {
        let destination = match (self.queue, self.exchange) {
            (Some(queue), None) => Destination::Queue(queue),
            (None, Some(exchange)) => Destination::Exchange(exchange),
            _ => return None,
        };
        Some(BindingRecord {
            source: self.source,
            destination,
            routing_key: self.routing_key,
            arguments: self.arguments,
        })
    }
}

/// What a change writes, and where. A queue whose stream is there already has the id of that.
pub(crate) fn written(
    change: &Change,
    found: Option<String>,
    fresh_id: impl FnOnce() -> String,
) -> Result<(String, Record)> {
    Ok(match change {
        Change::PutExchange(exchange) => (
            exchange_key(exchange.name()),
            Record::Exchange(exchange.clone()),
        ),
        Change::DeleteExchange(name) => (exchange_key(name), Record::NoExchange(name.clone())),
        Change::PutQueue(queue, owner) => {
            let record = QueueRecord {
                queue: queue.clone(),
                owner: *owner,
                adopted: found.is_some(),
                id: found.unwrap_or_else(fresh_id),
            };
            (queue_key(queue.name()), Record::Queue(record))
        }
        Change::DeleteQueue(name, _) => (queue_key(name), Record::NoQueue(name.clone())),
        Change::Bind(record) => (
            binding_key(record)?,
            Record::Binding(BindingText::new(record)),
        ),
        Change::Unbind(record) => (
            binding_key(record)?,
            Record::NoBinding(BindingText::new(record)),
        ),
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this transport doesn't know this sort of declaration",
            ));
        }
    })
}

impl Record {
    /// Whether it says that something is gone.
    pub(crate) fn is_mark(&self) -> bool {
        matches!(
            self,
            Record::NoExchange(_) | Record::NoQueue(_) | Record::NoBinding(_)
        )
    }

    /// The exchanges whose routes it may change, in a table that doesn't have it yet.
    pub(crate) fn touches(&self, table: &Table) -> Vec<Name> {
        let sources = |destination| {
            let bindings = table.bindings_to(&destination);
            bindings.map(|record| record.source.clone()).collect()
        };
        match self {
            Record::Layout(_) | Record::Trimmed(_) => Vec::new(),
            Record::Exchange(exchange) => {
                let mut touched: Vec<Name> =
                    sources(Destination::Exchange(exchange.name().clone()));
                touched.push(exchange.name().clone());
                touched
            }
            Record::NoExchange(name) => {
                let mut touched: Vec<Name> = sources(Destination::Exchange(name.clone()));
                touched.push(name.clone());
                touched
            }
            Record::Queue(record) => sources(Destination::Queue(record.queue.name().clone())),
            Record::NoQueue(name) => sources(Destination::Queue(name.clone())),
            Record::Binding(text) | Record::NoBinding(text) => vec![text.source.clone()],
        }
    }

    pub(crate) fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|problem| {
            Error::new(ErrorKind::Protocol, "a declaration can't be written").with_source(problem)
        })
    }

    pub(crate) fn read(text: &[u8]) -> Result<Self> {
        serde_json::from_slice(text).map_err(|problem| {
            Error::new(
                ErrorKind::Unsupported,
                "a declaration in NATS can't be read: a newer version of this library, or another program, wrote it; \
                 use that, or another prefix",
            )
            .with_source(problem)
        })
    }

    /// Takes it into a table that has everything that was written before.
    pub(crate) fn apply(self, table: &mut Table) -> Result<()> {
        match self {
            Record::Layout(LAYOUT) | Record::Trimmed(_) => {}
            Record::Layout(version) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "what lies in NATS has version {version}, and this version of the library knows {LAYOUT}; use a newer \
                         one, or another prefix"
                    ),
                ));
            }
            Record::Exchange(exchange) => {
                // One that went unseen took its bindings along.
                table.apply(&Change::DeleteExchange(exchange.name().clone()));
                table.apply(&Change::PutExchange(exchange));
            }
            Record::NoExchange(name) => table.apply(&Change::DeleteExchange(name)),
            Record::Queue(record) => {
                let name = record.queue.name().clone();
                table.apply(&Change::DeleteQueue(name, Default::default()));
                table.apply(&Change::PutQueue(record.queue, record.owner));
            }
            Record::NoQueue(name) => {
                table.apply(&Change::DeleteQueue(name, Default::default()));
            }
            Record::Binding(text) => {
                if let Some(record) = text.record() {
                    let is_there = match &record.destination {
                        Destination::Queue(name) => table.queue(name).is_some(),
                        Destination::Exchange(name) => table.exchange(name).is_some(),
                    };
                    if is_there {
                        table.apply(&Change::Bind(record));
                    }
                }
            }
            Record::NoBinding(text) => {
                if let Some(record) = text.record() {
                    table.apply(&Change::Unbind(record));
                }
            }
        }
        Ok(())
    }
}

/// What stands in keys for where a binding leads to.
fn end(destination: &Destination) -> String {
    match destination {
        Destination::Queue(name) => format!("q-{}", encoded(name)),
        Destination::Exchange(name) => format!("x-{}", encoded(name)),
    }
}

fn binding_key(record: &BindingRecord) -> Result<String> {
    let arguments = serde_json::to_string(&record.arguments).map_err(|problem| {
        Error::new(ErrorKind::Protocol, "a binding can't be written").with_source(problem)
    })?;
    let what = hash(format!("{}\n{arguments}", record.routing_key).as_bytes());
    Ok(format!(
        "b.{}.{}.{what:032x}",
        encoded(&record.source),
        end(&record.destination)
    ))
}

/// The subjects of the bindings that go with a change.
pub(crate) fn bindings_of(bucket: &Bucket, change: &Change) -> Vec<String> {
    let patterns = match change {
        Change::DeleteQueue(name, _) => {
            vec![format!("b.*.{}.*", end(&Destination::Queue(name.clone())))]
        }
        Change::DeleteExchange(name) => vec![
            format!("b.{}.*.*", encoded(name)),
            format!("b.*.{}.*", end(&Destination::Exchange(name.clone()))),
        ],
        _ => Vec::new(),
    };
    patterns
        .iter()
        .map(|pattern| bucket.subject(pattern))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written by the first version is read for ever.
    #[test]
    fn records_stay_readable() {
        let golden = [
            (r#"{"layout":1}"#, Record::Layout(1)),
            (r#"{"no_queue":"jobs"}"#, Record::NoQueue("jobs".into())),
            (r#"{"trimmed":512}"#, Record::Trimmed(512)),
            (
                r#"{"binding":{"source":"media","queue":"videos","routing_key":"video.#"}}"#,
                Record::Binding(BindingText::new(&BindingRecord {
                    source: "media".into(),
                    destination: Destination::Queue("videos".into()),
                    routing_key: "video.#".into(),
                    arguments: FieldTable::default(),
                })),
            ),
        ];
        for (text, record) in golden {
            assert_eq!(Record::read(text.as_bytes()).unwrap(), record);
            assert_eq!(record.text().unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_binding_to_a_queue_that_was_declared_again_is_gone() {
        let mut table = Table::new();
        let queue = |id: &str| {
            Record::Queue(QueueRecord {
                queue: Queue::new("jobs"),
                owner: None,
                adopted: false,
                id: id.to_owned(),
            })
        };
        let bound = BindingRecord {
            source: "amq.direct".into(),
            destination: Destination::Queue("jobs".into()),
            routing_key: "jobs".into(),
            arguments: FieldTable::default(),
        };
        let binding = Record::Binding(BindingText::new(&bound));
        // Its queue's record was written after it: this is another queue.
        binding.clone().apply(&mut table).unwrap();
        queue("1").apply(&mut table).unwrap();
        assert!(!table.is_bound(&bound));
        binding.apply(&mut table).unwrap();
        assert!(table.is_bound(&bound));
        queue("2").apply(&mut table).unwrap();
        assert!(!table.is_bound(&bound));
    }
}

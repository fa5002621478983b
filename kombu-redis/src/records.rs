//! Declarations as they are kept on the server.
//!
//! A binding that kombu can express is a row in kombu's sets, whoever made it. The others, from a headers exchange, with
//! arguments, or to another exchange, are records of ours.

use kombu_core::driver::{DeleteQueue, Destination};
use kombu_core::virt::{BindingRecord, Change, Table};
use kombu_core::{
    Error, ErrorKind, Exchange, ExchangeKind, FieldTable, Name, Overflow, Queue, Result,
};
use redis::Cmd;
use serde::{Deserialize, Serialize};

use crate::flight::field;

/// Between the parts of kombu's keys and rows.
pub(crate) const SEPARATOR: &str = "\u{6}\u{16}";

/// What `queues` has of a queue.
#[derive(Serialize, Deserialize)]
pub(crate) struct QueueRecord {
    pub(crate) queue: Queue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct BindingText {
    source: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<Name>,
    routing_key: Name,
    #[serde(default, skip_serializing_if = "FieldTable::is_empty")]
    arguments: FieldTable,
}

/// A binding as it is stored.
#[derive(Debug, PartialEq)]
pub(crate) enum Stored {
    /// A row in the set of the exchange.
    Row(String),
    /// A record of ours.
    Record(String),
}

/// How a binding from an exchange of this kind is stored.
pub(crate) fn stored(record: &BindingRecord, kind: Option<&ExchangeKind>) -> Result<Stored> {
    let routes_by_key = matches!(
        kind,
        Some(ExchangeKind::Direct | ExchangeKind::Topic | ExchangeKind::Fanout)
    );
    if let Destination::Queue(queue) = &record.destination
        && routes_by_key
        && record.arguments.is_empty()
        && !queue.contains(SEPARATOR)
        && !record.routing_key.contains(SEPARATOR)
    {
        let pattern = match kind {
            Some(ExchangeKind::Topic) => pattern(&record.routing_key),
            _ => String::new(),
        };
        let key = record.routing_key.as_str();
        return Ok(Stored::Row([key, &pattern, queue].join(SEPARATOR)));
    }
    let (queue, exchange) = match &record.destination {
        Destination::Queue(name) => (Some(name.clone()), None),
        Destination::Exchange(name) => (None, Some(name.clone())),
    };
    let text = BindingText {
        source: record.source.clone(),
        queue,
        exchange,
        routing_key: record.routing_key.clone(),
        arguments: record.arguments.clone(),
    };
    written(&text, "binding").map(Stored::Record)
}

/// The regular expression that kombu makes of a topic's pattern, byte for byte: Python removes the rows that it would
/// write.
fn pattern(key: &str) -> String {
    let words = key.split('.').map(|word| match word {
        "*" => r"[^\.]+".to_owned(),
        "#" => ".*?".to_owned(),
        word => escaped(word),
    });
    let words: Vec<_> = words.collect();
    format!("^{}$", words.join(r"\."))
}

/// A word as kombu escapes it, which leaves wildcards inside of one to the regular expression.
fn escaped(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for character in word.chars() {
        match character {
            '\0' => escaped.push_str(r"\000"),
            '#' | '*' => escaped.push(character),
            character if character.is_alphanumeric() => escaped.push(character),
            character => escaped.extend(['\\', character]),
        }
    }
    escaped
}

/// The binding of a row in the set of an exchange, and whether it is a topic's; `None` if it isn't kombu's.
pub(crate) fn row(source: &Name, row: &str) -> Option<(BindingRecord, bool)> {
    let mut parts = row.split(SEPARATOR);
    let (key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let record = BindingRecord {
        source: source.clone(),
        destination: Destination::Queue(Name::from(queue)),
        routing_key: Name::from(key),
        arguments: FieldTable::default(),
    };
    Some((record, !pattern.is_empty()))
}

pub(crate) fn binding(text: &[u8]) -> Result<BindingRecord> {
    let text: BindingText = read(text, "binding")?;
    let destination = match (text.queue, text.exchange) {
        (Some(queue), None) => Destination::Queue(queue),
        (None, Some(exchange)) => Destination::Exchange(exchange),
        _ => return Err(unreadable("binding")),
    };
    Ok(BindingRecord {
        source: text.source,
        destination,
        routing_key: text.routing_key,
        arguments: text.arguments,
    })
}

pub(crate) fn read<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str) -> Result<T> {
    serde_json::from_slice(text).map_err(|problem| unreadable(what).with_source(problem))
}

fn unreadable(what: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!(
            "the record of a {what} in Redis can't be read; a newer version of this library may have written it"
        ),
    )
}

pub(crate) fn written(value: &impl Serialize, what: &str) -> Result<String> {
    serde_json::to_string(value).map_err(|problem| {
        Error::new(ErrorKind::Config, format!("a {what} can't be written")).with_source(problem)
    })
}

/// What the scripts have to know of a queue.
fn fields(queue: &Queue, owner: Option<u64>) -> String {
    let mut fields = String::new();
    let milliseconds = |duration: std::time::Duration| duration.as_millis();
    let ttl = queue.get_message_ttl().map(milliseconds);
    let (length, bytes) = (queue.get_max_length(), queue.get_max_length_bytes());
    let mode = match queue.get_overflow() {
        Some(Overflow::RejectPublish) => 'r',
        Some(Overflow::RejectPublishDlx) => 'x',
        _ => 'd',
    };
    let number = |number: Option<u128>| number.map_or("-1".to_owned(), |number| number.to_string());
    let keeps = u8::from(queue.get_dead_letter_exchange().is_some());
    if ttl.is_some() || length.is_some() || bytes.is_some() {
        let (length, bytes) = (length.map(u128::from), bytes.map(u128::from));
        field(
            &mut fields,
            "lim",
            format_args!(
                "{},{},{mode},{},{keeps}",
                number(length),
                number(bytes),
                number(ttl)
            ),
        );
    }
    if keeps == 1 {
        field(&mut fields, "dlx", 1);
    }
    if let Some(expires) = queue.get_expires().map(milliseconds) {
        field(&mut fields, "exp", expires);
    }
    if queue.is_auto_delete() {
        field(&mut fields, "auto", 1);
    }
    if queue.is_single_active_consumer() {
        field(&mut fields, "sac", 1);
    }
    if let Some(owner) = owner {
        field(&mut fields, "owner", owner);
    }
    fields
}

/// Changes as `apply.lua` takes them.
pub(crate) struct Changes<'a> {
    command: &'a mut Cmd,
    table: &'a Table,
}

impl<'a> Changes<'a> {
    /// Writes them behind the version that they are based on, which is that of `table`.
    pub(crate) fn of(table: &'a Table, command: &'a mut Cmd) -> Self {
        Changes { command, table }
    }

    /// Adds one; `kinds` are those of exchanges that come with the same change.
    pub(crate) fn add(&mut self, change: &Change, kinds: &[(Name, ExchangeKind)]) -> Result<()> {
        match change {
            Change::PutExchange(exchange) => {
                let bare = exchange.clone().with_bindings(Vec::new());
                let text = written(&bare, "exchange")?;
                self.command
                    .arg("X")
                    .arg(exchange.name().as_str())
                    .arg(text);
            }
            Change::DeleteExchange(name) => {
                // Its rows go with it.
                let records = self.table.bindings().filter(|record| {
                    record.source == *name
                        || record.destination == Destination::Exchange(name.clone())
                });
                for record in records {
                    self.remove(record, kinds)?;
                }
                self.command.arg("x").arg(name.as_str());
            }
            Change::PutQueue(queue, owner) => {
                let bare = queue.clone().with_bindings(Vec::new());
                let decl = written(&bare, "queue")?;
                let record = QueueRecord {
                    queue: bare,
                    owner: *owner,
                };
                self.command
                    .arg("Q")
                    .arg(queue.name().as_str())
                    .arg(decl)
                    .arg(written(&record, "queue")?)
                    .arg(fields(queue, *owner));
            }
            Change::DeleteQueue(name, options) => self.delete(name, conditions(*options), kinds)?,
            Change::Bind(record) => match stored(record, self.kind(&record.source, kinds))? {
                Stored::Row(row) => {
                    self.command.arg("B").arg(record.source.as_str()).arg(row);
                }
                Stored::Record(text) => {
                    self.command.arg("b").arg(text);
                }
            },
            Change::Unbind(record) => self.remove(record, kinds)?,
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this transport can't change declarations like that",
                ));
            }
        }
        Ok(())
    }

    /// Deletes a queue with its bindings, under conditions of `apply.lua`.
    pub(crate) fn delete(
        &mut self,
        name: &Name,
        conditions: &str,
        kinds: &[(Name, ExchangeKind)],
    ) -> Result<()> {
        self.command.arg("q").arg(name.as_str()).arg(conditions);
        let to_it = Destination::Queue(name.clone());
        for record in self.table.bindings() {
            if record.destination == to_it {
                self.remove(record, kinds)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, record: &BindingRecord, kinds: &[(Name, ExchangeKind)]) -> Result<()> {
        match stored(record, self.kind(&record.source, kinds))? {
            Stored::Row(row) => self.command.arg("U").arg(record.source.as_str()).arg(row),
            Stored::Record(text) => self.command.arg("u").arg(text),
        };
        Ok(())
    }

    fn kind<'k>(
        &'k self,
        exchange: &str,
        kinds: &'k [(Name, ExchangeKind)],
    ) -> Option<&'k ExchangeKind> {
        let new = kinds.iter().find(|(name, _)| name == exchange);
        new.map(|(_, kind)| kind)
            .or_else(|| self.table.exchange(exchange).map(Exchange::kind))
    }
}

fn conditions(options: DeleteQueue) -> &'static str {
    match (options.if_unused, options.if_empty) {
        (false, false) => "",
        (true, false) => "u",
        (false, true) => "m",
        (true, true) => "um",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_that_kombu_knows_is_a_row_of_kombus() {
        let record = BindingRecord {
            source: "media".into(),
            destination: Destination::Queue("videos".into()),
            routing_key: "a.*.#".into(),
            arguments: FieldTable::default(),
        };
        let as_row = |kind| stored(&record, Some(&kind)).unwrap();
        assert_eq!(
            as_row(ExchangeKind::Topic),
            Stored::Row("a.*.#\u{6}\u{16}^a\\.[^\\.]+\\..*?$\u{6}\u{16}videos".to_owned())
        );
        assert_eq!(
            as_row(ExchangeKind::Direct),
            Stored::Row("a.*.#\u{6}\u{16}\u{6}\u{16}videos".to_owned())
        );
        let Stored::Row(text) = as_row(ExchangeKind::Topic) else {
            panic!("a row")
        };
        assert_eq!(row(&"media".into(), &text), Some((record, true)));
    }

    #[test]
    fn a_pattern_is_escaped_as_kombu_does_it() {
        for (key, expected) in [
            ("*.a-b_c.#", r"^[^\.]+\.a\-b\_c\..*?$"),
            ("a+(b).ü", r"^a\+\(b\)\.ü$"),
            ("a*b.#c", r"^a*b\.#c$"),
            ("", "^$"),
        ] {
            assert_eq!(pattern(key), expected, "{key}");
        }
    }

    #[test]
    fn another_binding_is_a_record() {
        let mut record = BindingRecord {
            source: "media".into(),
            destination: Destination::Exchange("archive".into()),
            routing_key: "#".into(),
            arguments: FieldTable::from_iter([("x-match", "all")]),
        };
        for _ in 0..2 {
            let Stored::Record(text) = stored(&record, Some(&ExchangeKind::Headers)).unwrap()
            else {
                panic!("a record");
            };
            assert_eq!(binding(text.as_bytes()).unwrap(), record);
            record.destination = Destination::Queue("videos".into());
        }
    }
}

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use crate::config::document::{Key, Loose, Node, Position, Problem, Value};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    match serde_saphyr::from_str::<Spanned<Written>>(text) {
        Ok(written) => Ok(node(written, text)),
        Err(problem) => {
            // What it quotes of the file may hold a password, so no lines of it are shown.
            let problem = problem.without_snippet();
            let at = problem.location().map(place);
            let message = problem.to_string();
            let message = message
                .rsplit_once(" at line ")
                .map_or(&*message, |(message, _)| message);
            let told = Problem::new(message);
            Err(at.map_or(told.clone(), |at| told.at(at)))
        }
    }
}

fn place(location: Location) -> Position {
    Position {
        line: usize::try_from(location.line()).unwrap_or_default(),
        column: usize::try_from(location.column()).unwrap_or_default(),
    }
}

/// As the parser gives it: values without the texts that they were written as.
enum Written {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Written>>),
    Map(Vec<(Spanned<String>, Spanned<Written>)>),
}

fn node(written: Spanned<Written>, text: &str) -> Node {
    // Where it is written, and not where an alias stands for it.
    let location = written.defined;
    let plain = |value| {
        // A name, or a password, may look like a number.
        let span = location.span();
        let start = span
            .byte_offset()
            .and_then(|start| usize::try_from(start).ok());
        let length = span
            .byte_len()
            .and_then(|length| usize::try_from(length).ok());
        let source = start
            .zip(length)
            .and_then(|(start, length)| text.get(start..start + length));
        match source {
            Some(source) => Value::Loose(Loose {
                text: source.trim().to_owned(),
                written: None,
                plain: Some(Box::new(value)),
            }),
            None => value,
        }
    };
    let value = match written.value {
        Written::Null => Value::Null,
        Written::Bool(value) => plain(Value::Bool(value)),
        Written::Unsigned(number) => plain(Value::Unsigned(number)),
        Written::Signed(number) => plain(Value::Signed(number)),
        Written::Float(number) => plain(Value::Float(number)),
        Written::Text(text) => Value::Text(text),
        Written::List(items) => {
            Value::List(items.into_iter().map(|item| node(item, text)).collect())
        }
        Written::Map(entries) => {
            let entries = entries.into_iter().map(|(key, value)| {
                let key = Key {
                    at: place(key.defined),
                    text: key.value,
                };
                (key, node(value, text))
            });
            Value::Map(entries.collect())
        }
    };
    Node::new(place(location), value)
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
        Ok(Written::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
        Ok(Written::Signed(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(Written::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Written, E> {
        Ok(Written::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Written, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Written::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut entries: Vec<(Spanned<String>, Spanned<Written>)> = Vec::new();
        while let Some((key, value)) = map.next_entry()? {
            entries.push((key, value));
        }
        Ok(Written::Map(entries))
    }
}

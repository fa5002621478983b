use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::config::document::{Key, Node, Position, Problem, Value};

pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let line = Cell::new(1);
    let reader = Lines {
        rest: text.as_bytes(),
        next: 1,
        line: &line,
    };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let read = At(&line).deserialize(&mut deserializer);
    let read = read.and_then(|node| deserializer.end().map(|()| node));
    read.map_err(|problem| {
        let at = Position {
            line: problem.line(),
            column: problem.column(),
        };
        // It says where by itself, behind the message.
        let message = problem.to_string();
        let message = message
            .rsplit_once(" at line ")
            .map_or(&*message, |(message, _)| message);
        Problem::new(message).at(at)
    })
}

/// Tells serde_json's parser, which keeps no places, the bytes one by one, and knows on which line it is.
struct Lines<'a> {
    rest: &'a [u8],
    next: usize,
    /// That of the last byte that isn't a space. A number ends with a look at what follows it, which may be the next line.
    line: &'a Cell<usize>,
}

impl Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (Some((first, rest)), Some(place)) = (self.rest.split_first(), buffer.first_mut())
        else {
            return Ok(0);
        };
        match first {
            b'\n' => self.next += 1,
            byte if byte.is_ascii_whitespace() => {}
            _ => self.line.set(self.next),
        }
        *place = *first;
        self.rest = rest;
        Ok(1)
    }
}

/// Reads one value, with its line.
#[derive(Clone, Copy)]
struct At<'a>(&'a Cell<usize>);

impl At<'_> {
    fn here(self) -> Position {
        Position::line(self.0.get())
    }

    fn node<E>(self, value: Value) -> Result<Node, E> {
        Ok(Node::new(self.here(), value))
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        self.node(Value::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        self.node(Value::Signed(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        self.node(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        self.node(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let at = self.here();
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node::new(at, Value::List(nodes)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let at = self.here();
        let mut entries: Vec<(Key, Node)> = Vec::new();
        while let Some(text) = map.next_key::<String>()? {
            let key = Key {
                at: self.here(),
                text,
            };
            if entries.iter().any(|(other, _)| other.text == key.text) {
                let problem = format_args!("`{}` is there twice", key.text).to_string();
                return Err(de::Error::custom(problem));
            }
            entries.push((key, map.next_value_seed(self)?));
        }
        Ok(Node::new(at, Value::Map(entries)))
    }
}

//! What stands in a file, whatever its format, and where.

use std::fmt;

use kombu_core::Error;

/// A place in a file, both counted from 1; a column of 0 isn't known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    /// That of a byte in a text.
    #[cfg(feature = "toml")]
    pub(super) fn of(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    pub(super) fn line(line: usize) -> Self {
        Position { line, column: 0 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            0 => write!(f, "line {}", self.line),
            column => write!(f, "line {}, column {column}", self.line),
        }
    }
}

/// A value with its place.
#[derive(Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

// Without a format that has types, everything is text.
#[cfg_attr(
    not(any(feature = "json", feature = "toml", feature = "yaml")),
    allow(dead_code)
)]
#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    /// Text that may stand for another type, as its reader wants it: formats without types, and what variables say.
    Loose(Loose),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, PartialEq)]
pub(super) struct Loose {
    pub(super) text: String,
    /// What the file has in its place, if the text comes from the environment: it may be a secret.
    pub(super) written: Option<String>,
    /// What it is to those who take anything: a number that is written in a way of its own, as in `007`.
    pub(super) plain: Option<Box<Value>>,
}

#[derive(Clone, PartialEq)]
pub(super) struct Key {
    pub(super) at: Position,
    pub(super) text: String,
}

impl Node {
    pub(super) fn new(at: Position, value: Value) -> Self {
        Node { at, value }
    }

    /// Where the key at the end of this path is.
    fn place(&self, path: &[&str]) -> Option<Position> {
        let (first, rest) = path.split_first()?;
        let Value::Map(entries) = &self.value else {
            return None;
        };
        let (key, value) = entries.iter().find(|(key, _)| key.text == *first)?;
        match rest {
            [] => Some(key.at),
            rest => value.place(rest),
        }
    }
}

/// Where things are in a file, for what is wrong with them though each can be read.
pub(super) struct Places(Option<Node>);

impl Places {
    pub(super) fn of(file: Node) -> Self {
        Places(Some(file))
    }

    /// There is no file, or its keys are others.
    pub(super) fn unknown() -> Self {
        Places(None)
    }

    /// An error with the place of the key at the end of this path, as far as that is known.
    pub(super) fn tell(&self, path: &[&str], error: Error) -> Error {
        match self.0.as_ref().and_then(|file| file.place(path)) {
            Some(at) => error.with_context(&at.to_string()),
            None => error,
        }
    }
}

/// What is wrong in a file, and where.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    message: String,
    /// From the inside out.
    path: Vec<String>,
    at: Option<Position>,
}

impl Problem {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Problem {
            message: message.into(),
            path: Vec::new(),
            at: None,
        }
    }

    /// At this place, unless it is known better.
    pub(super) fn at(mut self, place: Position) -> Self {
        self.at.get_or_insert(place);
        self
    }

    /// Within the value of this key, or with this number of a list.
    pub(super) fn within(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    /// Says something else instead, at the same place.
    pub(super) fn with_message(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{at}: ")?;
        }
        if !self.path.is_empty() {
            let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
            write!(f, "`{}`: ", path.join("."))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

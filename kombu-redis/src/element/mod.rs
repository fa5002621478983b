//! The elements of the ready lists: messages as Python's kombu writes them.
//!
//! # What an element keeps
//!
//! Exchange, routing key, body, headers, and the properties that Python has, too: content type and encoding, delivery
//! mode, priority, expiration (whole milliseconds), timestamp, correlation id, reply-to, message id, type, user id,
//! app id, cluster id. What is absent comes back absent, but for what Python always writes (`priority` 0). The publish
//! id travels as the `delivery_tag`. `mandatory`, `immediate` and `delay` are for whoever routes, and
//! don't travel; the keys that `BCC` listed stand in a property `_kbcc` of ours, because dead letters go by them.
//!
//! A body whose content encoding is `utf-8` stands there as text, everything else in base64; so does what a header
//! calls compressed, which Python would decompress before it makes bytes of a text.
//!
//! Headers come back as the same variant with the same content. Python sees what its own `kombu.utils.json` would write:
//!
//! | value | written as | Python sees | Python's own comes back as |
//! |---|---|---|---|
//! | `Void`, `Bool`, `Text`, `Array`, `Table` | JSON | the same | the same |
//! | integers | a number | `int` | `I64`; digits as `Text` if it doesn't fit |
//! | `F32`, `F64` | a number, `NaN`, `Infinity`, `-Infinity` | `float` | `F64` |
//! | `Bytes` | `{"__type__": "bytes", …}`, `base64` unless it is UTF-8 | `bytes` | `Bytes` |
//! | `Timestamp` | `{"__type__": "datetime", …}`; a number after the year 9999 | `datetime` without a zone, in UTC | `Timestamp`; text before 1970 |
//! | `Decimal` | `{"__type__": "decimal", …}`, signed as Python reads AMQP's | `Decimal` | `Decimal`; text if it doesn't fit |
//! | – | – | `date`, `time`, `UUID` | `Text` |
//!
//! What these forms don't tell stands in a property `_kt` of ours, which Python carries along (`types.rs`).
//!
//! # What may come
//!
//! Anything. What isn't kombu's envelope is a message, too: its body is the whole element, and it has no content type. If it
//! comes back, the marker that it got is taken off again.
//!
//! Scripts on the server put two things into an element as text: a marker behind the first `{` (`"_kq":"<id>:<failures>:<expires
//! ms or 0>:<bytes or 0>",`), and a flag behind the last `"delivery_info": {`. So the properties come last, and there is nothing behind
//! that place that a user could choose, except inside of strings, where quotes are escaped.

mod json;
mod python;
mod read;
#[cfg(test)]
mod tests;
mod types;
mod write;

use kombu_core::message::Envelope;

pub(crate) use read::decode;
pub(crate) use write::{encode, write};

/// A message from a ready list.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) envelope: Envelope,
    /// How often it came back and was counted, as our marker says.
    pub(crate) failures: u32,
    /// Whether it came back, to us or to Python.
    pub(crate) redelivered: bool,
}

/// A property: the keys of `BCC`, which dead letters go by.
const HIDDEN_KEYS: &str = "_kbcc";

/// A property: what the natural form of the headers doesn't tell.
const TYPES: &str = "_kt";

//! Values of message headers and of declaration arguments, with AMQP 0-9-1's field types.
//!
//! [`FieldValue`] is one value, [`FieldTable`] a table of named values, [`Timestamp`] AMQP's time in
//! whole seconds. All are plain values that can be compared and hashed; floats by their bits, so
//! `NaN` equals itself and `-0.0` differs from `0.0`.
//!
//! ```
//! use kombu_core::field::{FieldTable, FieldValue};
//!
//! let headers = FieldTable::from([("tenant", 7), ("shard", 3)]);
//! assert_eq!(headers.get("tenant"), Some(&FieldValue::I32(7)));
//! ```
//!
//! # In files
//!
//! Both types are written and read by serde, and come back as the same variant with the same
//! content from JSON, YAML and TOML. What these formats have is written plainly; everything else is
//! a map with one entry, whose key is a tag.
//!
//! | value | written as |
//! |---|---|
//! | `Bool` | `true`, `false` |
//! | `I64` | `-5`; an integer without a tag is always `I64` |
//! | `F64`, finite | `1.0` |
//! | `Text` | `"text"` |
//! | `Array` | `[…]` |
//! | `Table` | `{…}` |
//! | `I8`, `U8`, `I16`, `U16`, `I32`, `U32` | `{"$i8": -5}`, `$u8`, `$i16`, `$u16`, `$i32`, `$u32` |
//! | `F32` | `{"$f32": 1.5}` |
//! | `F32`, `F64`, not finite | `{"$f64": "nan"}`, `"inf"`, `"-inf"`; any other NaN by its bits, `"0x7ff8000000000001"` |
//! | `Decimal` | `{"$decimal": "12.50"}`, with as many digits behind the point as its scale says |
//! | `Bytes` | `{"$bytes": "AAEC"}`, standard base64 with padding |
//! | `Timestamp` | `{"$timestamp": 1700000000}`, seconds since 1970; as text above `i64::MAX` |
//! | `Void` | `{"$void": true}`; a plain null is read as `Void`, too |
//! | `Table` with one entry whose name starts with `$` | `{"$table": {…}}` |
//!
//! A tag that isn't in this table is an error. A [`FieldTable`] that isn't inside of a `FieldValue`,
//! for example the arguments of a queue, is always written as a plain map.
//!
//! JSON gives floats back exactly only if `serde_json` is built with its feature `float_roundtrip`.
//! Formats that don't describe themselves (bincode, postcard) can't be read.

mod convert;
mod read;
mod table;
mod timestamp;
mod value;
mod write;

pub use table::{FieldTable, IntoIter, Iter};
pub use timestamp::Timestamp;
pub use value::FieldValue;

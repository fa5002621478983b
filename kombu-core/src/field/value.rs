use std::hash::{Hash, Hasher};
use std::mem;

use bytes::Bytes;

use super::{FieldTable, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

/// One value of a header or an argument, with AMQP 0-9-1's types as RabbitMQ reads them.
///
/// Every setter that takes a value accepts what converts into one: numbers, text, bytes, times,
/// options (`None` is [`Void`](FieldValue::Void)), arrays and tables. `u64`, `u128`, `i128`, `usize`
/// and `isize` convert by `TryFrom`, since AMQP has no integer above [`i64::MAX`].
///
/// How it is written in files is described at [`field`](crate::field).
///
/// ```
/// use kombu_core::field::FieldValue;
///
/// assert_eq!(FieldValue::from("eu"), FieldValue::Text("eu".into()));
/// assert_eq!(FieldValue::from(Some(7)).as_i64(), Some(7));
/// assert!(FieldValue::try_from(u64::MAX).is_err());
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum FieldValue {
    /// Nothing; AMQP's `V`. In the arguments of a headers binding: the header is there, whatever its
    /// value.
    #[default]
    Void,
    /// True or false; AMQP's `t`.
    Bool(bool),
    /// AMQP's `b`.
    I8(i8),
    /// AMQP's `B`.
    U8(u8),
    /// AMQP's `s`.
    I16(i16),
    /// AMQP's `u`.
    U16(u16),
    /// AMQP's `I`.
    I32(i32),
    /// AMQP's `i`.
    U32(u32),
    /// AMQP's `l`.
    I64(i64),
    /// AMQP's `f`.
    F32(f32),
    /// AMQP's `d`.
    F64(f64),
    /// The number `value / 10^scale`; AMQP's `D`, which RabbitMQ takes for unsigned. Python takes it for signed: a
    /// negative number from there is `value as i32`.
    Decimal {
        /// How many digits of `value` stand behind the decimal point.
        scale: u8,
        /// All digits, without the point.
        value: u32,
    },
    /// Text; AMQP's long string, `S`.
    Text(Name),
    /// Bytes that need not be text; RabbitMQ's `x`.
    Bytes(Bytes),
    /// Whole seconds since 1970; AMQP's `T`.
    Timestamp(Timestamp),
    /// Values of any types, in order; AMQP's `A`.
    Array(Vec<FieldValue>),
    /// Values with names; AMQP's `F`.
    Table(FieldTable),
}

impl FieldValue {
    /// The deepest nesting of arrays and tables that [`FieldTable::check`] accepts.
    pub const MAX_DEPTH: usize = 64;

    /// The name of the type in lower case, for messages to people: `"i32"`, `"text"`, `"table"`.
    pub fn type_name(&self) -> &'static str {
        match self {
            FieldValue::Void => "void",
            FieldValue::Bool(_) => "bool",
            FieldValue::I8(_) => "i8",
            FieldValue::U8(_) => "u8",
            FieldValue::I16(_) => "i16",
            FieldValue::U16(_) => "u16",
            FieldValue::I32(_) => "i32",
            FieldValue::U32(_) => "u32",
            FieldValue::I64(_) => "i64",
            FieldValue::F32(_) => "f32",
            FieldValue::F64(_) => "f64",
            FieldValue::Decimal { .. } => "decimal",
            FieldValue::Text(_) => "text",
            FieldValue::Bytes(_) => "bytes",
            FieldValue::Timestamp(_) => "timestamp",
            FieldValue::Array(_) => "array",
            FieldValue::Table(_) => "table",
        }
    }

    /// Whether this is [`Void`](FieldValue::Void).
    pub fn is_void(&self) -> bool {
        matches!(self, FieldValue::Void)
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            FieldValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if this is one of any width; a timestamp isn't.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            FieldValue::I8(value) => value.into(),
            FieldValue::U8(value) => value.into(),
            FieldValue::I16(value) => value.into(),
            FieldValue::U16(value) => value.into(),
            FieldValue::I32(value) => value.into(),
            FieldValue::U32(value) => value.into(),
            FieldValue::I64(value) => value,
            _ => return None,
        })
    }

    /// The float, if this is one of either width; an integer or a decimal isn't.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            FieldValue::F32(value) => Some(value.into()),
            FieldValue::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            FieldValue::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The bytes, if this is [`Bytes`](FieldValue::Bytes); a text isn't.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            FieldValue::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The time, if this is one.
    pub fn as_timestamp(&self) -> Option<Timestamp> {
        match *self {
            FieldValue::Timestamp(time) => Some(time),
            _ => None,
        }
    }

    /// The elements, if this is an array.
    pub fn as_array(&self) -> Option<&[FieldValue]> {
        match self {
            FieldValue::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The entries, if this is a table.
    pub fn as_table(&self) -> Option<&FieldTable> {
        match self {
            FieldValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// `depth` counts the arrays and tables around this value.
    pub(super) fn check_below(&self, name: &Name, depth: usize) -> Result<()> {
        match self {
            FieldValue::Text(text) => check_size(name, text.len()),
            FieldValue::Bytes(bytes) => check_size(name, bytes.len()),
            FieldValue::Array(values) => {
                check_depth(name, depth + 1)?;
                values
                    .iter()
                    .try_for_each(|value| value.check_below(name, depth + 1))
            }
            FieldValue::Table(table) => {
                check_depth(name, depth + 1)?;
                table.check_at(depth + 1)
            }
            _ => Ok(()),
        }
    }
}

fn check_size(name: &Name, size: usize) -> Result<()> {
    if u32::try_from(size).is_ok() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Encode,
        format!(
            "the value of `{name}` has {size} bytes; at most {} fit into an AMQP field, put it into the body",
            u32::MAX
        ),
    ))
}

fn check_depth(name: &Name, depth: usize) -> Result<()> {
    if depth <= FieldValue::MAX_DEPTH {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Encode,
        format!(
            "arrays and tables are nested deeper than {} levels at `{name}`; put the value into the body",
            FieldValue::MAX_DEPTH
        ),
    ))
}

impl PartialEq for FieldValue {
    fn eq(&self, other: &Self) -> bool {
        use FieldValue::{
            Array, Bool, Bytes, Decimal, F32, F64, I8, I16, I32, I64, Table, Text, Timestamp, U8,
            U16, U32, Void,
        };
        match (self, other) {
            (Void, Void) => true,
            (Bool(a), Bool(b)) => a == b,
            (I8(a), I8(b)) => a == b,
            (U8(a), U8(b)) => a == b,
            (I16(a), I16(b)) => a == b,
            (U16(a), U16(b)) => a == b,
            (I32(a), I32(b)) => a == b,
            (U32(a), U32(b)) => a == b,
            (I64(a), I64(b)) => a == b,
            (F32(a), F32(b)) => a.to_bits() == b.to_bits(),
            (F64(a), F64(b)) => a.to_bits() == b.to_bits(),
            (
                Decimal { scale, value },
                Decimal {
                    scale: other_scale,
                    value: other_value,
                },
            ) => scale == other_scale && value == other_value,
            (Text(a), Text(b)) => a == b,
            (Bytes(a), Bytes(b)) => a == b,
            (Timestamp(a), Timestamp(b)) => a == b,
            (Array(a), Array(b)) => a == b,
            (Table(a), Table(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for FieldValue {}

impl Hash for FieldValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        mem::discriminant(self).hash(state);
        match self {
            FieldValue::Void => {}
            FieldValue::Bool(value) => value.hash(state),
            FieldValue::I8(value) => value.hash(state),
            FieldValue::U8(value) => value.hash(state),
            FieldValue::I16(value) => value.hash(state),
            FieldValue::U16(value) => value.hash(state),
            FieldValue::I32(value) => value.hash(state),
            FieldValue::U32(value) => value.hash(state),
            FieldValue::I64(value) => value.hash(state),
            FieldValue::F32(value) => value.to_bits().hash(state),
            FieldValue::F64(value) => value.to_bits().hash(state),
            FieldValue::Decimal { scale, value } => (scale, value).hash(state),
            FieldValue::Text(text) => text.hash(state),
            FieldValue::Bytes(bytes) => bytes.hash(state),
            FieldValue::Timestamp(time) => time.hash(state),
            FieldValue::Array(values) => values.hash(state),
            FieldValue::Table(table) => table.hash(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn a_value_takes_at_most_40_bytes() {
        assert!(size_of::<FieldValue>() <= 40);
    }

    #[test]
    fn floats_are_equal_by_their_bits() {
        assert_eq!(FieldValue::F64(f64::NAN), FieldValue::F64(f64::NAN));
        assert_ne!(FieldValue::F64(0.0), FieldValue::F64(-0.0));
        assert_ne!(FieldValue::F32(1.0), FieldValue::F64(1.0));
        let hasher = RandomState::new();
        assert_eq!(
            hasher.hash_one(FieldValue::F32(f32::NAN)),
            hasher.hash_one(FieldValue::F32(f32::NAN))
        );
    }

    #[test]
    fn the_same_number_in_another_width_is_another_value() {
        assert_ne!(FieldValue::I32(5), FieldValue::I64(5));
        assert_ne!(
            FieldValue::Decimal {
                scale: 1,
                value: 10
            },
            FieldValue::Decimal { scale: 0, value: 1 }
        );
    }

    #[test]
    fn an_integer_of_any_width_reads_as_i64_and_nothing_else_does() {
        for value in [
            FieldValue::I8(7),
            FieldValue::U8(7),
            FieldValue::I16(7),
            FieldValue::U16(7),
            FieldValue::I32(7),
            FieldValue::U32(7),
            FieldValue::I64(7),
        ] {
            assert_eq!(value.as_i64(), Some(7), "{}", value.type_name());
        }
        assert_eq!(FieldValue::F64(7.0).as_i64(), None);
        assert_eq!(FieldValue::Text("7".into()).as_i64(), None);
        assert_eq!(FieldValue::Bool(true).as_i64(), None);
    }

    #[test]
    fn a_value_that_needs_more_than_32_bits_of_length_is_refused() {
        let name = Name::from("big");
        assert!(check_size(&name, 4_294_967_295).is_ok());
        let error = check_size(&name, 4_294_967_296).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        assert!(error.to_string().contains("`big`"), "{error}");
    }
}

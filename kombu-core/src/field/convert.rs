use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;

use super::{FieldTable, FieldValue, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

macro_rules! from {
    ($($source:ty => $variant:ident),* $(,)?) => {$(
        impl From<$source> for FieldValue {
            fn from(value: $source) -> Self {
                FieldValue::$variant(value.into())
            }
        }
    )*};
}

from! {
    bool => Bool,
    i8 => I8,
    u8 => U8,
    i16 => I16,
    u16 => U16,
    i32 => I32,
    u32 => U32,
    i64 => I64,
    f32 => F32,
    f64 => F64,
    &str => Text,
    String => Text,
    &String => Text,
    Name => Text,
    &Name => Text,
    Bytes => Bytes,
    Vec<u8> => Bytes,
    Timestamp => Timestamp,
    SystemTime => Timestamp,
    Vec<FieldValue> => Array,
    FieldTable => Table,
}

impl From<Cow<'_, str>> for FieldValue {
    fn from(text: Cow<'_, str>) -> Self {
        FieldValue::Text(text.as_ref().into())
    }
}

impl From<&[u8]> for FieldValue {
    fn from(bytes: &[u8]) -> Self {
        FieldValue::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl<const N: usize> From<&[u8; N]> for FieldValue {
    fn from(bytes: &[u8; N]) -> Self {
        FieldValue::Bytes(Bytes::copy_from_slice(bytes))
    }
}

impl From<()> for FieldValue {
    fn from((): ()) -> Self {
        FieldValue::Void
    }
}

impl From<&FieldValue> for FieldValue {
    fn from(value: &FieldValue) -> Self {
        value.clone()
    }
}

/// `None` becomes [`FieldValue::Void`].
impl<T: Into<FieldValue>> From<Option<T>> for FieldValue {
    fn from(value: Option<T>) -> Self {
        value.map_or(FieldValue::Void, Into::into)
    }
}

macro_rules! try_from {
    ($($source:ty),* $(,)?) => {$(
        /// Becomes an [`I64`](FieldValue::I64); fails with [`ErrorKind::Encode`] outside of its range.
        impl TryFrom<$source> for FieldValue {
            type Error = Error;

            fn try_from(value: $source) -> Result<Self> {
                i64::try_from(value).map(FieldValue::I64).map_err(|_| out_of_range(value))
            }
        }
    )*};
}

try_from!(u64, usize, isize, u128, i128);

fn out_of_range(value: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::Encode,
        format!(
            "{value} doesn't fit into a header or argument, whose integers go from {} to {}; pass it as text",
            i64::MIN,
            i64::MAX
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<V>(value: V) -> Result<FieldValue>
    where
        V: TryInto<FieldValue>,
        V::Error: Into<Error>,
    {
        value.try_into().map_err(Into::into)
    }

    #[test]
    fn every_plain_type_goes_through_a_setter() {
        let text = String::from("x");
        let name = Name::from("x");
        for (given, expected) in [
            (value(true), FieldValue::Bool(true)),
            (value(-1i8), FieldValue::I8(-1)),
            (value(1u8), FieldValue::U8(1)),
            (value(-1i16), FieldValue::I16(-1)),
            (value(1u16), FieldValue::U16(1)),
            (value(1), FieldValue::I32(1)),
            (value(1u32), FieldValue::U32(1)),
            (value(1i64), FieldValue::I64(1)),
            (value(1u64), FieldValue::I64(1)),
            (value(1usize), FieldValue::I64(1)),
            (value(-1isize), FieldValue::I64(-1)),
            (value(1u128), FieldValue::I64(1)),
            (value(-1i128), FieldValue::I64(-1)),
            (value(1.5f32), FieldValue::F32(1.5)),
            (value(1.5), FieldValue::F64(1.5)),
            (value("x"), FieldValue::Text("x".into())),
            (value(text.clone()), FieldValue::Text("x".into())),
            (value(&text), FieldValue::Text("x".into())),
            (value(name.clone()), FieldValue::Text("x".into())),
            (value(&name), FieldValue::Text("x".into())),
            (value(Cow::Borrowed("x")), FieldValue::Text("x".into())),
            (value(b"x"), FieldValue::Bytes(Bytes::from_static(b"x"))),
            (
                value(&b"x"[..]),
                FieldValue::Bytes(Bytes::from_static(b"x")),
            ),
            (
                value(vec![b'x']),
                FieldValue::Bytes(Bytes::from_static(b"x")),
            ),
            (
                value(SystemTime::UNIX_EPOCH),
                FieldValue::Timestamp(Timestamp::from_secs(0)),
            ),
            (value(()), FieldValue::Void),
            (value(Some("x")), FieldValue::Text("x".into())),
            (value(None::<i32>), FieldValue::Void),
            (
                value(vec![FieldValue::Void]),
                FieldValue::Array(vec![FieldValue::Void]),
            ),
            (
                value(FieldTable::new()),
                FieldValue::Table(FieldTable::new()),
            ),
        ] {
            assert_eq!(given.unwrap(), expected);
        }
    }

    #[test]
    fn an_integer_above_i64_is_refused_with_the_value_and_the_limit() {
        let error = value(u64::MAX).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode);
        let text = error.to_string();
        assert!(text.contains("18446744073709551615"), "{text}");
        assert!(text.contains("9223372036854775807"), "{text}");
        assert!(value(i128::MIN).is_err());
    }
}

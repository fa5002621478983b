//! Making values of Rust's own types.

use super::Value;

macro_rules! from {
    ($($type:ty => |$given:ident| $value:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($given: $type) -> Self {
                $value
            }
        })*
    };
}

from! {
    () => |_nothing| Self::Null;
    bool => |value| Self::Bool(value);
    i8 => |number| Self::I64(number.into());
    i16 => |number| Self::I64(number.into());
    i32 => |number| Self::I64(number.into());
    i64 => |number| Self::I64(number);
    u8 => |number| Self::I64(number.into());
    u16 => |number| Self::I64(number.into());
    u32 => |number| Self::I64(number.into());
    u64 => |number| i64::try_from(number).map_or(Self::U64(number), Self::I64);
    f32 => |number| Self::F64(number.into());
    f64 => |number| Self::F64(number);
    &str => |text| Self::String(text.to_owned());
    String => |text| Self::String(text);
    &[u8] => |bytes| Self::Bytes(bytes.to_vec());
    Vec<u8> => |bytes| Self::Bytes(bytes);
    bytes::Bytes => |bytes| Self::Bytes(bytes.into());
    Vec<Value> => |items| Self::Seq(items);
    Vec<(Value, Value)> => |entries| Self::Map(entries);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::Seq(items.into_iter().map(Into::into).collect())
    }
}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

//! How values are read from files, tags included.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::write::{TABLE, is_tagged};
use super::{FieldTable, FieldValue, Timestamp};
use crate::name::Name;

const TAGS: &str =
    "$i8, $u8, $i16, $u16, $i32, $u32, $f32, $f64, $decimal, $bytes, $timestamp, $void, $table";

/// A tag or an escaped table adds a level in the file to one of the value.
const MAX_LEVELS: usize = 2 * FieldValue::MAX_DEPTH;

impl<'de> Deserialize<'de> for FieldValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Reader {
            level: 0,
            tags: true,
        }
        .deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for FieldTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = FieldTable;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from names to values")
            }

            fn visit_unit<E: de::Error>(self) -> Result<FieldTable, E> {
                Ok(FieldTable::new())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldTable, A::Error> {
                plain(read_entries(map, 0)?)
            }
        }

        deserializer.deserialize_any(Entries)
    }
}

/// Reads one value. Without `tags`, a map is left as it stands in the file.
#[derive(Clone, Copy)]
struct Reader {
    level: usize,
    tags: bool,
}

impl<'de> DeserializeSeed<'de> for Reader {
    type Value = FieldValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<FieldValue, D::Error> {
        if self.level > MAX_LEVELS {
            return Err(de::Error::custom(format_args!(
                "arrays and tables are nested deeper than {} levels",
                FieldValue::MAX_DEPTH
            )));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = FieldValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value: null, bool, number, text, array or map")
    }

    fn visit_unit<E: de::Error>(self) -> Result<FieldValue, E> {
        Ok(FieldValue::Void)
    }

    fn visit_none<E: de::Error>(self) -> Result<FieldValue, E> {
        Ok(FieldValue::Void)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<FieldValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<FieldValue, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<FieldValue, E> {
        Ok(FieldValue::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<FieldValue, E> {
        Ok(FieldValue::I64(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<FieldValue, E> {
        FieldValue::try_from(value).map_err(|error| E::custom(error.message()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<FieldValue, E> {
        FieldValue::try_from(value).map_err(|error| E::custom(error.message()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<FieldValue, E> {
        FieldValue::try_from(value).map_err(|error| E::custom(error.message()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<FieldValue, E> {
        Ok(FieldValue::F64(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<FieldValue, E> {
        Ok(text.into())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<FieldValue, E> {
        Ok(text.into())
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<FieldValue, E> {
        Ok(bytes.into())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<FieldValue, E> {
        Ok(bytes.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<FieldValue, A::Error> {
        let inner = Reader {
            level: self.level + 1,
            tags: true,
        };
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(FieldValue::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldValue, A::Error> {
        let table = read_entries(map, self.level)?;
        if self.tags {
            untag(table)
        } else {
            Ok(FieldValue::Table(table))
        }
    }
}

/// Reads the entries of a map, of which one named `$table` still has its tags: whether it is a tag
/// itself shows only at the end of the map.
fn read_entries<'de, A: MapAccess<'de>>(mut map: A, level: usize) -> Result<FieldTable, A::Error> {
    let mut table = FieldTable::new();
    while let Some(name) = map.next_key::<Name>()? {
        let value = map.next_value_seed(Reader {
            level: level + 1,
            tags: name != TABLE,
        })?;
        if table.contains(&name) {
            return Err(de::Error::custom(format_args!("`{name}` is there twice")));
        }
        table.insert(name, value);
    }
    Ok(table)
}

/// The table that these entries are, without a look at its own name as a tag.
fn plain<E: de::Error>(mut table: FieldTable) -> Result<FieldTable, E> {
    if let Some(value) = table.get_mut(TABLE)
        && let FieldValue::Table(inner) = value
    {
        *value = untag(std::mem::take(inner))?;
    }
    Ok(table)
}

/// The value that these entries stand for: with a tag as their only name, the one behind the tag.
fn untag<E: de::Error>(table: FieldTable) -> Result<FieldValue, E> {
    if !is_tagged(&table) {
        return plain(table).map(FieldValue::Table);
    }
    let Some((tag, value)) = table.into_iter().next() else {
        return Ok(FieldValue::Table(FieldTable::new()));
    };
    match value {
        FieldValue::Table(inner) if tag == TABLE => plain(inner).map(FieldValue::Table),
        value => read_tagged(&tag, &value).map_err(E::custom),
    }
}

fn read_tagged(tag: &str, value: &FieldValue) -> Result<FieldValue, String> {
    match tag {
        "$i8" => integer(tag, value).map(FieldValue::I8),
        "$u8" => integer(tag, value).map(FieldValue::U8),
        "$i16" => integer(tag, value).map(FieldValue::I16),
        "$u16" => integer(tag, value).map(FieldValue::U16),
        "$i32" => integer(tag, value).map(FieldValue::I32),
        "$u32" => integer(tag, value).map(FieldValue::U32),
        "$f32" => float(
            tag,
            value,
            f32::NAN,
            |number| number as f32,
            |bits| u32::from_str_radix(bits, 16).ok().map(f32::from_bits),
        )
        .map(FieldValue::F32),
        "$f64" => float(
            tag,
            value,
            f64::NAN,
            |number| number,
            |bits| u64::from_str_radix(bits, 16).ok().map(f64::from_bits),
        )
        .map(FieldValue::F64),
        "$decimal" => value
            .as_str()
            .and_then(read_decimal)
            .ok_or_else(|| unfit(tag, "text with digits, as in \"12.50\"", value)),
        "$bytes" => value
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok())
            .map(|bytes| FieldValue::Bytes(Bytes::from(bytes)))
            .ok_or_else(|| unfit(tag, "text in base64 with padding", value)),
        "$timestamp" => match value {
            FieldValue::I64(secs) => u64::try_from(*secs).ok(),
            FieldValue::Text(text) => text.parse().ok(),
            _ => None,
        }
        .map(|secs| FieldValue::Timestamp(Timestamp::from_secs(secs)))
        .ok_or_else(|| unfit(tag, "seconds since 1970", value)),
        "$void" => match value {
            FieldValue::Bool(true) | FieldValue::Void => Ok(FieldValue::Void),
            _ => Err(unfit(tag, "true", value)),
        },
        TABLE => Err(unfit(tag, "a map", value)),
        _ => Err(format!(
            "`{tag}` is no tag of a value; known ones are {TAGS}. To write a table with this one entry, put it into {{\"$table\": …}}"
        )),
    }
}

fn integer<T: TryFrom<i64>>(tag: &str, value: &FieldValue) -> Result<T, String> {
    match value {
        FieldValue::I64(number) => {
            T::try_from(*number).map_err(|_| format!("{number} is outside of the range of `{tag}`"))
        }
        _ => Err(unfit(tag, "an integer", value)),
    }
}

fn float<T>(
    tag: &str,
    value: &FieldValue,
    nan: T,
    from_number: impl Fn(f64) -> T,
    from_bits: impl Fn(&str) -> Option<T>,
) -> Result<T, String> {
    match value {
        FieldValue::F64(number) => Some(from_number(*number)),
        FieldValue::I64(number) => Some(from_number(*number as f64)),
        FieldValue::Text(text) => match text.as_str() {
            "nan" => Some(nan),
            "inf" => Some(from_number(f64::INFINITY)),
            "-inf" => Some(from_number(f64::NEG_INFINITY)),
            other => other.strip_prefix("0x").and_then(from_bits),
        },
        _ => None,
    }
    .ok_or_else(|| unfit(tag, "a number, \"nan\", \"inf\" or \"-inf\"", value))
}

fn read_decimal(text: &str) -> Option<FieldValue> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return None;
    }
    Some(FieldValue::Decimal {
        scale: u8::try_from(fraction.len()).ok()?,
        value: format!("{whole}{fraction}").parse().ok()?,
    })
}

fn unfit(tag: &str, expected: &str, value: &FieldValue) -> String {
    format!(
        "`{tag}` stands before {expected}, not before this {}",
        value.type_name()
    )
}

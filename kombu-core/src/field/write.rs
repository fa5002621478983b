//! How values are written in files: plainly where the format has the type, else with a tag.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{FieldTable, FieldValue};

/// Stands before a table whose only entry would be taken for a tag.
pub(super) const TABLE: &str = "$table";

impl Serialize for FieldValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            FieldValue::Bool(value) => serializer.serialize_bool(*value),
            FieldValue::I64(value) => serializer.serialize_i64(*value),
            FieldValue::F64(value) if value.is_finite() => serializer.serialize_f64(*value),
            FieldValue::Text(text) => serializer.serialize_str(text),
            FieldValue::Array(values) => serializer.collect_seq(values),
            FieldValue::Table(table) if is_tagged(table) => tagged(serializer, TABLE, table),
            FieldValue::Table(table) => table.serialize(serializer),
            FieldValue::I8(value) => tagged(serializer, "$i8", value),
            FieldValue::U8(value) => tagged(serializer, "$u8", value),
            FieldValue::I16(value) => tagged(serializer, "$i16", value),
            FieldValue::U16(value) => tagged(serializer, "$u16", value),
            FieldValue::I32(value) => tagged(serializer, "$i32", value),
            FieldValue::U32(value) => tagged(serializer, "$u32", value),
            FieldValue::F32(value) if value.is_finite() => {
                tagged(serializer, "$f32", &shortest(*value))
            }
            FieldValue::F32(value) => tagged(
                serializer,
                "$f32",
                &not_finite(
                    f64::from(*value),
                    value.to_bits() == f32::NAN.to_bits(),
                    || format!("{:#x}", value.to_bits()),
                ),
            ),
            FieldValue::F64(value) => tagged(
                serializer,
                "$f64",
                &not_finite(*value, value.to_bits() == f64::NAN.to_bits(), || {
                    format!("{:#x}", value.to_bits())
                }),
            ),
            FieldValue::Decimal { scale, value } => {
                tagged(serializer, "$decimal", &decimal(*scale, *value))
            }
            FieldValue::Bytes(bytes) => tagged(serializer, "$bytes", &STANDARD.encode(bytes)),
            FieldValue::Timestamp(time) => match i64::try_from(time.as_secs()) {
                Ok(secs) => tagged(serializer, "$timestamp", &secs),
                Err(_) => tagged(serializer, "$timestamp", &time.as_secs().to_string()),
            },
            FieldValue::Void => tagged(serializer, "$void", &true),
        }
    }
}

impl Serialize for FieldTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

fn tagged<S, T>(serializer: S, tag: &'static str, value: &T) -> Result<S::Ok, S::Error>
where
    S: Serializer,
    T: Serialize + ?Sized,
{
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(tag, value)?;
    map.end()
}

pub(super) fn is_tagged(table: &FieldTable) -> bool {
    table.len() == 1 && table.iter().all(|(name, _)| name.starts_with('$'))
}

/// The fewest digits that come back as the same `f32`, through an `f64`.
fn shortest(value: f32) -> f64 {
    match value.to_string().parse::<f64>() {
        Ok(short) if (short as f32).to_bits() == value.to_bits() => short,
        _ => value.into(),
    }
}

fn not_finite(value: f64, usual_nan: bool, bits: impl FnOnce() -> String) -> String {
    if usual_nan {
        "nan".into()
    } else if value == f64::INFINITY {
        "inf".into()
    } else if value == f64::NEG_INFINITY {
        "-inf".into()
    } else {
        bits()
    }
}

fn decimal(scale: u8, value: u32) -> String {
    let scale = usize::from(scale);
    let digits = format!("{value:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if fraction.is_empty() {
        whole.into()
    } else {
        format!("{whole}.{fraction}")
    }
}

//! What the natural form of headers doesn't tell of their types: a note beside them.
//!
//! Most headers need none. If all that is missing is that the integers are `I32`, the note is the text `I`. Else it is an object
//! with an entry for each header that needs one, named after it with a dot in front, and a list for an array. A value
//! is noted by AMQP's letter of its type; behind those of floats stand the bits of a NaN, in hexadecimal. A table that
//! Python would take for one of its own types has an entry more, without a name, and so has its note.
//!
//! A note is believed as far as it fits what is there: Python may have changed the headers, and left the note.

use std::io::Write;

use kombu_core::field::{FieldTable, FieldValue, Timestamp};

use super::{json, python};

/// The header that Python sets when a message comes back.
pub(super) const REDELIVERED: &str = "redelivered";

const ALL_I32: &str = "I";

/// What was met while headers were written.
#[derive(Clone, Copy, Default)]
pub(super) struct Met {
    pub(super) i32: bool,
    pub(super) i64: bool,
    /// Anything else that needs a note.
    pub(super) other: bool,
}

/// Writes the note that these headers need; false if that is none, and nothing is written.
pub(super) fn write(out: &mut Vec<u8>, headers: &FieldTable, met: Met) -> bool {
    let redelivered = headers.get(REDELIVERED).is_some_and(is_true);
    if !(met.i32 || met.other || redelivered) {
        return false;
    }
    if met.i64 || met.other || redelivered {
        return write_table(out, headers, redelivered);
    }
    json::string(out, ALL_I32);
    true
}

fn is_true(value: &FieldValue) -> bool {
    *value == FieldValue::Bool(true)
}

fn write_table(out: &mut Vec<u8>, table: &FieldTable, redelivered: bool) -> bool {
    let start = out.len();
    let mut before: &[u8] = b"{";
    if python::is_form(table) {
        out.extend_from_slice(b"{\"\": true");
        before = b", ";
    }
    for (name, value) in table {
        let entry = out.len();
        out.extend_from_slice(before);
        out.extend_from_slice(b"\".");
        json::escape(out, name);
        out.extend_from_slice(b"\": ");
        if write_value(out, value) {
            before = b", ";
        } else if redelivered && name == REDELIVERED {
            // It is the user's, and not to be taken off.
            out.extend_from_slice(b"\"t\"");
            before = b", ";
        } else {
            out.truncate(entry);
        }
    }
    let is_needed = out.len() > start;
    if is_needed {
        out.push(b'}');
    }
    is_needed
}

fn write_value(out: &mut Vec<u8>, value: &FieldValue) -> bool {
    let letter = match value {
        FieldValue::I8(_) => b'b',
        FieldValue::U8(_) => b'B',
        FieldValue::I16(_) => b's',
        FieldValue::U16(_) => b'u',
        FieldValue::I32(_) => b'I',
        FieldValue::U32(_) => b'i',
        FieldValue::F32(value) if value.is_nan() => {
            let _ = write!(out, "\"f{:x}\"", value.to_bits());
            return true;
        }
        FieldValue::F32(_) => b'f',
        FieldValue::F64(value) if is_unusual(*value) => {
            let _ = write!(out, "\"d{:x}\"", value.to_bits());
            return true;
        }
        FieldValue::Timestamp(time) if !python::has_datetime(*time) => b'T',
        FieldValue::Array(values) => return write_array(out, values),
        FieldValue::Table(table) => return write_table(out, table, false),
        _ => return false,
    };
    out.extend_from_slice(&[b'"', letter, b'"']);
    true
}

fn write_array(out: &mut Vec<u8>, values: &[FieldValue]) -> bool {
    let start = out.len();
    let mut is_needed = false;
    for (at, value) in values.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"[" } else { b", " });
        if write_value(out, value) {
            is_needed = true;
        } else {
            out.extend_from_slice(b"null");
        }
    }
    if is_needed {
        out.push(b']');
    } else {
        out.truncate(start);
    }
    is_needed
}

/// Whether a float is a NaN that isn't read as what it is.
pub(super) fn is_unusual(value: f64) -> bool {
    value.is_nan() && value.to_bits() != f64::NAN.to_bits()
}

/// The fewest digits that come back as the same `f32` through an `f64`, which Python makes of them.
pub(super) fn shortest(value: f32) -> f64 {
    match value.to_string().parse::<f64>() {
        Ok(short) if (short as f32).to_bits() == value.to_bits() => short,
        _ => value.into(),
    }
}

/// Whether the note says that the header `redelivered` is the user's.
pub(super) fn keeps_redelivered(note: &FieldValue) -> bool {
    let note = note.as_table();
    note.is_some_and(|note| note.contains(".redelivered"))
}

/// Gives the headers the types that the note tells.
pub(super) fn restore(headers: &mut FieldTable, note: &FieldValue) {
    match note {
        FieldValue::Text(text) if text == ALL_I32 => headers.values_mut().for_each(narrow),
        FieldValue::Table(note) => restore_table(headers, note),
        _ => {}
    }
}

fn narrow(value: &mut FieldValue) {
    match value {
        FieldValue::I64(integer) => {
            if let Ok(integer) = i32::try_from(*integer) {
                *value = FieldValue::I32(integer);
            }
        }
        FieldValue::Array(values) => values.iter_mut().for_each(narrow),
        FieldValue::Table(table) => table.values_mut().for_each(narrow),
        _ => {}
    }
}

fn restore_table(table: &mut FieldTable, note: &FieldTable) {
    for (name, note) in note {
        if let Some(name) = name.strip_prefix('.') {
            if let Some(value) = table.get_mut(name) {
                restore_value(value, note);
            }
        } else if table.get("").is_some_and(FieldValue::is_void) {
            table.remove("");
        }
    }
}

fn restore_value(value: &mut FieldValue, note: &FieldValue) {
    match (&mut *value, note) {
        (FieldValue::Table(table), FieldValue::Table(note)) => restore_table(table, note),
        (FieldValue::Array(values), FieldValue::Array(notes)) => {
            for (value, note) in values.iter_mut().zip(notes) {
                restore_value(value, note);
            }
        }
        (plain, FieldValue::Text(note)) => {
            if let Some(typed) = typed(plain, note) {
                *value = typed;
            }
        }
        _ => {}
    }
}

fn typed(plain: &FieldValue, note: &str) -> Option<FieldValue> {
    let (letter, bits) = note.split_at_checked(1)?;
    Some(match (plain, letter) {
        (FieldValue::I64(integer), "b") => FieldValue::I8((*integer).try_into().ok()?),
        (FieldValue::I64(integer), "B") => FieldValue::U8((*integer).try_into().ok()?),
        (FieldValue::I64(integer), "s") => FieldValue::I16((*integer).try_into().ok()?),
        (FieldValue::I64(integer), "u") => FieldValue::U16((*integer).try_into().ok()?),
        (FieldValue::I64(integer), "I") => FieldValue::I32((*integer).try_into().ok()?),
        (FieldValue::I64(integer), "i") => FieldValue::U32((*integer).try_into().ok()?),
        (FieldValue::I64(integer), "T") => {
            FieldValue::Timestamp(Timestamp::from_secs((*integer).try_into().ok()?))
        }
        (FieldValue::Text(digits), "T") => {
            FieldValue::Timestamp(Timestamp::from_secs(digits.parse().ok()?))
        }
        (FieldValue::F64(float), "f") if float.is_nan() => {
            let float = f32::from_bits(u32::from_str_radix(bits, 16).ok()?);
            FieldValue::F32(Some(float).filter(|float| float.is_nan())?)
        }
        (FieldValue::F64(float), "f") if bits.is_empty() => {
            let narrow = *float as f32;
            let is_narrow = shortest(narrow).to_bits() == float.to_bits();
            FieldValue::F32(is_narrow.then_some(narrow)?)
        }
        (FieldValue::F64(float), "d") if float.is_nan() => {
            let float = f64::from_bits(u64::from_str_radix(bits, 16).ok()?);
            FieldValue::F64(Some(float).filter(|float| float.is_nan())?)
        }
        _ => return None,
    })
}

//! Python's types that JSON lacks, in the forms of `kombu.utils.json`: `{"__type__": …, "__value__": …}`.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kombu_core::field::{FieldTable, FieldValue, Timestamp};

use super::json;

const TYPE: &str = "__type__";
const VALUE: &str = "__value__";

const DAY: u64 = 24 * 60 * 60;
/// The first second that Python's `datetime` can't express: the year 10,000.
const NO_DATETIME: u64 = 253_402_300_800;

/// Whether Python would take a table for one of its types, or refuse the whole message if it doesn't know it.
pub(super) fn is_form(table: &FieldTable) -> bool {
    table.len() == 2 && table.contains(TYPE) && table.contains(VALUE)
}

pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    match str::from_utf8(bytes) {
        Ok(text) => write_form(out, "bytes", text),
        Err(_) => write_form(out, "base64", &STANDARD.encode(bytes)),
    }
}

/// False if Python has no such time, and nothing is written.
pub(super) fn write_datetime(out: &mut Vec<u8>, time: Timestamp) -> bool {
    let secs = time.as_secs();
    if !has_datetime(time) {
        return false;
    }
    let (year, month, day) = civil(secs / DAY);
    let (hour, minute, second) = (secs % DAY / 3600, secs % 3600 / 60, secs % 60);
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    write_form(out, "datetime", &text);
    true
}

pub(super) fn has_datetime(time: Timestamp) -> bool {
    time.as_secs() < NO_DATETIME
}

/// Over AMQP, Python takes a decimal for signed: so it does here.
pub(super) fn write_decimal(out: &mut Vec<u8>, scale: u8, value: u32) {
    let (scale, signed) = (usize::from(scale), value as i32);
    let digits = format!("{:0>width$}", signed.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if signed < 0 { "-" } else { "" };
    let mut text = format!("{sign}{whole}");
    if !fraction.is_empty() {
        let _ = write!(text, ".{fraction}");
    }
    write_form(out, "decimal", &text);
}

fn write_form(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b"{\"__type__\": \"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\", \"__value__\": ");
    json::string(out, value);
    out.push(b'}');
}

/// The value that Python would make of this table; the table if it would make none.
pub(super) fn from_form(table: FieldTable) -> FieldValue {
    if !is_form(&table) {
        return FieldValue::Table(table);
    }
    read_form(&table).unwrap_or(FieldValue::Table(table))
}

fn read_form(table: &FieldTable) -> Option<FieldValue> {
    let value = table.get(VALUE)?;
    let name = table.get(TYPE)?.as_str()?;
    if name == "uuid" {
        return uuid(value.as_table()?.get("hex")?.as_str()?);
    }
    let text = value.as_str()?;
    Some(match name {
        "bytes" => FieldValue::Bytes(Bytes::copy_from_slice(text.as_bytes())),
        "base64" => FieldValue::Bytes(STANDARD.decode(text).ok()?.into()),
        "datetime" => datetime(text).map_or_else(|| text.into(), FieldValue::Timestamp),
        "decimal" => decimal(text).unwrap_or_else(|| text.into()),
        "date" | "time" => text.into(),
        _ => return None,
    })
}

fn uuid(hex: &str) -> Option<FieldValue> {
    if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    Some(parts.join("-").into())
}

/// The seconds of an ISO 8601 time as Python writes it, which is UTC unless it says otherwise; none before 1970.
pub(super) fn datetime(text: &str) -> Option<Timestamp> {
    let number = |from: usize, length: usize| -> Option<u64> {
        let digits = text.get(from..from + length)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    let is_at = |at: usize, byte: u8| text.as_bytes().get(at) == Some(&byte);
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let is_separated = is_at(4, b'-') && is_at(7, b'-') && is_at(13, b':') && is_at(16, b':');
    let is_in_range = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !is_separated || !is_in_range || !text.is_char_boundary(19) {
        return None;
    }
    let mut rest = &text[19..];
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = fraction.trim_start_matches(|digit: char| digit.is_ascii_digit());
    }
    let offset = offset(rest)?;
    let secs = days(year, month, day) * DAY as i64 + (hour * 3600 + minute * 60 + second) as i64;
    u64::try_from(secs - offset).ok().map(Timestamp::from_secs)
}

/// The seconds east of UTC: of nothing, `Z`, `+01:00` or `-01:00:30`.
fn offset(text: &str) -> Option<i64> {
    if text.is_empty() || text == "Z" {
        return Some(0);
    }
    let (sign, text) = match text.split_at_checked(1)? {
        ("+", text) => (1, text),
        ("-", text) => (-1, text),
        _ => return None,
    };
    let mut secs = 0;
    let mut unit = 3600;
    for part in text.split(':') {
        let part = part.split('.').next()?;
        secs += unit * i64::from(part.parse::<u8>().ok()?);
        unit /= 60;
    }
    Some(sign * secs)
}

/// Days since 1970 of a date, by Howard Hinnant's `days_from_civil`.
fn days(year: u64, month: u64, day: u64) -> i64 {
    let year = if month > 2 {
        year
    } else {
        year.wrapping_sub(1)
    } as i64;
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day, by Howard Hinnant's `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A number as Python's `Decimal` prints it, if AMQP's decimal can hold it.
fn decimal(text: &str) -> Option<FieldValue> {
    let (is_negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (digits, exponent) = match text.split_once(['E', 'e']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let mut value = 0_i64;
    for digit in whole.bytes().chain(fraction.bytes()) {
        value = value
            .checked_mul(10)?
            .checked_add(i64::from(digit - b'0'))?;
    }
    let mut scale = i32::try_from(fraction.len()).ok()?.checked_sub(exponent)?;
    if scale < 0 {
        value = value.checked_mul(10_i64.checked_pow(scale.unsigned_abs())?)?;
        scale = 0;
    }
    let value = i32::try_from(if is_negative { -value } else { value }).ok()?;
    Some(FieldValue::Decimal {
        scale: u8::try_from(scale).ok()?,
        value: value as u32,
    })
}

//! Messages to elements: one pass into one vector.

use std::fmt::Display;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kombu_core::declare::DeliveryMode;
use kombu_core::field::{FieldTable, FieldValue};
use kombu_core::message::{Content, Envelope, PublishId};

use super::types::{self, Met};
use super::{HIDDEN_KEYS, TYPES, json, python};

/// What an element has beside body, names and headers, roughly.
const FRAME: usize = 384;

/// The element of a message, with kombu's order of keys and its separators.
pub(crate) fn encode(envelope: &Envelope) -> Vec<u8> {
    let mut out = Vec::new();
    write(envelope, &mut out);
    out
}

/// Appends an element.
pub(crate) fn write(envelope: &Envelope, out: &mut Vec<u8>) {
    let content: &Content = envelope;
    let body = content.body();
    let text = text(content);
    let room = match text {
        Some(_) => body.len() + body.len() / 4,
        None => body.len() / 3 * 4 + 4,
    };
    out.reserve(FRAME + room + 64 * content.headers().len());
    out.extend_from_slice(b"{\"body\": ");
    match text {
        Some(text) => json::string(out, text),
        None => write_base64(out, body),
    }
    out.extend_from_slice(b", \"content-encoding\": ");
    write_optional(out, content.content_encoding());
    out.extend_from_slice(b", \"content-type\": ");
    write_optional(out, content.content_type());
    out.extend_from_slice(b", \"headers\": ");
    let mut met = Met::default();
    write_table(out, content.headers(), &mut met);
    out.extend_from_slice(b", \"properties\": {");
    write_properties(out, content, met);
    out.extend_from_slice(b"\"delivery_info\": {\"exchange\": ");
    json::string(out, content.exchange());
    out.extend_from_slice(b", \"routing_key\": ");
    json::string(out, content.routing_key());
    out.extend_from_slice(b"}, ");
    if let Some(priority) = content.priority() {
        write_display(out, "\"priority\": ", priority, ", ");
    }
    out.extend_from_slice(match text {
        Some(_) => b"\"body_encoding\": \"utf-8\", ",
        None => b"\"body_encoding\": \"base64\", ",
    });
    write_tag(out, envelope.publish_id());
    out.extend_from_slice(b"}}");
}

/// The body, if it goes as text.
fn text(content: &Content) -> Option<&str> {
    let is_text = content
        .content_encoding()
        .is_some_and(|encoding| encoding.eq_ignore_ascii_case("utf-8"));
    if !is_text || content.headers().contains("compression") {
        return None;
    }
    str::from_utf8(content.body()).ok()
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]);
    debug_assert_eq!(written.ok(), Some(out.len() - start));
    out.push(b'"');
}

fn write_optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => json::string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_display(out: &mut Vec<u8>, before: &str, value: impl Display, after: &str) {
    // A vector takes everything.
    let _ = write!(out, "{before}{value}{after}");
}

/// Those that stand in front of `delivery_info`, in kombu's order.
fn write_properties(out: &mut Vec<u8>, content: &Content, met: Met) {
    let text = |out: &mut Vec<u8>, name: &str, value: Option<&str>| {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            json::string(out, value);
            out.extend_from_slice(b", ");
        }
    };
    text(out, "\"correlation_id\": ", content.correlation_id());
    text(out, "\"reply_to\": ", content.reply_to());
    text(out, "\"message_id\": ", content.message_id());
    if let Some(time) = content.timestamp() {
        write_display(out, "\"timestamp\": ", time.as_secs(), ", ");
    }
    text(out, "\"app_id\": ", content.app_id());
    text(out, "\"type\": ", content.kind());
    text(out, "\"user_id\": ", content.user_id());
    text(out, "\"cluster_id\": ", content.cluster_id());
    let before = out.len();
    json::string(out, TYPES);
    out.extend_from_slice(b": ");
    if types::write(out, content.headers(), met) {
        out.extend_from_slice(b", ");
    } else {
        out.truncate(before);
    }
    if !content.hidden_keys().is_empty() {
        json::string(out, HIDDEN_KEYS);
        out.push(b':');
        for (index, key) in content.hidden_keys().iter().enumerate() {
            out.extend_from_slice(if index == 0 { b" [" } else { b", " });
            json::string(out, key);
        }
        out.extend_from_slice(b"], ");
    }
    out.extend_from_slice(match content.delivery_mode() {
        DeliveryMode::Persistent => b"\"delivery_mode\": 2, ",
        DeliveryMode::Transient => b"\"delivery_mode\": 1, ",
    });
    if let Some(expiration) = content.expiration() {
        write_display(out, "\"expiration\": \"", expiration.as_millis(), "\", ");
    }
}

/// The publish id in the form of a UUID, which kombu's tags have.
fn write_tag(out: &mut Vec<u8>, id: PublishId) {
    out.extend_from_slice(b"\"delivery_tag\": \"");
    let id = u128::from(id.producer) << 64 | u128::from(id.sequence);
    let mut tag = [b'-'; 36];
    let mut at = 0;
    for (count, byte) in id.to_be_bytes().into_iter().enumerate() {
        if matches!(count, 4 | 6 | 8 | 10) {
            at += 1;
        }
        tag[at..at + 2].copy_from_slice(&json::hex(byte));
        at += 2;
    }
    out.extend_from_slice(&tag);
    out.push(b'"');
}

fn write_table(out: &mut Vec<u8>, table: &FieldTable, met: &mut Met) {
    out.push(b'{');
    let mut before: &[u8] = b"";
    if python::is_form(table) {
        met.other = true;
        out.extend_from_slice(b"\"\": null");
        before = b", ";
    }
    for (name, value) in table {
        out.extend_from_slice(before);
        json::string(out, name);
        out.extend_from_slice(b": ");
        write_value(out, value, met);
        before = b", ";
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &FieldValue, met: &mut Met) {
    match value {
        FieldValue::Text(text) => json::string(out, text),
        FieldValue::Bool(true) => out.extend_from_slice(b"true"),
        FieldValue::Bool(false) => out.extend_from_slice(b"false"),
        FieldValue::I64(integer) => {
            met.i64 = true;
            write_display(out, "", integer, "");
        }
        FieldValue::I32(integer) => {
            met.i32 = true;
            write_display(out, "", integer, "");
        }
        FieldValue::I8(_)
        | FieldValue::U8(_)
        | FieldValue::I16(_)
        | FieldValue::U16(_)
        | FieldValue::U32(_) => {
            met.other = true;
            write_display(out, "", value.as_i64().unwrap_or(0), "");
        }
        FieldValue::F64(float) => {
            met.other |= types::is_unusual(*float);
            write_float(out, *float);
        }
        FieldValue::F32(float) => {
            met.other = true;
            write_float(out, types::shortest(*float));
        }
        FieldValue::Bytes(bytes) => python::write_bytes(out, bytes),
        FieldValue::Timestamp(time) => {
            if !python::write_datetime(out, *time) {
                met.other = true;
                write_display(out, "", time.as_secs(), "");
            }
        }
        FieldValue::Decimal { scale, value } => python::write_decimal(out, *scale, *value),
        FieldValue::Array(values) => {
            out.push(b'[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.extend_from_slice(b", ");
                }
                write_value(out, value, met);
            }
            out.push(b']');
        }
        FieldValue::Table(table) => write_table(out, table, met),
        // A type that core has and this transport doesn't know yet.
        _ => out.extend_from_slice(b"null"),
    }
}

/// Always with a point or an exponent, so that it is read as a float.
fn write_float(out: &mut Vec<u8>, float: f64) {
    if float.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if float.is_infinite() {
        let sign = if float < 0.0 { "-" } else { "" };
        write_display(out, sign, "Infinity", "");
    } else {
        let _ = write!(out, "{float:?}");
    }
}

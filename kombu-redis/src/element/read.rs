//! Elements to messages.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use kombu_core::Name;
use kombu_core::declare::DeliveryMode;
use kombu_core::field::{FieldTable, FieldValue, Timestamp};
use kombu_core::message::{Content, Envelope, PublishId};

use super::json::{Problem, Reader, Text, Token};
use super::types::{self, REDELIVERED};
use super::{Decoded, HIDDEN_KEYS, TYPES, python};

/// Reads what Python reads: not everybody clears the bits behind the last byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The message that an element is. It never fails: what isn't kombu's envelope is the body of a message without content
/// type and address.
pub(crate) fn decode(element: &Bytes) -> Decoded {
    read(element).unwrap_or_else(|problem| {
        tracing::warn!(
            problem,
            bytes = element.len(),
            "an element of a queue isn't an envelope of kombu's; it is delivered as it is"
        );
        let (marker, body) = unmarked(element);
        Decoded {
            envelope: Envelope::new(random_id(), Content::new(Name::EMPTY, Name::EMPTY, body)),
            failures: marker.map_or(0, |marker| marker.failures),
            redelivered: marker.is_some_and(|marker| marker.came_back),
        }
    })
}

/// What isn't an envelope, as it was before it came back.
fn unmarked(element: &Bytes) -> (Option<Marker>, Bytes) {
    let kinds = [(&b"{\"_kq\":\""[..], &b"{"[..]), (b"{\"_kr\":\"", b"")];
    for (start, before) in kinds {
        let Some(rest) = element.strip_prefix(start) else {
            continue;
        };
        let length = rest.iter().position(|byte| *byte == b'"');
        let text = length.and_then(|length| str::from_utf8(&rest[..length]).ok());
        if let (Some(length), Some(marker)) = (length, text.and_then(marker))
            && let Some(rest) = rest[length..].strip_prefix(b"\",")
        {
            let body = match before {
                b"" => element.slice_ref(rest),
                _ => [before, rest].concat().into(),
            };
            return (Some(marker), body);
        }
    }
    (None, element.clone())
}

/// An id of nobody's. It isn't always the same: with the id as its tag, Python would take two messages for one.
fn random_id() -> PublishId {
    PublishId {
        producer: fastrand::u64(..),
        sequence: fastrand::u64(..),
    }
}

/// What stands at the top of an element.
#[derive(Default)]
struct Parts<'a> {
    body: Option<Text<'a>>,
    content_encoding: Option<Name>,
    content_type: Option<Name>,
    headers: FieldTable,
    properties: Properties<'a>,
    has_properties: bool,
    marker: Option<Marker>,
    /// Python sets it here if it doesn't emulate acknowledgements.
    redelivered: bool,
}

#[derive(Default)]
struct Properties<'a> {
    correlation_id: Option<Name>,
    reply_to: Option<Name>,
    message_id: Option<Name>,
    timestamp: Option<Timestamp>,
    app_id: Option<Name>,
    kind: Option<Name>,
    user_id: Option<Name>,
    cluster_id: Option<Name>,
    types: Option<FieldValue>,
    hidden_keys: Option<FieldValue>,
    expiration: Option<Duration>,
    transient: bool,
    delivery_info: Option<DeliveryInfo>,
    priority: Option<u8>,
    body_encoding: Option<Cow<'a, str>>,
    delivery_tag: Option<Cow<'a, str>>,
}

#[derive(Default)]
struct DeliveryInfo {
    exchange: Name,
    routing_key: Name,
    redelivered: bool,
}

/// `<id>:<failures>:<expires>:<bytes>`; the id is 0 until the message comes back.
#[derive(Clone, Copy)]
struct Marker {
    came_back: bool,
    failures: u32,
}

fn read(element: &Bytes) -> Result<Decoded, Problem> {
    let text = str::from_utf8(element).map_err(|_| "it isn't UTF-8")?;
    let mut parts = Parts::default();
    read_parts(&mut Reader::new(text), &mut parts)?;
    let properties = parts.properties;
    if !parts.has_properties {
        return Err("it has no properties");
    }
    let body = parts.body.ok_or("it has no body")?;
    let body = read_body(element, &body, properties.body_encoding.as_deref())?;

    let info = properties.delivery_info;
    let mut headers = parts.headers;
    let mut redelivered = parts.redelivered;
    let in_headers = headers.get(REDELIVERED) == Some(&FieldValue::Bool(true));
    if info.as_ref().is_none_or(|info| info.redelivered) {
        redelivered |= in_headers || info.is_some();
        let types = properties.types.as_ref();
        if in_headers && !types.is_some_and(types::keeps_redelivered) {
            headers.remove(REDELIVERED);
        }
    }
    if let Some(types) = &properties.types {
        types::restore(&mut headers, types);
    }

    let info = info.unwrap_or_default();
    let mut content = Content::new(info.exchange, info.routing_key, body);
    *content.headers_mut() = headers;
    if properties.transient {
        content.set_delivery_mode(DeliveryMode::Transient);
    }
    if let Some(priority) = properties.priority {
        content.set_priority(priority);
    }
    content.set_expiration(properties.expiration);
    if let Some(time) = properties.timestamp {
        content.set_timestamp(time);
    }
    type Setter = fn(&mut Content, Name);
    let texts: [(Option<Name>, Setter); 9] = [
        (parts.content_type, Content::set_content_type),
        (parts.content_encoding, Content::set_content_encoding),
        (properties.correlation_id, Content::set_correlation_id),
        (properties.reply_to, Content::set_reply_to),
        (properties.message_id, Content::set_message_id),
        (properties.kind, Content::set_kind),
        (properties.user_id, Content::set_user_id),
        (properties.app_id, Content::set_app_id),
        (properties.cluster_id, Content::set_cluster_id),
    ];
    for (text, set) in texts {
        if let Some(text) = text {
            set(&mut content, text);
        }
    }
    if let Some(keys) = properties
        .hidden_keys
        .as_ref()
        .and_then(FieldValue::as_array)
    {
        let keys = keys.iter().filter_map(FieldValue::as_str);
        content.set_hidden_keys(keys.map(Name::from).collect());
    }
    let marker = parts.marker;
    Ok(Decoded {
        envelope: Envelope::new(publish_id(properties.delivery_tag.as_deref()), content),
        failures: marker.map_or(0, |marker| marker.failures),
        redelivered: redelivered || marker.is_some_and(|marker| marker.came_back),
    })
}

fn read_parts<'a>(reader: &mut Reader<'a>, parts: &mut Parts<'a>) -> Result<(), Problem> {
    let Token::Object = reader.token()? else {
        return Err("it isn't an object");
    };
    let mut is_first = true;
    while let Some(name) = reader.name(is_first)? {
        is_first = false;
        match &*name {
            "body" => match reader.token()? {
                Token::String(text) => parts.body = Some(text),
                _ => return Err("its body isn't a string"),
            },
            "content-encoding" => parts.content_encoding = read_name(reader)?,
            "content-type" => parts.content_type = read_name(reader)?,
            "headers" => {
                parts.headers = match reader.token()? {
                    Token::Object => read_entries(reader)?,
                    Token::Null => FieldTable::new(),
                    _ => return Err("its headers aren't an object"),
                }
            }
            "properties" => match reader.token()? {
                Token::Object => {
                    read_properties(reader, &mut parts.properties)?;
                    parts.has_properties = true;
                }
                _ => return Err("its properties aren't an object"),
            },
            "_kq" => {
                // What somebody else wrote there may stand behind ours.
                let read = read_text(reader)?.as_deref().and_then(marker);
                parts.marker = parts.marker.or(read);
            }
            "redelivered" => parts.redelivered = read_bool(reader)?,
            _ => reader.skip()?,
        }
    }
    reader.end()
}

fn read_properties<'a>(
    reader: &mut Reader<'a>,
    properties: &mut Properties<'a>,
) -> Result<(), Problem> {
    let mut is_first = true;
    while let Some(name) = reader.name(is_first)? {
        is_first = false;
        match &*name {
            "correlation_id" => properties.correlation_id = read_name(reader)?,
            "reply_to" => properties.reply_to = read_name(reader)?,
            "message_id" => properties.message_id = read_name(reader)?,
            "timestamp" => properties.timestamp = timestamp(&read_value(reader)?),
            "app_id" => properties.app_id = read_name(reader)?,
            "type" => properties.kind = read_name(reader)?,
            "user_id" => properties.user_id = read_name(reader)?,
            "cluster_id" => properties.cluster_id = read_name(reader)?,
            TYPES => properties.types = Some(read_value(reader)?),
            HIDDEN_KEYS => properties.hidden_keys = Some(read_value(reader)?),
            "expiration" => {
                let millis = read_text(reader)?.as_deref().and_then(whole);
                properties.expiration = millis.map(Duration::from_millis);
            }
            "delivery_mode" => {
                properties.transient = read_text(reader)?.as_deref().and_then(whole) == Some(1);
            }
            "delivery_info" => {
                let token = reader.token()?;
                properties.delivery_info = match token {
                    Token::Object => Some(read_delivery_info(reader)?),
                    _ => reader.skip_rest(&token).map(|()| None)?,
                };
            }
            "priority" => {
                let priority = read_text(reader)?.as_deref().and_then(whole);
                properties.priority = priority.map(|priority| priority.min(255) as u8);
            }
            "body_encoding" => properties.body_encoding = read_text(reader)?,
            "delivery_tag" => properties.delivery_tag = read_text(reader)?,
            _ => reader.skip()?,
        }
    }
    Ok(())
}

fn read_delivery_info(reader: &mut Reader<'_>) -> Result<DeliveryInfo, Problem> {
    let mut info = DeliveryInfo::default();
    let mut is_first = true;
    while let Some(name) = reader.name(is_first)? {
        is_first = false;
        match &*name {
            "exchange" => info.exchange = read_name(reader)?.unwrap_or_default(),
            "routing_key" => info.routing_key = read_name(reader)?.unwrap_or_default(),
            REDELIVERED => info.redelivered = read_bool(reader)?,
            _ => reader.skip()?,
        }
    }
    Ok(info)
}

fn read_name(reader: &mut Reader<'_>) -> Result<Option<Name>, Problem> {
    Ok(read_text(reader)?.map(|text| Name::from(&*text)))
}

/// A string, or a number as it stands there; anything else is as good as absent.
fn read_text<'a>(reader: &mut Reader<'a>) -> Result<Option<Cow<'a, str>>, Problem> {
    Ok(match reader.token()? {
        Token::String(text) => Some(text.value()),
        Token::Number(digits) => Some(Cow::Borrowed(digits)),
        other => reader.skip_rest(&other).map(|()| None)?,
    })
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool, Problem> {
    let token = reader.token()?;
    reader.skip_rest(&token)?;
    Ok(matches!(token, Token::Bool(true)))
}

fn read_entries(reader: &mut Reader<'_>) -> Result<FieldTable, Problem> {
    let mut entries = Vec::new();
    while let Some(name) = reader.name(entries.is_empty())? {
        entries.push((Name::from(&*name), read_value(reader)?));
    }
    Ok(FieldTable::from(entries))
}

fn read_value(reader: &mut Reader<'_>) -> Result<FieldValue, Problem> {
    Ok(match reader.token()? {
        Token::Null => FieldValue::Void,
        Token::Bool(value) => FieldValue::Bool(value),
        Token::Number(digits) => number(digits),
        Token::String(text) => FieldValue::Text(Name::from(&*text.value())),
        Token::Array => {
            let mut values = Vec::new();
            while reader.element(values.is_empty())? {
                values.push(read_value(reader)?);
            }
            FieldValue::Array(values)
        }
        Token::Object => python::from_form(read_entries(reader)?),
    })
}

fn number(digits: &str) -> FieldValue {
    if let Ok(integer) = digits.parse() {
        return FieldValue::I64(integer);
    }
    let is_integer = !digits.contains(['.', 'e', 'E', 'N', 'I']);
    match digits.parse() {
        Ok(float) if !is_integer => FieldValue::F64(float),
        // AMQP has no integer above `i64::MAX`, and a float would lose digits.
        _ => digits.into(),
    }
}

fn timestamp(value: &FieldValue) -> Option<Timestamp> {
    match value {
        FieldValue::Timestamp(time) => Some(*time),
        FieldValue::I64(secs) => u64::try_from(*secs).ok().map(Timestamp::from_secs),
        FieldValue::F64(secs) if *secs >= 0.0 => Some(Timestamp::from_secs(*secs as u64)),
        FieldValue::Text(digits) => digits.parse().ok().map(Timestamp::from_secs),
        _ => None,
    }
}

/// A number that isn't negative, without what stands behind its point.
fn whole(digits: &str) -> Option<u64> {
    digits.parse().ok().or_else(|| {
        let float: f64 = digits.parse().ok()?;
        (float >= 0.0).then_some(float as u64)
    })
}

fn marker(text: &str) -> Option<Marker> {
    let mut numbers = text.split(':').map(str::parse::<u64>);
    let mut number = || numbers.next()?.ok();
    let (id, failures) = (number()?, number()?);
    let (_expires, _bytes) = (number()?, number()?);
    // The list that it was in, of four, is the last digit.
    if id % 10 > 3 {
        return None;
    }
    Some(Marker {
        came_back: id != 0,
        failures: failures.try_into().ok()?,
    })
}

fn read_body(element: &Bytes, text: &Text<'_>, encoding: Option<&str>) -> Result<Bytes, Problem> {
    match encoding {
        Some("base64") => {
            let decoded = BASE64.decode(&*text.value());
            decoded
                .map(Bytes::from)
                .map_err(|_| "its body isn't base64")
        }
        Some(encoding) if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("utf-8") => {
            Err("its body has an unknown encoding")
        }
        _ => Ok(text.bytes(element)),
    }
}

/// The id that a tag stands for: kombu's are UUIDs.
fn publish_id(tag: Option<&str>) -> PublishId {
    let Some(tag) = tag else {
        return random_id();
    };
    uuid(tag).unwrap_or_else(|| {
        let half = |number: u8| {
            let mut hasher = DefaultHasher::new();
            (number, tag).hash(&mut hasher);
            hasher.finish()
        };
        PublishId {
            producer: half(0),
            sequence: half(1),
        }
    })
}

fn uuid(tag: &str) -> Option<PublishId> {
    let tag: &[u8; 36] = tag.as_bytes().try_into().ok()?;
    let mut id = 0_u128;
    for (at, &byte) in tag.iter().enumerate() {
        let is_dash = matches!(at, 8 | 13 | 18 | 23);
        match (is_dash, char::from(byte).to_digit(16)) {
            (true, None) if byte == b'-' => {}
            (false, Some(digit)) => id = id << 4 | u128::from(digit),
            _ => return None,
        }
    }
    Some(PublishId {
        producer: (id >> 64) as u64,
        sequence: id as u64,
    })
}

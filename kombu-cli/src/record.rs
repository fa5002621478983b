//! A message as a line of JSON: `consume --json` writes it and `publish --record` reads it, byte for byte the same message.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kombu::serializers::Value;
use kombu::{Content, Delivery, FieldTable, FieldValue, Timestamp};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::failure::{Failure, Result};
use crate::show::value_of;

/// What a message is written as. Of the three bodies it has one.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    exchange: &'a str,
    routing_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    redelivered: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    properties: Properties,
    #[serde(
        skip_serializing_if = "FieldTable::is_empty",
        serialize_with = "write_headers"
    )]
    headers: &'a FieldTable,
    /// JSON, as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// What the body says, for who reads it; publishing goes by the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    decoded: Option<Value>,
}

/// What is read. What only says where a message was counts for nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(default)]
    exchange: String,
    #[serde(default)]
    routing_key: String,
    properties: Option<Properties>,
    #[serde(default)]
    headers: FieldTable,
    body: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
    #[serde(rename = "queue")]
    _queue: Option<IgnoredAny>,
    #[serde(rename = "redelivered")]
    _redelivered: Option<IgnoredAny>,
    #[serde(rename = "attempt")]
    _attempt: Option<IgnoredAny>,
    #[serde(rename = "decoded")]
    _decoded: Option<IgnoredAny>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Properties {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<String>,
    delivery_mode: kombu::DeliveryMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        with = "kombu::declare::duration::option"
    )]
    expiration: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Timestamp>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
}

/// Sets a property that is text.
type Setter = fn(&mut Content, String);

impl Properties {
    fn of(content: &Content) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Properties {
            content_type: owned(content.content_type()),
            content_encoding: owned(content.content_encoding()),
            delivery_mode: content.delivery_mode(),
            priority: content.priority(),
            expiration: content.expiration(),
            correlation_id: owned(content.correlation_id()),
            reply_to: owned(content.reply_to()),
            message_id: owned(content.message_id()),
            timestamp: content.timestamp(),
            kind: owned(content.kind()),
            user_id: owned(content.user_id()),
            app_id: owned(content.app_id()),
            cluster_id: owned(content.cluster_id()),
        }
    }

    fn set(self, content: &mut Content) {
        content.set_content_type(self.content_type.unwrap_or_default());
        content.set_content_encoding(self.content_encoding.unwrap_or_default());
        content.set_delivery_mode(self.delivery_mode);
        if let Some(priority) = self.priority {
            content.set_priority(priority);
        }
        if self.expiration.is_some() {
            content.set_expiration(self.expiration);
        }
        if let Some(timestamp) = self.timestamp {
            content.set_timestamp(timestamp);
        }
        let texts: [(Option<String>, Setter); 7] = [
            (self.correlation_id, Content::set_correlation_id),
            (self.reply_to, Content::set_reply_to),
            (self.message_id, Content::set_message_id),
            (self.kind, Content::set_kind),
            (self.user_id, Content::set_user_id),
            (self.app_id, Content::set_app_id),
            (self.cluster_id, Content::set_cluster_id),
        ];
        for (value, set) in texts {
            if let Some(value) = value {
                set(content, value);
            }
        }
    }
}

/// The line of a delivery, without its end. With `decoded`, it also has the value that the body stands for.
pub(crate) fn of_delivery(delivery: &Delivery, decoded: bool) -> Result<String> {
    let mut written = of(delivery);
    written.queue = Some(delivery.queue());
    written.redelivered = Some(delivery.redelivered());
    written.attempt = Some(delivery.attempt());
    written.decoded = match decoded {
        true => value_of(delivery),
        false => None,
    };
    line(&written)
}

/// The line of a message that came by no queue.
pub(crate) fn of_content(content: &Content, decoded: Option<Value>) -> Result<String> {
    let mut written = of(content);
    written.decoded = decoded;
    line(&written)
}

fn line(written: &Written<'_>) -> Result<String> {
    serde_json::to_string(written)
        .map_err(|error| Failure::new(crate::failure::Code::Failed, format!("no JSON: {error}")))
}

fn of(content: &Content) -> Written<'_> {
    let bytes = content.body();
    let text = std::str::from_utf8(bytes).ok();
    let json = text.and_then(|text| as_json(content, text));
    let text = text.filter(|_| json.is_none());
    Written {
        queue: None,
        exchange: content.exchange(),
        routing_key: content.routing_key(),
        redelivered: None,
        attempt: None,
        properties: Properties::of(content),
        headers: content.headers(),
        base64: (json.is_none() && text.is_none()).then(|| STANDARD.encode(bytes)),
        body: json,
        text,
        decoded: None,
    }
}

/// The body as a part of the line, if it is JSON that comes back as the same bytes.
fn as_json<'a>(content: &Content, text: &'a str) -> Option<&'a RawValue> {
    let kind = content.content_type()?;
    // `null` would be no body.
    let is_alone = text.trim() == text && !text.contains(['\n', '\r']);
    if kind != "application/json" || !is_alone || text == "null" {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Headers as they are in files, but for one without a value, which is null: so it is read, too.
pub(crate) fn write_headers<S: Serializer>(
    headers: &FieldTable,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    let given = |value| (!FieldValue::is_void(value)).then_some(value);
    serializer.collect_map(headers.iter().map(|(name, value)| (name, given(value))))
}

/// The message of a line. Without `properties`, the body says what it is.
pub(crate) fn read(line: &str) -> Result<Content> {
    let read: Read = serde_json::from_str(line).map_err(|error| {
        // There is one line.
        let error = error.to_string();
        let (what, _) = error.split_once(" at line ").unwrap_or((&error, ""));
        Failure::usage(format!("no message as `consume --json` writes it: {what}"))
    })?;
    let (body, kind, encoding) = match (read.body, read.text, read.base64) {
        (Some(json), None, None) => {
            let bytes = Bytes::from(json.get().to_owned());
            (bytes, "application/json", "utf-8")
        }
        (None, Some(text), None) => (Bytes::from(text), "text/plain", "utf-8"),
        (None, None, Some(text)) => {
            let bytes = STANDARD
                .decode(text)
                .map_err(|error| Failure::usage(format!("`base64` is none: {error}")))?;
            (Bytes::from(bytes), "application/data", "binary")
        }
        _ => {
            return Err(Failure::usage(
                "a message has one of `body` (JSON), `text` and `base64`",
            ));
        }
    };
    let mut content = Content::new(read.exchange.into(), read.routing_key.into(), body);
    match read.properties {
        Some(properties) => properties.set(&mut content),
        None => {
            content.set_content_type(kind);
            content.set_content_encoding(encoding);
        }
    }
    *content.headers_mut() = read.headers;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(content: &Content) -> Content {
        let line = line(&of(content)).unwrap();
        assert!(!line.contains('\n'), "{line}");
        read(&line).unwrap()
    }

    fn message(kind: &str, body: &[u8]) -> Content {
        let mut content = Content::new("media".into(), "a.b".into(), Bytes::copy_from_slice(body));
        content.set_content_type(kind);
        content
    }

    #[test]
    fn a_body_comes_back_byte_for_byte() {
        for (kind, body) in [
            (
                "application/json",
                &b"{\"b\": 1.0, \"a\":123456789012345678901}"[..],
            ),
            ("application/json", b" 7"),
            ("application/json", b"null"),
            ("application/json", b"{\n}"),
            ("application/json", b"no JSON"),
            ("text/plain", "caf\u{e9}\r\n".as_bytes()),
            ("image/jpeg", b"\xff\xd8\x00"),
            ("", b""),
        ] {
            let back = there_and_back(&message(kind, body));
            assert_eq!(back.body(), body);
            assert_eq!(back.content_type().unwrap_or_default(), kind);
        }
    }

    #[test]
    fn properties_come_back() {
        let mut content = message("text/plain", b"x");
        content.set_priority(3);
        content.set_expiration(Some(Duration::from_millis(1_500)));
        content.set_timestamp(Timestamp::from_secs(7));
        content.set_correlation_id("c");
        content.set_kind("job");
        content.set_delivery_mode(kombu::DeliveryMode::Transient);
        content.headers_mut().insert("n", 7_u8);
        content.headers_mut().insert("none", ());
        assert!(line(&of(&content)).unwrap().contains("\"none\":null"));
        let back = there_and_back(&content);
        assert_eq!(back.exchange(), "media");
        assert_eq!(back.routing_key(), "a.b");
        assert_eq!(back.priority(), Some(3));
        assert_eq!(back.expiration(), Some(Duration::from_millis(1_500)));
        assert_eq!(back.timestamp(), Some(Timestamp::from_secs(7)));
        assert_eq!(back.correlation_id(), Some("c"));
        assert_eq!(back.kind(), Some("job"));
        assert_eq!(back.delivery_mode(), kombu::DeliveryMode::Transient);
        assert_eq!(back.headers(), content.headers());
    }

    #[test]
    fn a_message_by_hand_needs_no_properties() {
        let json = read(r#"{"body": {"a": 1}}"#).unwrap();
        assert_eq!(json.content_type(), Some("application/json"));
        let text = read(r#"{"text": "hi", "routing_key": "k"}"#).unwrap();
        assert_eq!(text.content_type(), Some("text/plain"));
        assert_eq!(text.routing_key(), "k");
    }

    #[test]
    fn a_line_without_a_body_or_with_a_wrong_key_is_refused() {
        for line in [
            "{}",
            r#"{"text": "a", "base64": ""}"#,
            r#"{"text": "a", "hedders": {}}"#,
        ] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}

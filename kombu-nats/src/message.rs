//! Messages as they lie in a stream: the body as it is, and properties in headers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use kombu_core::declare::DeliveryMode;
use kombu_core::field::{FieldTable, FieldValue, Timestamp};
use kombu_core::message::{Content, Envelope, PublishId};
use kombu_core::{Error, ErrorKind, Name, Result};
use serde::{Deserialize, Serialize};

const ID: HeaderName = HeaderName::from_static("Nats-Msg-Id");
const PUBLISH: HeaderName = HeaderName::from_static("Kombu-Publish");
const CONTENT_TYPE: HeaderName = HeaderName::from_static("Content-Type");
const CONTENT_ENCODING: HeaderName = HeaderName::from_static("Content-Encoding");
const EXCHANGE: HeaderName = HeaderName::from_static("Kombu-Exchange");
const KEY: HeaderName = HeaderName::from_static("Kombu-Key");
const PRIORITY: HeaderName = HeaderName::from_static("Kombu-Priority");
const TRANSIENT: HeaderName = HeaderName::from_static("Kombu-Transient");
pub(crate) const EXPIRATION: &str = "Kombu-Expiration";
const EXPIRATION_NAME: HeaderName = HeaderName::from_static(EXPIRATION);
const TIMESTAMP: HeaderName = HeaderName::from_static("Kombu-Timestamp");
const MORE: HeaderName = HeaderName::from_static("Kombu-More");
/// When a delayed message is due, in ms by the server's clock.
pub(crate) const DUE: HeaderName = HeaderName::from_static("Kombu-Due");
/// The subject that a delayed message is for.
pub(crate) const TO: HeaderName = HeaderName::from_static("Kombu-To");

/// What a message died of that waits to be moved.
pub(crate) const DEATH: HeaderName = HeaderName::from_static("Kombu-Death");

/// Properties that are text, with how they are read and set.
type Text = (
    HeaderName,
    fn(&Content) -> Option<&str>,
    fn(&mut Content, &str),
);

static TEXTS: [Text; 9] = [
    (CONTENT_TYPE, Content::content_type, |content, value| {
        content.set_content_type(value);
    }),
    (
        CONTENT_ENCODING,
        Content::content_encoding,
        |content, value| content.set_content_encoding(value),
    ),
    (
        HeaderName::from_static("Kombu-Message-Id"),
        Content::message_id,
        |content, value| content.set_message_id(value),
    ),
    (
        HeaderName::from_static("Kombu-Correlation-Id"),
        Content::correlation_id,
        |content, value| content.set_correlation_id(value),
    ),
    (
        HeaderName::from_static("Kombu-Reply-To"),
        Content::reply_to,
        |content, value| content.set_reply_to(value),
    ),
    (
        HeaderName::from_static("Kombu-Type"),
        Content::kind,
        |content, value| content.set_kind(value),
    ),
    (
        HeaderName::from_static("Kombu-User-Id"),
        Content::user_id,
        |content, value| content.set_user_id(value),
    ),
    (
        HeaderName::from_static("Kombu-App-Id"),
        Content::app_id,
        |content, value| content.set_app_id(value),
    ),
    (
        HeaderName::from_static("Kombu-Cluster-Id"),
        Content::cluster_id,
        |content, value| content.set_cluster_id(value),
    ),
];

/// What headers of NATS can't hold.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct More {
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Name>,
    /// Properties, by the names of their headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    texts: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "FieldTable::is_empty")]
    headers: FieldTable,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hidden_keys: Vec<Name>,
}

impl More {
    fn is_empty(&self) -> bool {
        self.exchange.is_none()
            && self.key.is_none()
            && self.texts.is_empty()
            && self.headers.is_empty()
            && self.hidden_keys.is_empty()
    }
}

/// Whether a header comes out as it went in.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.trim() == value && !value.chars().any(char::is_control)
}

/// Whether it can be the name of a header of the message's own.
fn is_free(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let begins = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    !name.is_empty()
        && name.bytes().all(is_token)
        && ![
            "nats-",
            "kombu-",
            "content-",
            "kv-",
            "status",
            "description",
        ]
        .into_iter()
        .any(begins)
}

fn value(text: &str) -> HeaderValue {
    text.parse().unwrap_or_default()
}

/// A number as a header.
pub(crate) fn digits(number: u64) -> HeaderValue {
    HeaderValue::from(number)
}

/// The number of a publish, as the server compares it.
pub(crate) fn publish_id(id: PublishId) -> String {
    let mut text = String::with_capacity(2 * 16 + 1);
    // A text takes all that is written to it.
    let _ = write!(text, "{:x}-{:x}", id.producer, id.sequence);
    text
}

fn read_publish_id(text: &str) -> Option<PublishId> {
    let (producer, sequence) = text.split_once('-')?;
    Some(PublishId {
        producer: u64::from_str_radix(producer, 16).ok()?,
        sequence: u64::from_str_radix(sequence, 16).ok()?,
    })
}

/// The headers of a message for a queue, but for the id.
pub(crate) fn headers(envelope: &Envelope, queue: &str) -> Result<HeaderMap> {
    let content: &Content = envelope;
    let mut headers = HeaderMap::new();
    let mut more = More::default();
    let (exchange, key) = (content.exchange(), content.routing_key());
    if !exchange.is_empty() || key.as_str() != queue {
        match is_plain(exchange) || exchange.is_empty() {
            true if exchange.is_empty() => {}
            true => headers.insert(EXCHANGE, value(exchange)),
            false => more.exchange = Some(exchange.clone()),
        }
        match is_plain(key) {
            true => headers.insert(KEY, value(key)),
            false => more.key = Some(key.clone()),
        }
    }
    for (name, get, _) in &TEXTS {
        if let Some(text) = get(content) {
            match is_plain(text) {
                true => headers.insert(name.clone(), value(text)),
                false => {
                    more.texts.insert(name.to_string(), text.to_owned());
                }
            }
        }
    }
    if let Some(priority) = content.priority() {
        headers.insert(PRIORITY, digits(priority.into()));
    }
    if content.delivery_mode() == DeliveryMode::Transient {
        headers.insert(TRANSIENT, digits(1));
    }
    if let Some(expiration) = content.expiration() {
        let milliseconds = u64::try_from(expiration.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPIRATION_NAME, digits(milliseconds));
    }
    if let Some(timestamp) = content.timestamp() {
        headers.insert(TIMESTAMP, digits(timestamp.as_secs()));
    }
    for (name, field) in content.headers().iter() {
        match field {
            FieldValue::Text(text) if is_plain(text) && is_free(name) => {
                if let Ok(name) = HeaderName::try_from(name.as_str()) {
                    headers.insert(name, value(text));
                }
            }
            field => drop(more.headers.insert(name.clone(), field.clone())),
        }
    }
    more.hidden_keys = content.hidden_keys().to_vec();
    if !more.is_empty() {
        let text = serde_json::to_string(&more).map_err(|problem| {
            Error::new(
                ErrorKind::Encode,
                "the headers of a message can't be written as JSON",
            )
            .with_source(problem)
        })?;
        headers.insert(MORE, value(&text));
    }
    Ok(headers)
}

/// Says which publish it is: one that is repeated is stored once.
pub(crate) fn set_id(headers: &mut HeaderMap, envelope: &Envelope) {
    headers.insert(ID, HeaderValue::from(publish_id(envelope.publish_id())));
}

/// The same with another id; whose the message is stays known.
pub(crate) fn set_other_id(headers: &mut HeaderMap, id: &str, envelope: &Envelope) {
    headers.insert(ID, value(id));
    headers.insert(
        PUBLISH,
        HeaderValue::from(publish_id(envelope.publish_id())),
    );
}

/// Replaces the id, as for a message that is moved.
pub(crate) fn replace_id(headers: &mut HeaderMap, id: &str) {
    if headers.get(PUBLISH).is_none()
        && let Some(own) = headers.get(ID).cloned()
    {
        headers.insert(PUBLISH, own);
    }
    headers.insert(ID, value(id));
}

/// Headers without some.
pub(crate) fn without(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut left = HeaderMap::new();
    for (name, values) in headers.iter() {
        if !names.contains(name) {
            for value in values {
                left.append(name.clone(), value.clone());
            }
        }
    }
    left
}

/// The first value of a header. There are few, and comparing them takes less time than a hash of the name.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut all = headers.iter();
    let (_, values) = all.find(|(other, _)| *other == name)?;
    values.first().map(HeaderValue::as_str)
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// Headers as they lie in a stream.
pub(crate) fn parse(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.lines().skip(1) {
        if let Some((name, value)) = line.split_once(':')
            && let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.trim().parse())
        {
            headers.append::<_, HeaderValue>(name, value);
        }
    }
    headers
}

/// How long a message may wait by itself.
pub(crate) fn expiration(headers: Option<&HeaderMap>) -> Option<Duration> {
    number(headers?, &EXPIRATION_NAME).map(Duration::from_millis)
}

/// When a delayed message is due, and what it is for.
pub(crate) fn due(headers: Option<&HeaderMap>) -> Option<(u64, &str)> {
    let headers = headers?;
    Some((number(headers, &DUE)?, text(headers, &TO)?))
}

/// The message that lies in a queue with this body and these headers. Whatever can't be read is left out: other programs
/// write here too.
pub(crate) fn read(headers: Option<&HeaderMap>, body: Bytes, queue: &Name) -> Envelope {
    let nobody = PublishId {
        producer: 0,
        sequence: 0,
    };
    let Some(headers) = headers.filter(|headers| !headers.is_empty()) else {
        let content = Content::new(Name::EMPTY, queue.clone(), body);
        return Envelope::new(nobody, content);
    };
    let more: More = text(headers, &MORE)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let exchange = text(headers, &EXCHANGE).map(Name::from).or(more.exchange);
    let key = text(headers, &KEY).map(Name::from).or(more.key);
    let (exchange, key) = match (exchange, key) {
        (None, None) => (Name::EMPTY, queue.clone()),
        (exchange, key) => (exchange.unwrap_or_default(), key.unwrap_or_default()),
    };
    let mut content = Content::new(exchange, key, body);
    for (name, _, set) in &TEXTS {
        if let Some(text) = text(headers, name) {
            set(&mut content, text);
        }
    }
    for (name, text) in &more.texts {
        let known = TEXTS
            .iter()
            .find(|(known, ..)| known.as_ref() as &str == name);
        if let Some((_, _, set)) = known {
            set(&mut content, text);
        }
    }
    if let Some(priority) = number(headers, &PRIORITY) {
        content.set_priority(u8::try_from(priority).unwrap_or(u8::MAX));
    }
    if text(headers, &TRANSIENT).is_some() {
        content.set_delivery_mode(DeliveryMode::Transient);
    }
    if let Some(milliseconds) = number(headers, &EXPIRATION_NAME) {
        content.set_expiration(Some(Duration::from_millis(milliseconds)));
    }
    if let Some(seconds) = number(headers, &TIMESTAMP) {
        content.set_timestamp(Timestamp::from_secs(seconds));
    }
    if !more.hidden_keys.is_empty() {
        content.set_hidden_keys(more.hidden_keys);
    }
    if !more.headers.is_empty() {
        *content.headers_mut() = more.headers;
    }
    for (name, values) in headers.iter() {
        let name: &str = name.as_ref();
        if is_free(name)
            && let Some(value) = values.last()
        {
            let text = FieldValue::Text(Name::from(value.as_str()));
            content.headers_mut().insert(Name::from(name), text);
        }
    }
    let id = text(headers, &PUBLISH)
        .or_else(|| text(headers, &ID))
        .and_then(read_publish_id);
    Envelope::new(id.unwrap_or(nobody), content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(content: Content, queue: &str) -> Envelope {
        let id = PublishId {
            producer: 1 << 40,
            sequence: 7,
        };
        let body = content.body().clone();
        let envelope = Envelope::new(id, content);
        let mut headers = headers(&envelope, queue).unwrap();
        set_id(&mut headers, &envelope);
        let read = read(Some(&headers), body, &Name::from(queue));
        assert_eq!(read.publish_id(), id);
        read
    }

    #[test]
    fn a_message_comes_back_as_it_was() {
        for text in ["plain", "", " two \n lines ", "é\u{7f}", "a: b"] {
            let mut content = Content::new(text.into(), text.into(), "body".into());
            for (_, _, set) in &TEXTS {
                set(&mut content, text);
            }
            content.set_priority(3);
            content.set_delivery_mode(DeliveryMode::Transient);
            content.set_expiration(Some(Duration::from_millis(1500)));
            content.set_timestamp(Timestamp::from_secs(12));
            content.set_hidden_keys(vec![text.into()]);
            for name in ["tenant", "two words", "Nats-Rollup", "kombu-more", ""] {
                content
                    .headers_mut()
                    .insert(name, FieldValue::from(Name::from(text)));
            }
            content.headers_mut().insert("number", FieldValue::I64(7));
            let read = back(content.clone(), "jobs");
            assert_eq!(read.exchange(), content.exchange());
            assert_eq!(read.routing_key(), content.routing_key());
            for (_, get, _) in &TEXTS {
                assert_eq!(get(&read), get(&content), "{text:?}");
            }
            assert_eq!(read.priority(), Some(3));
            assert_eq!(read.delivery_mode(), DeliveryMode::Transient);
            assert_eq!(read.expiration(), content.expiration());
            assert_eq!(read.timestamp(), content.timestamp());
            assert_eq!(read.hidden_keys(), content.hidden_keys());
            assert_eq!(read.headers(), content.headers());
            assert_eq!(read.body(), content.body());
        }
    }

    #[test]
    fn what_goes_to_its_queue_by_name_says_nothing_of_it() {
        let content = Content::new("".into(), "jobs".into(), "body".into());
        let id = PublishId {
            producer: 1,
            sequence: 1,
        };
        let headers = headers(&Envelope::new(id, content), "jobs").unwrap();
        assert!(headers.is_empty());
        let read = read(None, "body".into(), &"jobs".into());
        assert_eq!(read.routing_key().as_str(), "jobs");
        assert!(read.exchange().is_empty());
    }
}

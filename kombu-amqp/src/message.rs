//! Messages to AMQP's properties and back.

use std::time::Duration;

use bytes::Bytes;
use kombu_core::declare::DeliveryMode;
use kombu_core::message::{Content, Envelope, PublishId};
use kombu_core::{FieldTable, FieldValue, Name, Result};
use lapin::BasicProperties;
use lapin::types::ShortString;

use crate::fields::{seconds, short, table_from, table_to, timestamp};

/// How often a message failed, on the copies that stand for a retry. Taken off before it is handed out.
const FAILURES: &str = "x-kombu-failures";
/// Where the message of such a copy was published to.
const EXCHANGE: &str = "x-kombu-exchange";
const ROUTING_KEY: &str = "x-kombu-routing-key";
/// The same as quorum queues count it.
const DELIVERY_COUNT: &str = "x-delivery-count";

pub(crate) fn properties(content: &Content) -> Result<BasicProperties> {
    properties_with(content, content.headers())
}

/// The properties of the copy that stands for a retry.
pub(crate) fn properties_of_retry(content: &Content, failures: u32) -> Result<BasicProperties> {
    let mut headers = content.headers().clone();
    headers.insert(
        Name::from_static(FAILURES),
        FieldValue::I64(i64::from(failures)),
    );
    headers.insert(
        Name::from_static(EXCHANGE),
        FieldValue::Text(content.exchange().clone()),
    );
    headers.insert(
        Name::from_static(ROUTING_KEY),
        FieldValue::Text(content.routing_key().clone()),
    );
    properties_with(content, &headers)
}

fn properties_with(content: &Content, headers: &FieldTable) -> Result<BasicProperties> {
    let mode = match content.delivery_mode() {
        DeliveryMode::Persistent => 2,
        DeliveryMode::Transient => 1,
    };
    let mut out = BasicProperties::default().with_delivery_mode(mode);
    if !headers.is_empty() {
        out = out.with_headers(table_to(headers)?);
    }
    if let Some(priority) = content.priority() {
        out = out.with_priority(priority);
    }
    if let Some(expiration) = content.expiration() {
        out = out.with_expiration(short(&expiration.as_millis().to_string())?);
    }
    if let Some(time) = content.timestamp() {
        out = out.with_timestamp(seconds(time));
    }
    type Setter = fn(BasicProperties, ShortString) -> BasicProperties;
    let texts: [(Option<&str>, Setter); 9] = [
        (content.content_type(), BasicProperties::with_content_type),
        (
            content.content_encoding(),
            BasicProperties::with_content_encoding,
        ),
        (
            content.correlation_id(),
            BasicProperties::with_correlation_id,
        ),
        (content.reply_to(), BasicProperties::with_reply_to),
        (content.message_id(), BasicProperties::with_message_id),
        (content.kind(), BasicProperties::with_type),
        (content.user_id(), BasicProperties::with_user_id),
        (content.app_id(), BasicProperties::with_app_id),
        (content.cluster_id(), BasicProperties::with_cluster_id),
    ];
    for (text, set) in texts {
        if let Some(text) = text {
            out = set(out, short(text)?);
        }
    }
    Ok(out)
}

/// What came over the wire, and how often it failed before.
pub(crate) fn received(
    exchange: &str,
    routing_key: &str,
    properties: &BasicProperties,
    body: Vec<u8>,
) -> (Envelope, u32) {
    let mut failures = 0;
    let (mut exchange, mut routing_key) = (Name::from(exchange), Name::from(routing_key));
    let mut received_headers = FieldTable::new();
    if let Some(headers) = properties.headers() {
        let mut headers = table_from(headers);
        if let Some(FieldValue::Text(name)) = headers.remove(EXCHANGE) {
            exchange = name;
        }
        if let Some(FieldValue::Text(key)) = headers.remove(ROUTING_KEY) {
            routing_key = key;
        }
        let count = |value: &FieldValue| value.as_i64().and_then(|count| u32::try_from(count).ok());
        failures = headers.get(DELIVERY_COUNT).and_then(count).unwrap_or(0);
        if let Some(copied) = headers.remove(FAILURES) {
            failures = count(&copied).unwrap_or(0).saturating_add(failures);
        }
        received_headers = headers;
    }
    let mut content = Content::new(exchange, routing_key, Bytes::from(body));
    *content.headers_mut() = received_headers;
    content.set_delivery_mode(match properties.delivery_mode() {
        Some(2) => DeliveryMode::Persistent,
        _ => DeliveryMode::Transient,
    });
    if let Some(priority) = properties.priority() {
        content.set_priority(*priority);
    }
    if let Some(expiration) = properties.expiration() {
        let millis = expiration.as_str().parse().ok();
        content.set_expiration(millis.map(Duration::from_millis));
    }
    if let Some(time) = properties.timestamp() {
        content.set_timestamp(timestamp(*time));
    }
    type Setter = fn(&mut Content, Name);
    let texts: [(&Option<ShortString>, Setter); 9] = [
        (properties.content_type(), |content, text| {
            content.set_content_type(text)
        }),
        (properties.content_encoding(), |content, text| {
            content.set_content_encoding(text)
        }),
        (properties.correlation_id(), |content, text| {
            content.set_correlation_id(text)
        }),
        (properties.reply_to(), |content, text| {
            content.set_reply_to(text)
        }),
        (properties.message_id(), |content, text| {
            content.set_message_id(text)
        }),
        (properties.kind(), |content, text| content.set_kind(text)),
        (properties.user_id(), |content, text| {
            content.set_user_id(text)
        }),
        (properties.app_id(), |content, text| {
            content.set_app_id(text)
        }),
        (properties.cluster_id(), |content, text| {
            content.set_cluster_id(text)
        }),
    ];
    for (text, set) in texts {
        if let Some(text) = text {
            set(&mut content, Name::from(text.as_str()));
        }
    }
    let nobody = PublishId {
        producer: 0,
        sequence: 0,
    };
    (Envelope::new(nobody, content), failures)
}

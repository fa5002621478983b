//! Properties and headers arrive as they were set, and those that weren't set aren't there.

use kombu_core::{ErrorKind, Exchange, FieldTable, FieldValue, Queue, Timestamp};

use super::{from_inbox, to_inbox};
use crate::Broker;
use crate::expect::{assert_refused, drain};

/// RabbitMQ compares the `user_id` with the connection's user.
fn user(broker: &Broker) -> &str {
    let authority = broker.url().split("://").nth(1).unwrap_or_default();
    let user = authority.split_once('@').map(|(user, _)| user);
    user.map_or("guest", |user| user.split(':').next().unwrap_or(user))
}

/// One message with all that AMQP's basic class has, except for an expiration.
pub async fn every_property_arrives(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    producer
        .publish_bytes(&b"body"[..])
        .content_type("application/x-own")
        .content_encoding("x-own")
        .priority(5)
        .timestamp(Timestamp::from_secs(1_700_000_000))
        .correlation_id("c-1")
        .reply_to("answers")
        .message_id("m-1")
        .kind("video.created")
        .user_id(user(broker))
        .app_id("studio")
        .cluster_id("west")
        .await
        .unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.content_type(), Some("application/x-own"));
    assert_eq!(delivery.content_encoding(), Some("x-own"));
    assert_eq!(delivery.priority(), Some(5));
    assert_eq!(
        delivery.timestamp(),
        Some(Timestamp::from_secs(1_700_000_000))
    );
    assert_eq!(delivery.correlation_id(), Some("c-1"));
    assert_eq!(delivery.reply_to(), Some("answers"));
    assert_eq!(delivery.message_id(), Some("m-1"));
    assert_eq!(delivery.kind(), Some("video.created"));
    assert_eq!(delivery.user_id(), Some(user(broker)));
    assert_eq!(delivery.app_id(), Some("studio"));
    assert_eq!(delivery.cluster_id(), Some("west"));
    assert_eq!(delivery.body().as_ref(), b"body");
    delivery.ack().await.unwrap();
}

/// None of them is made up on the way.
pub async fn a_property_that_was_not_set_is_not_there(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    producer.publish_text("bare").await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert!(delivery.headers().is_empty(), "{:?}", delivery.headers());
    assert_eq!(delivery.priority(), None);
    assert_eq!(delivery.expiration(), None);
    assert_eq!(delivery.timestamp(), None);
    for (name, property) in [
        ("correlation_id", delivery.correlation_id()),
        ("reply_to", delivery.reply_to()),
        ("message_id", delivery.message_id()),
        ("kind", delivery.kind()),
        ("user_id", delivery.user_id()),
        ("app_id", delivery.app_id()),
        ("cluster_id", delivery.cluster_id()),
    ] {
        assert_eq!(property, None, "{name}");
    }
    delivery.ack().await.unwrap();
}

/// Where it was published, where it was found, and how often it was handed out.
pub async fn a_delivery_tells_its_exchange_key_and_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    connection
        .declare_queue(&Queue::new("inbox").bind(&media, "video.#"))
        .await
        .unwrap();
    let producer = connection.producer(&media).await.unwrap();
    producer
        .publish_text("new")
        .routing_key("video.new")
        .await
        .unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.exchange(), "media");
    assert_eq!(delivery.routing_key(), "video.new");
    assert_eq!(delivery.queue(), "inbox");
    assert!(!delivery.redelivered());
    assert_eq!(delivery.attempt(), 1);
    delivery.ack().await.unwrap();
}

/// A message through the default exchange says so.
pub async fn the_default_exchange_has_the_empty_name(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    producer.publish_text("new").await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(
        (
            delivery.exchange().as_str(),
            delivery.routing_key().as_str()
        ),
        ("", "inbox")
    );
    delivery.ack().await.unwrap();
}

/// A value of every type that headers have, at the ends of its range where it has some.
fn every_type() -> Vec<(&'static str, FieldValue)> {
    vec![
        ("void", FieldValue::Void),
        ("true", FieldValue::Bool(true)),
        ("false", FieldValue::Bool(false)),
        ("i8", FieldValue::I8(i8::MIN)),
        ("u8", FieldValue::U8(u8::MAX)),
        ("i16", FieldValue::I16(i16::MIN)),
        ("u16", FieldValue::U16(u16::MAX)),
        ("i32", FieldValue::I32(i32::MIN)),
        ("u32", FieldValue::U32(u32::MAX)),
        ("i64", FieldValue::I64(i64::MIN)),
        ("i64 max", FieldValue::I64(i64::MAX)),
        ("f32", FieldValue::F32(0.1)),
        ("f64", FieldValue::F64(0.1)),
        ("f64 small", FieldValue::F64(5e-324)),
        (
            "decimal",
            FieldValue::Decimal {
                scale: 2,
                value: 31_415,
            },
        ),
        ("text", FieldValue::from("žluťoučký kůň")),
        ("text empty", FieldValue::from("")),
        ("text long", FieldValue::from("x".repeat(10_000))),
        ("bytes", FieldValue::from((0..=255).collect::<Vec<u8>>())),
        (
            "timestamp",
            FieldValue::Timestamp(Timestamp::from_secs(1_700_000_000)),
        ),
        ("array empty", FieldValue::Array(Vec::new())),
        ("table empty", FieldValue::Table(FieldTable::new())),
    ]
}

/// Each alone, with its type.
pub async fn headers_of_every_type_arrive(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let sent: FieldTable = every_type().into_iter().collect();
    let mut publish = producer.publish_text("headers");
    for (name, value) in &sent {
        publish = publish.header(name, value);
    }
    publish.await.unwrap();
    let delivery = from_inbox(&connection).await;
    for (name, value) in &sent {
        assert_eq!(delivery.headers().get(name), Some(value), "{name}");
    }
    assert_eq!(delivery.headers().len(), sent.len());
    delivery.ack().await.unwrap();
}

/// Arrays in tables in arrays, of every type.
pub async fn nested_headers_arrive(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let values = every_type().into_iter().map(|(_, value)| value).collect();
    let inner = FieldTable::from([
        ("values", FieldValue::Array(values)),
        (
            "table",
            FieldValue::Table(every_type().into_iter().collect()),
        ),
    ]);
    let nested = FieldValue::Array(vec![FieldValue::Table(inner), FieldValue::Void]);
    producer
        .publish_text("nested")
        .header("nested", &nested)
        .await
        .unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.headers().get("nested"), Some(&nested));
    delivery.ack().await.unwrap();
}

/// What no header can carry is refused before anything is sent.
pub async fn a_header_that_does_not_fit_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let number = producer
        .publish_text("number")
        .header("number", u64::MAX)
        .await;
    assert_refused(number, ErrorKind::Encode, None);
    let name = producer
        .publish_text("name")
        .header("n".repeat(256), 1)
        .await;
    assert_refused(name, ErrorKind::InvalidName, None);
    let mut deep = FieldValue::Void;
    for _ in 0..65 {
        deep = FieldValue::Array(vec![deep]);
    }
    let nested = producer.publish_text("deep").header("deep", deep).await;
    assert_refused(nested, ErrorKind::Encode, None);
    assert_eq!(drain(&connection, "inbox").await.len(), 0);
}

//! Bodies arrive byte for byte.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{from_inbox, to_inbox};
use crate::Broker;

/// Publishes bytes, and gets the same ones.
async fn assert_survives(broker: &Broker, body: Bytes) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    producer.publish_bytes(body.clone()).await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert!(
        *delivery.body() == body,
        "{} bytes came",
        delivery.body().len()
    );
    assert_eq!(delivery.content_type(), Some("application/data"));
    assert_eq!(delivery.content_encoding(), Some("binary"));
    delivery.ack().await.unwrap();
}

/// Zero, line ends, bytes that are no text.
pub async fn all_256_byte_values_survive(broker: &Broker) {
    assert_survives(broker, (0..=255).collect()).await;
}

/// It is a message all the same.
pub async fn an_empty_body_is_a_message(broker: &Broker) {
    assert_survives(broker, Bytes::new()).await;
}

/// Longer than one frame of any protocol.
pub async fn a_body_of_one_mebibyte_survives(broker: &Broker) {
    let body = (0..1024 * 1024).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8);
    assert_survives(broker, body.collect()).await;
}

/// The same body, sent as text, is marked as text.
pub async fn text_is_sent_as_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let text = "plain \"text\", žluťoučký kůň 🐎\n";
    producer.publish_text(text).await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.body(), text);
    assert_eq!(delivery.content_type(), Some("text/plain"));
    assert_eq!(delivery.content_encoding(), Some("utf-8"));
    assert_eq!(delivery.decode::<&str>().unwrap(), text);
    delivery.ack().await.unwrap();
}

/// Nothing said: JSON in UTF-8, marked as such.
pub async fn values_are_json_unless_something_else_is_said(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let video = BTreeMap::from([("name", "kůň.avi"), ("size", "1301013")]);
    producer.publish(&video).await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.body(), r#"{"name":"kůň.avi","size":"1301013"}"#);
    assert_eq!(delivery.content_type(), Some("application/json"));
    assert_eq!(delivery.content_encoding(), Some("utf-8"));
    assert_eq!(delivery.decode::<BTreeMap<&str, &str>>().unwrap(), video);
    delivery.ack().await.unwrap();
}

/// An image, for example: type, encoding and bytes come through.
pub async fn bytes_may_have_a_content_type_and_an_encoding_of_their_own(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let publish = producer.publish_bytes(&b"\xff\xd8\xff\xe0"[..]);
    publish
        .content_type("image/jpeg")
        .content_encoding("binary")
        .await
        .unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.body().as_ref(), b"\xff\xd8\xff\xe0");
    assert_eq!(delivery.content_type(), Some("image/jpeg"));
    assert_eq!(delivery.content_encoding(), Some("binary"));
    delivery.ack().await.unwrap();
}

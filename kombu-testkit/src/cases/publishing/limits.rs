//! How large a message may be.

use kombu_core::ErrorKind;

use super::to_inbox;
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// At the limit it goes through; one byte more is refused, and nothing of it is stored.
pub async fn a_body_over_the_limit_is_refused(broker: &Broker) {
    let connection = broker.connection().max_message_size(1_000).await.unwrap();
    let producer = to_inbox(&connection).await;
    let fits = "x".repeat(1_000);
    producer.publish_text(&fits).await.unwrap();
    let error = assert_refused(
        producer.publish_text("x".repeat(1_001)).await,
        ErrorKind::TooLarge,
        311,
    );
    let text = error.to_string();
    assert!(text.contains("1001") && text.contains("1000"), "{text}");
    assert_eq!(texts(&drain(&connection, "inbox").await), [fits]);
}

/// The limit is on what is sent: the encoded value.
pub async fn the_limit_counts_the_encoded_body(broker: &Broker) {
    let connection = broker.connection().max_message_size(4).await.unwrap();
    let producer = to_inbox(&connection).await;
    producer.publish("ab").await.unwrap();
    let published = producer.publish("abc").await;
    assert_refused(published, ErrorKind::TooLarge, 311);
    producer.publish_text("abcd").await.unwrap();
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["\"ab\"", "abcd"]
    );
}

/// The broker's own limit can't be raised from here.
pub async fn the_brokers_limit_holds_where_it_is_smaller(broker: &Broker) {
    let connection = broker
        .connection()
        .max_message_size(usize::MAX)
        .await
        .unwrap();
    let limit = connection.capabilities().max_message_size();
    let producer = to_inbox(&connection).await;
    let published = producer.publish_bytes(vec![0; limit + 1]).await;
    assert_refused(published, ErrorKind::TooLarge, 311);
    assert_eq!(drain(&connection, "inbox").await.len(), 0);
}

//! A topic exchange matches patterns of words between dots, in RabbitMQ's reading of the empty key and of empty
//! words: `""` has no word, `.` has two empty ones, and `*` takes an empty word too.

use kombu_core::{Exchange, Queue};

use super::bodies;
use crate::Broker;

/// Keys in which the readings of a pattern differ.
const KEYS: [&str; 8] = ["", "a", "a.b", ".", "a.", ".a", "a..b", "a.x.y.b"];

/// Publishes one message for each of [`KEYS`]: those of `matched` arrive, in order, and no other does.
async fn assert_matches(broker: &Broker, pattern: &str, matched: &[&str]) {
    let connection = broker.connect().await;
    let keys = Exchange::topic("keys");
    connection
        .declare_queue(&Queue::new("matched").bind(&keys, pattern))
        .await
        .unwrap();
    let producer = connection.producer(&keys).await.unwrap();
    for key in KEYS {
        let published = producer.publish_text(key).routing_key(key).await.unwrap();
        assert_eq!(
            published.routed,
            matched.contains(&key),
            "`{pattern}` and `{key}`"
        );
    }
    assert_eq!(bodies(&connection, "matched").await, matched, "`{pattern}`");
}

/// `#`
pub async fn hash_matches_every_key(broker: &Broker) {
    assert_matches(broker, "#", &KEYS).await;
}

/// `*`
pub async fn star_matches_exactly_one_word(broker: &Broker) {
    assert_matches(broker, "*", &["a"]).await;
}

//! How messages come to consumers, and what becomes of those that were fetched when a consumer goes.

use kombu_core::{Connection, Exchange};

use crate::expect::info;

pub mod dropping;
pub mod ending;
pub mod getting;
pub mod no_ack;
pub mod receiving;
pub mod several_queues;
pub mod sharing;
pub mod windows;

/// Publishes texts to a queue that is there.
async fn publish<T: Into<String>>(
    connection: &Connection,
    queue: &str,
    texts: impl IntoIterator<Item = T>,
) {
    let producer = connection
        .producer(Exchange::default())
        .routing_key(queue)
        .await
        .unwrap();
    for text in texts {
        producer.publish_text(text).await.unwrap();
    }
}

/// The numbers as texts.
fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

/// How many consumers a queue has.
async fn consumers(connection: &Connection, queue: &str) -> u64 {
    info(connection, queue).await.consumers
}

//! The four ways to settle a delivery, and where the message is afterwards.

use kombu_core::{Connection, Exchange};

pub mod acking;
pub mod dead_letters;
pub mod rejecting;
pub mod releasing;
pub mod retrying;

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

//! What is over is over: for the program, which is told, and for the messages, which go back.

use kombu_core::{Connection, Exchange};

pub mod connections;
pub mod deliveries;
pub mod producers;

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

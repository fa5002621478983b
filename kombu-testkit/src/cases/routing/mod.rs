//! Which queues a message reaches, by the kind of its exchange and the bindings.

use kombu_core::{Connection, Producer, Published};

use crate::expect::{drain, texts};

pub mod alternate;
pub mod bindings;
pub mod copies;
pub mod default_exchange;
pub mod direct;
pub mod exchange_to_exchange;
pub mod fanout;
pub mod headers;
pub mod topic;

/// The bodies that a queue has, in order; they are taken out.
async fn bodies(connection: &Connection, queue: &str) -> Vec<String> {
    texts(&drain(connection, queue).await)
}

/// Publishes a message whose body is its routing key. Reaching nobody isn't an error here.
async fn publish_key(producer: &Producer, key: &str) -> Published {
    let publish = producer.publish_text(key).routing_key(key);
    publish.allow_unroutable().await.unwrap()
}

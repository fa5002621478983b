//! What every transport does: each function is one behaviour, and a test on every transport.
//!
//! A case gets a broker of its own, opens the connections that it needs, and panics if the broker behaves
//! otherwise. To add one, write a `pub async fn` that takes a `&Broker`; the build finds it.

use kombu_core::{Connection, ErrorKind, Exchange, Queue};

use crate::Broker;
use crate::expect::assert_refused;

pub mod capabilities;
pub mod closing;
pub mod concurrency;
pub mod consuming;
pub mod declaring;
pub mod ordering;
pub mod publishing;
pub mod routing;
pub mod serializing;
pub mod settling;

pub(crate) mod table {
    include!(concat!(env!("OUT_DIR"), "/table.rs"));
}

/// What is on one broker isn't on the other.
pub(crate) async fn share_nothing(one: &Broker, other: &Broker) {
    let (here, there) = (one.connect().await, other.connect().await);
    here.declare_queue(&Queue::new("apart")).await.unwrap();
    let nowhere = there.queue_info("apart").await;
    assert_refused(nowhere, ErrorKind::NotFound, 404);
}

/// Publishes texts to a queue that is there.
async fn publish<T: Into<String>>(
    connection: &Connection,
    queue: &str,
    texts: impl IntoIterator<Item = T>,
) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue).await.unwrap();
    for text in texts {
        producer.publish_text(text).await.unwrap();
    }
}

//! What a publish sends, and what the broker answers.

use kombu_core::{Connection, Delivery, Exchange, Producer, Queue};

pub mod answers;
pub mod batches;
pub mod bodies;
pub mod destinations;
pub mod forwarding;
pub mod limits;
pub mod overrides;
pub mod properties;
pub mod receipts;
pub mod trace_contexts;

/// A producer that reaches the queue `inbox` when nothing else is said.
async fn to_inbox(connection: &Connection) -> Producer {
    connection
        .declare_queue(&Queue::new("inbox"))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default());
    producer.routing_key("inbox").await.unwrap()
}

/// The next message of the queue `inbox`, which has to have one.
async fn from_inbox(connection: &Connection) -> Delivery {
    connection.get("inbox").await.unwrap().unwrap()
}

//! How bodies become values, and what becomes of those that don't.

use kombu_core::{Connection, Exchange, Producer, Queue};

pub mod accepting;
pub mod choosing;
pub mod compression;
pub mod undecodable;

/// A producer for a queue, which is declared.
async fn producer_to(connection: &Connection, queue: &Queue) -> Producer {
    connection.declare_queue(queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue.name()).await.unwrap()
}

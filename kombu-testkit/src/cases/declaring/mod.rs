//! Exchanges, queues and bindings: made, compared, verified, purged and deleted.

use kombu_core::{Connection, Exchange, Queue};

use crate::expect::drain;

pub mod bindings;
pub mod deleting;
pub mod exchanges;
pub mod files;
pub mod missing;
pub mod purging;
pub mod queues;
pub mod reserved_names;
pub mod verifying;

/// A round trip through a queue of its own: the connection goes on working after what it refused.
async fn assert_works(connection: &Connection) {
    let queue = Queue::server_named();
    let name = connection.declare_queue(&queue).await.unwrap().name;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("still here")
        .routing_key(&name)
        .await
        .unwrap();
    assert_eq!(drain(connection, &name).await.len(), 1);
    connection.delete_queue(&name).await.unwrap();
}

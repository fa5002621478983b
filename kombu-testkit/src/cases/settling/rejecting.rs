//! A rejected message of a queue without a dead-letter exchange is discarded.

use kombu_core::Queue;

use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect_one, drain};

/// It doesn't come again, here or elsewhere.
pub async fn a_rejected_message_is_discarded(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["bad", "good"]).await;
    collect_one(&mut consumer).await.reject().await.unwrap();
    let next = collect_one(&mut consumer).await;
    assert_eq!(next.body(), "good");
    next.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    connection.close().await.unwrap();
    let other = broker.connect().await;
    assert_eq!(drain(&other, "jobs").await.len(), 0);
}

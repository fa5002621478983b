//! Which message is served first.

use kombu_core::driver::Feature;
use kombu_core::{Connection, Exchange, Queue};

use super::has_queue;
use crate::Broker;
use crate::expect::{drain, texts};

/// Publishes a message for each priority, with the priority as its first letter.
async fn publish(connection: &Connection, messages: &[&str]) {
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for message in messages {
        let priority = message.as_bytes()[0] - b'0';
        producer
            .publish_text(*message)
            .priority(priority)
            .await
            .unwrap();
    }
}

/// The highest first; among equals, the oldest. Far apart, since some brokers keep neighbours together.
pub async fn higher_priorities_are_served_first(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    publish(&connection, &["0 a", "9 a", "0 b", "4 a", "9 b", "4 b"]).await;
    let expected = ["9 a", "9 b", "4 a", "4 b", "0 a", "0 b"];
    assert_eq!(texts(&drain(&connection, "jobs").await), expected);
}

/// A queue that wasn't told to look at priorities doesn't, and they arrive as properties.
pub async fn a_queue_without_priorities_keeps_its_order(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, &["0", "9", "4"]).await;
    let messages = drain(&connection, "jobs").await;
    assert_eq!(texts(&messages), ["0", "9", "4"]);
    let priorities: Vec<_> = messages.iter().map(|message| message.priority()).collect();
    assert_eq!(priorities, [Some(0), Some(9), Some(4)]);
}

//! How many messages a queue keeps.

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, Exchange, Overflow, Queue};

use super::has_queue;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, drain, texts};

/// The oldest ones make room.
pub async fn a_full_queue_drops_its_head(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(3);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1", "2", "3", "4"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["2", "3", "4"]);
}

/// If it is told to, it refuses the newest ones, and their publisher learns it.
pub async fn a_full_queue_refuses_what_comes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .max_length(2)
        .overflow(Overflow::RejectPublish);
    let feature = match connection.capabilities().has(Feature::MaxLength) {
        true => Feature::RejectPublish,
        false => Feature::MaxLength,
    };
    if !has_queue(&connection, feature, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let error = assert_refused(producer.publish_text("2").await, ErrorKind::Nacked, None);
    assert!(error.is_transient());
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0", "1"]);
    producer.publish_text("3").await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["3"]);
}

/// Bodies count, not messages.
pub async fn a_queue_can_be_limited_by_bytes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length_bytes(10);
    if !has_queue(&connection, Feature::MaxLengthBytes, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["aaaa", "bbbb", "cccc"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["bbbb", "cccc"]);
}

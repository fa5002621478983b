//! Which message is served first.

use kombu_core::driver::Feature;
use kombu_core::{Connection, Queue};

use super::has_queue;
use crate::Broker;
use crate::cases::producer_to;
use crate::expect::{collect, collect_one, drain, texts};

/// Publishes a message for each priority, with the priority as its first letter.
async fn publish(connection: &Connection, messages: &[&str]) {
    let producer = producer_to(connection, "jobs").await;
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

/// The same order as for single gets, one by one.
pub async fn a_consumer_is_served_by_priority(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    publish(&connection, &["0 a", "9 a", "0 b", "4 a", "9 b"]).await;
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    for expected in ["9 a", "9 b", "4 a", "0 a", "0 b"] {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), expected);
        delivery.ack().await.unwrap();
    }
}

/// A window of many gets them in that order too.
pub async fn a_large_window_is_filled_by_priority(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    publish(&connection, &["0 a", "9 a", "0 b", "4 a", "9 b"]).await;
    let mut consumer = connection.consumer(&jobs).prefetch(4).await.unwrap();
    let held = collect(&mut consumer, 4).await;
    assert_eq!(texts(&held), ["9 a", "9 b", "4 a", "0 a"]);
    broker.assert_counts(&connection, "jobs", 1, 4).await;
}

/// What comes later and matters more is served next.
pub async fn a_higher_priority_overtakes_what_waits(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&connection, &["0 a", "0 b"]).await;
    let first = collect_one(&mut consumer).await;
    assert_eq!(first.body(), "0 a");
    publish(&connection, &["9"]).await;
    first.ack().await.unwrap();
    let next = collect_one(&mut consumer).await;
    assert_eq!(next.body(), "9");
    next.ack().await.unwrap();
}

/// The lowest.
pub async fn a_message_without_a_priority_has_priority_zero(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    publish(&connection, &["0 a"]).await;
    producer.publish_text("none").await.unwrap();
    publish(&connection, &["0 b", "9"]).await;
    let messages = drain(&connection, "jobs").await;
    assert_eq!(texts(&messages), ["9", "0 a", "none", "0 b"]);
    assert_eq!(messages[2].priority(), None);
}

/// It stands with the highest of this queue, and says still what it asked for.
pub async fn a_priority_above_the_highest_counts_as_the_highest(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(5);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    for (text, priority) in [("0", 0), ("5", 5), ("200", 200), ("5 again", 5)] {
        let publish = producer.publish_text(text).priority(priority);
        publish.await.unwrap();
    }
    let messages = drain(&connection, "jobs").await;
    assert_eq!(texts(&messages), ["5", "200", "5 again", "0"]);
    assert_eq!(messages[1].priority(), Some(200));
}

/// Among those of its own priority; others still come before or after it.
pub async fn a_released_message_keeps_its_place_within_its_priority(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    publish(&connection, &["9 a", "9 b", "0 a", "0 b"]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connection.get("jobs").await.unwrap().unwrap());
    }
    assert_eq!(texts(&held), ["9 a", "9 b", "0 a"]);
    publish(&connection, &["9 c", "0 c"]).await;
    // The latest first: each goes to where it was.
    while let Some(delivery) = held.pop() {
        delivery.release().confirmed().await.unwrap();
    }
    let messages = texts(&drain(&connection, "jobs").await);
    assert_eq!(messages, ["9 a", "9 b", "9 c", "0 a", "0 b", "0 c"]);
}

/// It is counted, and no less important.
pub async fn a_retried_message_keeps_its_priority(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    publish(&connection, &["9", "0"]).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    first.retry().confirmed().await.unwrap();
    let again = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!((again.body().as_ref(), again.attempt()), (&b"9"[..], 2));
    again.ack().await.unwrap();
}

/// All of them, whatever their priority.
pub async fn a_purge_takes_every_priority(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await {
        return;
    }
    publish(&connection, &["0", "4", "9"]).await;
    broker.assert_counts(&connection, "jobs", 3, 0).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 3);
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

//! What a queue tells about itself in every state that its messages can be in.

use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, Queue};

use super::has_queue;
use crate::Broker;
use crate::cases::{publish, reject};
use crate::expect::{assert_refused, collect, collect_one, info};

async fn consumers(connection: &Connection, queue: &str) -> u64 {
    info(connection, queue).await.consumers
}

/// Ready, then unsettled, then gone.
pub async fn a_message_is_ready_then_unsettled_then_gone(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let declared = connection.declare_queue(&jobs).await.unwrap();
    assert_eq!((declared.name.as_str(), declared.ready), ("jobs", 0));
    assert_eq!(declared.consumers, 0);
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    broker.assert_counts(&connection, "jobs", 3, 0).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    broker.assert_counts(&connection, "jobs", 2, 1).await;
    first.ack().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 2, 0).await;
    let second = connection.get("jobs").await.unwrap().unwrap();
    second.release().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 2, 0).await;
    let second = connection.get("jobs").await.unwrap().unwrap();
    second.retry().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 2, 0).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
}

/// Over all consumers and single gets, of whichever connection.
pub async fn what_everybody_has_is_counted_together(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", ["0", "1", "2", "3"]).await;
    let mut here = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let mut there = other.consumer(&jobs).prefetch(1).await.unwrap();
    let held = (
        collect_one(&mut here).await,
        collect_one(&mut there).await,
        other.get("jobs").await.unwrap().unwrap(),
    );
    for connection in [&connection, &other] {
        broker.assert_counts(connection, "jobs", 1, 3).await;
        assert_eq!(consumers(connection, "jobs").await, 2);
    }
    other.close().await.unwrap();
    broker.assert_counts(&connection, "jobs", 3, 1).await;
    assert_eq!(consumers(&connection, "jobs").await, 1);
    drop(held);
}

/// Its deliveries stay with whoever has them.
pub async fn a_cancelled_consumer_is_not_counted_and_its_deliveries_are(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(2).await.unwrap();
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    let held = collect(&mut consumer, 2).await;
    consumer.cancel().await.unwrap();
    broker.assert_counts(&connection, "jobs", 1, 2).await;
    assert_eq!(consumers(&connection, "jobs").await, 0);
    for delivery in held {
        delivery.ack().confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 1, 0).await;
}

/// In its new queue, and no longer in the old one.
pub async fn a_dead_letter_is_counted_where_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    broker.assert_counts(&connection, "dead", 0, 0).await;
    delivery.reject().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
}

/// One consumer, one of each queue that it has.
pub async fn a_consumer_of_several_queues_counts_in_each(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let consumer = connection.consumer(&queues).await.unwrap();
    let more = connection.consumer(&queues[0]).await.unwrap();
    assert_eq!(consumers(&connection, "left").await, 2);
    assert_eq!(consumers(&connection, "right").await, 1);
    more.cancel().await.unwrap();
    consumer.cancel().await.unwrap();
    for queue in ["left", "right"] {
        while consumers(&connection, queue).await > 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// The window that it took a place in has that place again, and the other queue goes on.
pub async fn a_delivery_of_a_deleted_queue_frees_its_place(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(1).await.unwrap();
    publish(&connection, "left", ["left"]).await;
    let left = collect_one(&mut consumer).await;
    publish(&connection, "right", ["right"]).await;
    connection.delete_queue("left").await.unwrap();
    broker.assert_silent(&mut consumer).await;
    // Whether the message could still be acked is left open.
    drop(left.ack().await);
    let right = collect_one(&mut consumer).await;
    assert_eq!(right.body(), "right");
    right.ack().await.unwrap();
}

/// What was released to a queue that is gone doesn't turn up in its successor.
pub async fn a_release_does_not_reach_another_queue_of_that_name(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", ["old", "old too"]).await;
    let released = connection.get("jobs").await.unwrap().unwrap();
    let retried = connection.get("jobs").await.unwrap().unwrap();
    connection.delete_queue("jobs").await.unwrap();
    connection.declare_queue(&jobs).await.unwrap();
    drop(released.release().confirmed().await);
    drop(retried.retry().confirmed().await);
    publish(&connection, "jobs", ["new"]).await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(delivery.body(), "new");
    delivery.ack().await.unwrap();
}

/// While it waits for others, a consumer that loses all of its queues at once is told so.
pub async fn a_consumer_ends_when_the_last_of_its_queues_goes(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    let waiting = tokio::spawn(async move { consumer.next().await.unwrap() });
    tokio::task::yield_now().await;
    for queue in ["right", "left"] {
        connection.delete_queue(queue).await.unwrap();
    }
    let ended = waiting.await.unwrap();
    assert_refused(ended, ErrorKind::ConsumerCancelled, None);
}

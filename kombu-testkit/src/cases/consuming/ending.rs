//! A consumer ends because the program says so, or because its queue is gone.

use std::time::Duration;

use kombu_core::{ErrorKind, Queue};

use super::{consumers, numbers};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, drain, texts};

/// The queue stays as it is, for others to consume from.
pub async fn a_cancelled_consumer_receives_nothing_more(broker: &Broker) {
    let connection = broker.connect().await;
    let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    consumer.cancel().await.unwrap();
    publish(&connection, "jobs", ["left"]).await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    assert_eq!(consumers(&connection, "jobs").await, 0);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["left"]);
}

/// What was fetched and not received is back, in order; what was received stays with its holder.
pub async fn cancelling_gives_back_what_was_not_received(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(10)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..10)).await;
    let held = collect(&mut consumer, 2).await;
    consumer.cancel().await.unwrap();
    broker.assert_counts(&connection, "jobs", 8, 2).await;
    for delivery in held {
        delivery.ack().confirmed().await.unwrap();
    }
    assert!(
        texts(&drain(&connection, "jobs").await)
            .into_iter()
            .eq(numbers(2..10))
    );
}

/// Deliveries outlive their consumer.
pub async fn deliveries_are_settled_after_their_consumer_was_cancelled(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["done", "again"]).await;
    let [done, again] = collect(&mut consumer, 2).await.try_into().unwrap();
    consumer.cancel().await.unwrap();
    done.ack().await.unwrap();
    again.release().await.unwrap();
    let mut next = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let delivery = collect_one(&mut next).await;
    assert_eq!(delivery.body(), "again");
    assert!(delivery.redelivered());
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// The error names the queue; after it, there is nothing more.
pub async fn deleting_the_queue_cancels_its_consumer(broker: &Broker) {
    let (receiving, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = receiving.consumer(&Queue::new("jobs")).await.unwrap();
    let (ended, deleted) = tokio::join!(biased; consumer.next(), async {
        other.delete_queue("jobs").await
    });
    deleted.unwrap();
    let error = assert_refused(ended.unwrap(), ErrorKind::ConsumerCancelled, None);
    assert!(error.to_string().contains("`jobs`"), "{error}");
    assert!(consumer.next().await.is_none());
    let nothing = consumer.receive(Duration::ZERO).await;
    assert_refused(nothing, ErrorKind::Closed, None);
    receiving.declare_queue(&Queue::new("jobs")).await.unwrap();
    assert_eq!(consumers(&other, "jobs").await, 0);
}

/// A consumer that waits for room learns it as well.
pub async fn a_full_window_does_not_hide_that_the_queue_is_gone(broker: &Broker) {
    let (receiving, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = receiving
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&other, "jobs", ["held", "dropped"]).await;
    let held = collect_one(&mut consumer).await;
    let (ended, deleted) = tokio::join!(biased; consumer.next(), async {
        other.delete_queue("jobs").await
    });
    deleted.unwrap();
    assert_refused(ended.unwrap(), ErrorKind::ConsumerCancelled, None);
    held.ack().await.unwrap();
}

/// Each of them is told.
pub async fn deleting_the_queue_cancels_all_of_its_consumers(broker: &Broker) {
    let connection = broker.connect().await;
    let mut first = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut second = broker
        .connect()
        .await
        .consumer(&Queue::new("jobs"))
        .await
        .unwrap();
    connection.delete_queue("jobs").await.unwrap();
    for consumer in [&mut first, &mut second] {
        let ended = consumer.next().await.unwrap();
        assert_refused(ended, ErrorKind::ConsumerCancelled, None);
    }
}

/// The queue of the same name is another one: it has to be consumed from anew.
pub async fn a_cancelled_consumer_does_not_come_back_with_its_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    connection.delete_queue("jobs").await.unwrap();
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", ["new"]).await;
    let ended = consumer.next().await.unwrap();
    assert_refused(ended, ErrorKind::ConsumerCancelled, None);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["new"]);
}

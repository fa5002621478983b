//! Whatever is asked of something that isn't there fails by itself, and the connection goes on working.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::assert_refused;

/// Nothing to purge.
pub async fn purging_a_missing_queue_fails(broker: &Broker) {
    let connection = broker.connect().await;
    let error = assert_refused(connection.purge("jobs").await, ErrorKind::NotFound, 404);
    assert_eq!(error.operation(), Some("purge"));
    assert_works(&connection).await;
}

/// Nothing to count.
pub async fn counting_a_missing_queue_fails(broker: &Broker) {
    let connection = broker.connect().await;
    let info = connection.queue_info("jobs").await;
    let error = assert_refused(info, ErrorKind::NotFound, 404);
    assert_eq!(error.operation(), Some("queue info"));
    assert_works(&connection).await;
}

/// Nothing to take from.
pub async fn getting_from_a_missing_queue_fails(broker: &Broker) {
    let connection = broker.connect().await;
    let error = assert_refused(connection.get("jobs").await, ErrorKind::NotFound, 404);
    assert_eq!(error.operation(), Some("get"));
    assert_works(&connection).await;
}

/// Only that publish fails.
pub async fn publishing_to_a_missing_exchange_fails(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let nowhere = Exchange::topic("nowhere");
    let published = producer.publish_text("lost").exchange(&nowhere).await;
    let error = assert_refused(published, ErrorKind::NotFound, 404);
    assert_eq!(error.operation(), Some("publish"));
    assert!(error.to_string().contains("`nowhere`"), "{error}");
    assert!(!error.may_have_been_stored());
    assert!(
        producer
            .publish_text("kept")
            .routing_key("jobs")
            .await
            .unwrap()
            .routed
    );
    assert_works(&connection).await;
}

/// Failing often uses nothing up.
pub async fn three_hundred_failures_in_a_row_leave_the_connection_working(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let nowhere = Exchange::topic("nowhere");
    for _ in 0..75 {
        let published = producer.publish_text("lost").exchange(&nowhere).await;
        assert_refused(published, ErrorKind::NotFound, 404);
        assert_refused(connection.get("jobs").await, ErrorKind::NotFound, 404);
        assert_refused(connection.purge("jobs").await, ErrorKind::NotFound, 404);
        let consumer = connection.consumer(&Queue::new("jobs").passive()).await;
        assert_refused(consumer, ErrorKind::NotFound, 404);
    }
    assert_works(&connection).await;
}

/// A consumer that is running, and deliveries that it holds, aren't touched by what fails beside them.
pub async fn failures_do_not_disturb_a_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    producer.publish_text("one").await.unwrap();
    let held = crate::expect::collect_one(&mut consumer).await;
    assert_refused(connection.get("nowhere").await, ErrorKind::NotFound, 404);
    let published = producer
        .publish_text("lost")
        .exchange(&Exchange::topic("nowhere"))
        .await;
    assert_refused(published, ErrorKind::NotFound, 404);
    producer.publish_text("two").await.unwrap();
    let next = crate::expect::collect_one(&mut consumer).await;
    assert_eq!(next.body(), "two");
    held.ack().await.unwrap();
    next.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

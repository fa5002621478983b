//! Whatever is dropped gives back what it holds, and never acks.

use std::time::Duration;

use kombu_core::Queue;

use super::{consumers, numbers};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect, collect_one, drain, texts};

/// It comes again, to its place, marked, and not counted as a failure.
pub async fn a_delivery_that_is_dropped_is_released(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["first", "second"]).await;
    drop(collect_one(&mut consumer).await);
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.body(), "first");
    assert!(again.redelivered());
    assert_eq!(again.attempt(), 1);
    again.ack().await.unwrap();
    let second = collect_one(&mut consumer).await;
    assert_eq!(second.body(), "second");
    assert!(!second.redelivered());
    second.ack().await.unwrap();
}

/// So is one whose message was kept.
pub async fn an_acker_that_is_dropped_releases(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["work"]).await;
    let (message, acker) = collect_one(&mut consumer).await.split();
    drop(acker);
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.body(), message.body());
    assert!(again.redelivered());
    again.ack().await.unwrap();
}

/// Dropping the message alone settles nothing.
pub async fn a_message_that_is_dropped_leaves_the_duty_to_settle(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["first", "second"]).await;
    let (message, acker) = collect_one(&mut consumer).await.split();
    drop(message);
    broker.assert_silent(&mut consumer).await;
    acker.ack().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "second");
}

/// To where it was, in order.
pub async fn a_consumer_that_is_dropped_gives_back_what_was_not_received(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(10)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..20)).await;
    let held = collect(&mut consumer, 3).await;
    drop(consumer);
    broker.assert_counts(&connection, "jobs", 17, 3).await;
    assert_eq!(consumers(&connection, "jobs").await, 0);
    drop(held);
    let mut next = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let again = collect(&mut next, 20).await;
    assert!(texts(&again).into_iter().eq(numbers(0..20)));
}

/// Deliveries outlive their consumer, and its connection's handle.
pub async fn deliveries_are_settled_after_their_consumer_was_dropped(broker: &Broker) {
    let connection = broker.connect().await;
    let other = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["ack", "reject", "release", "retry"]).await;
    let [ack, reject, release, retry] = collect(&mut consumer, 4).await.try_into().unwrap();
    drop(consumer);
    drop(connection);
    ack.ack().await.unwrap();
    reject.reject().await.unwrap();
    release.release().await.unwrap();
    retry.retry().await.unwrap();
    let mut next = other.consumer(&Queue::new("jobs")).await.unwrap();
    let mut again = texts(&collect(&mut next, 2).await);
    again.sort();
    assert_eq!(again, ["release", "retry"]);
}

/// Producers, consumers and deliveries keep the connection open.
pub async fn a_connection_stays_open_for_what_uses_it(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(kombu_core::Exchange::default())
        .await
        .unwrap();
    drop(connection);
    producer
        .publish_text("work")
        .routing_key("jobs")
        .await
        .unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "work");
    drop((producer, consumer));
    delivery.ack().await.unwrap();
    let other = broker.connect().await;
    broker.assert_counts(&other, "jobs", 0, 0).await;
}

/// Not at once, as fast as it can: it is held for a moment, and the window with it.
pub async fn a_redelivery_that_is_dropped_comes_back_later(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection.consumer(&Queue::new("jobs")).prefetch(1);
    let mut consumer = open.await.unwrap();
    publish(&connection, "jobs", ["poison", "next"]).await;
    drop(collect_one(&mut consumer).await);
    let again = collect_one(&mut consumer).await;
    assert!(again.redelivered());
    drop(again);
    broker.assert_counts(&connection, "jobs", 1, 1).await;
    assert!(consumer.receive(Duration::ZERO).await.unwrap().is_none());
    let again = collect_one(&mut consumer).await;
    assert_eq!(
        (again.body().as_ref(), again.attempt()),
        (&b"poison"[..], 1)
    );
    again.ack().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "next");
}

/// Whether its consumer receives meanwhile or not.
pub async fn a_redelivery_that_is_dropped_comes_to_another_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", ["poison"]).await;
    drop(collect_one(&mut consumer).await);
    let again = collect_one(&mut consumer).await;
    consumer.pause();
    drop(again);
    let mut other = connection.consumer(&jobs).await.unwrap();
    let again = collect_one(&mut other).await;
    assert_eq!(again.body(), "poison");
    again.ack().await.unwrap();
}

/// What it held for a moment goes back then.
pub async fn a_consumer_that_closes_gives_back_redeliveries_at_once(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    for way in ["dropped", "cancelled"] {
        let mut consumer = connection.consumer(&jobs).await.unwrap();
        publish(&connection, "jobs", ["one", "two"]).await;
        drop(collect(&mut consumer, 2).await);
        drop(collect(&mut consumer, 2).await);
        broker.assert_counts(&connection, "jobs", 0, 2).await;
        match way {
            "dropped" => drop(consumer),
            _ => consumer.cancel().await.unwrap(),
        }
        broker.assert_counts(&connection, "jobs", 2, 0).await;
        assert_eq!(texts(&drain(&connection, "jobs").await), ["one", "two"]);
    }
}

/// Nobody would give it back later.
pub async fn a_redelivery_that_outlives_its_consumer_is_released_when_it_is_dropped(
    broker: &Broker,
) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["work"]).await;
    drop(collect_one(&mut consumer).await);
    let again = collect_one(&mut consumer).await;
    consumer.cancel().await.unwrap();
    drop(again);
    broker.assert_counts(&connection, "jobs", 1, 0).await;
}

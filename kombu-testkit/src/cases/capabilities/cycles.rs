//! Dead letters that come round: those that nobody rejects on the way are stopped, as RabbitMQ does.

use kombu_core::driver::Feature;
use kombu_core::{Exchange, Queue};

use super::{SOON, has_queue, has_queue_with, until_over};
use crate::Broker;
use crate::cases::{fates, publish, reject};
use crate::expect::{collect_one, drain, texts};

/// It would expire there again and again.
pub async fn an_expired_message_does_not_come_back_to_its_queue(broker: &Broker) {
    let connection = broker.connect().await;
    // Straight back, by its own name.
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .dead_letter_exchange("");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0"]).await;
    until_over(&connection, SOON).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Only the copy that would go round isn't made.
pub async fn the_other_queues_of_the_exchange_get_what_would_go_round(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::fanout("failed");
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .bind(&failed, "")
        .dead_letter_exchange("failed");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    let dead = Queue::new("dead").bind(&failed, "");
    let mut dead = connection.consumer(&dead).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let letter = collect_one(&mut dead).await;
    assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
    letter.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    until_over(&connection, SOON).await;
    broker.assert_silent(&mut dead).await;
}

/// From one to the other, once, and not back.
pub async fn a_circle_of_two_queues_that_expire_is_cut(broker: &Broker) {
    let connection = broker.connect().await;
    let circle = |name: &str, next: &str| {
        Queue::new(name)
            .message_ttl(SOON)
            .dead_letter_exchange("")
            .dead_letter_routing_key(next)
    };
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &circle("left", "right")).await {
        return;
    }
    let right = circle("right", "left");
    connection.declare_queue(&right).await.unwrap();
    publish(&connection, "left", ["0"]).await;
    until_over(&connection, SOON).await;
    until_over(&connection, SOON).await;
    broker.assert_counts(&connection, "left", 0, 0).await;
    broker.assert_counts(&connection, "right", 0, 0).await;
}

/// A full queue whose heads come back to it would never stop.
pub async fn what_a_full_queue_drops_does_not_come_back_to_it(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(1).dead_letter_exchange("");
    let features = [Feature::MaxLength, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["2"]);
}

/// The usual way to try again later: rejected here, it waits there until its time is over, and comes again.
pub async fn a_circle_with_a_rejection_in_it_goes_on(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("later");
    let later = Queue::new("later")
        .message_ttl(SOON)
        .dead_letter_exchange("")
        .dead_letter_routing_key("jobs");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &later).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    let first = collect_one(&mut consumer).await;
    assert!(!first.headers().contains("x-death"));
    first.reject().await.unwrap();
    for round in 1..=3 {
        let again = collect_one(&mut consumer).await;
        assert_eq!(again.body(), "hard");
        assert!(!again.redelivered());
        let expected = [("later", "expired", round), ("jobs", "rejected", round)];
        assert_eq!(fates(&again), expected);
        again.reject().await.unwrap();
    }
}

/// A rejection lets it in once more: the next time round, it is stopped again.
pub async fn a_rejection_in_an_earlier_round_does_not_count(broker: &Broker) {
    let connection = broker.connect().await;
    // Its dead letters come back, and are copied to where they can be seen.
    let failed = Exchange::fanout("failed");
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .bind(&failed, "")
        .dead_letter_exchange("failed");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    let seen = Queue::new("seen").bind(&failed, "");
    let mut seen = connection.consumer(&seen).await.unwrap();
    let rejected = loop {
        publish(&connection, "jobs", ["0"]).await;
        if let Some(delivery) = connection.get("jobs").await.unwrap() {
            break delivery;
        }
    };
    rejected.reject().await.unwrap();
    loop {
        let letter = collect_one(&mut seen).await;
        // It was rejected, came back, and expired there: now there is nobody between two deaths in that queue.
        if fates(&letter) == [("jobs", "expired", 1), ("jobs", "rejected", 1)] {
            break;
        }
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// One that its consumers can't do would otherwise be tried for ever.
pub async fn a_message_that_was_handed_out_too_often_does_not_come_back(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .max_deliveries(2)
        .dead_letter_exchange("");
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["poison"]).await;
    for _ in 0..2 {
        let delivery = connection.get("jobs").await.unwrap().unwrap();
        delivery.retry().confirmed().await.unwrap();
    }
    assert!(connection.get("jobs").await.unwrap().is_none());
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Somebody decided that it should: rejecting is no accident.
pub async fn a_rejected_message_comes_back_as_often_as_it_is_rejected(broker: &Broker) {
    let connection = broker.connect().await;
    let circle = |name: &str, next: &str| {
        Queue::new(name)
            .dead_letter_exchange("")
            .dead_letter_routing_key(next)
    };
    if !has_queue(&connection, Feature::DeadLetter, &circle("left", "right")).await {
        return;
    }
    let right = circle("right", "left");
    connection.declare_queue(&right).await.unwrap();
    publish(&connection, "left", ["0"]).await;
    for _ in 0..10 {
        broker.assert_counts(&connection, "left", 1, 0).await;
        reject(&connection, "left").await;
        broker.assert_counts(&connection, "right", 1, 0).await;
        reject(&connection, "right").await;
    }
    broker.assert_counts(&connection, "left", 1, 0).await;
    let [again] = drain(&connection, "left").await.try_into().unwrap();
    let expected = [("right", "rejected", 10), ("left", "rejected", 10)];
    assert_eq!(fates(&again), expected);
}

//! One consumer at a time.

use std::collections::VecDeque;

use kombu_core::Queue;
use kombu_core::driver::Feature;

use super::has_queue;
use crate::cases::publish;
use crate::expect::{collect, collect_one, info, texts};
use crate::{Broker, Freedom};

/// The first gets everything; when it goes, the next one does.
pub async fn the_others_wait_until_the_active_one_goes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let mut waiting = broker
        .connect()
        .await
        .consumer(&jobs)
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    let first = collect_one(&mut active).await;
    broker.assert_silent(&mut waiting).await;
    first.ack().await.unwrap();
    let second = collect_one(&mut active).await;
    assert_eq!(second.body(), "1");
    second.ack().await.unwrap();
    active.cancel().await.unwrap();
    let third = collect_one(&mut waiting).await;
    assert_eq!(third.body(), "2");
    third.ack().await.unwrap();
}

/// The order in which they came.
pub async fn they_take_over_in_the_order_in_which_they_came(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut consumers = VecDeque::new();
    for _ in 0..4 {
        let consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
        consumers.push_back(consumer);
    }
    assert_eq!(info(&connection, "jobs").await.consumers, 4);
    publish(&connection, "jobs", (0..4).map(|n: u32| n.to_string())).await;
    for number in 0..4 {
        let mut active = consumers.pop_front().unwrap();
        for waiting in &mut consumers {
            broker.assert_silent(waiting).await;
        }
        let delivery = collect_one(&mut active).await;
        assert_eq!(delivery.body(), &number.to_string());
        delivery.ack().await.unwrap();
        active.cancel().await.unwrap();
    }
}

/// One that waits and goes changes nothing.
pub async fn the_active_one_stays_when_another_one_goes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let waiting = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let mut last = connection.consumer(&jobs).prefetch(1).await.unwrap();
    waiting.cancel().await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    broker.assert_silent(&mut last).await;
    let delivery = collect_one(&mut active).await;
    delivery.ack().await.unwrap();
}

/// Though its window is full, and theirs isn't.
pub async fn the_others_get_nothing_while_the_active_one_is_busy(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut active = connection.consumer(&jobs).prefetch(2).await.unwrap();
    let mut waiting = connection.consumer(&jobs).prefetch(64).await.unwrap();
    publish(&connection, "jobs", (0..5).map(|n: u32| n.to_string())).await;
    let held = collect(&mut active, 2).await;
    broker.assert_silent(&mut waiting).await;
    broker.assert_counts(&connection, "jobs", 3, 2).await;
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    broker.assert_silent(&mut waiting).await;
    assert_eq!(texts(&collect(&mut active, 2).await), ["2", "3"]);
}

/// In their order, and before what came later.
pub async fn what_the_active_one_had_goes_to_the_next(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut active = connection.consumer(&jobs).prefetch(3).await.unwrap();
    let mut next = other.consumer(&jobs).await.unwrap();
    publish(&other, "jobs", (0..5).map(|n: u32| n.to_string())).await;
    let mut held = collect(&mut active, 3).await;
    held.remove(1).ack().confirmed().await.unwrap();
    connection.close().await.unwrap();
    let taken_over = collect(&mut next, 4).await;
    assert_eq!(texts(&taken_over), ["0", "2", "3", "4"]);
    let again: Vec<_> = taken_over.iter().map(|one| one.redelivered()).collect();
    // The active one may have fetched the fourth.
    let fetched = broker.may(Freedom::MarkFetched) && again[2];
    let last = broker.may(Freedom::MarkFetched) && again[3];
    assert_eq!(again, [true, true, fetched, last]);
    drop(held);
}

/// What the active one still has when it is cancelled is its own, until it is given back.
pub async fn a_release_of_the_old_active_one_goes_to_the_new(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let mut next = connection.consumer(&jobs).prefetch(2).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let old = collect_one(&mut active).await;
    active.cancel().await.unwrap();
    let second = collect_one(&mut next).await;
    assert_eq!(second.body(), "1");
    old.release().await.unwrap();
    let first = collect_one(&mut next).await;
    assert_eq!(first.body(), "0");
    assert!(first.redelivered());
    first.ack().await.unwrap();
    second.ack().await.unwrap();
}

/// Each queue has one of its own.
pub async fn a_consumer_can_be_active_on_one_queue_only(broker: &Broker) {
    let connection = broker.connect().await;
    let [left, right] = ["left", "right"].map(|name| Queue::new(name).single_active_consumer(true));
    if !has_queue(&connection, Feature::SingleActiveConsumer, &left).await {
        return;
    }
    connection.declare_queue(&right).await.unwrap();
    let mut one = connection.consumer(&left).await.unwrap();
    let mut other = connection.consumer(&[left, right]).await.unwrap();
    publish(&connection, "left", ["left"]).await;
    publish(&connection, "right", ["right"]).await;
    let delivery = collect_one(&mut other).await;
    assert_eq!(delivery.body(), "right");
    delivery.ack().await.unwrap();
    broker.assert_silent(&mut other).await;
    let delivery = collect_one(&mut one).await;
    assert_eq!(delivery.body(), "left");
    delivery.ack().await.unwrap();
}

/// When there was nobody for a while, the first to come is.
pub async fn the_first_to_come_after_a_while_is_active(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let before = connection.consumer(&jobs).await.unwrap();
    before.cancel().await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let mut active = connection.consumer(&jobs).await.unwrap();
    let mut waiting = connection.consumer(&jobs).await.unwrap();
    broker.assert_silent(&mut waiting).await;
    let delivery = collect_one(&mut active).await;
    assert_eq!(delivery.body(), "0");
    delivery.ack().await.unwrap();
}

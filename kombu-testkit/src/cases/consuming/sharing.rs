//! Consumers of one queue compete for its messages.

use std::collections::BTreeSet;

use kombu_core::Queue;

use super::{consumers, numbers};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect, collect_one, texts};

/// Every message comes to one of them.
pub async fn competing_consumers_share_without_duplicates(broker: &Broker) {
    let mut tasks = Vec::new();
    let sending = broker.connect().await;
    sending.declare_queue(&Queue::new("jobs")).await.unwrap();
    sending.declare_queue(&Queue::new("done")).await.unwrap();
    for _ in 0..4 {
        let connection = broker.connect().await;
        let mut consumer = connection
            .consumer(&Queue::new("jobs"))
            .prefetch(2)
            .await
            .unwrap();
        tasks.push(tokio::spawn(async move {
            let mut received = Vec::new();
            loop {
                let delivery = collect_one(&mut consumer).await;
                let text = texts([&delivery]).remove(0);
                delivery.ack().await.unwrap();
                if text == "stop" {
                    return received;
                }
                received.push(text);
                tokio::task::yield_now().await;
            }
        }));
    }
    publish(&sending, "jobs", numbers(0..400)).await;
    publish(&sending, "jobs", ["stop"; 4]).await;
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), 400);
    let distinct: BTreeSet<String> = all.into_iter().collect();
    assert_eq!(distinct, numbers(0..400).collect());
}

/// One that works on its share doesn't keep the other from its own.
pub async fn a_consumer_with_a_full_window_leaves_messages_to_the_other(broker: &Broker) {
    let connection = broker.connect().await;
    let mut busy = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..5)).await;
    let held = collect(&mut busy, 1).await;
    let mut idle = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    for number in numbers(1..5) {
        let delivery = collect_one(&mut idle).await;
        assert_eq!(delivery.body(), number.as_str());
        delivery.ack().await.unwrap();
    }
    assert_eq!(texts(&held), ["0"]);
}

/// What one gives back, another one gets, marked as redelivered.
pub async fn what_one_consumer_releases_comes_to_another(broker: &Broker) {
    let connection = broker.connect().await;
    let mut first = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["work"]).await;
    let delivery = collect_one(&mut first).await;
    let mut second = broker
        .connect()
        .await
        .consumer(&Queue::new("jobs"))
        .await
        .unwrap();
    first.cancel().await.unwrap();
    delivery.release().await.unwrap();
    let again = collect_one(&mut second).await;
    assert_eq!(again.body(), "work");
    assert!(again.redelivered());
    again.ack().await.unwrap();
}

/// They come and go, and the queue counts them.
pub async fn a_queue_counts_its_consumers(broker: &Broker) {
    let connection = broker.connect().await;
    let other = broker.connect().await;
    let jobs = Queue::new("jobs");
    let first = connection.consumer(&jobs).await.unwrap();
    let second = other.consumer([&jobs, &Queue::new("more")]).await.unwrap();
    assert_eq!(consumers(&connection, "jobs").await, 2);
    assert_eq!(consumers(&connection, "more").await, 1);
    first.cancel().await.unwrap();
    assert_eq!(consumers(&connection, "jobs").await, 1);
    second.cancel().await.unwrap();
    assert_eq!(consumers(&connection, "jobs").await, 0);
    assert_eq!(consumers(&connection, "more").await, 0);
}

//! A consumer has at most as many unsettled deliveries as its prefetch says, and that can be changed while it runs.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt;
use kombu_core::Queue;
use tokio::sync::Barrier;

use super::numbers;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect, collect_one, texts};

/// The rest stays in the queue until something is settled.
pub async fn no_more_than_the_prefetch_is_outstanding(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(3)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..10)).await;
    let mut held = collect(&mut consumer, 3).await;
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "jobs", 7, 3).await;
    held.remove(1).ack().await.unwrap();
    let next = collect_one(&mut consumer).await;
    assert_eq!(next.body(), "3");
    broker.assert_silent(&mut consumer).await;
}

/// Whatever becomes of a delivery, it makes room.
pub async fn every_outcome_makes_room(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["ack", "reject", "release", "last"]).await;
    collect_one(&mut consumer).await.ack().await.unwrap();
    collect_one(&mut consumer).await.reject().await.unwrap();
    collect_one(&mut consumer).await.release().await.unwrap();
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.body(), "release");
    again.retry().await.unwrap();
    // Where a retry is a copy, it comes behind the last one.
    let dropped = collect_one(&mut consumer).await;
    let body = dropped.body().clone();
    drop(dropped);
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.body(), &body);
    again.ack().await.unwrap();
    let other = collect_one(&mut consumer).await;
    let mut both = [&body[..], &other.body()[..]];
    both.sort_unstable();
    assert_eq!(both, [&b"last"[..], b"release"]);
}

/// Handlers in many tasks: the window is reached, and never exceeded.
pub async fn the_prefetch_holds_while_many_tasks_settle(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(4)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..200)).await;
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    // Nobody settles until the window is full, however slowly the deliveries come.
    let full = Arc::new(Barrier::new(4));
    let mut tasks = Vec::new();
    for _ in 0..200 {
        let delivery = collect_one(&mut consumer).await;
        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(now, Ordering::SeqCst);
        let (running, full) = (running.clone(), full.clone());
        tasks.push(tokio::spawn(async move {
            full.wait().await;
            // Counted down first: settling makes room at once.
            running.fetch_sub(1, Ordering::SeqCst);
            delivery.ack().await.unwrap();
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Raised from 1 to 2: the second comes without settling the first, and no third.
pub async fn a_window_grows_while_the_consumer_runs(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["a", "b", "c"]).await;
    let first = collect_one(&mut consumer).await;
    broker.assert_silent(&mut consumer).await;
    consumer.set_prefetch(2);
    let second = collect_one(&mut consumer).await;
    assert_eq!(second.body(), "b");
    broker.assert_silent(&mut consumer).await;
    first.ack().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "c");
}

/// A task that waits for the consumer is woken when there is more room.
pub async fn a_window_that_grows_wakes_who_waits(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["a", "b"]).await;
    let first = collect_one(&mut consumer).await;
    let mut is_waiting = false;
    let second = poll_fn(|context| {
        let next = consumer.poll_next_unpin(context);
        if next.is_pending() && !std::mem::replace(&mut is_waiting, true) {
            consumer.set_prefetch(2);
        }
        next
    });
    assert_eq!(second.await.unwrap().unwrap().body(), "b");
    drop(first);
}

/// Lowered from 4 to 1: nothing comes until all but none of the old ones are settled.
pub async fn a_window_shrinks_while_the_consumer_runs(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(4)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..6)).await;
    let mut held = collect(&mut consumer, 4).await;
    consumer.set_prefetch(1);
    for _ in 0..3 {
        held.remove(0).ack().await.unwrap();
        broker.assert_silent(&mut consumer).await;
    }
    held.remove(0).ack().await.unwrap();
    let next = collect_one(&mut consumer).await;
    assert_eq!(next.body(), "4");
    broker.assert_silent(&mut consumer).await;
    next.ack().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "5");
}

/// No limit has to be asked for, and is one then.
pub async fn a_prefetch_of_zero_is_no_limit(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(0)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..500)).await;
    let held = collect(&mut consumer, 500).await;
    assert!(texts(&held).into_iter().eq(numbers(0..500)));
    broker.assert_counts(&connection, "jobs", 0, 500).await;
}

/// A limit can be lifted, and set again.
pub async fn a_window_can_be_lifted_while_the_consumer_runs(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..20)).await;
    let first = collect(&mut consumer, 1).await;
    consumer.set_prefetch(0);
    let rest = collect(&mut consumer, 19).await;
    consumer.set_prefetch(2);
    publish(&connection, "jobs", ["late"]).await;
    broker.assert_silent(&mut consumer).await;
    for delivery in first.into_iter().chain(rest) {
        delivery.ack().await.unwrap();
    }
    assert_eq!(collect_one(&mut consumer).await.body(), "late");
}

/// Nothing said: 64.
pub async fn the_default_prefetch_is_64(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", numbers(0..65)).await;
    let mut held = collect(&mut consumer, 64).await;
    broker.assert_silent(&mut consumer).await;
    held.remove(0).ack().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "64");
}

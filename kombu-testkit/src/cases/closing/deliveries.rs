//! What is unsettled goes back when its connection ends, and its settling is lost.

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, Queue};

use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, assert_unsupported, collect, collect_one, drain, texts};

/// In their order, marked as redelivered.
pub async fn unsettled_messages_go_back_when_the_connection_closes(broker: &Broker) {
    let (closing, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = closing
        .consumer(&Queue::new("jobs"))
        .prefetch(3)
        .await
        .unwrap();
    publish(&other, "jobs", ["0", "1", "2", "3"]).await;
    let held = collect(&mut consumer, 3).await;
    closing.close().await.unwrap();
    broker.assert_counts(&other, "jobs", 4, 0).await;
    let mut next = other.consumer(&Queue::new("jobs")).await.unwrap();
    let again = collect(&mut next, 4).await;
    assert_eq!(texts(&again), ["0", "1", "2", "3"]);
    let redelivered: Vec<bool> = again
        .iter()
        .map(|delivery| delivery.redelivered())
        .collect();
    assert_eq!(redelivered, [true, true, true, false]);
    drop(held);
}

/// All handles gone, the session ends by itself.
pub async fn unsettled_messages_go_back_when_the_connection_is_dropped(broker: &Broker) {
    let (dropped, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = dropped
        .consumer(&Queue::new("jobs"))
        .prefetch(3)
        .await
        .unwrap();
    publish(&other, "jobs", ["0", "1", "2", "3"]).await;
    let held = collect(&mut consumer, 3).await;
    drop((held, consumer, dropped));
    let mut next = other.consumer(&Queue::new("jobs")).await.unwrap();
    let again = collect(&mut next, 4).await;
    assert_eq!(texts(&again), ["0", "1", "2", "3"]);
}

/// A consumer on another connection is woken for them.
pub async fn messages_that_go_back_come_to_who_waits_for_them(broker: &Broker) {
    let (closing, other) = (broker.connect().await, broker.connect().await);
    let mut first = closing.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&other, "jobs", ["work"]).await;
    let held = collect_one(&mut first).await;
    let mut second = other.consumer(&Queue::new("jobs")).await.unwrap();
    let waiting = tokio::spawn(async move { collect_one(&mut second).await });
    // The task runs, and finds nothing.
    tokio::task::yield_now().await;
    closing.close().await.unwrap();
    let again = waiting.await.unwrap();
    assert_eq!(again.body(), "work");
    again.ack().await.unwrap();
    drop(held);
}

/// Whichever way it is settled: somebody else has it, and the settle must not touch that.
pub async fn settling_after_close_is_lost(broker: &Broker) {
    let (closing, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = closing.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&other, "jobs", ["0", "1", "2", "3"]).await;
    let [ack, release, retry, reject] = collect(&mut consumer, 4).await.try_into().unwrap();
    closing.close().await.unwrap();
    let mut next = other.consumer(&Queue::new("jobs")).await.unwrap();
    let again = collect(&mut next, 4).await;
    for settling in [ack.ack(), release.release(), retry.retry(), reject.reject()] {
        let error = assert_refused(settling.await, ErrorKind::SettleLost, None);
        assert_eq!(error.operation(), Some("settle"));
    }
    broker.assert_counts(&other, "jobs", 0, 4).await;
    assert_eq!(texts(&again), ["0", "1", "2", "3"]);
    for delivery in again {
        assert_eq!(delivery.attempt(), 1);
        delivery.ack().await.unwrap();
    }
    broker.assert_counts(&other, "jobs", 0, 0).await;
}

/// A reject neither: no dead letter comes of it.
pub async fn rejecting_after_close_makes_no_dead_letter(broker: &Broker) {
    let (closing, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !closing.capabilities().has(Feature::DeadLetter) {
        assert_unsupported(closing.declare_queue(&jobs).await);
        return;
    }
    other.declare_queue(&Queue::new("dead")).await.unwrap();
    let mut consumer = closing.consumer(&jobs).await.unwrap();
    publish(&other, "jobs", ["work"]).await;
    let held = collect_one(&mut consumer).await;
    closing.close().await.unwrap();
    assert_refused(held.reject().confirmed().await, ErrorKind::SettleLost, None);
    broker.assert_counts(&other, "dead", 0, 0).await;
    assert_eq!(texts(&drain(&other, "jobs").await), ["work"]);
}

/// Held because they couldn't be decoded, they go back too.
pub async fn undecodable_messages_go_back_when_the_connection_closes(broker: &Broker) {
    let (closing, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = closing.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&other, "jobs", ["no number"]).await;
    let taken = collect_one(&mut consumer).await.take::<u32>();
    drop(assert_refused(taken, ErrorKind::Undecodable, None));
    broker.assert_counts(&other, "jobs", 0, 1).await;
    closing.close().await.unwrap();
    broker.assert_counts(&other, "jobs", 1, 0).await;
    drop(consumer);
    assert_eq!(texts(&drain(&other, "jobs").await), ["no number"]);
}

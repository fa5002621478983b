//! Without acks, the broker forgets a message when it hands it out.

use kombu_core::{ErrorKind, Queue};

use super::numbers;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, drain, texts};

/// Nothing is unsettled, and nothing comes again.
pub async fn a_message_is_gone_when_it_was_handed_out(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .no_ack(true)
        .await
        .unwrap();
    publish(&connection, "jobs", ["once"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "once");
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    drop(delivery);
    drop(consumer);
    connection.close().await.unwrap();
    let other = broker.connect().await;
    broker.assert_counts(&other, "jobs", 0, 0).await;
}

/// What was fetched by then is still there, for others and in order.
pub async fn what_was_not_handed_out_is_left(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let open = || connection.consumer(&Queue::new("jobs")).no_ack(true);
    let mut consumer = open().await.unwrap();
    publish(&connection, "jobs", numbers(0..20)).await;
    collect(&mut consumer, 3).await;
    consumer.cancel().await.unwrap();
    broker.assert_counts(&other, "jobs", 17, 0).await;
    let mut consumer = open().await.unwrap();
    collect(&mut consumer, 4).await;
    drop(consumer);
    broker.assert_counts(&other, "jobs", 13, 0).await;
    let left = texts(&drain(&other, "jobs").await);
    assert!(left.into_iter().eq(numbers(7..20)));
}

/// The rest waits in the queue, where others can have it, and not in this process.
pub async fn no_more_is_fetched_than_the_prefetch_says(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", numbers(0..20)).await;
    let open = connection.consumer(&Queue::new("jobs")).no_ack(true);
    let mut consumer = open.prefetch(2).await.unwrap();
    collect_one(&mut consumer).await;
    let elsewhere = drain(&other, "jobs").await.len();
    assert!(elsewhere >= 17, "{elsewhere} of 20");
}

/// There is nothing to settle, whichever way.
pub async fn settling_is_an_error(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .no_ack(true)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..5)).await;
    let [ack, release, retry, reject, split] = collect(&mut consumer, 5).await.try_into().unwrap();
    for settling in [
        ack.ack(),
        release.release(),
        retry.retry(),
        reject.reject(),
        split.split().1.ack(),
    ] {
        let error = assert_refused(settling.await, ErrorKind::NotSettleable, None);
        assert!(error.to_string().contains("`jobs`"), "{error}");
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// There is nothing to wait for, so a prefetch limits nothing in the long run.
pub async fn more_messages_come_than_the_prefetch_says(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection
        .consumer(&Queue::new("jobs"))
        .no_ack(true)
        .prefetch(2);
    let mut consumer = open.await.unwrap();
    publish(&connection, "jobs", numbers(0..20)).await;
    let received = collect(&mut consumer, 20).await;
    assert!(texts(&received).into_iter().eq(numbers(0..20)));
}

/// The queue's declaration says it for its consumers, and a consumer can say otherwise.
pub async fn a_queue_can_ask_for_it_and_a_consumer_decides(broker: &Broker) {
    let connection = broker.connect().await;
    let careless = Queue::new("jobs").no_ack(true);
    let mut consumer = connection.consumer(&careless).await.unwrap();
    publish(&connection, "jobs", ["careless"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_refused(delivery.ack().await, ErrorKind::NotSettleable, None);
    consumer.cancel().await.unwrap();
    let mut consumer = connection.consumer(&careless).no_ack(false).await.unwrap();
    publish(&connection, "jobs", ["careful"]).await;
    let delivery = collect_one(&mut consumer).await;
    broker.assert_counts(&connection, "jobs", 0, 1).await;
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// One queue that wants acks is enough.
pub async fn queues_that_disagree_are_acked(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = [Queue::new("careless").no_ack(true), Queue::new("careful")];
    let mut consumer = connection.consumer(&queues).await.unwrap();
    publish(&connection, "careless", ["kept"]).await;
    collect_one(&mut consumer).await.release().await.unwrap();
    let again = collect_one(&mut consumer).await;
    assert!(again.redelivered());
    again.ack().await.unwrap();
}

//! A released message is back where it was.

use kombu_core::Queue;

use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect, collect_one, drain, texts};

/// In front of what came behind it, and marked.
pub async fn a_released_message_goes_back_to_the_head(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["first", "second"]).await;
    let first = collect_one(&mut consumer).await;
    assert!(!first.redelivered());
    first.release().await.unwrap();
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.body(), "first");
    assert!(again.redelivered());
    again.ack().await.unwrap();
    let second = collect_one(&mut consumer).await;
    assert_eq!(second.body(), "second");
    assert!(!second.redelivered());
    second.ack().await.unwrap();
}

/// Whatever the order in which they are released, and among what was never taken.
pub async fn released_messages_return_to_their_positions(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(5)
        .await
        .unwrap();
    publish(&connection, "jobs", ["0", "1", "2", "3", "4", "5", "6"]).await;
    let mut held: Vec<_> = collect(&mut consumer, 5)
        .await
        .into_iter()
        .map(Some)
        .collect();
    consumer.cancel().await.unwrap();
    let mut take = |index: usize| held[index].take().unwrap();
    take(3).release().confirmed().await.unwrap();
    take(0).ack().confirmed().await.unwrap();
    take(1).release().confirmed().await.unwrap();
    take(2).ack().confirmed().await.unwrap();
    take(4).release().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 5, 0).await;
    assert_eq!(
        texts(&drain(&connection, "jobs").await),
        ["1", "3", "4", "5", "6"]
    );
}

/// A consumer that already waits is woken.
pub async fn a_released_message_comes_to_a_consumer_that_waits(broker: &Broker) {
    let connection = broker.connect().await;
    let mut first = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["work"]).await;
    let delivery = collect_one(&mut first).await;
    first.cancel().await.unwrap();
    let mut second = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let waiting = tokio::spawn(async move { collect_one(&mut second).await });
    // The task runs, and finds nothing.
    tokio::task::yield_now().await;
    delivery.release().await.unwrap();
    let again = waiting.await.unwrap();
    assert!(again.redelivered());
    again.ack().await.unwrap();
}

/// Not our turn isn't a failure.
pub async fn a_release_does_not_count_as_a_failure(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["work"]).await;
    for _ in 0..3 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.attempt(), 1);
        delivery.release().await.unwrap();
    }
    assert_eq!(collect_one(&mut consumer).await.attempt(), 1);
}

/// Body, headers and properties come back as they were.
pub async fn a_released_message_is_unchanged(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(kombu_core::Exchange::default())
        .await
        .unwrap();
    let publish = producer
        .publish(&7)
        .routing_key("jobs")
        .header("tenant", "eu");
    publish.message_id("m-1").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    collect_one(&mut consumer).await.release().await.unwrap();
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.decode::<u32>().unwrap(), 7);
    assert_eq!(again.message_id(), Some("m-1"));
    assert_eq!(again.headers().len(), 1);
    assert_eq!(
        again
            .headers()
            .get("tenant")
            .and_then(|value| value.as_str()),
        Some("eu")
    );
    again.ack().await.unwrap();
}

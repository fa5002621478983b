//! Queues that get a copy of everything, for each consumer one.

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, Exchange, Queue};

use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported, collect_one};

/// On whatever connection; with one declaration.
pub async fn every_consumer_of_a_broadcast_queue_gets_its_own_copy(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let news = Queue::broadcast("news");
    if !here.capabilities().has(Feature::ExclusiveQueue) {
        assert_unsupported(here.consumer(&news).await);
        return;
    }
    let mut consumers = Vec::new();
    for connection in [&here, &here, &there] {
        consumers.push(connection.consumer(&news).await.unwrap());
    }
    let producer = here.producer(Exchange::fanout("news")).await.unwrap();
    producer.publish("it rains").await.unwrap();
    producer
        .publish("it still does")
        .routing_key("weather")
        .await
        .unwrap();
    for consumer in &mut consumers {
        for expected in ["it rains", "it still does"] {
            let delivery = collect_one(consumer).await;
            assert_eq!(delivery.decode::<String>().unwrap(), expected);
            delivery.ack().await.unwrap();
        }
        broker.assert_silent(consumer).await;
    }
}

/// Nothing is left behind that would fill up.
pub async fn a_broadcast_queue_goes_with_its_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Queue::broadcast("news");
    if !connection.capabilities().has(Feature::ExclusiveQueue) {
        assert_unsupported(connection.consumer(&news).await);
        return;
    }
    let consumer = connection.consumer(&news).await.unwrap();
    let queue = consumer.queues()[0].clone();
    consumer.cancel().await.unwrap();
    crate::cases::handling::until(async || connection.queue_info(&queue).await.is_err()).await;
    assert_refused(
        connection.queue_info(&queue).await,
        ErrorKind::NotFound,
        404,
    );
}

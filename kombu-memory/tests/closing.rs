//! What holds after a connection was closed.

#![allow(clippy::unwrap_used)]

use kombu::{Exchange, Queue};

/// Closes the connection of a consumer that has fetched three messages and received one of them, and answers
/// how many are back in the queue.
async fn close_with_a_buffer(url: &str, queue: &Queue) -> u64 {
    let connection = kombu::connect(url).await.unwrap();
    connection.declare_queue(queue).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for job in 1..=3 {
        let publish = producer.publish(&job).routing_key(queue.name());
        publish.await.unwrap();
    }
    let mut consumer = connection.consumer(queue).await.unwrap();
    let first = consumer.try_next().await.unwrap().unwrap();
    connection.close().await.unwrap();

    assert!(consumer.try_next().await.unwrap().is_none());
    drop(first);
    let other = kombu::connect(url).await.unwrap();
    other.queue_info(queue.name()).await.unwrap().ready
}

#[tokio::test]
async fn a_consumer_hands_out_nothing_that_went_back_when_its_connection_was_closed() {
    let queue = Queue::new("jobs");
    let ready = close_with_a_buffer("memory://closed", &queue).await;
    assert_eq!(ready, 3);
}

#[tokio::test]
async fn without_acks_what_was_received_is_gone_after_closing_and_the_rest_is_back() {
    let queue = Queue::new("jobs").no_ack(true);
    let ready = close_with_a_buffer("memory://closed-without-acks", &queue).await;
    assert_eq!(ready, 2);
}

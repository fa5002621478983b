//! What memory makes of the room that its consumers have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, Consumer, ErrorKind, Exchange, Overflow, Producer, Queue};

async fn open(queue: &Queue, prefetch: u32) -> (Connection, Consumer, Producer) {
    let connection = kombu::connect("memory://").await.unwrap();
    let consumer = connection.consumer(queue).prefetch(prefetch).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue.name().clone()).await.unwrap();
    (connection, consumer, producer)
}

fn refusing(max_length: u64) -> Queue {
    let queue = Queue::new("q").max_length(max_length);
    queue.overflow(Overflow::RejectPublish)
}

#[tokio::test]
async fn a_smaller_window_has_less_room_at_once() {
    let (_connection, mut consumer, producer) = open(&refusing(1), 64).await;
    consumer.set_prefetch(1);
    for _ in 0..2 {
        producer.publish_text("taken").await.unwrap();
    }
    let refused = producer.publish_text("refused").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Nacked);
}

/// Taking from the queue and from the room is one step, so no publisher sees room for the same message twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queue_is_never_longer_than_its_limit_and_the_room_of_its_consumer() {
    let (connection, mut consumer, producer) = open(&refusing(1), 1).await;
    let publishing = tokio::spawn(async move {
        let mut stored = 0;
        for _ in 0..50_000 {
            stored += u32::from(producer.publish_text("work").await.is_ok());
        }
        stored
    });
    let mut received = 0;
    while !publishing.is_finished() {
        let Some(delivery) = consumer.receive(Duration::from_millis(10)).await.unwrap() else {
            continue;
        };
        received += 1;
        // While this one is held, there is no room.
        let ready = connection.queue_info("q").await.unwrap().ready;
        assert!(ready <= 1, "{ready}");
        delivery.ack().await.unwrap();
    }
    let left = connection.queue_info("q").await.unwrap().ready;
    assert_eq!(publishing.await.unwrap() as u64, received + left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_consumer_of_higher_priority_has_no_room_for_is_never_left_lying() {
    const MESSAGES: usize = 20_000;
    let queue = Queue::new("q");
    let (connection, low, producer) = open(&queue, 2).await;
    let high = connection.consumer(&queue).prefetch(2).priority(1);
    let high = high.await.unwrap();
    let (sender, mut acked) = tokio::sync::mpsc::unbounded_channel();
    for mut consumer in [high, low] {
        let sender = sender.clone();
        tokio::spawn(async move {
            while let Some(delivery) = consumer.try_next().await.unwrap() {
                delivery.ack().await.unwrap();
                sender.send(()).unwrap();
            }
        });
    }
    tokio::spawn(async move {
        for _ in 0..MESSAGES {
            producer.publish_text("work").await.unwrap();
        }
    });
    for number in 0..MESSAGES {
        let next = tokio::time::timeout(Duration::from_secs(10), acked.recv()).await;
        assert!(next.is_ok(), "{number} of {MESSAGES} were acked");
    }
}

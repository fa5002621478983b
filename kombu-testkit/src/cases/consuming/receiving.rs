//! Every way to receive hands out each message once, in order, and loses none when it gives up waiting.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use kombu_core::{Delivery, ErrorKind, Exchange, Queue};

use super::{consumers, numbers};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, info, texts};

/// What was published first comes first.
pub async fn messages_come_in_the_order_of_the_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", numbers(0..50)).await;
    let deliveries = collect(&mut consumer, 50).await;
    assert!(texts(&deliveries).into_iter().eq(numbers(0..50)));
    for delivery in deliveries {
        assert!(!delivery.redelivered());
        assert_eq!(delivery.attempt(), 1);
        delivery.ack().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// It waits in the queue, and comes then.
pub async fn a_message_from_before_the_consumer_comes_to_it(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["early"]).await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "early");
}

/// A builder takes nothing and declares nothing; opened, it gets what was there before.
pub async fn nothing_is_taken_before_the_consumer_is_opened(broker: &Broker) {
    let connection = broker.connect().await;
    let (jobs, later) = (Queue::new("jobs"), Queue::new("later"));
    connection.declare_queue(&jobs).await.unwrap();
    let opening = connection.consumer(&jobs);
    drop(connection.consumer(&later));
    publish(&connection, "jobs", ["early"]).await;
    assert_eq!(info(&connection, "jobs").await.ready, 1);
    assert_eq!(consumers(&connection, "jobs").await, 0);
    let missing = connection.queue_info("later").await;
    assert_refused(missing, ErrorKind::NotFound, 404);
    let mut consumer = opening.await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "early");
    delivery.ack().await.unwrap();
}

/// A consumer that waits is woken by a publish on another connection.
pub async fn a_waiting_consumer_is_woken(broker: &Broker) {
    let (receiving, sending) = (broker.connect().await, broker.connect().await);
    let mut consumer = receiving.consumer(&Queue::new("jobs")).await.unwrap();
    for round in numbers(0..20) {
        let (delivery, ()) = tokio::join!(
            biased;
            collect_one(&mut consumer),
            publish(&sending, "jobs", [round.as_str()]),
        );
        assert_eq!(delivery.body(), round.as_str());
        delivery.ack().await.unwrap();
    }
}

/// A consumer is a stream.
pub async fn a_consumer_is_a_stream_of_deliveries(broker: &Broker) {
    let connection = broker.connect().await;
    let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", numbers(0..10)).await;
    let deliveries: Vec<Delivery> = consumer.take(10).try_collect().await.unwrap();
    assert!(texts(&deliveries).into_iter().eq(numbers(0..10)));
}

/// Nothing comes: `None`, not before the time is over.
pub async fn receive_gives_up_after_its_timeout(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let begin = Instant::now();
    let nothing = consumer.receive(Duration::from_millis(30)).await.unwrap();
    assert!(nothing.is_none());
    assert!(begin.elapsed() >= Duration::from_millis(30));
}

/// Timeouts that end while messages are on their way lose none of them.
pub async fn receive_timeouts_lose_nothing(broker: &Broker) {
    let (receiving, sending) = (broker.connect().await, broker.connect().await);
    let mut consumer = receiving
        .consumer(&Queue::new("jobs"))
        .prefetch(3)
        .await
        .unwrap();
    let producer = sending
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for number in 0..100 {
        assert!(consumer.receive(Duration::ZERO).await.unwrap().is_none());
        // The timeout and the message meet.
        let (received, published) = tokio::join!(
            biased;
            consumer.receive(Duration::from_micros(number * 20)),
            producer.publish(&number).into_future(),
        );
        published.unwrap();
        let delivery = match received.unwrap() {
            Some(delivery) => delivery,
            None => collect_one(&mut consumer).await,
        };
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        delivery.ack().await.unwrap();
    }
}

/// Without waiting, everything that is there can be taken, however much it is.
pub async fn receive_without_waiting_takes_all_that_is_there(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(0)
        .await
        .unwrap();
    publish(&connection, "jobs", numbers(0..1_000)).await;
    // The first one brings the others along, over a network too.
    let mut received = vec![collect_one(&mut consumer).await];
    // A busy machine may be late with some.
    let patience = 20 * broker.lag();
    while received.len() < 1_000
        && let Some(delivery) = consumer.receive(patience).await.unwrap()
    {
        received.push(delivery);
    }
    broker.assert_silent(&mut consumer).await;
    assert!(texts(&received).into_iter().eq(numbers(0..1_000)));
}

/// A future of `next` that is dropped has taken nothing, or what it took stays with the consumer.
pub async fn a_next_that_is_dropped_loses_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(2)
        .await
        .unwrap();
    let mut received = Vec::new();
    for round in 0..20 {
        // Polled once and dropped, with nothing there.
        assert!(consumer.next().now_or_never().is_none());
        publish(&connection, "jobs", [round.to_string()]).await;
        let delivery = match consumer.next().now_or_never() {
            Some(delivery) => delivery.unwrap().unwrap(),
            None => collect_one(&mut consumer).await,
        };
        received.extend(texts([&delivery]));
        delivery.ack().await.unwrap();
    }
    assert!(received.into_iter().eq(numbers(0..20)));
}

/// Two consumers of one connection are both served.
pub async fn two_consumers_of_one_connection_do_not_block_each_other(broker: &Broker) {
    let connection = broker.connect().await;
    let mut left = connection
        .consumer(&Queue::new("left"))
        .prefetch(1)
        .await
        .unwrap();
    let mut right = connection
        .consumer(&Queue::new("right"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "left", numbers(0..10)).await;
    // The left one's window is full for as long as the right one works.
    let held = collect_one(&mut left).await;
    publish(&connection, "right", numbers(0..10)).await;
    for number in numbers(0..10) {
        let delivery = collect_one(&mut right).await;
        assert_eq!(delivery.body(), number.as_str());
        delivery.ack().await.unwrap();
    }
    assert_eq!(held.body(), "0");
    held.ack().await.unwrap();
    assert_eq!(collect_one(&mut left).await.body(), "1");
}

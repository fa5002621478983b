//! A consumer leaves some of its queues while it runs, or they are deleted.

use kombu_core::{Connection, ErrorKind, Event, Events, Name, Queue};

use super::{consumers, numbers};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, drain, texts};

/// Nothing more comes from it; it is there for others.
pub async fn the_others_go_on(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    consumer.cancel_queue("left").await.unwrap();
    assert_eq!(consumer.queues(), ["right"]);
    assert_eq!(consumers(&connection, "left").await, 0);
    publish(&connection, "left", ["stays"]).await;
    publish(&connection, "right", ["comes"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(
        (delivery.body().as_ref(), delivery.queue().as_str()),
        (&b"comes"[..], "right")
    );
    delivery.ack().await.unwrap();
    broker.assert_silent(&mut consumer).await;
    assert_eq!(texts(&drain(&connection, "left").await), ["stays"]);
}

/// What was received stays with its holder, the rest is back in order.
pub async fn what_was_received_is_settled_and_what_was_fetched_goes_back(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(20).await.unwrap();
    publish(&connection, "left", numbers(0..5)).await;
    let mut held = collect(&mut consumer, 3).await;
    consumer.cancel_queue("left").await.unwrap();
    broker.assert_counts(&connection, "left", 2, 3).await;
    held.remove(0).ack().confirmed().await.unwrap();
    for delivery in held {
        assert_eq!(delivery.queue(), "left");
        delivery.release().confirmed().await.unwrap();
    }
    assert!(
        texts(&drain(&connection, "left").await)
            .into_iter()
            .eq(numbers(1..5))
    );
}

/// As a cancel does.
pub async fn leaving_the_last_one_ends_the_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    consumer.cancel_queue("left").await.unwrap();
    consumer.cancel_queue("right").await.unwrap();
    assert!(consumer.next().await.is_none());
    assert_eq!(consumer.queues().len(), 0);
    assert_eq!(consumers(&connection, "right").await, 0);
}

/// It counts as left.
pub async fn leaving_a_queue_that_is_not_there_is_no_error(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    consumer.cancel_queue("nowhere").await.unwrap();
    publish(&connection, "jobs", ["goes on"]).await;
    assert_eq!(collect_one(&mut consumer).await.body(), "goes on");
}

/// What it had taken of the window is there for the others.
pub async fn leaving_a_queue_makes_room(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(2).await.unwrap();
    publish(&connection, "left", numbers(0..5)).await;
    let held = collect_one(&mut consumer).await;
    consumer.cancel_queue("left").await.unwrap();
    publish(&connection, "right", ["comes"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "comes");
    held.ack().await.unwrap();
    delivery.ack().await.unwrap();
}

/// It is none of the consumer's business any more.
pub async fn deleting_a_queue_that_was_left_cancels_nobody(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    consumer.cancel_queue("left").await.unwrap();
    connection.delete_queue("left").await.unwrap();
    broker.assert_silent(&mut consumer).await;
    assert_eq!(consumer.queues(), ["right"]);
}

/// By an event, also if it isn't the last one; after what was received from it.
pub async fn each_queue_that_is_deleted_is_told(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let mut events = connection.events();
    let queues = ["a", "b", "c"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    other.delete_queue("b").await.unwrap();
    cancelled(&mut consumer, &mut events, "b").await;
    assert_eq!(consumer.queues(), ["a", "c"]);
    publish(&connection, "c", ["still"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(
        (delivery.body().as_ref(), delivery.queue().as_str()),
        (&b"still"[..], "c")
    );
    delivery.ack().await.unwrap();
    other.delete_queue("a").await.unwrap();
    cancelled(&mut consumer, &mut events, "a").await;
    other.delete_queue("c").await.unwrap();
    let ended = consumer.next().await.unwrap();
    let error = assert_refused(ended, ErrorKind::ConsumerCancelled, None);
    assert!(error.to_string().contains("`c`"), "{error}");
    assert_eq!(events.next().await, Some(cancellation("c")));
    assert!(consumer.next().await.is_none());
}

/// It has to be added again.
pub async fn a_queue_that_is_declared_again_is_another_one(broker: &Broker) {
    let connection = broker.connect().await;
    let mut events = connection.events();
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    connection.delete_queue("left").await.unwrap();
    cancelled(&mut consumer, &mut events, "left").await;
    connection.declare_queue(&queues[0]).await.unwrap();
    publish(&connection, "left", ["new"]).await;
    broker.assert_silent(&mut consumer).await;
    consumer.add_queue(&queues[0]).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(
        (delivery.body().as_ref(), delivery.queue().as_str()),
        (&b"new"[..], "left")
    );
    delivery.ack().await.unwrap();
}

fn cancellation(queue: &str) -> Event {
    Event::ConsumerCancelled {
        queue: Name::from(queue),
    }
}

/// Receives until the consumer has left the queue; nothing comes meanwhile.
async fn cancelled(consumer: &mut kombu_core::Consumer, events: &mut Events, queue: &str) {
    tokio::select! {
        biased;
        event = events.next() => assert_eq!(event, Some(cancellation(queue))),
        received = consumer.next() => panic!("nothing was to come, and there is {received:?}"),
    }
}

/// Queues without messages may go as well as come.
pub async fn a_consumer_can_change_all_of_its_queues(broker: &Broker) {
    let connection: Connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("0")).await.unwrap();
    for number in 1..40_u32 {
        let (last, next) = ((number - 1).to_string(), number.to_string());
        consumer.add_queue(&Queue::new(&next)).await.unwrap();
        consumer.cancel_queue(&last).await.unwrap();
        publish(&connection, &next, [next.clone()]).await;
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(texts([&delivery]), [next.as_str()]);
        assert_eq!(delivery.queue(), next.as_str());
        delivery.ack().await.unwrap();
    }
    assert_eq!(consumer.queues(), ["39"]);
}

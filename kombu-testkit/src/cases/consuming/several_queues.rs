//! One consumer takes from several queues, with one window over all of them.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::numbers;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{self, assert_refused, collect, collect_one, info, texts};

/// Each delivery tells where it comes from.
pub async fn a_consumer_receives_from_all_of_its_queues(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["a", "b", "c"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    assert_eq!(consumer.queues(), ["a", "b", "c"]);
    for queue in ["c", "a", "b"] {
        publish(&connection, queue, [queue]).await;
    }
    let mut from = Vec::new();
    for delivery in collect(&mut consumer, 3).await {
        assert_eq!(delivery.body(), delivery.queue().as_str());
        assert_eq!(delivery.routing_key(), delivery.queue());
        from.push(delivery.queue().clone());
        delivery.ack().await.unwrap();
    }
    from.sort();
    assert_eq!(from, ["a", "b", "c"]);
}

/// Consuming it is one thing, however often it is named.
pub async fn a_queue_that_is_named_twice_is_consumed_once(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["a", "b", "a"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    assert_eq!(consumer.queues(), ["a", "b"]);
    for queue in ["a", "b"] {
        assert_eq!(info(&connection, queue).await.consumers, 1);
        publish(&connection, queue, [queue]).await;
    }
    for delivery in collect(&mut consumer, 2).await {
        assert_eq!(delivery.body(), delivery.queue().as_str());
        delivery.ack().await.unwrap();
    }
}

/// A prefetch of 1 over two queues: one delivery in total.
pub async fn one_window_spans_all_queues(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(1).await.unwrap();
    publish(&connection, "left", ["left"]).await;
    publish(&connection, "right", ["right"]).await;
    let first = collect_one(&mut consumer).await;
    broker.assert_silent(&mut consumer).await;
    let (one, other) = match first.body().as_ref() {
        b"left" => ("left", "right"),
        _ => ("right", "left"),
    };
    broker.assert_counts(&connection, one, 0, 1).await;
    // Where the broker doesn't tell what is unsettled, it doesn't tell what was fetched ahead either.
    if expect::info(&connection, other).await.unsettled.is_some() {
        broker.assert_counts(&connection, other, 1, 0).await;
    }
    first.ack().await.unwrap();
    let second = collect_one(&mut consumer).await;
    assert_eq!(second.body(), other);
    second.ack().await.unwrap();
}

/// Raised to 2, both come.
pub async fn one_window_over_all_queues_grows(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(1).await.unwrap();
    for queue in ["left", "right"] {
        publish(&connection, queue, numbers(0..2)).await;
    }
    let first = collect_one(&mut consumer).await;
    broker.assert_silent(&mut consumer).await;
    consumer.set_prefetch(2);
    let second = collect_one(&mut consumer).await;
    broker.assert_silent(&mut consumer).await;
    drop((first, second));
}

/// Each queue keeps its own order.
pub async fn each_queue_keeps_its_order(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(5).await.unwrap();
    for queue in ["left", "right"] {
        publish(&connection, queue, numbers(0..50)).await;
    }
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let delivery = collect_one(&mut consumer).await;
        let side = if delivery.queue() == "left" {
            &mut left
        } else {
            &mut right
        };
        side.extend(texts([&delivery]));
        delivery.ack().await.unwrap();
    }
    assert!(left.into_iter().eq(numbers(0..50)));
    assert!(right.into_iter().eq(numbers(0..50)));
}

/// A message in a quiet queue comes while the busy one still has many.
pub async fn a_busy_queue_does_not_starve_the_others(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["busy", "quiet"].map(Queue::new);
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    publish(&connection, "busy", numbers(0..500)).await;
    publish(&connection, "quiet", ["at last"]).await;
    let mut consumer = connection.consumer(&queues).prefetch(1).await.unwrap();
    for _ in 0..500 {
        let delivery = collect_one(&mut consumer).await;
        let is_quiet = delivery.queue() == "quiet";
        delivery.ack().await.unwrap();
        if is_quiet {
            return;
        }
    }
    panic!("500 messages of the busy queue came first");
}

/// One of three is flooded, and the window is small: the other two get their turns within the first deliveries, and
/// every time.
pub async fn a_flooded_queue_leaves_the_others_their_turns(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["flooded", "one", "other"].map(Queue::new);
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    publish(&connection, "flooded", numbers(0..1000)).await;
    let mut consumer = connection.consumer(&queues).prefetch(2).await.unwrap();
    for _ in 0..10 {
        publish(&connection, "one", ["quiet"]).await;
        publish(&connection, "other", ["quiet"]).await;
        let mut quiet = 0;
        for _ in 0..12 {
            let delivery = collect_one(&mut consumer).await;
            quiet += u32::from(delivery.queue() != "flooded");
            delivery.ack().await.unwrap();
        }
        assert_eq!(quiet, 2, "of the quiet queues among 12 deliveries");
    }
}

/// The others go on; the last one ends the consumer.
pub async fn a_queue_that_is_deleted_leaves_the_others(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["left", "right"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    connection.delete_queue("left").await.unwrap();
    publish(&connection, "right", ["still"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "still");
    delivery.ack().await.unwrap();
    connection.delete_queue("right").await.unwrap();
    let ended = consumer.next().await.unwrap();
    assert_refused(ended, ErrorKind::ConsumerCancelled, None);
    assert!(consumer.next().await.is_none());
}

/// A queue without a name has the one that it got.
pub async fn queues_without_a_name_are_told_apart(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    let queues = [Queue::server_named(), Queue::server_named().bind(&news, "")];
    let mut consumer = connection.consumer(&queues).await.unwrap();
    let names = consumer.queues().to_vec();
    assert_ne!(names[0], names[1]);
    publish(&connection, &names[0], ["by name"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(
        (delivery.queue(), delivery.body().as_ref()),
        (&names[0], &b"by name"[..])
    );
    delivery.ack().await.unwrap();
    connection
        .producer(&news)
        .await
        .unwrap()
        .publish_text("by binding")
        .await
        .unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(
        (delivery.queue(), delivery.body().as_ref()),
        (&names[1], &b"by binding"[..])
    );
    delivery.ack().await.unwrap();
}

/// There is nothing to wait for.
pub async fn a_consumer_without_queues_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let consumer = connection.consumer(Vec::<Queue>::new()).await;
    assert_refused(consumer, ErrorKind::Config, None);
}

/// If one of them can't be declared, there is no consumer, of the others neither.
pub async fn a_consumer_with_a_refused_queue_consumes_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = [Queue::new("here"), Queue::new("nowhere").passive()];
    let consumer = connection.consumer(&queues).await;
    assert_refused(consumer, ErrorKind::NotFound, 404);
    publish(&connection, "here", ["left alone"]).await;
    broker.assert_counts(&connection, "here", 1, 0).await;
    assert_eq!(super::consumers(&connection, "here").await, 0);
}

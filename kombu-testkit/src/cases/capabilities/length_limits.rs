//! How many messages a queue keeps that drops its oldest ones.

use kombu_core::driver::Feature;
use kombu_core::{Exchange, Queue};

use super::{has_queue, has_queue_with, until_heard};
use crate::Broker;
use crate::cases::{producer_to, publish};
use crate::expect::{collect, collect_one, drain, texts};

/// The oldest ones make room.
pub async fn a_full_queue_drops_its_head(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(3);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1", "2", "3", "4"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["2", "3", "4"]);
}

/// Bodies count, not messages.
pub async fn a_queue_can_be_limited_by_bytes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length_bytes(10);
    if !has_queue(&connection, Feature::MaxLengthBytes, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["aaaa", "bbbb", "cccc"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["bbbb", "cccc"]);
}

/// As many of the oldest as it takes.
pub async fn a_large_message_makes_room_for_all_of_its_bytes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length_bytes(10);
    if !has_queue(&connection, Feature::MaxLengthBytes, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["aa", "bb", "cc", "dd", "eeeeee"]).await;
    assert_eq!(
        texts(&drain(&connection, "jobs").await),
        ["cc", "dd", "eeeeee"]
    );
}

/// It is the head itself once all others have gone.
pub async fn a_message_larger_than_its_queue_is_dropped_with_the_others(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length_bytes(4);
    if !has_queue(&connection, Feature::MaxLengthBytes, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["a", "b", "too large"]).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    publish(&connection, "jobs", ["fits"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["fits"]);
}

/// What is reached first.
pub async fn both_limits_hold_at_once(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(3).max_length_bytes(10);
    let features = [Feature::MaxLength, Feature::MaxLengthBytes];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["a", "b", "c", "d"]).await;
    broker.assert_counts(&connection, "jobs", 3, 0).await;
    publish(&connection, "jobs", ["eeeeeeeee"]).await;
    let left = texts(&drain(&connection, "jobs").await);
    assert_eq!(left, ["d", "eeeeeeeee"]);
}

/// With them, there is more than the limit says.
pub async fn unsettled_messages_take_no_room(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(2);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(2).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let held = collect(&mut consumer, 2).await;
    publish(&connection, "jobs", ["2", "3"]).await;
    broker.assert_counts(&connection, "jobs", 2, 2).await;
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    assert_eq!(texts(&collect(&mut consumer, 2).await), ["2", "3"]);
}

/// What a consumer has room for is as good as delivered, though it is busy elsewhere.
pub async fn messages_for_a_consumer_with_room_take_none(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(1);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let first = collect_one(&mut consumer).await;
    first.ack().confirmed().await.unwrap();
    until_heard(broker).await;
    publish(&connection, "jobs", ["1", "2"]).await;
    for expected in ["1", "2"] {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), expected);
        delivery.ack().await.unwrap();
    }
}

/// However many they are.
pub async fn a_burst_for_a_consumer_with_room_is_not_dropped(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(10);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(1_000).await.unwrap();
    let burst: Vec<_> = (0..1_000).map(|number| number.to_string()).collect();
    publish(&connection, "jobs", &burst).await;
    let received = collect(&mut consumer, burst.len()).await;
    assert!(texts(&received) == burst, "{received:?}");
}

/// Their bytes don't either.
pub async fn unsettled_bytes_take_no_room(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length_bytes(6);
    if !has_queue(&connection, Feature::MaxLengthBytes, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["aaaaaa"]).await;
    let held = connection.get("jobs").await.unwrap().unwrap();
    publish(&connection, "jobs", ["bbb", "ccc"]).await;
    broker.assert_counts(&connection, "jobs", 2, 1).await;
    held.ack().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["bbb", "ccc"]);
}

/// At its old place, at the head: the queue is too long then, and that is what goes.
pub async fn a_message_that_is_released_into_a_full_queue_is_dropped(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .max_length(2)
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    let features = [Feature::MaxLength, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let oldest = connection.get("jobs").await.unwrap().unwrap();
    publish(&connection, "jobs", ["2"]).await;
    oldest.release().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "dead").await), ["0"]);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["1", "2"]);
}

/// Behind it, there are older ones.
pub async fn a_release_behind_the_head_drops_the_head(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(2);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    let second = connection.get("jobs").await.unwrap().unwrap();
    publish(&connection, "jobs", ["2"]).await;
    first.release().confirmed().await.unwrap();
    second.release().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["1", "2"]);
}

/// What comes back with a connection counts as well.
pub async fn what_goes_back_with_a_connection_is_limited(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs").max_length(3);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let held = collect(&mut consumer, 3).await;
    publish(&other, "jobs", ["3", "4"]).await;
    drop(consumer);
    for delivery in held.into_iter().rev() {
        delivery.release().confirmed().await.unwrap();
    }
    connection.close().await.unwrap();
    let left = texts(&drain(&other, "jobs").await);
    assert_eq!(left, ["2", "3", "4"]);
}

/// The head is what would be served first, so it is the important ones that go: RabbitMQ's documentation warns of it.
pub async fn a_full_queue_with_priorities_drops_what_it_would_serve_first(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(2).max_priority(9);
    let features = [Feature::MaxLength, Feature::Priority];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    for (text, priority) in [("high", 9), ("low", 0), ("lower", 0)] {
        let publish = producer.publish_text(text).priority(priority);
        publish.await.unwrap();
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["low", "lower"]);
    for (text, priority) in [("low", 0), ("lower", 0), ("high", 9)] {
        let publish = producer.publish_text(text).priority(priority);
        // Stored, and the first to go.
        assert!(publish.await.unwrap().routed);
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["low", "lower"]);
}

/// The copies in other queues stay.
pub async fn only_the_full_queue_drops_its_head(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    let small = Queue::new("small").max_length(1).bind(&news, "");
    if !has_queue(&connection, Feature::MaxLength, &small).await {
        return;
    }
    let large = Queue::new("large").bind(&news, "");
    connection.declare_queue(&large).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    for text in ["0", "1", "2"] {
        producer.publish_text(text).await.unwrap();
    }
    assert_eq!(texts(&drain(&connection, "small").await), ["2"]);
    assert_eq!(texts(&drain(&connection, "large").await), ["0", "1", "2"]);
}

/// No room at all.
pub async fn a_queue_of_length_zero_keeps_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_length(0);
    if !has_queue(&connection, Feature::MaxLength, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

//! Full queues that refuse what comes, and what their publishers learn.

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, Exchange, Overflow, Queue};

use super::{has_queue, has_queue_with};
use crate::cases::{fates, producer_to, publish};
use crate::expect::{assert_refused, collect, collect_one, drain, texts};
use crate::{Broker, Freedom};

const FEATURES: [Feature; 2] = [Feature::MaxLength, Feature::RejectPublish];

/// A queue with room for this many messages.
fn jobs(room: u64) -> Queue {
    Queue::new("jobs")
        .max_length(room)
        .overflow(Overflow::RejectPublish)
}

/// Until there is room again.
pub async fn a_full_queue_refuses_what_comes(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue_with(&connection, &FEATURES, &jobs(2)).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    let producer = producer_to(&connection, "jobs").await;
    let error = assert_refused(producer.publish_text("2").await, ErrorKind::Nacked, None);
    assert!(error.is_transient());
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0", "1"]);
    producer.publish_text("3").await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["3"]);
}

/// The queue refuses what would be too much, and takes what fits.
pub async fn a_queue_refuses_by_bytes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .max_length_bytes(10)
        .overflow(Overflow::RejectPublish);
    let features = [Feature::MaxLengthBytes, Feature::RejectPublish];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["aaaaaa"]).await;
    let producer = producer_to(&connection, "jobs").await;
    let refused = producer.publish_text("bbbbb").await;
    assert_refused(refused, ErrorKind::Nacked, None);
    producer.publish_text("cccc").await.unwrap();
    let refused = producer.publish_text("d").await;
    assert_refused(refused, ErrorKind::Nacked, None);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["aaaaaa", "cccc"]);
}

/// They are done by the time the publisher is told.
pub async fn the_other_queues_keep_what_one_refuses(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    if !has_queue_with(&connection, &FEATURES, &jobs(1).bind(&news, "")).await {
        return;
    }
    for name in ["before", "other"] {
        let queue = Queue::new(name).bind(&news, "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("0").await.unwrap();
    let refused = producer.publish_text("1").await;
    assert_refused(refused, ErrorKind::Nacked, None);
    for name in ["before", "other"] {
        assert_eq!(texts(&drain(&connection, name).await), ["0", "1"]);
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
}

/// Each publish has its own answer, in its place.
pub async fn a_batch_is_answered_one_by_one(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue_with(&connection, &FEATURES, &jobs(500)).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    let batch = (0..1_000).map(|number| producer.publish_text(number.to_string()));
    let answers = producer.batch(batch).await;
    assert_eq!(answers.len(), 1_000);
    for (number, answer) in answers.into_iter().enumerate() {
        match number < 500 {
            true => assert!(answer.unwrap().routed),
            false => drop(assert_refused(answer, ErrorKind::Nacked, None)),
        }
    }
    let stored = texts(&drain(&connection, "jobs").await);
    let expected: Vec<_> = (0..500).map(|number| number.to_string()).collect();
    assert!(stored == expected, "{stored:?}");
}

/// Its publisher learns that the queue has refused it, and the dead-letter exchange gets it.
pub async fn what_a_full_queue_refuses_can_be_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let overflow = Overflow::RejectPublishDlx;
    let jobs = Queue::new("jobs").max_length(1).overflow(overflow);
    let dead_letters = jobs.clone().dead_letter_exchange("");
    let dead_letters = dead_letters.dead_letter_routing_key("dead");
    let features = [FEATURES[0], FEATURES[1], Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &dead_letters).await {
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").await.unwrap();
    for text in ["1", "2"] {
        let refused = producer.publish_text(text).await;
        assert_refused(refused, ErrorKind::Nacked, None);
        let letter = collect_one(&mut dead).await;
        assert_eq!(letter.body(), text);
        assert_eq!(fates(&letter), [("jobs", "maxlen", 1)]);
        letter.ack().await.unwrap();
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
    // Without a target, it is refused and that is all.
    connection.delete_queue("jobs").await.unwrap();
    connection.declare_queue(&jobs).await.unwrap();
    producer.publish_text("0").await.unwrap();
    let refused = producer.publish_text("1").await;
    assert_refused(refused, ErrorKind::Nacked, None);
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// Their room is free as soon as they are handed out.
pub async fn unsettled_messages_keep_nobody_out(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue_with(&connection, &FEATURES, &jobs(2)).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs(2)).prefetch(2).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let held = collect(&mut consumer, 2).await;
    let producer = producer_to(&connection, "jobs").await;
    if broker.may(Freedom::CountInFlight) {
        let refused = producer.publish_text("2").await;
        assert_refused(refused, ErrorKind::Nacked, None);
        broker.assert_counts(&connection, "jobs", 0, 2).await;
        for delivery in held {
            delivery.ack().confirmed().await.unwrap();
        }
        publish(&connection, "jobs", ["2", "3"]).await;
        return;
    }
    publish(&connection, "jobs", ["2", "3"]).await;
    let refused = producer.publish_text("4").await;
    assert_refused(refused, ErrorKind::Nacked, None);
    broker.assert_counts(&connection, "jobs", 2, 2).await;
    drop(held);
}

/// It was there before: the queue is longer than its limit for a while, and takes nothing until it isn't.
pub async fn a_release_is_never_refused(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue_with(&connection, &FEATURES, &jobs(2)).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    let producer = producer_to(&connection, "jobs").await;
    if broker.may(Freedom::CountInFlight) {
        // It has kept its place.
        let refused = producer.publish_text("2").await;
        assert_refused(refused, ErrorKind::Nacked, None);
        first.release().confirmed().await.unwrap();
        broker.assert_counts(&connection, "jobs", 2, 0).await;
        return;
    }
    publish(&connection, "jobs", ["2"]).await;
    first.release().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 3, 0).await;
    for expected in ["0", "1"] {
        let refused = producer.publish_text("refused").await;
        assert_refused(refused, ErrorKind::Nacked, None);
        let head = connection.get("jobs").await.unwrap().unwrap();
        assert_eq!(head.body(), expected);
        head.ack().confirmed().await.unwrap();
    }
    producer.publish_text("3").await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["2", "3"]);
}

/// As if they had been taken one by one.
pub async fn a_purge_makes_room(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue_with(&connection, &FEATURES, &jobs(2)).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 2);
    publish(&connection, "jobs", ["2", "3"]).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["2", "3"]);
}

/// Its time was over, so it is in nobody's way.
pub async fn an_expired_message_makes_room(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = jobs(1).message_ttl(super::SOON);
    let features = [
        Feature::QueueMessageTtl,
        Feature::MaxLength,
        Feature::RejectPublish,
    ];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0"]).await;
    // Nobody looks at the queue but its publisher.
    let producer = producer_to(&connection, "jobs").await;
    loop {
        match producer.publish_text("1").await {
            Ok(_) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Nacked, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

/// A queue that is missing is another matter.
pub async fn a_refusal_is_not_the_same_as_being_unroutable(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::direct("news");
    let jobs = jobs(0).bind(&news, "here");
    if !has_queue_with(&connection, &FEATURES, &jobs).await {
        return;
    }
    let producer = connection.producer(&news).await.unwrap();
    let refused = producer.publish_text("0").routing_key("here").await;
    assert_refused(refused, ErrorKind::Nacked, None);
    let nowhere = producer.publish_text("0").routing_key("there").await;
    assert_refused(nowhere, ErrorKind::Unroutable, 312);
}

/// What to do when it is full says nothing about when that is.
pub async fn a_queue_without_a_limit_refuses_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").overflow(Overflow::RejectPublish);
    if !has_queue(&connection, Feature::RejectPublish, &jobs).await {
        return;
    }
    publish(&connection, "jobs", (0..100).map(|n: u32| n.to_string())).await;
    broker.assert_counts(&connection, "jobs", 100, 0).await;
}

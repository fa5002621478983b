//! Messages that become visible later. Until then they are in no queue that anybody can look into.
//!
//! What RabbitMQ does with a ladder of queues, or with its plug-in: a purge of the queue takes what is in it, and what
//! is still on its way arrives afterwards.

use std::time::{Duration, Instant};

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, Exchange, Queue};

use super::{LONG, SOON, has_queue, has_queue_with, takes};
use crate::Broker;
use crate::cases::{fates, producer_to, publish};
use crate::expect::{assert_refused, collect, collect_one, drain, info, texts};

/// Later than [`SOON`], whatever the steps of a ladder.
const LATER: Duration = Duration::from_millis(300);

/// Nor much later, but that is nobody's promise.
pub async fn a_delayed_message_does_not_come_early(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let begin = Instant::now();
    let published = producer.publish_text("0").delay(SOON).await.unwrap();
    assert!(published.routed);
    let delivery = collect_one(&mut consumer).await;
    assert!(begin.elapsed() >= SOON, "after {:?}", begin.elapsed());
    assert!(!delivery.redelivered());
    assert_eq!(delivery.attempt(), 1);
    delivery.ack().await.unwrap();
}

/// It isn't ready, and nobody has it.
pub async fn a_delayed_message_is_not_counted(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").delay(LONG).await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    assert!(connection.get("jobs").await.unwrap().is_none());
}

/// A single get finds it as soon as it is there.
pub async fn a_delayed_message_is_counted_when_it_is_due(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").delay(SOON).await.unwrap();
    while info(&connection, "jobs").await.ready == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
}

/// It stands behind what was there when it became visible.
pub async fn others_do_not_wait_for_a_delayed_message(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("later").delay(LATER).await.unwrap();
    publish(&connection, "jobs", ["now", "now too"]).await;
    let deliveries = collect(&mut consumer, 3).await;
    assert_eq!(texts(&deliveries), ["now", "now too", "later"]);
}

/// Whatever the order in which they were published.
pub async fn delayed_messages_come_in_the_order_of_their_times(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    for (text, delay) in [("last", 3 * LATER), ("first", SOON), ("second", LATER)] {
        let publish = producer.publish_text(text).delay(delay);
        publish.await.unwrap();
    }
    let deliveries = collect(&mut consumer, 3).await;
    assert_eq!(texts(&deliveries), ["first", "second", "last"]);
}

/// Among those of one time, the oldest first.
pub async fn messages_with_one_delay_keep_their_order(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let numbers = || (0..50).map(|number: u32| number.to_string());
    for text in numbers() {
        producer.publish_text(text).delay(SOON).await.unwrap();
    }
    let came = texts(&collect(&mut consumer, 50).await);
    assert!(came.iter().eq(&numbers().collect::<Vec<_>>()), "{came:?}");
}

/// Each has its copy, when it is due.
pub async fn every_matching_queue_gets_a_delayed_message(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let news = Exchange::fanout("news");
    let queues = ["one", "other"].map(|name| Queue::new(name).bind(&news, ""));
    let mut consumer = connection.consumer(&queues).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("0").delay(SOON).await.unwrap();
    let deliveries = collect(&mut consumer, 2).await;
    let mut from: Vec<_> = deliveries.iter().map(|one| one.queue().as_str()).collect();
    from.sort_unstable();
    assert_eq!(from, ["one", "other"]);
}

/// It is the broker that keeps it.
pub async fn a_delayed_message_outlives_its_publishers_connection(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let mut consumer = other.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").delay(SOON).await.unwrap();
    connection.close().await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "0");
    delivery.ack().await.unwrap();
}

/// It wasn't there yet.
pub async fn a_purge_leaves_what_is_delayed(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("later").delay(LATER).await.unwrap();
    publish(&connection, "jobs", ["now"]).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 1);
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "later");
    delivery.ack().await.unwrap();
}

/// To the conditions for deleting, it is empty.
pub async fn a_queue_with_delayed_messages_counts_as_empty(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").delay(LONG).await.unwrap();
    let deleted = connection.delete_queue("jobs").if_empty().await;
    assert_eq!(deleted.unwrap(), 0);
}

/// Nobody is left who could get it, and nothing else is disturbed.
pub async fn a_delayed_message_whose_queue_is_deleted_is_gone(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    let queues = [Queue::new("gone"), Queue::new("here")];
    let mut consumer = connection.consumer(&queues).await.unwrap();
    for (queue, delay) in [("gone", LATER), ("here", 2 * LATER)] {
        let producer = producer_to(&connection, queue).await;
        let publish = producer.publish_text(queue).delay(delay);
        publish.await.unwrap();
    }
    connection.delete_queue("gone").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "here");
    delivery.ack().await.unwrap();
    let found = connection.queue_info("gone").await;
    assert_refused(found, ErrorKind::NotFound, 404);
}

/// From when it can be seen: until then it isn't waiting.
pub async fn the_time_to_live_begins_when_the_delay_is_over(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(LATER);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await
        || !takes(&connection, Feature::DelayedPublish).await
    {
        return;
    }
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").delay(2 * LATER).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "0");
    delivery.ack().await.unwrap();
}

/// And it ends, though nobody ever looked.
pub async fn a_delayed_message_expires_when_nobody_takes_it(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .dead_letter_exchange("")
        .dead_letter_routing_key("late");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await
        || !takes(&connection, Feature::DelayedPublish).await
    {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let begin = Instant::now();
    producer.publish_text("0").delay(SOON).await.unwrap();
    let letter = collect_one(&mut late).await;
    assert!(begin.elapsed() >= 2 * SOON, "after {:?}", begin.elapsed());
    assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
    letter.ack().await.unwrap();
}

/// It is a new message, with nothing left to wait for.
pub async fn a_dead_letter_is_not_delayed_again(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await
        || !takes(&connection, Feature::DelayedPublish).await
    {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").delay(LATER).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    delivery.reject().confirmed().await.unwrap();
    broker.assert_counts(&connection, "dead", 1, 0).await;
}

/// As if nothing had been said.
pub async fn a_delay_of_zero_is_none(broker: &Broker) {
    let connection = broker.connect().await;
    if !takes(&connection, Feature::DelayedPublish).await {
        return;
    }
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let publish = producer.publish_text("0").delay(Duration::ZERO);
    publish.await.unwrap();
    producer.publish_text("1").await.unwrap();
    let messages = drain(&connection, "jobs").await;
    assert_eq!(texts(&messages), ["0", "1"]);
}

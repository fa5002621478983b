//! How long a message waits, and where it has to be for its time to count.

use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::{Exchange, Queue};

use super::{
    LONG, SOON, has_queue, has_queue_with, take_in_time, takes, until_empty, until_heard,
    until_over,
};
use crate::cases::{deaths, fates, producer_to, publish, text_of};
use crate::expect::{collect_one, drain, info, texts};
use crate::{Broker, Freedom};

/// A queue `jobs` whose dead letters go to the queue `late`, which isn't declared here.
fn jobs() -> Queue {
    Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("late")
}

/// In a queue that would keep it for long.
pub async fn the_messages_own_time_wins_if_it_is_shorter(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(LONG);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").expiration(SOON).await.unwrap();
    until_empty(&connection, "jobs").await;
}

/// Whatever the message asks for.
pub async fn the_queues_time_wins_if_it_is_shorter(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(SOON);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").expiration(LONG).await.unwrap();
    until_empty(&connection, "jobs").await;
}

/// The copy in the other queue has its own time.
pub async fn each_queue_has_its_own_time(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    let short = Queue::new("short").message_ttl(SOON).bind(&news, "");
    let long = Queue::new("long").message_ttl(LONG).bind(&news, "");
    let endless = Queue::new("endless").bind(&news, "");
    if !has_queue(&connection, Feature::QueueMessageTtl, &short).await {
        return;
    }
    connection.declare_queue(&long).await.unwrap();
    connection.declare_queue(&endless).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("0").await.unwrap();
    until_empty(&connection, "short").await;
    assert_eq!(texts(&drain(&connection, "long").await), ["0"]);
    assert_eq!(texts(&drain(&connection, "endless").await), ["0"]);
}

/// Until then it is there, though nobody will ever get it.
pub async fn an_expired_message_behind_a_live_one_counts_until_it_is_at_the_head(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    if !takes(&connection, Feature::MessageTtl).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("live").await.unwrap();
    let short = producer.publish_text("short").expiration(SOON);
    short.await.unwrap();
    until_over(&connection, SOON).await;
    assert_eq!(info(&connection, "jobs").await.ready, 2);
    let live = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(live.body(), "live");
    live.ack().await.unwrap();
    until_empty(&connection, "jobs").await;
    assert!(connection.get("jobs").await.unwrap().is_none());
}

/// Nobody has to look at the queue for it.
pub async fn an_expired_message_dies_as_soon_as_it_is_at_the_head(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("live").await.unwrap();
    let short = producer.publish_text("short").expiration(SOON);
    short.await.unwrap();
    until_over(&connection, SOON).await;
    broker.assert_silent(&mut late).await;
    let live = connection.get("jobs").await.unwrap().unwrap();
    let letter = collect_one(&mut late).await;
    assert_eq!(letter.body(), "short");
    assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
    live.ack().await.unwrap();
    letter.ack().await.unwrap();
}

/// The same when the one before it isn't expired yet, and is taken.
pub async fn the_time_of_the_next_head_is_looked_after(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("live").await.unwrap();
    let short = producer.publish_text("short").expiration(SOON);
    short.await.unwrap();
    let live = connection.get("jobs").await.unwrap().unwrap();
    let letter = collect_one(&mut late).await;
    assert_eq!(letter.body(), "short");
    letter.ack().await.unwrap();
    live.ack().await.unwrap();
}

/// Though the queue has something else to wait for, and for much longer.
pub async fn a_short_time_is_looked_after_beside_a_long_one(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = jobs().message_ttl(SOON).expires(LONG);
    let features = [
        Feature::QueueExpiry,
        Feature::QueueMessageTtl,
        Feature::DeadLetter,
    ];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let letter = collect_one(&mut late).await;
    assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
    letter.ack().await.unwrap();
}

/// A consumer that comes later gets the live ones only.
pub async fn an_expired_message_is_never_handed_out(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    if !takes(&connection, Feature::MessageTtl).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    for text in ["0", "1", "2"] {
        producer.publish_text(text).expiration(SOON).await.unwrap();
    }
    producer.publish_text("live").await.unwrap();
    until_over(&connection, SOON).await;
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "live");
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Who has it may settle it, whenever.
pub async fn a_message_does_not_expire_while_somebody_has_it(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    connection.declare_queue(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let held = take_in_time(&connection, &producer, "jobs").await;
    let died_before = info(&connection, "late").await.ready;
    until_over(&connection, SOON).await;
    broker.assert_counts(&connection, "jobs", 0, 1).await;
    held.ack().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    assert_eq!(info(&connection, "late").await.ready, died_before);
}

/// It isn't given new time, and so it is over at once.
pub async fn a_released_message_keeps_its_expiry(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let held = take_in_time(&connection, &producer, "jobs").await;
    let body = held.body().clone();
    until_over(&connection, SOON).await;
    held.release().confirmed().await.unwrap();
    assert!(connection.get("jobs").await.unwrap().is_none());
    loop {
        let letter = collect_one(&mut late).await;
        assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
        let is_it = *letter.body() == body;
        letter.ack().await.unwrap();
        if is_it {
            break;
        }
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// One that still has time is there again, and goes when its time is over.
pub async fn a_message_that_is_released_in_time_still_expires(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let held = take_in_time(&connection, &producer, "jobs").await;
    let body = held.body().clone();
    held.release().confirmed().await.unwrap();
    while *collect_one(&mut late).await.body() != body {}
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Nor does a retry give it new time.
pub async fn a_retried_message_keeps_its_expiry(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    if !takes(&connection, Feature::MessageTtl).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    let held = take_in_time(&connection, &producer, "jobs").await;
    until_over(&connection, SOON).await;
    held.retry().confirmed().await.unwrap();
    if broker.may(Freedom::RetryByCopy) {
        until_over(&connection, SOON).await;
    }
    assert!(connection.get("jobs").await.unwrap().is_none());
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// What its consumer had when it went is over as well.
pub async fn a_message_that_goes_back_with_its_connection_keeps_its_expiry(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    if !takes(&connection, Feature::MessageTtl).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    let held = take_in_time(&connection, &producer, "jobs").await;
    until_over(&connection, SOON).await;
    connection.close().await.unwrap();
    drop(held);
    until_empty(&other, "jobs").await;
    assert!(other.get("jobs").await.unwrap().is_none());
}

/// It reached the queue: the publish succeeds.
pub async fn a_time_of_zero_is_over_at_once_if_nobody_waits(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let publish = producer.publish_text("now or never");
    let published = publish.expiration(Duration::ZERO).await.unwrap();
    assert!(published.routed);
    let letter = collect_one(&mut late).await;
    assert_eq!(letter.body(), "now or never");
    assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
    letter.ack().await.unwrap();
    assert!(connection.get("jobs").await.unwrap().is_none());
}

/// The queue may say so too.
pub async fn a_queue_whose_time_is_zero_keeps_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(Duration::ZERO);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    until_empty(&connection, "jobs").await;
    assert!(connection.get("jobs").await.unwrap().is_none());
}

/// It need not wait for anything: it has room.
pub async fn a_time_of_zero_is_enough_for_a_consumer_that_is_busy_elsewhere(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(Duration::ZERO);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    for text in ["first", "second", "third"] {
        publish(&connection, "jobs", [text]).await;
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), text);
        delivery.ack().confirmed().await.unwrap();
        until_heard(broker).await;
    }
    publish(&connection, "jobs", ["held"]).await;
    let held = collect_one(&mut consumer).await;
    publish(&connection, "jobs", ["no room"]).await;
    until_empty(&connection, "jobs").await;
    held.ack().confirmed().await.unwrap();
    broker.assert_silent(&mut consumer).await;
}

/// What was kept for it goes back to its queue, where its time is over.
pub async fn a_message_without_time_is_gone_when_its_consumer_is_paused(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(Duration::ZERO);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", ["now or never"]).await;
    consumer.pause();
    until_empty(&connection, "jobs").await;
    consumer.resume();
    broker.assert_silent(&mut consumer).await;
}

/// That is what it is for: now or never.
pub async fn a_time_of_zero_is_enough_for_a_consumer_that_waits(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(Duration::ZERO);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(2).await.unwrap();
    // It waits from here on.
    broker.assert_silent(&mut consumer).await;
    let waiting = tokio::spawn(async move { collect_one(&mut consumer).await });
    tokio::task::yield_now().await;
    publish(&connection, "jobs", ["in time"]).await;
    let delivery = waiting.await.unwrap();
    assert_eq!(delivery.body(), "in time");
    delivery.ack().await.unwrap();
}

/// Its time was over before; only the consumer that waited had a right to it.
pub async fn a_message_without_time_is_gone_when_it_is_released(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(Duration::ZERO);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    broker.assert_silent(&mut consumer).await;
    let waiting = tokio::spawn(async move {
        let delivery = collect_one(&mut consumer).await;
        (consumer, delivery)
    });
    tokio::task::yield_now().await;
    publish(&connection, "jobs", ["now or never"]).await;
    let (mut consumer, delivery) = waiting.await.unwrap();
    delivery.release().confirmed().await.unwrap();
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// A dead letter would expire again and again otherwise; what it was is kept in its entry.
pub async fn a_dead_letter_has_no_expiration_any_more(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::DeadLetter, &jobs()).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    connection.declare_queue(&Queue::new("late")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").expiration(SOON).await.unwrap();
    until_empty(&connection, "jobs").await;
    // Once more as long: it stays.
    until_over(&connection, SOON).await;
    let [letter] = drain(&connection, "late").await.try_into().unwrap();
    assert_eq!(letter.expiration(), None);
    let [death] = deaths(&letter).try_into().unwrap();
    let kept = text_of(death, "original-expiration");
    assert_eq!(kept, Some("20"));
}

/// A message that only its queue gave a time has no such entry.
pub async fn no_expiration_is_kept_where_there_was_none(broker: &Broker) {
    let connection = broker.connect().await;
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs().message_ttl(SOON)).await {
        return;
    }
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let letter = collect_one(&mut late).await;
    let [death] = deaths(&letter).try_into().unwrap();
    assert!(!death.contains("original-expiration"), "{death:?}");
    letter.ack().await.unwrap();
}

/// By that queue's own time, from when it came there.
pub async fn a_dead_letter_can_expire_in_its_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let late = Queue::new("late")
        .message_ttl(SOON)
        .dead_letter_exchange("")
        .dead_letter_routing_key("later");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &late).await {
        return;
    }
    let jobs = jobs().message_ttl(SOON);
    connection.declare_queue(&jobs).await.unwrap();
    let mut later = connection.consumer(&Queue::new("later")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let letter = collect_one(&mut later).await;
    let expected = [("late", "expired", 1), ("jobs", "expired", 1)];
    assert_eq!(fates(&letter), expected);
    letter.ack().await.unwrap();
}

/// As they were published, though they die at the same time.
pub async fn expired_messages_keep_their_order(broker: &Broker) {
    let connection = broker.connect().await;
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs().message_ttl(SOON)).await {
        return;
    }
    connection.declare_queue(&Queue::new("late")).await.unwrap();
    publish(&connection, "jobs", (0..50).map(|n: u32| n.to_string())).await;
    until_empty(&connection, "jobs").await;
    let letters = texts(&drain(&connection, "late").await);
    assert!(
        letters
            .iter()
            .eq(&(0..50).map(|n| n.to_string()).collect::<Vec<_>>()),
        "{letters:?}"
    );
}

/// Serving order decides what the head is: RabbitMQ says so, though even the queue's own time may be long over.
pub async fn an_expired_message_behind_one_of_a_higher_priority_waits_too(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &jobs).await
        || !takes(&connection, Feature::MessageTtl).await
    {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    let high = producer.publish_text("high").priority(9);
    high.await.unwrap();
    let low = producer.publish_text("low").priority(0);
    low.expiration(SOON).await.unwrap();
    until_over(&connection, SOON).await;
    assert_eq!(info(&connection, "jobs").await.ready, 2);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["high"]);
}

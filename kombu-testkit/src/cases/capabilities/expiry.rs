//! What is there for a while only.

use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, Exchange, FieldValue, Queue};

use super::{SOON, has_queue, takes, until_empty, until_gone};
use crate::Broker;
use crate::cases::{producer_to, publish};
use crate::expect::{assert_refused, assert_unsupported, collect_one, drain, info, texts};

/// Nobody consumes from it, and it goes.
pub async fn a_queue_expires_when_nobody_uses_it(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").expires(SOON);
    if has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        until_gone(&connection, "jobs").await;
    }
}

/// Nobody consumes it, and it goes.
pub async fn a_message_expires_by_the_time_to_live_of_its_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").message_ttl(SOON);
    if !has_queue(&connection, Feature::QueueMessageTtl, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["gone soon", "this too"]).await;
    until_empty(&connection, "jobs").await;
    assert_eq!(drain(&connection, "jobs").await.len(), 0);
}

/// With its reason, to who waits for it.
pub async fn an_expired_message_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .dead_letter_exchange("");
    let jobs = jobs.dead_letter_routing_key("late");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !features
        .iter()
        .all(|feature| connection.capabilities().has(*feature))
    {
        assert_unsupported(connection.declare_queue(&jobs).await);
        return;
    }
    connection.declare_queue(&jobs).await.unwrap();
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    publish(&connection, "jobs", ["too late"]).await;
    let delivery = collect_one(&mut late).await;
    assert_eq!(delivery.body(), "too late");
    let deaths = delivery
        .headers()
        .get("x-death")
        .and_then(FieldValue::as_array)
        .unwrap();
    let death = deaths[0].as_table().unwrap();
    assert_eq!(
        death.get("reason").and_then(FieldValue::as_str),
        Some("expired")
    );
    assert_eq!(
        death.get("queue").and_then(FieldValue::as_str),
        Some("jobs")
    );
    delivery.ack().await.unwrap();
}

/// Its own time, in a queue that has none.
pub async fn a_message_expires_by_its_own_expiration(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let published = producer.publish_text("gone soon").expiration(SOON).await;
    if !connection.capabilities().has(Feature::MessageTtl) {
        let error = assert_unsupported(published);
        assert!(error.to_string().contains("expiration"), "{error}");
        assert_eq!(info(&connection, "jobs").await.ready, 0);
        return;
    }
    published.unwrap();
    until_empty(&connection, "jobs").await;
    assert_eq!(drain(&connection, "jobs").await.len(), 0);
}

/// The longest that RabbitMQ takes; more is refused on every transport, before anything is sent.
pub async fn an_expiration_beyond_the_longest_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let longest = Duration::from_millis(u64::from(u32::MAX));
    let longer = producer
        .publish_text("longer")
        .expiration(longest + Duration::from_millis(1));
    let error = assert_refused(longer.await, ErrorKind::PreconditionFailed, 406);
    assert!(error.to_string().contains("`expiration`"), "{error}");
    assert!(!error.may_have_been_stored());
    if takes(&connection, Feature::MessageTtl).await {
        let publish = producer.publish_text("longest").expiration(longest);
        publish.await.unwrap();
        assert_eq!(texts(&drain(&connection, "jobs").await), ["longest"]);
    }
}

/// What has time arrives, and tells how much it had.
pub async fn a_message_that_has_time_arrives_with_its_expiration(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let hour = Duration::from_secs(3600);
    let published = producer.publish_text("in time").expiration(hour).await;
    if !connection.capabilities().has(Feature::MessageTtl) {
        let error = assert_unsupported(published);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        return;
    }
    published.unwrap();
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(delivery.expiration(), Some(hour));
    delivery.ack().await.unwrap();
}

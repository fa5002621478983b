//! A declaration can ask whether something is there, or rely on it.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// Asking makes nothing.
pub async fn a_passive_declaration_of_a_missing_queue_fails_and_makes_none(broker: &Broker) {
    let connection = broker.connect().await;
    for _ in 0..2 {
        let declared = connection
            .declare_queue(&Queue::new("jobs").passive())
            .await;
        let error = assert_refused(declared, ErrorKind::NotFound, 404);
        assert!(error.to_string().contains("`jobs`"), "{error}");
    }
    assert_works(&connection).await;
}

/// Asking makes nothing.
pub async fn a_passive_declaration_of_a_missing_exchange_fails_and_makes_none(broker: &Broker) {
    let connection = broker.connect().await;
    for _ in 0..2 {
        let declared = connection
            .declare_exchange(&Exchange::topic("media").passive())
            .await;
        let error = assert_refused(declared, ErrorKind::NotFound, 404);
        assert!(error.to_string().contains("`media`"), "{error}");
    }
    assert_works(&connection).await;
}

/// Only the name is compared, and the counts are answered.
pub async fn a_passive_declaration_finds_what_is_there_by_its_name(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("one")
        .routing_key("jobs")
        .await
        .unwrap();
    let other = Queue::new("jobs").durable(false).passive();
    assert_eq!(connection.declare_queue(&other).await.unwrap().ready, 1);
    let other = Exchange::fanout("media").passive();
    connection.declare_exchange(&other).await.unwrap();
}

/// A consumer of a queue that has to be there fails at once if it isn't.
pub async fn a_consumer_of_a_missing_passive_queue_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let consumer = connection.consumer(&Queue::new("jobs").passive()).await;
    assert_refused(consumer, ErrorKind::NotFound, 404);
    assert_works(&connection).await;
}

/// A consumer of a queue that somebody else declares.
pub async fn a_consumer_uses_a_queue_that_was_declared_elsewhere(broker: &Broker) {
    let (owner, user) = (broker.connect().await, broker.connect().await);
    owner
        .declare_queue(&Queue::new("jobs").durable(false))
        .await
        .unwrap();
    let producer = owner.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("work")
        .routing_key("jobs")
        .await
        .unwrap();
    let mut consumer = user
        .consumer(&Queue::new("jobs").no_declare())
        .await
        .unwrap();
    let delivery = crate::expect::collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "work");
    delivery.ack().await.unwrap();
}

/// Nothing is declared, so opening a consumer finds out.
pub async fn a_consumer_of_a_missing_queue_that_it_may_not_declare_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let consumer = connection.consumer(&Queue::new("jobs").no_declare()).await;
    assert_refused(consumer, ErrorKind::NotFound, 404);
    let info = connection.queue_info("jobs").await;
    assert_refused(info, ErrorKind::NotFound, 404);
    assert_works(&connection).await;
}

/// Nothing is declared, so the publish finds out, and goes through once somebody has declared it.
pub async fn a_producer_that_may_not_declare_finds_its_exchange_missing(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = connection
        .producer(Exchange::fanout("news").no_declare())
        .await
        .unwrap();
    let published = producer.publish_text("early").await;
    assert_refused(published, ErrorKind::NotFound, 404);
    let queue = Queue::new("readers").bind(Exchange::fanout("news"), "");
    connection.declare_queue(&queue).await.unwrap();
    assert!(producer.publish_text("late").await.unwrap().routed);
    assert_eq!(texts(&drain(&connection, "readers").await), ["late"]);
}

/// Neither the queue nor its exchange is made.
pub async fn a_queue_that_may_not_be_declared_leaves_its_exchange_alone(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let queue = Queue::new("jobs")
        .bind(Exchange::topic("media"), "#")
        .no_declare();
    connection.declare_queue(&queue).await.unwrap();
    let exchange = connection
        .declare_exchange(&Exchange::topic("media").passive())
        .await;
    assert_refused(exchange, ErrorKind::NotFound, 404);
}

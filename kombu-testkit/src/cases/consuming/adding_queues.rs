//! A consumer takes in further queues while it runs.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::{consumers, numbers};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, texts};

/// What waits there comes at once, and so does what is published later.
pub async fn an_added_queue_is_declared_and_received_from(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("first")).await.unwrap();
    connection.declare_queue(&Queue::new("next")).await.unwrap();
    publish(&connection, "next", ["waits"]).await;
    let name = consumer.add_queue(&Queue::new("next")).await.unwrap();
    assert_eq!(name, "next");
    consumer.add_queue(&Queue::new("last")).await.unwrap();
    assert_eq!(consumer.queues(), ["first", "next", "last"]);
    publish(&connection, "last", ["comes"]).await;
    publish(&connection, "first", ["as before"]).await;
    let mut received = Vec::new();
    for delivery in collect(&mut consumer, 3).await {
        received.extend(texts([&delivery]));
        assert_eq!(delivery.queue(), delivery.routing_key());
        delivery.ack().await.unwrap();
    }
    received.sort();
    assert_eq!(received, ["as before", "comes", "waits"]);
}

/// With its exchanges and bindings; one without a name gets one.
pub async fn an_added_queue_is_bound_and_named(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let name = consumer
        .add_queue(&Queue::server_named().bind(&news, ""))
        .await
        .unwrap();
    assert_eq!(consumer.queues()[1], name);
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("rain").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(
        (delivery.queue(), texts([&delivery])),
        (&name, vec!["rain".to_owned()])
    );
    delivery.ack().await.unwrap();
}

/// What is unsettled from the others counts for it too.
pub async fn an_added_queue_shares_the_window(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("first"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "first", ["held"]).await;
    let held = collect_one(&mut consumer).await;
    consumer.add_queue(&Queue::new("next")).await.unwrap();
    publish(&connection, "next", ["waits"]).await;
    broker.assert_silent(&mut consumer).await;
    held.ack().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.body(), "waits");
}

/// It isn't received from twice.
pub async fn adding_a_queue_again_changes_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    consumer.add_queue(&jobs).await.unwrap();
    assert_eq!(consumer.queues(), ["jobs"]);
    assert_eq!(consumers(&connection, "jobs").await, 1);
}

/// The error says why, and the others go on.
pub async fn a_queue_that_is_refused_is_not_added(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let added = consumer.add_queue(&Queue::new("nowhere").passive()).await;
    let error = assert_refused(added, ErrorKind::NotFound, 404);
    assert!(error.to_string().contains("`nowhere`"), "{error}");
    let added = consumer
        .add_queue(&Queue::new("nowhere").no_declare())
        .await;
    assert_refused(added, ErrorKind::NotFound, 404);
    assert_eq!(consumer.queues(), ["jobs"]);
    publish(&connection, "jobs", ["goes on"]).await;
    assert_eq!(collect_one(&mut consumer).await.body(), "goes on");
}

/// There is nothing to add it to.
pub async fn a_consumer_that_has_ended_takes_in_no_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    connection.delete_queue("jobs").await.unwrap();
    let ended = consumer.next().await.unwrap();
    assert_refused(ended, ErrorKind::ConsumerCancelled, None);
    let added = consumer.add_queue(&Queue::new("next")).await;
    assert_refused(added, ErrorKind::Closed, None);
}

/// Whatever was added and left before: each delivery is settled where it came from.
pub async fn deliveries_are_told_apart_when_queues_come_and_go(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("base")).await.unwrap();
    let mut held = Vec::new();
    for round in 0..3 {
        for queue in ["left", "right"] {
            consumer.add_queue(&Queue::new(queue)).await.unwrap();
            publish(&connection, queue, [format!("{queue} {round}")]).await;
            let delivery = collect_one(&mut consumer).await;
            assert_eq!(texts([&delivery]), [format!("{queue} {round}")]);
            assert_eq!(delivery.queue(), queue);
            held.push(delivery);
            consumer.cancel_queue(queue).await.unwrap();
        }
    }
    for delivery in held {
        match delivery.queue().as_str() {
            "left" => delivery.ack().confirmed().await.unwrap(),
            _ => delivery.release().confirmed().await.unwrap(),
        }
    }
    broker.assert_counts(&connection, "left", 0, 0).await;
    broker.assert_counts(&connection, "right", 3, 0).await;
}

/// However much waits in the others.
pub async fn an_added_queue_is_not_starved(broker: &Broker) {
    let connection = broker.connect().await;
    let busy = Queue::new("busy");
    connection.declare_queue(&busy).await.unwrap();
    publish(&connection, "busy", numbers(0..1000)).await;
    let mut consumer = connection.consumer(&busy).prefetch(3).await.unwrap();
    for delivery in collect(&mut consumer, 3).await {
        delivery.ack().await.unwrap();
    }
    consumer.add_queue(&Queue::new("quiet")).await.unwrap();
    publish(&connection, "quiet", ["at last"]).await;
    for _ in 0..12 {
        let delivery = collect_one(&mut consumer).await;
        let is_quiet = delivery.queue() == "quiet";
        delivery.ack().await.unwrap();
        if is_quiet {
            return;
        }
    }
    panic!("12 messages of the busy queue came first");
}

//! A closed producer publishes nothing more; the connection stays open.

use kombu_core::{ErrorKind, Exchange, Queue};

use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// In all the ways to publish, by all of its handles.
pub async fn publishing_after_close_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let open = connection.producer(Exchange::default()).routing_key("jobs");
    let producer = open.await.unwrap();
    let other_handle = producer.clone();
    producer.publish_text("before").await.unwrap();
    producer.close();
    for producer in [&producer, &other_handle] {
        assert_refused(
            producer.publish_text("after").await,
            ErrorKind::Closed,
            None,
        );
        assert_refused(producer.publish(&7).send().await, ErrorKind::Closed, None);
        let batch = producer.batch([producer.publish_text("a"), producer.publish_text("b")]);
        for published in batch.await {
            assert_refused(published, ErrorKind::Closed, None);
        }
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["before"]);
}

/// Nothing else is closed with it.
pub async fn closing_a_producer_leaves_the_connection_open(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let open = || connection.producer(Exchange::default()).routing_key("jobs");
    let (closed, other) = (open().await.unwrap(), open().await.unwrap());
    closed.close();
    closed.close();
    other.publish_text("other").await.unwrap();
    open().await.unwrap().publish_text("new").await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["other", "new"]);
}

/// What was handed over before is on its way.
pub async fn what_was_sent_before_close_arrives(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let receipt = producer.publish_text("sent").send().await.unwrap();
    producer.close();
    assert!(receipt.await.unwrap().routed);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["sent"]);
}

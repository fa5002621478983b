//! A purge takes the ready messages, and nothing else.

use kombu_core::{Exchange, Queue};

use crate::Broker;
use crate::expect::{collect, drain, texts};

/// The second one finds none.
pub async fn a_purge_counts_what_it_removes(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for text in ["one", "two", "three"] {
        producer
            .publish_text(text)
            .routing_key("jobs")
            .await
            .unwrap();
    }
    assert_eq!(connection.purge("jobs").await.unwrap(), 3);
    assert_eq!(connection.purge("jobs").await.unwrap(), 0);
    assert_eq!(drain(&connection, "jobs").await.len(), 0);
}

/// What somebody works on is neither counted nor removed: it can be given back.
pub async fn unsettled_messages_survive_a_purge(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for text in ["held", "ready"] {
        producer
            .publish_text(text)
            .routing_key("jobs")
            .await
            .unwrap();
    }
    let held = collect(&mut consumer, 1).await;
    broker.assert_counts(&connection, "jobs", 1, 1).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 1);
    for delivery in held {
        delivery.release().await.unwrap();
    }
    let again = collect(&mut consumer, 1).await;
    assert_eq!(texts(&again), ["held"]);
}

/// The queue goes on as before.
pub async fn a_purged_queue_goes_on_receiving(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::fanout("media");
    connection
        .declare_queue(&Queue::new("jobs").bind(&media, ""))
        .await
        .unwrap();
    let producer = connection.producer(&media).await.unwrap();
    producer.publish_text("gone").await.unwrap();
    connection.purge("jobs").await.unwrap();
    producer.publish_text("new").await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["new"]);
}

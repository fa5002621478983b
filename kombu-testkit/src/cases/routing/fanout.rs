//! A fanout exchange sends to everything that is bound to it.

use kombu_core::{Exchange, Queue};

use super::bodies;
use crate::Broker;

/// Neither the keys of the bindings nor the message's own one matter.
pub async fn every_bound_queue_gets_a_copy_whatever_the_keys_are(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    for (queue, key) in [("plain", ""), ("keyed", "sports"), ("pattern", "#.sports")] {
        let queue = Queue::new(queue).bind(&news, key);
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    let published = producer
        .publish_text("rain")
        .routing_key("weather")
        .await
        .unwrap();
    assert!(published.routed);
    for queue in ["plain", "keyed", "pattern"] {
        assert_eq!(bodies(&connection, queue).await, ["rain"], "{queue}");
    }
}

/// A queue that isn't bound gets nothing, even if the routing key is its name.
pub async fn a_queue_that_is_not_bound_gets_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    connection
        .declare_queue(&Queue::new("bound").bind(&news, ""))
        .await
        .unwrap();
    connection
        .declare_queue(&Queue::new("apart"))
        .await
        .unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer
        .publish_text("rain")
        .routing_key("apart")
        .await
        .unwrap();
    assert_eq!(bodies(&connection, "bound").await, ["rain"]);
    assert_eq!(bodies(&connection, "apart").await, [""; 0]);
}

/// Several bindings with different keys are still one way: one copy.
pub async fn a_queue_that_is_bound_twice_gets_one_copy(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    let queue = Queue::new("twice")
        .bind(&news, "sports")
        .bind(&news, "weather");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer
        .publish_text("rain")
        .routing_key("weather")
        .await
        .unwrap();
    assert_eq!(bodies(&connection, "twice").await, ["rain"]);
}

/// Copies are independent: settling one leaves the others.
pub async fn each_copy_is_settled_for_itself(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    for queue in ["done", "waiting"] {
        connection
            .declare_queue(&Queue::new(queue).bind(&news, ""))
            .await
            .unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("rain").await.unwrap();
    assert_eq!(bodies(&connection, "done").await, ["rain"]);
    broker.assert_counts(&connection, "waiting", 1, 0).await;
}

//! The default exchange sends to the queue whose name is the routing key.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::bodies;
use crate::Broker;
use crate::expect::assert_refused;

/// Every queue is reachable by its name, without a binding.
pub async fn a_message_goes_to_the_queue_named_by_its_routing_key(broker: &Broker) {
    let connection = broker.connect().await;
    for queue in ["jobs", "jobs.urgent", "other"] {
        connection.declare_queue(&Queue::new(queue)).await.unwrap();
    }
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for key in ["jobs.urgent", "jobs"] {
        let published = producer.publish_text(key).routing_key(key).await.unwrap();
        assert!(published.routed);
    }
    assert_eq!(bodies(&connection, "jobs").await, ["jobs"]);
    assert_eq!(bodies(&connection, "jobs.urgent").await, ["jobs.urgent"]);
    assert_eq!(bodies(&connection, "other").await, [""; 0]);
}

/// A name is no pattern here.
pub async fn wildcards_in_a_key_name_no_other_queue(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for key in ["#", "*", "job", "jobs.", "Jobs"] {
        let published = producer.publish_text(key).routing_key(key).await;
        assert_refused(published, ErrorKind::Unroutable, 312);
    }
    assert_eq!(bodies(&connection, "jobs").await, [""; 0]);
}

/// Without a routing key there is no queue of that name: the empty one belongs to nobody.
pub async fn a_message_without_a_key_is_unroutable(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_queue(&Queue::server_named())
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let published = producer.publish_text("lost").await;
    assert_refused(published, ErrorKind::Unroutable, 312);
}

/// A queue that was bound elsewhere is still reachable by its name, and gets one copy of each message.
pub async fn a_bound_queue_is_also_reachable_by_its_name(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::direct("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "videos"))
        .await
        .unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("videos")
        .await
        .unwrap();
    producer.publish_text("by name").await.unwrap();
    producer
        .publish_text("by binding")
        .exchange(&media)
        .await
        .unwrap();
    assert_eq!(
        bodies(&connection, "videos").await,
        ["by name", "by binding"]
    );
}

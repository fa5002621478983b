//! One message can be taken without a consumer.

use kombu_core::{Exchange, Queue};

use super::consumers;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{drain, texts};

/// In order, and then nothing.
pub async fn messages_are_taken_one_by_one_until_there_is_none(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["one", "two", "three", "four"]).await;
    let mut taken = Vec::new();
    while let Some(delivery) = connection.get("jobs").await.unwrap() {
        taken.push(delivery);
    }
    assert_eq!(texts(&taken), ["one", "two", "three", "four"]);
    broker.assert_counts(&connection, "jobs", 0, 4).await;
    assert_eq!(consumers(&connection, "jobs").await, 0);
    for delivery in taken {
        delivery.ack().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// The message with all that belongs to it.
pub async fn a_message_tells_where_it_comes_from(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "#"))
        .await
        .unwrap();
    let producer = connection.producer(&media).await.unwrap();
    let publish = producer.publish_text("new").routing_key("video.new");
    publish.header("tenant", 7).await.unwrap();
    let delivery = connection.get("videos").await.unwrap().unwrap();
    assert_eq!(delivery.queue(), "videos");
    assert_eq!(delivery.exchange(), "media");
    assert_eq!(delivery.routing_key(), "video.new");
    assert_eq!(
        delivery
            .headers()
            .get("tenant")
            .and_then(|value| value.as_i64()),
        Some(7)
    );
    assert!(!delivery.redelivered());
    delivery.ack().await.unwrap();
}

/// Dropped or released, it is back in its place.
pub async fn a_message_that_was_not_settled_goes_back(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["first", "second"]).await;
    drop(connection.get("jobs").await.unwrap().unwrap());
    broker.assert_counts(&connection, "jobs", 2, 0).await;
    let again = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(again.body(), "first");
    assert!(again.redelivered());
    again.release().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 2, 0).await;
    assert_eq!(
        texts(&drain(&connection, "jobs").await),
        ["first", "second"]
    );
}

/// Rejected, it is gone.
pub async fn a_message_can_be_rejected(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["first", "second"]).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    first.reject().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["second"]);
}

/// It goes back with the connection.
pub async fn a_message_goes_back_when_the_connection_closes(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    one.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&one, "jobs", ["first", "second"]).await;
    let held = one.get("jobs").await.unwrap().unwrap();
    one.close().await.unwrap();
    broker.assert_counts(&other, "jobs", 2, 0).await;
    assert_eq!(texts(&drain(&other, "jobs").await), ["first", "second"]);
    drop(held);
}

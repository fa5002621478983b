//! A queue that belongs to one connection.

use kombu_core::driver::Feature;
use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::{has_queue, until_gone};
use crate::Broker;
use crate::expect::{assert_refused, collect_one};

/// 405 for everything but publishing.
pub async fn other_connections_may_publish_to_it_and_nothing_else(broker: &Broker) {
    let (owner, other) = (broker.connect().await, broker.connect().await);
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let news = Exchange::fanout("news");
    other.declare_exchange(&news).await.unwrap();
    let binding = Binding::from(&news);
    let locked = |error: kombu_core::Error| {
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::ResourceLocked, Some(405)),
            "{error}"
        );
    };
    locked(other.declare_queue(&answers).await.unwrap_err());
    locked(
        other
            .declare_queue(&answers.clone().passive())
            .await
            .unwrap_err(),
    );
    locked(
        other
            .consumer(&answers.clone().no_declare())
            .await
            .unwrap_err(),
    );
    locked(other.get("answers").await.unwrap_err());
    locked(other.bind_queue("answers", &binding).await.unwrap_err());
    locked(other.purge("answers").await.unwrap_err());
    locked(other.delete_queue("answers").await.unwrap_err());
    let mut consumer = owner.consumer(&answers).await.unwrap();
    let producer = other.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("yes")
        .routing_key("answers")
        .await
        .unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "yes");
    delivery.ack().await.unwrap();
}

/// Then the name is free.
pub async fn it_goes_with_its_connection(broker: &Broker) {
    let (owner, other) = (broker.connect().await, broker.connect().await);
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    owner.close().await.unwrap();
    until_gone(&other, "answers").await;
    other.declare_queue(&answers).await.unwrap();
}

/// 405, as from another connection.
pub async fn it_can_not_be_declared_as_shared(broker: &Broker) {
    let owner = broker.connect().await;
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let shared = owner
        .declare_queue(&Queue::new("answers").auto_delete(true))
        .await;
    assert_refused(shared, ErrorKind::ResourceLocked, 405);
    owner.declare_queue(&answers).await.unwrap();
}

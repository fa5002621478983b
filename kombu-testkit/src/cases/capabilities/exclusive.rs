//! A queue that belongs to one connection.

use kombu_core::driver::Feature;
use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::{has_queue, until_gone};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, assert_unsupported, collect_one, info};

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

/// To remove a binding that isn't there is no mistake, and to bind to an exchange that isn't there is another one.
pub async fn other_connections_are_told_of_it_where_there_is_something_to_do(broker: &Broker) {
    let (owner, other) = (broker.connect().await, broker.connect().await);
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let reports = Exchange::headers("reports");
    other.declare_exchange(&reports).await.unwrap();
    let binding = Binding::from(&reports);
    other.unbind_queue("answers", &binding).await.unwrap();
    owner.bind_queue("answers", &binding).await.unwrap();
    let unbound = other.unbind_queue("answers", &binding).await;
    assert_refused(unbound, ErrorKind::ResourceLocked, 405);
    let bound = other.bind_queue("answers", &binding).await;
    assert_refused(bound, ErrorKind::ResourceLocked, 405);
    let nowhere = Binding::from(Exchange::headers("nowhere"));
    let bound = other.bind_queue("answers", &nowhere).await;
    assert_refused(bound, ErrorKind::NotFound, 404);
    let impossible = Binding::from(Exchange::direct("reports")).argument("x-match", "some");
    let bound = other.bind_queue("answers", &impossible).await;
    assert_refused(bound, ErrorKind::PreconditionFailed, 406);
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

/// They share it as any other queue.
pub async fn its_own_connection_may_consume_it_more_than_once(broker: &Broker) {
    let owner = broker.connect().await;
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let mut first = owner.consumer(&answers).prefetch(1).await.unwrap();
    let mut second = owner.consumer(&answers).prefetch(1).await.unwrap();
    publish(&owner, "answers", ["0", "1"]).await;
    let one = collect_one(&mut first).await;
    let other = collect_one(&mut second).await;
    assert_ne!(one.body(), other.body());
    one.ack().await.unwrap();
    other.ack().await.unwrap();
    assert_eq!(info(&owner, "answers").await.consumers, 2);
}

/// It is one that is deleted with its last user, too.
pub async fn it_goes_with_its_last_consumer(broker: &Broker) {
    let owner = broker.connect().await;
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let first = owner.consumer(&answers).await.unwrap();
    let second = owner.consumer(&answers).await.unwrap();
    first.cancel().await.unwrap();
    assert_eq!(info(&owner, "answers").await.consumers, 1);
    second.cancel().await.unwrap();
    until_gone(&owner, "answers").await;
}

/// Each connection gets one of its own.
pub async fn queues_without_a_name_belong_to_their_connections(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    let news = Exchange::fanout("news");
    let answers = Queue::server_named().exclusive(true).bind(&news, "");
    if !one.capabilities().has(Feature::ExclusiveQueue) {
        assert_unsupported(one.declare_queue(&answers).await);
        return;
    }
    let mut here = one.consumer(&answers).await.unwrap();
    let mut there = other.consumer(&answers).await.unwrap();
    assert_ne!(here.queues(), there.queues());
    let producer = one.producer(&news).await.unwrap();
    producer.publish_text("to all").await.unwrap();
    for consumer in [&mut here, &mut there] {
        let delivery = collect_one(consumer).await;
        assert_eq!(delivery.body(), "to all");
        delivery.ack().await.unwrap();
    }
    let name = here.queues()[0].clone();
    assert_refused(other.get(&name).await, ErrorKind::ResourceLocked, 405);
}

/// So does an exchange that was there for it only.
pub async fn its_bindings_go_with_its_connection(broker: &Broker) {
    let (owner, other) = (broker.connect().await, broker.connect().await);
    let news = Exchange::fanout("news");
    let answers = Queue::new("answers").exclusive(true).bind(&news, "");
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let producer = other.producer(&news).await.unwrap();
    assert!(producer.publish_text("0").await.unwrap().routed);
    owner.close().await.unwrap();
    until_gone(&other, "answers").await;
    assert!(!producer.publish_text("1").await.unwrap().routed);
}

/// The consumers of another connection's queue would be the first to notice.
pub async fn another_connection_that_closes_leaves_it(broker: &Broker) {
    let (owner, other) = (broker.connect().await, broker.connect().await);
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    publish(&other, "answers", ["0"]).await;
    other.close().await.unwrap();
    broker.assert_counts(&owner, "answers", 1, 0).await;
}

/// A name that is held that way is not free for a shared queue either.
pub async fn its_name_is_taken_for_everybody_else(broker: &Broker) {
    let (owner, other) = (broker.connect().await, broker.connect().await);
    let answers = Queue::new("answers").exclusive(true);
    if !has_queue(&owner, Feature::ExclusiveQueue, &answers).await {
        return;
    }
    let shared = other.declare_queue(&Queue::new("answers")).await;
    assert_refused(shared, ErrorKind::ResourceLocked, 405);
    owner.delete_queue("answers").await.unwrap();
    let shared = Queue::new("answers");
    other.declare_queue(&shared).await.unwrap();
}

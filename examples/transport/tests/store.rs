//! What core leaves to a store: positions, holds, wake-ups, versions, counts. Through the client, as users see it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use kombu::driver::{Outcome, Tag, Target, Transport};
use kombu::{
    Binding, Connection, Consumer, Delivery, ErrorKind, Exchange, Name, Producer, Queue, Registry,
};
use shelf_transport::Shelf;
use tokio::task::JoinHandle;

async fn connect(registry: &Registry) -> Connection {
    Connection::builder(registry.clone())
        .url("shelf://demo")
        .await
        .unwrap()
}

fn registry() -> Registry {
    kombu::registry().with(Shelf::default())
}

/// A connection with the queue `jobs` that has these messages.
async fn with_jobs(registry: &Registry, jobs: &[u32]) -> Connection {
    let connection = connect(registry).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = to_jobs(&connection).await;
    for job in jobs {
        producer.publish(job).await.unwrap();
    }
    connection
}

async fn to_jobs(connection: &Connection) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key("jobs").await.unwrap()
}

async fn from_jobs(connection: &Connection) -> Consumer {
    connection.consumer(&Queue::new("jobs")).await.unwrap()
}

async fn next(consumer: &mut Consumer) -> (u32, Delivery) {
    let delivery = consumer.try_next().await.unwrap().unwrap();
    delivery.take().unwrap()
}

/// What a task answers that would wait for ever if nobody woke it.
async fn finished<T>(task: JoinHandle<T>) -> T {
    let answer = tokio::time::timeout(Duration::from_secs(10), task);
    answer.await.unwrap().unwrap()
}

/// Takes everything that is ready: number, redelivered, attempt.
async fn drain(connection: &Connection) -> Vec<(u32, bool, u32)> {
    let mut found = Vec::new();
    while let Some(delivery) = connection.get("jobs").await.unwrap() {
        let (job, delivery) = delivery.take().unwrap();
        found.push((job, delivery.redelivered(), delivery.attempt()));
        delivery.ack().await.unwrap();
    }
    found
}

#[tokio::test]
async fn a_shelf_without_a_name_is_refused() {
    let connecting = Connection::builder(registry()).url("shelf://");
    let error = connecting.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn an_unknown_option_is_refused_with_the_nearest_known_one() {
    let connecting = Connection::builder(registry()).url("shelf://demo?max_mesage_size=7");
    let error = connecting.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(
        error
            .to_string()
            .contains("did you mean `max_message_size`?"),
        "{error}"
    );
}

#[tokio::test]
async fn the_largest_body_is_an_option() {
    let connecting = Connection::builder(registry()).url("shelf://demo?max_message_size=2");
    let connection = connecting.await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = to_jobs(&connection).await;
    producer.publish(&12).await.unwrap();
    let error = producer.publish(&123).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
}

#[tokio::test]
async fn connections_to_one_name_share_a_broker_and_virtual_hosts_share_nothing() {
    let registry = registry();
    let _first = with_jobs(&registry, &[1]).await;
    assert_eq!(drain(&connect(&registry).await).await, [(1, false, 1)]);

    let elsewhere = Connection::builder(registry)
        .url("shelf://demo/other")
        .await
        .unwrap();
    let error = elsewhere.get("jobs").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn a_released_message_returns_to_its_position_and_is_not_counted() {
    let connection = with_jobs(&registry(), &[1, 2, 3, 4]).await;
    let mut consumer = from_jobs(&connection).await;
    let (_, first) = next(&mut consumer).await;
    let (_, second) = next(&mut consumer).await;
    let (_, third) = next(&mut consumer).await;
    second.ack().await.unwrap();
    // The later one first: putting them back in the order of the calls would not do.
    third.retry().await.unwrap();
    first.release().await.unwrap();
    drop(consumer);
    // The fourth was fetched and never received: it goes back as well.
    let expected = [(1, true, 1), (3, true, 2), (4, true, 1)];
    assert_eq!(drain(&connection).await, expected);
}

#[tokio::test]
async fn what_is_unsettled_comes_back_when_its_connection_is_closed() {
    let registry = registry();
    let closing = with_jobs(&registry, &[1, 2]).await;
    let mut consumer = from_jobs(&closing).await;
    let (_, first) = next(&mut consumer).await;
    closing.close().await.unwrap();

    assert!(consumer.try_next().await.unwrap().is_none());
    assert_eq!(
        drain(&connect(&registry).await).await,
        [(1, true, 1), (2, true, 1)]
    );
    let error = first.ack().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SettleLost, "{error}");
}

#[tokio::test]
async fn what_a_session_held_comes_back_when_it_is_dropped() {
    let shelf = Shelf::default();
    let connection = with_jobs(&kombu::registry().with(shelf.clone()), &[1]).await;
    // A driver's delivery, unlike a client's, gives nothing back when it is dropped: only the session does.
    let target = Target::new("shelf://demo".parse().unwrap());
    let session = shelf.connect(&target).await.unwrap();
    let taken = session.get(&"jobs".into(), false).await.unwrap();
    assert!(taken.is_some());
    assert_eq!(drain(&connection).await, []);
    drop((taken, session));
    assert_eq!(drain(&connection).await, [(1, true, 1)]);
}

#[tokio::test]
async fn a_consumer_that_waits_is_woken_by_a_publish_and_by_a_release() {
    let registry = registry();
    let connection = with_jobs(&registry, &[]).await;
    let mut consumer = from_jobs(&connection).await;
    let waiting = tokio::spawn(async move {
        let (job, delivery) = next(&mut consumer).await;
        delivery.release().await.unwrap();
        let (again, delivery) = next(&mut consumer).await;
        delivery.ack().await.unwrap();
        (job, again)
    });
    // On this runtime the task runs, and waits, before the publish does.
    tokio::task::yield_now().await;
    let producer = to_jobs(&connect(&registry).await).await;
    producer.publish(&7).await.unwrap();
    assert_eq!(finished(waiting).await, (7, 7));
}

#[tokio::test]
async fn a_consumer_that_waits_is_woken_when_its_queue_is_deleted() {
    let connection = with_jobs(&registry(), &[]).await;
    let mut consumer = from_jobs(&connection).await;
    let waiting = tokio::spawn(async move { consumer.try_next().await.unwrap_err() });
    tokio::task::yield_now().await;
    connection.delete_queue("jobs").await.unwrap();
    let error = finished(waiting).await;
    assert_eq!(error.kind(), ErrorKind::ConsumerCancelled, "{error}");
}

#[tokio::test]
async fn a_settler_cannot_settle_what_another_one_holds() {
    let shelf = Shelf::default();
    let _connection = with_jobs(&kombu::registry().with(shelf.clone()), &[1, 2]).await;
    let target = Target::new("shelf://demo".parse().unwrap());
    let session = shelf.connect(&target).await.unwrap();
    let jobs = Name::from("jobs");
    let (_, other) = session.get(&jobs, false).await.unwrap().unwrap();
    let (taken, settler) = session.get(&jobs, false).await.unwrap().unwrap();
    let tag = Tag {
        queue: 0,
        id: taken.id,
    };
    let error = other.settle(tag, Outcome::Ack).queued.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SettleLost, "{error}");
    settler.settle(tag, Outcome::Ack).queued.unwrap();
}

#[tokio::test]
async fn a_consumer_of_a_deleted_queue_is_cancelled_and_not_moved_to_its_successor() {
    let registry = registry();
    let connection = with_jobs(&registry, &[1]).await;
    let mut consumer = from_jobs(&connection).await;
    let (_, held) = next(&mut consumer).await;
    assert_eq!(connection.delete_queue("jobs").await.unwrap(), 0);

    let successor = with_jobs(&registry, &[2]).await;
    let error = consumer.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerCancelled, "{error}");
    held.release().await.unwrap();
    assert_eq!(drain(&successor).await, [(2, false, 1)]);
}

#[tokio::test]
async fn a_bind_and_an_unbind_hold_for_the_next_publish_of_another_connection() {
    let registry = registry();
    let connection = with_jobs(&registry, &[]).await;
    let news = Exchange::fanout("news");
    let producer = connection.producer(&news).await.unwrap();
    let other = connect(&registry).await;
    let binding = Binding::new(&news, "");
    for _ in 0..100 {
        other.bind_queue("jobs", &binding).await.unwrap();
        assert!(producer.publish(&1).await.unwrap().routed);
        other.unbind_queue("jobs", &binding).await.unwrap();
        assert!(!producer.publish(&2).await.unwrap().routed);
    }
    assert_eq!(drain(&connection).await, [(1, false, 1); 100]);
}

#[tokio::test]
async fn a_rejected_message_moves_to_the_dead_letter_queue() {
    let connection = connect(&registry()).await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("failed");
    connection
        .declare_queue(&Queue::new("failed"))
        .await
        .unwrap();
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    to_jobs(&connection).await.publish(&1).await.unwrap();
    let (_, delivery) = next(&mut consumer).await;
    delivery.reject().confirmed().await.unwrap();

    let failed = connection.get("failed").await.unwrap().unwrap();
    assert_eq!(failed.decode::<u32>().unwrap(), 1);
    assert!(failed.headers().get("x-death").is_some());
    failed.ack().await.unwrap();
    drop(consumer);
    assert_eq!(drain(&connection).await, []);
}

#[tokio::test]
async fn counts_tell_ready_and_unsettled_messages_and_consumers() {
    let connection = with_jobs(&registry(), &[1, 2, 3]).await;
    let queue = Queue::new("jobs");
    let mut consumer = connection.consumer(&queue).prefetch(2).await.unwrap();
    let (_, first) = next(&mut consumer).await;
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!(
        (info.ready, info.unsettled, info.consumers),
        (1, Some(2), 1)
    );

    let error = connection
        .delete_queue("jobs")
        .if_unused()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    first.ack().await.unwrap();
    drop(consumer);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!(
        (info.ready, info.unsettled, info.consumers),
        (2, Some(0), 0)
    );

    let error = connection
        .delete_queue("jobs")
        .if_empty()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    assert_eq!(connection.purge("jobs").await.unwrap(), 2);
    assert_eq!(
        connection
            .delete_queue("jobs")
            .if_empty()
            .if_unused()
            .await
            .unwrap(),
        0
    );
}

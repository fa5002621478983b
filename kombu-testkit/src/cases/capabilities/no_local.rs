//! An exclusive consumer that doesn't want what its own connection publishes.

use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, OpenConsumer, Queue};

use super::has_consumer;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, texts};

const FEATURES: &[Feature] = &[Feature::ExclusiveConsumer, Feature::NoLocal];

fn open(connection: &Connection) -> OpenConsumer {
    let open = connection.consumer(&Queue::new("jobs"));
    open.prefetch(1).exclusive(true).no_local(true)
}

/// They are dropped: nobody else could have them. What others publish comes, in order.
pub async fn messages_of_its_own_connection_do_not_come(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let opened = has_consumer(&connection, FEATURES, || open(&connection)).await;
    let Some(mut consumer) = opened else {
        return;
    };
    publish(&connection, "jobs", ["own 0", "own 1"]).await;
    broker.assert_silent(&mut consumer).await;
    publish(&other, "jobs", ["other 0"]).await;
    publish(&connection, "jobs", ["own 2"]).await;
    publish(&other, "jobs", ["other 1"]).await;
    for expected in ["other 0", "other 1"] {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(texts([&delivery]), [expected]);
        delivery.ack().await.unwrap();
    }
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// However many there are, and however they were published: a full window of them doesn't stop it.
pub async fn many_of_its_own_messages_are_skipped(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let opened = has_consumer(&connection, FEATURES, || open(&connection)).await;
    let Some(mut consumer) = opened else {
        return;
    };
    for producer in 0..3 {
        publish(
            &connection,
            "jobs",
            (0..50).map(|n| format!("{producer} {n}")),
        )
        .await;
    }
    publish(&other, "jobs", ["at last"]).await;
    assert_eq!(collect_one(&mut consumer).await.body(), "at last");
}

/// Without acks too: what is dropped costs none of its neighbours.
pub async fn they_are_skipped_without_acks(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let opened = has_consumer(&connection, FEATURES, || {
        open(&connection).prefetch(64).no_ack(true)
    });
    let Some(mut consumer) = opened.await else {
        return;
    };
    let others = |range: std::ops::Range<u32>| range.map(|n| format!("other {n}"));
    publish(&connection, "jobs", ["own"]).await;
    publish(&other, "jobs", others(0..20)).await;
    let first = collect_one(&mut consumer).await;
    assert_eq!(first.body(), "other 0");
    publish(&other, "jobs", others(20..40)).await;
    let rest = texts(&collect(&mut consumer, 39).await);
    assert!(rest.into_iter().eq(others(1..40)));
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Another consumer of the queue might wait for what it would drop. Refused before anything is declared, on every
/// transport.
pub async fn without_being_exclusive_it_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let shared = open(&connection).exclusive(false).await;
    let error = assert_refused(shared, ErrorKind::Unsupported, None);
    for part in ["no_local", "exclusive"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let info = connection.queue_info("jobs").await;
    assert_refused(info, ErrorKind::NotFound, 404);
}

/// Nothing said: they come.
pub async fn an_exclusive_consumer_receives_its_own_messages_by_default(broker: &Broker) {
    let connection = broker.connect().await;
    let opened = has_consumer(&connection, &[Feature::ExclusiveConsumer], || {
        open(&connection).no_local(false)
    });
    let Some(mut consumer) = opened.await else {
        return;
    };
    publish(&connection, "jobs", ["own"]).await;
    assert_eq!(collect_one(&mut consumer).await.body(), "own");
}

//! A consumer that keeps others away from its queue.

use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, OpenConsumer, Queue};

use super::has_consumer;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect_one, info};

fn open(connection: &Connection) -> OpenConsumer {
    connection.consumer(&Queue::new("jobs")).exclusive(true)
}

/// 403 for those that come later, exclusive or not; its own connection's too.
pub async fn others_are_refused_while_it_is_there(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let first = has_consumer(&connection, &[Feature::ExclusiveConsumer], || {
        open(&connection)
    })
    .await;
    let Some(mut only) = first else {
        return;
    };
    for late in [&connection, &other] {
        assert_refused(open(late).await, ErrorKind::AccessRefused, 403);
        let error = assert_refused(
            late.consumer(&Queue::new("jobs")).await,
            ErrorKind::AccessRefused,
            403,
        );
        assert!(error.to_string().contains("`jobs`"), "{error}");
    }
    publish(&other, "jobs", ["work"]).await;
    let delivery = collect_one(&mut only).await;
    assert_eq!(delivery.body(), "work");
    delivery.ack().await.unwrap();
    assert_eq!(info(&connection, "jobs").await.consumers, 1);
}

/// 403 for itself: it has to be the only one.
pub async fn it_is_refused_while_there_are_others(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let probe = has_consumer(&connection, &[Feature::ExclusiveConsumer], || {
        open(&connection)
    })
    .await;
    let Some(probe) = probe else {
        return;
    };
    probe.cancel().await.unwrap();
    let shared = connection.consumer(&Queue::new("jobs")).await.unwrap();
    for late in [&connection, &other] {
        assert_refused(open(late).await, ErrorKind::AccessRefused, 403);
    }
    shared.cancel().await.unwrap();
    open(&other).await.unwrap();
}

/// Cancelled, dropped, or with its connection: the queue is free then.
pub async fn it_frees_its_queue_when_it_goes(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let first = has_consumer(&connection, &[Feature::ExclusiveConsumer], || {
        open(&connection)
    })
    .await;
    let Some(first) = first else {
        return;
    };
    first.cancel().await.unwrap();
    let second = open(&other).await.unwrap();
    drop(second);
    let third = until_free(&connection).await;
    let left = other.consumer(&Queue::new("jobs")).await;
    assert_refused(left, ErrorKind::AccessRefused, 403);
    connection.close().await.unwrap();
    until_free(&other).await;
    drop(third);
}

/// A broker behind a network hears of a drop a moment later.
async fn until_free(connection: &Connection) -> kombu_core::Consumer {
    loop {
        match open(connection).await {
            Ok(consumer) => return consumer,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::AccessRefused, "{error}");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Nothing is consumed from the others either.
pub async fn all_of_its_queues_have_to_be_free(broker: &Broker) {
    let connection = broker.connect().await;
    let probe = has_consumer(&connection, &[Feature::ExclusiveConsumer], || {
        open(&connection)
    })
    .await;
    let Some(probe) = probe else {
        return;
    };
    probe.cancel().await.unwrap();
    let queues = ["free", "jobs"].map(Queue::new);
    let taken = connection.consumer(&queues[1]).await.unwrap();
    let both = connection.consumer(&queues).exclusive(true).await;
    assert_refused(both, ErrorKind::AccessRefused, 403);
    assert_eq!(info(&connection, "free").await.consumers, 0);
    taken.cancel().await.unwrap();
    let both = connection.consumer(&queues).exclusive(true).await.unwrap();
    let third = connection.consumer(&queues[0]).await;
    assert_refused(third, ErrorKind::AccessRefused, 403);
    drop(both);
}

/// A queue that it takes in later as well.
pub async fn it_keeps_others_away_from_a_queue_that_it_adds(broker: &Broker) {
    let connection = broker.connect().await;
    let first = has_consumer(&connection, &[Feature::ExclusiveConsumer], || {
        open(&connection)
    })
    .await;
    let Some(mut only) = first else {
        return;
    };
    let (shared, fresh) = (Queue::new("shared"), Queue::new("fresh"));
    let other = connection.consumer(&shared).await.unwrap();
    let added = only.add_queue(&shared).await;
    assert_refused(added, ErrorKind::AccessRefused, 403);
    only.add_queue(&fresh).await.unwrap();
    let late = connection.consumer(&fresh).await;
    assert_refused(late, ErrorKind::AccessRefused, 403);
    only.cancel_queue("fresh").await.unwrap();
    connection.consumer(&fresh).await.unwrap();
    drop(other);
}

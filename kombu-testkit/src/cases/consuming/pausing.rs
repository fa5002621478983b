//! A consumer that is paused stays one, and leaves the messages to others.

use kombu_core::{ErrorKind, Queue};

use super::{consumers, numbers};
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, drain, texts};
use crate::{Broker, Freedom};

/// Until it goes on, with what waited, in order.
pub async fn a_paused_consumer_receives_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    assert!(!consumer.is_paused());
    consumer.pause();
    assert!(consumer.is_paused());
    publish(&connection, "jobs", numbers(0..3)).await;
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "jobs", 3, 0).await;
    let expected = if broker.may(Freedom::ForgetPaused) {
        0
    } else {
        1
    };
    assert_eq!(consumers(&connection, "jobs").await, expected);
    consumer.resume();
    assert!(!consumer.is_paused());
    let received = collect(&mut consumer, 3).await;
    assert!(texts(&received).into_iter().eq(numbers(0..3)));
    assert!(!received[0].redelivered());
}

/// To its place, for another consumer to have; what was received can be settled.
pub async fn pausing_gives_back_what_was_fetched(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(10).await.unwrap();
    publish(&connection, "jobs", numbers(0..5)).await;
    let held = collect_one(&mut consumer).await;
    consumer.pause();
    broker.assert_counts(&connection, "jobs", 4, 1).await;
    held.ack().confirmed().await.unwrap();
    let mut other = connection.consumer(&jobs).await.unwrap();
    let received = collect(&mut other, 4).await;
    assert!(texts(&received).into_iter().eq(numbers(1..5)));
    broker.assert_silent(&mut consumer).await;
}

/// What was dropped for the second time waits for a moment before it goes back; not longer than until then.
pub async fn pausing_gives_back_redeliveries_that_were_dropped(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["one", "two"]).await;
    drop(collect(&mut consumer, 2).await);
    drop(collect(&mut consumer, 2).await);
    consumer.pause();
    broker.assert_counts(&connection, "jobs", 2, 0).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["one", "two"]);
}

/// Twice is once.
pub async fn pausing_twice_is_undone_by_resuming_once(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    consumer.pause();
    consumer.pause();
    consumer.resume();
    publish(&connection, "jobs", ["comes"]).await;
    assert_eq!(collect_one(&mut consumer).await.body(), "comes");
}

/// A window that is changed meanwhile is the one that holds afterwards, and doesn't end the pause.
pub async fn a_window_can_be_changed_during_a_pause(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection.consumer(&Queue::new("jobs")).prefetch(1);
    let mut consumer = open.await.unwrap();
    consumer.pause();
    publish(&connection, "jobs", numbers(0..5)).await;
    consumer.set_prefetch(3);
    broker.assert_silent(&mut consumer).await;
    consumer.resume();
    let held = collect(&mut consumer, 3).await;
    broker.assert_silent(&mut consumer).await;
    drop(held);
}

/// An added one is paused with the others.
pub async fn a_queue_that_is_added_during_a_pause_waits_too(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("first")).await.unwrap();
    consumer.pause();
    consumer.add_queue(&Queue::new("next")).await.unwrap();
    publish(&connection, "next", ["waits"]).await;
    broker.assert_silent(&mut consumer).await;
    consumer.resume();
    assert_eq!(collect_one(&mut consumer).await.body(), "waits");
}

/// It still learns that there is nothing to wait for.
pub async fn a_paused_consumer_ends_with_its_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    consumer.pause();
    let (ended, deleted) = tokio::join!(biased; consumer.next(), async {
        connection.delete_queue("jobs").await
    });
    deleted.unwrap();
    assert_refused(ended.unwrap(), ErrorKind::ConsumerCancelled, None);
}

/// And that its connection was closed.
pub async fn a_paused_consumer_ends_with_its_connection(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    consumer.pause();
    connection.close().await.unwrap();
    assert!(consumer.next().await.is_none());
}

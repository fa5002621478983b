//! Deliveries that are held for too long are given back, as failures.

use std::time::{Duration, Instant};

use kombu_core::{Consumer, ErrorKind, Queue};
use tokio::time::sleep;

use super::numbers;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, texts};

/// Soon over, and long enough for an answer of the broker.
const LIMIT: Duration = Duration::from_millis(200);

async fn open(broker: &Broker) -> Consumer {
    let connection = broker.connect().await;
    let open = connection.consumer(&Queue::new("jobs")).prefetch(1);
    let consumer = open.max_processing_time(LIMIT).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    consumer
}

/// To whomever, counted; and its old handle says so, before it is used and afterwards.
pub async fn what_is_held_too_long_comes_again(broker: &Broker) {
    let mut consumer = open(broker).await;
    let begin = Instant::now();
    let held = collect_one(&mut consumer).await;
    held.lost().await;
    assert!(begin.elapsed() >= LIMIT, "after {:?}", begin.elapsed());
    assert_refused(held.ack().await, ErrorKind::SettleLost, None);
    let again = collect_one(&mut consumer).await;
    assert_eq!((again.body().as_ref(), again.attempt()), (&b"hard"[..], 2));
    assert!(again.redelivered());
    again.ack().confirmed().await.unwrap();
    broker.assert_silent(&mut consumer).await;
}

/// Though its consumer isn't asked for more: others have it then.
pub async fn it_goes_to_others_while_its_consumer_is_busy(broker: &Broker) {
    let mut busy = open(broker).await;
    let held = collect_one(&mut busy).await;
    let connection = broker.connect().await;
    let mut other = connection.consumer(&Queue::new("jobs")).await.unwrap();
    busy.pause();
    let again = collect_one(&mut other).await;
    assert_eq!(again.attempt(), 2);
    again.ack().confirmed().await.unwrap();
    assert_refused(held.retry().await, ErrorKind::SettleLost, None);
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// However many come meanwhile, and whatever became of them.
pub async fn what_is_settled_in_time_is_left_alone(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection.consumer(&Queue::new("jobs")).prefetch(3);
    let mut consumer = open.max_processing_time(LIMIT).await.unwrap();
    publish(&connection, "jobs", numbers(0..3)).await;
    let mut held = collect(&mut consumer, 3).await;
    assert!(texts(&held).into_iter().eq(numbers(0..3)));
    drop(held.remove(2).ack());
    drop(held.remove(1).reject());
    // Dropped, it comes at once, and has its own time.
    sleep(LIMIT / 2).await;
    drop(held);
    let again = collect_one(&mut consumer).await;
    assert_eq!((again.body().as_ref(), again.attempt()), (&b"0"[..], 1));
    again.ack().confirmed().await.unwrap();
    sleep(2 * LIMIT).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// There is nothing to give back.
pub async fn without_settling_there_is_no_limit(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection.consumer(&Queue::new("jobs")).no_ack(true);
    let mut consumer = open.max_processing_time(LIMIT).await.unwrap();
    publish(&connection, "jobs", ["gone"]).await;
    let held = collect_one(&mut consumer).await;
    sleep(2 * LIMIT).await;
    broker.assert_silent(&mut consumer).await;
    drop(held);
}

/// It would give back everything at once.
pub async fn a_limit_of_zero_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection.consumer(&Queue::new("jobs"));
    let opened = open.max_processing_time(Duration::ZERO).await;
    assert_refused(opened, ErrorKind::Config, None);
    assert_refused(
        connection.queue_info("jobs").await,
        ErrorKind::NotFound,
        404,
    );
}

//! A broker that doesn't bear for ever that a delivery isn't settled, as RabbitMQ: nothing is held until it takes it back itself.

// Its helpers say no as its tests do.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kombu::handler::{Retries, Router};
use kombu::{
    Connection, ConnectionBuilder, Delivery, ErrorKind, Exchange, OpenConsumer, Queue, Registry,
};
use kombu_testkit::awkward::Awkward;
use kombu_testkit::expect::collect_one;
use kombu_tests::OnReceived;
use serde::Serialize;
use tokio::time::{Instant, sleep};

const MINUTE: Duration = Duration::from_secs(60);
/// The broker's.
const PATIENCE: Duration = Duration::from_secs(25 * 60);
/// Longer than what is done at once takes.
const MOMENT: Duration = Duration::from_secs(1);

fn builder() -> ConnectionBuilder {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let registry = Registry::new().with(Awkward::with_patience(PATIENCE));
    Connection::builder(registry).url(format!("awkward://patience-{number}"))
}

async fn publish(connection: &Connection, value: impl Serialize + Sync) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&value).routing_key("jobs").await.unwrap();
}

fn consumer(connection: &Connection) -> OpenConsumer {
    connection.consumer(&Queue::new("jobs")).prefetch(2)
}

/// Leaves a delivery as one that can't be decoded.
fn give_up(delivery: Delivery) {
    drop(delivery.take::<u32>().unwrap_err());
}

/// Whether something was done so long after this, and not much later.
fn is_due(begin: Instant, after: Duration) -> bool {
    let elapsed = begin.elapsed();
    elapsed >= after && elapsed < after + MOMENT
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_given_back_while_the_broker_bears_it_and_ends_nothing() {
    let connection = builder().await.unwrap();
    let mut consumer = consumer(&connection).await.unwrap();
    publish(&connection, "no number").await;
    let mut poison = collect_one(&mut consumer).await;
    for _ in 0..5 {
        let begin = Instant::now();
        give_up(poison);
        // The others come past it.
        publish(&connection, 1).await;
        let other = collect_one(&mut consumer).await;
        let (number, other) = other.take::<u32>().unwrap();
        assert_eq!(number, 1);
        other.ack().await.unwrap();
        poison = collect_one(&mut consumer).await;
        assert!(is_due(begin, PATIENCE), "after {:?}", begin.elapsed());
        assert!(poison.redelivered());
        assert_eq!(poison.attempt(), 1);
    }
    poison.ack().confirmed().await.unwrap();
}

/// The time of whoever handled it before is the broker's, too.
#[tokio::test(start_paused = true)]
async fn what_is_held_was_in_somebodys_hands_before() {
    let connection = builder().await.unwrap();
    let mut consumer = consumer(&connection).await.unwrap();
    publish(&connection, "no number").await;
    let poison = collect_one(&mut consumer).await;
    let begin = Instant::now();
    sleep(20 * MINUTE).await;
    give_up(poison);
    let again = collect_one(&mut consumer).await;
    assert!(is_due(begin, PATIENCE), "after {:?}", begin.elapsed());
    again.ack().confirmed().await.unwrap();
}

/// It says how long a handler may take, and not how long something is held.
#[tokio::test(start_paused = true)]
async fn a_shorter_limit_of_the_consumers_own_does_not_shorten_what_is_held() {
    let connection = builder().await.unwrap();
    let open = consumer(&connection).max_processing_time(MINUTE);
    let mut consumer = open.await.unwrap();
    publish(&connection, "no number").await;
    let poison = collect_one(&mut consumer).await;
    let begin = Instant::now();
    give_up(poison);
    let again = collect_one(&mut consumer).await;
    assert!(is_due(begin, PATIENCE), "after {:?}", begin.elapsed());
    again.ack().confirmed().await.unwrap();
}

/// They know their broker.
#[tokio::test(start_paused = true)]
async fn who_sets_a_longer_limit_or_none_is_believed() {
    let day = 24 * 60 * MINUTE;
    for limit in [Some(2 * PATIENCE), None] {
        let connection = builder().layer(waited(24 * MINUTE)).await.unwrap();
        let open = consumer(&connection).max_processing_time(limit);
        let mut consumer = open.await.unwrap();
        publish(&connection, "no number").await;
        let begin = Instant::now();
        let poison = collect_one(&mut consumer).await;
        assert!(!poison.redelivered());
        give_up(poison);
        match consumer.receive(day).await.unwrap() {
            None => assert_eq!(limit, None),
            Some(again) => {
                let due = limit.unwrap() - 24 * MINUTE;
                assert!(is_due(begin, due), "after {:?}", begin.elapsed());
                again.ack().confirmed().await.unwrap();
            }
        }
    }
}

/// A handler that never ends has failed; what is held after its last try is given back as well, and tried again.
#[tokio::test(start_paused = true)]
async fn what_took_too_long_for_the_last_time_is_held_and_given_back() {
    let connection = builder().await.unwrap();
    let (seen, mut tries) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new().fallback(async move || {
        seen.send(Instant::now()).unwrap();
        std::future::pending::<()>().await;
    });
    let serve = connection.serve(router).queues(&Queue::new("jobs"));
    let serve = serve.retries(Retries::none()).max_processing_time(MINUTE);
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, 1).await;
    tokio::spawn(serve.run());
    let mut begin = tries.recv().await.unwrap();
    for _ in 0..3 {
        let again = tries.recv().await.unwrap();
        assert!((PATIENCE..PATIENCE + MOMENT).contains(&(again - begin)));
        begin = again;
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_message_waited_behind_others_counts() {
    let connection = builder().layer(waited(15 * MINUTE)).await.unwrap();
    let mut patient = consumer(&connection).await.unwrap();
    publish(&connection, 1).await;
    let slow = collect_one(&mut patient).await;
    let begin = Instant::now();
    slow.lost().await;
    assert!(is_due(begin, 10 * MINUTE), "after {:?}", begin.elapsed());
    assert_eq!(slow.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    let again = collect_one(&mut patient).await;
    assert_eq!(again.attempt(), 2);
    again.ack().confirmed().await.unwrap();
    patient.cancel().await.unwrap();

    // A limit of the consumer's own counts from when it has the message, as long as the broker bears that.
    let open = consumer(&connection).max_processing_time(MINUTE);
    let mut impatient = open.await.unwrap();
    publish(&connection, 1).await;
    let slow = collect_one(&mut impatient).await;
    let begin = Instant::now();
    slow.lost().await;
    assert!(is_due(begin, MINUTE), "after {:?}", begin.elapsed());
}

/// Nobody would be able to do anything with it in time.
#[tokio::test(start_paused = true)]
async fn a_message_that_waited_for_too_long_behind_others_comes_anew() {
    let connection = builder().layer(waited(21 * MINUTE)).await.unwrap();
    let mut consumer = consumer(&connection).await.unwrap();
    publish(&connection, 1).await;
    let fresh = collect_one(&mut consumer).await;
    assert!(fresh.redelivered());
    assert_eq!(fresh.attempt(), 1);
    let begin = Instant::now();
    fresh.lost().await;
    assert!(is_due(begin, PATIENCE), "after {:?}", begin.elapsed());
}

/// What is handed out for the first time has waited for so long in this process.
fn waited(waited: Duration) -> OnReceived {
    OnReceived::new(move |delivery| {
        if !delivery.redelivered {
            delivery.waited = waited;
        }
    })
}

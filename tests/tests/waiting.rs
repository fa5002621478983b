//! Waiting for kombu beside everything else that a program waits for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kombu::{Connection, Exchange, Faults, Queue};

/// A task that is always ready counts its turns.
#[tokio::test(flavor = "current_thread")]
async fn a_loop_of_publishes_and_deliveries_gives_other_tasks_their_turn() {
    const MESSAGES: u32 = 10_000;
    let turns = Arc::new(AtomicU32::new(0));
    let ticker = tokio::spawn({
        let turns = turns.clone();
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let connection = kombu::connect("memory://").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let before = turns.load(Ordering::Relaxed);
    for number in 0..MESSAGES {
        producer.publish(&number).routing_key("q").await.unwrap();
    }
    let published = turns.load(Ordering::Relaxed);
    for _ in 0..MESSAGES {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        delivery.ack().await.unwrap();
    }
    let received = turns.load(Ordering::Relaxed);
    // Tokio gives a task 128 steps.
    assert!(published - before >= MESSAGES / 200, "{before} {published}");
    assert!(
        received - published >= MESSAGES / 200,
        "{published} {received}"
    );
    ticker.abort();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_did_not_come_in_time_can_be_waited_for_again() {
    let faults = Faults::default();
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .layer(faults.clone())
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    faults.delay_publishes(Duration::from_secs(10));
    let mut publishing = producer.publish(&1).routing_key("q").into_future();
    let begin = tokio::time::Instant::now();
    for seconds in [1, 2, 3] {
        let early = tokio::time::timeout(Duration::from_secs(1), &mut publishing).await;
        assert!(early.is_err());
        assert_eq!(begin.elapsed().as_secs(), seconds);
    }
    let published = publishing.await.unwrap();
    assert!(published.routed && !published.resent);
    assert_eq!(begin.elapsed().as_secs(), 10);
    assert_eq!(connection.queue_info("q").await.unwrap().ready, 1);
}

#[test]
fn blocking_threads_and_tasks_share_a_connection() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let connection = runtime.block_on(kombu::connect("memory://")).unwrap();
    let mut consumer = runtime
        .block_on(connection.consumer(&Queue::new("q")).into_future())
        .unwrap();
    let receiving = runtime.spawn(async move {
        let mut received = Vec::new();
        while received.len() < 20 {
            let delivery = consumer.try_next().await.unwrap().unwrap();
            received.push(delivery.decode::<u32>().unwrap());
            delivery.ack().await.unwrap();
        }
        received.sort_unstable();
        received
    });
    std::thread::scope(|scope| {
        for thread in 0..2u32 {
            let (handle, connection) = (runtime.handle(), &connection);
            scope.spawn(move || {
                let opening = connection.producer(Exchange::default()).into_future();
                let producer = handle.block_on(opening).unwrap();
                for number in thread * 10..(thread + 1) * 10 {
                    let publish = producer.publish(&number).routing_key("q");
                    handle.block_on(publish.into_future()).unwrap();
                }
            });
        }
    });
    let received = runtime.block_on(receiving).unwrap();
    assert!(received.into_iter().eq(0..20));
}

//! Purges of queues on NATS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kombu::{Connection, Exchange, Producer, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_tests::NatsLine;
use url::Url;

async fn begin(nats: &Nats) -> (Connection, Producer) {
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    (connection, producer)
}

async fn fill(producer: &Producer, count: usize, size: usize) {
    let mut receipts = Vec::new();
    for _ in 0..count {
        let publish = producer.publish_bytes(vec![0; size]);
        receipts.push(publish.send().await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_purge_counts_what_it_removed_and_leaves_what_is_unsettled() {
    let nats = Nats::start().unwrap();
    let (connection, producer) = begin(&nats).await;
    fill(&producer, 5_000, 100).await;
    let held = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(connection.purge("jobs").await.unwrap(), 4_999);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(1)));
    held.release().confirmed().await.unwrap();
    // More than a batch has room for.
    fill(&producer, 3, 6 << 20).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_purge_ends_though_somebody_goes_on_publishing() {
    let nats = Nats::start().unwrap();
    let (connection, producer) = begin(&nats).await;
    fill(&producer, 1_000, 100).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let publishing = tokio::spawn({
        let is_over = is_over.clone();
        async move {
            while !is_over.load(Ordering::Relaxed) {
                fill(&producer, 500, 100).await;
            }
        }
    });
    let purge = connection.purge("jobs");
    let purged = tokio::time::timeout(Duration::from_secs(10), purge).await;
    assert!(purged.unwrap().unwrap() >= 1_000);
    is_over.store(true, Ordering::Relaxed);
    publishing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_purge_makes_a_consumer_again_that_vanished() {
    let nats = Nats::start().unwrap();
    let (connection, producer) = begin(&nats).await;
    fill(&producer, 20, 100).await;
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let names = line.request("$JS.API.STREAM.NAMES", r#"{"subject":"kombu.q.jobs.*"}"#);
    let name = names["streams"][0].as_str().unwrap();
    line.request(&format!("$JS.API.CONSUMER.DELETE.{name}.c0"), "");
    assert_eq!(connection.purge("jobs").await.unwrap(), 20);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

/// Each takes longer than a pull may be silent.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_purge_over_a_slow_line_removes_large_messages() {
    let nats = Nats::start().unwrap();
    let (connection, producer) = begin(&nats).await;
    fill(&producer, 2, 6 << 20).await;
    fill(&producer, 2, 100).await;
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let far = kombu::connect(format!("nats://{}", proxy.address())).await;
    let far = far.unwrap();
    proxy.throttle(Direction::ToClient, 2_500_000);
    assert_eq!(far.purge("jobs").await.unwrap(), 4);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

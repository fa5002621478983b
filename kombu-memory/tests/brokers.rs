//! Which connections reach the same broker.

#![allow(clippy::unwrap_used)]

use kombu::{ErrorKind, Exchange, Queue};

/// Publishes to the queue `jobs` over the first URL, and says whether that is there over the second.
async fn meet(one: &str, other: &str) -> bool {
    let here = kombu::connect(one).await.unwrap();
    let there = kombu::connect(other).await.unwrap();
    here.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = here.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("jobs").await.unwrap();
    match there.get("jobs").await {
        Ok(delivery) => {
            delivery.unwrap().ack().await.unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            false
        }
    }
}

#[tokio::test]
async fn connections_to_one_name_share_a_broker() {
    assert!(meet("memory://shared", "memory://shared").await);
    assert!(meet("memory://shared/tenant", "memory://shared/tenant").await);
}

#[tokio::test]
async fn other_names_other_virtual_hosts_and_fresh_brokers_are_apart() {
    assert!(!meet("memory://one", "memory://other").await);
    assert!(!meet("memory://hosts/first", "memory://hosts/second").await);
    assert!(!meet("memory://", "memory://").await);
}

#[tokio::test]
async fn a_broker_that_was_removed_is_another_one_for_whoever_connects_next() {
    let before = kombu::connect("memory://removed").await.unwrap();
    before.declare_queue(&Queue::new("jobs")).await.unwrap();
    assert!(kombu::memory::remove("removed"));
    assert!(!kombu::memory::remove("removed"));
    let after = kombu::connect("memory://removed").await.unwrap();
    let missing = after.queue_info("jobs").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(before.queue_info("jobs").await.unwrap().ready, 0);
}

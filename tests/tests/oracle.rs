//! Memory does the same as RabbitMQ, Redis and NATS do, whatever the order of operations.
//!
//! `KOMBU_TEST_ORACLE_SEQUENCES` says how many sequences are tried, 200 unless set; `KOMBU_TEST_ORACLE_SEED` says which is
//! the first, 0 unless set. With the seed that a failure tells, and 1, that sequence alone is tried again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_redis, kombu_test_nats)),
    allow(dead_code, unused_imports)
)]

use kombu_testkit::Harness;
use kombu_testkit::oracle::Oracle;
use kombu_tests::{AmqpHarness, MemoryHarness, NatsHarness, RedisHarness};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => default,
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn memory_answers_as_rabbitmq_does() {
    assert_alike(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn memory_answers_as_redis_does() {
    assert_alike(&RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn memory_answers_as_nats_does() {
    assert_alike(&NatsHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn memory_answers_as_nats_with_queues_in_its_memory_does() {
    assert_alike(&NatsHarness::in_memory()).await;
}

async fn assert_alike(harness: &impl Harness) {
    let first = number("KOMBU_TEST_ORACLE_SEED", 0);
    let sequences = number("KOMBU_TEST_ORACLE_SEQUENCES", 200);
    let oracle = Oracle::new(&MemoryHarness::new(), harness).await;
    oracle.assert_alike(first..first + sequences).await;
}

//! What comes later comes in time, whoever published it: any session that is there sees to it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Connection, Consumer, Exchange, Queue};
use kombu_testkit::brokers::Redis;
use kombu_testkit::expect::collect_one;
use kombu_tests::RedisAdmin;
use tokio::time::{sleep, timeout};

/// Longer than anything here takes, and shorter than the signs of life are apart: a third of the lease.
const PATIENCE: Duration = Duration::from_secs(15);

const DELAY: Duration = Duration::from_millis(200);

async fn connect(redis: &Redis) -> Connection {
    let url = format!("{}?lease=60", redis.url());
    kombu::connect(url).await.unwrap()
}

async fn receive_number(consumer: &mut Consumer) -> u64 {
    let received = timeout(PATIENCE, collect_one(consumer)).await;
    let delivery = received.expect("in time");
    let number = delivery.decode().unwrap();
    delivery.ack().confirmed().await.unwrap();
    number
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_program_delayed_that_has_ended_comes_in_time() {
    let redis = Redis::start().unwrap();
    consume_what_is_delayed(&redis, connect(&redis).await).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn who_is_told_of_nothing_looks_for_what_was_delayed_in_time() {
    let redis = Redis::builder()
        .config("user untold on >a-secret ~* &* +@all -client|tracking")
        .start()
        .unwrap();
    let url = format!("redis://untold:a-secret@{}?lease=60", redis.address());
    consume_what_is_delayed(&redis, kombu::connect(url).await.unwrap()).await;
}

async fn consume_what_is_delayed(redis: &Redis, connection: Connection) {
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    // More than once, for each time it has to be told again.
    for number in 0..3 {
        let other = connect(redis).await;
        let producer = other.producer(Exchange::default());
        let producer = producer.routing_key("jobs").await.unwrap();
        let far = producer.publish(&100).delay(Duration::from_secs(600));
        far.await.unwrap();
        producer.publish(&number).delay(DELAY).await.unwrap();
        other.close().await.unwrap();
        assert_eq!(receive_number(&mut consumer).await, number);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_program_published_that_has_ended_expires_in_time() {
    let redis = Redis::start().unwrap();
    let connection = connect(&redis).await;
    let dead = Queue::new("dead").bind(Exchange::direct("broken"), "jobs");
    let mut dead = connection.consumer(&dead).await.unwrap();
    let jobs = Queue::new("jobs").message_ttl(DELAY);
    let jobs = jobs.dead_letter_exchange("broken");
    for number in 0..3 {
        let other = connect(&redis).await;
        other.declare_queue(&jobs).await.unwrap();
        let producer = other.producer(Exchange::default());
        let producer = producer.routing_key("jobs").await.unwrap();
        producer.publish(&number).await.unwrap();
        other.close().await.unwrap();
        assert_eq!(receive_number(&mut dead).await, number);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_queue_that_a_program_used_that_has_ended_expires_in_time() {
    let redis = Redis::start().unwrap();
    let _there = connect(&redis).await;
    let admin = RedisAdmin::of(&redis);
    let other = connect(&redis).await;
    let queue = Queue::new("jobs").expires(DELAY);
    other.declare_queue(&queue).await.unwrap();
    other.close().await.unwrap();
    let expired = async {
        // Whoever asks for it otherwise uses it.
        while admin.ask(["EXISTS", "_kombu.rs.q.jobs"]) != ":0" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, expired).await.expect("in time");
}

//! What a consumer has room for is as good as delivered: the limits of its queue don't count it. Redis is told of that room,
//! and it is to be the same that memory sees.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Connection, Consumer, Delivery, Exchange, Producer, Queue};
use kombu_testkit::brokers::Redis;
use kombu_testkit::expect::{collect_one, info};
use kombu_tests::RedisAdmin;
use tokio::time::timeout;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

async fn connect(url: impl Into<String>) -> Connection {
    kombu::connect(url).await.unwrap()
}

async fn publish(connection: &Connection, queue: &str, numbers: std::ops::Range<u64>) {
    let producer = connection.producer(Exchange::default());
    let producer: Producer = producer.routing_key(queue).await.unwrap();
    for number in numbers {
        producer.publish(&number).await.unwrap();
    }
}

async fn receive(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, collect_one(consumer))
        .await
        .expect("a delivery")
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_full_window_outlives_a_full_redis() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let consumer = connection.consumer(&Queue::new("jobs"));
    let mut consumer = consumer.prefetch(1).await.unwrap();
    publish(&connection, "jobs", 0..4).await;
    let held = receive(&mut consumer).await;
    admin.ask(["CONFIG", "SET", "maxmemory", "1"]);
    // Its bell rings: somebody else takes one. When the next answer is here, it has.
    admin.ask(["RPOP", "jobs"]);
    assert_eq!(info(&connection, "jobs").await.ready, 2);
    // It looks, and then there is room.
    let settled = async { held.ack().confirmed().await.unwrap() };
    let (next, ()) = tokio::join!(receive(&mut consumer), settled);
    assert_eq!(next.decode::<u64>().unwrap(), 2);
    consumer.pause();
    admin.ask(["RPOP", "jobs"]);
    assert_eq!(info(&connection, "jobs").await.ready, 0);
    consumer.resume();
    let settled = async { next.ack().confirmed().await.unwrap() };
    let none = consumer.receive(Duration::from_millis(100));
    let (none, ()) = tokio::join!(none, settled);
    assert!(none.unwrap().is_none());
    admin.ask(["CONFIG", "SET", "maxmemory", "0"]);
    publish(&connection, "jobs", 4..5).await;
    assert_eq!(receive(&mut consumer).await.decode::<u64>().unwrap(), 4);
}

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

/// Both have to answer the same.
async fn on_memory_and_on_redis<F: Future<Output = ()>>(scene: impl Fn(Connection) -> F) {
    scene(connect("memory://").await).await;
    let redis = Redis::start().unwrap();
    scene(connect(redis.url()).await).await;
}

/// A queue for what dies in `of`, and its consumer.
async fn graveyard(connection: &Connection, of: &str) -> Consumer {
    let dead = Queue::new("dead").bind(Exchange::direct("broken"), of);
    connection.consumer(&dead).await.unwrap()
}

fn short_lived(queue: &str) -> Queue {
    let queue = Queue::new(queue).message_ttl(Duration::from_millis(200));
    queue.dead_letter_exchange("broken")
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn of_single_active_consumers_only_the_active_one_has_room() {
    on_memory_and_on_redis(|connection| async move {
        let jobs = Queue::new("jobs").single_active_consumer(true);
        let jobs = jobs.max_length(5);
        let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
        publish(&connection, "jobs", 0..1).await;
        let held = receive(&mut active).await;
        let mut waiting = connection.consumer(&jobs).prefetch(64).await.unwrap();
        publish(&connection, "jobs", 1..41).await;
        assert_eq!(info(&connection, "jobs").await.ready, 5);
        // Now it is the active one.
        active.cancel().await.unwrap();
        assert_eq!(receive(&mut waiting).await.decode::<u64>().unwrap(), 36);
        publish(&connection, "jobs", 41..81).await;
        assert!(info(&connection, "jobs").await.ready > 5);
        held.ack().confirmed().await.unwrap();
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_waits_for_a_single_active_consumer_without_room_expires_in_time() {
    on_memory_and_on_redis(|connection| async move {
        let mut dead = graveyard(&connection, "jobs").await;
        let jobs = short_lived("jobs").single_active_consumer(true);
        let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
        publish(&connection, "jobs", 0..1).await;
        let _held = receive(&mut active).await;
        let _waiting = connection.consumer(&jobs).prefetch(64).await.unwrap();
        publish(&connection, "jobs", 1..2).await;
        assert_eq!(receive(&mut dead).await.decode::<u64>().unwrap(), 1);
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn the_queues_of_a_consumer_have_one_room() {
    on_memory_and_on_redis(|connection| async move {
        let (one, two) = (Queue::new("one"), Queue::new("two").max_length(3));
        let consumer = connection.consumer([&one, &two]);
        let mut consumer = consumer.prefetch(10).await.unwrap();
        publish(&connection, "one", 0..10).await;
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(receive(&mut consumer).await);
        }
        publish(&connection, "two", 0..30).await;
        assert_eq!(info(&connection, "two").await.ready, 3);
        // What is settled at one is room for the other.
        for delivery in held.drain(..4) {
            delivery.ack().confirmed().await.unwrap();
        }
        publish(&connection, "two", 30..60).await;
        assert_eq!(info(&connection, "two").await.ready, 7);
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_waits_while_another_queue_has_all_the_room_expires_in_time() {
    on_memory_and_on_redis(|connection| async move {
        let mut dead = graveyard(&connection, "two").await;
        let consumer = connection.consumer([&Queue::new("one"), &short_lived("two")]);
        let mut consumer = consumer.prefetch(1).await.unwrap();
        publish(&connection, "one", 0..1).await;
        let _held = receive(&mut consumer).await;
        publish(&connection, "two", 1..2).await;
        assert_eq!(receive(&mut dead).await.decode::<u64>().unwrap(), 1);
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_paused_consumer_has_no_room() {
    on_memory_and_on_redis(|connection| async move {
        let jobs = Queue::new("jobs").max_length(3);
        let mut consumer = connection.consumer(&jobs).prefetch(64).await.unwrap();
        publish(&connection, "jobs", 0..1).await;
        receive(&mut consumer)
            .await
            .ack()
            .confirmed()
            .await
            .unwrap();
        consumer.pause();
        publish(&connection, "jobs", 0..30).await;
        assert_eq!(info(&connection, "jobs").await.ready, 3);
        consumer.resume();
        assert_eq!(receive(&mut consumer).await.decode::<u64>().unwrap(), 27);
        publish(&connection, "jobs", 30..60).await;
        assert!(info(&connection, "jobs").await.ready > 3);
    })
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_consumer_that_has_ended_has_no_room_for_what_it_held() {
    let redis = Redis::start().unwrap();
    let connection = connect(redis.url()).await;
    let other = connect(redis.url()).await;
    let queues = [Queue::new("one"), Queue::new("two")].map(|queue| queue.max_length(5));
    let mut consumers = Vec::new();
    // One window each, and one over both.
    for some in [&queues[..], &queues[..1], &queues[1..]] {
        consumers.push(other.consumer(some).prefetch(64).await.unwrap());
    }
    publish(&connection, "one", 0..30).await;
    publish(&connection, "two", 0..30).await;
    let mut held = Vec::new();
    while held.len() < 60 {
        for consumer in &mut consumers {
            let some = consumer.receive(Duration::from_millis(10)).await.unwrap();
            held.extend(some);
        }
    }
    other.close().await.unwrap();
    for queue in ["one", "two"] {
        assert_eq!(info(&connection, queue).await.ready, 5, "{queue}");
    }
}

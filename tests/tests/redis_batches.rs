//! Batches on Redis: what goes to the server in one call, with messages of several sorts in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Connection, ErrorKind, Exchange, Overflow, Queue};
use kombu_testkit::brokers::Redis;
use kombu_tests::RedisAdmin;

/// The numbers that lie in a queue, in their order.
async fn numbers(connection: &Connection, queue: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(delivery) = connection.get(queue).await.unwrap() {
        numbers.push(delivery.decode().unwrap());
        delivery.ack().confirmed().await.unwrap();
    }
    numbers
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn each_message_of_a_batch_is_answered_for_itself() {
    let redis = Redis::start().unwrap();
    let connection = kombu::connect(&redis.url()).await.unwrap();
    let full = Queue::new("full")
        .max_length(2)
        .overflow(Overflow::RejectPublish);
    connection.declare_queue(&full).await.unwrap();
    for name in ["one", "other"] {
        connection.declare_queue(&Queue::new(name)).await.unwrap();
    }
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let queues = ["one", "full", "one", "other", "full", "one"];
    let sent: Vec<(u32, &str)> = (0..).zip(queues.into_iter().cycle().take(24)).collect();
    let batch = sent
        .iter()
        .map(|(number, queue)| producer.publish(number).routing_key(*queue));
    let results = producer.batch(batch).await;

    let of = |queue| -> Vec<u32> {
        let there = sent.iter().filter(|(_, other)| *other == queue);
        there.map(|(number, _)| *number).collect()
    };
    for ((number, queue), result) in sent.iter().zip(&results) {
        match *queue == "full" && *number > of("full")[1] {
            true => assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::Nacked),
            false => assert!(result.is_ok(), "{number}: {result:?}"),
        }
    }
    assert_eq!(numbers(&connection, "one").await, of("one"));
    assert_eq!(numbers(&connection, "other").await, of("other"));
    assert_eq!(numbers(&connection, "full").await, of("full")[..2]);
    connection.close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn messages_with_and_without_an_expiration_keep_their_order() {
    let redis = Redis::start().unwrap();
    let connection = kombu::connect(&redis.url()).await.unwrap();
    let everywhere = Exchange::fanout("everywhere");
    connection
        .declare_queue(&Queue::new("jobs").bind(&everywhere, ""))
        .await
        .unwrap();
    connection
        .declare_queue(&Queue::new("log").bind(&everywhere, ""))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let sent: Vec<u32> = (0..30).collect();
    let batch = sent.iter().map(|number| {
        let publish = producer.publish(number).routing_key("jobs");
        match number % 5 {
            1 => publish.expiration(Duration::from_secs(3600)),
            // To two queues.
            3 => publish.exchange(&everywhere),
            _ => publish,
        }
    });
    for result in producer.batch(batch).await {
        result.unwrap();
    }
    assert_eq!(numbers(&connection, "jobs").await, sent);
    assert_eq!(numbers(&connection, "log").await, [3, 8, 13, 18, 23, 28]);
    connection.close().await.unwrap();
}

// On one thread, nothing could be sent in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_batch_is_one_call() {
    let redis = Redis::start().unwrap();
    let connection = kombu::connect(&redis.url()).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let sent: Vec<u32> = (0..100).collect();
    let results = producer
        .batch(sent.iter().map(|number| producer.publish(number)))
        .await;
    assert!(results.iter().all(Result::is_ok));

    // How often each session stored messages.
    let count = "return table.concat(redis.call('HVALS', '_kombu.rs.pushed'), ' ')";
    assert_eq!(RedisAdmin::of(&redis).text(["EVAL", count, "0"]), "1");
    assert_eq!(numbers(&connection, "jobs").await, sent);
    connection.close().await.unwrap();
}

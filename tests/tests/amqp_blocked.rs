//! A RabbitMQ that is short of memory takes no publishes. It is one of this file's own, since it blocks everybody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::alloc::System;
use std::future::IntoFuture;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use kombu::{Connection, Deadlines, ErrorKind, Event, Events, Exchange, Producer, Queue};
use kombu_testkit::Harness;
use kombu_testkit::brokers::RabbitMq;
use kombu_testkit::expect::{collect, collect_one};
use kombu_tests::AmqpHarness;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DEADLINE: Duration = Duration::from_millis(200);

async fn until(events: &mut Events, wanted: impl Fn(&Event) -> bool) {
    loop {
        let event = events.next().await.unwrap();
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
        if wanted(&event) {
            return;
        }
    }
}

/// Publishes ten thousand at once, and sees that none of them gets through.
async fn are_held_back(producer: &Producer, body: &[u8]) {
    let messages = (0..10_000).map(|_| producer.publish_bytes(body.to_vec()));
    for answer in producer.batch(messages).await {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Backpressure, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn publishes_end_in_time_and_everything_else_goes_on() {
    let broker = RabbitMq::start().unwrap();
    let mut deadlines = Deadlines::default();
    deadlines.publish = DEADLINE;
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .deadlines(deadlines)
        .await
        .unwrap();
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(10).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for number in 0..50 {
        producer.publish(&number).await.unwrap();
    }
    let held = collect(&mut consumer, 10).await;

    broker.ctl(["set_vm_memory_high_watermark", "0"]).unwrap();
    let begin = Instant::now();
    let error = producer.publish(&0).await.unwrap_err();
    assert!(begin.elapsed() < 10 * DEADLINE, "{:?}", begin.elapsed());
    until(&mut events, |event| matches!(event, Event::Blocked { .. })).await;
    assert!(error.is_transient(), "{error}");
    let error = producer.publish(&0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backpressure, "{error}");

    // Deliveries, acks and declarations don't notice.
    for delivery in held {
        delivery.ack().confirmed().await.unwrap();
    }
    for _ in 0..40 {
        let delivery = collect_one(&mut consumer).await;
        delivery.ack().confirmed().await.unwrap();
    }
    connection.declare_queue(&Queue::new("more")).await.unwrap();

    // Attempts that nobody waits for any more don't pile up.
    let body = vec![7; 1024];
    for _ in 0..2 {
        are_held_back(&producer, &body).await;
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..10 {
        are_held_back(&producer, &body).await;
    }
    let change = region.change();
    let grown = change.bytes_allocated as i64 - change.bytes_deallocated as i64;
    println!("100,000 more attempts hold {grown} more bytes");
    assert!(grown < 2 * 1024 * 1024, "{grown} bytes");

    broker.ctl(["set_vm_memory_high_watermark", "0.8"]).unwrap();
    until(&mut events, |event| matches!(event, Event::Unblocked)).await;
    // Some of the attempts may have been on their way.
    let answer = loop {
        match producer.publish(&"at last").await {
            Ok(published) => break published,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    };
    assert!(answer.routed && !answer.resent);
    loop {
        let delivery = collect_one(&mut consumer).await;
        let is_last = delivery
            .decode::<String>()
            .is_ok_and(|text| text == "at last");
        delivery.ack().await.unwrap();
        if is_last {
            break;
        }
    }
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_retry_that_waits_for_the_broker_holds_up_no_acks() {
    let broker = RabbitMq::start().unwrap();
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .await
        .unwrap();
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(10).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for number in 0..10 {
        producer.publish(&number).await.unwrap();
    }
    let mut held = collect(&mut consumer, 10).await.into_iter();
    broker.ctl(["set_vm_memory_high_watermark", "0"]).unwrap();
    // Only one who publishes is told.
    let blocked = producer.publish(&10).send().await.unwrap();
    until(&mut events, |event| matches!(event, Event::Blocked { .. })).await;
    let first = held.next().unwrap();
    let retried = tokio::spawn(first.retry().confirmed());
    // It is under way before the acks are.
    connection.declare_queue(&Queue::new("more")).await.unwrap();
    for delivery in held {
        delivery.ack().confirmed().await.unwrap();
    }
    assert!(!retried.is_finished());
    broker.ctl(["set_vm_memory_high_watermark", "0.8"]).unwrap();
    retried.await.unwrap().unwrap();
    assert!(blocked.await.unwrap().routed);
    let mut left = Vec::new();
    for delivery in collect(&mut consumer, 2).await {
        left.push((delivery.decode::<u32>().unwrap(), delivery.attempt()));
        delivery.ack().await.unwrap();
    }
    left.sort_unstable();
    assert_eq!(left, [(0, 2), (10, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn closing_ends_while_the_broker_blocks() {
    let broker = RabbitMq::start().unwrap();
    let mut deadlines = Deadlines::default();
    deadlines.publish = DEADLINE;
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .deadlines(deadlines)
        .await
        .unwrap();
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    producer.publish(&1).await.unwrap();
    broker.ctl(["set_vm_memory_high_watermark", "0"]).unwrap();
    let mut events = connection.events();
    producer.publish(&2).await.unwrap_err();
    until(&mut events, |event| matches!(event, Event::Blocked { .. })).await;
    // The acks of others are flushed in the same call.
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    drop(delivery.ack());
    let begin = Instant::now();
    connection.close().await.unwrap();
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    let other = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .await
        .unwrap();
    assert_eq!(other.queue_info("jobs").await.unwrap().ready, 0);
}

/// Its channel is on the connection of which the broker reads nothing.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn closing_ends_while_a_producer_waits_for_a_broker_that_blocks() {
    let broker = RabbitMq::start().unwrap();
    let mut deadlines = Deadlines::default();
    deadlines.publish = DEADLINE;
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .deadlines(deadlines)
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&1).await.unwrap();
    broker.ctl(["set_vm_memory_high_watermark", "0"]).unwrap();
    let mut events = connection.events();
    producer.publish(&2).await.unwrap_err();
    until(&mut events, |event| matches!(event, Event::Blocked { .. })).await;
    let mut opening = connection.producer(Exchange::default()).into_future();
    assert!((&mut opening).now_or_never().is_none());
    let opening = tokio::spawn(opening);
    // It is under way before this is answered.
    connection.declare_queue(&Queue::new("more")).await.unwrap();
    assert!(!opening.is_finished());
    let begin = Instant::now();
    connection.close().await.unwrap();
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    let error = opening.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

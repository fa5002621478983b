//! What an idle consumer on RabbitMQ takes of memory. Alone in its process: lapin frees memory after its connections have ended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::alloc::System;

use kombu::Queue;
use kombu_testkit::Harness;
use kombu_tests::AmqpHarness;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn live_bytes(change: &Stats) -> usize {
    // Reallocations are counted in both.
    change.bytes_allocated - change.bytes_deallocated
}

/// An idle consumer of lapin's with the window and the frame size that kombu asks for, and what it allocated.
async fn idle_lapin(url: &str) -> (usize, lapin::Connection, lapin::Consumer) {
    use lapin::options::{BasicConsumeOptions, BasicQosOptions};
    let region = Region::new(ALLOCATOR);
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let qos = channel.basic_qos(64, BasicQosOptions::default());
    qos.await.unwrap();
    let (queue, options) = ("idle".into(), BasicConsumeOptions::default());
    let consumer = channel.basic_consume(queue, "".into(), options, Default::default());
    let consumer = consumer.await.unwrap();
    (live_bytes(&region.change()), connection, consumer)
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn an_idle_consumer_on_rabbitmq_takes_at_most_5_mib_more_than_lapins() {
    let broker = AmqpHarness::new().broker().await;
    let declaring = broker.connect().await;
    declaring.declare_queue(&Queue::new("idle")).await.unwrap();
    // What is allocated once in a process is not counted, and none ends, which would be, whenever its memory is freed.
    let _first = idle_lapin(broker.url()).await;
    let (raw, _second, _consumer) = idle_lapin(broker.url()).await;

    let region = Region::new(ALLOCATOR);
    let connection = broker.connect().await;
    let consumer = connection.consumer(&Queue::new("idle")).await.unwrap();
    let ours = live_bytes(&region.change());
    println!("kombu {ours} bytes, lapin {raw}");
    assert!(ours <= raw + 5 * 1024 * 1024, "kombu {ours}, lapin {raw}");
    drop(consumer);
}

//! How often the hot paths allocate, in the steady state, on `memory://`.

#![allow(clippy::unwrap_used)]

use std::alloc::System;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use kombu::{Connection, Consumer, Exchange, Producer, Queue};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts are of the whole process: one measurement at a time.
static MEASURING: Mutex<()> = Mutex::new(());

const ROUNDS: usize = 10;
const ITERATIONS: usize = 500;

/// The fewest allocations that `ITERATIONS` calls needed in one of the rounds: another test that ends at the same
/// time may allocate in some of them, but code that allocates does so in all.
async fn fewest_allocations(mut call: impl AsyncFnMut()) -> usize {
    for _ in 0..ITERATIONS {
        call().await;
    }
    let mut fewest = usize::MAX;
    for _ in 0..ROUNDS {
        let region = Region::new(ALLOCATOR);
        for _ in 0..ITERATIONS {
            call().await;
        }
        let change = region.change();
        fewest = fewest.min(change.allocations + change.reallocations);
    }
    fewest
}

fn measure(test: impl Future<Output = ()>) {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

/// A queue, with a producer that reaches it and a consumer.
async fn queue() -> (Connection, Producer, Consumer) {
    let connection = kombu::connect("memory://").await.unwrap();
    let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let open = connection.producer(Exchange::default()).routing_key("jobs");
    let producer = open.await.unwrap();
    (connection, producer, consumer)
}

async fn receive(consumer: &mut Consumer) {
    let delivery = consumer.next().await.unwrap().unwrap();
    delivery.ack().await.unwrap();
}

#[test]
fn a_raw_publish_allocates_once_while_nothing_is_consumed() {
    measure(async {
        let (_connection, producer, _consumer) = queue().await;
        // More than are kept to be used again.
        for _ in 0..10_000 {
            producer.publish_bytes(&b"0123456789"[..]).await.unwrap();
        }
        let allocations = fewest_allocations(async || {
            producer.publish_bytes(&b"0123456789"[..]).await.unwrap();
        });
        // The fewest of ten rounds: most of them don't make the queue itself grow.
        assert_eq!(
            allocations.await,
            ITERATIONS,
            "in {ITERATIONS} raw publishes"
        );
    });
}

#[test]
fn a_raw_publish_allocates_nothing_once_envelopes_come_back() {
    measure(async {
        let (_connection, producer, mut consumer) = queue().await;
        // What is published is received, so that the queue stays as it is.
        let allocations = fewest_allocations(async || {
            producer.publish_bytes(&b"0123456789"[..]).await.unwrap();
            receive(&mut consumer).await;
        });
        assert_eq!(allocations.await, 0, "in {ITERATIONS} raw publishes");
    });
}

#[test]
fn a_json_publish_allocates_only_its_body_once_envelopes_come_back() {
    measure(async {
        let (_connection, producer, mut consumer) = queue().await;
        let allocations = fewest_allocations(async || {
            producer
                .publish(&("lolcat1.avi", 1_301_013, [1.5, 2.5]))
                .await
                .unwrap();
            receive(&mut consumer).await;
        });
        assert_eq!(
            allocations.await,
            ITERATIONS,
            "in {ITERATIONS} JSON publishes"
        );
    });
}

#[test]
fn a_delivery_and_its_ack_allocate_nothing() {
    measure(async {
        let (_connection, producer, mut consumer) = queue().await;
        for _ in 0..ITERATIONS * (ROUNDS + 1) {
            producer.publish_bytes(&b"0123456789"[..]).await.unwrap();
        }
        let allocations = fewest_allocations(async || receive(&mut consumer).await).await;
        assert_eq!(allocations, 0, "in {ITERATIONS} deliveries");
    });
}

/// How many bytes more are in use after `ITERATIONS` calls, in the round that left the fewest behind.
async fn fewest_bytes_left(mut call: impl AsyncFnMut()) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..ROUNDS {
        let region = Region::new(ALLOCATOR);
        for _ in 0..ITERATIONS {
            call().await;
        }
        let change = region.change();
        let freed = change.bytes_deallocated;
        fewest = fewest.min(change.bytes_allocated.saturating_sub(freed));
    }
    fewest
}

#[test]
fn single_gets_leave_nothing_behind() {
    measure(async {
        let (connection, producer, consumer) = queue().await;
        consumer.cancel().await.unwrap();
        let left = fewest_bytes_left(async || {
            producer.publish_bytes(&b"0123456789"[..]).await.unwrap();
            let delivery = connection.get("jobs").await.unwrap().unwrap();
            delivery.ack().await.unwrap();
        });
        assert_eq!(left.await, 0, "bytes after {ITERATIONS} gets");
    });
}

#[test]
fn connections_to_fresh_brokers_leave_nothing_behind() {
    measure(async {
        let left = fewest_bytes_left(async || {
            let connection = kombu::connect("memory://").await.unwrap();
            connection.declare_queue(&Queue::new("jobs")).await.unwrap();
            connection.close().await.unwrap();
            drop(connection);
            // Its tasks end when they are told.
            tokio::task::yield_now().await;
        });
        assert_eq!(left.await, 0, "bytes after {ITERATIONS} connections");
    });
}

#[test]
fn the_measurement_sees_what_is_left() {
    measure(async {
        let left = fewest_bytes_left(async || std::mem::forget(Box::new([7_u64; 100]))).await;
        // But for what another test frees that ends at the same time.
        let expected = 800 * ITERATIONS;
        assert!(left.abs_diff(expected) < 100_000, "{left} of {expected}");
    });
}

#[test]
fn the_measurement_sees_an_allocation() {
    measure(async {
        let allocations =
            fewest_allocations(async || drop(std::hint::black_box(Box::new(7)))).await;
        assert_eq!(allocations, ITERATIONS);
    });
}

#[test]
fn deliveries_and_errors_are_small() {
    assert!(size_of::<kombu::Delivery>() <= 48);
    assert_eq!(size_of::<kombu::Error>(), 8);
    assert_eq!(size_of::<kombu::Result<()>>(), 8);
}

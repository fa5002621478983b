//! What queued messages and shared declarations take of memory, on `memory://`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::alloc::System;
use std::sync::{Mutex, PoisonError};

use kombu::{Binding, Connection, Exchange, Queue};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts are of the whole process: one measurement at a time.
static MEASURING: Mutex<()> = Mutex::new(());

fn measure(test: impl Future<Output = ()>) {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

fn live_bytes(change: &Stats) -> usize {
    // Reallocations are counted in both.
    change.bytes_allocated - change.bytes_deallocated
}

#[test]
fn queued_messages_of_1_kib_take_at_most_1_3_times_their_bodies() {
    const MESSAGES: usize = 100_000;
    const BODY: usize = 1024;
    measure(async {
        let connection = kombu::connect("memory://").await.unwrap();
        let queue = Queue::new("jobs");
        connection.declare_queue(&queue).await.unwrap();
        let open = connection.producer(Exchange::default()).routing_key("jobs");
        let producer = open.await.unwrap();

        let region = Region::new(ALLOCATOR);
        for _ in 0..MESSAGES {
            producer.publish_bytes(vec![7; BODY]).await.unwrap();
        }
        let live = live_bytes(&region.change());
        let ready = connection.queue_info(&queue).await.unwrap().ready;
        assert_eq!(ready, MESSAGES as u64);
        let ratio = live as f64 / (MESSAGES * BODY) as f64;
        println!("{MESSAGES} messages take {ratio:.3} times their bodies");
        assert!(ratio <= 1.3, "{ratio:.3}");
    });
}

/// A queue with 2,000 bindings, spread over ten exchanges of all kinds.
async fn bind_many(connection: &Connection) -> Queue {
    let kinds = [
        Exchange::direct,
        Exchange::fanout,
        Exchange::topic,
        Exchange::headers,
    ];
    let queue = (0..2_000).fold(Queue::new("jobs"), |queue, index: usize| {
        let exchange = kinds[index % 10 % 4](format!("exchange-{}", index % 10));
        let key = format!("tenant.{index}.*");
        queue.bind_with(Binding::new(exchange, key).argument("tenant", index as i64))
    });
    connection.declare_queue(&queue).await.unwrap();
    queue
}

#[test]
fn what_one_connection_binds_costs_the_next_publish_of_others_no_copy_of_the_table() {
    measure(async {
        let url = "memory://footprint-publish";
        let connection = kombu::connect(url).await.unwrap();
        let queue = bind_many(&connection).await;
        let binds = kombu::connect(url).await.unwrap();
        let publishes = kombu::connect(url).await.unwrap();
        let direct = Exchange::direct("exchange-0");
        let open = publishes.producer(&direct).routing_key("tenant.0.*");
        let producer = open.await.unwrap();
        for index in 0..10 {
            producer.publish_bytes(&b"1"[..]).await.unwrap();
            let region = Region::new(ALLOCATOR);
            let binding = Binding::new(&direct, format!("more-{index}"));
            binds.bind_queue(queue.name(), &binding).await.unwrap();
            producer.publish_bytes(&b"1"[..]).await.unwrap();
            let allocated = region.change().bytes_allocated;
            assert!(allocated < 64 * 1024, "{allocated} bytes");
        }
    });
}

#[test]
fn connections_share_one_table() {
    measure(async {
        let url = "memory://footprint-connections";
        let region = Region::new(ALLOCATOR);
        let connection = kombu::connect(url).await.unwrap();
        bind_many(&connection).await;
        let first = live_bytes(&region.change());

        let region = Region::new(ALLOCATOR);
        let mut others = Vec::new();
        for _ in 0..10 {
            others.push(kombu::connect(url).await.unwrap());
        }
        let ten = live_bytes(&region.change());
        println!("the first connection has {first} bytes, ten more have {ten}");
        assert!(ten < first / 10, "{ten} bytes");
    });
}

//! Sessions that are lost, a thousand times.

use std::alloc::System;
use std::time::Duration;

use kombu::{Event, Exchange, Queue, RetryPolicy};
use kombu_testkit::expect::collect_one;
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::Recorder;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::time::sleep;

use crate::stand::{self, Counts, count};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PATIENCE: Duration = Duration::from_secs(60);
/// Buffers and the allocator's arenas grow at first.
const WARM_UP: (u64, u64) = (30, 100);
const HEAP: &str = "bytes on the heap";
/// What a thousand of them may take, and fewer a part of it.
const GROWTH: u64 = 5 * 1024 * 1024;
/// Buffers are now fuller and now emptier.
const NOISE: u64 = 64 * 1024;

fn growth(reconnects: u64) -> u64 {
    (GROWTH * reconnects / 1000).max(NOISE)
}

/// Live on the heap, of the whole process.
fn heap() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.bytes_allocated - stats.bytes_deallocated) as u64
}

/// What the system has given us.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    pages * 4096
}

pub(crate) async fn leave_nothing(broker: &mut Breakable) {
    let reconnects = count(50, 1000);
    let warm_up = count(WARM_UP.0, WARM_UP.1);
    let recorder = Recorder::new();
    let retry = RetryPolicy::default()
        .first_pause(Duration::from_millis(1))
        .longest_pause(Duration::from_millis(10));
    let connection = broker.builder().retry(retry).await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let mut consumers = Vec::new();
    for name in ["one", "two", "three"] {
        let queue = Queue::new(name).bind(&media, name).bind(&media, "all");
        consumers.push(connection.consumer(&queue).await.unwrap());
    }
    let producer = connection.producer(&media).routing_key("all");
    let producer = producer.await.unwrap();
    let mut before = None;
    for number in 0..warm_up + reconnects {
        if number == warm_up {
            before = Some((Counts::steady(broker).await, heap(), resident()));
        }
        if number % 100 == 0 {
            println!(
                "{number}: {} on the heap, {} of the process",
                heap(),
                resident()
            );
        }
        let sent = producer.publish(&number).send().await.unwrap();
        broker.inflict(Fault::Cut).await.unwrap();
        while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
        sent.await.unwrap();
        for consumer in &mut consumers {
            loop {
                let delivery = collect_one(consumer).await;
                let found: u64 = delivery.decode().unwrap();
                // One of a lost session comes again.
                drop(delivery.ack().confirmed().await);
                if found == number {
                    break;
                }
            }
        }
    }
    assert!(connection.health().sessions > reconnects);
    let (counts, heap_before, resident_before) = before.unwrap();
    counts.compare(broker, &recorder).await;
    Counts::steady(broker).await;
    for (what, before, after) in [
        (HEAP, heap_before, heap()),
        ("bytes of the process", resident_before, resident()),
    ] {
        let (grown, allowed) = (after as i64 - before as i64, growth(reconnects));
        println!(
            "{what}: {before}, and {after} after {reconnects} reconnects: {grown} more, of {allowed}"
        );
        // After a few, the allocator is still making room for itself.
        if what == HEAP || stand::is_long() {
            recorder.count(what, before, allowed);
            recorder.count(what, after, allowed);
        }
    }
    connection.close().await.unwrap();
    let history = recorder.history();
    let (name, allowed) = (broker.name(), Duration::ZERO);
    let row = Row::of(
        name,
        "reconnected, for leaks",
        reconnects,
        &history,
        PATIENCE,
        allowed,
    );
    stand::report(vec![row], &history);
}

/// The broker falls silent in the midst of publishes, for longer than the end of the session waits for their answers; then it goes on as
/// if nothing had been. A consumer that has nothing to do mustn't stay with the lost session.
pub(crate) async fn keep_no_session(broker: &mut Breakable) {
    let recorder = Recorder::new();
    let connection = broker.builder().await.unwrap();
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&Queue::new("idle")).await.unwrap();
    let idle = tokio::spawn(async move { drop(consumer.next().await) });
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&0).await.unwrap();
    // A session that was restored may have a channel more than the first one.
    broker.inflict(Fault::Cut).await.unwrap();
    while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
    producer.publish(&0).await.unwrap();
    let before = Counts::steady(broker).await;
    broker.inflict(Fault::Pause).await.unwrap();
    let mut sent = Vec::new();
    for number in 0..10 {
        sent.push(producer.publish(&number).send().await.unwrap());
    }
    while !matches!(events.next().await.unwrap(), Event::Lost { .. }) {}
    // Until nobody waits for them any more.
    sleep(2 * Breakable::LIVENESS).await;
    broker.heal().await.unwrap();
    while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
    for sent in sent {
        sent.await.unwrap();
    }
    before.compare(broker, &recorder).await;
    connection.close().await.unwrap();
    idle.await.unwrap();
    let history = recorder.history();
    let row = Row::of(
        broker.name(),
        "silent amid publishes, for leaks",
        1,
        &history,
        PATIENCE,
        Duration::ZERO,
    );
    stand::report(vec![row], &history);
}

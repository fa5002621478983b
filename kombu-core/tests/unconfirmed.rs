//! Publishes that wait, for room, a session or an answer: their order, and what is said of them when they end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use kombu::{
    Connection, ConnectionBuilder, ErrorKind, Event, Exchange, Faults, Overflow, Producer, Queue,
};
use tokio::time::{Instant, sleep};

/// What a producer has under way at once.
const ROOM: u32 = 1024;

fn builder(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url(format!("memory://unconfirmed-{name}"))
        .layer(faults.clone())
}

async fn to_queue(connection: &Connection) -> Producer {
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    producer.routing_key("q").await.unwrap()
}

async fn drain(connection: &Connection) -> Vec<u32> {
    let mut numbers = Vec::new();
    while let Some(delivery) = connection.get("q").await.unwrap() {
        let (number, delivery) = delivery.take().unwrap();
        delivery.ack().await.unwrap();
        numbers.push(number);
    }
    numbers
}

/// Polls it once, with nobody to wake.
fn begin(publish: &mut (impl Future + Unpin)) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(Pin::new(publish).poll(&mut context).is_pending());
}

#[tokio::test(start_paused = true)]
async fn publishes_that_wait_for_room_are_overtaken_by_nobody() {
    let faults = Faults::default();
    let connection = builder("overtaken", &faults).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.block("full");
    let receipts: Vec<_> = (0..ROOM)
        .map(|number| producer.publish(&number).into_future())
        .collect();
    // One that is polled, one that isn't, and one that is dropped.
    let mut polled = producer.publish(&ROOM).send();
    begin(&mut polled);
    let unpolled = producer.publish(&(ROOM + 1)).send();
    drop(producer.publish(&u32::MAX).send());
    faults.unblock();
    let first = polled.await.unwrap();
    let third = producer.publish(&(ROOM + 2)).send().await.unwrap();
    let second = unpolled.await.unwrap();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    for receipt in [first, second, third] {
        receipt.await.unwrap();
    }
    let expected: Vec<_> = (0..ROOM + 3).collect();
    assert_eq!(drain(&connection).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_that_wait_for_room_all_come_to_their_turn() {
    let faults = Faults::default();
    let connection = builder("many", &faults).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.block("full");
    let publish = |number: u32| {
        let producer = producer.clone();
        tokio::spawn(async move { producer.publish(&number).await.map(drop) })
    };
    let published: Vec<_> = (0..5 * ROOM).map(publish).collect();
    tokio::task::yield_now().await;
    faults.unblock();
    for published in published {
        published.await.unwrap().unwrap();
    }
    let stored = connection.purge("q").await.unwrap();
    assert_eq!(stored, u64::from(5 * ROOM));
}

#[tokio::test(start_paused = true)]
async fn large_bodies_wait_for_room_too() {
    let faults = Faults::default();
    let connection = builder("bytes", &faults).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.block("full");
    let body = bytes::Bytes::from(vec![0; 16 * 1024 * 1024]);
    let publish = || producer.publish_bytes(body.clone()).into_future();
    let receipts: Vec<_> = (0..4).map(|_| publish()).collect();
    let error = publish().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backpressure);
    assert!(error.to_string().contains("no room"), "{error}");
    assert!(!error.may_have_been_stored());
    // Their deadline is the same, and they were on their way.
    for receipt in receipts {
        let error = receipt.await.unwrap_err();
        assert!(error.may_have_been_stored(), "{error}");
    }
    faults.unblock();
    publish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_waits_for_room_learns_at_once_that_the_connection_has_ended() {
    let faults = Faults::default();
    let connection = builder("closed", &faults).await.unwrap();
    let mut events = connection.events();
    let producer = to_queue(&connection).await;
    faults.refuse_connects([ErrorKind::ConnectionLost; 100]);
    faults.cut();
    while !matches!(events.next().await, Some(Event::Retrying { .. })) {}
    let receipts: Vec<_> = (0..ROOM)
        .map(|number| producer.publish(&number).into_future())
        .collect();
    let waiting = tokio::spawn(producer.publish(&ROOM).into_future());
    tokio::task::yield_now().await;
    let begin = Instant::now();
    connection.close().await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    for receipt in receipts {
        let error = receipt.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(!error.may_have_been_stored());
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let late = producer.publish(&1).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_when_its_connection_does_whether_receipts_are_polled_or_not() {
    let faults = Faults::default();
    let policy = kombu::RetryPolicy::default().max_attempts(2);
    let connection = builder("drained", &faults).retry(policy).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.refuse_connects([ErrorKind::ConnectionLost; 2]);
    faults.block("full");
    let _unpolled: Vec<_> = (0..ROOM + 1)
        .map(|number| producer.publish(&number).into_future())
        .collect();
    faults.cut();
    let begin = Instant::now();
    let report = connection.drain(Duration::from_secs(3600)).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn what_no_session_took_is_neither_sent_again_nor_maybe_stored() {
    let faults = Faults::default();
    let connection = builder("never-sent", &faults).await.unwrap();
    let mut events = connection.events();
    let producer = to_queue(&connection).await;
    faults.refuse_connects([ErrorKind::ConnectionLost; 5]);
    faults.cut();
    while !matches!(events.next().await, Some(Event::Retrying { .. })) {}
    assert!(!producer.publish(&1).await.unwrap().resent);
    // The line is cut before the broker has it.
    faults.lose_requests(1);
    assert!(!producer.publish(&2).await.unwrap().resent);
    faults.lose_replies(1);
    assert!(producer.publish(&3).await.unwrap().resent);
    assert_eq!(drain(&connection).await, [1, 2, 3, 3]);

    faults.refuse_connects([ErrorKind::ConnectionLost; 1000]);
    faults.cut();
    let error = producer.publish(&4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_been_stored(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_a_session_took_may_be_stored_although_it_is_sent_again() {
    let faults = Faults::default();
    let connection = builder("taken", &faults).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.refuse_connects([ErrorKind::ConnectionLost; 1000]);
    faults.lose_replies(1);
    let error = producer.publish(&1).await.unwrap_err();
    assert!(error.may_have_been_stored(), "{error}");
}

#[tokio::test]
async fn what_one_of_several_queues_refused_may_be_in_the_others() {
    let connection = kombu::connect("memory://").await.unwrap();
    let media = Exchange::fanout("media");
    let full = Queue::new("full").max_length(0);
    let full = full.overflow(Overflow::RejectPublish).bind(&media, "");
    connection.declare_queue(&full).await.unwrap();
    let other = Queue::new("other").bind(&media, "");
    connection.declare_queue(&other).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    let error = producer.publish(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Nacked);
    assert!(error.may_have_been_stored());
    assert_eq!(connection.queue_info("other").await.unwrap().ready, 1);

    let producer = connection.producer(Exchange::default()).await.unwrap();
    let error = producer.publish(&1).routing_key("full").await.unwrap_err();
    assert!(!error.may_have_been_stored());
}

/// Counts bodies that nobody has any more.
struct Body(Arc<AtomicUsize>);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        b"body"
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_let_go_of() {
    let faults = Faults::default();
    let connection = builder("let-go", &faults).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.delay_publishes(Duration::from_millis(1));
    let dropped = Arc::new(AtomicUsize::new(0));
    let publish = |_| {
        let body = bytes::Bytes::from_owner(Body(dropped.clone()));
        producer.publish_bytes(body).into_future()
    };
    let receipts: Vec<_> = (0..100).map(publish).collect();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    connection.purge("q").await.unwrap();
    // Envelopes are used again by the next messages.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(dropped.load(Ordering::Relaxed), 100);
}

#[test]
fn a_publish_outside_of_a_runtime_is_made_or_says_what_is_missing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let faults = Faults::default();
    let (connection, producer) = runtime.block_on(async {
        let connection = builder("outside", &faults).await.unwrap();
        let producer = to_queue(&connection).await;
        (connection, producer)
    });
    let mut context = Context::from_waker(Waker::noop());
    let mut at_once = producer.publish(&1).into_future();
    assert!(Pin::new(&mut at_once).poll(&mut context).is_ready());
    let mut info = Box::pin(connection.queue_info("q"));
    let std::task::Poll::Ready(Err(error)) = info.as_mut().poll(&mut context) else {
        panic!("without a timer, nothing ends it")
    };
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_was_published_behind_a_lost_request_is_sent_again_behind_it() {
    let faults = Faults::default();
    let connection = builder("behind", &faults).await.unwrap();
    let producer = to_queue(&connection).await;
    faults.delay_publishes(Duration::from_millis(1));
    faults.lose_requests(1);
    let publish = |number| producer.publish(&number).into_future();
    let receipts: Vec<_> = (0..5).map(publish).collect();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(drain(&connection).await, [0, 1, 2, 3, 4]);
}

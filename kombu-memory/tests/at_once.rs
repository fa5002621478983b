//! What memory does at once, and whom it leaves asleep.

#![allow(clippy::unwrap_used)]

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use kombu::{Exchange, Queue};

#[derive(Default)]
struct Woke(AtomicUsize);

impl Wake for Woke {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_publish_is_stored_at_once_though_somebody_else_has_declared_something() {
    let url = "memory://at-once";
    let connection = kombu::connect(url).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish_text("before").await.unwrap();
    let other = kombu::connect(url).await.unwrap();
    other.declare_queue(&Queue::new("others")).await.unwrap();
    let publishing = pin!(producer.publish_text("after").into_future());
    let answer = publishing.poll(&mut Context::from_waker(Waker::noop()));
    assert!(answer.is_ready());
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 2);
}

#[tokio::test]
async fn consumers_that_have_to_wait_for_one_of_higher_priority_dont_wake_each_other() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("jobs");
    let _high = connection.consumer(&queue).priority(1).await.unwrap();
    let mut one = connection.consumer(&queue).await.unwrap();
    let mut other = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish_text("for the first").await.unwrap();
    let woke = Arc::<Woke>::default();
    let waker = Waker::from(woke.clone());
    let mut waiting = pin!(one.try_next());
    let waits = waiting.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(waits.is_pending());
    let before = woke.0.load(Ordering::Relaxed);
    let mut looking = pin!(other.try_next());
    let looks = looking
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(looks.is_pending());
    assert_eq!(woke.0.load(Ordering::Relaxed), before);
}

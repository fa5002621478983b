//! Retries that come back after a delay, and leave the way free meanwhile.

use std::time::Instant;

use kombu_core::driver::Feature;
use kombu_core::{Exchange, Queue};

use super::{LONG, SOON, has_queue, retries_later};
use crate::Broker;
use crate::cases::{publish, reject};
use crate::expect::{collect_one, drain, info, texts};

/// Counted, and marked.
pub async fn a_delayed_retry_does_not_come_early(broker: &Broker) {
    let connection = broker.connect().await;
    if !retries_later(&connection).await {
        return;
    }
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    for attempt in 1..=3 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), "hard");
        assert_eq!(delivery.attempt(), attempt);
        let begin = Instant::now();
        delivery.retry_after(SOON).await.unwrap();
        let again = collect_one(&mut consumer).await;
        assert!(begin.elapsed() >= SOON, "after {:?}", begin.elapsed());
        assert_eq!(again.attempt(), attempt + 1);
        again.release().await.unwrap();
    }
}

/// It takes no place in the window, and blocks nobody.
pub async fn others_do_not_wait_for_a_delayed_retry(broker: &Broker) {
    let connection = broker.connect().await;
    if !retries_later(&connection).await {
        return;
    }
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["hard", "easy", "easy too"]).await;
    let hard = collect_one(&mut consumer).await;
    hard.retry_after(LONG).confirmed().await.unwrap();
    for expected in ["easy", "easy too"] {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), expected);
        delivery.ack().await.unwrap();
    }
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// The copies in other queues aren't touched.
pub async fn a_delayed_retry_comes_back_to_its_own_queue_only(broker: &Broker) {
    let connection = broker.connect().await;
    if !retries_later(&connection).await {
        return;
    }
    let news = Exchange::fanout("news");
    let other = Queue::new("other").bind(&news, "");
    connection.declare_queue(&other).await.unwrap();
    let jobs = Queue::new("jobs").bind(&news, "");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("hard").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    delivery.retry_after(SOON).await.unwrap();
    let again = collect_one(&mut consumer).await;
    assert_eq!(again.exchange(), "news");
    again.ack().await.unwrap();
    assert_eq!(texts(&drain(&connection, "other").await), ["hard"]);
}

/// It waits with the broker: who gave it back may go, and it is still in time.
pub async fn a_delayed_retry_outlives_its_consumer(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    if !retries_later(&connection).await {
        return;
    }
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    let delivery = collect_one(&mut consumer).await;
    let begin = Instant::now();
    delivery.retry_after(SOON).confirmed().await.unwrap();
    connection.close().await.unwrap();
    let mut consumer = other.consumer(&jobs).await.unwrap();
    let again = collect_one(&mut consumer).await;
    assert!(begin.elapsed() >= SOON, "after {:?}", begin.elapsed());
    assert_eq!(again.attempt(), 2);
    again.ack().await.unwrap();
}

/// It wasn't there.
pub async fn a_purge_leaves_what_is_retried_later(broker: &Broker) {
    let connection = broker.connect().await;
    if !retries_later(&connection).await {
        return;
    }
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&connection, "jobs", ["hard", "easy"]).await;
    let hard = collect_one(&mut consumer).await;
    consumer.cancel().await.unwrap();
    hard.retry_after(SOON).confirmed().await.unwrap();
    // It may be there by now, or not.
    let purged = connection.purge("jobs").await.unwrap();
    if purged == 1 {
        let mut consumer = connection.consumer(&jobs).await.unwrap();
        let again = collect_one(&mut consumer).await;
        assert_eq!((again.body().as_ref(), again.attempt()), (&b"hard"[..], 2));
        again.ack().await.unwrap();
    }
}

/// It is in the queue again, with all that this means.
pub async fn what_was_retried_later_can_be_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await
        || !retries_later(&connection).await
    {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delivery.retry_after(SOON).confirmed().await.unwrap();
    while info(&connection, "jobs").await.ready == 0 {
        tokio::task::yield_now().await;
    }
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["bad"]);
}

/// Its own delay, for each.
pub async fn delayed_retries_come_back_in_the_order_of_their_times(broker: &Broker) {
    let connection = broker.connect().await;
    if !retries_later(&connection).await {
        return;
    }
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let zero = collect_one(&mut consumer).await;
    let one = collect_one(&mut consumer).await;
    zero.retry_after(20 * SOON).confirmed().await.unwrap();
    one.retry_after(SOON).confirmed().await.unwrap();
    for expected in ["1", "0"] {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.body(), expected);
        delivery.ack().await.unwrap();
    }
}

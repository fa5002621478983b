//! A retried message comes again, and says how often it was tried.

use kombu_core::{Exchange, Queue};

use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect, collect_one, drain, texts};

/// 1, 2, 3, …
pub async fn retries_are_counted(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    for attempt in 1..=5 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        assert_eq!(delivery.body(), "hard");
        delivery.retry().await.unwrap();
    }
    let last = collect_one(&mut consumer).await;
    assert_eq!(last.attempt(), 6);
    last.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// A release between two retries leaves the count.
pub async fn releases_between_retries_are_not_counted(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    collect_one(&mut consumer).await.retry().await.unwrap();
    collect_one(&mut consumer).await.release().await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.attempt(), 2);
    delivery.retry().await.unwrap();
    assert_eq!(collect_one(&mut consumer).await.attempt(), 3);
}

/// The count stays with the message, whoever gets it.
pub async fn the_count_goes_on_with_another_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["hard"]).await;
    let delivery = collect_one(&mut consumer).await;
    consumer.cancel().await.unwrap();
    delivery.retry().await.unwrap();
    let other = broker.connect().await;
    let mut consumer = other.consumer(&Queue::new("jobs")).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.attempt(), 2);
    delivery.ack().await.unwrap();
}

/// The copies in other queues aren't touched.
pub async fn a_retry_comes_back_to_its_own_queue_only(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    connection
        .declare_queue(&Queue::new("other").bind(&news, ""))
        .await
        .unwrap();
    let mut consumer = connection
        .consumer(&Queue::new("jobs").bind(&news, ""))
        .await
        .unwrap();
    connection
        .producer(&news)
        .await
        .unwrap()
        .publish_text("hard")
        .await
        .unwrap();
    for _ in 0..3 {
        collect_one(&mut consumer).await.retry().await.unwrap();
    }
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.exchange(), "news");
    delivery.ack().await.unwrap();
    assert_eq!(texts(&drain(&connection, "other").await), ["hard"]);
}

/// Others are counted for themselves.
pub async fn each_message_has_its_own_count(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["easy", "hard"]).await;
    let [easy, hard] = collect(&mut consumer, 2).await.try_into().unwrap();
    hard.retry().await.unwrap();
    let hard = collect_one(&mut consumer).await;
    assert_eq!((hard.body().as_ref(), hard.attempt()), (&b"hard"[..], 2));
    hard.ack().await.unwrap();
    easy.release().await.unwrap();
    let easy = collect_one(&mut consumer).await;
    assert_eq!((easy.body().as_ref(), easy.attempt()), (&b"easy"[..], 1));
    easy.ack().await.unwrap();
}

//! What a consumer receives as a stream of values.

use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::{Exchange, Queue};

use crate::Broker;
use crate::cases::{producer_to, publish};
use crate::expect::{assert_unsupported, drain, texts};

const PATIENCE: Duration = Duration::from_secs(20);

/// The others stay for whoever comes next.
pub async fn values_are_decoded_up_to_a_limit(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("numbers")).await.unwrap();
    let producer = producer_to(&connection, "numbers").await;
    for number in 0..5 {
        producer.publish(&number).await.unwrap();
    }
    for (from, to) in [(0, 2), (2, 5)] {
        let mut values = consumer.values::<u32>().limit(to - from);
        for expected in from..to {
            let (number, delivery) = values.try_next().await.unwrap().unwrap();
            assert_eq!(usize::try_from(number).unwrap(), expected);
            delivery.ack().await.unwrap();
        }
        assert!(values.try_next().await.unwrap().is_none());
    }
    broker.assert_counts(&connection, "numbers", 0, 0).await;
}

/// And nothing is lost: what comes later is there for the next one.
pub async fn values_end_when_nothing_comes_for_too_long(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("numbers")).await.unwrap();
    let mut values = consumer.values::<u32>().patience(broker.lag());
    assert!(values.try_next().await.unwrap().is_none());
    assert!(values.try_next().await.unwrap().is_none());
    let producer = producer_to(&connection, "numbers").await;
    producer.publish(&7).await.unwrap();
    let mut values = consumer.values::<u32>().patience(PATIENCE);
    let (number, delivery) = values.try_next().await.unwrap().unwrap();
    assert_eq!(number, 7);
    delivery.ack().await.unwrap();
}

/// The consumer's policy says what becomes of it.
pub async fn what_is_no_value_is_passed_over(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let queue = Queue::new("numbers")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    let mut consumer = connection.consumer(&queue).await.unwrap();
    publish(&connection, "numbers", ["garbage"]).await;
    let producer = producer_to(&connection, "numbers").await;
    producer.publish(&7).await.unwrap();
    let mut values = consumer.values::<u32>();
    let (number, delivery) = values.try_next().await.unwrap().unwrap();
    assert_eq!(number, 7);
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "dead", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["garbage"]);
}

/// Replies through an exchange, to whatever the question names, collected from a queue.
pub async fn replies_through_an_exchange_are_collected(broker: &Broker) {
    let connection = broker.connect().await;
    let replies = Exchange::direct("replies");
    let mine = Queue::server_named().exclusive(true).bind(&replies, "mine");
    if !connection.capabilities().has(Feature::ExclusiveQueue) {
        assert_unsupported(connection.consumer(&mine).await);
        return;
    }
    let mut collecting = connection.consumer(&mine).no_ack(true).await.unwrap();
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let producer = producer_to(&connection, "questions").await;
    for number in 1..=3 {
        let question = producer.publish(&number).reply_to("mine");
        question.correlation_id(number.to_string()).await.unwrap();
        let question = questions.try_next().await.unwrap().unwrap();
        let doubled = question.decode::<i32>().unwrap() * 2;
        let reply = question.reply(&doubled).exchange(&replies);
        reply.await.unwrap();
        question.ack().await.unwrap();
    }
    let mut replies = collecting.values::<i32>().limit(3).patience(PATIENCE);
    let mut collected = Vec::new();
    while let Some((reply, delivery)) = replies.try_next().await.unwrap() {
        collected.push((delivery.correlation_id().unwrap().to_owned(), reply));
    }
    let expected = [("1", 2), ("2", 4), ("3", 6)];
    assert_eq!(
        collected,
        expected.map(|(id, reply)| (id.to_owned(), reply))
    );
}

//! Retries and delays on RabbitMQ go by copies and by a ladder of queues, and nobody who reads a message sees that.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::time::{Duration, Instant};

use kombu::{
    Connection, DeclareMode, ErrorKind, Exchange, FieldTable, FieldValue, Producer, Queue,
};
use kombu_testkit::expect::{assert_refused, collect_one, drain};
use kombu_testkit::{Broker, Harness};
use kombu_tests::AmqpHarness;

const SOON: Duration = Duration::from_millis(20);

async fn broker() -> Broker {
    AmqpHarness::new().broker().await
}

/// A producer of work, and the queue that takes it; what that rejects goes by its own key.
async fn jobs(connection: &Connection) -> (Producer, Queue) {
    let (work, failed) = (Exchange::topic("work"), Exchange::topic("failed"));
    let jobs = Queue::new("jobs")
        .bind(&work, "job.#")
        .dead_letter_exchange("failed");
    connection.declare_queue(&jobs).await.unwrap();
    let dead = Queue::new("dead").bind(&failed, "job.new");
    connection.declare_queue(&dead).await.unwrap();
    let producer = connection.producer(&work).routing_key("job.new");
    (producer.await.unwrap(), jobs)
}

/// Where and why it died, and how often.
fn deaths(headers: &FieldTable) -> Vec<(String, String, i64)> {
    let deaths = headers.get("x-death").and_then(FieldValue::as_array);
    let entry = |death: &FieldValue| {
        let death = death.as_table().unwrap();
        let text = |name: &str| death.get(name).unwrap().as_str().unwrap().to_owned();
        let count = death.get("count").unwrap().as_i64().unwrap();
        (text("queue"), text("reason"), count)
    };
    deaths.unwrap_or_default().iter().map(entry).collect()
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_retried_message_looks_as_before_and_dies_as_before() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let (producer, jobs) = jobs(&connection).await;
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    for delay in [None, Some(SOON)] {
        let publish = producer.publish(&1).header("tenant", "7");
        publish.user_id("guest").priority(3).await.unwrap();
        let first = collect_one(&mut consumer).await;
        let before = (*first).clone();
        match delay {
            None => first.retry().await.unwrap(),
            Some(delay) => first.retry_after(delay).await.unwrap(),
        }
        let again = collect_one(&mut consumer).await;
        assert_eq!((again.attempt(), again.redelivered()), (2, true));
        assert_eq!(again.exchange(), "work");
        assert_eq!(again.routing_key(), "job.new");
        assert_eq!(again.headers(), before.headers());
        assert_eq!(again.user_id(), Some("guest"));
        assert_eq!(again.priority(), Some(3));
        again.reject().confirmed().await.unwrap();
        broker.assert_counts(&connection, "dead", 1, 0).await;
        let letter = connection.get("dead").await.unwrap().unwrap();
        assert_eq!((letter.attempt(), letter.redelivered()), (1, false));
        assert_eq!(letter.routing_key(), "job.new");
        let died = deaths(letter.headers());
        assert_eq!(died, [("jobs".to_owned(), "rejected".to_owned(), 1)]);
        let first = |name: &str| letter.headers().get(name).unwrap().as_str();
        assert_eq!(first("x-first-death-queue"), Some("jobs"));
        assert_eq!(first("x-first-death-exchange"), Some("work"));
        let deaths = letter.headers().get("x-death").unwrap();
        let death = deaths.as_array().unwrap()[0].as_table().unwrap();
        assert_eq!(death.get("exchange").unwrap().as_str(), Some("work"));
        letter.ack().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_message_of_another_user_dies_at_its_limit_and_is_still_theirs() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let jobs = Queue::new("jobs")
        .max_deliveries(2)
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    let other = Connection::builder(harness.registry())
        .url(harness.user(&broker, [".*"; 3]))
        .await
        .unwrap();
    let mut consumer = other.consumer(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&1).user_id("guest").await.unwrap();
    for attempt in 1..=2 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(
            (delivery.attempt(), delivery.user_id()),
            (attempt, Some("guest"))
        );
        delivery.retry_after(SOON).confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let letter = connection.get("dead").await.unwrap().unwrap();
    assert_eq!(letter.user_id(), Some("guest"));
    assert_eq!(deaths(letter.headers())[0].1, "delivery_limit");
    assert!(!letter.headers().contains("x-kombu-user-id"));
    letter.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_message_that_died_before_can_wait_and_keeps_its_history() {
    let broker = broker().await;
    let connection = broker.connect().await;
    // What expires in `jobs` goes to `late`, and comes back by hand.
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .dead_letter_exchange("")
        .dead_letter_routing_key("late");
    connection.declare_queue(&jobs).await.unwrap();
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&1).await.unwrap();
    let expired = vec![("jobs".to_owned(), "expired".to_owned(), 1)];
    for attempt in 1..=3 {
        let letter = collect_one(&mut late).await;
        assert_eq!(letter.attempt(), attempt);
        assert_eq!(deaths(letter.headers()), expired);
        letter.retry_after(SOON).confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_delayed_message_comes_to_its_exchange_with_its_key() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let (producer, jobs) = jobs(&connection).await;
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let publish = producer.publish(&1).header("tenant", "7").delay(SOON);
    assert!(publish.await.unwrap().routed);
    let delivery = collect_one(&mut consumer).await;
    assert_eq!((delivery.attempt(), delivery.redelivered()), (1, false));
    assert_eq!(delivery.exchange(), "work");
    assert_eq!(delivery.routing_key(), "job.new");
    let headers = FieldTable::from([("tenant", "7")]);
    assert_eq!(delivery.headers(), &headers);
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_delay_that_leads_nowhere_is_told_at_once() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let nobody = producer.publish(&1).routing_key("nobody").delay(SOON);
    assert_refused(nobody.await, ErrorKind::Unroutable, 312);
    let nowhere = Exchange::topic("nowhere").no_declare();
    let publish = producer.publish(&1).exchange(&nowhere).delay(SOON);
    assert_refused(publish.await, ErrorKind::NotFound, 404);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn what_the_ladder_cannot_keep_is_refused() {
    let broker = broker().await;
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let both = producer.publish(&1).delay(SOON).expiration(SOON);
    assert_refused(both.await, ErrorKind::Unsupported, None);
    let long = producer.publish(&1).delay(Duration::from_secs(50 * 86_400));
    assert_refused(long.await, ErrorKind::Unsupported, None);
    // A retry that is refused leaves the message where it was.
    producer.publish(&2).await.unwrap();
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    let refused = delivery.retry_after(Duration::from_secs(50 * 86_400));
    assert_refused(refused.confirmed().await, ErrorKind::Unsupported, None);
    broker.assert_counts(&connection, "jobs", 1, 0).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_retry_that_fails_is_told_and_brings_the_message_back_after_a_pause() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    // Who may not declare the exchange of retries.
    let other = Connection::builder(harness.registry())
        .url(harness.user(&broker, ["^$", ".*", ".*"]))
        .await
        .unwrap();
    let jobs = Queue::new("jobs");
    let mut consumer = other
        .consumer(&jobs)
        .declare(DeclareMode::Never)
        .await
        .unwrap();
    producer.publish(&1).await.unwrap();
    for _ in 0..3 {
        let delivery = collect_one(&mut consumer).await;
        let begin = Instant::now();
        assert_refused(
            delivery.retry().confirmed().await,
            ErrorKind::AccessRefused,
            403,
        );
        // Others don't wait for it.
        producer.publish(&2).await.unwrap();
        let another = collect_one(&mut consumer).await;
        assert_eq!(another.decode::<u32>().unwrap(), 2);
        another.ack().confirmed().await.unwrap();
        let again = collect_one(&mut consumer).await;
        assert_eq!(again.decode::<u32>().unwrap(), 1);
        assert!(
            begin.elapsed() >= Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        again.release().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_queue_that_is_deleted_and_made_again_takes_retries_as_before() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for _ in 0..2 {
        connection.declare_queue(&Queue::new("jobs")).await.unwrap();
        producer.publish(&1).await.unwrap();
        for attempt in 1..=2 {
            let delivery = connection.get("jobs").await.unwrap().unwrap();
            assert_eq!(delivery.attempt(), attempt);
            delivery.retry().confirmed().await.unwrap();
        }
        connection.delete_queue("jobs").await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_hundred_retries_keep_their_order_and_all_come_back() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(100).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for number in 0..100 {
        producer.publish(&number).await.unwrap();
    }
    for number in 0..100 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.decode::<u32>().unwrap(), number);
        delivery.retry().await.unwrap();
    }
    for number in 0..100 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.decode::<u32>().unwrap(), number);
        assert_eq!(delivery.attempt(), 2);
        delivery.ack().await.unwrap();
    }
    connection.close().await.unwrap();
    let other = broker.connect().await;
    assert!(drain(&other, "jobs").await.is_empty());
}

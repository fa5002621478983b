//! Consuming from RabbitMQ: what is acked is what was meant, whatever the queues are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Delivery, Exchange, FieldTable, FieldValue, Queue};
use kombu_testkit::expect::{collect, collect_one, drain};
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_testkit::{Broker, Harness};
use kombu_tests::AmqpHarness;
use url::Url;

async fn broker() -> Broker {
    AmqpHarness::new().broker().await
}

fn numbers(deliveries: &[Delivery]) -> Vec<u32> {
    let numbers = deliveries.iter().map(|one| one.decode().unwrap());
    numbers.collect()
}

async fn publish(connection: &kombu::Connection, queue: &str, numbers: std::ops::Range<u32>) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue).await.unwrap();
    let numbers: Vec<u32> = numbers.collect();
    let messages = numbers.iter().map(|number| producer.publish(number));
    for answer in producer.batch(messages).await {
        answer.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn acks_that_go_out_together_settle_nothing_that_is_held() {
    let broker = broker().await;
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(1000).await.unwrap();
    publish(&connection, "jobs", 0..1000).await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut deliveries = collect(&mut consumer, 1000).await;
    random.shuffle(&mut deliveries);
    let mut held = Vec::new();
    for delivery in deliveries {
        let number: u32 = delivery.decode().unwrap();
        match number % 10 {
            3 => held.push(delivery),
            5 => drop(delivery.release()),
            _ => drop(delivery.ack()),
        }
    }
    // What is held and what was released is left, and nothing else is.
    consumer.cancel().await.unwrap();
    broker.assert_counts(&other, "jobs", 100, 100).await;
    connection.close().await.unwrap();
    broker.assert_counts(&other, "jobs", 200, 0).await;
    let left = drain(&other, "jobs").await;
    let mut left: Vec<u32> = left.iter().map(|one| one.decode().unwrap()).collect();
    left.sort_unstable();
    let expected = (0..1000).filter(|number| matches!(number % 10, 3 | 5));
    assert!(left.into_iter().eq(expected));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn one_window_covers_classic_and_quorum_queues() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let queues = [
        Queue::new("classic").classic(),
        Queue::new("quorum").quorum(),
    ];
    let mut consumer = connection.consumer(&queues).prefetch(3).await.unwrap();
    for queue in ["classic", "quorum"] {
        publish(&connection, queue, 0..10).await;
    }
    let mut received = 0;
    while received < 20 {
        let held = collect(&mut consumer, 3.min(20 - received)).await;
        if received < 17 {
            broker.assert_silent(&mut consumer).await;
        }
        received += held.len();
        for delivery in held {
            delivery.ack().await.unwrap();
        }
    }
    for queue in ["classic", "quorum"] {
        broker.assert_counts(&connection, queue, 0, 0).await;
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_wider_window_keeps_the_order_and_what_is_held() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(2).await.unwrap();
    publish(&connection, "jobs", 0..50).await;
    let mut held = collect(&mut consumer, 2).await;
    for window in [5, 20, 50] {
        consumer.set_prefetch(window);
        let more = window as usize - held.len();
        held.extend(collect(&mut consumer, more).await);
    }
    assert!(numbers(&held).into_iter().eq(0..50));
    for delivery in held {
        assert!(!delivery.redelivered());
        delivery.ack().confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_quorum_queue_counts_what_is_retried() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").quorum();
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", 0..1).await;
    for attempt in 1..5 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.retry().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_quorum_queue_without_a_limit_keeps_what_comes_back_over_and_over() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").quorum();
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", 0..1).await;
    // RabbitMQ 4 drops it after the 20th by default.
    for _ in 0..30 {
        let delivery = collect_one(&mut consumer).await;
        delivery.release().confirmed().await.unwrap();
    }
    collect_one(&mut consumer).await.ack().await.unwrap();
    // Again, and on a connection that doesn't know it.
    connection.declare_queue(&jobs).await.unwrap();
    broker.connect().await.declare_queue(&jobs).await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_quorum_queue_that_others_declared_is_taken_as_it_is() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    let declaration = r#"{"durable": true, "arguments": {"x-queue-type": "quorum"}}"#;
    harness.declare_queue(&broker, "jobs", declaration);
    let jobs = Queue::new("jobs").quorum();
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", 0..1).await;
    collect_one(&mut consumer).await.ack().await.unwrap();
}

/// Waits until a queue has so many consumers.
async fn until_consumers(connection: &kombu::Connection, queue: &str, count: u64) {
    while connection.queue_info(queue).await.unwrap().consumers != count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_consumer_that_goes_while_its_window_grows_is_gone() {
    let broker = broker().await;
    let mut url = Url::parse(broker.url()).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::start(server).await.unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    let connection = kombu::connect(url).await.unwrap();
    let other = broker.connect().await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&other, "jobs", 0..20).await;
    let held = collect_one(&mut consumer).await;
    // RabbitMQ has the consumer with the wider window, and we don't know yet.
    proxy.delay(Direction::ToClient, Duration::from_millis(200));
    consumer.set_prefetch(50);
    tokio::select! {
        _ = consumer.next() => panic!("there was no room"),
        () = async {
            until_consumers(&other, "jobs", 0).await;
            until_consumers(&other, "jobs", 1).await;
        } => {}
    }
    consumer.cancel().await.unwrap();
    until_consumers(&other, "jobs", 0).await;
    broker.assert_counts(&other, "jobs", 19, 1).await;
    held.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_limit_holds_on_a_queue_that_somebody_else_declared() {
    let broker = broker().await;
    let (connection, other) = (broker.connect().await, broker.connect().await);
    other.declare_queue(&Queue::new("dead")).await.unwrap();
    let jobs = Queue::new("jobs")
        .max_deliveries(3)
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    other.declare_queue(&jobs).await.unwrap();
    let mut consumer = connection.consumer(&jobs.passive()).await.unwrap();
    // Asked for by its name alone, it is known as before.
    let asked_for = Queue::new("jobs").passive();
    connection.declare_queue(&asked_for).await.unwrap();
    publish(&other, "jobs", 0..1).await;
    for attempt in 1..=3 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.retry().confirmed().await.unwrap();
    }
    broker.assert_counts(&other, "dead", 1, 0).await;
}

/// The queue of RabbitMQ 3.10 ends when it counts one more death there, and takes its consumers along.
#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_message_whose_deaths_are_no_tables_with_numbers_can_be_rejected() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let failed = Exchange::fanout("failed");
    let dead = Queue::new("dead").bind(&failed, "");
    let mut dead = connection.consumer(&dead).await.unwrap();
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let counted = FieldTable::from_iter([
        ("queue", FieldValue::from("jobs")),
        ("reason", FieldValue::from("rejected")),
        ("count", FieldValue::from("many")),
    ]);
    for (number, death) in (1..).zip([FieldValue::Bool(true), FieldValue::Table(counted)]) {
        let publish = producer.publish(&number).header("kept", "yes");
        let deaths = FieldValue::Array(vec![death]);
        publish.header("x-death", deaths).await.unwrap();
        let rejected = collect_one(&mut consumer).await;
        rejected.reject().confirmed().await.unwrap();
        let letter = collect_one(&mut dead).await;
        assert_eq!(letter.decode::<u32>().unwrap(), number);
        assert_eq!(letter.header("kept"), Some("yes"));
        let deaths = letter.headers().get("x-death").unwrap();
        let death = deaths.as_array().unwrap()[0].as_table().unwrap();
        let field = |name| death.get(name).and_then(FieldValue::as_str);
        assert_eq!(field("reason"), Some("rejected"));
        assert_eq!(field("queue"), Some("jobs"));
        letter.ack().confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

//! RabbitMQ behind a network that fails: the handles that a program holds go on, and nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Connection, Consumer, Event, Events, Exchange, Producer, Queue, RetryPolicy};
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_testkit::{Broker, Harness};
use kombu_tests::AmqpHarness;
use tokio::time::timeout;
use url::Url;

/// A program with a consumer and a producer, and the network between it and its broker.
struct Program {
    proxy: Proxy,
    events: Events,
    consumer: Consumer,
    producer: Producer,
    _connection: Connection,
    _broker: Broker,
}

impl Program {
    async fn start() -> Self {
        let harness = AmqpHarness::new();
        let broker = harness.broker().await;
        let mut url = Url::parse(broker.url()).unwrap();
        let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
        let proxy = Proxy::start(format!("{host}:{port}")).await.unwrap();
        url.set_ip_host(proxy.address().ip()).unwrap();
        url.set_port(Some(proxy.address().port())).unwrap();
        // A dead connection is noticed within seconds.
        url.set_query(Some("heartbeat=1"));
        // However often it is cut.
        let retry = RetryPolicy::default().longest_pause(Duration::from_millis(100));
        let connection = Connection::builder(harness.registry())
            .url(url.as_str())
            .retry(retry)
            .await
            .unwrap();
        let events = connection.events();
        let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
        let producer = connection
            .producer(Exchange::default())
            .routing_key("jobs")
            .await
            .unwrap();
        let mut program = Program {
            proxy,
            events,
            consumer,
            producer,
            _connection: connection,
            _broker: broker,
        };
        // Now both of its connections are open.
        program.send_and_receive(0).await;
        program
    }

    async fn send_and_receive(&mut self, number: u32) {
        self.producer.publish(&number).await.unwrap();
        self.receive(number).await;
    }

    /// Waits for this number; an earlier one may come again, since it may have been sent twice.
    async fn receive(&mut self, number: u32) {
        loop {
            let delivery = self.consumer.try_next().await.unwrap().unwrap();
            let found = delivery.decode::<u32>().unwrap();
            delivery.ack().await.unwrap();
            assert!(found <= number, "{found} came before {number}");
            if found == number {
                return;
            }
        }
    }

    async fn restored(&mut self) {
        while !matches!(self.events.next().await.unwrap(), Event::Restored { .. }) {}
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn what_is_cut_comes_back_at_once() {
    let mut program = Program::start().await;
    for number in 1..=5 {
        program.proxy.cut().await;
        let restored = timeout(Duration::from_secs(4), program.restored()).await;
        assert!(restored.is_ok(), "it waits for an answer of what was cut");
        program.send_and_receive(number).await;
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn what_is_reset_comes_back() {
    let mut program = Program::start().await;
    program.proxy.reset().await;
    program.restored().await;
    program.send_and_receive(1).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn what_is_half_closed_comes_back() {
    let mut program = Program::start().await;
    for (number, direction) in [(1, Direction::ToClient), (2, Direction::ToServer)] {
        program.proxy.half_close(direction);
        program.restored().await;
        program.send_and_receive(number).await;
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_network_that_swallows_everything_is_noticed_and_left() {
    let mut program = Program::start().await;
    let accepted = program.proxy.counts().accepted;
    program.proxy.blackhole();
    let published = program.producer.publish(&1).send().await.unwrap();
    // It has given up the old connection, and tries in vain to make another one.
    program
        .proxy
        .until(|counts| counts.accepted > accepted)
        .await;
    program.proxy.heal().await.unwrap();
    program.restored().await;
    assert!(published.await.unwrap().routed);
    program.receive(1).await;
    program.send_and_receive(2).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn nobody_is_disturbed_by_a_network_that_stops_for_a_moment() {
    let mut program = Program::start().await;
    program.proxy.freeze();
    let published = program.producer.publish(&1).send().await.unwrap();
    let swallowed = program.proxy.counts().swallowed;
    program.proxy.heal().await.unwrap();
    assert!(!published.await.unwrap().resent);
    program.receive(1).await;
    assert_eq!(program.proxy.counts().swallowed, swallowed);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_publish_whose_confirm_was_lost_is_sent_again() {
    let mut program = Program::start().await;
    program.proxy.lose_reply_to("the-lost-one");
    let publish = program.producer.publish(&1).message_id("the-lost-one");
    assert!(publish.await.unwrap().resent);
    program.proxy.until(|counts| counts.cuts == 1).await;
    // The broker had it already.
    program.receive(1).await;
    program.receive(1).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_broker_that_refuses_connections_for_a_while_is_found_again() {
    let mut program = Program::start().await;
    program.proxy.refuse().await;
    program.proxy.cut().await;
    while !matches!(program.events.next().await.unwrap(), Event::Retrying { .. }) {}
    program.proxy.heal().await.unwrap();
    program.restored().await;
    program.send_and_receive(1).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_slow_network_loses_nothing() {
    let mut program = Program::start().await;
    for direction in [Direction::ToClient, Direction::ToServer] {
        program.proxy.delay(direction, Duration::from_millis(20));
        program.proxy.throttle(direction, 100_000);
    }
    let numbers: Vec<u32> = (1..=200).collect();
    let answers = program
        .producer
        .batch(
            numbers
                .iter()
                .map(|number| program.producer.publish(number)),
        )
        .await;
    assert!(answers.iter().all(|answer| answer.is_ok()));
    for number in numbers {
        program.receive(number).await;
    }
    let counts = program.proxy.counts();
    assert_eq!((counts.cuts, counts.swallowed), (0, 0));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn cut_after_any_number_of_bytes_it_comes_back() {
    let mut program = Program::start().await;
    let mut number = 0;
    for direction in [Direction::ToServer, Direction::ToClient] {
        for bytes in [0, 1, 7, 8, 30, 100] {
            let cuts = program.proxy.counts().cuts;
            program.proxy.cut_after(direction, bytes);
            // A publish is sent again, and until it is cut, nothing is lost; so go on until it is.
            while program.proxy.counts().cuts == cuts {
                number += 1;
                program.producer.publish(&number).await.unwrap();
            }
            program.restored().await;
            program.receive(number).await;
        }
    }
}

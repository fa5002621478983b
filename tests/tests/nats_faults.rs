//! What a session with NATS does when the server, or something on it, goes away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Binding, Connection, Exchange, Queue};
use kombu_testkit::brokers::{Data, Nats};
use kombu_testkit::expect::{collect, collect_one, drain, texts};
use kombu_tests::NatsLine;
use url::Url;

async fn connect(url: &str) -> Connection {
    kombu::connect(url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_was_confirmed_survives_a_killed_server_and_consumers_go_on() {
    let mut nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    connection.declare_queue(&Queue::new("kept")).await.unwrap();
    for number in 0..100 {
        let text = number.to_string();
        producer
            .publish_text(text)
            .routing_key("kept")
            .await
            .unwrap();
    }
    nats.kill().unwrap();
    nats.restart(Data::Keep).unwrap();
    producer.publish_text("after").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "after");
    delivery.ack().confirmed().await.unwrap();
    let kept = texts(&drain(&connection, "kept").await);
    assert_eq!(
        kept,
        (0..100)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_a_lost_session_held_is_given_back_by_the_next() {
    let mut nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for text in ["0", "1", "2"] {
        producer.publish_text(text).await.unwrap();
    }
    let held = collect(&mut consumer, 3).await;
    nats.kill().unwrap();
    nats.restart(Data::Keep).unwrap();
    // Long before the server takes them for abandoned.
    let again = tokio::time::timeout(Duration::from_secs(15), collect(&mut consumer, 3));
    let again = again.await.unwrap();
    assert_eq!(texts(&again), ["0", "1", "2"]);
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_stream_that_vanished_is_made_again_and_its_consumer_goes_on() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let names = line.request("$JS.API.STREAM.NAMES", r#"{"subject":"kombu.q.jobs.*"}"#);
    let name = names["streams"][0].as_str().unwrap();
    line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish_text("after").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "after");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn two_publishes_with_one_message_id_are_both_stored() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for _ in 0..2 {
        producer
            .publish_text("same")
            .message_id("same")
            .await
            .unwrap();
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["same", "same"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn ten_thousand_binds_and_unbinds_on_one_connection_count_for_the_next_publish_on_another() {
    let nats = Nats::start().unwrap();
    let (connection, other) = (connect(&nats.url()).await, connect(&nats.url()).await);
    let news = Exchange::fanout("news");
    let jobs = Queue::new("jobs");
    connection.declare_exchange(&news).await.unwrap();
    connection.declare_queue(&jobs).await.unwrap();
    let producer = other.producer(&news).await.unwrap();
    let binding = || Binding::new(news.clone(), "");
    for _ in 0..10_000 {
        connection.bind_queue("jobs", &binding()).await.unwrap();
        assert!(producer.publish_text("bound").await.unwrap().routed);
        connection.unbind_queue("jobs", &binding()).await.unwrap();
        assert!(!producer.publish_text("unbound").await.unwrap().routed);
    }
    assert_eq!(connection.purge("jobs").await.unwrap(), 10_000);
}

//! What NATS makes of messages that die: because somebody rejects them, or because their time is over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use kombu::{Connection, ErrorKind, Exchange, Overflow, Producer, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::proxy::Proxy;
use kombu_tests::{NatsFilter, NatsLine};
use url::Url;

/// Longer than what is due takes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> Connection {
    kombu::connect(url).await.unwrap()
}

async fn producer(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue.to_owned()).await.unwrap()
}

/// A queue whose dead are in `dead`.
async fn declare_with_dead(connection: &Connection, queue: &str) {
    let queue = Queue::new(queue.to_owned());
    let queue = queue
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    connection.declare_queue(&queue).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
}

/// Waits for a message of the queue `dead`.
async fn dead_letter(connection: &Connection) -> String {
    let mut consumer = connection.consumer(&Queue::new("dead")).await.unwrap();
    let next = tokio::time::timeout(PATIENCE, consumer.try_next()).await;
    let letter = next.expect("a dead letter").unwrap().unwrap();
    let text = String::from_utf8_lossy(letter.body()).into_owned();
    letter.ack().confirmed().await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_dies_while_the_server_is_full_is_a_dead_letter_when_there_is_room() {
    let account = "accounts { A: { jetstream: { max_file: 3MB, max_mem: 3MB }, users: [ { user: u, password: p } ] } }";
    let config = format!("{account}\nno_auth_user: u");
    let nats = Nats::builder().config(&config).start().unwrap();
    let connection = connect(&nats.url()).await;
    declare_with_dead(&connection, "jobs").await;
    connection.declare_queue(&Queue::new("fill")).await.unwrap();
    let jobs = producer(&connection, "jobs").await;
    jobs.publish_text("x".repeat(100_000)).await.unwrap();
    let fill = producer(&connection, "fill").await;
    let error = loop {
        if let Err(error) = fill.publish_bytes(vec![0; 60_000]).await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Backpressure, "{error}");
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delivery.reject().confirmed().await.unwrap();
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(1)));
    connection.delete_queue("fill").await.unwrap();
    assert_eq!(dead_letter(&connection).await.len(), 100_000);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_expires_dies_though_its_publisher_is_gone() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    declare_with_dead(&connection, "jobs").await;
    let other = connect(&nats.url()).await;
    let jobs = producer(&other, "jobs").await;
    let publish = jobs.publish_text("late");
    let publish = publish.expiration(Duration::from_millis(300));
    publish.await.unwrap();
    other.close().await.unwrap();
    assert_eq!(dead_letter(&connection).await, "late");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_full_queue_drops_nothing_for_what_another_program_holds() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let queue = Queue::new("jobs").max_length(5);
    connection.declare_queue(&queue).await.unwrap();
    let jobs = producer(&connection, "jobs").await;
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let names = line.request("$JS.API.STREAM.NAMES", r#"{"subject":"kombu.q.jobs.*"}"#);
    let stream = names["streams"][0].as_str().unwrap().to_owned();
    for _ in 0..5 {
        jobs.publish_text("held").await.unwrap();
        line.request(&format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.c0"), "1");
    }
    for _ in 0..5 {
        jobs.publish_text("ready").await.unwrap();
    }
    let info = line.request(&format!("$JS.API.STREAM.INFO.{stream}"), "");
    assert_eq!(info["state"]["messages"], 10);
}

/// Nobody reads a gigabyte to count it.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_limit_in_bytes_costs_little_however_much_there_is() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats.url()).await;
    let jobs = Queue::new("jobs").max_length_bytes(10_000_000);
    let jobs = jobs.overflow(Overflow::RejectPublish);
    connection.declare_queue(&jobs).await.unwrap();
    let other = TcpStream::connect(nats.address()).unwrap();
    let mut other = std::io::BufWriter::new(other);
    other.write_all(b"CONNECT {\"verbose\":false}\r\n").unwrap();
    for _ in 0..1_500 {
        other.write_all(b"PUB kombu.q.jobs.0 7000\r\n").unwrap();
        other.write_all(&[b'x'; 7000]).unwrap();
        other.write_all(b"\r\n").unwrap();
    }
    other.flush().unwrap();
    let all_are_there =
        async { while connection.queue_info("jobs").await.unwrap().ready < 1_500 {} };
    tokio::time::timeout(PATIENCE, all_are_there)
        .await
        .expect("they are stored");
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let late = connect(&format!("nats://{}", proxy.address())).await;
    let before = proxy.counts().to_client;
    let error = producer(&late, "jobs").await.publish_text("more").await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Nacked);
    let cost = proxy.counts().to_client - before;
    assert!(cost < 1_000_000, "{cost}");
}

/// Its position is that among those that wait, and not one of the queue.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_dead_message_that_a_full_queue_refused_is_given_back_to_where_it_waits() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter.url()).await;
    let jobs = Queue::new("jobs").max_length(1);
    let jobs = jobs
        .overflow(Overflow::RejectPublishDlx)
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    connection.declare_queue(&jobs).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    filter.refuse("kombu.q.dead.");
    let producer = producer(&connection, "jobs").await;
    producer.publish_text("0").await.unwrap();
    let error = producer.publish_text("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Nacked, "{error}");
    // It is held by now.
    filter.until("kombu.q.dead.", 1).await;
    connection.close().await.unwrap();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let filter = r#"{"subjects_filter":"$KV.kombu_sessions.d.>"}"#;
    let info = line.request("$JS.API.STREAM.INFO.KV_kombu_sessions", filter);
    assert_eq!(info["state"].get("subjects"), None, "{info}");
    let other = connect(&nats.url()).await;
    assert_eq!(dead_letter(&other).await, "1");
}

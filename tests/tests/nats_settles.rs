//! What a settle on NATS does where the server isn't what it was when it delivered the message.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Connection, ErrorKind, Exchange, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{drain, texts};
use kombu_tests::NatsLine;
use url::Url;

async fn publish(connection: &Connection, queue: &str, text: &str) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue).await.unwrap();
    producer.publish_text(text).await.unwrap();
}

fn delete_consumer(nats: &Nats, queue: &str) {
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let subject = format!(r#"{{"subject":"kombu.q.{queue}.*"}}"#);
    let names = line.request("$JS.API.STREAM.NAMES", &subject);
    let name = names["streams"][0].as_str().unwrap();
    line.request(&format!("$JS.API.CONSUMER.DELETE.{name}.c0"), "");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn an_acknowledgement_that_nobody_took_is_lost() {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "0").await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delete_consumer(&nats, "jobs");
    let settled = delivery.ack().confirmed().await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::SettleLost);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_reject_that_nobody_took_leaves_one_dead_letter() {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let jobs = Queue::new("jobs").dead_letter_exchange("");
    let jobs = jobs.dead_letter_routing_key("dead");
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", "0").await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delete_consumer(&nats, "jobs");
    let settled = delivery.reject().confirmed().await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::SettleLost);
    let again = connection.get("jobs").await.unwrap().unwrap();
    again.reject().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "dead").await), ["0"]);
    assert!(connection.get("jobs").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_goes_back_while_its_consumer_is_gone_comes_again_at_once() {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "0").await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delete_consumer(&nats, "jobs");
    delivery.release().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
}

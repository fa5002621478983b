//! What a settle on NATS does where the server isn't what it was when it delivered the message.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use futures_util::future::join_all;
use kombu::{Connection, Delivery, ErrorKind, Exchange, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{drain, texts};
use kombu_tests::{NatsFilter, NatsLine};
use url::Url;

async fn publish(connection: &Connection, queue: &str, text: &str) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue).await.unwrap();
    producer.publish_text(text).await.unwrap();
}

/// A connection to a server that has so many numbers in a queue.
async fn with_jobs(url: String, count: usize) -> Connection {
    let connection = kombu::connect(url).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    for number in 0..count {
        publish(&connection, "jobs", &number.to_string()).await;
    }
    connection
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
    let connection = with_jobs(nats.url(), 1).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delete_consumer(&nats, "jobs");
    let settled = delivery.ack().confirmed().await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::SettleLost);
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
}

async fn take(connection: &Connection, queue: &str, count: usize) -> Vec<Delivery> {
    let consumer = connection.consumer(&[Queue::new(queue)]);
    let mut consumer = consumer.prefetch(count as u32).await.unwrap();
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(consumer.next().await.unwrap().unwrap());
    }
    taken
}

/// Half of what the server would have to read otherwise.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn acknowledgements_that_are_waited_for_together_take_one_question() {
    const COUNT: usize = 500;
    let nats = Nats::start().unwrap();
    let connection = with_jobs(nats.url(), COUNT).await;
    let taken = take(&connection, "jobs", COUNT).await;
    let heard = || {
        nats.monitored("/varz").unwrap()["in_msgs"]
            .as_u64()
            .unwrap()
    };
    let before = heard();
    let settling: Vec<_> = taken.into_iter().map(Delivery::ack).collect();
    let settled = join_all(settling.into_iter().map(|settling| settling.confirmed())).await;
    assert!(settled.iter().all(Result::is_ok), "{settled:?}");
    let read = heard() - before;
    assert!(read < 3 * COUNT as u64 / 2, "{read} for {COUNT}");
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!(info.ready, 0);
}

/// The next leader might answer, which never heard of what the last one was told.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_question_for_acknowledgements_that_stays_unanswered_is_not_asked_again() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = with_jobs(filter.url(), 3).await;
    let taken = take(&connection, "jobs", 3).await;
    filter.mute("$JS.ACK.");
    let before = filter.count("$JS.ACK.");
    let settling: Vec<_> = taken.into_iter().map(Delivery::ack).collect();
    for settled in join_all(settling.into_iter().map(|settling| settling.confirmed())).await {
        assert!(settled.unwrap_err().is_transient());
    }
    assert_eq!(filter.count("$JS.ACK.") - before, 3 + 1);
}

/// What makes the consumer anew for the first one may be in time for another one.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn of_several_acknowledgements_those_that_say_so_are_lost() {
    let nats = Nats::start().unwrap();
    let connection = with_jobs(nats.url(), 3).await;
    let mut taken = Vec::new();
    while let Some(delivery) = connection.get("jobs").await.unwrap() {
        taken.push(delivery);
    }
    delete_consumer(&nats, "jobs");
    let settling: Vec<_> = taken
        .into_iter()
        .map(|delivery| (delivery.decode::<String>().unwrap(), delivery.ack()))
        .collect();
    let settling = settling.into_iter();
    let confirming = settling.map(async |(text, settling)| (text, settling.confirmed().await));
    let mut lost = Vec::new();
    for (text, settled) in join_all(confirming).await {
        if let Err(error) = settled {
            assert_eq!(error.kind(), ErrorKind::SettleLost);
            lost.push(text);
        }
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), lost);
    assert!(!lost.is_empty());
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
    let connection = with_jobs(nats.url(), 1).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delete_consumer(&nats, "jobs");
    delivery.release().confirmed().await.unwrap();
    assert_eq!(texts(&drain(&connection, "jobs").await), ["0"]);
}

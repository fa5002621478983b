//! What becomes of messages on NATS for which somebody has to answer who doesn't, while the server that the line leads to lives.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, Delivery, ErrorKind, Exchange, Overflow, Producer, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{collect_one, drain, texts};
use kombu_tests::{NatsFilter, NatsLine};

/// Longer than what has nothing to do with it takes.
const SOON: Duration = Duration::from_secs(5);
/// Longer than what couldn't be done is left alone.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(filter: &NatsFilter) -> Connection {
    kombu::connect(filter.url()).await.unwrap()
}

async fn producer(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue.to_owned()).await.unwrap()
}

/// Nobody answers for a queue any more.
fn refuse(filter: &NatsFilter, queue: &str) {
    filter.refuse(&format!("kombu.q.{queue}."));
    filter.refuse(&format!("INFO.kombu-q-{queue}-"));
}

/// A queue whose dead go to another.
fn with_dead(queue: &str, dead: &str) -> Queue {
    let queue = Queue::new(queue.to_owned()).dead_letter_exchange("");
    queue.dead_letter_routing_key(dead.to_owned())
}

/// The next message of a queue.
async fn next(connection: &Connection, queue: &str) -> Delivery {
    let mut consumer = connection
        .consumer(&Queue::new(queue.to_owned()))
        .await
        .unwrap();
    let next = tokio::time::timeout(PATIENCE, collect_one(&mut consumer));
    next.await.expect("it comes")
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_dead_letter_whose_queue_can_not_be_reached_holds_up_nobody() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter).await;
    let queues = [
        Queue::new("lonely"),
        Queue::new("dead"),
        with_dead("jobs", "lonely"),
        with_dead("others", "dead"),
    ];
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    let [jobs, others] = ["jobs", "others"].map(|queue| producer(&connection, queue));
    let (jobs, others) = (jobs.await, others.await);
    refuse(&filter, "lonely");
    let before = filter.count("kombu.q.lonely.");
    for text in ["0", "1", "2"] {
        let publish = jobs.publish_text(text);
        let publish = publish.expiration(Duration::from_millis(1));
        publish.await.unwrap();
    }
    filter.until("kombu.q.lonely.", before + 1).await;
    let info = tokio::time::timeout(SOON, connection.queue_info("dead"));
    assert_eq!(info.await.expect("it answers").unwrap().ready, 0);
    let publish = others.publish_text("other");
    let publish = publish.expiration(Duration::from_millis(1));
    publish.await.unwrap();
    let dead = next(&connection, "dead").await;
    assert_eq!(dead.body(), "other");
    dead.ack().confirmed().await.unwrap();
    filter.heal();
    let mut consumer = connection.consumer(&Queue::new("lonely")).await.unwrap();
    let mut dead = Vec::new();
    for _ in 0..3 {
        let next = tokio::time::timeout(PATIENCE, collect_one(&mut consumer));
        let delivery = next.await.expect("it comes");
        dead.push(String::from_utf8_lossy(delivery.body()).into_owned());
        delivery.ack().confirmed().await.unwrap();
    }
    dead.sort();
    assert_eq!(dead, ["0", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_is_delayed_for_a_queue_that_can_not_be_reached_holds_up_nothing() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter).await;
    connection
        .declare_queue(&Queue::new("lonely"))
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let (lonely, jobs) = (
        producer(&connection, "lonely").await,
        producer(&connection, "jobs").await,
    );
    refuse(&filter, "lonely");
    let delay = Duration::from_millis(100);
    lonely.publish_text("0").delay(delay).await.unwrap();
    filter.until("kombu.q.lonely.", 1).await;
    jobs.publish_text("1").delay(delay).await.unwrap();
    let jobs = tokio::time::timeout(SOON, next(&connection, "jobs"));
    assert_eq!(jobs.await.expect("it comes in time").body(), "1");
    filter.heal();
    assert_eq!(next(&connection, "lonely").await.body(), "0");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_dead_letter_is_not_sent_again_to_a_queue_that_took_it() {
    const STORAGE_IS_FULL: u64 = 10047;
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter).await;
    let dead = Exchange::fanout("dead");
    for name in ["one", "other"] {
        let queue = Queue::new(name).bind(&dead, "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let jobs = Queue::new("jobs").dead_letter_exchange("dead");
    connection.declare_queue(&jobs).await.unwrap();
    let jobs = producer(&connection, "jobs").await;
    jobs.publish_text("0").await.unwrap();
    filter.fail("kombu.q.other.", STORAGE_IS_FULL);
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delivery.reject().confirmed().await.unwrap();
    filter.until("kombu.q.other.", 2).await;
    filter.heal();
    assert_eq!(next(&connection, "other").await.body(), "0");
    assert_eq!(filter.count("kombu.q.one."), 1);
    assert_eq!(texts(&drain(&connection, "one").await), ["0"]);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_stream_is_not_deleted_because_its_consumer_can_not_be_made_again() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    // Streams are deleted in a cluster only: where they were just made, and lie on a server that is gone.
    filter.claim_cluster();
    let connection = connect(&filter).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let jobs = producer(&connection, "jobs").await;
    jobs.publish_text("0").await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
    line.request(&format!("$JS.API.CONSUMER.DELETE.{name}.c0"), "");
    let made = filter.count("CONSUMER.DURABLE.CREATE");
    filter.mute("CONSUMER.DURABLE.CREATE");
    let getting = tokio::spawn(async move { connection.get("jobs").await });
    filter.until("CONSUMER.DURABLE.CREATE", made + 1).await;
    // Before it is found that nobody answers.
    let looked = filter.count("STREAM.INFO");
    filter.refuse("STREAM.INFO");
    filter.until("STREAM.INFO", looked + 2).await;
    filter.heal();
    let delivery = getting.await.unwrap().unwrap().expect("it is there");
    assert_eq!(delivery.body(), "0");
    assert_eq!(filter.count("STREAM.DELETE"), 0);
}

/// It may have been stored the first time, and its queue forgets that it was.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_publish_whose_answer_is_lost_is_not_sent_again_when_that_was_long_ago() {
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = connect(&filter).await;
    let refusing = Queue::new("refusing").max_length(5);
    let refusing = refusing.overflow(Overflow::RejectPublish);
    let mut publishing = Vec::new();
    let names = ["jobs", "refusing"];
    for queue in [Queue::new("jobs"), refusing] {
        connection.declare_queue(&queue).await.unwrap();
        let subject = format!("kombu.q.{}.", queue.name());
        filter.mute(&subject);
        let producer = producer(&connection, queue.name()).await;
        publishing.push(tokio::spawn(
            async move { producer.publish_text("0").await },
        ));
        filter.until(&subject, 1).await;
    }
    // Each is in time, and all that is asked before it is sent again takes longer.
    for part in ["MSG.GET", "INFO"] {
        filter.delay(part, Duration::from_secs(4));
    }
    for publishing in publishing {
        let error = publishing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.may_have_been_stored());
    }
    filter.heal();
    for name in names {
        assert_eq!(filter.count(&format!("kombu.q.{name}.")), 1);
        assert_eq!(connection.queue_info(name).await.unwrap().ready, 1);
    }
}

/// What is left on the way is done again by whoever gets it then.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_queue_remembers_letters_for_longer_than_their_mover_may_be_silent() {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "dead");
    let stream = line.request(&format!("$JS.API.STREAM.INFO.{name}"), "");
    let consumer = line.request(&format!("$JS.API.CONSUMER.INFO.{name}.c0"), "");
    let window = stream["config"]["duplicate_window"].as_u64().unwrap();
    let silence = consumer["config"]["ack_wait"].as_u64().unwrap();
    assert!(window > silence + 10_000_000_000, "{window} {silence}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_dies_in_a_stream_that_was_made_again_is_not_taken_for_what_died_there_before() {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let jobs = with_dead("jobs", "dead");
    connection.declare_queue(&jobs).await.unwrap();
    let jobs = producer(&connection, "jobs").await;
    for text in ["0", "1"] {
        jobs.publish_text(text).await.unwrap();
        let delivery = connection.get("jobs").await.unwrap().unwrap();
        delivery.reject().confirmed().await.unwrap();
        let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
        line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
    }
    assert_eq!(texts(&drain(&connection, "dead").await), ["0", "1"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn an_acknowledgement_from_before_a_stream_was_made_again_removes_nothing_of_the_new_one() {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let jobs = producer(&connection, "jobs").await;
    jobs.publish_text("old").await.unwrap();
    let old = connection.get("jobs").await.unwrap().unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&nats, "jobs");
    line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
    jobs.publish_text("new").await.unwrap();
    let new = connection.get("jobs").await.unwrap().unwrap();
    let error = old.ack().confirmed().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SettleLost, "{error}");
    let info = line.request(&format!("$JS.API.STREAM.INFO.{name}"), "");
    assert_eq!(info["state"]["messages"], 1);
    new.ack().confirmed().await.unwrap();
}

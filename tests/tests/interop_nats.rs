//! A plain client of NATS in Python, by what `kombu_nats` documents: it publishes to our queues and reads from them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_nats_python), allow(dead_code, unused_imports))]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kombu::handler::{Payload, Reply, Router};
use kombu::{
    CallError, Connection, DeliveryMode, Exchange, FieldValue, Producer, Queue, Timestamp,
};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{collect_one, drain, texts};
use kombu_tests::Peer;
use serde_json::{Value, json};

/// Long before it would come back by itself.
const SOON: Duration = Duration::from_secs(10);

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/nats_peer.py");

/// A server, we, and Python.
async fn meeting() -> (Nats, Connection, Peer) {
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    let peer = Peer::start([SCRIPT, &nats.url()]);
    (nats, connection, peer)
}

async fn ask(peer: &mut Peer, task: Value) -> Value {
    peer.tell(&task).await;
    peer.line().await
}

async fn publish(peer: &mut Peer, subject: &str, body: &str, headers: Value) -> Value {
    let body = STANDARD.encode(body);
    let task = json!({ "do": "publish", "subject": subject, "body": body, "headers": headers });
    ask(peer, task).await
}

async fn take(peer: &mut Peer, what: &str, subject: &str, consumer: &str) -> Value {
    let task = json!({ "do": what, "subject": subject, "consumer": consumer });
    let mut taken = ask(peer, task).await;
    let body = STANDARD.decode(taken["body"].as_str().unwrap()).unwrap();
    taken["body"] = String::from_utf8(body).unwrap().into();
    taken
}

async fn producer_to(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats_python), ignore = "no NATS or no Python")]
async fn what_python_publishes_is_read_with_its_properties() {
    let (_nats, connection, mut peer) = meeting().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&mut peer, "kombu.q.jobs.0", "plain", json!({})).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "plain");
    assert_eq!(delivery.exchange(), "");
    assert_eq!(delivery.routing_key(), "jobs");
    assert!(!delivery.redelivered());
    delivery.ack().confirmed().await.unwrap();
    let headers = json!({
        "Content-Type": "application/json",
        "Content-Encoding": "utf-8",
        "Kombu-Exchange": "media",
        "Kombu-Key": "video.new",
        "Kombu-Priority": "3",
        "Kombu-Transient": "1",
        "Kombu-Message-Id": "m",
        "Kombu-Correlation-Id": "c",
        "Kombu-Reply-To": "answers",
        "Kombu-Type": "sort",
        "Kombu-Timestamp": "1700000000",
        "Kombu-User-Id": "u",
        "Kombu-App-Id": "a",
        "Kombu-Cluster-Id": "l",
        "tenant": "seven",
    });
    publish(&mut peer, "kombu.q.jobs.0", r#"{"a": 1}"#, headers).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.decode::<Value>().unwrap(), json!({ "a": 1 }));
    assert_eq!(delivery.exchange(), "media");
    assert_eq!(delivery.routing_key(), "video.new");
    assert_eq!(delivery.content_encoding(), Some("utf-8"));
    assert_eq!(delivery.priority(), Some(3));
    assert_eq!(delivery.delivery_mode(), DeliveryMode::Transient);
    assert_eq!(delivery.message_id(), Some("m"));
    assert_eq!(delivery.correlation_id(), Some("c"));
    assert_eq!(delivery.reply_to(), Some("answers"));
    assert_eq!(delivery.kind(), Some("sort"));
    assert_eq!(
        delivery.timestamp(),
        Some(Timestamp::from_secs(1_700_000_000))
    );
    assert_eq!(delivery.user_id(), Some("u"));
    assert_eq!(delivery.app_id(), Some("a"));
    assert_eq!(delivery.cluster_id(), Some("l"));
    assert_eq!(
        delivery.headers().get("tenant"),
        Some(&FieldValue::from("seven"))
    );
    delivery.ack().await.unwrap();
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats_python), ignore = "no NATS or no Python")]
async fn what_python_publishes_twice_is_stored_once_and_expires_when_it_says() {
    let (_nats, connection, mut peer) = meeting().await;
    connection.declare_queue(&Queue::new("a b")).await.unwrap();
    let id = json!({ "Nats-Msg-Id": "one" });
    let subject = "kombu.q.a=20b.0";
    let first = publish(&mut peer, subject, "0", id.clone()).await;
    let again = publish(&mut peer, subject, "0", id).await;
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&json!(false), &json!(true))
    );
    let soon = json!({ "Kombu-Expiration": "50" });
    publish(&mut peer, subject, "1", soon).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(texts(&drain(&connection, "a b").await), ["0"]);
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats_python), ignore = "no NATS or no Python")]
async fn python_reads_what_we_publish_with_its_properties() {
    let (_nats, connection, mut peer) = meeting().await;
    let jobs = Queue::new("jobs").bind(Exchange::topic("media"), "video.*");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("plain").await.unwrap();
    let taken = take(&mut peer, "ack", "kombu.q.jobs.0", "c0").await;
    assert_eq!(taken["body"], "plain");
    assert_eq!(taken["headers"]["Content-Type"], "text/plain");
    assert_eq!(taken["headers"].get("Kombu-Key"), None);
    assert_eq!(taken["deliveries"], 1);
    let producer = connection.producer(Exchange::topic("media")).await.unwrap();
    producer
        .publish(&json!({ "a": 1 }))
        .routing_key("video.new")
        .header("tenant", "seven")
        .header("count", 7_i64)
        .priority(3)
        .message_id("m")
        .correlation_id("c")
        .reply_to("answers")
        .expiration(Duration::from_secs(60))
        .await
        .unwrap();
    let taken = take(&mut peer, "ack", "kombu.q.jobs.0", "c0").await;
    assert_eq!(
        serde_json::from_str::<Value>(taken["body"].as_str().unwrap()).unwrap(),
        json!({ "a": 1 })
    );
    let headers = &taken["headers"];
    for (name, value) in [
        ("Content-Type", "application/json"),
        ("Content-Encoding", "utf-8"),
        ("Kombu-Exchange", "media"),
        ("Kombu-Key", "video.new"),
        ("Kombu-Priority", "3"),
        ("Kombu-Message-Id", "m"),
        ("Kombu-Correlation-Id", "c"),
        ("Kombu-Reply-To", "answers"),
        ("Kombu-Expiration", "60000"),
        ("tenant", "seven"),
    ] {
        assert_eq!(headers[name], value, "{name}: {headers}");
    }
    let more: Value = serde_json::from_str(headers["Kombu-More"].as_str().unwrap()).unwrap();
    assert!(more["headers"]["count"].to_string().contains('7'), "{more}");
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!(info.ready, 0);
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats_python), ignore = "no NATS or no Python")]
async fn what_python_gives_back_is_ours_and_the_other_way_round() {
    let (_nats, connection, mut peer) = meeting().await;
    let jobs = Queue::new("jobs").max_priority(2);
    connection.declare_queue(&jobs).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("0").priority(1).await.unwrap();
    let taken = take(&mut peer, "nak", "kombu.q.jobs.1", "c1").await;
    assert_eq!(taken["subject"], "kombu.q.jobs.1");
    // The server takes a NAK in by and by.
    let back = async {
        loop {
            if let Some(delivery) = connection.get("jobs").await.unwrap() {
                break delivery;
            }
        }
    };
    let delivery = tokio::time::timeout(SOON, back).await.expect("it is back");
    assert_eq!(delivery.body(), "0");
    assert!(delivery.redelivered());
    delivery.retry().confirmed().await.unwrap();
    let taken = take(&mut peer, "ack", "kombu.q.jobs.1", "c1").await;
    assert_eq!(
        (&taken["body"], &taken["deliveries"]),
        (&json!("0"), &json!(3))
    );
    assert!(connection.get("jobs").await.unwrap().is_none());
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats_python), ignore = "no NATS or no Python")]
async fn python_answers_a_caller() {
    let (_nats, connection, mut peer) = meeting().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let caller = connection.caller(Exchange::default()).routing_key("jobs");
    let caller = caller.timeout(SOON).max_retries(0).await.unwrap();
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call::<_, i64>("what?").await }
    });
    let bodies = [STANDARD.encode("42"), STANDARD.encode("43")];
    let mut task = json!({
        "do": "answer", "subject": "kombu.q.jobs.0", "consumer": "c0", "headers": {},
        "bodies": bodies,
    });
    let taken = ask(&mut peer, task.clone()).await;
    assert_eq!(taken["headers"]["Content-Type"], "application/json");
    assert_eq!(call.await.unwrap().unwrap(), 42, "the second one is late");
    let gathering = tokio::spawn(async move { caller.call::<_, i64>("what?").gather(2).await });
    ask(&mut peer, task.clone()).await;
    let gathered = gathering.await.unwrap().unwrap();
    let gathered: Vec<_> = gathered.into_iter().map(Result::unwrap).collect();
    assert_eq!(gathered, [42, 43]);
    // A failure is told by headers.
    task["headers"] = json!({ "x-kombu-error": "critical", "x-kombu-error-message": "no" });
    let caller = connection.caller(Exchange::default()).routing_key("jobs");
    let caller = caller.timeout(SOON).max_retries(0).await.unwrap();
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").await });
    ask(&mut peer, task).await;
    let failed = call.await.unwrap().unwrap_err();
    assert!(matches!(failed, CallError::Critical { .. }), "{failed:?}");
    peer.end().await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats_python), ignore = "no NATS or no Python")]
async fn a_handler_answers_python_at_its_inbox() {
    let (_nats, connection, mut peer) = meeting().await;
    let jobs = Queue::new("jobs");
    let double = async |Payload(number): Payload<i64>| Reply(number * 2);
    let serve = connection.serve(Router::new().fallback(double));
    connection.declare_queue(&jobs).await.unwrap();
    let serving = tokio::spawn(serve.queues(&jobs).run());
    let body = STANDARD.encode("21");
    let headers = json!({ "Content-Type": "application/json", "Kombu-Correlation-Id": "7" });
    let task =
        json!({ "do": "ask", "subject": "kombu.q.jobs.0", "body": body, "headers": headers });
    let answer = ask(&mut peer, task).await;
    assert_eq!(answer["body"], STANDARD.encode("42"));
    assert_eq!(answer["headers"]["Kombu-Correlation-Id"], "7");
    assert_eq!(answer["headers"]["Content-Type"], "application/json");
    peer.end().await;
    serving.abort();
}

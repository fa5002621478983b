//! Exchange kinds that programs bring along.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::virt::BindingRecord;
use kombu::{Binding, Connection, Content, ErrorKind, Exchange, Queue};

const SECOND: Duration = Duration::from_secs(1);

/// To the binding of this number, which is the message's header `turn`.
fn by_turn(message: &Content, bindings: &[&BindingRecord]) -> Vec<usize> {
    let turn = message.headers().get("turn").and_then(|turn| turn.as_i64());
    // And to one too many: an index that isn't there is no binding.
    turn.and_then(|turn| usize::try_from(turn).ok())
        .into_iter()
        .chain([bindings.len()])
        .collect()
}

async fn connect(name: &str) -> Connection {
    Connection::builder(kombu::registry())
        .url(format!("memory://kinds-{name}"))
        .exchange_kind("x-turn", by_turn)
        .await
        .unwrap()
}

fn turns() -> Exchange {
    Exchange::custom("x-turn", "turns")
}

async fn ready(connection: &Connection, queue: &str) -> u64 {
    connection.queue_info(queue).await.unwrap().ready
}

#[tokio::test]
async fn a_registered_kind_chooses_among_its_bindings_in_their_order() {
    let connection = connect("chooses").await;
    for queue in ["c", "a", "b"] {
        let queue = Queue::new(queue).bind(turns(), "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(turns()).await.unwrap();
    for turn in [0, 1, 1, 2] {
        let published = producer.publish(&turn).header("turn", turn).await.unwrap();
        assert!(published.routed);
    }
    let nobody = producer.publish(&3).header("turn", 7).await.unwrap();
    assert!(!nobody.routed);
    assert_eq!(ready(&connection, "a").await, 1);
    assert_eq!(ready(&connection, "b").await, 2);
    assert_eq!(ready(&connection, "c").await, 1);
}

#[tokio::test]
async fn it_leads_to_exchanges_and_is_led_to() {
    let connection = connect("leads").await;
    let first = Exchange::fanout("first");
    let last = Exchange::direct("last");
    connection.declare_exchange(&first).await.unwrap();
    connection.declare_exchange(&turns()).await.unwrap();
    connection
        .declare_queue(&Queue::new("end").bind(&last, "key"))
        .await
        .unwrap();
    connection
        .bind_exchange("turns", &Binding::from(&first))
        .await
        .unwrap();
    connection
        .bind_exchange("last", &Binding::from(&turns()))
        .await
        .unwrap();
    let producer = connection
        .producer(&first)
        .routing_key("key")
        .await
        .unwrap();
    let there = producer.publish(&1).header("turn", 0).await.unwrap();
    let nowhere = producer.publish(&2).header("turn", 1).await.unwrap();
    assert_eq!((there.routed, nowhere.routed), (true, false));
    assert_eq!(ready(&connection, "end").await, 1);
}

#[tokio::test]
async fn a_connection_that_was_not_told_of_a_kind_says_so() {
    let knows = connect("told").await;
    knows.declare_exchange(&turns()).await.unwrap();
    let stranger = kombu::connect("memory://kinds-told").await.unwrap();
    let declared = stranger.declare_exchange(&turns()).await.unwrap_err();
    let producer = stranger.producer(turns().passive()).await.unwrap();
    let published = producer.publish(&1).await.unwrap_err();
    for error in [declared, published] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("exchange_kind"), "{error}");
        assert!(error.to_string().contains("`turns`"), "{error}");
    }
    knows.declare_exchange(&turns().passive()).await.unwrap();
}

fn all(_: &Content, bindings: &[&BindingRecord]) -> Vec<usize> {
    (0..bindings.len()).collect()
}

/// A connection that knows `x-all`.
async fn knowing(name: &str) -> Connection {
    Connection::builder(kombu::registry())
        .url(format!("memory://kinds-{name}"))
        .exchange_kind("x-all", all)
        .await
        .unwrap()
}

async fn stranger(name: &str) -> Connection {
    kombu::connect(&format!("memory://kinds-{name}"))
        .await
        .unwrap()
}

/// `jobs`, whose dead letters go through an exchange of a kind to `dead`, and `plain`, whose go straight to `plain-dead`.
async fn declare_both(connection: &Connection, kind: &str, limit: impl Fn(Queue) -> Queue) {
    let dead = Queue::new("dead").bind(Exchange::custom(kind, "failed"), "");
    let plain = limit(Queue::new("plain"))
        .dead_letter_exchange("")
        .dead_letter_routing_key("plain-dead");
    for queue in [
        dead,
        limit(Queue::new("jobs")).dead_letter_exchange("failed"),
        Queue::new("plain-dead"),
        plain,
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
}

async fn publish(connection: &Connection, queue: &str, texts: &[&'static str]) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for text in texts {
        let publish = producer.publish_text(*text).routing_key(queue.to_owned());
        publish.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_one_connection_cant_route_is_left_to_another() {
    let name = "left";
    // Whoever came first is woken first.
    let (stranger, knowing) = (stranger(name).await, knowing(name).await);
    declare_both(&knowing, "x-all", |queue| queue.message_ttl(SECOND)).await;
    for round in 1..=3 {
        publish(&knowing, "jobs", &["work"; 5]).await;
        publish(&knowing, "plain", &["work"]).await;
        tokio::time::advance(2 * SECOND).await;
        // It is asked first, and goes on with what is its own.
        let declared = stranger.declare_queue(&Queue::new("mine")).await;
        declared.unwrap();
        tokio::time::sleep(SECOND).await;
        assert_eq!(ready(&stranger, "dead").await, 5 * round);
        assert_eq!(ready(&stranger, "plain-dead").await, round);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_connected_can_route_waits_and_stops_no_other_dead_letter() {
    let name = "waits";
    let knows = knowing(name).await;
    declare_both(&knows, "x-all", |queue| queue.message_ttl(SECOND)).await;
    knows.close().await.unwrap();
    let (one, other) = (stranger(name).await, stranger(name).await);
    let mut consumer = one.consumer(&Queue::new("plain-dead")).await.unwrap();
    for _ in 0..3 {
        publish(&one, "jobs", &["work"; 5]).await;
        tokio::time::sleep(2 * SECOND).await;
        publish(&one, "plain", &["work"]).await;
        let letter = consumer.try_next().await.unwrap().unwrap();
        letter.ack().await.unwrap();
        assert_eq!(ready(&other, "jobs").await, 0);
        assert_eq!(ready(&one, "dead").await, 0);
    }
    // Whoever had left them is gone or not: they come with somebody who knows.
    other.close().await.unwrap();
    let knows = knowing(name).await;
    assert_eq!(ready(&knows, "dead").await, 15);
    let dead = knows.get("dead").await.unwrap().unwrap();
    assert_eq!(dead.body(), "work");
    knows.purge("dead").await.unwrap();
    dead.ack().await.unwrap();
    let inspector = kombu::memory::inspect(&knows).unwrap();
    tokio::time::timeout(SECOND, inspector.settled())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_reject_on_a_connection_that_cant_route_it_is_done_and_moved_by_another() {
    let name = "rejects";
    let (knows, stranger) = (knowing(name).await, stranger(name).await);
    declare_both(&knows, "x-all", |queue| queue.max_deliveries(1)).await;
    publish(&stranger, "jobs", &["rejected", "retried"]).await;
    let first = stranger.get("jobs").await.unwrap().unwrap();
    first.reject().confirmed().await.unwrap();
    // The first delivery was all that it was allowed.
    let second = stranger.get("jobs").await.unwrap().unwrap();
    second.retry().confirmed().await.unwrap();
    let info = stranger.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
    assert_eq!(ready(&knows, "dead").await, 2);
    for reason in ["rejected", "delivery_limit"] {
        let letter = knows.get("dead").await.unwrap().unwrap();
        let why = letter.headers().get("x-first-death-reason");
        assert_eq!(why.and_then(|why| why.as_str()), Some(reason));
        letter.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_kind_that_panics_is_an_error_of_its_publisher_and_stops_no_dead_letter() {
    fn broken(_: &Content, _: &[&BindingRecord]) -> Vec<usize> {
        panic!("a mistake in a kind")
    }
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .exchange_kind("x-broken", broken)
        .await
        .unwrap();
    declare_both(&connection, "x-broken", |queue| queue.max_length(1)).await;
    let failed = Exchange::custom("x-broken", "failed");
    let producer = connection.producer(&failed).await.unwrap();
    let error = producer.publish_text("lost").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().contains("`failed`"), "{error}");
    let mut consumer = connection
        .consumer(&Queue::new("plain-dead"))
        .await
        .unwrap();
    for _ in 0..3 {
        publish(&connection, "jobs", &["pushed out", "pushes"]).await;
        publish(&connection, "plain", &["pushed out", "pushes"]).await;
        let letter = consumer.try_next().await.unwrap().unwrap();
        letter.ack().await.unwrap();
    }
}

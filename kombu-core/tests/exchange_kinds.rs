//! Exchange kinds that programs bring along.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::virt::BindingRecord;
use kombu::{Binding, Connection, Content, ErrorKind, Exchange, Queue};

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

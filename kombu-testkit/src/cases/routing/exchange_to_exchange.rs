//! What reaches an exchange flows on to the exchanges that are bound to it.

use kombu_core::driver::Feature;
use kombu_core::{Binding, Connection, ErrorKind, Exchange, Queue};

use super::{bodies, publish_key};
use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported};

/// Declares exchanges that may be bound to each other. Whether the cases can go on: false where such bindings are
/// refused, as they then have to be.
async fn declared<const N: usize>(connection: &Connection, exchanges: [&Exchange; N]) -> bool {
    for exchange in exchanges {
        let result = connection.declare_exchange(exchange).await;
        if exchange.bindings().is_empty() || connection.capabilities().has(Feature::ExchangeBinding)
        {
            result.unwrap();
        } else {
            assert_unsupported(result);
            return false;
        }
    }
    true
}

/// Each exchange on the way matches by its own kind.
pub async fn a_message_flows_through_exchanges_of_every_kind(broker: &Broker) {
    let connection = broker.connect().await;
    let first = Exchange::topic("first");
    let second = Exchange::direct("second").bind(&first, "#.new");
    let third = Exchange::fanout("third").bind(&second, "video.new");
    let last = Exchange::headers("last").bind(&third, "");
    if !declared(&connection, [&last]).await {
        return;
    }
    let binding = Binding::from(&last).argument("tenant", 7);
    connection
        .declare_queue(&Queue::new("end").bind_with(binding))
        .await
        .unwrap();
    let producer = connection.producer(&first).await.unwrap();
    for (key, tenant) in [
        ("video.new", 7),
        ("video.new", 8),
        ("photo.new", 7),
        ("video.old", 7),
    ] {
        let publish = producer
            .publish_text(format!("{key} {tenant}"))
            .routing_key(key);
        publish.header("tenant", tenant).await.unwrap();
    }
    assert_eq!(bodies(&connection, "end").await, ["video.new 7"]);
}

/// Publishing before, between and after gives exactly the middle one.
pub async fn a_message_flows_between_bind_and_unbind_only(broker: &Broker) {
    let connection = broker.connect().await;
    let (from, to) = (Exchange::fanout("from"), Exchange::fanout("to"));
    connection.declare_exchange(&from).await.unwrap();
    connection
        .declare_queue(&Queue::new("end").bind(&to, ""))
        .await
        .unwrap();
    let producer = connection.producer(&from).await.unwrap();
    let binding = Binding::from(&from);
    assert!(!publish_key(&producer, "before").await.routed);
    let bound = connection.bind_exchange("to", &binding).await;
    if !connection.capabilities().has(Feature::ExchangeBinding) {
        assert_unsupported(bound);
        return;
    }
    bound.unwrap();
    assert!(publish_key(&producer, "between").await.routed);
    connection.unbind_exchange("to", &binding).await.unwrap();
    assert!(!publish_key(&producer, "after").await.routed);
    assert_eq!(bodies(&connection, "end").await, ["between"]);
}

/// Two ways to one queue: one copy.
pub async fn a_queue_that_is_reached_on_two_ways_gets_one_copy(broker: &Broker) {
    let connection = broker.connect().await;
    let source = Exchange::fanout("source");
    let left = Exchange::fanout("left").bind(&source, "");
    let right = Exchange::fanout("right").bind(&source, "");
    if !declared(&connection, [&left, &right]).await {
        return;
    }
    let queue = Queue::new("end")
        .bind(&left, "")
        .bind(&right, "")
        .bind(&source, "");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&source).await.unwrap();
    publish_key(&producer, "once").await;
    assert_eq!(bodies(&connection, "end").await, ["once"]);
}

/// Exchanges in a ring, and one that is bound to itself: the publish ends, with one copy per queue.
pub async fn a_cycle_of_exchanges_ends(broker: &Broker) {
    let connection = broker.connect().await;
    let (one, two) = (Exchange::fanout("one"), Exchange::fanout("two"));
    if !declared(&connection, [&one, &two.clone().bind(&one, "")]).await {
        return;
    }
    connection
        .bind_exchange("one", &Binding::from(&two))
        .await
        .unwrap();
    connection
        .bind_exchange("one", &Binding::from(&one))
        .await
        .unwrap();
    for exchange in [&one, &two] {
        let queue = Queue::new(format!("behind-{}", exchange.name())).bind(exchange, "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&one).await.unwrap();
    publish_key(&producer, "round").await;
    for queue in ["behind-one", "behind-two"] {
        assert_eq!(bodies(&connection, queue).await, ["round"], "{queue}");
    }
}

/// However far it went, a message says where it was published.
pub async fn the_message_keeps_its_exchange_and_key(broker: &Broker) {
    let connection = broker.connect().await;
    let source = Exchange::topic("source");
    let end = Exchange::fanout("end").bind(&source, "#");
    if !declared(&connection, [&end]).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("queue").bind(&end, "other"))
        .await
        .unwrap();
    let producer = connection.producer(&source).await.unwrap();
    publish_key(&producer, "video.new").await;
    let delivery = connection.get("queue").await.unwrap().unwrap();
    assert_eq!(delivery.exchange(), "source");
    assert_eq!(delivery.routing_key(), "video.new");
    delivery.ack().await.unwrap();
}

/// An exchange that goes takes its bindings with it, on both sides.
pub async fn deleting_an_exchange_on_the_way_ends_the_flow(broker: &Broker) {
    let connection = broker.connect().await;
    let source = Exchange::fanout("source");
    let middle = Exchange::fanout("middle").bind(&source, "");
    if !declared(&connection, [&middle]).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("end").bind(&middle, ""))
        .await
        .unwrap();
    let producer = connection.producer(&source).await.unwrap();
    assert!(publish_key(&producer, "before").await.routed);
    connection.delete_exchange("middle").await.unwrap();
    assert!(!publish_key(&producer, "after").await.routed);
    // Declared and bound again, it is another exchange: nothing flows into it.
    let end = Queue::new("end").bind(Exchange::fanout("middle"), "");
    connection.declare_queue(&end).await.unwrap();
    assert!(!publish_key(&producer, "declared again").await.routed);
    assert_eq!(bodies(&connection, "end").await, ["before"]);
}

/// An internal exchange takes what comes from other exchanges, and nothing from publishers.
pub async fn an_internal_exchange_is_reached_through_another_one_only(broker: &Broker) {
    let connection = broker.connect().await;
    let front = Exchange::fanout("front");
    let inner = Exchange::fanout("inner").internal(true).bind(&front, "");
    if !declared(&connection, [&inner]).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("end").bind(&inner, ""))
        .await
        .unwrap();
    let producer = connection.producer(&front).await.unwrap();
    producer.publish_text("through the front").await.unwrap();
    let direct = producer.publish_text("straight").exchange(&inner).await;
    assert_refused(direct, ErrorKind::AccessRefused, 403);
    producer.publish_text("again").await.unwrap();
    assert_eq!(
        bodies(&connection, "end").await,
        ["through the front", "again"]
    );
}

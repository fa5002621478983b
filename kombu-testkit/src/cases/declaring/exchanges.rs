//! An exchange is declared as often as you like, but only as what it is.

use kombu_core::{ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// Each kind, twice, by two connections.
pub async fn an_equal_declaration_succeeds_again(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    for exchange in [
        Exchange::direct("direct"),
        Exchange::fanout("fanout").durable(false),
        Exchange::topic("topic").internal(true),
        Exchange::headers("headers"),
    ] {
        for connection in [&one, &one, &other] {
            connection.declare_exchange(&exchange).await.unwrap();
        }
    }
}

/// Declaring again changes nothing: bindings stay.
pub async fn an_equal_declaration_keeps_the_bindings(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "#"))
        .await
        .unwrap();
    connection.declare_exchange(&media).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    producer.publish_text("here").await.unwrap();
    assert_eq!(texts(&drain(&connection, "videos").await), ["here"]);
}

/// The error names the attribute, what it is here and what it is there.
pub async fn another_type_is_refused_by_name(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    let other = connection
        .declare_exchange(&Exchange::fanout("media"))
        .await;
    let error = assert_refused(other, ErrorKind::PreconditionFailed, 406);
    let text = error.to_string();
    for part in ["`media`", "`type`", "fanout", "topic"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    assert_works(&connection).await;
}

/// Whether it survives a restart can't be changed in passing.
pub async fn another_durability_is_refused_by_name(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    let other = Exchange::topic("media").durable(false);
    let error = assert_refused(
        connection.declare_exchange(&other).await,
        ErrorKind::PreconditionFailed,
        406,
    );
    assert!(error.to_string().contains("`durable`"), "{error}");
    assert_works(&connection).await;
}

/// Whether publishers may use it can't be changed in passing.
pub async fn another_internal_is_refused_by_name(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    let other = Exchange::topic("media").internal(true);
    let error = assert_refused(
        connection.declare_exchange(&other).await,
        ErrorKind::PreconditionFailed,
        406,
    );
    assert!(error.to_string().contains("`internal`"), "{error}");
    assert_works(&connection).await;
}

/// A producer that would have to redeclare it can't be opened; the exchange is as it was.
pub async fn a_producer_with_another_declaration_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::direct("media")).await;
    assert_refused(producer, ErrorKind::PreconditionFailed, 406);
    connection.producer(Exchange::topic("media")).await.unwrap();
}

/// Opening a producer declares its exchange.
pub async fn a_producer_declares_its_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    connection.producer(Exchange::topic("media")).await.unwrap();
    connection
        .declare_exchange(&Exchange::topic("media").passive())
        .await
        .unwrap();
}

/// A declaration is a value: the same one serves any number of connections.
pub async fn one_declaration_serves_many_connections(broker: &Broker) {
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "video.#");
    for round in ["first", "second"] {
        let connection = broker.connect().await;
        connection.declare_queue(&videos).await.unwrap();
        let producer = connection.producer(&media).await.unwrap();
        producer
            .publish_text(round)
            .routing_key("video.new")
            .await
            .unwrap();
        assert_eq!(texts(&drain(&connection, &videos).await), [round]);
        connection.close().await.unwrap();
    }
}

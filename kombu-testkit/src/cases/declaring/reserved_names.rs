//! What belongs to the broker can be used, and neither made nor taken away.

use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// It is there without being declared.
pub async fn the_default_exchange_can_not_be_declared(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [
        Exchange::default(),
        Exchange::fanout(""),
        Exchange::default().passive(),
    ] {
        let declared = connection.declare_exchange(&exchange).await;
        assert_refused(declared, ErrorKind::AccessRefused, 403);
    }
    assert_works(&connection).await;
}

/// It has its one binding per queue already.
pub async fn nothing_can_be_bound_to_the_default_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    connection
        .declare_exchange(&Exchange::fanout("news"))
        .await
        .unwrap();
    let binding = Binding::new(Exchange::default(), "other");
    for bound in [
        connection.bind_queue("jobs", &binding).await,
        connection.bind_exchange("news", &binding).await,
    ] {
        assert_refused(bound, ErrorKind::AccessRefused, 403);
    }
    let queue = Queue::new("more").bind(Exchange::default(), "other");
    let declared = connection.declare_queue(&queue).await;
    assert_refused(declared, ErrorKind::AccessRefused, 403);
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let published = producer.publish_text("nowhere").routing_key("other").await;
    assert_refused(published, ErrorKind::Unroutable, 312);
    assert_works(&connection).await;
}

/// Nor the other way round.
pub async fn the_default_exchange_can_not_be_bound_to_another_one(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::fanout("news"))
        .await
        .unwrap();
    let binding = Binding::from(Exchange::fanout("news"));
    let bound = connection.bind_exchange("", &binding).await;
    assert_refused(bound, ErrorKind::AccessRefused, 403);
    assert_works(&connection).await;
}

/// It is nobody's to delete.
pub async fn the_default_exchange_can_not_be_deleted(broker: &Broker) {
    let connection = broker.connect().await;
    assert_refused(
        connection.delete_exchange("").await,
        ErrorKind::AccessRefused,
        403,
    );
    assert_works(&connection).await;
}

/// Names that start with `amq.` are for what brokers make themselves.
pub async fn a_queue_named_as_the_brokers_own_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let declared = connection.declare_queue(&Queue::new("amq.mine")).await;
    let error = assert_refused(declared, ErrorKind::AccessRefused, 403);
    assert!(error.to_string().contains("`amq.mine`"), "{error}");
    let consumer = connection.consumer(&Queue::new("amq.mine")).await;
    assert_refused(consumer, ErrorKind::AccessRefused, 403);
    assert_works(&connection).await;
}

/// Names that start with `amq.` are for what brokers make themselves.
pub async fn an_exchange_named_as_the_brokers_own_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let declared = connection
        .declare_exchange(&Exchange::topic("amq.mine"))
        .await;
    let error = assert_refused(declared, ErrorKind::AccessRefused, 403);
    assert!(error.to_string().contains("`amq.mine`"), "{error}");
    assert_works(&connection).await;
}

/// Asking for such a name is no offence.
pub async fn a_passive_declaration_of_such_a_name_asks(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = connection
        .declare_queue(&Queue::new("amq.mine").passive())
        .await;
    assert_refused(queue, ErrorKind::NotFound, 404);
    let exchange = connection
        .declare_exchange(&Exchange::topic("amq.mine").passive())
        .await;
    assert_refused(exchange, ErrorKind::NotFound, 404);
    connection
        .declare_exchange(&Exchange::topic("amq.topic").passive())
        .await
        .unwrap();
    assert_works(&connection).await;
}

/// The five that AMQP and RabbitMQ have can be declared as what they are, and used.
pub async fn the_exchanges_that_every_broker_has_are_there(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [
        Exchange::direct("amq.direct"),
        Exchange::fanout("amq.fanout"),
        Exchange::topic("amq.topic"),
        Exchange::headers("amq.headers"),
        Exchange::headers("amq.match"),
    ] {
        connection
            .declare_exchange(&exchange.clone().passive())
            .await
            .unwrap();
        connection.declare_exchange(&exchange).await.unwrap();
        let name = format!("behind-{}", exchange.name());
        connection
            .declare_queue(&Queue::new(&name).bind(&exchange, "key"))
            .await
            .unwrap();
        let producer = connection.producer(&exchange).await.unwrap();
        producer
            .publish_text("through")
            .routing_key("key")
            .await
            .unwrap();
        assert_eq!(
            texts(&drain(&connection, &name).await),
            ["through"],
            "{name}"
        );
    }
}

/// They are what they are.
pub async fn the_exchanges_that_every_broker_has_keep_their_attributes(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [
        Exchange::fanout("amq.topic"),
        Exchange::topic("amq.topic").durable(false),
        Exchange::topic("amq.topic").internal(true),
    ] {
        let declared = connection.declare_exchange(&exchange).await;
        assert_refused(declared, ErrorKind::PreconditionFailed, 406);
    }
    let deleted = connection.delete_exchange("amq.topic").await;
    assert_refused(deleted, ErrorKind::AccessRefused, 403);
    connection
        .declare_exchange(&Exchange::topic("amq.topic"))
        .await
        .unwrap();
    assert_works(&connection).await;
}

/// A producer uses it undeclared, and has to mean what it is.
pub async fn a_producer_for_the_default_exchange_takes_it_as_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    connection.producer(Exchange::default()).await.unwrap();
    let producer = connection.producer(Exchange::fanout("")).await;
    assert_refused(producer, ErrorKind::AccessRefused, 403);
    assert_works(&connection).await;
}

//! What is gone is gone, and what was never there counts as gone.

use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::{assert_refused, collect, drain, texts};

/// Twice in a row, and with conditions.
pub async fn deleting_a_missing_queue_succeeds(broker: &Broker) {
    let connection = broker.connect().await;
    assert_eq!(connection.delete_queue("jobs").await.unwrap(), 0);
    assert_eq!(
        connection
            .delete_queue("jobs")
            .if_empty()
            .if_unused()
            .await
            .unwrap(),
        0
    );
    assert_works(&connection).await;
}

/// Twice in a row, and with a condition.
pub async fn deleting_a_missing_exchange_succeeds(broker: &Broker) {
    let connection = broker.connect().await;
    connection.delete_exchange("media").await.unwrap();
    connection.delete_unused_exchange("media").await.unwrap();
    assert_works(&connection).await;
}

/// A missing binding, a missing exchange and a missing queue are all nothing to unbind.
pub async fn removing_a_missing_binding_succeeds(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let unbind = async || {
        let binding = Binding::new(&media, "video.#");
        connection.unbind_queue("videos", &binding).await.unwrap();
        connection
            .unbind_exchange("archive", &binding)
            .await
            .unwrap();
    };
    unbind().await;
    connection
        .declare_queue(&Queue::new("videos"))
        .await
        .unwrap();
    connection
        .declare_exchange(&Exchange::fanout("archive"))
        .await
        .unwrap();
    unbind().await;
    connection.declare_exchange(&media).await.unwrap();
    unbind().await;
    assert_works(&connection).await;
}

/// The answer says how many went with it.
pub async fn deleting_a_queue_drops_its_messages_and_counts_them(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for text in ["one", "two", "three"] {
        producer
            .publish_text(text)
            .routing_key("jobs")
            .await
            .unwrap();
    }
    assert_eq!(connection.delete_queue("jobs").await.unwrap(), 3);
    let info = connection.queue_info("jobs").await;
    assert_refused(info, ErrorKind::NotFound, 404);
    assert_eq!(
        connection
            .declare_queue(&Queue::new("jobs"))
            .await
            .unwrap()
            .ready,
        0
    );
}

/// With a message in it, it stays.
pub async fn if_empty_keeps_a_queue_with_messages(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("kept")
        .routing_key("jobs")
        .await
        .unwrap();
    let deleted = connection.delete_queue("jobs").if_empty().await;
    assert_refused(deleted, ErrorKind::PreconditionFailed, 406);
    assert_works(&connection).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["kept"]);
    connection.delete_queue("jobs").if_empty().await.unwrap();
    let info = connection.queue_info("jobs").await;
    assert_refused(info, ErrorKind::NotFound, 404);
}

/// With a consumer, it stays, and the consumer goes on.
pub async fn if_unused_keeps_a_queue_with_consumers(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let deleted = connection.delete_queue("jobs").if_unused().await;
    assert_refused(deleted, ErrorKind::PreconditionFailed, 406);
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("work")
        .routing_key("jobs")
        .await
        .unwrap();
    for delivery in collect(&mut consumer, 1).await {
        delivery.ack().await.unwrap();
    }
    consumer.cancel().await.unwrap();
    connection.delete_queue("jobs").if_unused().await.unwrap();
    let info = connection.queue_info("jobs").await;
    assert_refused(info, ErrorKind::NotFound, 404);
}

/// With a binding, it stays.
pub async fn if_unused_keeps_an_exchange_with_bindings(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "#"))
        .await
        .unwrap();
    let deleted = connection.delete_unused_exchange(&media).await;
    assert_refused(deleted, ErrorKind::PreconditionFailed, 406);
    connection
        .declare_exchange(&media.clone().passive())
        .await
        .unwrap();
    connection
        .unbind_queue("videos", &Binding::new(&media, "#"))
        .await
        .unwrap();
    connection.delete_unused_exchange(&media).await.unwrap();
    let missing = connection.declare_exchange(&media.passive()).await;
    assert_refused(missing, ErrorKind::NotFound, 404);
}

/// A producer that is open learns it with its next publish, and can go on once the exchange is back.
pub async fn publishing_to_a_deleted_exchange_finds_it_missing(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "#");
    connection.declare_queue(&videos).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    producer.publish_text("before").await.unwrap();
    connection.delete_exchange(&media).await.unwrap();
    let published = producer.publish_text("lost").await;
    assert_refused(published, ErrorKind::NotFound, 404);
    connection.declare_queue(&videos).await.unwrap();
    producer.publish_text("after").await.unwrap();
    assert_eq!(
        texts(&drain(&connection, "videos").await),
        ["before", "after"]
    );
}

/// Deleting and declaring again gives an empty queue, whatever the same publisher sent before.
pub async fn a_queue_that_is_declared_again_is_another_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for round in ["first", "second", "third"] {
        producer.publish_text("dropped").await.unwrap();
        connection.delete_queue("jobs").await.unwrap();
        let published = producer.publish_text("nowhere").await;
        assert_refused(published, ErrorKind::Unroutable, 312);
        connection.declare_queue(&jobs).await.unwrap();
        producer.publish_text(round).await.unwrap();
        assert_eq!(texts(&drain(&connection, "jobs").await), [round]);
    }
}

/// It can be declared as something else.
pub async fn a_name_is_free_again_after_deleting(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    connection.delete_exchange("media").await.unwrap();
    connection
        .declare_exchange(&Exchange::fanout("media"))
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    connection.delete_queue("jobs").await.unwrap();
    connection
        .declare_queue(&Queue::new("jobs").durable(false))
        .await
        .unwrap();
}

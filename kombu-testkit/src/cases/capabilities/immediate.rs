//! Publishing only if a consumer is ready.

use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, Exchange, Producer, Published, Queue, Result};

use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, assert_unsupported, collect_one, info, texts};

/// A producer for the queue `jobs`, which is there. `None` where the transport doesn't have the feature: then it has to
/// refuse such a message before it is sent.
async fn has_immediate(connection: &Connection) -> Option<Producer> {
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    if connection.capabilities().has(Feature::Immediate) {
        return Some(producer);
    }
    let error = assert_unsupported(immediate(&producer, "no").await);
    let text = error.to_string();
    assert!(text.contains(&Feature::Immediate.to_string()), "{text}");
    assert!(!error.may_have_been_stored());
    // Nothing was sent, and the producer goes on.
    let plain = producer.publish_text("goes on").immediate(false).await;
    assert!(plain.unwrap().routed);
    assert_eq!(info(connection, "jobs").await.ready, 1);
    None
}

async fn immediate(producer: &Producer, text: &str) -> Result<Published> {
    producer.publish_text(text).immediate(true).await
}

/// 313, and the queue doesn't have it.
pub async fn without_a_consumer_it_is_returned(broker: &Broker) {
    let connection = broker.connect().await;
    let Some(producer) = has_immediate(&connection).await else {
        return;
    };
    let error = assert_refused(
        immediate(&producer, "nobody").await,
        ErrorKind::NoConsumers,
        313,
    );
    for part in ["`jobs`", "consumer"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!error.may_have_been_stored());
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// One that has room for it.
pub async fn a_ready_consumer_gets_it(broker: &Broker) {
    let connection = broker.connect().await;
    let Some(producer) = has_immediate(&connection).await else {
        return;
    };
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    assert!(immediate(&producer, "work").await.unwrap().routed);
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "work");
    delivery.ack().await.unwrap();
}

/// One without room isn't ready, nor is a paused one.
pub async fn a_consumer_without_room_is_not_ready(broker: &Broker) {
    let connection = broker.connect().await;
    let Some(producer) = has_immediate(&connection).await else {
        return;
    };
    let open = connection.consumer(&Queue::new("jobs")).prefetch(1);
    let mut consumer = open.await.unwrap();
    publish(&connection, "jobs", ["held"]).await;
    let held = collect_one(&mut consumer).await;
    let refused = immediate(&producer, "full").await;
    assert_refused(refused, ErrorKind::NoConsumers, 313);
    held.ack().confirmed().await.unwrap();
    assert!(immediate(&producer, "ready").await.unwrap().routed);
    let ready = collect_one(&mut consumer).await;
    ready.ack().confirmed().await.unwrap();
    consumer.pause();
    let refused = immediate(&producer, "paused").await;
    assert_refused(refused, ErrorKind::NoConsumers, 313);
    consumer.resume();
    assert!(immediate(&producer, "resumed").await.unwrap().routed);
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(texts([&delivery]), ["resumed"]);
}

/// Of several queues, those with a ready consumer get it.
pub async fn the_queues_with_a_ready_consumer_get_it(broker: &Broker) {
    let connection = broker.connect().await;
    if has_immediate(&connection).await.is_none() {
        return;
    }
    let news = Exchange::fanout("news");
    let (read, unread) = (Queue::new("read"), Queue::new("unread"));
    connection
        .declare_queue(&unread.bind(&news, ""))
        .await
        .unwrap();
    let producer = connection.producer(&news).await.unwrap();
    let mut consumer = connection.consumer(&read.bind(&news, "")).await.unwrap();
    assert!(immediate(&producer, "rain").await.unwrap().routed);
    assert_eq!(collect_one(&mut consumer).await.body(), "rain");
    assert_eq!(info(&connection, "unread").await.ready, 0);
}

/// To nobody is to no consumer; where the key names the receiver, it is unroutable first.
pub async fn where_no_queue_matches_no_consumer_does(broker: &Broker) {
    let connection = broker.connect().await;
    if has_immediate(&connection).await.is_none() {
        return;
    }
    let producer = connection.producer(Exchange::fanout("news")).await.unwrap();
    let refused = immediate(&producer, "nobody").await;
    assert_refused(refused, ErrorKind::NoConsumers, 313);
    let mandatory = producer.publish_text("nobody").mandatory().immediate(true);
    assert_refused(mandatory.await, ErrorKind::Unroutable, 312);
}

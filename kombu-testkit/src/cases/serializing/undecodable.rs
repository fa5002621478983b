//! A body that can't be decoded is neither lost nor delivered for ever.

use kombu_core::driver::Feature;
use kombu_core::{Delivery, ErrorKind, Exchange, Producer, Queue};

use super::producer_to;
use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported, collect, collect_one, drain, texts};

/// Publishes something that says it is JSON and isn't.
async fn publish_garbage(producer: &Producer, text: &str) {
    let publish = producer.publish_text(text).content_type("application/json");
    publish.await.unwrap();
}

/// Takes a number out of a delivery that has none, and forgets about it.
fn fail_and_drop(delivery: Delivery) {
    assert_refused(delivery.take::<u32>(), ErrorKind::Undecodable, None);
}

/// The error carries the delivery, with its raw body, to be settled in any way.
pub async fn the_error_carries_the_delivery(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    publish_garbage(&producer, "{garbage").await;
    let taken = collect_one(&mut consumer).await.take::<u32>();
    let error = assert_refused(taken, ErrorKind::Undecodable, None);
    assert!(error.to_string().contains("`inbox`"), "{error}");
    let delivery = error.into_delivery().unwrap();
    assert_eq!(delivery.body(), "{garbage");
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "inbox", 0, 0).await;
}

/// The consumer goes on.
pub async fn the_next_message_is_not_affected(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    publish_garbage(&producer, "{garbage").await;
    producer.publish(&7).await.unwrap();
    fail_and_drop(collect_one(&mut consumer).await);
    let (number, delivery) = collect_one(&mut consumer).await.take::<u32>().unwrap();
    assert_eq!(number, 7);
    delivery.ack().await.unwrap();
    broker.assert_silent(&mut consumer).await;
}

/// A queue with a target: there it goes, raw body and all.
pub async fn it_is_dead_lettered_if_the_queue_has_a_target(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !connection.capabilities().has(Feature::DeadLetter) {
        assert_unsupported(connection.declare_queue(&inbox).await);
        return;
    }
    let producer = producer_to(&connection, &inbox).await;
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    publish_garbage(&producer, "{garbage").await;
    fail_and_drop(collect_one(&mut consumer).await);
    let letter = collect_one(&mut dead).await;
    assert_eq!(letter.body(), "{garbage");
    assert_eq!(letter.content_type(), Some("application/json"));
    assert!(letter.headers().contains("x-death"));
    letter.ack().await.unwrap();
    broker.assert_counts(&connection, "inbox", 0, 0).await;
}

/// A queue without one: nobody gets it while this consumer runs, and it is back afterwards.
pub async fn it_is_held_until_the_consumer_closes_if_there_is_no_target(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    publish_garbage(&producer, "{first").await;
    publish_garbage(&producer, "{second").await;
    for delivery in collect(&mut consumer, 2).await {
        fail_and_drop(delivery);
    }
    broker.assert_silent(&mut consumer).await;
    broker.assert_counts(&connection, "inbox", 0, 2).await;
    consumer.cancel().await.unwrap();
    broker.assert_counts(&connection, "inbox", 2, 0).await;
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["{first", "{second"]
    );
}

/// As closing it, dropping it gives back what it held.
pub async fn it_goes_back_when_the_consumer_is_dropped(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    publish_garbage(&producer, "{garbage").await;
    fail_and_drop(collect_one(&mut consumer).await);
    broker.assert_counts(&connection, "inbox", 0, 1).await;
    drop(consumer);
    broker.assert_counts(&connection, "inbox", 1, 0).await;
}

/// Then the consumer ends, and says why: it could never receive anything again.
pub async fn a_window_full_of_them_ends_the_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).prefetch(2).await.unwrap();
    for garbage in ["{first", "{second", "{third"] {
        publish_garbage(&producer, garbage).await;
    }
    fail_and_drop(collect_one(&mut consumer).await);
    fail_and_drop(collect_one(&mut consumer).await);
    let ended = consumer.next().await.unwrap();
    let error = assert_refused(ended, ErrorKind::Undecodable, None);
    assert!(error.to_string().contains('2'), "{error}");
    assert!(consumer.next().await.is_none());
    broker.assert_counts(&connection, "inbox", 3, 0).await;
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["{first", "{second", "{third"]
    );
}

/// A consumer that already waits for the next delivery learns it as well.
pub async fn a_waiting_consumer_ends_when_the_last_place_is_taken(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).prefetch(1).await.unwrap();
    publish_garbage(&producer, "{garbage").await;
    let delivery = collect_one(&mut consumer).await;
    let (ended, ()) = tokio::join!(biased; consumer.next(), async { fail_and_drop(delivery) });
    assert_refused(ended.unwrap(), ErrorKind::Undecodable, None);
    broker.assert_counts(&connection, "inbox", 1, 0).await;
}

/// The last decode decides: dropped then, it is released as any other.
pub async fn a_later_decode_that_succeeds_makes_it_decodable(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).prefetch(1).await.unwrap();
    producer.publish("text").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_refused(delivery.decode::<u32>(), ErrorKind::Undecodable, None);
    assert_eq!(delivery.decode::<&str>().unwrap(), "text");
    drop(delivery);
    let again = collect_one(&mut consumer).await;
    assert!(again.redelivered());
    again.ack().await.unwrap();
}

/// There is no consumer to hold it.
pub async fn a_single_message_goes_back_at_once(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    publish_garbage(&producer, "{garbage").await;
    fail_and_drop(connection.get("inbox").await.unwrap().unwrap());
    broker.assert_counts(&connection, "inbox", 1, 0).await;
}

/// A hundred thousand brackets are an error as any other.
pub async fn a_body_that_means_harm_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    for serializer in ["application/json", "application/x-yaml"] {
        let publish = producer
            .publish_text("[".repeat(100_000))
            .content_type(serializer);
        publish.await.unwrap();
        let delivery = connection.get("inbox").await.unwrap().unwrap();
        let decoded = delivery.decode::<kombu_core::serializers::Value>();
        assert_refused(decoded, ErrorKind::Undecodable, None);
        delivery.ack().await.unwrap();
    }
}

/// A value that no JSON can be: nothing is sent.
pub async fn a_value_that_can_not_be_encoded_is_not_sent(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let unwritable = std::collections::BTreeMap::from([(vec![1], 1)]);
    let error = assert_refused(producer.publish(&unwritable).await, ErrorKind::Encode, None);
    assert_eq!(error.operation(), Some("publish"));
    assert!(!error.may_have_been_stored());
    broker.assert_counts(&connection, "inbox", 0, 0).await;
    connection.producer(Exchange::default()).await.unwrap();
}

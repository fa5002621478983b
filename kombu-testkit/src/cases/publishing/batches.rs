//! A batch answers for each of its messages, in their order.

use std::collections::BTreeMap;

use kombu_core::{ErrorKind, Exchange, Queue};

use super::to_inbox;
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// All of them arrive, as they were given.
pub async fn a_batch_arrives_in_order(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let numbers: Vec<u32> = (0..500).collect();
    let results = producer
        .batch(numbers.iter().map(|number| producer.publish(number)))
        .await;
    assert_eq!(results.len(), 500);
    for published in results {
        assert!(published.unwrap().routed);
    }
    let received = drain(&connection, "inbox").await;
    let received = received
        .iter()
        .map(|message| message.decode::<u32>().unwrap());
    assert!(received.eq(numbers));
}

/// Those that fail are in their places, whatever they failed of, and the others are stored.
pub async fn failures_in_the_middle_are_in_their_places(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let nowhere = Exchange::topic("nowhere");
    // JSON has no maps whose keys are lists.
    let fine: BTreeMap<Vec<u8>, u8> = BTreeMap::new();
    let unwritable = BTreeMap::from([(vec![1], 1)]);
    let results = producer
        .batch([
            producer.publish(&fine).message_id("first"),
            producer
                .publish(&fine)
                .message_id("unroutable")
                .routing_key("nobody"),
            producer.publish(&unwritable).message_id("unwritable"),
            producer.publish(&fine).message_id("fourth"),
            producer
                .publish(&fine)
                .message_id("missing")
                .exchange(&nowhere),
            producer
                .publish(&fine)
                .message_id("long key")
                .routing_key("k".repeat(256)),
            producer
                .publish(&fine)
                .message_id("nobody")
                .routing_key("nobody")
                .allow_unroutable(),
            producer.publish(&fine).message_id("last"),
        ])
        .await;
    let mut results = results.into_iter();
    let mut next = || results.next().unwrap();
    assert_eq!(next().unwrap().message_id.as_deref(), Some("first"));
    assert_refused(next(), ErrorKind::Unroutable, 312);
    assert_refused(next(), ErrorKind::Encode, None);
    assert_eq!(next().unwrap().message_id.as_deref(), Some("fourth"));
    assert_refused(next(), ErrorKind::NotFound, 404);
    assert_refused(next(), ErrorKind::InvalidName, None);
    assert!(!next().unwrap().routed);
    assert_eq!(next().unwrap().message_id.as_deref(), Some("last"));
    assert!(results.next().is_none());
    let received = drain(&connection, "inbox").await;
    let ids: Vec<_> = received
        .iter()
        .map(|message| message.message_id().unwrap())
        .collect();
    assert_eq!(ids, ["first", "fourth", "last"]);
}

/// Nothing to send, nothing to answer.
pub async fn an_empty_batch_answers_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let none: [&str; 0] = [];
    assert!(
        producer
            .batch(none.map(|text| producer.publish_text(text)))
            .await
            .is_empty()
    );
}

/// Each message of a batch is routed for itself.
pub async fn a_batch_may_go_to_several_queues(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    connection
        .declare_queue(&Queue::new("outbox"))
        .await
        .unwrap();
    let items = (0..10).map(|number| {
        let queue = if number % 2 == 0 { "inbox" } else { "outbox" };
        producer.publish_text(number.to_string()).routing_key(queue)
    });
    for published in producer.batch(items).await {
        assert!(published.unwrap().routed);
    }
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["0", "2", "4", "6", "8"]
    );
    assert_eq!(
        texts(&drain(&connection, "outbox").await),
        ["1", "3", "5", "7", "9"]
    );
}

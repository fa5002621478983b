//! `send` hands a message over, and its receipt brings the answer later.

use kombu_core::{ErrorKind, Exchange};

use super::to_inbox;
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// All sent before the first answer is asked for; each is answered, and they keep their order.
pub async fn a_thousand_messages_under_way_keep_their_order(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let mut receipts = Vec::new();
    for number in 0..1_000 {
        receipts.push(producer.publish(&number).send().await.unwrap());
    }
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
    let received = drain(&connection, "inbox").await;
    let numbers = received
        .iter()
        .map(|message| message.decode::<i32>().unwrap());
    assert!(numbers.eq(0..1_000));
}

/// In whatever order one asks.
pub async fn receipts_are_answered_in_any_order(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let mut receipts = Vec::new();
    for id in ["m-0", "m-1", "m-2"] {
        receipts.push(
            producer
                .publish_text(id)
                .message_id(id)
                .send()
                .await
                .unwrap(),
        );
    }
    for id in ["m-2", "m-1", "m-0"] {
        let published = receipts.pop().unwrap().await.unwrap();
        assert_eq!(published.message_id.as_deref(), Some(id));
    }
}

/// A receipt borrows nothing: another task can wait for it, after the producer is gone.
pub async fn a_receipt_can_be_awaited_by_another_task(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let receipt = producer.publish_text("hello").send().await.unwrap();
    drop(producer);
    let published = tokio::spawn(receipt).await.unwrap().unwrap();
    assert!(published.routed);
}

/// Only the answer is lost.
pub async fn dropping_a_receipt_does_not_take_the_message_back(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    drop(producer.publish_text("dropped").send().await.unwrap());
    producer.publish_text("awaited").await.unwrap();
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["dropped", "awaited"]
    );
}

/// The ones before it and the ones behind it are stored.
pub async fn a_message_that_fails_does_not_fail_its_neighbours(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let nowhere = Exchange::topic("nowhere");
    let first = producer.publish_text("first").send().await.unwrap();
    let missing = producer
        .publish_text("missing")
        .exchange(&nowhere)
        .send()
        .await
        .unwrap();
    let third = producer.publish_text("third").send().await.unwrap();
    let unroutable = producer
        .publish_text("unroutable")
        .routing_key("nobody")
        .send()
        .await
        .unwrap();
    let last = producer.publish_text("last").send().await.unwrap();
    assert!(first.await.unwrap().routed);
    assert_refused(missing.await, ErrorKind::NotFound, 404);
    assert!(third.await.unwrap().routed);
    assert_refused(unroutable.await, ErrorKind::Unroutable, 312);
    assert!(last.await.unwrap().routed);
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["first", "third", "last"]
    );
}

/// What can't be sent at all is known at once, and leaves nothing behind.
pub async fn what_can_not_be_sent_has_no_receipt(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let key = "k".repeat(256);
    let sent = producer
        .publish_text("long key")
        .routing_key(key)
        .send()
        .await;
    assert_refused(sent, ErrorKind::InvalidName, None);
    assert_eq!(drain(&connection, "inbox").await.len(), 0);
}

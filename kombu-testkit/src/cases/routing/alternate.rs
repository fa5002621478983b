//! An alternate exchange gets what another exchange can't route.

use kombu_core::driver::Feature;
use kombu_core::{Connection, Exchange, Queue};

use super::{bodies, publish_key};
use crate::Broker;
use crate::expect::assert_unsupported;

/// Whether the cases can go on: false where alternate exchanges are refused, as they then have to be.
pub(super) async fn declared(connection: &Connection, exchange: &Exchange) -> bool {
    let result = connection.declare_exchange(exchange).await;
    if connection.capabilities().has(Feature::AlternateExchange) {
        result.unwrap();
        return true;
    }
    assert_unsupported(result);
    false
}

/// What matches a binding stays away from it.
pub async fn only_what_matches_nothing_goes_to_the_alternate_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    let (media, rest) = (
        Exchange::direct("media").alternate_exchange("rest"),
        Exchange::fanout("rest"),
    );
    connection
        .declare_queue(&Queue::new("unrouted").bind(&rest, ""))
        .await
        .unwrap();
    if !declared(&connection, &media).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "video"))
        .await
        .unwrap();
    let producer = connection.producer(&media).await.unwrap();
    for key in ["video", "sound"] {
        assert!(publish_key(&producer, key).await.routed, "`{key}`");
    }
    assert_eq!(bodies(&connection, "videos").await, ["video"]);
    assert_eq!(bodies(&connection, "unrouted").await, ["sound"]);
}

/// A message keeps the exchange and the key that it was published with.
pub async fn the_message_keeps_its_exchange_and_key(broker: &Broker) {
    let connection = broker.connect().await;
    let rest = Exchange::fanout("rest");
    let media = Exchange::direct("media").alternate_exchange("rest");
    connection
        .declare_queue(&Queue::new("unrouted").bind(&rest, ""))
        .await
        .unwrap();
    if !declared(&connection, &media).await {
        return;
    }
    let producer = connection.producer(&media).await.unwrap();
    publish_key(&producer, "sound").await;
    let delivery = connection.get("unrouted").await.unwrap().unwrap();
    assert_eq!(delivery.exchange(), "media");
    assert_eq!(delivery.routing_key(), "sound");
    delivery.ack().await.unwrap();
}

/// A mandatory message that the alternate exchange routes isn't returned; one that it can't route is.
pub async fn a_mandatory_message_counts_as_routed_by_the_alternate_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    let rest = Exchange::direct("rest");
    let media = Exchange::direct("media").alternate_exchange("rest");
    connection
        .declare_queue(&Queue::new("sounds").bind(&rest, "sound"))
        .await
        .unwrap();
    if !declared(&connection, &media).await {
        return;
    }
    let producer = connection.producer(&media).await.unwrap();
    let sound = producer.publish_text("sound").routing_key("sound");
    assert!(sound.mandatory().await.unwrap().routed);
    let nothing = producer.publish_text("smell").routing_key("smell");
    crate::expect::assert_refused(
        nothing.mandatory().await,
        kombu_core::ErrorKind::Unroutable,
        312,
    );
}

/// An alternate exchange may have one, too, and a ring of them ends.
pub async fn alternate_exchanges_form_chains_that_end(broker: &Broker) {
    let connection = broker.connect().await;
    let first = Exchange::direct("first").alternate_exchange("second");
    let second = Exchange::topic("second").alternate_exchange("third");
    let third = Exchange::direct("third").alternate_exchange("first");
    for exchange in [&first, &second, &third] {
        if !declared(&connection, exchange).await {
            return;
        }
    }
    connection
        .declare_queue(&Queue::new("last").bind(&third, "sound"))
        .await
        .unwrap();
    let producer = connection.producer(&first).await.unwrap();
    assert!(publish_key(&producer, "sound").await.routed);
    assert!(!publish_key(&producer, "smell").await.routed);
    assert_eq!(bodies(&connection, "last").await, ["sound"]);
}

/// A name that no exchange has is as good as none.
pub async fn an_alternate_exchange_that_is_missing_counts_as_none(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media").alternate_exchange("nowhere");
    if !declared(&connection, &media).await {
        return;
    }
    let producer = connection.producer(&media).await.unwrap();
    assert!(!publish_key(&producer, "sound").await.routed);
}

/// A binding that leads to an exchange where nothing matches has matched all the same.
pub async fn what_reaches_another_exchange_through_a_binding_was_routed(broker: &Broker) {
    let connection = broker.connect().await;
    let rest = Exchange::fanout("rest");
    let media = Exchange::direct("media").alternate_exchange("rest");
    connection
        .declare_queue(&Queue::new("unrouted").bind(&rest, ""))
        .await
        .unwrap();
    if !declared(&connection, &media).await {
        return;
    }
    let dead_end = Exchange::direct("dead-end").bind(&media, "sound");
    connection.declare_exchange(&dead_end).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    assert!(!publish_key(&producer, "sound").await.routed);
    assert_eq!(bodies(&connection, "unrouted").await, [""; 0]);
}

//! Exchange kinds that a broker's plugins add.

use kombu_core::driver::Feature;
use kombu_core::{Exchange, Queue};

use crate::Broker;
use crate::expect::{assert_unsupported, drain, texts};

/// Refused by the transport, or by the broker; either way the connection goes on working.
pub async fn a_kind_that_nobody_knows_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let declared = connection
        .declare_exchange(&Exchange::custom("x-of-nobody", "odd"))
        .await;
    if connection.capabilities().has(Feature::CustomExchangeKind) {
        let error = declared.unwrap_err();
        assert!(error.to_string().contains("x-of-nobody"), "{error}");
    } else {
        assert_unsupported(declared);
    }
    let news = Exchange::fanout("news");
    connection
        .declare_queue(&Queue::new("readers").bind(&news, ""))
        .await
        .unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("still here").await.unwrap();
    assert_eq!(texts(&drain(&connection, "readers").await), ["still here"]);
}

/// The four kinds are what they are by whatever name they were made.
pub async fn a_known_kind_by_its_name_is_that_kind(broker: &Broker) {
    let connection = broker.connect().await;
    for exchange in [
        Exchange::custom("direct", "a"),
        Exchange::custom("fanout", "b"),
        Exchange::custom("topic", "c"),
        Exchange::custom("headers", "d"),
    ] {
        connection.declare_exchange(&exchange).await.unwrap();
    }
    connection
        .declare_exchange(&Exchange::topic("c"))
        .await
        .unwrap();
}

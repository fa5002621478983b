//! Further routing keys, which a sender writes into the headers `CC` and `BCC`: RabbitMQ's sender-selected distribution.

use kombu_core::{Connection, ErrorKind, Exchange, FieldValue, Queue};

use super::alternate::declared;
use super::bodies;
use crate::Broker;
use crate::cases::producer_to;
use crate::expect::{assert_refused, drain, info};

/// A list of keys, as a header has it.
fn list<'a>(keys: impl IntoIterator<Item = &'a str>) -> FieldValue {
    FieldValue::Array(keys.into_iter().map(FieldValue::from).collect())
}

async fn declare(connection: &Connection, queues: &[&str]) {
    for queue in queues {
        connection.declare_queue(&Queue::new(*queue)).await.unwrap();
    }
}

/// Of the default exchange, the keys are names of queues.
pub async fn every_key_is_routed_by(broker: &Broker) {
    let connection = broker.connect().await;
    declare(&connection, &["to", "cc", "bcc", "other"]).await;
    let producer = producer_to(&connection, "to").await;
    let publish = || producer.publish_text("work");
    publish()
        .header("CC", list(["cc"]))
        .header("BCC", list(["bcc"]))
        .await
        .unwrap();
    // What the next one is routed by is its own matter.
    publish().await.unwrap();
    for (queue, count) in [("to", 2), ("cc", 1), ("bcc", 1), ("other", 0)] {
        assert_eq!(info(&connection, queue).await.ready, count, "{queue}");
    }
}

/// `CC` tells all receivers of the others, `BCC` none.
pub async fn only_the_hidden_keys_are_taken_off(broker: &Broker) {
    let connection = broker.connect().await;
    declare(&connection, &["to", "cc", "bcc"]).await;
    let producer = producer_to(&connection, "to").await;
    let publish = producer.publish_text("work").header("CC", list(["cc"]));
    let publish = publish.header("BCC", list(["bcc"])).header("mine", 1);
    publish.await.unwrap();
    for queue in ["to", "cc", "bcc"] {
        let [message] = drain(&connection, queue).await.try_into().unwrap();
        assert_eq!(message.routing_key(), "to", "{queue}");
        let headers = message.headers();
        assert_eq!(headers.get("CC"), Some(&list(["cc"])), "{queue}");
        assert_eq!(headers.get("BCC"), None, "{queue}");
        assert_eq!(headers.get("mine").and_then(FieldValue::as_i64), Some(1));
    }
}

/// A queue that several of them lead to gets one copy; where the routing key leads nowhere, the others may not.
pub async fn keys_match_as_the_kind_of_the_exchange_does(broker: &Broker) {
    let connection = broker.connect().await;
    let (direct, topic) = (Exchange::direct("direct"), Exchange::topic("topic"));
    for queue in [
        Queue::new("a").bind(&direct, "a").bind(&direct, "b"),
        Queue::new("b").bind(&topic, "b.#"),
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&direct).await.unwrap();
    let publish = producer.publish_text("direct").routing_key("nowhere");
    let published = publish.header("CC", list(["a", "b", "c"])).await;
    assert!(published.unwrap().routed);
    assert_eq!(bodies(&connection, "a").await, ["direct"]);
    let producer = connection.producer(&topic).await.unwrap();
    let publish = producer.publish_text("topic").routing_key("a");
    publish.header("BCC", list(["b.c", "b.d"])).await.unwrap();
    assert_eq!(bodies(&connection, "b").await, ["topic"]);
    let nowhere = producer.publish_text("nowhere").routing_key("a");
    let published = nowhere.header("CC", list(["c"])).await.unwrap();
    assert!(!published.routed);
}

/// The alternate exchange gets what none of the keys leads anywhere with.
pub async fn one_key_that_leads_somewhere_is_enough(broker: &Broker) {
    let connection = broker.connect().await;
    let rest = Exchange::fanout("rest");
    let media = Exchange::direct("media").alternate_exchange("rest");
    if !declared(&connection, &media).await {
        return;
    }
    for queue in [
        Queue::new("unrouted").bind(&rest, ""),
        Queue::new("videos").bind(&media, "video"),
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&media).await.unwrap();
    for (text, key) in [("both", "video"), ("neither", "text")] {
        let publish = producer.publish_text(text).routing_key("sound");
        publish.header("CC", list([key])).await.unwrap();
    }
    assert_eq!(bodies(&connection, "videos").await, ["both"]);
    assert_eq!(bodies(&connection, "unrouted").await, ["neither"]);
}

/// Refused before it is sent: on RabbitMQ it would cost the channel.
pub async fn keys_that_are_no_list_are_refused(broker: &Broker) {
    let connection = broker.connect().await;
    declare(&connection, &["to"]).await;
    let producer = producer_to(&connection, "to").await;
    for header in ["CC", "BCC"] {
        let refused = producer.publish_text("no").header(header, "cc").await;
        let error = assert_refused(refused, ErrorKind::PreconditionFailed, 406);
        assert!(error.to_string().contains(header), "{error}");
    }
    producer.publish_text("yes").await.unwrap();
    assert_eq!(bodies(&connection, "to").await, ["yes"]);
}

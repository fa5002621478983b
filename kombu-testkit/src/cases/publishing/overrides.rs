//! What a message says wins over what its producer says, and that over what its exchange says.

use kombu_core::{Connection, DeliveryMode, ErrorKind, Exchange, Queue};

use super::{from_inbox, to_inbox};
use crate::Broker;
use crate::expect::{assert_refused, drain, texts};

/// The content type of the next message, which is decoded as a number.
async fn received_type(connection: &Connection) -> String {
    let delivery = from_inbox(connection).await;
    assert_eq!(delivery.decode::<u32>().unwrap(), 7);
    let content_type = delivery.content_type().unwrap().to_owned();
    delivery.ack().await.unwrap();
    content_type
}

/// Message, else producer, else JSON.
pub async fn the_serializer_of_a_message_wins_over_its_producers(broker: &Broker) {
    let connection = broker.connect().await;
    let plain = to_inbox(&connection).await;
    let open = connection
        .producer(Exchange::default())
        .routing_key("inbox");
    let msgpack = open.serializer("msgpack").await.unwrap();
    plain.publish(&7).await.unwrap();
    assert_eq!(received_type(&connection).await, "application/json");
    plain.publish(&7).serializer("yaml").await.unwrap();
    assert_eq!(received_type(&connection).await, "application/x-yaml");
    msgpack.publish(&7).await.unwrap();
    assert_eq!(received_type(&connection).await, "application/x-msgpack");
    msgpack.publish(&7).serializer("json").await.unwrap();
    assert_eq!(received_type(&connection).await, "application/json");
    msgpack.publish(&7).await.unwrap();
    assert_eq!(received_type(&connection).await, "application/x-msgpack");
}

/// Raw means: no serialization at all.
pub async fn the_raw_serializer_sends_text_as_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    producer
        .publish("as it is")
        .serializer("raw")
        .await
        .unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.body(), "as it is");
    assert_eq!(delivery.content_type(), Some("application/data"));
    assert_eq!(delivery.content_encoding(), Some("binary"));
    delivery.ack().await.unwrap();
}

/// The error names it, and nothing is sent.
pub async fn an_unknown_serializer_is_refused_by_name(broker: &Broker) {
    let connection = broker.connect().await;
    let open = connection
        .producer(Exchange::default())
        .serializer("jsno")
        .await;
    let error = assert_refused(open, ErrorKind::UnknownSerializer, None);
    assert!(error.to_string().contains("jsno"), "{error}");
    let producer = to_inbox(&connection).await;
    let published = producer.publish(&7).serializer("jsno").await;
    let error = assert_refused(published, ErrorKind::UnknownSerializer, None);
    assert!(error.to_string().contains("jsno"), "{error}");
    assert_eq!(drain(&connection, "inbox").await.len(), 0);
}

/// The producer's is the default one.
pub async fn a_message_may_have_a_routing_key_of_its_own(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    connection
        .declare_queue(&Queue::new("outbox"))
        .await
        .unwrap();
    producer.publish_text("default").await.unwrap();
    producer
        .publish_text("own")
        .routing_key("outbox")
        .await
        .unwrap();
    producer.publish_text("default again").await.unwrap();
    assert_eq!(
        texts(&drain(&connection, "inbox").await),
        ["default", "default again"]
    );
    assert_eq!(texts(&drain(&connection, "outbox").await), ["own"]);
}

/// The producer's is the default one; the message's own isn't declared.
pub async fn a_message_may_have_an_exchange_of_its_own(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let media = Exchange::topic("media");
    let published = producer.publish_text("early").exchange(&media).await;
    assert_refused(published, ErrorKind::NotFound, 404);
    connection
        .declare_queue(&Queue::new("videos").bind(&media, "#"))
        .await
        .unwrap();
    producer.publish_text("own").exchange(&media).await.unwrap();
    producer.publish_text("default").await.unwrap();
    let own = connection.get("videos").await.unwrap().unwrap();
    assert_eq!(
        (own.body().as_ref(), own.exchange().as_str()),
        (&b"own"[..], "media")
    );
    assert_eq!(own.routing_key(), "inbox");
    own.ack().await.unwrap();
    assert_eq!(texts(&drain(&connection, "inbox").await), ["default"]);
}

/// Message, else producer, else exchange, else persistent.
pub async fn the_delivery_mode_of_a_message_wins(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let (plain, light) = (
        Exchange::fanout("plain"),
        Exchange::fanout("light").delivery_mode(DeliveryMode::Transient),
    );
    connection
        .declare_queue(&inbox.bind(&plain, "").bind(&light, ""))
        .await
        .unwrap();
    let received = async || {
        let delivery = from_inbox(&connection).await;
        let mode = delivery.delivery_mode();
        delivery.ack().await.unwrap();
        mode
    };
    let producer = connection.producer(&plain).await.unwrap();
    producer.publish_text("by default").await.unwrap();
    assert_eq!(received().await, DeliveryMode::Persistent);
    let producer = connection.producer(&light).await.unwrap();
    producer.publish_text("by exchange").await.unwrap();
    assert_eq!(received().await, DeliveryMode::Transient);
    let open = connection
        .producer(&light)
        .delivery_mode(DeliveryMode::Persistent);
    let producer = open.await.unwrap();
    producer.publish_text("by producer").await.unwrap();
    assert_eq!(received().await, DeliveryMode::Persistent);
    let publish = producer
        .publish_text("by message")
        .delivery_mode(DeliveryMode::Transient);
    publish.await.unwrap();
    assert_eq!(received().await, DeliveryMode::Transient);
}

/// A content type can be more exact than the serializer's, and the value is still found.
pub async fn a_content_type_of_its_own_takes_the_place_of_the_serializers(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let publish = producer
        .publish(&7)
        .content_type("application/json; charset=utf-8");
    publish.await.unwrap();
    assert_eq!(
        received_type(&connection).await,
        "application/json; charset=utf-8"
    );
}

/// Setting one twice keeps the last.
pub async fn a_header_that_is_set_again_is_replaced(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let publish = producer
        .publish_text("headers")
        .header("tenant", 1)
        .header("region", "eu");
    publish.header("tenant", "two").await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.headers().len(), 2);
    assert_eq!(
        delivery
            .headers()
            .get("tenant")
            .and_then(|value| value.as_str()),
        Some("two")
    );
    delivery.ack().await.unwrap();
}

//! A consumer decodes only what it accepts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kombu_core::serializers::{BoxError, Codec, Visit};
use kombu_core::{ErrorKind, Queue};
use serde::de::value::{Error as DecodeError, U32Deserializer};

use super::producer_to;
use crate::Broker;
use crate::expect::{assert_refused, collect_one};

/// By the serializer's name or by the content type; the rest is refused, and there to be read as bytes.
pub async fn content_that_is_not_on_the_accept_list_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let open = connection
        .consumer(&inbox)
        .accept(["json", "application/x-msgpack"]);
    let mut consumer = open.await.unwrap();
    for serializer in ["json", "msgpack"] {
        producer.publish(&7).serializer(serializer).await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.decode::<u32>().unwrap(), 7, "{serializer}");
        delivery.ack().await.unwrap();
    }
    for publish in [
        producer.publish(&7).serializer("yaml"),
        producer.publish(&7).content_type("text/plain"),
    ] {
        publish.await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        let error = assert_refused(delivery.decode::<u32>(), ErrorKind::ContentRefused, None);
        assert!(
            error.to_string().contains("json, application/x-msgpack"),
            "{error}"
        );
        assert_eq!(delivery.body().trim_ascii(), b"7");
        delivery.ack().await.unwrap();
    }
}

/// No byte of it is looked at.
pub async fn refused_content_is_not_decoded(broker: &Broker) {
    let connection = broker.connect().await;
    let decoded = Arc::new(AtomicU32::new(0));
    let counter = decoded.clone();
    let decoder = move |_: &[u8], visit: &mut Visit<'_, '_>| -> Result<(), BoxError> {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(visit.value(U32Deserializer::<DecodeError>::new(7))?)
    };
    let counted = Codec::builder("counted", "application/x-counted", "binary");
    connection
        .serializers()
        .register(counted.decoder(decoder).build().unwrap());
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let publish = async || {
        let publish = producer.publish_bytes(&b"anything"[..]);
        publish.content_type("application/x-counted").await.unwrap();
    };
    let mut strict = connection.consumer(&inbox).accept(["json"]).await.unwrap();
    publish().await;
    let delivery = collect_one(&mut strict).await;
    assert_refused(delivery.decode::<u32>(), ErrorKind::ContentRefused, None);
    assert_eq!(decoded.load(Ordering::Relaxed), 0);
    delivery.ack().await.unwrap();
    strict.cancel().await.unwrap();
    let mut open = connection.consumer(&inbox).await.unwrap();
    publish().await;
    let delivery = collect_one(&mut open).await;
    assert_eq!(delivery.decode::<u32>().unwrap(), 7);
    assert_eq!(decoded.load(Ordering::Relaxed), 1);
    delivery.ack().await.unwrap();
}

/// A name that means nothing is a mistake, found when the consumer is opened.
pub async fn an_unknown_name_on_the_accept_list_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let consumer = connection
        .consumer(&Queue::new("inbox"))
        .accept(["json", "jsno"])
        .await;
    let error = assert_refused(consumer, ErrorKind::UnknownSerializer, None);
    assert!(error.to_string().contains("jsno"), "{error}");
}

/// It has no codec, and a body all the same.
pub async fn content_of_an_unknown_type_is_there_as_bytes(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    let publish = producer
        .publish_bytes(&b"\xff\xd8"[..])
        .content_type("image/jpeg");
    publish.await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    let error = assert_refused(delivery.decode::<u32>(), ErrorKind::UnknownSerializer, None);
    assert!(error.to_string().contains("image/jpeg"), "{error}");
    assert_eq!(delivery.body().as_ref(), b"\xff\xd8");
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "inbox", 0, 0).await;
}

/// Text in another encoding than UTF-8 isn't guessed at.
pub async fn text_in_an_unknown_encoding_is_not_decoded(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    producer
        .publish(&7)
        .content_encoding("latin-1")
        .await
        .unwrap();
    let delivery = connection.get("inbox").await.unwrap().unwrap();
    let error = assert_refused(delivery.decode::<u32>(), ErrorKind::Undecodable, None);
    assert!(error.to_string().contains("latin-1"), "{error}");
    delivery.ack().await.unwrap();
}

//! The content type of a message chooses what decodes it.

use kombu_core::serializers::{BoxError, Codec, Visit, erased_serde};
use kombu_core::{ErrorKind, Queue};
use serde::de::value::{Error as DecodeError, U32Deserializer};
use serde::{Deserialize, Serialize};

use super::producer_to;
use crate::Broker;
use crate::expect::{assert_refused, collect_one};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Video {
    name: String,
    size: u64,
    tags: Vec<Option<String>>,
}

fn video() -> Video {
    Video {
        name: "kůň.avi".to_owned(),
        size: u64::MAX,
        tags: vec![Some("horse".to_owned()), None],
    }
}

/// One consumer, messages of every serializer in a row.
pub async fn a_consumer_decodes_what_each_message_says_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    for (serializer, content_type) in [
        ("json", "application/json"),
        ("yaml", "application/x-yaml"),
        ("msgpack", "application/x-msgpack"),
    ] {
        producer
            .publish(&video())
            .serializer(serializer)
            .await
            .unwrap();
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.content_type(), Some(content_type));
        let (received, delivery) = delivery.take::<Video>().unwrap();
        assert_eq!(received, video(), "{serializer}");
        delivery.ack().await.unwrap();
    }
    producer.publish_text("text").await.unwrap();
    let (text, delivery) = collect_one(&mut consumer).await.take::<String>().unwrap();
    assert_eq!(text, "text");
    delivery.ack().await.unwrap();
    producer.publish_bytes(&b"\x00\xff"[..]).await.unwrap();
    let (bytes, delivery) = collect_one(&mut consumer).await.take::<Vec<u8>>().unwrap();
    assert_eq!(bytes, b"\x00\xff");
    delivery.ack().await.unwrap();
}

/// Texts of the body, without a copy.
pub async fn a_value_can_borrow_from_the_body(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    producer.publish("borrowed").await.unwrap();
    let (message, acker) = connection.get("inbox").await.unwrap().unwrap().split();
    acker.ack().await.unwrap();
    let text: &str = message.decode().unwrap();
    assert_eq!(text, "borrowed");
    let body = message.body().as_ptr_range();
    assert!(body.contains(&text.as_ptr()));
}

/// A message can be read as often as one likes.
pub async fn a_message_can_be_decoded_as_several_types(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let producer = producer_to(&connection, &inbox).await;
    producer.publish(&7).await.unwrap();
    let delivery = connection.get("inbox").await.unwrap().unwrap();
    assert_eq!(delivery.decode::<u8>().unwrap(), 7);
    assert_eq!(delivery.decode::<f64>().unwrap(), 7.0);
    assert_refused(delivery.decode::<String>(), ErrorKind::Undecodable, None);
    assert_eq!(delivery.decode::<u8>().unwrap(), 7);
    delivery.ack().await.unwrap();
}

fn encode_marked(value: &dyn erased_serde::Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.push(b'!');
    out.extend(Codec::JSON.encode(value)?);
    Ok(())
}

fn decode_marked<'de>(body: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
    let json = body.strip_prefix(b"!").ok_or("there is no mark")?;
    let number = U32Deserializer::<DecodeError>::new(Codec::JSON.decode(json)?);
    Ok(visit.value(number)?)
}

/// A serializer of one's own, on both sides, also if it comes after the consumer.
pub async fn a_serializer_that_is_registered_later_is_found(broker: &Broker) {
    let connection = broker.connect().await;
    let inbox = Queue::new("inbox");
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    let marked = Codec::builder("marked", "application/x-marked", "utf-8");
    let marked = marked
        .encoder(encode_marked)
        .decoder(decode_marked)
        .build()
        .unwrap();
    connection.serializers().register(marked);
    let producer = producer_to(&connection, &inbox).await;
    producer.publish(&7).serializer("marked").await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "!7");
    assert_eq!(delivery.content_type(), Some("application/x-marked"));
    assert_eq!(delivery.decode::<u32>().unwrap(), 7);
    delivery.ack().await.unwrap();
}

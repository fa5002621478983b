//! What is published once more as it came.

use kombu_core::{Exchange, FieldValue, Name, Queue};

use super::{from_inbox, to_inbox};
use crate::Broker;
use crate::expect::collect_one;

/// Body, headers and properties are the same; exchange and routing key are the producer's.
pub async fn a_forwarded_message_is_the_same(broker: &Broker) {
    let connection = broker.connect().await;
    let to_inbox = to_inbox(&connection).await;
    let archive = Exchange::direct("archive");
    let archived = Queue::new("archived").bind(&archive, "all");
    let mut archived = connection.consumer(&archived).await.unwrap();
    let publish = to_inbox.publish_bytes(vec![0, 255, 7]);
    let publish = publish.content_type("image/x-dot").header("size", 3);
    let publish = publish
        .correlation_id("c-1")
        .reply_to("answers")
        .kind("dot");
    publish.message_id("m-1").priority(3).await.unwrap();

    let forwarding = connection.producer(&archive).routing_key("all");
    let forwarding = forwarding.serializer("yaml").await.unwrap();
    let original = from_inbox(&connection).await;
    forwarding.forward(&original).await.unwrap();
    let copy = collect_one(&mut archived).await;
    assert_eq!(copy.body(), original.body());
    assert_eq!(copy.content_type(), Some("image/x-dot"));
    assert_eq!(copy.content_encoding(), original.content_encoding());
    assert_eq!(
        copy.headers().get("size").and_then(FieldValue::as_i64),
        Some(3)
    );
    assert_eq!(copy.headers().len(), original.headers().len());
    assert_eq!(copy.correlation_id(), Some("c-1"));
    assert_eq!(
        (copy.reply_to(), copy.kind()),
        (Some("answers"), Some("dot"))
    );
    assert_eq!((copy.message_id(), copy.priority()), (Some("m-1"), Some(3)));
    assert_eq!(
        (copy.exchange().as_str(), copy.routing_key().as_str()),
        ("archive", "all")
    );
    original.ack().await.unwrap();
    copy.ack().await.unwrap();
}

/// A producer without a key of its own leaves the message's.
pub async fn a_forwarded_message_keeps_its_key_unless_the_producer_has_one(broker: &Broker) {
    let connection = broker.connect().await;
    to_inbox(&connection).await.publish(&1).await.unwrap();
    let archive = Exchange::topic("archive");
    let archived = Queue::new("archived").bind(&archive, "#");
    let mut archived = connection.consumer(&archived).await.unwrap();
    let forwarding = connection.producer(&archive).await.unwrap();
    let original = from_inbox(&connection).await;
    forwarding.forward(&original).await.unwrap();
    let other = forwarding.forward(&original).routing_key("other");
    other.await.unwrap();
    for key in ["inbox", "other"] {
        let copy = collect_one(&mut archived).await;
        assert_eq!(copy.routing_key(), &Name::from(key));
        copy.ack().await.unwrap();
    }
    original.ack().await.unwrap();
}

/// It isn't compressed another time, nor is it decompressed.
pub async fn a_compressed_message_is_forwarded_as_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let to_inbox = to_inbox(&connection).await;
    let text = "all is well\n".repeat(100);
    to_inbox.publish(&text).compression("zlib").await.unwrap();
    let original = from_inbox(&connection).await;
    let forwarding = connection.producer(Exchange::default());
    let forwarding = forwarding.compression("bzip2").routing_key("inbox");
    let forwarding = forwarding.await.unwrap();
    forwarding.forward(&original).await.unwrap();
    let copy = from_inbox(&connection).await;
    assert_eq!(copy.body(), original.body());
    assert_eq!(copy.decode::<String>().unwrap(), text);
    original.ack().await.unwrap();
    copy.ack().await.unwrap();
}

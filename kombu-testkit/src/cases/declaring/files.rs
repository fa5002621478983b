//! A declaration that was written down is the same declaration.

use kombu_core::{Exchange, Queue};

use crate::Broker;
use crate::expect::collect;

/// A queue that was read from YAML, with the exchange that it is bound to, is declared and consumed from.
pub async fn a_queue_read_from_a_file_can_be_consumed_from(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "video.#");
    let yaml = kombu_core::serializers::Codec::YAML;
    let written = yaml.encode(&videos).unwrap();
    let read: Queue = yaml.decode(&written).unwrap();
    assert_eq!(read, videos);
    let mut consumer = connection.consumer(&read).await.unwrap();
    let producer = connection
        .producer(read.bindings()[0].exchange())
        .await
        .unwrap();
    producer
        .publish_text("found")
        .routing_key("video.new")
        .await
        .unwrap();
    for delivery in collect(&mut consumer, 1).await {
        assert_eq!(delivery.body(), "found");
        delivery.ack().await.unwrap();
    }
    connection.declare_queue(&videos).await.unwrap();
}

//! kombu: sending raw data without serialization.

use kombu::{Exchange, Queue};

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    let mut consumer = connection.consumer(&Queue::new("seeds.pictures")).await?;
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("seeds.pictures").await?;
    let picture: &[u8] = &[0xff, 0xd8, 0xff, 0xe0];
    let publish = producer.publish_bytes(picture).content_type("image/jpeg");
    publish.content_encoding("binary").await?;
    if let Some(delivery) = consumer.try_next().await? {
        println!(
            "{} {}: {:?}",
            delivery.content_type().unwrap_or_default(),
            delivery.content_encoding().unwrap_or_default(),
            delivery.body().as_ref()
        );
        delivery.ack().await?;
    }
    connection.close().await
}

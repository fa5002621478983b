//! kombu: the quick overview. Declarations, a producer, a consumer of one queue, and one of two.

use kombu::{Delivery, Exchange, Queue};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Media {
    name: String,
    size: u64,
}

async fn process_media(delivery: Delivery) -> kombu::Result<()> {
    let (media, delivery) = delivery.take::<Media>()?;
    println!("{}: {} {}", delivery.queue(), media.name, media.size);
    delivery.ack().await
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let media_exchange = Exchange::direct("seeds.media");
    let video_queue = Queue::new("seeds.video").bind(&media_exchange, "video");
    let image_queue = Queue::new("seeds.image").bind(&media_exchange, "image");

    let connection = kombu::connect(url).await?;
    let mut consumer = connection.consumer(&video_queue).await?;
    let producer = connection.producer(&media_exchange).await?;
    let media = |name: &str, size| Media {
        name: name.to_owned(),
        size,
    };
    let video = media("/tmp/lolcat1.avi", 1_301_013);
    producer.publish(&video).routing_key("video").await?;
    if let Some(delivery) = consumer.try_next().await? {
        process_media(delivery).await?;
    }
    consumer.cancel().await?;

    // Consume from several queues with one window.
    let mut consumer = connection.consumer([&video_queue, &image_queue]).await?;
    let image = media("/tmp/lolcat2.png", 7_007);
    producer.publish(&image).routing_key("image").await?;
    if let Some(delivery) = consumer.try_next().await? {
        process_media(delivery).await?;
    }
    connection.close().await
}

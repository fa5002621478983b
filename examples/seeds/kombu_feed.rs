//! kombu: receiving messages using a consumer, and sending them using a producer.

use kombu::{Exchange, Queue};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Feed {
    import_feed: String,
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let feed_exchange = Exchange::direct("seeds.feed");
    let feed_queue = Queue::new("seeds.feed").bind(&feed_exchange, "importer");

    // In one program.
    let receiving = kombu::connect(url).await?;
    let mut consumer = receiving.consumer(&feed_queue).await?;

    // In another one.
    let sending = kombu::connect(url).await?;
    let producer = sending.producer(&feed_exchange).await?;
    let feed = Feed {
        import_feed: "http://cnn.com/rss/edition.rss".to_owned(),
    };
    producer.publish(&feed).routing_key("importer").await?;
    producer.close();

    // Back in the first one.
    if let Some(delivery) = consumer.try_next().await? {
        let (feed, delivery) = delivery.take::<Feed>()?;
        println!("Got feed import message for: {}", feed.import_feed);
        delivery.ack().await?;
    }
    receiving.close().await?;
    sending.close().await
}

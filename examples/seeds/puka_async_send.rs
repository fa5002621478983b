//! puka: asynchronously send a message, one step after the other as each is answered.

use kombu::{Exchange, Queue};

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let client = kombu::connect(url).await?;
    client.declare_queue(&Queue::new("seeds.test")).await?;
    let producer = client.producer(Exchange::default()).await?;
    let publish = producer.publish_text("Hello world!");
    let receipt = publish.routing_key("seeds.test").send().await?;
    // On its way; something else could be done here.
    receipt.await?;
    println!(" [*] Message sent");
    client.close().await
}

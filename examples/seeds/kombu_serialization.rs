//! kombu: serializers, for a producer and for one message. Consumers need not be told.

use kombu::{Exchange, Queue};

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    let mut consumer = connection.consumer(&Queue::new("seeds.values")).await?;
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("seeds.values").serializer("yaml");
    let producer = producer.await?;
    let message = ["lolcat1.avi", "lolcat2.avi"];
    producer.publish(&message).await?;
    producer.publish(&message).serializer("msgpack").await?;
    for _ in 0..2 {
        if let Some(delivery) = consumer.try_next().await? {
            let content_type = delivery.content_type().unwrap_or_default();
            println!("{content_type}: {:?}", delivery.decode::<Vec<String>>()?);
            delivery.ack().await?;
        }
    }
    connection.close().await
}

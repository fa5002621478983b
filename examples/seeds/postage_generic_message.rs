//! Postage: a generic message from a generic producer.

use kombu::postage::{Arguments, Message, Producer};
use kombu::{Exchange, Queue};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    let exchange = Exchange::topic("seeds.my-custom-exchange");
    let queue = Queue::new("seeds.generic").bind(&exchange, "a_routing_key");
    let mut consumer = connection.consumer(&queue).await?;

    let text = |text: &str| Value::Text(text.to_owned());
    let producer = Producer::open(&connection).await?;
    let values = [Value::Number(1), Value::Number(2), text("numbers")];
    let keywords = [("values".to_owned(), Value::List(values.into()))];
    let message = producer.message([Value::Number(1), text("str")], keywords);
    for sent in message.destinations([(&exchange, "a_routing_key")]).await {
        sent?;
    }

    let mut messages = consumer.values::<Message<Arguments<Value>>>();
    if let Some((message, delivery)) = messages.try_next().await? {
        let Arguments { args, kwds } = message.content;
        println!("{args:?} {kwds:?}");
        println!(
            "from this process: {}",
            message.fingerprint.pid == Some(std::process::id().to_string())
        );
        delivery.ack().await?;
    }
    connection.close().await
}

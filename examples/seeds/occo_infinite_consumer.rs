//! OCCO: `infinite_consumer_example.py`. It ends when a message says so.

use kombu::handler::{Outcome, Payload};

pub(crate) async fn core_func(Payload(message): Payload<String>) -> Outcome {
    println!("{message}");
    match message.as_str() {
        "the end" => Outcome::Quit,
        _ => Outcome::Ack,
    }
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let config = super::occo::config(url)?;
    let registry = kombu::registry();
    let producer = config.asynchronous_producer(&registry).await?;
    producer.push_message("the end").await?;
    let consumer = config.event_driven_consumer(&registry, core_func).await?;
    consumer.start_consuming().await?;
    producer.connection().close().await
}

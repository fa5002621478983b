//! OCCO: `rpc_producer_example.py`, with a consumer beside it that answers.

use std::time::Duration;

use kombu::CallError;
use kombu::call::Failure;
use kombu::handler::Payload;

async fn core_func(Payload(message): Payload<String>) -> Result<String, Failure> {
    match message.as_str() {
        "test message" => Ok(message.to_uppercase()),
        _ => Err(Failure::application("UnknownMessage", message)),
    }
}

pub(crate) async fn run(url: &str) -> kombu::Result<()> {
    let mut config = super::occo::config(url)?;
    config.queue = Some("test.rpc".to_owned());
    config.routing_key = config.queue.clone();
    let registry = kombu::registry();
    let consumer = config.event_driven_consumer(&registry, core_func).await?;
    let consuming = tokio::spawn(consumer.start_consuming());

    let producer = config.rpc_producer(&registry).await?;
    let producer = producer.with_timeout(Duration::from_secs(30));
    for message in ["test message", "another one"] {
        match producer.push_message::<_, String>(message).await {
            Ok(data) => println!("{data}"),
            Err(CallError::Application { name, message, .. }) => {
                println!("the application says {name}: {message}");
            }
            Err(error) => println!("communication failed: {error}"),
        }
    }
    consuming.abort();
    producer.connection().close().await
}

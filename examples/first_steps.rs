//! The three programs that a messaging library is tried with: send a message, receive three and acknowledge them,
//! send one while something else goes on.
//!
//! `cargo run --example first_steps [-- --url URL]`

use kombu::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = match arguments.as_slice() {
        [] => "memory://first-steps",
        [option, url] if option == "--url" => url,
        _ => return Err("usage: first_steps [--url URL]".into()),
    };
    send(url).await?;
    send(url).await?;
    send_in_the_background(url).await?;
    for message in receive_three(url).await? {
        println!("received {message}");
    }
    Ok(())
}

fn queue() -> Queue {
    Queue::new("first-steps")
}

/// Resolves when the broker has the message.
async fn send(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    connection.declare_queue(&queue()).await?;
    let producer = connection.producer(Exchange::default()).await?;
    let publish = producer.publish_text("Hello world!");
    publish.routing_key(queue().name()).await?;
    connection.close().await
}

/// Waits for three messages, and leaves the others to somebody else.
async fn receive_three(url: &str) -> kombu::Result<Vec<String>> {
    let connection = kombu::connect(url).await?;
    let mut consumer = connection.consumer(&queue()).await?;
    let mut messages = Vec::new();
    while messages.len() < 3
        && let Some(delivery) = consumer.try_next().await?
    {
        let (message, delivery) = delivery.take::<String>()?;
        messages.push(message);
        delivery.ack().await?;
    }
    consumer.cancel().await?;
    connection.close().await?;
    Ok(messages)
}

/// The message is on its way while this task does something else.
async fn send_in_the_background(url: &str) -> kombu::Result<()> {
    let connection = kombu::connect(url).await?;
    connection.declare_queue(&queue()).await?;
    let producer = connection.producer(Exchange::default()).await?;
    let publish = producer.publish_text("Hello world!");
    let receipt = publish.routing_key(queue().name()).send().await?;
    let sent = tokio::spawn(receipt);
    println!("something else");
    if let Ok(answer) = sent.await {
        println!("message sent: {}", answer?.routed);
    }
    connection.close().await
}

#[cfg(test)]
#[path = "tests/first_steps.rs"]
mod tests;

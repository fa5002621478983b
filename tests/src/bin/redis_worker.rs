//! Consumes a queue of numbers until it is killed: `redis_worker URL QUEUE`. It holds the odd ones that are new, and acks the others.
//! It prints what it receives and acks, before and after, as lines of JSON.

// A program for tests says no by panicking.
#![allow(clippy::expect_used)]

use kombu::Queue;
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("a URL");
    let queue = Queue::new(arguments.next().expect("a queue"));
    let connection = kombu::connect(url).await.expect("it connects");
    let consumer = connection.consumer(&queue).prefetch(20);
    let mut consumer = consumer.await.expect("the queue can be consumed");
    let mut held = Vec::new();
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery.expect("the consumer stays");
        let (number, delivery) = delivery.take::<u64>().expect("a number");
        println!("{}", json!(["received", number]));
        if number % 2 == 1 && !delivery.redelivered() {
            held.push(delivery);
            continue;
        }
        println!("{}", json!(["acking", number]));
        delivery.ack().confirmed().await.expect("it is ours");
        println!("{}", json!(["acked", number]));
    }
}

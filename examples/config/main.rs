//! A program that leaves connection, exchanges and queues to a configuration file.
//!
//! `cargo run --example config [-- [--url URL] [FILE]]`. `--url`, or the environment variable `KOMBU_URL`, has it run on
//! another broker than the file says.

use std::error::Error;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config/shop.yaml");
const USAGE: &str = "usage: config [--url URL] [FILE]";
/// The names under which the file has them.
const QUEUES: [&str; 3] = ["invoices", "parcels", "others"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = match arguments.first().map(String::as_str) {
        Some("--url") if arguments.len() > 1 => arguments.drain(..2).next_back(),
        _ => None,
    };
    let file = match arguments.as_slice() {
        [] => FILE,
        [file] if !file.starts_with('-') => file,
        _ => return Err(USAGE.into()),
    };

    let config = kombu::from_config(file)?;
    let connection = match url {
        Some(url) => kombu::connect(url).await?,
        None => config.connect().await?,
    };
    for name in QUEUES {
        connection.declare_queue(config.queue(name)?).await?;
    }

    let producer = connection.producer(config.exchange("orders")?).await?;
    for (key, priority) in [
        ("book.paid", 1),
        ("record.paid", 1),
        ("record.returned", 3),
        ("book.praised", 1),
    ] {
        let publish = producer.publish_text(key).routing_key(key);
        publish.priority(priority).await?;
    }

    for name in QUEUES {
        let queue = config.queue(name)?;
        while let Some(delivery) = connection.get(queue).await? {
            println!("{name}: {}", delivery.decode::<&str>()?);
            delivery.ack().await?;
        }
        connection.delete_queue(queue.name()).await?;
    }
    for name in ["orders", "others"] {
        let exchange = config.exchange(name)?;
        connection.delete_exchange(exchange.name()).await?;
    }
    connection.close().await?;
    Ok(())
}

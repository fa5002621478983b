//! A pipeline of handlers, calls and dead letters, of which a configuration file says everything but what the functions do.
//!
//! `cargo run --example pipeline [-- [--url URL] [FILE]]`. Before it connects, it says what the transport does of the file
//! natively and what by emulation, and refuses to start where it can't.

use std::error::Error;

use kombu::call::Failure;
use kombu::handler::{Attempt, Payload, Reply, Router, State};
use kombu::prelude::*;
use kombu::{Config, Support};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/config/pipeline.yaml");
const USAGE: &str = "usage: pipeline [--url URL] [FILE]";
/// The names under which the file has them, in an order in which nothing is bound to what has gone.
const QUEUES: [&str; 6] = ["orders", "strays", "prices", "large", "small", "failed"];
const EXCHANGES: [&str; 4] = ["orders", "strays", "priced", "failed"];

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    count: u64,
}

/// What an item costs.
async fn price(Payload(item): Payload<String>) -> Result<Reply<u64>, Failure> {
    match item.as_str() {
        "apple" => Ok(Reply(3)),
        "piano" => Ok(Reply(5000)),
        _ => Err(Failure::critical(404, "nobody sells it")),
    }
}

#[derive(Clone)]
struct Pricing {
    prices: Caller,
    priced: Producer,
}

/// Asks for the price of an order, and sends it on. An item without a price is a dead letter.
async fn order(
    Payload(order): Payload<Order>,
    Attempt(attempt): Attempt,
    State(pricing): State<Pricing>,
) -> Result<(), Failure> {
    let each = pricing.prices.call::<_, u64>(&order.item).await;
    let each = each.map_err(|error| Failure::critical(422, error.to_string()))?;
    if order.count > 100 && attempt == 1 {
        return Err(Failure::application("Busy", "so many are counted twice"));
    }
    let total = each * order.count;
    let size = if total > 1000 { "large" } else { "small" };
    let line = format!("{} {}: {total}, attempt {attempt}", order.count, order.item);
    let sent = pricing.priced.publish(&line).header("size", size);
    sent.await
        .map_err(|error| Failure::application("Unsent", error.to_string()))?;
    Ok(())
}

/// Receives so many messages of a consumer of the file.
async fn print(
    config: &Config,
    connection: &Connection,
    name: &str,
    count: usize,
) -> kombu::Result<()> {
    let mut consumer = config.consumer(connection, name)?.await?;
    let mut lines = Vec::new();
    while lines.len() < count {
        let Some(delivery) = consumer.try_next().await? else {
            break;
        };
        let reason = match delivery.headers().get("x-first-death-reason") {
            Some(reason) => format!(" ({})", reason.as_str().unwrap_or_default()),
            None => String::new(),
        };
        let text = String::from_utf8_lossy(delivery.body()).into_owned();
        lines.push(format!("{name}: {text}{reason}"));
        delivery.ack().await?;
    }
    lines.sort();
    println!("{}", lines.join("\n"));
    consumer.cancel().await
}

/// What the transport of the default connection does of the file; an error if it can't do all of it.
fn check(config: &Config) -> kombu::Result<()> {
    let url = config.url("default")?;
    let scheme = url.split(':').next().unwrap_or_default();
    // What isn't built in is refused when it is connected to.
    let Some(capabilities) = kombu::registry().capabilities(scheme) else {
        return Ok(());
    };
    let report = config.topology().check(&capabilities);
    report.require()?;
    let declarations = report.declarations().iter();
    let emulated = declarations.filter(|one| one.support == Support::Emulated);
    eprintln!("{} declarations are emulated on {scheme}", emulated.count());
    Ok(())
}

async fn run(config: &Config) -> kombu::Result<()> {
    let connection = config.connect().await?;
    for name in EXCHANGES {
        connection.declare_exchange(config.exchange(name)?).await?;
    }
    for name in QUEUES {
        connection.declare_queue(config.queue(name)?).await?;
    }

    let prices = Router::new().fallback(price);
    let prices = config.serve(&connection, "prices", prices)?.open().await?;
    let prices = tokio::spawn(prices.run());
    let pricing = Pricing {
        prices: config.caller(&connection, "prices")?.await?,
        priced: config.producer(&connection, "priced")?.await?,
    };
    let orders = Router::new().fallback(order).with_state(pricing);
    let orders = config.serve(&connection, "orders", orders)?.open().await?;
    let orders = tokio::spawn(orders.run());

    let producer = config.producer(&connection, "orders")?.await?;
    for (item, count) in [("apple", 7), ("piano", 2), ("unicorn", 1), ("apple", 101)] {
        let item = item.to_owned();
        producer.publish(&Order { item, count }).await?;
    }
    producer
        .publish("what is this?")
        .routing_key("question")
        .await?;

    for (name, count) in [("small", 2), ("large", 1), ("failed", 1), ("strays", 1)] {
        print(config, &connection, name, count).await?;
    }
    for name in QUEUES {
        connection.delete_queue(config.queue(name)?.name()).await?;
    }
    for name in EXCHANGES {
        connection
            .delete_exchange(config.exchange(name)?.name())
            .await?;
    }
    connection.close().await?;
    for handlers in [prices, orders] {
        // Their queues have gone, and their connection.
        let _ = handlers.await;
    }
    Ok(())
}

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
    let mut config = kombu::from_config(file)?;
    if let Some(url) = url {
        config = config.with_url(url);
    }
    check(&config)?;
    run(&config).await?;
    Ok(())
}

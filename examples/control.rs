//! Workers that are commanded by name, hear what is broadcast, and whose replies are collected: a mailbox, broadcast queues,
//! and a pool of connections.
//!
//! `cargo run --example control [-- --url URL]`

use std::time::Duration;

use kombu::handler::{Outcome, Router};
use kombu::mailbox::{Arguments, Mailbox};
use kombu::prelude::*;
use kombu::{Pools, call::Failure};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Division {
    dividend: i64,
    divisor: i64,
}

/// A plain function, which the test below calls.
async fn divide(Arguments(division): Arguments<Division>) -> Result<i64, Failure> {
    let quotient = division.dividend.checked_div(division.divisor);
    quotient.ok_or_else(|| Failure::application("ZeroDivisionError", "division by zero"))
}

/// A worker, on a connection of its own: it is there when this returns.
async fn worker(
    pools: &Pools,
    url: &str,
    mailbox: &Mailbox,
    name: &str,
) -> kombu::Result<tokio::task::JoinHandle<kombu::Result<()>>> {
    let connection = pools.acquire(url).await?;
    let name = name.to_owned();
    let router = Router::new()
        .on("divide", divide)
        .on("stop", async || Outcome::Quit);
    let node = mailbox.node(&connection, name.as_str(), router).await?;
    let mut news = connection
        .consumer(&Queue::broadcast("control.news"))
        .await?;
    Ok(tokio::spawn(async move {
        node.run().await?;
        let mut heard = news.values::<String>().limit(1).patience(PATIENCE);
        if let Some((text, delivery)) = heard.try_next().await? {
            println!("{name} has heard: {text}");
            delivery.ack().await?;
        }
        // The connection goes back to its pool.
        drop(connection);
        Ok(())
    }))
}

async fn run(url: &str) -> kombu::Result<()> {
    let pools = Pools::new(kombu::registry()).limit(3);
    let mailbox = Mailbox::new("control");
    let left = worker(&pools, url, &mailbox, "left").await?;
    let right = worker(&pools, url, &mailbox, "right").await?;

    let connection = pools.acquire(url).await?;
    let mut nodes = mailbox.nodes(&connection).await?;
    for divisor in [7, 0] {
        let division = Division {
            dividend: 42,
            divisor,
        };
        let call = nodes.call::<_, i64>("divide", &division).limit(2);
        let mut replies = call.timeout(PATIENCE).await?;
        replies.sort_by(|one, other| one.node.cmp(&other.node));
        for reply in replies {
            match reply.result {
                Ok(quotient) => println!("{}: {quotient}", reply.node),
                Err(error) => println!("{}: {error}", reply.node),
            }
        }
    }

    let news = connection
        .producer(Exchange::fanout("control.news"))
        .await?;
    news.publish("that will be all").await?;
    for (name, worker) in [("left", left), ("right", right)] {
        nodes.cast("stop", &()).to([name]).await?;
        if let Ok(ended) = worker.await {
            ended?;
        }
    }
    println!(
        "a connection is free again: {}",
        pools.try_acquire(url).await.is_ok()
    );
    connection.close().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = match arguments.as_slice() {
        [] => "memory://control",
        [option, url] if option == "--url" => url,
        _ => return Err("usage: control [--url URL]".into()),
    };
    run(url).await?;
    Ok(())
}

#[cfg(test)]
#[path = "tests/control.rs"]
mod tests;

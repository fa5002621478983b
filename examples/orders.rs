//! A warehouse that answers questions and takes orders, and a customer: calls, handlers, retries, and an orderly end.
//!
//! `cargo run --example orders [-- --url URL]`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kombu::call::Failure;
use kombu::handler::{Attempt, Component, Exit, Payload, Reply, Retries, Router, State};
use kombu::prelude::*;

type Prices = Arc<BTreeMap<&'static str, u64>>;

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    count: u64,
}

/// What an order costs. A plain function, which the test below calls.
async fn price(
    Payload(order): Payload<Order>,
    State(prices): State<Prices>,
) -> Result<Reply<u64>, Failure> {
    match prices.get(&*order.item) {
        Some(each) => Ok(Reply(order.count * each)),
        None => Err(Failure::application("OutOfStock", "none left")),
    }
}

/// Fails the first time, as a database may.
async fn take(
    Payload(order): Payload<Order>,
    Attempt(attempt): Attempt,
) -> Result<(), &'static str> {
    if attempt == 1 {
        return Err("the database is busy");
    }
    println!("{} {} taken at attempt {attempt}", order.count, order.item);
    Ok(())
}

fn warehouse(connection: &Connection, questions: &Queue, orders: &Queue) -> Component {
    let prices = Arc::new(BTreeMap::from([("apples", 3), ("plums", 2)]));
    let prices = Router::new().on("price", price).with_state(prices);
    let orders_taken = Router::new().fallback(take);
    let pause = Duration::from_millis(100);
    Component::new()
        .with(connection.serve(prices).queues(questions).concurrency(8))
        .with(
            connection
                .serve(orders_taken)
                .queues(orders)
                .retries(Retries::new(5).first_pause(pause)),
        )
}

async fn ask(caller: &Caller, item: &str, count: u64) -> kombu::Result<()> {
    let order = Order {
        item: item.to_owned(),
        count,
    };
    match caller.call::<_, u64>(&order).kind("price").await {
        Ok(total) => println!("{count} {item} cost {total}"),
        Err(CallError::Application { name, message, .. }) => {
            println!("{count} {item}: {name}, {message}");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn run(url: &str) -> kombu::Result<Exit> {
    let connection = kombu::connect(url).await?;
    let (questions, orders) = (Queue::new("orders.prices"), Queue::new("orders"));
    for queue in [&questions, &orders] {
        connection.declare_queue(queue).await?;
    }
    let warehouse = tokio::spawn(warehouse(&connection, &questions, &orders).run());

    let customer = kombu::connect(url).await?;
    let caller = customer.caller(Exchange::default());
    let caller = caller.routing_key(questions.name()).await?;
    ask(&caller, "apples", 2).await?;
    ask(&caller, "pears", 1).await?;

    let producer = customer.producer(Exchange::default());
    let producer = producer.routing_key(orders.name()).await?;
    let order = Order {
        item: "plums".to_owned(),
        count: 7,
    };
    producer.publish(&order).await?;
    while customer.queue_info(orders.name()).await?.ready > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Long enough for the second attempt.
    tokio::time::sleep(Duration::from_millis(500)).await;

    // Every processor of the warehouse ends with it.
    let quit = producer.publish(&()).kind("command").header("name", "quit");
    quit.await?;
    let Ok(exit) = warehouse.await else {
        return Ok(Exit::Closed);
    };
    customer.close().await?;
    connection.close().await?;
    exit
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = match arguments.as_slice() {
        [] => "memory://orders",
        [option, url] if option == "--url" => url,
        _ => return Err("usage: orders [--url URL]".into()),
    };
    println!("the warehouse has ended: {:?}", run(url).await?);
    Ok(())
}

#[cfg(test)]
#[path = "tests/orders.rs"]
mod tests;

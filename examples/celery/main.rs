//! Has a Celery worker run tasks and prints their results: version 2 of Celery's message protocol, as far as it takes.
//!
//! `pip install celery`, `celery --workdir examples/celery --app tasks worker`, and then, beside it,
//! `cargo run --example celery --features amqp [-- --url URL]`. Without a URL it is that of the environment variable
//! `AMQP_URL`, or Celery's own default, a RabbitMQ on this machine. On Redis, `pip install celery[redis]`, tell the worker
//! `--broker redis://localhost` before `worker`, and run `--features redis -- --url redis://localhost`.

use std::error::Error;
use std::time::{Duration, SystemTime};

use kombu::Name;
use kombu::prelude::*;
use serde_json::{Value, json};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A worker that takes longer isn't there.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let connection = kombu::connect(url()?).await?;
    let mut celery = Celery::new(&connection).await?;
    for (task, args) in [
        ("tasks.add", json!([2, 3])),
        ("tasks.add", json!(["Grüße, ", "世界"])),
        ("tasks.divide", json!([1, 0])),
    ] {
        match celery.call(task, &args).await? {
            Outcome::Success { result } => println!("{task}{args} = {result}"),
            Outcome::Failure { result } => {
                println!("{task}{args} failed: {}: {}", result.name, result.args);
            }
        }
    }
    connection.close().await?;
    Ok(())
}

fn url() -> Result<String> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--url"), Some(url)) => Ok(url),
        (None, _) => Ok(std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into())),
        _ => Err("usage: celery [--url URL]".into()),
    }
}

/// Sends tasks to the workers of one queue, and takes the results from a queue of its own.
struct Celery {
    tasks: Queue,
    producer: Producer,
    /// Where workers send the results.
    reply_to: Name,
    results: Consumer,
}

/// What a worker says of a task that it has run.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "UPPERCASE")]
enum Outcome {
    Success { result: Value },
    Failure { result: Exception },
}

/// An exception of Python.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "exc_type")]
    name: String,
    #[serde(rename = "exc_message")]
    args: Value,
}

impl Celery {
    async fn new(connection: &Connection) -> Result<Self> {
        // As Celery declares it; then it doesn't matter who is here first.
        let tasks = Queue::new("celery").bind(Exchange::direct("celery"), "celery");
        connection.declare_queue(&tasks).await?;
        // It gets a name of its own, and goes with the connection.
        let results = Queue::server_named().exclusive(true);
        let results = connection.consumer(&results).await?;
        Ok(Celery {
            tasks,
            producer: connection.producer(Exchange::default()).await?,
            reply_to: results.queues()[0].clone(),
            results,
        })
    }

    /// Has a worker call a task with these arguments, and waits for what comes of it.
    async fn call(&mut self, task: &str, args: &Value) -> Result<Outcome> {
        let id = new_id();
        let (no_kwargs, no_callbacks) = (json!({}), json!({}));
        self.producer
            .publish(&(args, no_kwargs, no_callbacks))
            .routing_key(self.tasks.name())
            .header("task", task)
            .header("id", id.as_str())
            .header("root_id", id.as_str())
            .header("lang", "rs")
            .header("argsrepr", args.to_string()) // for the worker's log
            .correlation_id(id.as_str())
            .reply_to(self.reply_to.clone())
            .await?;
        loop {
            let Some(delivery) = self.results.receive(PATIENCE).await? else {
                return Err(
                    "no worker has answered; the first lines of this example say how to start one"
                        .into(),
                );
            };
            if delivery.correlation_id() == Some(&id) {
                let (outcome, delivery) = delivery.take()?;
                delivery.ack().await?;
                return Ok(outcome);
            }
            // The result of a call that was given up.
            delivery.ack().await?;
        }
    }
}

/// Unlike those of all other tasks. Celery's own ids are UUIDs; any text is one.
fn new_id() -> String {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    format!("{}-{}", std::process::id(), since_1970.as_nanos())
}

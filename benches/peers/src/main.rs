//! How many times as fast as Python's kombu and omniqueue this kombu publishes, and consumes and acknowledges, on one Redis.
//!
//! `scripts/compare` runs it. All three write and read the same JSON; each does as its documentation shows, in turn, in five
//! rounds, of which the first doesn't count. A comparison of what users get, not of strategies: the ratios to raw clients are in
//! the benches.

use std::collections::VecDeque;
use std::error::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use kombu::{Exchange, Queue};
use omniqueue::backends::{RedisBackend, RedisConfig};
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 5;
const OURS: u64 = 100_000;
const OMNIQUEUE: u64 = 5_000;
const PYTHON: u64 = 3_000;
/// Publishes of ours without an answer, and deliveries without an ack.
const WINDOW: usize = 1000;

#[derive(Clone, Serialize, Deserialize)]
struct Body {
    number: u64,
    text: String,
}

/// Seconds per message.
#[derive(Clone, Copy)]
struct Costs {
    publish: f64,
    consume: f64,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let variable =
        |name| std::env::var(name).map_err(|_| format!("{name} isn't set; run scripts/compare"));
    let url = variable("KOMBU_TEST_REDIS_URL")?;
    let python = variable("KOMBU_TEST_PYTHON")?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let ours = tokio::spawn(ours(url.clone())).await??;
        let omniqueue = tokio::spawn(omniqueue(url.clone())).await??;
        empty(&url).await?;
        let python = of_python(&python, &url)?;
        rounds.push((ours, omniqueue, python));
    }
    let counted = &rounds[1..];
    println!(
        "{:<26}{:>10}{:>10}{:>8}{:>6}",
        "", "ours/s", "peer/s", "ratio", "bar"
    );
    let line = |name, bar, pick: &dyn Fn(&(Costs, Costs, Costs)) -> (f64, f64)| {
        let of = |value: &dyn Fn((f64, f64)) -> f64| median(counted.iter().map(pick).map(value));
        println!(
            "{name:<26}{:>10.0}{:>10.0}{:>8.1}{bar:>6}",
            of(&|(ours, _)| 1.0 / ours),
            of(&|(_, peer)| 1.0 / peer),
            of(&|(ours, peer)| peer / ours),
        );
    };
    line("Python's kombu, publish", 60, &|(ours, _, python)| {
        (ours.publish, python.publish)
    });
    line("Python's kombu, consume", 40, &|(ours, _, python)| {
        (ours.consume, python.consume)
    });
    line("omniqueue, publish", 10, &|(ours, omniqueue, _)| {
        (ours.publish, omniqueue.publish)
    });
    line("omniqueue, consume", 10, &|(ours, omniqueue, _)| {
        (ours.consume, omniqueue.consume)
    });
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

fn body() -> Body {
    Body {
        number: 7,
        text: "x".repeat(70),
    }
}

fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() / count as f64
}

async fn empty(url: &str) -> Result<()> {
    let mut connection = redis::Client::open(url)?
        .get_multiplexed_async_connection()
        .await?;
    Ok(redis::cmd("FLUSHDB").exec_async(&mut connection).await?)
}

async fn ours(url: String) -> Result<Costs> {
    empty(&url).await?;
    let connection = kombu::connect(url).await?;
    let queue = Queue::new("peer");
    connection.declare_queue(&queue).await?;
    let producer = connection
        .producer(Exchange::default())
        .routing_key("peer")
        .await?;
    let body = body();
    let start = Instant::now();
    let mut receipts = VecDeque::new();
    for _ in 0..OURS {
        if receipts.len() == WINDOW
            && let Some(receipt) = receipts.pop_front()
        {
            receipt.await?;
        }
        receipts.push_back(producer.publish(&body).send().await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    let publish = each(start.elapsed(), OURS);

    let start = Instant::now();
    let mut consumer = connection.consumer(&queue).prefetch(WINDOW as u32).await?;
    for _ in 0..OURS {
        let delivery = consumer.try_next().await?.ok_or("the consumer has ended")?;
        let _: Body = delivery.decode()?;
        delivery.ack().await?;
    }
    let consume = each(start.elapsed(), OURS);
    connection.close().await?;
    Ok(Costs { publish, consume })
}

async fn omniqueue(url: String) -> Result<Costs> {
    empty(&url).await?;
    let mut connection = redis::Client::open(&*url)?
        .get_multiplexed_async_connection()
        .await?;
    redis::cmd("XGROUP")
        .arg(&["CREATE", "omniqueue", "group", "0", "MKSTREAM"])
        .exec_async(&mut connection)
        .await?;
    let config = RedisConfig {
        dsn: url,
        max_connections: 8,
        reinsert_on_nack: false,
        queue_key: "omniqueue".to_owned(),
        delayed_queue_key: "omniqueue-delayed".to_owned(),
        delayed_lock_key: "omniqueue-lock".to_owned(),
        consumer_group: "group".to_owned(),
        consumer_name: "one".to_owned(),
        payload_key: "payload".to_owned(),
        ack_deadline_ms: 60_000,
        dlq_config: None,
        sentinel_config: None,
    };
    let (producer, mut consumer) = RedisBackend::builder(config).build_pair().await?;
    let body = body();
    let start = Instant::now();
    for _ in 0..OMNIQUEUE {
        producer.send_serde_json(&body).await?;
    }
    let publish = each(start.elapsed(), OMNIQUEUE);

    let start = Instant::now();
    for _ in 0..OMNIQUEUE {
        let delivery = consumer.receive().await?;
        let _: Option<Body> = delivery.payload_serde_json()?;
        delivery.ack().await.map_err(|(problem, _)| problem)?;
    }
    let consume = each(start.elapsed(), OMNIQUEUE);
    Ok(Costs { publish, consume })
}

fn of_python(python: &str, url: &str) -> Result<Costs> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peer.py");
    let output = Command::new(python)
        .args([script, url, &PYTHON.to_string()])
        .output()?;
    let printed = String::from_utf8(output.stdout)?;
    let seconds: Vec<f64> = printed
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    match seconds[..] {
        [published, consumed] => Ok(Costs {
            publish: published / PYTHON as f64,
            consume: consumed / PYTHON as f64,
        }),
        _ => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}

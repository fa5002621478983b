//! What the README shows of testing without a broker, as it stands there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// README
use std::time::Duration;

use kombu::{Connection, Consumer, Exchange, Queue};
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

fn jobs() -> Queue {
    Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("failed")
}

/// The program: a job that fails is tried again after an hour, and given up after three attempts.
async fn work(mut consumer: Consumer) -> kombu::Result<()> {
    while let Some(job) = consumer.try_next().await? {
        match job.attempt() {
            1 | 2 => job.retry_after(HOUR).await?,
            _ => job.reject().await?,
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_three_times_is_given_up_after_two_hours() -> kombu::Result<()> {
    let connection: Connection = kombu::connect("memory://?like=redis&history=100").await?;
    let broker = kombu::memory::inspect(&connection)?;
    connection.declare_queue(&Queue::new("failed")).await?;
    tokio::spawn(work(connection.consumer(&jobs()).await?));
    let producer = connection.producer(Exchange::default()).await?;
    producer.publish(&7).routing_key("jobs").await?;

    let start = Instant::now();
    broker.settled_in(["jobs"]).await?; // nothing ready, in flight or due
    assert_eq!(start.elapsed(), 2 * HOUR); // to the nanosecond, and it took milliseconds

    let failed = broker.queue("failed")?; // a look, which takes nothing
    assert_eq!(failed.ready[0].decode::<u32>()?, 7);
    let history = broker.history()?; // what was published, and what died where and of what
    assert_eq!((history.published.len(), history.deaths.len()), (1, 1));
    Ok(())
}
// end

#[test]
fn the_readme_shows_this_code() {
    let (_, rest) = include_str!("without_a_broker.rs")
        .split_once("// README\n")
        .unwrap();
    let (code, _) = rest.split_once("// end\n").unwrap();
    let shown = format!("```rust\n{code}```\n");
    assert!(include_str!("../../README.md").contains(&shown), "{shown}");
}

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use kombu::{
    Capabilities, Connection, Consumer, Delivery, Exchange, Feature, Producer, Queue, Receipt,
};
use serde::Serialize;

use crate::Context;
use crate::failure::{Code, Failure, Result};
use crate::output::table;

/// Measure how fast messages are published, consumed, and go there and back
///
/// It has a queue of its own, kombu-bench-…, which is deleted at the end; if this is killed, the queue goes by itself when it wasn't used
/// for an hour, and for a second more for each thousand messages. Publishing is confirmed, and each delivery is acknowledged. A round trip is
/// one publish at a time, until a consumer that waits has it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu bench
  kombu bench publish --count 100000 --size 1000 --histogram
  kombu bench --json | jq .")]
pub(crate) struct Bench {
    /// What to measure; all without any
    #[arg(value_enum)]
    what: Vec<Measured>,
    /// Messages to publish and to consume; a tenth of them goes there and back
    #[arg(long, short = 'n', default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=16_777_216))]
    size: u32,
    /// Publishes, or deliveries, under way at once
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    window: u32,
    /// Show how times are spread
    #[arg(long)]
    histogram: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Measured {
    Publish,
    Consume,
    RoundTrip,
}

impl Measured {
    /// What the bar says.
    fn done(self) -> &'static str {
        match self {
            Measured::Publish => "published",
            Measured::Consume => "consumed",
            Measured::RoundTrip => "there and back",
        }
    }
}

/// In microseconds.
#[derive(Serialize)]
struct Times {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
    histogram: Vec<Bucket>,
}

#[derive(Serialize)]
struct Bucket {
    /// The longest time in it.
    up_to: u64,
    count: u64,
}

#[derive(Serialize)]
struct Row {
    what: Measured,
    messages: u64,
    bytes: u32,
    seconds: f64,
    per_second: f64,
    /// From a publish to its confirm, or to its delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    microseconds: Option<Times>,
}

/// How long its queue may be left alone at least, and at most.
const UNUSED: Duration = Duration::from_secs(3_600);
const LONGEST_UNUSED: Duration = Duration::from_secs(49 * 24 * 3_600);

/// What it takes one of these to fill a line.
const WIDTH: usize = 40;

struct Sample {
    elapsed: Duration,
    messages: u64,
    times: Option<Histogram<u64>>,
}

impl Bench {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let connection = context.connect().await?;
        let name = format!("kombu-bench-{}-{}", std::process::id(), nonce());
        let queue = self.queue(&name, connection.capabilities());
        connection.declare_queue(&queue).await?;
        let measured = tokio::select! {
            measured = self.measure(context, &connection, &queue) => measured,
            () = context.stop.asked() => Err(Failure::interrupted("ended before everything was measured")),
        };
        let deleted = connection.delete_queue(queue.name()).await;
        let closed = connection.close().await;
        measured?;
        deleted?;
        closed?;
        Ok(())
    }

    /// A queue that goes by itself if this is killed, where the transport can.
    fn queue(&self, name: &str, capabilities: &Capabilities) -> Queue {
        let queue = Queue::new(name);
        if !capabilities.has(Feature::QueueExpiry) {
            return queue;
        }
        // Publishing alone is no use of a queue: it must not go meanwhile.
        let unused = UNUSED.saturating_add(Duration::from_millis(self.count));
        queue.expires(unused.min(LONGEST_UNUSED))
    }

    async fn measure(
        &self,
        context: &Context,
        connection: &Connection,
        queue: &Queue,
    ) -> Result<()> {
        let all = [Measured::Publish, Measured::Consume, Measured::RoundTrip];
        let asked = |what: &Measured| self.what.is_empty() || self.what.contains(what);
        let output = context.output;
        let mut rows = Vec::new();
        for what in all {
            // What is consumed has to be published first.
            let fills = what == Measured::Publish && asked(&Measured::Consume);
            if !asked(&what) && !fills {
                continue;
            }
            let bar = output.progress(Some(self.messages(what)), what.done());
            let sample = match what {
                Measured::Publish => self.publish(connection, queue, &bar).await,
                Measured::Consume => self.consume(connection, queue, &bar).await,
                Measured::RoundTrip => self.round_trip(connection, queue, &bar).await,
            };
            bar.finish_and_clear();
            let sample = sample?;
            if what == Measured::Publish && !asked(&Measured::Consume) {
                connection.purge(queue.name()).await?;
            }
            if asked(&what) {
                rows.push(self.row(what, &sample));
            }
        }
        if output.json {
            return rows.iter().try_for_each(|row| output.json(row));
        }
        let heads = [
            "",
            "messages",
            "per second",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
        ];
        let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        output.bytes(table(&heads, &cells).as_bytes())?;
        if self.histogram {
            for row in &rows {
                if let Some(times) = &row.microseconds {
                    output.bytes(times.drawn(row.what).as_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn row(&self, what: Measured, sample: &Sample) -> Row {
        let seconds = sample.elapsed.as_secs_f64();
        Row {
            what,
            messages: sample.messages,
            bytes: self.size,
            seconds,
            per_second: sample.messages as f64 / seconds,
            microseconds: sample.times.as_ref().map(Times::of),
        }
    }

    /// How many messages this takes.
    fn messages(&self, what: Measured) -> u64 {
        match what {
            Measured::Publish | Measured::Consume => self.count,
            Measured::RoundTrip => (self.count / 10).max(1),
        }
    }

    async fn publish(
        &self,
        connection: &Connection,
        queue: &Queue,
        bar: &ProgressBar,
    ) -> Result<Sample> {
        let producer = open(connection, queue).await?;
        let (count, window) = (self.messages(Measured::Publish), self.window as usize);
        let bar = bar.clone();
        let body = Bytes::from(vec![b'x'; self.size as usize]);
        spawned(async move {
            let mut times = histogram()?;
            let start = Instant::now();
            let mut receipts: VecDeque<(Receipt, Instant)> = VecDeque::with_capacity(window);
            for number in 0..count {
                if receipts.len() == window {
                    confirm(&mut receipts, &mut times).await?;
                }
                show(&bar, number);
                let began = Instant::now();
                receipts.push_back((producer.publish_bytes(body.clone()).send().await?, began));
            }
            while !receipts.is_empty() {
                confirm(&mut receipts, &mut times).await?;
            }
            Ok(Sample {
                elapsed: start.elapsed(),
                messages: count,
                times: Some(times),
            })
        })
        .await
    }

    async fn consume(
        &self,
        connection: &Connection,
        queue: &Queue,
        bar: &ProgressBar,
    ) -> Result<Sample> {
        let (count, window) = (self.messages(Measured::Consume), self.window);
        let bar = bar.clone();
        let (connection, queue) = (connection.clone(), queue.clone());
        spawned(async move {
            let start = Instant::now();
            let mut consumer = connection.consumer(&queue).prefetch(window).await?;
            for number in 0..count {
                next(&mut consumer).await?.ack().await?;
                show(&bar, number);
            }
            let elapsed = start.elapsed();
            consumer.cancel().await?;
            Ok(Sample {
                elapsed,
                messages: count,
                times: None,
            })
        })
        .await
    }

    async fn round_trip(
        &self,
        connection: &Connection,
        queue: &Queue,
        bar: &ProgressBar,
    ) -> Result<Sample> {
        let producer = open(connection, queue).await?;
        let mut consumer = connection.consumer(queue).prefetch(self.window).await?;
        let count = self.messages(Measured::RoundTrip);
        let bar = bar.clone();
        let body = Bytes::from(vec![b'x'; self.size as usize]);
        spawned(async move {
            let mut times = histogram()?;
            let start = Instant::now();
            for number in 0..count {
                let began = Instant::now();
                producer.publish_bytes(body.clone()).await?;
                let delivery = next(&mut consumer).await?;
                record(&mut times, began);
                delivery.ack().await?;
                show(&bar, number);
            }
            let elapsed = start.elapsed();
            consumer.cancel().await?;
            Ok(Sample {
                elapsed,
                messages: count,
                times: Some(times),
            })
        })
        .await
    }
}

/// Shows how far it is, now and then: what is measured isn't the bar.
fn show(bar: &ProgressBar, number: u64) {
    if number.is_multiple_of(64) {
        bar.set_position(number);
    }
}

/// Different for each run, on any machine of a network.
fn nonce() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now())
}

/// The runtime's own threads are faster than the one that waits for them.
async fn spawned(
    work: impl Future<Output = kombu::Result<Sample>> + Send + 'static,
) -> Result<Sample> {
    match tokio::spawn(work).await {
        Ok(sample) => Ok(sample?),
        Err(error) => Err(Failure::new(Code::Failed, error.to_string())),
    }
}

async fn open(connection: &Connection, queue: &Queue) -> Result<Producer> {
    let producer = connection.producer(Exchange::default());
    Ok(producer.routing_key(queue.name()).await?)
}

async fn next(consumer: &mut Consumer) -> kombu::Result<Delivery> {
    consumer.try_next().await?.ok_or_else(|| {
        kombu::Error::new(
            kombu::ErrorKind::ConsumerCancelled,
            "the consumer has ended",
        )
    })
}

async fn confirm(
    receipts: &mut VecDeque<(Receipt, Instant)>,
    times: &mut Histogram<u64>,
) -> kombu::Result<()> {
    if let Some((receipt, began)) = receipts.pop_front() {
        receipt.await?;
        record(times, began);
    }
    Ok(())
}

/// What takes longer counts as this.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Two digits of each time are enough. The bounds are given, for what is beyond them is cut off.
fn histogram() -> kombu::Result<Histogram<u64>> {
    let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1, longest, 2)
        .map_err(|error| kombu::Error::new(kombu::ErrorKind::Protocol, error.to_string()))
}

fn record(times: &mut Histogram<u64>, began: Instant) {
    let passed = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    times.saturating_record(passed);
}

impl Times {
    fn of(times: &Histogram<u64>) -> Self {
        let first = times.min().max(1);
        let buckets = times.iter_log(first.next_power_of_two(), 2.0);
        Times {
            p50: times.value_at_quantile(0.5),
            p90: times.value_at_quantile(0.9),
            p99: times.value_at_quantile(0.99),
            p999: times.value_at_quantile(0.999),
            max: times.max(),
            histogram: buckets
                .map(|bucket| Bucket {
                    up_to: bucket.value_iterated_to(),
                    count: bucket.count_since_last_iteration(),
                })
                .collect(),
        }
    }

    fn drawn(&self, what: Measured) -> String {
        let name = match what {
            Measured::Publish => "from a publish to its confirm",
            Measured::Consume => "",
            Measured::RoundTrip => "from a publish to its delivery",
        };
        let most = self.histogram.iter().map(|bucket| bucket.count).max();
        let most = most.unwrap_or(1).max(1);
        let rows: Vec<Vec<String>> = self
            .histogram
            .iter()
            .map(|bucket| {
                let length = (bucket.count as f64 / most as f64 * WIDTH as f64).ceil();
                vec![
                    millis(bucket.up_to),
                    bucket.count.to_string(),
                    "#".repeat(length as usize),
                ]
            })
            .collect();
        format!("\n{name}\n{}", table(&["up to ms", "messages", ""], &rows))
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let name = match self.what {
            Measured::Publish => "publish",
            Measured::Consume => "consume",
            Measured::RoundTrip => "round trip",
        };
        let mut cells = vec![
            name.to_owned(),
            self.messages.to_string(),
            format!("{:.0}", self.per_second),
        ];
        let times = self.microseconds.as_ref();
        let times = times.map(|times| [times.p50, times.p90, times.p99, times.p999, times.max]);
        cells.extend(times.into_iter().flatten().map(millis));
        cells
    }
}

fn millis(microseconds: u64) -> String {
    format!("{:.2}", microseconds as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bench: Bench,
    }

    #[test]
    fn a_queue_that_is_left_behind_goes_by_itself_where_the_transport_can() {
        let with = Capabilities::basic().native(Feature::QueueExpiry);
        for (count, seconds) in [("1000", 3_601), ("20000000", 23_600)] {
            let bench = Command::parse_from(["kombu", "-n", count]).bench;
            let queue = bench.queue("q", &with);
            assert_eq!(queue.get_expires(), Some(Duration::from_secs(seconds)));
            queue.check().unwrap();
            assert_eq!(bench.queue("q", &Capabilities::basic()).get_expires(), None);
        }
        let most = u64::MAX.to_string();
        let bench = Command::parse_from(["kombu", "-n", &most]).bench;
        bench.queue("q", &with).check().unwrap();
    }
}

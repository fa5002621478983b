use std::time::Duration;

use clap::Args;
use kombu::{Connection, ErrorKind, QueueInfo};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::Context;
use crate::failure::{Code, Failure, Result};
use crate::output::table;
use crate::place::{TIME, duration};

/// Count what is in queues: messages that are ready, messages that somebody has and didn't acknowledge, consumers
///
/// RabbitMQ doesn't tell what isn't acknowledged: `?`. No broker tells all of its queues in one way, so name them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu queues jobs events
  kombu queues jobs --watch
  kombu queues jobs --json | jq .ready")]
pub(crate) struct Queues {
    /// The queues
    #[arg(required = true)]
    queues: Vec<String>,
    /// Again and again, until Ctrl-C, with the change per second
    #[arg(long, short)]
    watch: bool,
    /// How long it waits in between
    #[arg(long, value_name = TIME, default_value = "1s", value_parser = duration, requires = "watch")]
    interval: Duration,
}

/// How long a broker that may be away is told goodbye.
const CLOSING: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Row {
    queue: String,
    ready: u64,
    unacked: Option<u64>,
    consumers: u64,
    /// By how much `ready` has changed per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<f64>,
}

impl Queues {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.interval.is_zero() {
            return Err(Failure::usage("--interval takes more than nothing"));
        }
        let connection = context.connect().await?;
        let mut before: Option<(Instant, Vec<Option<u64>>)> = None;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lines = 0;
        loop {
            tokio::select! {
                biased;
                () = context.stop.asked() => break,
                _ = ticks.tick() => {}
            }
            let now = Instant::now();
            let (mut rows, counts, missing) = tokio::select! {
                biased;
                // The broker may be away, and stay so.
                () = context.stop.asked() => {
                    let _ = timeout(CLOSING, connection.close()).await;
                    return match self.watch {
                        true => Ok(()),
                        false => Err(Failure::interrupted("ended before the broker answered")),
                    };
                }
                looked = self.look(&connection) => looked?,
            };
            if let Some((then, old)) = &before {
                let seconds = now.duration_since(*then).as_secs_f64();
                for (row, old) in rows.iter_mut().zip(old.iter().flatten()) {
                    row.change = Some((row.ready as f64 - *old as f64) / seconds);
                }
            }
            self.write(context, &rows, &mut lines)?;
            if let Some(failure) = missing {
                // What is there was shown all the same.
                connection.close().await?;
                return Err(failure);
            }
            if !self.watch {
                break;
            }
            before = Some((now, counts));
        }
        connection.close().await?;
        Ok(())
    }

    async fn look(
        &self,
        connection: &Connection,
    ) -> Result<(Vec<Row>, Vec<Option<u64>>, Option<Failure>)> {
        let (mut rows, mut counts) = (Vec::new(), Vec::new());
        let mut missing = Vec::new();
        for queue in &self.queues {
            match connection.queue_info(queue.as_str()).await {
                Ok(info) => {
                    counts.push(Some(info.ready));
                    rows.push(row(queue, &info));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing.push(queue.as_str()),
                Err(error) => return Err(error.into()),
            }
        }
        let missing = (!missing.is_empty()).then(|| {
            Failure::new(
                Code::NotFound,
                format!("no such queue: {}", missing.join(", ")),
            )
        });
        Ok((rows, counts, missing))
    }

    fn write(&self, context: &Context, rows: &[Row], lines: &mut usize) -> Result<()> {
        let output = context.output;
        if output.json {
            return rows.iter().try_for_each(|row| output.json(row));
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut heads = vec!["queue", "ready", "unacked", "consumers"];
        if self.watch {
            heads.push("ready/s");
        }
        let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(self.watch)).collect();
        let text = table(&heads, &cells);
        let mut screen = String::new();
        if output.is_terminal() && *lines > 0 {
            // Back to the first line of what it wrote before, and without what was there.
            screen = format!("\u{1b}[{lines}A\u{1b}[J");
        }
        screen.push_str(&text);
        *lines = text.lines().count();
        output.bytes(screen.as_bytes())
    }
}

fn row(queue: &str, info: &QueueInfo) -> Row {
    Row {
        queue: queue.to_owned(),
        ready: info.ready,
        unacked: info.unsettled,
        consumers: info.consumers,
        change: None,
    }
}

impl Row {
    fn cells(&self, with_change: bool) -> Vec<String> {
        let unacked = self
            .unacked
            .map_or("?".to_owned(), |count| count.to_string());
        let mut cells = vec![
            self.queue.clone(),
            self.ready.to_string(),
            unacked,
            self.consumers.to_string(),
        ];
        if with_change {
            let change = self
                .change
                .map_or(String::new(), |change| format!("{change:+.0}"));
            cells.push(change);
        }
        cells
    }
}

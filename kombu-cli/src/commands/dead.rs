use clap::{Args, Subcommand};
use kombu::{Delivery, FieldTable, Name, Queue};
use serde::Serialize;

use super::moving::{EMPTY, fewer, interrupted, ready, report, without_copies};
use super::publish::rate;
use crate::failure::{Code, Failure, Result};
use crate::forward::{Ends, Limits, Route, forward};
use crate::look::{Held, next};
use crate::output::{harmless, table};
use crate::show::{Form, text_of};
use crate::{Context, output};

/// Look at dead letters, and send them back to where they died
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu dead list failed
  kombu dead redrive failed -n 10")]
pub(crate) struct Dead {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List dead letters: where each died, of what and how often; takes nothing
    ///
    /// It holds what it shows until the end, 64 MiB at most: with fewer than --count, it ends with code 6 then. On RabbitMQ's quorum
    /// queues before 4.3, a look counts as a delivery of each.
    #[command(after_help = "Example:
  kombu dead list failed")]
    List(Look),
    /// Show dead letters whole; takes nothing
    ///
    /// It holds what it shows until the end, 64 MiB at most: with fewer than --count, it ends with code 6 then. On RabbitMQ's quorum
    /// queues before 4.3, a look counts as a delivery of each.
    #[command(after_help = "Example:
  kombu dead show failed -n 1 --verbose")]
    Show {
        #[command(flatten)]
        look: Look,
        #[command(flatten)]
        form: Form,
    },
    /// Send dead letters back to the queues in which they died
    ///
    /// A letter leaves its queue when the broker has confirmed that it is back. So nothing is lost if this is killed, but up to 1000
    /// letters may be there twice. Its history, the headers x-death, x-first-death-… and x-last-death-…, is taken off: it begins anew.
    /// Its exchange is the default one from then on, and its routing key the name of its queue, so that it gets nowhere else.
    /// What never died stays, and so does a letter whose queue is gone (code 5 at the end). It sends back as many as there are at the
    /// start, or ends when nothing came for 5s. While the broker is away, it waits, and for 35s at least once that is back: so long may
    /// it keep what the lost connection had.
    #[command(after_help = "Examples:
  kombu dead redrive failed
  kombu dead redrive failed -n 10 --rate 1")]
    Redrive {
        /// The queue of dead letters
        queue: String,
        /// At most so many; if fewer went back, it ends with code 6
        #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// At most so many per second; what takes more than 5 min isn't fetched ahead
        #[arg(long, value_name = "PER SECOND", value_parser = rate)]
        rate: Option<f64>,
    },
}

#[derive(Args, Debug)]
struct Look {
    /// The queue of dead letters
    queue: String,
    /// At most so many, from the first one on
    #[arg(long, short = 'n', default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    count: u64,
}

/// How a message died last.
struct Death<'a> {
    queue: &'a str,
    reason: &'a str,
    count: i64,
    time: Option<u64>,
}

impl<'a> Death<'a> {
    fn last(headers: &'a FieldTable) -> Option<Self> {
        let deaths = headers.get("x-death")?.as_array()?;
        let last = deaths.first()?.as_table()?;
        Some(Death {
            queue: last.get("queue")?.as_str()?,
            reason: last
                .get("reason")
                .and_then(|reason| reason.as_str())
                .unwrap_or_default(),
            count: last
                .get("count")
                .and_then(|count| count.as_i64())
                .unwrap_or(1),
            time: last
                .get("time")
                .and_then(|time| time.as_timestamp())
                .map(|time| time.as_secs()),
        })
    }
}

/// A line of the list.
#[derive(Serialize)]
struct Row {
    number: u64,
    died_in: Option<String>,
    reason: Option<String>,
    count: Option<i64>,
    /// Seconds since 1970.
    time: Option<u64>,
    routing_key: String,
    bytes: usize,
}

impl Row {
    fn of(number: u64, delivery: &Delivery) -> Self {
        let death = Death::last(delivery.headers());
        let death = death.as_ref();
        Row {
            number,
            died_in: death.map(|death| death.queue.to_owned()),
            reason: death.map(|death| death.reason.to_owned()),
            count: death.map(|death| death.count),
            time: death.and_then(|death| death.time),
            routing_key: delivery.routing_key().to_string(),
            bytes: delivery.body().len(),
        }
    }

    fn cells(&self, body: &str) -> Vec<String> {
        let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let count = self.count.map_or("?".to_owned(), |count| count.to_string());
        let age = self.time.map_or("?".to_owned(), ago);
        vec![
            self.number.to_string(),
            harmless(&shown(&self.died_in)),
            harmless(&shown(&self.reason)),
            count,
            age,
            harmless(&self.routing_key),
            beginning(body),
        ]
    }
}

/// How long ago that was.
fn ago(seconds: u64) -> String {
    let now = kombu::Timestamp::now().as_secs();
    let passed = now.saturating_sub(seconds);
    let (number, unit) = match passed {
        0..120 => (passed, "s"),
        120..7_200 => (passed / 60, "m"),
        7_200..172_800 => (passed / 3_600, "h"),
        _ => (passed / 86_400, "d"),
    };
    format!("{number}{unit} ago")
}

/// As much of a body as fits into a line.
fn beginning(body: &str) -> String {
    const WIDTH: usize = 40;
    let line: String = body
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(WIDTH + 1)
        .collect();
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

impl Dead {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        match self.what {
            What::List(look) => {
                let mut rows = Vec::new();
                let output = context.output;
                let looked = look.each(context, |number, delivery| {
                    let row = Row::of(number, delivery);
                    match output.json {
                        true => output.json(&row)?,
                        false => rows.push(row.cells(&text_of(delivery))),
                    }
                    Ok(())
                });
                let looked = looked.await;
                // What was seen is shown, also if the look ended early.
                if !rows.is_empty() {
                    let heads = ["", "died in", "reason", "times", "last", "key", "body"];
                    output.bytes(table(&heads, &rows).as_bytes())?;
                }
                looked
            }
            What::Show { look, form } => {
                let output = context.output;
                form.check(output)?;
                look.each(context, |_, delivery| form.write(output, delivery))
                    .await
            }
            What::Redrive { queue, count, rate } => redrive(context, &queue, count, rate).await,
        }
    }
}

impl Look {
    /// Shows each to `show`, and gives all of them back.
    async fn each(
        &self,
        context: &Context,
        mut show: impl FnMut(u64, &Delivery) -> Result<()>,
    ) -> Result<()> {
        let connection = context.connect().await?;
        let mut held = Held::default();
        let shown = async {
            while (held.len() as u64) < self.count && !held.is_full() {
                let Some(delivery) = next(context, &connection, &self.queue).await? else {
                    break;
                };
                let shown = show(held.len() as u64 + 1, &delivery);
                held.add(delivery);
                shown?;
            }
            Ok(())
        };
        let shown: Result<()> = shown.await;
        let is_empty = held.is_empty();
        let whole = held.check(self.count);
        let looked = held.end(context, &connection).await;
        let closed = connection.close().await;
        shown?;
        looked?;
        closed?;
        whole?;
        match is_empty {
            true => Err(Failure::new(
                Code::Nothing,
                format!("queue `{}` has nothing", self.queue),
            )),
            false => Ok(()),
        }
    }
}

async fn redrive(
    context: &Context,
    queue: &str,
    count: Option<u64>,
    rate: Option<f64>,
) -> Result<()> {
    let connection = context.connect().await?;
    let ready = ready(&connection, queue).await?;
    let limits = Limits {
        // What dies again meanwhile comes back here, and would go round for ever.
        count: count.unwrap_or(u64::MAX).min(ready),
        idle: EMPTY,
        rate,
        persists: false,
        leaves_unroutable: true,
    };
    let producer = connection.producer(kombu::Exchange::default()).await?;
    let consumer = connection
        .consumer(&Queue::new(queue))
        .prefetch(limits.first_fetched())
        .await?;
    let bar = context.output.progress(Some(limits.count), "redriven");
    let ends = Ends {
        from: &connection,
        to: &connection,
        consumer,
        producer: &producer,
        allow_unroutable: false,
    };
    let (mut totals, redriven) = forward(ends, limits, &context.stop, &bar, back).await;
    bar.finish_and_clear();
    let closed = connection.close().await;
    let is_crowded = totals.crowded && totals.moved + totals.left < limits.count;
    let interrupted = interrupted(context, &totals, limits.count);
    if redriven.is_err() || interrupted.is_err() {
        totals.stay(limits.count);
    }
    let reported = report(context, &totals, "redriven");
    if is_crowded {
        output::note(
            "there may be dead letters behind so many that never died, or have nowhere to go; move those away first",
        );
    }
    redriven?;
    closed?;
    interrupted?;
    if totals.unroutable > 0 {
        return Err(Failure::new(
            Code::NotFound,
            format!(
                "{} of those that were left died in a queue that is gone; `kombu move` takes them elsewhere",
                totals.unroutable
            ),
        ));
    }
    fewer(&totals, count, "redriven")?;
    reported
}

/// The way back of a dead letter.
fn back(delivery: &Delivery) -> Route {
    let Some(death) = Death::last(delivery.headers()) else {
        return Route::Stay;
    };
    let queue = Name::from(death.queue);
    let mut content = Box::new((**delivery).clone());
    content.headers_mut().retain(|name, _| {
        let name = name.as_str();
        name != "x-death"
            && !name.starts_with("x-first-death-")
            && !name.starts_with("x-last-death-")
    });
    without_copies(&mut content);
    Route::To(content, Some(queue))
}

use std::time::Duration;

use clap::Args;
use kombu::{Connection, Delivery, Name, Queue};

use super::publish::rate;
use crate::failure::{Failure, Result};
use crate::forward::{Ends, FIRST_FETCHED, Limits, Route, Totals, WINDOW, forward, window};
use crate::place::duration;
use crate::target::Target;
use crate::{Context, output};

/// Move what a queue has to another queue, or to an exchange
///
/// A message leaves its queue when the broker has confirmed that it is at the other end. So nothing is lost if this is killed, but up to
/// 1000 messages may be at both ends. It moves as many as the queue has at the start, and keeps the routing keys, unless -q or -k
/// says otherwise. A message that reaches no queue stays, and ends it (code 5). Into a queue, the headers CC and BCC aren't taken along:
/// they would send copies elsewhere.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu move failed -q jobs
  kombu move jobs -e archive -n 100")]
pub(crate) struct Move {
    /// The queue that messages are taken from
    source: String,
    #[command(flatten)]
    target: Target,
    /// At most so many messages
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// At most so many messages per second
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Count a message that reaches no queue as moved, which loses it
    #[arg(long)]
    allow_unroutable: bool,
}

/// Move what comes to a queue on to another broker, until Ctrl-C
///
/// A message leaves its queue when the other broker has confirmed it. So nothing is lost if this is killed or a broker is restarted,
/// but up to 1000 messages may be there twice. Lost connections are made again.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu bridge jobs --to nats://localhost -q jobs
  kombu bridge jobs --to redis://localhost -e media -k video.new --idle 10s")]
pub(crate) struct Bridge {
    /// The queue that messages are taken from
    source: String,
    /// The broker that they go to; KOMBU_TO_URL hides it from others on the machine
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    target: Target,
    /// End after so many messages
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for so long
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// At most so many messages per second
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Count a message that reaches no queue as moved, which loses it
    #[arg(long)]
    allow_unroutable: bool,
}

const TO_VARIABLE: &str = "KOMBU_TO_URL";
/// A queue that is being emptied and gives nothing for so long is empty.
pub(super) const EMPTY: Duration = Duration::from_secs(5);
const NOWHERE: &str = "where to? Give a queue with -q, or an exchange with -e";

impl Move {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.target.queue.is_none() && self.target.exchange.is_none() {
            return Err(Failure::usage(NOWHERE));
        }
        if self.target.queue.as_ref() == Some(&self.source) {
            return Err(Failure::usage("the messages are there already"));
        }
        let connection = context.place.connect().await?;
        let ready = ready(&connection, &self.source).await?;
        let limits = Limits {
            count: self.count.unwrap_or(u64::MAX).min(ready),
            idle: EMPTY,
            rate: self.rate,
            persists: false,
        };
        let moving = Moving {
            source: &self.source,
            from: &connection,
            to: &connection,
            target: &self.target,
            limits,
            allow_unroutable: self.allow_unroutable,
        };
        let (totals, moved) = moving.run(context, "moved").await?;
        let closed = connection.close().await;
        report(context, &totals, "moved")?;
        moved?;
        closed?;
        interrupted(context, &totals, limits.count)
    }
}

impl Bridge {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.target.queue.is_none() && self.target.exchange.is_none() {
            return Err(Failure::usage(NOWHERE));
        }
        let named = self.to.clone().or_else(|| std::env::var(TO_VARIABLE).ok());
        let to = match named.filter(|url| !url.is_empty()) {
            Some(to) => to,
            None => {
                return Err(Failure::usage(format!(
                    "no broker is named to move to; give --to, or set {TO_VARIABLE}"
                )));
            }
        };
        let from = context.place.connect().await?;
        let to = context.place.connect_to(&to).await?;
        let limits = Limits {
            count: self.count.unwrap_or(u64::MAX),
            idle: self.idle.unwrap_or(Duration::MAX),
            rate: self.rate,
            persists: true,
        };
        let moving = Moving {
            source: &self.source,
            from: &from,
            to: &to,
            target: &self.target,
            limits,
            allow_unroutable: self.allow_unroutable,
        };
        if !context.output.quiet {
            output::note(&format!(
                "from {} to {} (if this is killed, up to {WINDOW} messages may be there twice, and none is lost)",
                from.target(),
                to.target()
            ));
        }
        let (totals, moved) = moving.run(context, "bridged").await?;
        // Acknowledgements go out last: what they are about is at the other end by then.
        let closed = to.close().await.and(from.close().await);
        report(context, &totals, "bridged")?;
        moved?;
        closed?;
        match self.count {
            Some(count) => interrupted(context, &totals, count),
            None => Ok(()),
        }
    }
}

/// How many messages a queue has to give; those that somebody else has are told of.
pub(super) async fn ready(connection: &Connection, queue: &str) -> Result<u64> {
    let info = connection.queue_info(queue).await?;
    if let Some(held) = info.unsettled.filter(|held| *held > 0) {
        output::note(&format!(
            "{held} messages of queue `{queue}` are with somebody who hasn't acknowledged them, and aren't taken; what a \
             killed program had comes back by itself: on Redis 10 s later, once something stays connected for some seconds, \
             as `kombu queues {queue} --watch` does; on NATS 30 s later"
        ));
    }
    Ok(info.ready)
}

struct Moving<'a> {
    source: &'a str,
    from: &'a Connection,
    to: &'a Connection,
    target: &'a Target,
    limits: Limits,
    allow_unroutable: bool,
}

impl Moving<'_> {
    async fn run(&self, context: &Context, what: &'static str) -> Result<(Totals, Result<()>)> {
        let producer = self.target.open(self.to).await?;
        let mut consumer = self
            .from
            .consumer(&Queue::new(self.source))
            .prefetch(window(self.limits.count).min(FIRST_FETCHED))
            .await?;
        let total = (self.limits.count < u64::MAX).then_some(self.limits.count);
        let bar = context.output.progress(total, what);
        let ends = Ends {
            consumer: &mut consumer,
            producer: &producer,
            allow_unroutable: self.allow_unroutable,
        };
        let key = self.target.key().map(Name::from);
        let into_queue = self.target.queue.is_some();
        let moved = forward(ends, self.limits, &context.stop, &bar, |delivery| {
            route(delivery, key.as_ref(), into_queue)
        })
        .await;
        bar.finish_and_clear();
        let cancelled = consumer.cancel().await;
        let (totals, result) = moved;
        Ok((totals, result.and(cancelled.map_err(Into::into))))
    }
}

fn route(delivery: &Delivery, key: Option<&Name>, into_queue: bool) -> Route {
    let mut content = Box::new((**delivery).clone());
    if into_queue {
        without_copies(&mut content);
    }
    Route::To(content, key.cloned())
}

/// Leaves out the headers by which a message that goes to one queue would go to others, too.
pub(super) fn without_copies(content: &mut kombu::Content) {
    for header in ["CC", "BCC"] {
        content.headers_mut().remove(header);
    }
}

pub(super) fn report(context: &Context, totals: &Totals, done: &str) -> Result<()> {
    context.output.summary(totals, &totals.sentence(done))
}

/// Whether the end came before it was done.
pub(super) fn interrupted(context: &Context, totals: &Totals, wanted: u64) -> Result<()> {
    if context.stop.is_asked() && totals.moved + totals.left < wanted {
        return Err(Failure::interrupted("ended before everything was moved"));
    }
    Ok(())
}

use std::time::Duration;

use clap::Args;
use kombu::{Connection, Consumer, ErrorKind, Queue};

use crate::failure::{Code, Failure, Result};
use crate::forward::{FIRST_FETCHED, fitting, give_back};
use crate::idle::Idle;
use crate::look::Held;
use crate::place::{TIME, duration};
use crate::show::Form;
use crate::{Context, output};

/// Receive messages and write them
///
/// Without --follow and --count it ends when nothing came for --idle; with either of them and without --idle, it waits for ever. While
/// the broker is away, it waits, and for 35s at least once that is back: so long may it keep what the lost connection had. A message is
/// acknowledged when it was written, so what a closed pipe doesn't take goes back to the queue. Ctrl-C ends it in an orderly way. With
/// --count, it ends with code 6 if fewer came, also where --release came to 64 MiB before; what was fetched beyond it goes back to its
/// place, marked as redelivered. `kombu get` fetches nothing that isn't written.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu declare queue jobs
  kombu consume jobs                         what is there
  kombu consume jobs events --follow -v      what comes, until Ctrl-C
  kombu consume jobs --json > recording.jsonl
  kombu consume images -n 1 --raw > cat.jpg
  kombu consume jobs --release               a look, which takes nothing")]
pub(crate) struct Consume {
    /// The queues
    #[arg(required = true)]
    queues: Vec<String>,
    /// Go on until Ctrl-C
    #[arg(long, short, conflicts_with_all = ["count", "idle"])]
    follow: bool,
    /// End after so many messages
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for so long from a broker that is there, and for 35s after a lost connection; 2s without --count
    #[arg(long, value_name = TIME, value_parser = duration)]
    idle: Option<Duration>,
    /// Give everything back at the end; shows at most 1000, or 64 MiB. On RabbitMQ's quorum queues before 4.3, that counts as
    /// a delivery of each
    #[arg(long, conflicts_with_all = ["follow", "no_ack"])]
    release: bool,
    /// Have the broker forget messages when it hands them out: faster, and what isn't written is lost
    #[arg(long)]
    no_ack: bool,
    /// How many messages may be under way at once
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    prefetch: u32,
    #[command(flatten)]
    form: Form,
}

const IDLE: Duration = Duration::from_secs(2);
const MOST_HELD: u32 = 1_000;

impl Consume {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        self.form.check(context.output)?;
        if self.release && self.count.is_some_and(|count| count > u64::from(MOST_HELD)) {
            return Err(Failure::usage(format!(
                "--release holds what it shows until the end: at most {MOST_HELD} messages"
            )));
        }
        let connection = context.connect().await?;
        let queues: Vec<Queue> = self.queues.iter().map(Queue::new).collect();
        let all = match self.release {
            true => MOST_HELD.into(),
            false => u64::MAX,
        };
        let wanted = self.count.unwrap_or(all);
        // A look holds many: how many are fetched at once depends on how large they are.
        let most = match self.release {
            true => FIRST_FETCHED,
            false => self.prefetch,
        };
        // Acknowledging makes room for more than is wanted; that goes back, marked as redelivered. A smaller window for each
        // message would subscribe anew each time on RabbitMQ.
        let prefetch = most.min(u32::try_from(wanted).unwrap_or(u32::MAX));
        let mut consumer = connection
            .consumer(&queues)
            .prefetch(prefetch)
            .no_ack(self.no_ack)
            .await?;
        let mut held = Held::default();
        let mut count = 0;
        let received = self
            .receive(
                context,
                &connection,
                &mut consumer,
                wanted,
                &mut held,
                &mut count,
            )
            .await;
        // Before something is given back, or this consumer would get it again.
        let cancelled = consumer.cancel().await;
        let whole = match self.count {
            Some(wanted) => held.check(wanted),
            None => {
                if held.is_full() || held.len() >= MOST_HELD as usize {
                    output::note(&format!(
                        "there may be more: a look holds what it shows, {MOST_HELD} messages or 64 MiB at most"
                    ));
                }
                Ok(())
            }
        };
        let looked = held.end(context, &connection).await;
        let closed = connection.close().await;
        received?;
        cancelled?;
        looked?;
        closed?;
        whole?;
        match self.count {
            Some(wanted) if count < wanted && context.stop.is_asked() => Err(Failure::interrupted(
                format!("ended after {count} of {wanted} messages"),
            )),
            Some(wanted) if count < wanted => Err(Failure::new(
                Code::Nothing,
                format!("{count} of {wanted} messages came"),
            )),
            // What was shown isn't all that is there.
            None if self.release && context.stop.is_asked() => Err(Failure::interrupted(format!(
                "ended after {count} messages"
            ))),
            _ => Ok(()),
        }
    }

    async fn receive(
        &self,
        context: &Context,
        connection: &Connection,
        consumer: &mut Consumer,
        wanted: u64,
        held: &mut Held,
        count: &mut u64,
    ) -> Result<()> {
        let idle = match (self.follow, self.idle) {
            (true, _) => Duration::MAX,
            (false, Some(idle)) => idle,
            (false, None) if self.count.is_some() => Duration::MAX,
            (false, None) => IDLE,
        };
        let mut idle = Idle::of(idle);
        let (mut window, mut largest) = (FIRST_FETCHED, 0);
        while *count < wanted && !held.is_full() {
            let next = tokio::select! {
                biased;
                () = context.stop.asked() => return Ok(()),
                next = idle.next(connection, consumer) => next?,
            };
            let Some(delivery) = next else {
                return Ok(());
            };
            if let Err(failure) = self.form.write(context.output, &delivery) {
                if !self.no_ack {
                    give_back(delivery).await;
                }
                return Err(failure);
            }
            *count += 1;
            if self.no_ack {
                continue;
            }
            if !self.release {
                match delivery.ack().await {
                    Err(error) if error.kind() == ErrorKind::SettleLost => {
                        output::note("a connection was lost: the last message comes again");
                    }
                    acked => acked?,
                }
                continue;
            }
            largest = largest.max(delivery.body().len());
            held.add(delivery);
            let held_now = u32::try_from(held.len()).unwrap_or(MOST_HELD);
            if held_now >= window {
                // What is held fills the window: the next ones need room beside it.
                let most = u32::try_from(wanted).unwrap_or(MOST_HELD).min(MOST_HELD);
                window = held_now.saturating_add(fitting(largest)).min(most);
                consumer.set_prefetch(window);
            }
        }
        Ok(())
    }
}

use clap::Args;

use crate::Context;
use crate::failure::{Code, Failure, Result};
use crate::look::{Held, next};
use crate::show::Form;

/// Take what a queue has, one by one and without becoming a consumer
///
/// A message is acknowledged when it was written. Ends with code 6 if there was nothing, and if --release came to 64 MiB before it
/// had shown --count messages.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu get jobs
  kombu get jobs --release --verbose    look at the first one, which stays")]
pub(crate) struct Get {
    /// The queue
    queue: String,
    /// At most so many messages
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Give them back to where they were; shows at most 1000, or 64 MiB. On RabbitMQ's quorum queues before 4.3, that counts as a
    /// delivery of each
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    form: Form,
}

/// Deliveries that are held so that the next look finds others.
const MOST_HELD: u64 = 1_000;

impl Get {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        self.form.check(context.output)?;
        if self.release && self.count > MOST_HELD {
            return Err(Failure::usage(format!(
                "--release holds what it shows until the end: at most {MOST_HELD} messages"
            )));
        }
        let connection = context.connect().await?;
        let mut held = Held::default();
        let mut count = 0;
        let got = async {
            while count < self.count && !held.is_full() {
                let Some(delivery) = next(context, &connection, &self.queue).await? else {
                    break;
                };
                // Before it is acknowledged: what can't be written isn't lost.
                let written = self.form.write(context.output, &delivery);
                if let Err(failure) = written {
                    delivery.release().await?;
                    return Err(failure);
                }
                count += 1;
                match self.release {
                    true => held.add(delivery),
                    false => delivery.ack().await?,
                }
            }
            Ok(())
        };
        let got = got.await;
        let whole = held.check(self.count);
        let looked = held.end(context, &connection).await;
        let closed = connection.close().await;
        got?;
        looked?;
        closed?;
        whole?;
        match count {
            0 => Err(Failure::new(
                Code::Nothing,
                format!("queue `{}` has nothing", self.queue),
            )),
            _ => Ok(()),
        }
    }
}

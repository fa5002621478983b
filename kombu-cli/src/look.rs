//! A look, which takes nothing: what was shown is held until the end, and goes back.

use kombu::{Acker, Connection, Delivery, ErrorKind};

use crate::Context;
use crate::failure::{Code, Failure, Result};
use crate::output;

/// What the bodies of one look may come to: whoever settles them later may keep them until then.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// The next message, unless Ctrl-C comes before.
pub(crate) async fn next(
    context: &Context,
    connection: &Connection,
    queue: &str,
) -> Result<Option<Delivery>> {
    let getting = async { Ok(connection.get(queue).await?) };
    let what = "everything that was asked for was shown";
    context.stop.unless_asked(what, getting).await
}

/// What was shown, and so isn't shown again.
#[derive(Debug, Default)]
pub(crate) struct Held {
    ackers: Vec<Acker>,
    bytes: usize,
}

impl Held {
    pub(crate) fn add(&mut self, delivery: Delivery) {
        self.bytes += delivery.body().len();
        self.ackers.push(delivery.split().1);
    }

    pub(crate) fn len(&self) -> usize {
        self.ackers.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ackers.is_empty()
    }

    /// Whether it comes to so much that the look ends.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= MOST_BYTES
    }

    /// Fails if the look ended before it had shown as many as it was to, because it was full.
    pub(crate) fn check(&self, wanted: u64) -> Result<()> {
        let shown = self.len() as u64;
        if self.is_full() && shown < wanted {
            return Err(Failure::new(
                Code::Nothing,
                format!(
                    "{shown} of {wanted} messages were shown, and there may be more: a look holds what it shows, 64 MiB at most"
                ),
            ));
        }
        Ok(())
    }

    /// Gives back what was looked at, and says where that isn't all the same to the broker.
    pub(crate) async fn end(self, context: &Context, connection: &Connection) -> Result<()> {
        let looked = !self.is_empty();
        for acker in self.ackers {
            match acker.release().await {
                // With its session, it has gone back already.
                Err(error) if error.kind() == ErrorKind::SettleLost => {}
                released => released?,
            }
        }
        // Elsewhere, what goes back isn't counted; RabbitMQ tells nobody of which type a queue is.
        let may_count = matches!(connection.target().url().scheme(), "amqp" | "amqps");
        if looked && may_count && !context.output.quiet {
            output::note(
                "if this is a quorum queue, the look counts as a delivery of each message, and these have a limit \
                 (not since RabbitMQ 4.3)",
            );
        }
        Ok(())
    }
}

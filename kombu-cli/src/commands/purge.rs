use clap::Args;

use crate::Context;
use crate::confirm::confirm;
use crate::failure::Result;
use crate::output::counted;

/// Remove what is ready in a queue; asks first
///
/// What somebody has and didn't settle stays.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu purge jobs --yes")]
pub(crate) struct Purge {
    /// The queue
    queue: String,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

impl Purge {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let connection = context.connect().await?;
        let queue = self.queue.as_str();
        let ready = connection.queue_info(queue).await?.ready;
        let question = format!(
            "Queue `{queue}` has {}. Remove what it has for good?",
            counted(ready, "message")
        );
        confirm(context, &question, self.yes).await?;
        let removed = connection.purge(queue).await?;
        connection.close().await?;
        context.output.summary(
            &serde_json::json!({ "purged": { "queue": queue, "messages": removed } }),
            &format!(
                "{} removed from queue `{queue}`",
                counted(removed, "message")
            ),
        )
    }
}

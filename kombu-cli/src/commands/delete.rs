use clap::{Args, Subcommand};
use kombu::driver::QueueInfo;
use kombu::{ErrorKind, Exchange};

use crate::Context;
use crate::confirm::confirm;
use crate::failure::Result;
use crate::output::counted;

/// Delete a queue or an exchange
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu delete queue jobs --if-empty
  kombu delete exchange media --if-unused")]
pub(crate) struct Delete {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Delete a queue with what is in it; asks first if that is something
    ///
    /// One that is missing counts as deleted.
    #[command(after_help = "Examples:
  kombu delete queue jobs --if-empty
  kombu delete queue jobs --yes")]
    Queue {
        /// Its name
        name: String,
        /// Only if nobody consumes from it
        #[arg(long)]
        if_unused: bool,
        /// Only if nothing is ready in it
        #[arg(long)]
        if_empty: bool,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete an exchange with its bindings
    ///
    /// One that is missing counts as deleted.
    #[command(after_help = "Example:
  kombu delete exchange media --if-unused")]
    Exchange {
        /// Its name
        name: String,
        /// Only if nothing is bound to it
        #[arg(long)]
        if_unused: bool,
    },
}

/// What is lost with a queue. Not every broker tells what its consumers hold.
fn what_goes(info: &QueueInfo) -> Option<String> {
    let ready = info.ready;
    match info.unsettled {
        Some(0) if ready == 0 => None,
        Some(unsettled) => Some(counted(ready + unsettled, "message")),
        None if info.consumers > 0 => Some(format!(
            "{}, and what {} may hold",
            counted(ready, "message"),
            counted(info.consumers, "consumer")
        )),
        None => (ready > 0).then(|| counted(ready, "message")),
    }
}

impl Delete {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let connection = context.connect().await?;
        match self.what {
            What::Queue {
                name,
                if_unused,
                if_empty,
                yes,
            } => {
                let info = match connection.queue_info(name.as_str()).await {
                    Ok(info) => Some(info),
                    Err(error) if error.kind() == ErrorKind::NotFound => None,
                    Err(error) => return Err(error.into()),
                };
                let sentence = match &info {
                    Some(_) => format!("queue `{name}` is deleted"),
                    None => format!("there was no queue `{name}`"),
                };
                if let Some(what) = info.as_ref().and_then(what_goes)
                    && !if_empty
                {
                    let question =
                        format!("Queue `{name}` has {what}. Delete it with what it has?");
                    confirm(context, &question, yes).await?;
                }
                let mut deletion = connection.delete_queue(name.as_str());
                if if_unused {
                    deletion = deletion.if_unused();
                }
                if if_empty {
                    deletion = deletion.if_empty();
                }
                let lost = deletion.await?;
                connection.close().await?;
                context.output.summary(
                    &serde_json::json!({ "deleted": { "queue": name, "messages": lost } }),
                    &match lost {
                        0 => sentence,
                        lost => format!("{sentence}, and {} with it", counted(lost, "message")),
                    },
                )
            }
            What::Exchange { name, if_unused } => {
                let exchange = Exchange::direct(name.as_str()).passive();
                let sentence = match connection.declare_exchange(&exchange).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        format!("there was no exchange `{name}`")
                    }
                    // Whatever else is wrong with it, deleting says.
                    _ => format!("exchange `{name}` is deleted"),
                };
                match if_unused {
                    true => connection.delete_unused_exchange(name.as_str()).await?,
                    false => connection.delete_exchange(name.as_str()).await?,
                }
                connection.close().await?;
                context.output.summary(
                    &serde_json::json!({ "deleted": { "exchange": name } }),
                    &sentence,
                )
            }
        }
    }
}

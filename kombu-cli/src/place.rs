//! Where the URL comes from, and the connection to it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kombu::{Connection, Deadlines, DeclareMode, Event};

use crate::failure::{Failure, Result};
use crate::output;

const URL_VARIABLE: &str = "KOMBU_URL";
const DEFAULT: &str = "default";
/// Whoever waits at a prompt learns soon that nobody is there.
const CONNECT: Duration = Duration::from_secs(5);

/// Which broker is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// The broker, for example amqp://user:password@host/vhost; others on the machine can see arguments: KOMBU_URL hides it
    #[arg(long, global = true, value_name = "URL", help_heading = "Connection")]
    url: Option<String>,
    /// A configuration file, whose connection is taken where neither --url nor KOMBU_URL says which
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(crate) config: Option<PathBuf>,
    /// Which connection of the file
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = DEFAULT,
        help_heading = "Connection"
    )]
    connection: String,
    /// How long the broker may take to answer; by default 5s for connecting and 30s for everything else
    #[arg(
        long,
        global = true,
        value_name = "TIME",
        value_parser = duration,
        help_heading = "Connection"
    )]
    timeout: Option<Duration>,
}

/// A duration such as `250ms`, `30s` or `5m`.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    kombu::declare::duration::parse(text).map_err(|error| error.message().to_owned())
}

impl Place {
    fn url(&self) -> Result<String> {
        if let Some(url) = &self.url {
            return Ok(url.clone());
        }
        if let Some(file) = &self.config {
            // A file gives way to KOMBU_URL by itself.
            return Ok(kombu::from_config(file)?.url(&self.connection)?.to_owned());
        }
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.is_empty() => Ok(url),
            _ => Err(Failure::usage(
                "no broker is named; give --url amqp://host, set KOMBU_URL, or give --config FILE",
            )),
        }
    }

    /// Connects, and says on standard error when the connection is lost and when it is back.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        self.connect_to(&self.url()?).await
    }

    pub(crate) async fn connect_to(&self, url: &str) -> Result<Connection> {
        let mut deadlines = Deadlines::default();
        deadlines.connect = CONNECT;
        if let Some(timeout) = self.timeout {
            deadlines.connect = timeout;
            deadlines.publish = timeout;
            deadlines.declare = timeout;
            deadlines.settle = timeout;
        }
        // What isn't there is an error: a slip of the finger makes no queue.
        let connection = Connection::builder(kombu::registry())
            .url(url)
            .deadlines(deadlines)
            .declare(DeclareMode::Verify)
            .await?;
        tokio::spawn(tell(connection.target().to_string(), connection.events()));
        Ok(connection)
    }
}

async fn tell(broker: String, mut events: kombu::Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Lost { reason, .. } => {
                output::note(&format!(
                    "the connection to {broker} is lost, and made again: {reason}"
                ));
            }
            Event::Restored { .. } => output::note(&format!("the connection to {broker} is back")),
            Event::Blocked { reason } => {
                output::note(&format!(
                    "the broker takes no messages at present: {reason}"
                ));
            }
            Event::Unblocked => output::note(&format!("{broker} takes messages again")),
            _ => {}
        }
    }
}

//! Where the URL comes from, and the connection to it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kombu::{Connection, ConnectionBuilder, Deadlines, DeclareMode, Event};

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
    /// A configuration file: its connection, with all of its URLs, its deadlines and retries; --url or KOMBU_URL stands for the URLs
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub(crate) config: Option<PathBuf>,
    /// Which connection of the file, if not `default`
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    connection: Option<String>,
    /// How long the broker may take to answer; by default what the file says, and without one 5s for connecting and 30s for all else
    #[arg(
        long,
        global = true,
        value_name = TIME,
        value_parser = duration,
        help_heading = "Connection"
    )]
    timeout: Option<Duration>,
}

/// What help calls a duration.
pub(crate) const TIME: &str = "TIME, as in 30s";

/// A duration such as `250ms`, `30s` or `5m`. A number alone, which is milliseconds in a file, is rarely meant so at a prompt.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "`{text}` has no unit; write ms, s, m, h or d behind it, as in `{text}s`"
        ));
    }
    kombu::declare::duration::parse(text).map_err(|error| error.message().to_owned())
}

impl Place {
    fn builder(&self) -> Result<ConnectionBuilder> {
        if self.connection.is_some() && self.config.is_none() {
            return Err(Failure::usage(
                "--connection names a connection of a file, and there is none; give --config FILE too, or --url in place of it",
            ));
        }
        if self.connection.is_some() && self.url.is_some() {
            return Err(Failure::usage(
                "--url and --connection both say which broker is meant; leave one of them out",
            ));
        }
        let Some(file) = &self.config else {
            return Ok(self.builder_of(&self.named()?));
        };
        // A file gives way to KOMBU_URL by itself.
        let mut config = kombu::from_config(file)?;
        if let Some(url) = &self.url {
            config = config.with_url(url);
        }
        let builder = config.builder(self.connection.as_deref().unwrap_or(DEFAULT))?;
        let deadlines = builder.get_deadlines();
        Ok(builder.deadlines(self.limited(deadlines)))
    }

    /// The broker that is named without a file.
    fn named(&self) -> Result<String> {
        let variable = || std::env::var(URL_VARIABLE).ok();
        let named = self.url.clone().or_else(variable);
        named.filter(|url| !url.is_empty()).ok_or_else(|| {
            Failure::usage(
                "no broker is named; give --url amqp://host, set KOMBU_URL, or give --config FILE",
            )
        })
    }

    fn builder_of(&self, url: &str) -> ConnectionBuilder {
        let mut deadlines = Deadlines::default();
        deadlines.connect = CONNECT;
        Connection::builder(kombu::registry())
            .url(url)
            .deadlines(self.limited(deadlines))
    }

    fn limited(&self, mut deadlines: Deadlines) -> Deadlines {
        if let Some(timeout) = self.timeout {
            deadlines.connect = timeout;
            deadlines.publish = timeout;
            deadlines.declare = timeout;
            deadlines.settle = timeout;
        }
        deadlines
    }

    /// Connects, and says on standard error when the connection is lost and when it is back.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        connect(self.builder()?).await
    }

    pub(crate) async fn connect_to(&self, url: &str) -> Result<Connection> {
        connect(self.builder_of(url)).await
    }
}

async fn connect(builder: ConnectionBuilder) -> Result<Connection> {
    // What isn't there is an error, whatever a file says: a slip of the finger makes no queue.
    let connection = builder.declare(DeclareMode::Verify).await?;
    tokio::spawn(tell(connection.target().to_string(), connection.events()));
    Ok(connection)
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

use clap::Args;
use kombu::{Binding, Connection, Exchange, FieldValue};

use crate::Context;
use crate::failure::Result;

/// Have what reaches an exchange go to a queue, or to another exchange
///
/// A binding that is there already is fine.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu bind media -q videos -k 'video.#'
  kombu bind media -e archive -k '#'
  kombu bind orders -q big -a x-match=any -a size=large    for a headers exchange")]
pub(crate) struct Bind {
    #[command(flatten)]
    ends: Ends,
}

/// Remove a binding
///
/// One that is missing counts as removed.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu unbind media -q videos -k 'video.#'")]
pub(crate) struct Unbind {
    #[command(flatten)]
    ends: Ends,
}

#[derive(Args, Debug)]
struct Ends {
    /// The exchange that messages come from
    source: String,
    #[command(flatten)]
    destination: Destination,
    /// The routing key, or the pattern of keys
    #[arg(long, short, value_name = "KEY", default_value = "")]
    key: String,
    /// What a headers exchange goes by, for example x-match=any
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = super::publish::header)]
    argument: Vec<(String, FieldValue)>,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Destination {
    /// To this queue
    #[arg(long, short, value_name = "QUEUE")]
    queue: Option<String>,
    /// To this exchange
    #[arg(long, short, value_name = "EXCHANGE")]
    exchange: Option<String>,
}

impl Ends {
    fn binding(&self) -> Binding {
        // Binding asks for the name only; of which type the exchange is, the broker knows.
        let source = Exchange::direct(self.source.as_str()).no_declare();
        let binding = Binding::new(source, self.key.as_str());
        self.argument
            .iter()
            .fold(binding, |binding, (name, value)| {
                binding.argument(name.as_str(), value.clone())
            })
    }

    fn destination(&self) -> (&'static str, &str) {
        match (&self.destination.queue, &self.destination.exchange) {
            (Some(queue), _) => ("queue", queue),
            (None, exchange) => ("exchange", exchange.as_deref().unwrap_or_default()),
        }
    }

    async fn bind(&self, connection: &Connection) -> Result<()> {
        let binding = self.binding();
        match self.destination() {
            ("queue", name) => connection.bind_queue(name, &binding).await?,
            (_, name) => connection.bind_exchange(name, &binding).await?,
        }
        Ok(())
    }

    async fn unbind(&self, connection: &Connection) -> Result<()> {
        let binding = self.binding();
        match self.destination() {
            ("queue", name) => connection.unbind_queue(name, &binding).await?,
            (_, name) => connection.unbind_exchange(name, &binding).await?,
        }
        Ok(())
    }

    /// Whether it was there before, brokers don't tell.
    fn tell(&self, context: &Context, done: &str, is: &str) -> Result<()> {
        let (what, name) = self.destination();
        context.output.summary(
            &serde_json::json!({ done: { "exchange": self.source, "key": self.key, "to": { what: name } } }),
            &format!("{what} `{name}` {is} bound to exchange `{}` by key `{}`", self.source, self.key),
        )
    }
}

impl Bind {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let connection = context.connect().await?;
        self.ends.bind(&connection).await?;
        connection.close().await?;
        self.ends.tell(context, "bound", "is")
    }
}

impl Unbind {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let connection = context.connect().await?;
        self.ends.unbind(&connection).await?;
        connection.close().await?;
        self.ends.tell(context, "unbound", "isn't")
    }
}

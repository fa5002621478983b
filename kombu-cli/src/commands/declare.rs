use clap::{Args, Subcommand};
use kombu::{Exchange, Queue};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::Context;
use crate::failure::{Failure, Result};
use crate::place::duration;

/// Declare a queue or an exchange
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu declare queue jobs
  kombu declare exchange media type=topic")]
pub(crate) struct Declare {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Declare a queue; an equal one that is there already is fine, another one isn't (code 7)
    #[command(after_help = "Examples:
  kombu declare queue jobs
  kombu declare queue jobs message_ttl=1m max_length=1000 dead_letter_exchange=failed
  kombu declare queue jobs queue_type=quorum 'arguments={\"x-queue-leader-locator\": \"balanced\"}'")]
    Queue(Declaration),
    /// Declare an exchange; an equal one that is there already is fine, another one isn't (code 7)
    #[command(after_help = "Examples:
  kombu declare exchange media type=topic
  kombu declare exchange media type=topic alternate_exchange=others")]
    Exchange(Declaration),
}

#[derive(Args, Debug)]
struct Declaration {
    /// Its name
    name: String,
    /// What it is like, with the names that a configuration file has; what is JSON is taken as that
    #[arg(value_name = "ATTRIBUTE=VALUE", value_parser = attribute)]
    attributes: Vec<(String, Value)>,
}

/// Attributes that are times.
const TIMES: [&str; 2] = ["expires", "message_ttl"];

fn attribute(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "an attribute is NAME=VALUE, as in durable=false".to_owned())?;
    if TIMES.contains(&name) && value.parse::<u64>().is_ok() {
        duration(value)?;
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

impl Declaration {
    /// The declaration that these attributes make.
    fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let mut map: Map<String, Value> = self.attributes.iter().cloned().collect();
        map.insert("name".to_owned(), self.name.as_str().into());
        let read = serde_json::from_value(map.into());
        read.map_err(|error| Failure::usage(with_nearest(error.to_string())))
    }
}

/// Names the attribute that is nearest to one that there isn't.
fn with_nearest(error: String) -> String {
    if !error.starts_with("unknown field `") {
        return error;
    }
    let mut quoted = error.split('`').skip(1).step_by(2);
    let written = quoted.next().unwrap_or_default();
    match kombu::nearest(written, quoted) {
        Some(near) => format!("unknown attribute `{written}`; did you mean `{near}`?"),
        None => error,
    }
}

impl Declare {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (what, name) = match &self.what {
            What::Queue(declaration) => {
                let queue: Queue = declaration.read()?;
                let connection = context.connect().await?;
                connection.declare_queue(&queue).await?;
                connection.close().await?;
                ("queue", &declaration.name)
            }
            What::Exchange(declaration) => {
                let exchange: Exchange = declaration.read()?;
                let connection = context.connect().await?;
                connection.declare_exchange(&exchange).await?;
                connection.close().await?;
                ("exchange", &declaration.name)
            }
        };
        context.output.summary(
            &serde_json::json!({ "declared": { what: name } }),
            &format!("{what} `{name}` is there"),
        )
    }
}

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
  kombu declare queue mails message_ttl=1m max_length=1000 dead_letter_exchange=failed
  kombu declare queue orders type=quorum 'arguments={\"x-queue-leader-locator\": \"balanced\"}'")]
    Queue(Declaration),
    /// Declare an exchange; an equal one that is there already is fine, another one isn't (code 7)
    #[command(after_help = "Examples:
  kombu declare exchange media type=topic
  kombu declare exchange news type=topic alternate_exchange=others")]
    Exchange(Declaration),
}

#[derive(Args, Debug)]
struct Declaration {
    /// Its name; '' has a queue get one, which is told
    name: String,
    /// What it is like, with the names that a configuration file has; what is JSON is taken as that
    #[arg(value_name = "ATTRIBUTE=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
}

/// Attributes that are times.
const TIMES: [&str; 2] = ["expires", "message_ttl"];

fn attribute(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "an attribute is NAME=VALUE, as in durable=false".to_owned())?;
    if TIMES.contains(&name) && value.parse::<u64>().is_ok() {
        duration(value)?;
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl Declaration {
    /// The declaration that these attributes make.
    fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let mut map = Map::new();
        map.insert("name".to_owned(), self.name.as_str().into());
        for (name, value) in &self.attributes {
            let alone = |value: Value| {
                let alone = Map::from_iter([(name.clone(), value)]);
                serde_json::from_value::<T>(alone.into())
            };
            let text = Value::from(value.as_str());
            let value: Value = serde_json::from_str(value).unwrap_or_else(|_| text.clone());
            let value = match alone(value.clone()) {
                Ok(_) => value,
                // A routing key may look like a number.
                Err(_) if alone(text.clone()).is_ok() => text,
                Err(error) => return Err(Failure::usage(problem(name, &error.to_string()))),
            };
            if map.insert(name.clone(), value).is_some() {
                return Err(Failure::usage(format!("`{name}` is said twice")));
            }
        }
        let read = serde_json::from_value(map.into());
        read.map_err(|error| Failure::usage(error.to_string()))
    }
}

/// What is wrong with an attribute, in words of a prompt and not of Rust.
fn problem(name: &str, error: &str) -> String {
    let Some(known) = error.strip_prefix("unknown field ") else {
        return format!("`{name}`: {}", plain(error));
    };
    if !known.starts_with(&format!("`{name}`")) {
        // It lies deeper.
        return format!("`{name}`: {error}");
    }
    let known: Vec<&str> = known.split('`').skip(3).step_by(2).collect();
    // RabbitMQ's arguments end as our attributes do: `x-queue-type`.
    let ends_alike = |known: &&&str| name.ends_with(**known);
    let near = kombu::nearest(name, known.iter().copied());
    match near.or_else(|| known.iter().find(ends_alike).copied()) {
        Some(near) => format!("unknown attribute `{name}`; did you mean `{near}`?"),
        None => format!(
            "unknown attribute `{name}`; known are: {}",
            known.join(", ")
        ),
    }
}

fn plain(error: &str) -> String {
    error
        .replace("expected u8", "expected a whole number from 0 to 255")
        .replace(
            "expected u32",
            "expected a whole number from 0 to 4294967295",
        )
        .replace(
            "expected u64",
            "expected a whole number that isn't negative",
        )
        .replace("expected a boolean", "expected true or false")
}

impl Declare {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (what, name, is_exclusive) = match &self.what {
            What::Queue(declaration) => {
                let queue: Queue = declaration.read()?;
                let connection = context.connect().await?;
                // Of a queue without a name, the one that it got.
                let name = connection.declare_queue(&queue).await?.name;
                connection.close().await?;
                ("queue", name, queue.is_exclusive())
            }
            What::Exchange(declaration) => {
                let exchange: Exchange = declaration.read()?;
                let connection = context.connect().await?;
                connection.declare_exchange(&exchange).await?;
                connection.close().await?;
                ("exchange", exchange.name().clone(), false)
            }
        };
        let sentence = match is_exclusive {
            true => {
                format!("queue `{name}` was there, and went with this command: it is exclusive")
            }
            false => format!("{what} `{name}` is there"),
        };
        context.output.summary(
            &serde_json::json!({ "declared": { what: name } }),
            &sentence,
        )
    }
}

//! How messages are shown.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use kombu::serializers::Value;
use kombu::{Content, Delivery};

use crate::failure::{Failure, Result};
use crate::output::{self, Output, harmless};
use crate::record::{self, write_headers};

/// What is written of a message.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Form {
    /// Write bodies as they are, one behind the other; those that aren't text show as base64 on a terminal
    #[arg(long, conflicts_with_all = ["verbose", "decoded"])]
    raw: bool,
    /// Write routing key, properties and headers, too
    #[arg(long, short)]
    verbose: bool,
    /// With --json: also the value that a body stands for, decompressed and decoded
    #[arg(long)]
    decoded: bool,
}

impl Form {
    /// Refuses what doesn't go together; --json may stand in front of the command.
    pub(crate) fn check(self, output: Output) -> Result<()> {
        if self.decoded && !output.json {
            return Err(Failure::usage(
                "--decoded adds a value to what --json writes; give --json, too, or leave it out",
            ));
        }
        Ok(())
    }

    pub(crate) fn write(self, output: Output, delivery: &Delivery) -> Result<()> {
        if output.json {
            return output.line(&record::of_delivery(delivery, self.decoded)?);
        }
        if self.raw {
            return raw(output, delivery);
        }
        if self.verbose {
            let mut head = format!("queue {}, ", delivery.queue());
            if delivery.redelivered() {
                head.push_str("redelivered, ");
            }
            head.push_str(&described(delivery));
            output.line(&shown(output, &head))?;
        }
        text(output, &text_of(delivery))
    }

    /// The same for a message that came by no queue, and its value if that could be read.
    pub(crate) fn write_content(
        self,
        output: Output,
        content: &Content,
        value: Option<Value>,
    ) -> Result<()> {
        if output.json {
            let decoded = value.filter(|_| self.decoded).map(without_bytes);
            return output.line(&record::of_content(content, decoded)?);
        }
        if self.raw {
            return raw(output, content);
        }
        if self.verbose {
            output.line(&shown(output, &described(content)))?;
        }
        let body = match value {
            Some(Value::String(text)) => text,
            Some(Value::Bytes(bytes)) => text_of_bytes(&bytes),
            Some(value) => {
                serde_json::to_string(&value).unwrap_or_else(|_| text_of_bytes(content.body()))
            }
            None => text_of_bytes(content.body()),
        };
        text(output, &body)
    }
}

/// Writes a body, which may end its last line itself.
fn text(output: Output, body: &str) -> Result<()> {
    output.line(&shown(output, body.strip_suffix('\n').unwrap_or(body)))
}

fn raw(output: Output, content: &Content) -> Result<()> {
    let body = content.body();
    if !output.is_terminal() {
        return output.bytes(body);
    }
    match std::str::from_utf8(body) {
        Ok(text) => output.line(&harmless(text)),
        Err(_) => {
            output::note("this body isn't text; send the output to a file to have it as it is");
            output.line(&format!("base64:{}", STANDARD.encode(body)))
        }
    }
}

fn shown(output: Output, text: &str) -> String {
    match output.is_terminal() {
        true => harmless(text),
        false => text.to_owned(),
    }
}

/// The body as text: what it stands for, or else what it is.
pub(crate) fn text_of(delivery: &Delivery) -> String {
    let body = match delivery.plain_body() {
        Ok(body) => body,
        Err(_) => delivery.body(),
    };
    let kind = delivery.content_type().unwrap_or_default();
    let is_text = matches!(kind, "application/json" | "text/plain" | "");
    if is_text && let Ok(text) = std::str::from_utf8(body) {
        return text.to_owned();
    }
    // Bytes decode as bytes, which JSON would write as numbers.
    if kind != "application/data"
        && let Ok(value) = delivery.decode::<Value>()
        && let Ok(text) = serde_json::to_string(&value)
    {
        return text;
    }
    text_of_bytes(body)
}

/// What the body stands for, as a value; what no codec reads is its text, or its bytes.
pub(crate) fn value_of(delivery: &Delivery) -> Option<Value> {
    match delivery.decode() {
        Ok(value) => Some(without_bytes(value)),
        Err(_) => {
            let body = delivery.plain_body().ok()?;
            Some(text_of_bytes(body).into())
        }
    }
}

/// JSON would write a body of bytes as numbers.
fn without_bytes(value: Value) -> Value {
    match value {
        Value::Bytes(bytes) => text_of_bytes(&bytes).into(),
        value => value,
    }
}

/// Bytes as text, or as base64.
pub(crate) fn text_of_bytes(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(body)),
    }
}

/// Where a message went and what it has, in one line.
fn described(content: &Content) -> String {
    let mut parts = vec![
        format!("exchange {:?}", content.exchange().as_str()),
        format!("key {:?}", content.routing_key().as_str()),
    ];
    let texts = [
        ("content type", content.content_type()),
        ("content encoding", content.content_encoding()),
        ("message id", content.message_id()),
        ("correlation id", content.correlation_id()),
        ("reply to", content.reply_to()),
        ("type", content.kind()),
        ("user", content.user_id()),
        ("application", content.app_id()),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            parts.push(format!("{name} {value}"));
        }
    }
    if let Some(priority) = content.priority() {
        parts.push(format!("priority {priority}"));
    }
    if let Some(expiration) = content.expiration() {
        let expiration = kombu::declare::duration::format(expiration);
        parts.push(format!("expires after {expiration}"));
    }
    if let Some(timestamp) = content.timestamp() {
        parts.push(format!("made at {}", timestamp.as_secs()));
    }
    let mut headers = Vec::new();
    let mut json = serde_json::Serializer::new(&mut headers);
    if !content.headers().is_empty() && write_headers(content.headers(), &mut json).is_ok() {
        parts.push(format!("headers {}", String::from_utf8_lossy(&headers)));
    }
    parts.join(", ")
}

use std::time::Duration;

use clap::Args;
use kombu::{CallError, FieldValue};

use super::publish::{guess, header};
use crate::Context;
use crate::failure::{Code, Failure, Result};
use crate::input::Input;
use crate::place::duration;
use crate::show::{Form, text_of_bytes};
use crate::target::Target;

/// Ask a question and write the answer
///
/// The question is the argument, or standard input. An error that the other side answers ends it with code 1, and no answer in time
/// with code 3.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  kombu call -q prices --type price 7")]
pub(crate) struct Call {
    #[command(flatten)]
    target: Target,
    /// The question
    body: Option<String>,
    /// A header
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, FieldValue)>,
    /// What kind of question it is: AMQP's type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The content type, in place of the one that the body suggests
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// How long each attempt waits for an answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    wait: Duration,
    /// How often it is asked again when there was none
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    retries: u32,
    #[command(flatten)]
    form: Form,
}

impl Call {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        if self.target.key().is_none() && self.target.exchange.is_none() {
            return Err(Failure::usage(
                "whom? Give a queue with -q, or an exchange with -e and a key with -k",
            ));
        }
        let mut input = match &self.body {
            Some(body) => Input::Arguments([body.clone()].into()),
            None => Input::Whole { is_read: false },
        };
        let body = input.next().await?.unwrap_or_default();
        let connection = context.place.connect().await?;
        if let Some(queue) = &self.target.queue {
            connection.queue_info(queue.as_str()).await?;
        }
        let exchange = self.target.exchange();
        let caller = connection.caller(exchange);
        let caller = caller
            .routing_key(self.target.key().unwrap_or_default())
            .await?;
        let (kind, encoding) = match &self.content_type {
            Some(kind) => (kind.as_str(), ""),
            None => guess(&body),
        };
        let mut call = caller
            .call_bytes::<()>(body.clone())
            .content_type(kind)
            .content_encoding(encoding)
            .timeout(self.wait)
            .max_retries(self.retries);
        for (name, value) in &self.header {
            call = call.header(name.as_str(), value.clone());
        }
        if let Some(kind) = &self.kind {
            call = call.kind(kind.as_str());
        }
        let answered = tokio::select! {
            answered = call.answer() => answered.map_err(failure),
            () = context.stop.asked() => Err(Failure::interrupted("nobody waits for the answer any more")),
        };
        let written = answered.and_then(|answer| {
            let text = match answer.decode::<kombu::serializers::Value>() {
                Ok(value) => match value {
                    kombu::serializers::Value::String(text) => text,
                    kombu::serializers::Value::Bytes(bytes) => text_of_bytes(&bytes),
                    value => serde_json::to_string(&value)
                        .unwrap_or_else(|_| text_of_bytes(answer.body())),
                },
                Err(_) => text_of_bytes(answer.body()),
            };
            self.form.write_content(context.output, &answer, text)
        });
        connection.close().await?;
        written
    }
}

fn failure(error: CallError) -> Failure {
    match error {
        CallError::Transport(error) => error.into(),
        CallError::Timeout { .. } => Failure::new(Code::Unreachable, error.to_string()),
        error => Failure::new(Code::Failed, error.to_string()),
    }
}

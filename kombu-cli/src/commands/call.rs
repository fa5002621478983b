use std::time::Duration;

use clap::Args;
use kombu::{CallError, FieldValue};

use super::publish::{guess, header};
use crate::Context;
use crate::failure::{Code, Failure, Result, in_our_words};
use crate::input::{Input, STANDARD_INPUT};
use crate::place::{TIME, duration};
use crate::show::Form;
use crate::target::Target;

/// Ask a question and write the answer
///
/// The question is the argument, or standard input. An error that the other side answers ends it with code 1, no answer in time with
/// code 3, and a queue or exchange that isn't there, or a key that leads to no queue, with code 5.
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
    #[arg(long, value_name = TIME, default_value = "30s", value_parser = duration)]
    wait: Duration,
    /// How often it is asked again when there was none
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    retries: u32,
    #[command(flatten)]
    form: Form,
}

impl Call {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        self.form.check(context.output)?;
        if self.target.key().is_none() && self.target.exchange.is_none() {
            return Err(Failure::usage(
                "whom? Give a queue with -q, or an exchange with -e and a key with -k",
            ));
        }
        let mut input = match &self.body {
            Some(body) => Input::Arguments([body.clone()].into()),
            None => Input::Files([STANDARD_INPUT.into()].into()),
        };
        let read = context
            .stop
            .unless_asked("there was a question", input.next());
        let body = read.await?.unwrap_or_default();
        let connection = context.connect().await?;
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
            let value = answer.decode().ok();
            self.form.write_content(context.output, &answer, value)
        });
        connection.close().await?;
        written
    }
}

fn failure(error: CallError) -> Failure {
    match error {
        CallError::Transport(error) => error.into(),
        CallError::Timeout { .. } => Failure::new(Code::Unreachable, error.to_string()),
        CallError::Unroutable(_) | CallError::NoResponder { .. } => {
            Failure::new(Code::NotFound, in_our_words(&error.to_string()))
        }
        error => Failure::new(Code::Failed, error.to_string()),
    }
}

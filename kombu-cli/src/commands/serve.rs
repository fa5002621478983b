use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kombu::{Delivery, ErrorKind, Queue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::publish::guess;
use crate::failure::{Code, Failure, Result};
use crate::place::{TIME, duration};
use crate::{Context, output};

/// Run a program for each message, until Ctrl-C
///
/// The body is its standard input. KOMBU_QUEUE, KOMBU_EXCHANGE, KOMBU_ROUTING_KEY, KOMBU_ATTEMPT, KOMBU_CONTENT_TYPE, KOMBU_MESSAGE_ID,
/// KOMBU_TYPE and, for each header, KOMBU_HEADER_NAME are in its environment. If it ends with 0, the message is acknowledged, and what it
/// wrote is the answer if the message asks for one. Otherwise --on-failure says what becomes of the message: by default it comes again,
/// without limit unless --retries says how often. It also comes again, which is told, if its program runs for longer than the broker
/// lets it be held: 25 min on RabbitMQ. An answer is JSON, text or bytes, by what it looks like. It waits for messages for ever; Ctrl-C waits for
/// the programs that run, and a second one leaves them running. KOMBU_URL, which may have a password, isn't in their environment.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu serve images -- ./resize --width 200
  kombu serve jobs --jobs 4 --on-failure reject -- sh -c 'echo \"$KOMBU_ROUTING_KEY\"; cat'")]
pub(crate) struct Serve {
    /// The queue
    queue: String,
    /// How many programs may run at once
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    jobs: u32,
    /// What becomes of a message whose program fails. What is rejected is lost where the queue has no dead letters
    #[arg(long, value_enum, default_value_t = OnFailure::Retry)]
    on_failure: OnFailure,
    /// How long a message that is retried waits
    #[arg(long, value_name = TIME, default_value = "1s", value_parser = duration)]
    retry_after: Duration,
    /// How often a message is retried before it is rejected, with --on-failure retry; without this, for ever
    #[arg(long, value_name = "TIMES")]
    retries: Option<u32>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnFailure {
    /// It comes again, counted
    Retry,
    /// It becomes a dead letter
    Reject,
    /// It goes back to where it was
    Release,
}

/// More than this is no answer.
const LARGEST_ANSWER: u64 = 16 * 1024 * 1024;

impl Serve {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let connection = context.connect().await?;
        let mut consumer = connection
            .consumer(&Queue::new(self.queue.as_str()))
            .prefetch(self.jobs)
            .await?;
        let this = Arc::new(self);
        let slots = Arc::new(Semaphore::new(this.jobs as usize));
        let mut running = JoinSet::new();
        let mut result = Ok(());
        while result.is_ok() {
            let slot = slots.clone().acquire_owned();
            let delivery = tokio::select! {
                biased;
                () = context.stop.asked() => break,
                Some(ended) = running.join_next() => {
                    result = joined(ended);
                    continue;
                }
                delivery = async { (slot.await, consumer.try_next().await) } => delivery,
            };
            match delivery {
                (Ok(slot), Ok(Some(delivery))) => {
                    let this = this.clone();
                    running.spawn(async move {
                        let handled = this.handle(delivery).await;
                        drop(slot);
                        handled
                    });
                }
                (_, Err(error)) => result = Err(error.into()),
                _ => break,
            }
        }
        // What was fetched is for others.
        let cancelled = consumer.cancel().await;
        while let Some(ended) = running.join_next().await {
            result = result.and(joined(ended));
        }
        let closed = connection.close().await;
        result?;
        cancelled?;
        Ok(closed?)
    }

    async fn handle(&self, delivery: Delivery) -> Result<()> {
        let settled = match self.run_for(&delivery).await? {
            Ok(()) => delivery.ack().await,
            Err(why) => {
                output::note(&format!(
                    "a message of queue `{}` failed: {why}",
                    self.queue
                ));
                match self.on_failure {
                    OnFailure::Retry if self.is_last(delivery.attempt()) => delivery.reject().await,
                    OnFailure::Retry => delivery.retry_after(self.retry_after).await,
                    OnFailure::Reject => delivery.reject().await,
                    OnFailure::Release => delivery.release().await,
                }
            }
        };
        match settled {
            Err(error) if error.kind() == ErrorKind::SettleLost => {
                output::note(&format!(
                    "a message of queue `{}` comes again, whatever its program did: {}",
                    self.queue,
                    error.message()
                ));
                Ok(())
            }
            settled => Ok(settled?),
        }
    }

    /// Whether a message isn't retried behind this attempt, of which the first is 1.
    fn is_last(&self, attempt: u32) -> bool {
        self.retries.is_some_and(|retries| attempt > retries)
    }

    /// Runs the program on a message, and answers it. Says what is wrong with this message; what is wrong with all is a failure.
    async fn run_for(&self, delivery: &Delivery) -> Result<std::result::Result<(), String>> {
        let body = match delivery.plain_body() {
            Ok(body) => body.clone(),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let child = match self.start(delivery) {
            Ok(child) => child,
            // Its headers don't fit into an environment.
            Err(error) if error.kind() == std::io::ErrorKind::ArgumentListTooLong => {
                return Ok(Err(error.to_string()));
            }
            Err(error) => {
                // The next message wouldn't fare better; this one goes back when it is dropped.
                let program = self
                    .command
                    .first()
                    .map(|program| program.display().to_string());
                let program = program.unwrap_or_default();
                return Err(Failure::usage(format!("`{program}` can't be run: {error}")));
            }
        };
        let answer = match self.wait(child, &body).await {
            Ok((status, answer)) if status.success() => answer,
            Ok((status, _)) => return Ok(Err(status.to_string())),
            Err(error) => return Ok(Err(error.to_string())),
        };
        let answered = match delivery.responder() {
            Some(responder) => {
                let (content_type, encoding) = guess(&answer);
                let reply = responder.reply_bytes(answer).content_type(content_type);
                reply.content_encoding(encoding).await.map(drop)
            }
            None => Ok(()),
        };
        Ok(answered.map_err(|error| format!("it can't be answered: {error}")))
    }

    fn start(&self, delivery: &Delivery) -> std::io::Result<Child> {
        let (program, arguments) = self
            .command
            .split_first()
            .ok_or_else(|| std::io::Error::other("no program"))?;
        let mut command = Command::new(program);
        let asks = delivery.reply_to().is_some();
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(match asks {
                true => Stdio::piped(),
                false => Stdio::inherit(),
            })
            .kill_on_drop(true)
            .env("KOMBU_QUEUE", self.queue.as_str())
            .env("KOMBU_ATTEMPT", delivery.attempt().to_string());
        // Credentials are nothing that a program for messages needs.
        command.env_remove("KOMBU_URL");
        // Ctrl-C is ours: programs end their work first.
        #[cfg(unix)]
        command.process_group(0);
        let texts = [
            ("KOMBU_EXCHANGE", Some(delivery.exchange().as_str())),
            ("KOMBU_ROUTING_KEY", Some(delivery.routing_key().as_str())),
            ("KOMBU_CONTENT_TYPE", delivery.content_type()),
            ("KOMBU_MESSAGE_ID", delivery.message_id()),
            ("KOMBU_TYPE", delivery.kind()),
        ];
        for (name, value) in texts {
            match value.filter(|value| is_possible(value)) {
                Some(value) => command.env(name, value),
                // That of another message, if this is run for one.
                None => command.env_remove(name),
            };
        }
        for (name, value) in delivery.headers() {
            let text = match value.as_str() {
                Some(text) => text.to_owned(),
                None => serde_json::to_string(value).unwrap_or_default(),
            };
            if is_possible(&text) {
                command.env(variable(name), text);
            }
        }
        command.spawn()
    }

    async fn wait(&self, mut child: Child, body: &[u8]) -> std::io::Result<(ExitStatus, Vec<u8>)> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // Who doesn't read it to its end has seen enough.
                let _ = stdin.write_all(body).await;
            }
        };
        let read = async {
            let mut answer = Vec::new();
            if let Some(stdout) = stdout {
                stdout
                    .take(LARGEST_ANSWER + 1)
                    .read_to_end(&mut answer)
                    .await?;
            }
            match answer.len() as u64 > LARGEST_ANSWER {
                true => Err(std::io::Error::other("the answer is too large")),
                false => Ok(answer),
            }
        };
        // Together: a program may write before it has read everything.
        let ((), answer) = tokio::join!(feed, read);
        let answer = answer?;
        Ok((child.wait().await?, answer))
    }
}

fn joined(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|error| Err(Failure::new(Code::Failed, error.to_string())))
}

/// Whether an environment can have such a value.
fn is_possible(value: &str) -> bool {
    !value.contains('\0')
}

/// What a header is called in an environment: `x-trace id` is `KOMBU_HEADER_X_TRACE_ID`.
fn variable(header: &str) -> String {
    let name = header.chars().map(|letter| match letter {
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_uppercase(),
        _ => '_',
    });
    "KOMBU_HEADER_".chars().chain(name).collect()
}

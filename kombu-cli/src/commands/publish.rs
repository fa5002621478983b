use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use kombu::{Content, DeliveryMode, Exchange, FieldValue, Producer, Published, Receipt, Timestamp};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::Context;
use crate::failure::{Code, Failure, Result};
use crate::input::{Input, Lines, STANDARD_INPUT};
use crate::place::{TIME, duration};
use crate::record;
use crate::target::Target;

/// Publishes that aren't confirmed yet.
const WINDOW: usize = 1_000;
/// What the bodies of those may come to.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;

/// Publish messages, and wait until the broker has them
///
/// Bodies are the arguments, or files, or standard input. What is JSON is sent as application/json, other text as text/plain, and
/// everything else as application/data, unless --content-type or --serializer says otherwise.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  kombu declare queue jobs
  kombu publish -q jobs '{\"id\": 7}'
  kombu publish -e media -k video.new -H tenant=7 --file cat.webm --content-type video/webm
  seq 100 | kombu publish -q jobs --lines --rate 50
  kombu consume jobs --json > recording.jsonl; kombu publish --record --file recording.jsonl")]
pub(crate) struct Publish {
    #[command(flatten)]
    target: Target,
    /// The messages; without any, standard input is one
    #[arg(value_name = "BODY", conflicts_with = "file")]
    bodies: Vec<String>,
    /// Each of these files is a message; - is standard input
    #[arg(long, short, value_name = "FILE", num_args = 1..)]
    file: Vec<PathBuf>,
    /// Each line of standard input, or of the files, is a message
    #[arg(long, conflicts_with = "bodies")]
    lines: bool,
    /// Each line is a message as `consume --json` writes it; it goes where it went, unless -q, -e or -k says otherwise
    #[arg(long, conflicts_with_all = ["bodies", "lines"])]
    record: bool,
    /// Publish each message so often
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    repeat: u64,
    /// At most so many messages per second
    #[arg(long, value_name = "PER SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Fail if a message reaches no queue; it always does where a queue is named
    #[arg(long)]
    mandatory: bool,
    #[command(flatten)]
    content: Properties,
}

/// What the messages have beside their bodies.
#[derive(Args, Debug)]
struct Properties {
    /// A header, for example tenant=7; what is JSON is sent as the value that it stands for
    #[arg(long, short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<(String, FieldValue)>,
    /// The content type, in place of the one that the body suggests
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["serializer", "record"])]
    content_type: Option<String>,
    /// Send JSON bodies by this serializer: msgpack, yaml, json
    #[arg(long, value_name = "NAME", conflicts_with = "record")]
    serializer: Option<String>,
    /// Compress: zlib, bzip2, zstd
    #[arg(long, value_name = "NAME")]
    compression: Option<String>,
    /// The priority
    #[arg(long)]
    priority: Option<u8>,
    /// How long a message may wait in a queue
    #[arg(long, value_name = TIME, value_parser = duration)]
    expiration: Option<Duration>,
    /// How long a message stays invisible
    #[arg(long, value_name = TIME, value_parser = duration)]
    delay: Option<Duration>,
    /// Don't have the broker keep the message on disk
    #[arg(long)]
    transient: bool,
    /// The correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// The queue that an answer goes to
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// The message id
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// What kind of message it is: AMQP's type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The application that publishes
    #[arg(long, value_name = "NAME")]
    app_id: Option<String>,
    /// When the message was made, in seconds since 1970; without a value now
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "now", value_parser = timestamp)]
    timestamp: Option<Timestamp>,
}

/// So many per second.
pub(crate) fn rate(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a rate is a number above 0".to_owned()),
    }
}

pub(crate) fn header(text: &str) -> std::result::Result<(String, FieldValue), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "a header is NAME=VALUE".to_owned())?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| FieldValue::from(value));
    Ok((name.to_owned(), value))
}

fn timestamp(text: &str) -> std::result::Result<Timestamp, String> {
    match text {
        "now" => Ok(Timestamp::now()),
        _ => text
            .parse()
            .map(Timestamp::from_secs)
            .map_err(|_| "a time is a number of seconds since 1970".to_owned()),
    }
}

/// Has something happen at most so often.
pub(crate) struct Pace {
    apart: Option<Duration>,
    next: Instant,
}

/// Timers are coarse: what they cost is made up for, and a longer wait isn't.
const MADE_UP: Duration = Duration::from_millis(100);

impl Pace {
    pub(crate) fn new(rate: Option<f64>) -> Self {
        Pace {
            apart: rate.and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok()),
            next: Instant::now(),
        }
    }

    /// Waits until it may happen. Cancel safe.
    pub(crate) async fn wait(&self) {
        if self.apart.is_some() {
            sleep_until(self.next).await;
        }
    }

    /// It happened.
    pub(crate) fn step(&mut self) {
        let Some(apart) = self.apart else {
            return;
        };
        let now = Instant::now();
        let earliest = now.checked_sub(MADE_UP).unwrap_or(now);
        let next = self.next.max(earliest).checked_add(apart);
        // Less often than once in the clock's lifetime is never again.
        self.next = next.unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()));
    }
}

/// What became of the messages.
#[derive(Default, Serialize)]
struct Totals {
    published: u64,
    /// Of those, by how many no queue was reached.
    unrouted: u64,
    /// Of those, how many may be there twice, since the connection was lost.
    resent: u64,
}

impl Publish {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let is_addressed = self.target.key().is_some() || self.target.exchange.is_some();
        if !self.record && !is_addressed {
            return Err(Failure::usage(
                "where to? Give a queue with -q, or an exchange with -e and a key with -k",
            ));
        }
        let mut input = self.input();
        let connection = context.connect().await?;
        let producer = self.target.open(&connection).await?;
        let template = self.content.template(&connection)?;
        let total = match &input {
            Input::Arguments(bodies) => Some((bodies.len() as u64).saturating_mul(self.repeat)),
            Input::Files(files) => Some((files.len() as u64).saturating_mul(self.repeat)),
            _ => None,
        };
        let bar = context.output.progress(total, "published");
        let mut totals = Totals::default();
        let mut window = Window::default();
        let sent = async {
            let mut pace = Pace::new(self.rate);
            loop {
                let body = tokio::select! {
                    biased;
                    () = context.stop.asked() => return Ok(()),
                    // What was refused ends it before somebody has written more.
                    published = window.first(), if input.waits() && !window.is_empty() => {
                        window.count(published, &mut totals)?;
                        bar.set_position(totals.published);
                        continue;
                    }
                    body = input.next() => body?,
                };
                let Some(body) = body else {
                    return Ok(());
                };
                let content = template.content(body, self.record);
                let content = content.map_err(|failure| match input.place() {
                    Some(place) => failure.about(&place),
                    None => failure,
                })?;
                for _ in 0..self.repeat {
                    tokio::select! {
                        biased;
                        () = context.stop.asked() => return Ok(()),
                        () = pace.wait() => pace.step(),
                    }
                    while window.is_full(content.body().len()) {
                        window.confirm(&mut totals).await?;
                        bar.set_position(totals.published);
                    }
                    let receipt = self.send(&producer, &content, &template).await?;
                    window.push(receipt, content.body().len());
                }
            }
        };
        let sent: Result<()> = sent.await;
        let confirmed = window.confirm_all(&mut totals).await;
        bar.finish_and_clear();
        let closed = connection.close().await;
        let Totals {
            published,
            unrouted,
            resent,
        } = totals;
        let mut sentence = format!("{published} published");
        if unrouted > 0 {
            sentence.push_str(&format!(", of which {unrouted} reached no queue"));
        }
        if resent > 0 {
            sentence.push_str(&format!(
                ", of which {resent} may be there twice, since the connection was lost"
            ));
        }
        let reported = context.output.summary(&totals, &sentence);
        sent?;
        confirmed?;
        closed?;
        if context.stop.is_asked() {
            return Err(Failure::interrupted(
                "ended before everything was published",
            ));
        }
        reported
    }

    fn input(&self) -> Input {
        if self.lines || self.record {
            return Input::Lines(match self.file.is_empty() {
                true => Lines::of_standard_input(),
                false => Lines::of_files(self.file.clone()),
            });
        }
        if !self.file.is_empty() {
            return Input::Files(self.file.clone().into());
        }
        match self.bodies.is_empty() {
            true => Input::Files([STANDARD_INPUT.into()].into()),
            false => Input::Arguments(self.bodies.clone().into()),
        }
    }

    async fn send(
        &self,
        producer: &Producer,
        content: &Content,
        template: &Template,
    ) -> Result<Receipt> {
        let mut publish = producer.forward(content);
        // A recording goes back to where it came from.
        if self.target.queue.is_none()
            && self.target.exchange.is_none()
            && !content.exchange().is_empty()
        {
            publish = publish.exchange(&Exchange::topic(content.exchange()));
        }
        if let Some(key) = self.target.key() {
            publish = publish.routing_key(key);
        }
        if let Some(compression) = &template.compression {
            publish = publish.compression(compression);
        }
        if let Some(delay) = template.delay {
            publish = publish.delay(delay);
        }
        if self.mandatory {
            publish = publish.mandatory();
        }
        Ok(publish.send().await?)
    }
}

/// Sets a property that is text.
type Setter = fn(&mut Content, &str);

/// What all messages have in common.
struct Template {
    content: Content,
    codec: Option<kombu::serializers::Codec>,
    compression: Option<String>,
    delay: Option<Duration>,
}

impl Properties {
    fn template(&self, connection: &kombu::Connection) -> Result<Template> {
        let mut content = Content::new("".into(), "".into(), Bytes::new());
        for (name, value) in &self.header {
            content.headers_mut().insert(name.as_str(), value.clone());
        }
        content
            .headers()
            .check()
            .map_err(|error| Failure::from(error).about("--header"))?;
        if let Some(kind) = &self.content_type {
            content.set_content_type(kind.as_str());
        }
        if self.transient {
            content.set_delivery_mode(DeliveryMode::Transient);
        }
        if let Some(priority) = self.priority {
            content.set_priority(priority);
        }
        if self.expiration.is_some() {
            content.set_expiration(self.expiration);
        }
        if let Some(timestamp) = self.timestamp {
            content.set_timestamp(timestamp);
        }
        let texts: [(&Option<String>, Setter); 5] = [
            (&self.correlation_id, |content, id| {
                content.set_correlation_id(id)
            }),
            (&self.reply_to, |content, queue| content.set_reply_to(queue)),
            (&self.message_id, |content, id| content.set_message_id(id)),
            (&self.kind, |content, kind| content.set_kind(kind)),
            (&self.app_id, |content, name| content.set_app_id(name)),
        ];
        for (value, set) in texts {
            if let Some(value) = value {
                set(&mut content, value);
            }
        }
        let codec = match &self.serializer {
            Some(name) => {
                let codec = connection.serializers().by_name(name);
                Some(codec.map_err(kombu::Error::from)?)
            }
            None => None,
        };
        Ok(Template {
            content,
            codec,
            compression: self.compression.clone(),
            delay: self.delay,
        })
    }
}

impl Template {
    /// The message of this body, or of this record.
    fn content(&self, body: Vec<u8>, is_record: bool) -> Result<Content> {
        if is_record {
            return self.recorded(&body);
        }
        let mut content = self.content.clone();
        if let Some(codec) = &self.codec {
            let value: serde_json::Value = serde_json::from_slice(&body).map_err(|error| {
                Failure::usage(format!(
                    "what is sent by the serializer `{}` is written as JSON: {error}",
                    codec.name()
                ))
            })?;
            let encoded = codec.encode(&value).map_err(kombu::Error::from)?;
            content.set_body(encoded);
            content.set_content_type(codec.content_type());
            content.set_content_encoding(codec.content_encoding());
            return Ok(content);
        }
        if content.content_type().is_none() {
            let (kind, encoding) = guess(&body);
            content.set_content_type(kind);
            content.set_content_encoding(encoding);
        }
        content.set_body(body);
        Ok(content)
    }

    /// A record keeps what it has; what the arguments say comes on top.
    fn recorded(&self, line: &[u8]) -> Result<Content> {
        let line =
            std::str::from_utf8(line).map_err(|_| Failure::usage("a record is a line of UTF-8"))?;
        let mut content = record::read(line)?;
        for (name, value) in self.content.headers() {
            content.headers_mut().insert(name.clone(), value.clone());
        }
        if let Some(priority) = self.content.priority() {
            content.set_priority(priority);
        }
        if self.content.expiration().is_some() {
            content.set_expiration(self.content.expiration());
        }
        if self.content.delivery_mode() == DeliveryMode::Transient {
            content.set_delivery_mode(DeliveryMode::Transient);
        }
        if let Some(timestamp) = self.content.timestamp() {
            content.set_timestamp(timestamp);
        }
        let texts: [(Option<&str>, Setter); 5] = [
            (self.content.correlation_id(), |content, id| {
                content.set_correlation_id(id)
            }),
            (self.content.reply_to(), |content, queue| {
                content.set_reply_to(queue)
            }),
            (self.content.message_id(), |content, id| {
                content.set_message_id(id)
            }),
            (self.content.kind(), |content, kind| content.set_kind(kind)),
            (self.content.app_id(), |content, name| {
                content.set_app_id(name)
            }),
        ];
        for (value, set) in texts {
            if let Some(value) = value {
                set(&mut content, value);
            }
        }
        Ok(content)
    }
}

/// The content type and encoding that a body suggests.
pub(crate) fn guess(body: &[u8]) -> (&'static str, &'static str) {
    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        ("application/json", "utf-8")
    } else if std::str::from_utf8(body).is_ok() {
        ("text/plain", "utf-8")
    } else {
        ("application/data", "binary")
    }
}

/// Publishes that aren't confirmed yet, in order.
#[derive(Default)]
struct Window {
    receipts: VecDeque<(Receipt, usize)>,
    bytes: usize,
}

impl Window {
    fn is_full(&self, next: usize) -> bool {
        self.receipts.len() >= WINDOW
            || (!self.receipts.is_empty() && self.bytes + next > WINDOW_BYTES)
    }

    fn push(&mut self, receipt: Receipt, bytes: usize) {
        self.bytes += bytes;
        self.receipts.push_back((receipt, bytes));
    }

    fn is_empty(&self) -> bool {
        self.receipts.is_empty()
    }

    /// What the broker says to the first one, which stays until it is counted. Cancel safe.
    async fn first(&mut self) -> kombu::Result<Published> {
        match self.receipts.front_mut() {
            Some((receipt, _)) => receipt.await,
            None => std::future::pending().await,
        }
    }

    /// Counts the first one, whose answer this is.
    fn count(&mut self, answer: kombu::Result<Published>, totals: &mut Totals) -> Result<()> {
        if let Some((_, bytes)) = self.receipts.pop_front() {
            self.bytes -= bytes;
        }
        let published = answer?;
        totals.published += 1;
        totals.unrouted += u64::from(!published.routed);
        totals.resent += u64::from(published.resent);
        Ok(())
    }

    /// Waits for the first one.
    async fn confirm(&mut self, totals: &mut Totals) -> Result<()> {
        let answer = self.first().await;
        self.count(answer, totals)
    }

    /// Waits for all, those too behind one that failed, and answers the first failure.
    async fn confirm_all(&mut self, totals: &mut Totals) -> Result<()> {
        let mut first = Ok(());
        while !self.receipts.is_empty() {
            let confirmed = self.confirm(totals).await;
            first = first.and(confirmed);
        }
        first.map_err(|failure: Failure| match failure {
            Failure::Because(code, message) if code == Code::NotFound => {
                Failure::new(code, format!("a message reached nobody: {message}"))
            }
            failure => failure,
        })
    }
}

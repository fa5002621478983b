//! async-nats 0.51 against JetStream, by the strategies that get the most out of it.
//!
//! A publish that is awaited with its answer costs a round trip; with many unanswered, they are written together. A consumer
//! that is read by `messages()` has a pull under way all the time, and an acknowledgement is sent without an answer.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::time::Instant;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use crate::laps;
use crate::sample::{BODY, WINDOW};

/// The queues of a fanout.
pub const QUEUES: usize = 10;

/// Messages of a pull.
const BATCH: usize = 200;
const STREAM: &str = "raw";

type Failure = Box<dyn Error + Send + Sync>;
type Outcome = Result<(), Box<dyn Error>>;

fn subject(number: usize) -> String {
    format!("raw.{number}")
}

/// Removes what the cases leave, and makes the streams of this side.
pub async fn prepare(url: &str) -> Outcome {
    let context = connect(url).await?;
    let names: Vec<String> = context.stream_names().try_collect().await?;
    for name in names {
        context.delete_stream(name).await?;
    }
    for number in 0..QUEUES {
        let config = Config {
            name: format!("{STREAM}-{number}"),
            subjects: vec![subject(number)],
            retention: RetentionPolicy::WorkQueue,
            duplicate_window: std::time::Duration::from_secs(45),
            ..Config::default()
        };
        context.create_stream(config).await?;
    }
    Ok(())
}

/// The same, with so many messages in a stream.
pub async fn fill(url: &str, messages: u64) -> Outcome {
    prepare(url).await?;
    publish(url, messages).await
}

/// Publishes with an id, a thousand of them without an answer.
pub async fn publish(url: &str, messages: u64) -> Outcome {
    let context = connect(url).await?;
    joined(tokio::spawn(in_flight(context, messages, 1)).await)
}

/// The same in turn to ten streams.
pub async fn publish_to_ten(url: &str, messages: u64) -> Outcome {
    let context = connect(url).await?;
    joined(tokio::spawn(in_flight(context, messages, QUEUES)).await)
}

async fn in_flight(context: Context, messages: u64, streams: usize) -> Result<(), Failure> {
    let subjects: Vec<_> = (0..streams).map(subject).collect();
    let mut under_way: VecDeque<PublishAckFuture> = VecDeque::new();
    for number in 0..messages {
        if under_way.len() == WINDOW
            && let Some(answer) = under_way.pop_front()
        {
            answer.await?;
        }
        let subject = subjects[number as usize % streams].clone();
        under_way.push_back(start(&context, subject, number).await?);
    }
    for answer in under_way {
        answer.await?;
    }
    Ok(())
}

async fn start(
    context: &Context,
    subject: String,
    number: u64,
) -> Result<PublishAckFuture, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "Nats-Msg-Id",
        format!("{:x}-{number:x}", 0x1234_5678_9abc_u64),
    );
    let body = Bytes::from_static(BODY);
    Ok(context.publish_with_headers(subject, headers, body).await?)
}

/// Publishes one at a time.
pub async fn publish_usual(url: &str, messages: u64) -> Outcome {
    let context = connect(url).await?;
    let publishing = tokio::spawn(async move {
        for number in 0..messages {
            start(&context, subject(0), number).await?.await?;
        }
        Ok(())
    });
    joined(publishing.await)
}

/// Reads by pulls of two hundred, and acks each message without waiting.
pub async fn consume(url: &str, messages: u64) -> Outcome {
    let context = connect(url).await?;
    let consumer = consumer(&context).await?;
    let reading = tokio::spawn(async move {
        let mut arrivals = messages_of(&consumer).await?.take(messages as usize);
        let mut count = 0;
        while let Some(message) = arrivals.next().await {
            message?.ack().await?;
            count += 1;
        }
        match count == messages {
            true => Ok(()),
            false => Err(io::Error::other("the stream is empty").into()),
        }
    });
    joined(reading.await)?;
    context.client().flush().await?;
    Ok(())
}

/// Publishes to a consumer that waits, one message at a time, over a connection for each.
pub async fn handover(url: &str, messages: u64) -> Outcome {
    let (publishing, consuming) = (connect(url).await?, connect(url).await?);
    let consumer = consumer(&consuming).await?;
    let (arrived, mut there) = tokio::sync::mpsc::channel(1);
    let consumer = tokio::spawn(async move {
        let mut arrivals = messages_of(&consumer).await?.take(messages as usize);
        while let Some(message) = arrivals.next().await {
            let message = message?;
            if arrived.send(()).await.is_err() {
                break;
            }
            message.ack().await?;
        }
        Ok(())
    });
    let publisher = tokio::spawn(async move {
        for number in 0..messages {
            let begin = Instant::now();
            start(&publishing, subject(0), number).await?.await?;
            there.recv().await;
            laps::done_since(begin);
        }
        Ok(())
    });
    joined(publisher.await)?;
    joined(consumer.await)
}

/// Questions one after the other: each is published into a stream that a server consumes, and its answer to an inbox.
pub async fn call(url: &str, calls: u64) -> Outcome {
    const ANSWERS: &str = "_INBOX.raw";
    let (asking, serving) = (connect(url).await?, connect(url).await?);
    let consumer = consumer(&serving).await?;
    let server = tokio::spawn(async move {
        let client = serving.client();
        let mut questions = messages_of(&consumer).await?;
        while let Some(question) = questions.next().await {
            let question = question?;
            client.publish(ANSWERS, question.payload.clone()).await?;
            question.ack().await?;
        }
        Ok::<_, Failure>(())
    });
    let caller = tokio::spawn(async move {
        let mut answers = asking.client().subscribe(ANSWERS).await?;
        for number in 0..calls {
            let begin = Instant::now();
            let stored = start(&asking, subject(0), number).await?;
            answers.next().await.ok_or("the server has gone")?;
            stored.await?;
            laps::done_since(begin);
        }
        Ok(())
    });
    let ended = joined(caller.await);
    server.abort();
    ended
}

/// The same without a stream, as NATS' own requests are.
pub async fn request(url: &str, calls: u64) -> Outcome {
    const QUESTIONS: &str = "core-questions";
    let (asking, serving) = (connect(url).await?, connect(url).await?);
    let client = serving.client();
    let mut questions = client.subscribe(QUESTIONS).await?;
    client.flush().await?;
    let server = tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let inbox = question.reply.ok_or("nobody asks")?;
            client.publish(inbox, question.payload).await?;
        }
        Ok::<_, Failure>(())
    });
    let caller = tokio::spawn(async move {
        let client = asking.client();
        for _ in 0..calls {
            let begin = Instant::now();
            client.request(QUESTIONS, Bytes::from_static(BODY)).await?;
            laps::done_since(begin);
        }
        Ok(())
    });
    let ended = joined(caller.await);
    server.abort();
    ended
}

async fn consumer(context: &Context) -> Result<PullConsumer, Box<dyn Error>> {
    let stream = context.get_stream(format!("{STREAM}-0")).await?;
    let config = pull::Config {
        durable_name: Some("c".to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: -1,
        ..pull::Config::default()
    };
    Ok(stream.create_consumer(config).await?)
}

async fn messages_of(consumer: &PullConsumer) -> Result<pull::Stream, Failure> {
    Ok(consumer
        .stream()
        .max_messages_per_batch(BATCH)
        .messages()
        .await?)
}

async fn connect(url: &str) -> Result<Context, Box<dyn Error>> {
    Ok(jetstream::new(async_nats::connect(url).await?))
}

fn joined(ended: Result<Result<(), Failure>, tokio::task::JoinError>) -> Outcome {
    match ended? {
        Ok(()) => Ok(()),
        Err(problem) => Err(problem.to_string().into()),
    }
}

//! redis 1.8 against Redis, by the strategies that get the most out of it.
//!
//! A command that is awaited by itself costs a round trip; with many under way on one connection, they are written together, and
//! a pipeline makes one write of many. A stream read by a group keeps what is unsettled on the server, as kombu does, but
//! neither priorities, nor a time to live, nor dead letters.

use std::error::Error;
use std::io;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, AsyncConnectionConfig, Client, RedisResult};

use crate::laps;
use crate::sample::{BODY, QUEUE, WINDOW};

/// Commands of one pipeline, and messages that are read at once.
pub const BATCH: usize = 100;

const STREAM: &str = "kombu-bench-stream";
const GROUP: &str = "group";

type Outcome = Result<(), Box<dyn Error>>;

/// A message as kombu writes it: the body in base64, without headers.
fn element() -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let body: String = BODY
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| HEX[usize::from(half)] as char)
        .collect();
    let encoded = &body[..BODY.len().div_ceil(3) * 4];
    format!(
        "{{\"body\": \"{encoded}\", \"content-encoding\": \"binary\", \"content-type\": \"application/data\", \"headers\": {{}}, \
         \"properties\": {{\"delivery_mode\": 2, \"delivery_info\": {{\"exchange\": \"\", \"routing_key\": \"{QUEUE}\"}}, \
         \"body_encoding\": \"base64\", \"delivery_tag\": \"fb6c66a5-5f1e-4dc5-a24c-204a043396f9\"}}}}"
    )
    .into_bytes()
}

/// Removes what the cases leave.
pub async fn prepare(url: &str) -> Outcome {
    let mut connection = connect(url).await?;
    redis::cmd("FLUSHDB").exec_async(&mut connection).await?;
    Ok(())
}

/// The same, with so many messages in a stream that a group reads.
pub async fn fill(url: &str, messages: u64) -> Outcome {
    prepare(url).await?;
    let mut connection = connect(url).await?;
    let created: RedisResult<()> = connection.xgroup_create_mkstream(STREAM, GROUP, "0").await;
    created?;
    let element = element();
    let mut left = messages;
    while left > 0 {
        let mut pipeline = redis::pipe();
        for _ in 0..left.min(1000) {
            pipeline.xadd(STREAM, "*", &[("m", &element[..])]).ignore();
        }
        left -= left.min(1000);
        pipeline.exec_async(&mut connection).await?;
    }
    Ok(())
}

/// Pushes, with a thousand pushes under way on one connection.
pub async fn publish(url: &str, messages: u64) -> Outcome {
    let connection = connect(url).await?;
    tokio::spawn(in_flight(connection, messages)).await??;
    Ok(())
}

async fn in_flight(connection: MultiplexedConnection, messages: u64) -> RedisResult<()> {
    let element = element();
    let mut under_way = FuturesUnordered::new();
    for _ in 0..messages {
        if under_way.len() == WINDOW
            && let Some(answer) = under_way.next().await
        {
            answer?;
        }
        let (mut connection, element) = (connection.clone(), &element);
        under_way.push(async move {
            redis::cmd("LPUSH")
                .arg(QUEUE)
                .arg(&element[..])
                .exec_async(&mut connection)
                .await
        });
    }
    while let Some(answer) = under_way.next().await {
        answer?;
    }
    Ok(())
}

/// Pushes one at a time.
pub async fn publish_usual(url: &str, messages: u64) -> Outcome {
    let mut connection = connect(url).await?;
    let pushing = tokio::spawn(async move {
        let element = element();
        for _ in 0..messages {
            redis::cmd("LPUSH")
                .arg(QUEUE)
                .arg(&element[..])
                .exec_async(&mut connection)
                .await?;
        }
        RedisResult::Ok(())
    });
    Ok(pushing.await??)
}

/// Pushes in pipelines of a hundred.
pub async fn publish_batch(url: &str, messages: u64) -> Outcome {
    let mut connection = connect(url).await?;
    let pushing = tokio::spawn(async move {
        let element = element();
        let mut left = messages as usize;
        while left > 0 {
            let mut pipeline = redis::pipe();
            for _ in 0..left.min(BATCH) {
                pipeline.cmd("LPUSH").arg(QUEUE).arg(&element[..]).ignore();
            }
            left -= left.min(BATCH);
            pipeline.exec_async(&mut connection).await?;
        }
        RedisResult::Ok(())
    });
    Ok(pushing.await??)
}

/// Reads a stream by a group, a hundred messages at a time, and acks each hundred by one command.
pub async fn consume(url: &str, messages: u64) -> Outcome {
    let mut connection = connect(url).await?;
    let reading = tokio::spawn(async move {
        let options = StreamReadOptions::default()
            .group(GROUP, "one")
            .count(BATCH);
        let mut left = messages;
        while left > 0 {
            let answer: Option<StreamReadReply> = connection
                .xread_options(&[STREAM], &[">"], &options)
                .await?;
            let read = answer.into_iter().flat_map(|answer| answer.keys);
            let ids: Vec<String> = read.flat_map(|key| key.ids).map(|entry| entry.id).collect();
            if ids.is_empty() {
                return Err(io::Error::other("the stream is empty").into());
            }
            left = left.saturating_sub(ids.len() as u64);
            let acked: RedisResult<()> = connection.xack(STREAM, GROUP, &ids).await;
            acked?;
        }
        Ok::<(), Box<dyn Error + Send + Sync>>(())
    });
    match reading.await? {
        Ok(()) => Ok(()),
        Err(problem) => Err(problem.to_string().into()),
    }
}

/// Pushes to a consumer that waits, one message at a time, over a connection for each.
pub async fn handover(url: &str, messages: u64) -> Outcome {
    let (mut pushing, mut popping) = (connect(url).await?, connect(url).await?);
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
    let consumer = tokio::spawn(async move {
        for _ in 0..messages {
            redis::cmd("BRPOP")
                .arg(QUEUE)
                .arg(0)
                .exec_async(&mut popping)
                .await?;
            if arrived.send(()).await.is_err() {
                break;
            }
        }
        RedisResult::Ok(())
    });
    let publisher = tokio::spawn(async move {
        let element = element();
        for _ in 0..messages {
            let begin = Instant::now();
            redis::cmd("LPUSH")
                .arg(QUEUE)
                .arg(&element[..])
                .exec_async(&mut pushing)
                .await?;
            arrivals.recv().await;
            laps::done_since(begin);
        }
        RedisResult::Ok(())
    });
    publisher.await??;
    Ok(consumer.await??)
}

async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(None);
    Client::open(url)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Questions one after the other: each is pushed to a list that a server pops, and its answer to another one.
pub async fn call(url: &str, calls: u64) -> Outcome {
    const ANSWERS: &str = "kombu-bench-answers";
    let (pushing, mut popping) = (connect(url).await?, connect(url).await?);
    let (mut answering, mut questions) = (connect(url).await?, connect(url).await?);
    let server = tokio::spawn(async move {
        loop {
            let popped: Option<(String, Vec<u8>)> = redis::cmd("BRPOP")
                .arg(QUEUE)
                .arg(10)
                .query_async(&mut questions)
                .await?;
            let Some((_, question)) = popped else {
                return RedisResult::Ok(());
            };
            redis::cmd("LPUSH")
                .arg(ANSWERS)
                .arg(question)
                .exec_async(&mut answering)
                .await?;
        }
    });
    let asking = tokio::spawn(async move {
        let (element, mut pushing) = (element(), pushing);
        for _ in 0..calls {
            let begin = Instant::now();
            redis::cmd("LPUSH")
                .arg(QUEUE)
                .arg(&element[..])
                .exec_async(&mut pushing)
                .await?;
            let answer: Option<(String, Vec<u8>)> = redis::cmd("BRPOP")
                .arg(ANSWERS)
                .arg(10)
                .query_async(&mut popping)
                .await?;
            debug_assert!(answer.is_some());
            laps::done_since(begin);
        }
        RedisResult::Ok(())
    });
    asking.await??;
    server.abort();
    Ok(())
}

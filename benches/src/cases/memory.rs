//! Publish, deliver and ack on `memory://`, against a channel of the same capacity; one publish to many queues, against
//! many.

use kombu::{Connection, Exchange, Name, Queue};
use kombu_bench_raw::channel::{self, CAPACITY};
use kombu_bench_raw::sample::{BODY, Video, video};

use super::{Case, Limit, Outcome, nothing, on};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "memory/publish-consume-ack",
            bar: 0.28,
            count: 1_000_000,
            prepare: nothing(),
            ours: Box::new(|count| on(2, publish_consume_ack(count))),
            limit: Limit::side(|count| on(2, channel::bytes(count))),
        },
        Case {
            name: "memory/json",
            bar: 0.8,
            count: 200_000,
            prepare: nothing(),
            ours: Box::new(|count| on(1, json(count))),
            limit: Limit::side(|count| on(1, channel::json(count))),
        },
        Case {
            name: "memory/fanout-100",
            bar: 0.5,
            count: 500_000,
            prepare: nothing(),
            ours: Box::new(|count| on(1, to_all_queues(count))),
            limit: Limit::side(|count| on(1, to_each_queue(count))),
        },
    ]
}

async fn open() -> kombu::Result<(Connection, Queue)> {
    let connection = kombu::connect("memory://").await?;
    Ok((connection, Queue::new("bench")))
}

async fn publish_consume_ack(messages: u64) -> Outcome {
    let (connection, queue) = open().await?;
    let mut consumer = connection
        .consumer(&queue)
        .prefetch(CAPACITY as u32)
        .await?;
    let producer = connection
        .producer(Exchange::default())
        .routing_key("bench")
        .await?;
    let publishing = tokio::spawn(async move {
        for _ in 0..messages {
            producer.publish_bytes(&BODY[..]).await?;
        }
        kombu::Result::Ok(())
    });
    let consuming = tokio::spawn(async move {
        let mut received = 0;
        while received < messages {
            let Some(delivery) = consumer.try_next().await? else {
                break;
            };
            received += u64::from(delivery.body().len() == BODY.len());
            delivery.ack().await?;
        }
        kombu::Result::Ok(received)
    });
    publishing.await??;
    check(consuming.await??, messages)
}

async fn json(messages: u64) -> Outcome {
    let (connection, queue) = open().await?;
    let mut consumer = connection
        .consumer(&queue)
        .prefetch(CAPACITY as u32)
        .await?;
    let producer = connection
        .producer(Exchange::default())
        .routing_key("bench")
        .await?;
    let publishing = tokio::spawn(async move {
        let video = video();
        for _ in 0..messages {
            producer.publish(&video).await?;
        }
        kombu::Result::Ok(())
    });
    let consuming = tokio::spawn(async move {
        let mut received = 0;
        while received < messages {
            let Some(delivery) = consumer.try_next().await? else {
                break;
            };
            received += u64::from(delivery.decode::<Video>().is_ok());
            delivery.ack().await?;
        }
        kombu::Result::Ok(received)
    });
    publishing.await??;
    check(consuming.await??, messages)
}

const QUEUES: usize = 100;

async fn open_many() -> kombu::Result<(Connection, Exchange, Vec<Name>)> {
    let connection = kombu::connect("memory://").await?;
    let (exchange, mut names) = (Exchange::fanout("bench"), Vec::new());
    for index in 0..QUEUES {
        let queue = Queue::new(format!("bench-{index}")).bind(&exchange, "");
        connection.declare_queue(&queue).await?;
        names.push(queue.name().clone());
    }
    Ok((connection, exchange, names))
}

/// Stores so many messages, a hundred with each publish.
async fn to_all_queues(messages: u64) -> Outcome {
    let (connection, exchange, names) = open_many().await?;
    let producer = connection.producer(&exchange).await?;
    for _ in 0..messages / QUEUES as u64 {
        producer.publish_bytes(&BODY[..]).await?;
    }
    check(stored(&connection, &names).await?, messages)
}

/// The same messages in the same queues, each published by itself.
async fn to_each_queue(messages: u64) -> Outcome {
    let (connection, _, names) = open_many().await?;
    let producer = connection.producer(Exchange::default()).await?;
    for name in names.iter().cycle().take(messages as usize) {
        producer.publish_bytes(&BODY[..]).routing_key(name).await?;
    }
    check(stored(&connection, &names).await?, messages)
}

async fn stored(connection: &Connection, queues: &[Name]) -> kombu::Result<u64> {
    let mut stored = 0;
    for queue in queues {
        stored += connection.queue_info(queue).await?.ready;
    }
    Ok(stored)
}

fn check(received: u64, sent: u64) -> Outcome {
    if received == sent {
        Ok(())
    } else {
        Err(format!("{sent} were to arrive, {received} did").into())
    }
}

//! Publish, deliver and ack on `memory://`, against a channel of the same capacity.

use kombu::{Connection, Exchange, Queue};
use kombu_bench_raw::channel::{self, CAPACITY};
use kombu_bench_raw::sample::{BODY, Video, video};

use super::{Case, Limit, Outcome, on};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "memory/publish-consume-ack",
            bar: 0.28,
            count: 1_000_000,
            ours: Box::new(|count| on(2, publish_consume_ack(count))),
            limit: Limit::side(|count| on(2, channel::bytes(count))),
        },
        Case {
            name: "memory/json",
            bar: 0.8,
            count: 200_000,
            ours: Box::new(|count| on(1, json(count))),
            limit: Limit::side(|count| on(1, channel::json(count))),
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

fn check(received: u64, sent: u64) -> Outcome {
    if received == sent {
        Ok(())
    } else {
        Err(format!("sent {sent}, received {received}").into())
    }
}

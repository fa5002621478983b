//! Publishing and consuming on RabbitMQ, against lapin by the strategies that get the most out of it; and those against
//! their naive forms, without which they would be no limit.

use std::collections::VecDeque;
use std::future::Future;

use kombu::{Connection, Consumer, DeclareMode, Exchange, Producer, Queue};
use kombu_bench_raw::amqp::{self as raw, QUEUE, WINDOW};
use kombu_bench_raw::sample::BODY;

use super::{Case, Limit, Outcome, Side, on};

/// Where RabbitMQ is; without it there are no cases. `scripts/bench` starts one.
const URL: &str = "KOMBU_TEST_AMQP_URL";

pub(super) fn cases() -> Vec<Case> {
    let Ok(url) = std::env::var(URL) else {
        return Vec::new();
    };
    let url = &*url.leak();
    vec![
        Case {
            name: "amqp/publish-confirmed",
            bar: 0.95,
            count: 30_000,
            prepare: side(url, empty),
            ours: side(url, publish),
            limit: Limit::Side(side(url, raw::publish)),
        },
        Case {
            name: "amqp/publish-usual",
            bar: 1.12,
            count: 20_000,
            prepare: side(url, empty),
            ours: side(url, publish),
            limit: Limit::Side(side(url, raw::publish_usual)),
        },
        Case {
            name: "amqp/consume-ack",
            bar: 0.95,
            count: 30_000,
            prepare: side(url, raw::fill),
            ours: side(url, consume),
            limit: Limit::Side(side(url, raw::consume)),
        },
        Case {
            name: "amqp/both",
            bar: 0.95,
            count: 30_000,
            prepare: side(url, empty),
            ours: side(url, both),
            limit: Limit::Side(side(url, raw::both)),
        },
        Case {
            name: "raw/amqp-publish",
            bar: 1.2,
            count: 20_000,
            prepare: side(url, empty),
            ours: side(url, raw::publish),
            limit: Limit::Side(side(url, raw::publish_usual)),
        },
        Case {
            name: "raw/amqp-consume",
            bar: 1.2,
            count: 20_000,
            prepare: side(url, raw::fill),
            ours: side(url, raw::consume),
            limit: Limit::Side(side(url, raw::consume_usual)),
        },
    ]
}

fn side<F>(url: &'static str, run: impl Fn(&'static str, u64) -> F + 'static) -> Side
where
    F: Future<Output = Outcome> + 'static,
{
    Box::new(move |count| on(2, run(url, count)))
}

async fn empty(url: &str, _: u64) -> Outcome {
    raw::prepare(url).await
}

async fn publish(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let producer = open_producer(&connection).await?;
    tokio::spawn(send(producer, messages)).await??;
    Ok(connection.close().await?)
}

async fn consume(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let consumer = open_consumer(&connection).await?;
    tokio::spawn(ack(consumer, messages)).await??;
    Ok(connection.close().await?)
}

async fn both(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let consumer = open_consumer(&connection).await?;
    let producer = open_producer(&connection).await?;
    let publishing = tokio::spawn(send(producer, messages));
    let consuming = tokio::spawn(ack(consumer, messages));
    publishing.await??;
    consuming.await??;
    Ok(connection.close().await?)
}

async fn open_producer(connection: &Connection) -> kombu::Result<Producer> {
    connection
        .producer(Exchange::default())
        .routing_key(QUEUE)
        .await
}

async fn open_consumer(connection: &Connection) -> kombu::Result<Consumer> {
    connection
        .consumer(&Queue::new(QUEUE))
        .declare(DeclareMode::Never)
        .prefetch(WINDOW as u32)
        .await
}

async fn send(producer: Producer, messages: u64) -> kombu::Result<()> {
    let mut receipts = VecDeque::new();
    for _ in 0..messages {
        if receipts.len() == WINDOW
            && let Some(receipt) = receipts.pop_front()
        {
            receipt.await?;
        }
        receipts.push_back(producer.publish_bytes(&BODY[..]).send().await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

async fn ack(mut consumer: Consumer, messages: u64) -> kombu::Result<()> {
    for _ in 0..messages {
        let Some(delivery) = consumer.try_next().await? else {
            break;
        };
        delivery.ack().await?;
    }
    Ok(())
}

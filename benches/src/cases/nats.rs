//! Publishing and consuming on NATS, against async-nats by the strategies that get the most out of it; and those against their
//! naive forms, without which they would be no limit.

use std::collections::VecDeque;
use std::future::Future;

use kombu::{Connection, Consumer, Exchange, Producer, Queue};
use kombu_bench_raw::nats::{self as raw, QUEUE, QUEUES, WINDOW};
use kombu_bench_raw::sample::BODY;

use super::{Case, Limit, Outcome, Side, on};

/// Where NATS is; without it there are no cases. `scripts/bench` starts one. Its streams are deleted.
const URL: &str = "KOMBU_TEST_NATS_URL";

pub(super) fn cases() -> Vec<Case> {
    let Ok(url) = std::env::var(URL) else {
        return Vec::new();
    };
    let url = &*url.leak();
    vec![
        Case {
            name: "nats/publish",
            bar: 0.85,
            count: 200_000,
            prepare: side(url, empty),
            ours: side(url, publish),
            limit: Limit::Side(side(url, raw::publish)),
        },
        Case {
            name: "nats/publish-topic",
            bar: 0.7,
            count: 200_000,
            prepare: side(url, empty),
            ours: side(url, publish_topic),
            limit: Limit::Side(side(url, raw::publish)),
        },
        Case {
            name: "nats/fanout-10",
            bar: 0.75,
            count: 200_000,
            prepare: side(url, empty),
            ours: side(url, fan_out),
            limit: Limit::Side(side(url, raw::publish_to_ten)),
        },
        Case {
            name: "nats/consume-ack",
            bar: 0.85,
            count: 200_000,
            prepare: side(url, fill),
            ours: side(url, consume),
            limit: Limit::Side(side(url, raw::consume)),
        },
        Case {
            // 1.3 times the raw latency.
            name: "nats/handover",
            bar: 0.769,
            count: 5_000,
            prepare: side(url, empty),
            ours: side(url, handover),
            limit: Limit::Side(side(url, raw::handover)),
        },
        Case {
            // 2 times the raw latency.
            name: "nats/handover-topic",
            bar: 0.5,
            count: 5_000,
            prepare: side(url, empty),
            ours: side(url, handover_topic),
            limit: Limit::Side(side(url, raw::handover)),
        },
        Case {
            name: "raw/nats-publish",
            bar: 1.2,
            count: 20_000,
            prepare: side(url, empty),
            ours: side(url, raw::publish),
            limit: Limit::Side(side(url, raw::publish_usual)),
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

/// Both what we read and what the limit reads.
async fn fill(url: &str, messages: u64) -> Outcome {
    raw::fill(url, messages).await?;
    publish(url, messages).await
}

async fn publish(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let producer = open_producer(&connection).await?;
    tokio::spawn(send(producer, messages)).await??;
    Ok(connection.close().await?)
}

async fn publish_topic(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let producer = open_topic(&connection).await?;
    tokio::spawn(send(producer, messages)).await??;
    Ok(connection.close().await?)
}

/// As many messages are stored as are asked for.
async fn fan_out(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let news = Exchange::fanout("news");
    for number in 0..QUEUES {
        let queue = Queue::new(format!("{QUEUE}-{number}")).bind(&news, "");
        connection.declare_queue(&queue).await?;
    }
    let producer = connection.producer(&news).await?;
    tokio::spawn(send(producer, messages / QUEUES as u64)).await??;
    Ok(connection.close().await?)
}

async fn consume(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let consumer = open_consumer(&connection).await?;
    tokio::spawn(ack(consumer, messages)).await??;
    Ok(connection.close().await?)
}

async fn handover(url: &str, messages: u64) -> Outcome {
    let publishing = kombu::connect(url).await?;
    let producer = open_producer(&publishing).await?;
    hand_over(url, producer, messages).await?;
    Ok(publishing.close().await?)
}

async fn handover_topic(url: &str, messages: u64) -> Outcome {
    let publishing = kombu::connect(url).await?;
    let producer = open_topic(&publishing).await?;
    hand_over(url, producer, messages).await?;
    Ok(publishing.close().await?)
}

async fn hand_over(url: &str, producer: Producer, messages: u64) -> Outcome {
    let consuming = kombu::connect(url).await?;
    let mut consumer = open_consumer(&consuming).await?;
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
    let consumer = tokio::spawn(async move {
        for _ in 0..messages {
            let Some(delivery) = consumer.try_next().await? else {
                break;
            };
            if arrived.send(()).await.is_err() {
                break;
            }
            delivery.ack().await?;
        }
        kombu::Result::Ok(())
    });
    let publisher = tokio::spawn(async move {
        for _ in 0..messages {
            producer.publish_bytes(&BODY[..]).await?;
            arrivals.recv().await;
        }
        kombu::Result::Ok(())
    });
    publisher.await??;
    consumer.await??;
    Ok(consuming.close().await?)
}

async fn open_producer(connection: &Connection) -> kombu::Result<Producer> {
    connection.declare_queue(&Queue::new(QUEUE)).await?;
    connection
        .producer(Exchange::default())
        .routing_key(QUEUE)
        .await
}

async fn open_topic(connection: &Connection) -> kombu::Result<Producer> {
    let jobs = Exchange::topic("jobs");
    let queue = Queue::new(QUEUE).bind(&jobs, "job.*.new");
    connection.declare_queue(&queue).await?;
    connection.producer(&jobs).routing_key("job.7.new").await
}

async fn open_consumer(connection: &Connection) -> kombu::Result<Consumer> {
    connection
        .consumer(&Queue::new(QUEUE))
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

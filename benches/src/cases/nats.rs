//! Publishing and consuming on NATS, against async-nats by the strategies that get the most out of it; and those against their
//! naive forms, without which they would be no limit.

use kombu::{Connection, Exchange, Producer, Queue};
use kombu_bench_raw::nats::{self as raw, QUEUES};
use kombu_bench_raw::sample::QUEUE;

use super::program::{consume, hand_over, handover, publish, send};
use super::{Case, Limit, Outcome, side};

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

async fn empty(url: &str, _: u64) -> Outcome {
    raw::prepare(url).await
}

/// Both what we read and what the limit reads.
async fn fill(url: &str, messages: u64) -> Outcome {
    raw::fill(url, messages).await?;
    publish(url, messages).await
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

async fn handover_topic(url: &str, messages: u64) -> Outcome {
    let publishing = kombu::connect(url).await?;
    let producer = open_topic(&publishing).await?;
    hand_over(url, producer, messages).await?;
    Ok(publishing.close().await?)
}

async fn open_topic(connection: &Connection) -> kombu::Result<Producer> {
    let jobs = Exchange::topic("jobs");
    let queue = Queue::new(QUEUE).bind(&jobs, "job.*.new");
    connection.declare_queue(&queue).await?;
    connection.producer(&jobs).routing_key("job.7.new").await
}

//! Publishing and consuming on RabbitMQ, against lapin by the strategies that get the most out of it; and those against
//! their naive forms, without which they would be no limit.

use kombu_bench_raw::amqp as raw;

use super::program::{ack, consume, open_consumer, open_producer, publish, send};
use super::{Case, Limit, Outcome, side};

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

async fn empty(url: &str, _: u64) -> Outcome {
    raw::prepare(url).await
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

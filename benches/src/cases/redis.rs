//! Publishing and consuming on Redis, against redis by the strategies that get the most out of it; and those against their
//! naive forms, without which they would be no limit.

use kombu_bench_raw::redis::{self as raw, BATCH};
use kombu_bench_raw::sample::BODY;

use super::program::{consume, handover, open_producer, publish};
use super::{Case, Limit, Outcome, side};

/// Where Redis is; without it there are no cases. `scripts/bench` starts one. Its database is flushed.
const URL: &str = "KOMBU_TEST_REDIS_URL";

pub(super) fn cases() -> Vec<Case> {
    let Ok(url) = std::env::var(URL) else {
        return Vec::new();
    };
    let url = &*url.leak();
    vec![
        Case {
            name: "redis/publish",
            bar: 0.8,
            count: 200_000,
            prepare: side(url, empty),
            ours: side(url, publish),
            limit: Limit::Side(side(url, raw::publish)),
        },
        Case {
            name: "redis/publish-batch",
            bar: 0.5,
            count: 200_000,
            prepare: side(url, empty),
            ours: side(url, publish_batch),
            limit: Limit::Side(side(url, raw::publish_batch)),
        },
        Case {
            name: "redis/take-ack",
            bar: 0.6,
            count: 200_000,
            prepare: side(url, fill),
            ours: side(url, consume),
            limit: Limit::Side(side(url, raw::consume)),
        },
        Case {
            // 1.8 times the raw latency.
            name: "redis/handover",
            bar: 0.556,
            count: 5_000,
            prepare: side(url, empty),
            ours: side(url, handover),
            limit: Limit::Side(side(url, raw::handover)),
        },
        Case {
            name: "raw/redis-publish",
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

async fn publish_batch(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let producer = open_producer(&connection).await?;
    let publishing = tokio::spawn(async move {
        let mut left = messages as usize;
        while left > 0 {
            let count = left.min(BATCH);
            left -= count;
            let batch = (0..count).map(|_| producer.publish_bytes(&BODY[..]));
            for published in producer.batch(batch).await {
                published?;
            }
        }
        kombu::Result::Ok(())
    });
    publishing.await??;
    Ok(connection.close().await?)
}

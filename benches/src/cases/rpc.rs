//! Calls, one after the other and a thousand at once, and what a handler costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kombu::handler::{Attempt, Payload, Router, State};
use kombu::{Caller, Connection, Delivery, DeliveryMode, Exchange, Queue};
use kombu_bench_raw::sample::{BODY, QUEUE, WINDOW};
use kombu_bench_raw::{amqp, laps, nats, redis};
use tokio::task::JoinHandle;

use super::program::{ack, open_consumer, send};
use super::{Case, Limit, Outcome, Side, nothing, on, side};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![Case {
        name: "handler/dispatch",
        bar: 1.0,
        count: 1_000_000,
        prepare: nothing(),
        ours: Box::new(|count| on(1, dispatch(count))),
        limit: Limit::Time(Duration::from_micros(1)),
    }];
    cases.push(concurrent(
        "rpc/concurrent-memory",
        "memory://",
        100_000,
        nothing,
    ));
    if let Some(url) = url("KOMBU_TEST_AMQP_URL") {
        let prepare = move || side(url, async |url, _| amqp::prepare(url).await);
        cases.push(Case {
            // 1.2 times the raw latency.
            name: "rpc/amqp",
            bar: 0.833,
            count: 3_000,
            prepare: prepare(),
            ours: side(url, one_by_one),
            limit: Limit::Side(side(url, amqp::call)),
        });
        cases.push(concurrent("rpc/concurrent-amqp", url, 20_000, prepare));
    }
    if let Some(url) = url("KOMBU_TEST_REDIS_URL") {
        let prepare = move || side(url, async |url, _| redis::prepare(url).await);
        cases.push(Case {
            // 1.8 times the raw latency.
            name: "rpc/redis",
            bar: 0.556,
            count: 3_000,
            prepare: prepare(),
            ours: side(url, one_by_one),
            limit: Limit::Side(side(url, redis::call)),
        });
        cases.push(concurrent("rpc/concurrent-redis", url, 50_000, prepare));
    }
    if let Some(url) = url("KOMBU_TEST_NATS_URL") {
        let prepare = move || side(url, async |url, _| nats::prepare(url).await);
        cases.push(Case {
            // 1.3 times the raw latency.
            name: "rpc/nats",
            bar: 0.769,
            count: 3_000,
            prepare: prepare(),
            ours: side(url, one_by_one),
            limit: Limit::Side(side(url, nats::call)),
        });
        cases.push(Case {
            // Nothing is stored there: only to be looked at.
            name: "rpc/nats-core",
            bar: 0.0,
            count: 3_000,
            prepare: prepare(),
            ours: side(url, one_by_one),
            limit: Limit::Side(side(url, nats::request)),
        });
        cases.push(concurrent("rpc/concurrent-nats", url, 20_000, prepare));
    }
    cases
}

fn url(variable: &str) -> Option<&'static str> {
    let url = std::env::var(variable).ok()?;
    Some(url.leak())
}

/// A thousand calls at once, against publishing and consuming as many messages.
fn concurrent(
    name: &'static str,
    url: &'static str,
    count: u64,
    prepare: impl Fn() -> Side,
) -> Case {
    Case {
        name,
        bar: 0.4,
        count,
        prepare: prepare(),
        ours: side(url, at_once),
        limit: Limit::Side(side(url, publish_and_consume)),
    }
}

/// Somebody who sends back what comes.
async fn echo(url: &str) -> kombu::Result<(Connection, JoinHandle<kombu::Result<()>>)> {
    let connection = kombu::connect(url).await?;
    let server = echo_on(&connection).await?;
    Ok((connection, server))
}

async fn echo_on(connection: &Connection) -> kombu::Result<JoinHandle<kombu::Result<()>>> {
    connection.declare_queue(&Queue::new(QUEUE)).await?;
    let router = Router::new().fallback(async |question: Delivery| {
        if let Some(responder) = question.responder() {
            responder.reply_bytes(question.body().clone()).await?;
        }
        question.ack().await
    });
    let serve = connection.serve(router).queues(&Queue::new(QUEUE));
    let serve = serve.concurrency(WINDOW).prefetch(WINDOW as u32);
    Ok(tokio::spawn(async move { serve.run().await.map(drop) }))
}

/// Both ends; on memory they have one connection, since every other one has a broker of its own.
async fn both_ends(url: &str) -> kombu::Result<(Caller, Vec<Connection>)> {
    let here = kombu::connect(url).await?;
    let there = match url.starts_with("memory") {
        true => {
            echo_on(&here).await?;
            here.clone()
        }
        false => echo(url).await?.0,
    };
    let caller = here.caller(Exchange::default()).routing_key(QUEUE).await?;
    Ok((caller, vec![here, there]))
}

async fn ask(caller: &Caller) -> Result<(), kombu::CallError> {
    let answer = caller.call_bytes::<()>(&BODY[..]).answer().await?;
    assert_eq!(answer.body().len(), BODY.len());
    Ok(())
}

async fn one_by_one(url: &'static str, calls: u64) -> Outcome {
    let (caller, connections) = both_ends(url).await?;
    let calling = tokio::spawn(async move {
        for _ in 0..calls {
            let begin = Instant::now();
            ask(&caller).await?;
            laps::done_since(begin);
        }
        Ok::<_, kombu::CallError>(())
    });
    calling.await??;
    close(connections).await
}

async fn at_once(url: &'static str, calls: u64) -> Outcome {
    let (caller, connections) = both_ends(url).await?;
    let calling = tokio::spawn(async move {
        let mut under_way = FuturesUnordered::new();
        for _ in 0..calls {
            if under_way.len() == WINDOW
                && let Some(answer) = under_way.next().await
            {
                answer?;
            }
            under_way.push(ask(&caller));
        }
        while let Some(answer) = under_way.next().await {
            answer?;
        }
        Ok::<_, kombu::CallError>(())
    });
    calling.await??;
    close(connections).await
}

async fn publish_and_consume(url: &'static str, messages: u64) -> Outcome {
    let here = kombu::connect(url).await?;
    let there = match url.starts_with("memory") {
        true => here.clone(),
        false => kombu::connect(url).await?,
    };
    let consumer = open_consumer(&there).await?;
    // As questions that are asked again.
    let producer = here
        .producer(Exchange::default())
        .delivery_mode(DeliveryMode::Transient)
        .routing_key(QUEUE)
        .await?;
    let publishing = tokio::spawn(send(producer, messages));
    let consuming = tokio::spawn(ack(consumer, messages));
    publishing.await??;
    consuming.await??;
    close(vec![here, there]).await
}

async fn close(connections: Vec<Connection>) -> Outcome {
    for connection in connections {
        connection.close().await?;
    }
    Ok(())
}

/// What a router with extractors costs, beside receiving and settling.
async fn dispatch(calls: u64) -> Outcome {
    async fn handle(
        State(offset): State<Arc<u64>>,
        Attempt(attempt): Attempt,
        Payload(number): Payload<u64>,
    ) {
        std::hint::black_box(*offset + number + u64::from(attempt));
    }

    let connection = kombu::connect("memory://").await?;
    connection.declare_queue(&Queue::new(QUEUE)).await?;
    let producer = connection.producer(Exchange::default()).await?;
    let question = producer.publish(&7).routing_key(QUEUE).kind("task");
    question.await?;
    let delivery = connection.get(QUEUE).await?.ok_or("no delivery")?;
    let mut router = Router::new().on("task", handle);
    for other in 0..20 {
        router = router.on(format!("task-{other}"), handle);
    }
    let router = router.with_state(Arc::new(7));
    for _ in 0..calls {
        let reaction = router.react(&delivery).await;
        assert!(reaction.outcome().is_some());
    }
    delivery.ack().await?;
    Ok(())
}

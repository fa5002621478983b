//! Messages that no handler can be called with. None of them ends a component, until there is no room for more.

use kombu_core::handler::{Payload, Router};
use kombu_core::{CallError, Connection, Exchange, Queue, UndecodablePolicy};
use serde::Deserialize;

use super::{Running, caller_to, log, soon, until, until_empty};
use crate::Broker;
use crate::cases::producer_to;
use crate::expect::{assert_refused, info};

#[derive(Deserialize)]
struct Job {
    number: i64,
}

async fn jobs(connection: &Connection) -> Queue {
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let queue = Queue::new("jobs")
        .dead_letter_exchange(Exchange::default().name())
        .dead_letter_routing_key("dead");
    connection.declare_queue(&queue).await.unwrap();
    queue
}

fn router() -> Router {
    Router::new().on_named("command", "job", async |Payload(job): Payload<Job>| {
        job.number
    })
}

/// No type, another type, no name, an unknown name, a body that isn't a map, one that isn't even JSON: each is
/// dead-lettered, and the next message is handled.
pub async fn what_fits_no_handler_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = jobs(&connection).await;
    let _running = Running::serving(&connection, &queue, router()).await;
    let producer = producer_to(&connection, "jobs").await;
    let text = |body: &'static str| producer.publish_text(body).content_type("application/json");
    let good = "{\"number\": 1}";
    let bad = [
        text(good),
        text(good).kind("status").header("name", "job"),
        text(good).kind("command"),
        text(good).kind("command").header("name", "nonsense"),
        text(good).kind("command").header("name", 7),
        text("\"no map\"").kind("command").header("name", "job"),
        text("{\"garb").kind("command").header("name", "job"),
        text(good)
            .kind("command")
            .header("name", "job")
            .content_type("application/x-nonsense"),
    ];
    for (count, message) in (1..).zip(bad) {
        message.await.unwrap();
        until(async || info(&connection, "dead").await.ready == count).await;
    }
    let caller = caller_to(&connection, "jobs").await;
    let call = caller
        .call_bytes::<i64>(good)
        .content_type("application/json");
    let answer = call
        .content_encoding("utf-8")
        .kind("command")
        .header("name", "job");
    assert_eq!(answer.await.unwrap(), 1);
    until_empty(&connection, "jobs").await;
}

/// Who asks for it is told, instead of waiting.
pub async fn a_question_that_fits_no_handler_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = jobs(&connection).await;
    let _running = Running::serving(&connection, &queue, router()).await;
    let caller = caller_to(&connection, "jobs").await;
    let unknown = caller
        .call::<_, i64>(&1)
        .kind("nonsense")
        .await
        .unwrap_err();
    assert!(
        matches!(&unknown, CallError::Critical { code: 400, message } if message.contains("nonsense")),
        "{unknown:?}"
    );
    let call = caller.call::<_, i64>("no map").kind("command");
    let unreadable = call.header("name", "job").await.unwrap_err();
    assert!(
        matches!(unreadable, CallError::Critical { code: 400, .. }),
        "{unreadable:?}"
    );
    until(async || info(&connection, "dead").await.ready == 2).await;
}

/// A fallback can take what nobody knows, and does away with it.
pub async fn a_fallback_takes_what_nobody_knows(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = jobs(&connection).await;
    let (seen, mut log) = log();
    let ignore = async move || seen.send(()).unwrap();
    let _running = Running::serving(&connection, &queue, router().fallback(ignore)).await;
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("nonsense").await.unwrap();
    log.next().await;
    until_empty(&connection, "jobs").await;
    assert_eq!(info(&connection, "dead").await.ready, 0);
}

/// 64 have room beside the window, and what can be handled is. When further ones fill the window there is nothing left to do.
pub async fn what_is_held_fills_the_window_and_ends_the_component(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    let serve = connection.serve(router()).queues(&queue).prefetch(2);
    let running = tokio::spawn(serve.run());
    for _ in 0..65 {
        producer.publish_text("nonsense").await.unwrap();
    }
    let caller = caller_to(&connection, "jobs").await;
    let call = caller.call_bytes::<i64>("{\"number\": 1}");
    let call = call.content_type("application/json").kind("command");
    assert_eq!(call.header("name", "job").await.unwrap(), 1);
    producer.publish_text("nonsense").await.unwrap();
    let ended = soon(running).await.unwrap();
    assert_refused(ended, kombu_core::ErrorKind::Undecodable, None);
    broker.assert_counts(&connection, "jobs", 66, 0).await;
}

/// The policy is the component's.
pub async fn a_component_may_discard_what_it_cannot_read(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let serve = connection.serve(router()).queues(&queue);
    let _running = Running::start(serve.on_undecodable(UndecodablePolicy::Reject)).await;
    let producer = producer_to(&connection, "jobs").await;
    producer.publish_text("nonsense").await.unwrap();
    until_empty(&connection, "jobs").await;
}

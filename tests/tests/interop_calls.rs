//! Python's kombu asks and answers, commands processes and is commanded: over RabbitMQ, and over Redis.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp_python, kombu_test_redis_python)),
    allow(dead_code, unused_imports)
)]

use std::time::Duration;

use kombu::handler::{Payload, Reply, Router};
use kombu::mailbox::{Arguments, Mailbox};
use kombu::{Connection, Exchange, Queue};
use kombu_testkit::Harness;
use kombu_tests::{AmqpHarness, Meeting, RedisHarness};
use serde::{Deserialize, Serialize};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Add {
    x: i64,
    y: i64,
}

/// A call, to Python, which answers by correlation id.
async fn python_answers_a_caller(harness: impl Harness) {
    let meeting = Meeting::at(harness).await;
    let inbox = Queue::new("inbox");
    meeting.connection.declare_queue(&inbox).await.unwrap();
    let python = meeting.python(&["answer", "inbox", "2"]);
    let caller = meeting.connection.caller(Exchange::default());
    let caller = caller.routing_key("inbox").timeout(PATIENCE).await.unwrap();
    for number in [4, 21] {
        let doubled: i64 = caller.call(&number).max_retries(0).await.unwrap();
        assert_eq!(doubled, number * 2);
    }
    python.end().await;
}

/// The same the other way around.
async fn a_handler_answers_python(harness: impl Harness) {
    let meeting = Meeting::at(harness).await;
    let inbox = Queue::new("inbox");
    meeting.connection.declare_queue(&inbox).await.unwrap();
    let double = async |Payload(number): Payload<i64>| Reply(number * 2);
    let serve = meeting.connection.serve(Router::new().fallback(double));
    let serving = tokio::spawn(serve.queues(&inbox).run());
    let mut python = meeting.python(&["ask", "inbox", "21"]);
    assert_eq!(python.line().await, json!(["7", 42]));
    python.end().await;
    serving.abort();
}

/// A node of ours, which Python commands. `listening` is the connection that it has.
async fn python_commands_a_node(
    meeting: &Meeting,
    listening: &Connection,
    mailbox: Mailbox,
    kind: &str,
) {
    let add = async |Arguments(Add { x, y }): Arguments<Add>| x + y;
    let fail = async || Err::<(), _>("out of paper");
    let router = Router::new().on("add", add).on("fail", fail);
    let node = mailbox.node(listening, "here", router).await.unwrap();
    let running = tokio::spawn(node.run());
    let mut python = meeting.python(&["order", "workers", kind, r#"["here"]"#]);
    for (order, reply) in [
        (json!(["add", {"x": 2, "y": 3}]), json!({"here": 5})),
        (
            json!(["fail", {}]),
            json!({"here": {"error": "Error: out of paper"}}),
        ),
    ] {
        python.tell(&order).await;
        assert_eq!(python.line().await, json!([reply]));
    }
    python.end().await;
    running.abort();
}

/// A node of Python's, which we command.
async fn a_node_of_pythons_replies(meeting: &Meeting, mailbox: Mailbox, kind: &str) {
    let mut python = meeting.python(&["node", "workers", kind, "there"]);
    assert_eq!(python.line().await, "ready");
    let mut nodes = mailbox.nodes(&meeting.connection).await.unwrap();
    let call = nodes.call::<_, i64>("add", &Add { x: 2, y: 3 });
    let replies = call.limit(1).timeout(PATIENCE).await.unwrap();
    assert_eq!(
        (replies[0].node.as_str(), &replies[0].result),
        ("there", &Ok(5))
    );
    let nothing = json!({});
    let call = nodes.call::<_, i64>("fail", &nothing).to(["there"]);
    let replies = call.timeout(PATIENCE).await.unwrap();
    let told = replies[0].result.as_ref().unwrap_err();
    assert!(told.contains("out of paper"), "{told}");
    python.end().await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn a_caller_is_answered_by_python_over_rabbitmq() {
    python_answers_a_caller(AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn a_caller_is_answered_by_python_over_redis() {
    python_answers_a_caller(RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn python_is_answered_by_a_handler_over_rabbitmq() {
    a_handler_answers_python(AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn python_is_answered_by_a_handler_over_redis() {
    a_handler_answers_python(RedisHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn nodes_are_commanded_by_python_over_rabbitmq() {
    let meeting = Meeting::at(AmqpHarness::new()).await;
    python_commands_a_node(
        &meeting,
        &meeting.connection,
        Mailbox::new("workers"),
        "direct",
    )
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn nodes_of_pythons_are_commanded_over_rabbitmq() {
    let meeting = Meeting::at(AmqpHarness::new()).await;
    a_node_of_pythons_replies(&meeting, Mailbox::new("workers"), "direct").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn nodes_as_celery_has_them_are_commanded_by_python_over_rabbitmq() {
    let meeting = Meeting::at(AmqpHarness::new()).await;
    python_commands_a_node(
        &meeting,
        &meeting.connection,
        Mailbox::new("workers").fanout(),
        "fanout",
    )
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn nodes_as_celery_has_them_of_pythons_are_commanded_over_rabbitmq() {
    let meeting = Meeting::at(AmqpHarness::new()).await;
    a_node_of_pythons_replies(&meeting, Mailbox::new("workers").fanout(), "fanout").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn nodes_are_commanded_by_python_over_redis() {
    let meeting = Meeting::at(RedisHarness::new()).await;
    python_commands_a_node(
        &meeting,
        &meeting.connection,
        Mailbox::new("workers"),
        "direct",
    )
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn nodes_of_pythons_are_commanded_over_redis() {
    let meeting = Meeting::at(RedisHarness::new()).await;
    a_node_of_pythons_replies(&meeting, Mailbox::new("workers"), "direct").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn nodes_as_celery_has_them_are_commanded_by_python_over_redis() {
    let meeting = Meeting::at(RedisHarness::new()).await;
    let url = meeting.broker.url();
    let separator = if url.contains('?') { '&' } else { '?' };
    let hearing = kombu::connect(format!("{url}{separator}fanout=kombu"));
    let hearing = hearing.await.unwrap();
    python_commands_a_node(
        &meeting,
        &hearing,
        Mailbox::new("workers").fanout(),
        "fanout",
    )
    .await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn nodes_as_celery_has_them_of_pythons_are_commanded_over_redis() {
    let meeting = Meeting::at(RedisHarness::new()).await;
    a_node_of_pythons_replies(&meeting, Mailbox::new("workers").fanout(), "fanout").await;
}

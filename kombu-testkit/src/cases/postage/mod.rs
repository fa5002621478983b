//! Messages and components of Postage.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use kombu_core::call::Failure;
use kombu_core::handler::{Exit, Outcome, Payload, Reply, Router, Serve};
use kombu_core::postage::{
    self, Content, Fingerprint, Message, Nothing, Parameters, Producer, RpcResult,
};
use kombu_core::{Connection, Consumer, ErrorKind, Exchange, Queue};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::Broker;
use crate::cases::handling::{PATIENCE, Running, log, soon, until_empty};
use crate::cases::{producer_to, publish};
use crate::expect::{collect_one, info};

fn me() -> Fingerprint {
    Fingerprint::of_process().named("tester", "service")
}

/// A producer to the queue `inbox`, which is declared.
async fn to_inbox(connection: &Connection) -> Producer {
    connection.declare_queue(&inbox()).await.unwrap();
    let producer = Producer::open(connection).to(Exchange::default(), "inbox");
    producer.fingerprint(me()).await.unwrap()
}

fn inbox() -> Queue {
    Queue::new("inbox")
}

/// The next message of the queue `inbox`, as it is written.
async fn written(connection: &Connection) -> Value {
    let delivery = connection.get("inbox").await.unwrap().unwrap();
    assert_eq!(delivery.content_type(), Some("application/json"));
    let written = delivery.decode().unwrap();
    delivery.ack().await.unwrap();
    written
}

/// Serves the queue `inbox`.
async fn serving(connection: &Connection, router: Router) -> Running {
    connection.declare_queue(&inbox()).await.unwrap();
    Running::start(component(connection, router)).await
}

fn component(connection: &Connection, router: Router) -> Serve {
    postage::serve(connection, router).queues(&inbox())
}

/// Commands, statuses, results and messages without a type, key by key.
pub async fn messages_are_written_as_postage_has_them(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let fingerprint = serde_json::to_value(me()).unwrap();
    assert_eq!(fingerprint["pid"], json!(std::process::id().to_string()));
    let expected = |kind: &str, name: Value, content: Value| {
        json!({
            "type": kind, "name": name, "category": "message", "version": 2,
            "fingerprint": fingerprint, "content": content, "_reserved": {},
        })
    };
    let parameters = json!({"depth": 3});
    producer.command("dig", parameters.clone()).await.unwrap();
    let content = json!({"parameters": parameters});
    let command = expected("command", json!("dig"), content);
    assert_eq!(written(&connection).await, command);
    producer.status("ready").await.unwrap();
    let status = expected("status", json!("ready"), json!({}));
    assert_eq!(written(&connection).await, status);
    let keywords = [("values".to_owned(), json!([1, 2]))];
    producer
        .message([json!(1), json!("str")], keywords)
        .await
        .unwrap();
    let content = json!({"args": [1, "str"], "kwds": {"values": [1, 2]}});
    assert_eq!(written(&connection).await["content"], content);
    for (result, content) in [
        (
            RpcResult::success(5),
            json!({"type": "success", "value": 5, "message": ""}),
        ),
        (
            RpcResult::Error {
                message: "no".to_owned(),
            },
            json!({"type": "error", "value": null, "message": "no"}),
        ),
        (
            RpcResult::Exception {
                name: "KeyError".to_owned(),
                message: "no".to_owned(),
            },
            json!({"type": "exception", "value": "KeyError", "message": "no"}),
        ),
    ] {
        assert_eq!(result.is_success(), content["type"] == "success");
        producer.send(Message::answer(result)).await.unwrap();
        let result = written(&connection).await;
        assert_eq!(
            (&result["type"], &result["content"]),
            (&json!("result"), &content)
        );
    }
}

/// What its builder makes, with the sender of all; without one, a command.
pub async fn a_message_is_built_by_its_name(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&inbox()).await.unwrap();
    let producer = Producer::open(&connection).to(Exchange::default(), "inbox");
    let producer = producer
        .message_builder("deep", |depth: u32| {
            Message::new("status", "digging", json!({"depth": depth}))
        })
        .rpc_builder("sum", |numbers: Vec<i64>| {
            Message::rpc_command("add", numbers)
        })
        .fingerprint(me());
    let producer = producer.await.unwrap();
    producer.named("deep", 3_u32).await.unwrap();
    let built = written(&connection).await;
    assert_eq!(
        (&built["type"], &built["name"], &built["content"]),
        (&json!("status"), &json!("digging"), &json!({"depth": 3}))
    );
    assert_eq!(built["fingerprint"], serde_json::to_value(me()).unwrap());
    // That of a call isn't that of a message.
    producer.named("sum", vec![1, 2]).await.unwrap();
    let command = written(&connection).await;
    assert_eq!(
        (&command["type"], &command["name"], &command["category"]),
        (&json!("command"), &json!("sum"), &json!("message"))
    );
    assert_eq!(command["content"], json!({"parameters": [1, 2]}));
    let refused = producer.named("deep", "very").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Encode);
    let (mut causes, mut cause) = (String::new(), refused.source());
    while let Some(error) = cause {
        causes += &error.to_string();
        cause = error.source();
    }
    assert!(causes.contains("`deep` takes `u32`"), "{refused:?}");

    let add = async |Content(command): Content<Parameters<Vec<i64>>>| {
        command.parameters.iter().sum::<i64>()
    };
    let router = Router::new()
        .on_named("command", "add", add)
        .on_named("command", "divide", divide);
    let _running = serving(&connection, router).await;
    let sum = producer.rpc_named::<_, i64>("sum", vec![1_i64, 2]);
    assert_eq!(sum.timeout(PATIENCE).await.unwrap().value(), Some(3));
    let quotient = producer.rpc_named::<_, i64>("divide", [6, 3]);
    assert_eq!(quotient.timeout(PATIENCE).await.unwrap().value(), Some(2));
}

/// Versions as text, processes as numbers, no name, keys that nobody knows.
pub async fn what_others_write_is_read(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&inbox()).await.unwrap();
    let producer = producer_to(&connection, "inbox").await;
    for version in [json!("2"), json!(2)] {
        let message = json!({
            "type": "command", "name": "dig", "category": "rpc", "version": version, "_reserved": {"x": 1},
            "fingerprint": {"name": "old", "pid": 7, "colour": "blue"},
            "content": {"parameters": {"depth": 3}, "more": true}, "extra": null,
        });
        producer.publish(&message).await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        let read = delivery.decode::<Message<Parameters<BTreeMap<String, i64>>>>();
        let read = read.unwrap();
        assert_eq!((read.version, read.category), (2, postage::Category::Rpc));
        assert_eq!(read.fingerprint.pid.as_deref(), Some("7"));
        assert_eq!(read.content.parameters["depth"], 3);
        delivery.ack().await.unwrap();
    }
    let wrong = json!({"type": "command", "category": "other", "content": {}});
    producer.publish(&wrong).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert!(delivery.decode::<Message<Nothing>>().is_err());
    delivery.ack().await.unwrap();
}

/// The process, the user and the virtual host, or whatever the program has in their place.
pub async fn every_message_says_who_sent_it(broker: &Broker) {
    #[derive(Clone, Serialize)]
    struct Badge {
        number: u32,
    }
    let connection = broker.connect().await;
    connection.declare_queue(&inbox()).await.unwrap();
    let open = || Producer::open(&connection).to(Exchange::default(), "inbox");
    let producer = open().await.unwrap();
    producer.status("ready").await.unwrap();
    let fingerprint = written(&connection).await["fingerprint"].take();
    let keys: Vec<_> = fingerprint.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["host", "name", "pid", "type", "user", "vhost"]);
    assert_eq!(fingerprint["name"], Value::Null);
    assert_eq!(fingerprint["pid"], json!(std::process::id().to_string()));
    let virtual_host = connection.target().virtual_host().as_str();
    assert_eq!(fingerprint["vhost"], json!(virtual_host));
    let producer = open().fingerprint(Badge { number: 7 }).await.unwrap();
    producer.command("dig", Nothing {}).await.unwrap();
    let fingerprint = written(&connection).await["fingerprint"].take();
    assert_eq!(fingerprint, json!({"number": 7}));
}

/// To all pairs of exchange and key; with a key of its own to the first exchange; with a list of its own to that, whatever
/// its key.
pub async fn a_message_goes_to_every_destination(broker: &Broker) {
    let connection = broker.connect().await;
    let (one, two) = (Exchange::direct("one"), Exchange::direct("two"));
    let queues = ["a", "b", "c"].map(Queue::new);
    let [a, b, c] = &queues;
    for queue in [
        a.clone().bind(&one, "a"),
        b.clone().bind(&two, "b"),
        c.clone().bind(&one, "c"),
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = Producer::open(&connection).to(&one, "a").to(&two, "b");
    let producer = producer.await.unwrap();
    let counts = async || {
        let mut counts = Vec::new();
        for queue in ["a", "b", "c"] {
            counts.push(connection.purge(queue).await.unwrap());
        }
        counts
    };
    producer.status("ready").await.unwrap();
    assert_eq!(counts().await, [1, 1, 0]);
    producer.status("ready").routing_key("c").await.unwrap();
    assert_eq!(counts().await, [0, 0, 1]);
    let listed = producer.status("ready").routing_key("c");
    for answer in listed.destinations([(&two, "b"), (&one, "c")]).await {
        answer.unwrap();
    }
    assert_eq!(counts().await, [0, 1, 1]);
}

/// In its sender's name, byte by byte.
pub async fn a_message_is_forwarded_in_its_senders_name(broker: &Broker) {
    let connection = broker.connect().await;
    let body = r#"{"type":"status","name":"ready", "category":"message","fingerprint":{"x":1},"content":{}}"#;
    let mut consumer = connection.consumer(&Queue::new("first")).await.unwrap();
    publish(&connection, "first", [body]).await;
    let forwarding = to_inbox(&connection).await;
    let delivery = collect_one(&mut consumer).await;
    forwarding.forward(&delivery).await.unwrap();
    delivery.ack().await.unwrap();
    let copy = connection.get("inbox").await.unwrap().unwrap();
    assert_eq!(copy.body().as_ref(), body.as_bytes());
    copy.ack().await.unwrap();
}

/// Found by type and name; what the message carries, or all of it.
pub async fn handlers_get_the_content_or_the_message(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let content = {
        let seen = seen.clone();
        async move |Content(command): Content<Parameters<Vec<i64>>>| {
            seen.send(json!(command.parameters)).unwrap();
        }
    };
    let whole = async move |Payload(status): Payload<Message<Nothing>>| {
        seen.send(json!([status.name, status.fingerprint.name]))
            .unwrap();
    };
    let router = Router::new()
        .on_named("command", "sum", content)
        .on("status", whole);
    let _running = serving(&connection, router).await;
    let producer = to_inbox(&connection).await;
    producer.command("sum", [1, 2]).await.unwrap();
    assert_eq!(log.next().await, json!([1, 2]));
    producer.status("ready").await.unwrap();
    assert_eq!(log.next().await, json!(["ready", "tester"]));
    until_empty(&connection, "inbox").await;
}

/// Of the same type and name: what is to be answered has a handler of its own, and what has none goes to that of both.
pub async fn messages_and_calls_of_one_name_have_handlers_of_their_own(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let router = Router::new()
        .on_named("command", "dig", async move || {
            seen.send(()).unwrap();
            "a message"
        })
        .on_named("rpc command", "dig", async || "a call")
        .on_named("command", "rest", async || "either");
    let _running = serving(&connection, router).await;
    let producer = to_inbox(&connection).await;
    for (name, answer) in [("dig", "a call"), ("rest", "either")] {
        let call = producer.rpc::<_, String>(name, Nothing {});
        let result = call.timeout(PATIENCE).await.unwrap();
        assert_eq!(result, RpcResult::success(answer.to_owned()));
    }
    assert!(log.is_empty());
    producer.command("dig", Nothing {}).await.unwrap();
    log.next().await;
    until_empty(&connection, "inbox").await;
}

/// Bodies that aren't maps, messages without a type, categories that aren't any, names that nobody knows.
fn no_messages() -> [Value; 5] {
    let mut without_a_type = message("", "dig", "message");
    without_a_type.as_object_mut().unwrap().remove("type");
    [
        json!([1, 2]),
        json!("text"),
        without_a_type,
        message("command", "dig", "other"),
        message("command", "unknown", "message"),
    ]
}

fn message(kind: &str, name: &str, category: &str) -> Value {
    json!({"type": kind, "name": name, "category": category, "content": {}})
}

/// Each is refused, and the component goes on.
pub async fn what_is_no_message_ends_no_component(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let queue = inbox()
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    connection.declare_queue(&queue).await.unwrap();
    let (seen, mut log) = log();
    let router = Router::new().on_named("command", "dig", async move || {
        seen.send(()).unwrap();
    });
    let serve = postage::serve(&connection, router).queues(&queue);
    let _running = Running::start(serve).await;
    let producer = producer_to(&connection, "inbox").await;
    for (count, wrong) in (1..).zip(no_messages()) {
        producer.publish(&wrong).await.unwrap();
        crate::cases::handling::until(async || info(&connection, "dead").await.ready == count)
            .await;
    }
    assert!(log.is_empty());
    let right = message("command", "dig", "message");
    producer.publish(&right).await.unwrap();
    log.next().await;
}

/// Where nothing keeps it, it is gone; and so is what its handler failed with.
pub async fn what_is_no_message_fills_no_window(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let router = Router::new()
        .on_named("command", "dig", async move || {
            seen.send(()).unwrap();
        })
        .on_named("command", "fail", async || Err::<(), _>("no"));
    let _running = serving(&connection, router).await;
    let producer = producer_to(&connection, "inbox").await;
    for wrong in no_messages() {
        producer.publish(&wrong).await.unwrap();
    }
    for name in ["fail", "dig"] {
        let message = message("command", name, "message");
        producer.publish(&message).await.unwrap();
    }
    log.next().await;
    until_empty(&connection, "inbox").await;
}

async fn divide(
    Content(command): Content<Parameters<[i64; 2]>>,
) -> Result<Message<RpcResult<i64>>, &'static str> {
    let [dividend, divisor] = command.parameters;
    if divisor == 0 {
        return Ok(Message::answer(RpcResult::Error {
            message: "division by zero".to_owned(),
        }));
    }
    match dividend.checked_rem(divisor) {
        Some(0) => Ok(Message::result(dividend / divisor)),
        _ => Err("no whole number"),
    }
}

/// With what it came to: a value, an error, or what the handler failed with.
pub async fn a_call_brings_a_result(broker: &Broker) {
    let connection = broker.connect().await;
    let router = Router::new()
        .on_named("command", "divide", divide)
        .on_named("command", "panic", async || {
            if true {
                panic!("on fire");
            }
        });
    let _running = serving(&connection, router).await;
    let producer = to_inbox(&connection).await;
    let call = |dividend, divisor| {
        let rpc = producer.rpc::<_, i64>("divide", [dividend, divisor]);
        rpc.timeout(PATIENCE)
    };
    assert_eq!(call(6, 3).await.unwrap(), RpcResult::success(2));
    let message = "division by zero".to_owned();
    assert_eq!(call(6, 0).await.unwrap(), RpcResult::Error { message });
    let failed = call(6, 4).await.unwrap();
    assert!(
        matches!(&failed, RpcResult::Exception { message, .. } if message == "no whole number"),
        "{failed:?}"
    );
    for name in ["panic", "unknown"] {
        let failed = producer.rpc::<_, i64>(name, Nothing {}).timeout(PATIENCE);
        let failed = failed.await.unwrap();
        assert!(matches!(failed, RpcResult::Exception { .. }), "{failed:?}");
    }
    assert_eq!(call(8, 4).await.unwrap(), RpcResult::success(2));
    until_empty(&connection, "inbox").await;
}

/// A caller of Postage's reads what went wrong in the body, and needs no headers.
pub async fn a_failure_is_an_exception_in_the_body(broker: &Broker) {
    let connection = broker.connect().await;
    let router = Router::new().on_named("command", "divide", divide);
    let _running = serving(&connection, router).await;
    let mut answers = connection.consumer(&Queue::new("answers")).await.unwrap();
    let producer = producer_to(&connection, "inbox").await;
    let command = Message::rpc_command("divide", [6, 4]);
    let publish = producer.publish(&command);
    publish
        .reply_to("answers")
        .correlation_id("c-1")
        .await
        .unwrap();
    let answer = collect_one(&mut answers).await;
    assert_eq!(answer.correlation_id(), Some("c-1"));
    let content = answer.decode::<Value>().unwrap()["content"].take();
    assert_eq!(content["type"], "exception");
    assert_eq!(content["message"], "no whole number");
    assert_eq!(content["value"], "Error");
    answer.ack().await.unwrap();
}

/// Asks for this command at the queue `inbox`, and waits for its answer, as it is written.
async fn ask(producer: &kombu_core::Producer, answers: &mut Consumer, name: &str) -> Value {
    let command = Message::rpc_command(name, Nothing {});
    let publish = producer.publish(&command).reply_to("answers");
    publish.correlation_id(name).await.unwrap();
    let answer = collect_one(answers).await;
    assert_eq!(answer.correlation_id(), Some(name));
    let answered: Value = answer.decode().unwrap();
    assert_eq!(answered["type"], "result");
    answer.ack().await.unwrap();
    answered
}

/// A value is a success, nothing is one too, and a message is what it is; whoever answers says who it is.
pub async fn what_a_handler_returns_is_a_result(broker: &Broker) {
    let connection = broker.connect().await;
    let router = Router::new()
        .on_named("command", "five", async || 5)
        .on_named("command", "nothing", async || {})
        .on_named("command", "list", async || Reply([1, 2]))
        .on_named("command", "message", async || Message::result("done"))
        .on_named("command", "signed", async || {
            Message::result("done").from("somebody")
        })
        .on_named("command", "refuse", async || RpcResult::<()>::Error {
            message: "no".to_owned(),
        })
        .on_named("command", "fail", async || {
            Err::<(), _>(Failure::application("Late", "no"))
        });
    connection.declare_queue(&inbox()).await.unwrap();
    let serve = postage::serve_as(&connection, me(), router);
    let _running = Running::start(serve.queues(&inbox())).await;
    let mut answers = connection.consumer(&Queue::new("answers")).await.unwrap();
    let producer = producer_to(&connection, "inbox").await;
    let success = |value: Value| json!({"type": "success", "value": value, "message": ""});
    for (name, expected) in [
        ("five", success(json!(5))),
        ("nothing", success(Value::Null)),
        ("list", success(json!([1, 2]))),
        ("message", success(json!("done"))),
        ("signed", success(json!("done"))),
        (
            "refuse",
            json!({"type": "error", "value": null, "message": "no"}),
        ),
        (
            "fail",
            json!({"type": "exception", "value": "Late", "message": "no"}),
        ),
    ] {
        let answered = ask(&producer, &mut answers, name).await;
        assert_eq!(answered["content"], expected);
        let sender = match name {
            "signed" => json!("somebody"),
            _ => serde_json::to_value(me()).unwrap(),
        };
        assert_eq!(answered["fingerprint"], sender);
    }
    let call = to_inbox(&connection).await;
    let five = call.rpc::<_, i64>("five", Nothing {}).timeout(PATIENCE);
    assert_eq!(five.await.unwrap(), RpcResult::success(5));
}

/// With a window of one message it has no more than what it works on.
pub async fn a_busy_component_leaves_the_rest_to_the_other(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let (seen, mut slowly) = log();
    let stuck = async move || {
        seen.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    let router = Router::new().on_named("command", "dig", stuck);
    let slow = component(&broker.connect().await, router).prefetch(1);
    let _slow = Running::start(slow).await;
    producer.command("dig", Nothing {}).await.unwrap();
    slowly.next().await;
    let (seen, mut fast) = log();
    let digging = async move || seen.send(()).unwrap();
    let router = Router::new().on_named("command", "dig", digging);
    let other = component(&broker.connect().await, router).prefetch(1);
    let _other = Running::start(other).await;
    for _ in 0..5 {
        producer.command("dig", Nothing {}).await.unwrap();
    }
    for _ in 0..5 {
        fast.next().await;
    }
    assert!(slowly.is_empty());
}

/// It comes before the handler ends, which answers nothing more, whatever it comes to.
pub async fn an_early_answer_is_a_result(broker: &Broker) {
    let connection = broker.connect().await;
    let cleaning = Arc::new(Notify::new());
    let (seen, mut log) = log();
    let until = cleaning.clone();
    let early = async move |responder: postage::Responder| {
        responder.reply(5).await?;
        until.notified().await;
        seen.send(json!("cleaned up")).unwrap();
        Err::<(), _>(kombu_core::Error::new(ErrorKind::Protocol, "too late"))
    };
    let refuse = async |responder: postage::Responder| {
        let message = "no".to_owned();
        let answering = responder.answer(RpcResult::<()>::Error { message });
        answering.await.map(drop)
    };
    let fail = async |responder: postage::Responder| {
        let answering = responder.fail(Failure::application("Late", "no"));
        answering.await.map(drop)
    };
    let router = Router::new()
        .on_named("command", "early", early)
        .on_named("command", "refuse", refuse)
        .on_named("command", "fail", fail);
    connection.declare_queue(&inbox()).await.unwrap();
    let serve = postage::serve_as(&connection, me(), router);
    let _running = Running::start(serve.queues(&inbox())).await;
    let mut answers = connection.consumer(&Queue::new("answers")).await.unwrap();
    let producer = producer_to(&connection, "inbox").await;
    for (name, expected) in [
        (
            "early",
            json!({"type": "success", "value": 5, "message": ""}),
        ),
        (
            "refuse",
            json!({"type": "error", "value": null, "message": "no"}),
        ),
        (
            "fail",
            json!({"type": "exception", "value": "Late", "message": "no"}),
        ),
    ] {
        let answered = ask(&producer, &mut answers, name).await;
        assert_eq!(answered["content"], expected);
        assert_eq!(answered["fingerprint"], serde_json::to_value(me()).unwrap());
        if name == "early" {
            assert!(log.is_empty());
            cleaning.notify_one();
            assert_eq!(log.next().await, json!("cleaned up"));
        }
    }
    until_empty(&connection, "inbox").await;
    broker.assert_silent(&mut answers).await;
}

/// Nobody, a number for a name, a text: an answer is one whoever it says that it comes from, and so is a command.
pub async fn who_sent_a_message_may_be_anything(broker: &Broker) {
    let connection = broker.connect().await;
    let router = Router::new().fallback(
        async |Payload(command): Payload<Message<Parameters<Value>>>| {
            let fingerprint = command.content.parameters;
            Reply(json!({
                "type": "result", "category": "message", "fingerprint": fingerprint,
                "content": {"type": "success", "value": 7},
            }))
        },
    );
    connection.declare_queue(&inbox()).await.unwrap();
    let _running = Running::serving(&connection, &inbox(), router).await;
    for fingerprint in [
        Value::Null,
        json!({"name": 7, "pid": [1]}),
        json!("me"),
        json!(["me"]),
    ] {
        let producer = Producer::open(&connection).to(Exchange::default(), "inbox");
        let producer = producer.fingerprint(fingerprint.clone()).await.unwrap();
        let call = || producer.rpc::<_, i64>("seven", fingerprint.clone());
        let called = call().timeout(PATIENCE).await.unwrap();
        assert_eq!(called.value(), Some(7), "{fingerprint}");
        let mut asked = call().ask().await.unwrap();
        let answer = asked.answer(PATIENCE).await.unwrap();
        assert_eq!(answer.content.value(), Some(7), "{fingerprint}");
        asked.close().await.unwrap();
    }
}

/// As many commands as retries say, with one message id, and then an exception of that name.
pub async fn a_call_that_nobody_answers_is_a_timeout_error(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let timeout = Duration::from_millis(50);
    let call = producer.rpc::<_, i64>("divide", [6, 3]).timeout(timeout);
    let result = call.max_retries(2).await.unwrap();
    assert!(
        matches!(&result, RpcResult::Exception { name, .. } if name == "TimeoutError"),
        "{result:?}"
    );
    broker.assert_counts(&connection, "inbox", 3, 0).await;
}

/// It is an error that says so.
pub async fn an_answer_that_is_none_is_an_error(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&inbox()).await.unwrap();
    let router = Router::new().fallback(async || "garbage");
    let _running = Running::serving(&connection, &inbox(), router).await;
    let producer = to_inbox(&connection).await;
    let call = producer.rpc::<_, i64>("divide", [6, 3]).timeout(PATIENCE);
    let result = call.await.unwrap();
    assert!(
        matches!(&result, RpcResult::Error { message } if message.starts_with("Malformed reply")),
        "{result:?}"
    );
}

/// Where they wait, several if several answer, with a correlation id or without.
pub async fn results_come_to_a_queue_of_their_own(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let mut asked = producer.rpc::<_, i64>("sum", [1, 2]).ask().await.unwrap();
    let question = connection.get("inbox").await.unwrap().unwrap();
    assert_eq!(question.reply_to(), Some(asked.queue().as_str()));
    let answers = producer_to(&connection, asked.queue().as_str()).await;
    for value in [3, 4] {
        let result = Message::result(value);
        answers.publish(&result).await.unwrap();
    }
    question.ack().await.unwrap();
    let results = asked.gather(2, PATIENCE).await.unwrap();
    let values = results.into_iter().map(|result| result.unwrap().content);
    let values: Vec<_> = values.filter_map(RpcResult::value).collect();
    assert_eq!(values, [3, 4]);
    asked.close().await.unwrap();
}

/// Unless it has handlers of its own for them.
pub async fn a_component_obeys_quit_and_restart(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    for (name, exit) in [("quit", Exit::Quit), ("restart", Exit::Restart)] {
        let mut running = serving(&connection, Router::new()).await;
        producer.command(name, Nothing {}).await.unwrap();
        assert_eq!(soon(running.ended()).await, exit);
        broker.assert_counts(&connection, "inbox", 0, 0).await;
    }
    let router = Router::new()
        .on_named("command", "quit", async || {})
        .on_named("command", "stop", async || Outcome::Quit);
    let mut running = serving(&connection, router).await;
    for name in ["quit", "stop"] {
        producer.command(name, Nothing {}).await.unwrap();
    }
    assert_eq!(soon(running.ended()).await, Exit::Quit);
    broker.assert_counts(&connection, "inbox", 0, 0).await;
}

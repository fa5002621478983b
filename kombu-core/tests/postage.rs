//! Messages of Postage, as values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "postage")]

use std::fmt::Debug;

use kombu::postage::{Category, Fingerprint, Message, Nothing, Producer, RpcResult};
use kombu::{Exchange, Queue};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[test]
fn host_and_process_are_a_components_own() {
    let me = Fingerprint::of_process().named("resizer", "worker");
    let pid = std::process::id().to_string();
    let (host, process) = me.key().unwrap();
    assert_eq!(process, pid);
    assert!(!host.is_empty());
    assert_eq!(
        me.as_tuple()[..3],
        [Some("resizer"), Some("worker"), Some(pid.as_str())]
    );
    assert_eq!(Fingerprint::default().key(), None);
}

#[test]
fn messages_are_equal_if_what_they_say_is() {
    let ping = || Message::command("ping", Nothing {});
    assert_eq!(ping(), ping());
    assert_ne!(ping(), Message::command("pong", Nothing {}));
    assert_ne!(ping(), Message::rpc_command("ping", Nothing {}));
    assert_ne!(ping().from("me"), ping().from("you"));
    assert_ne!(Message::result(1), Message::result(2));
}

#[test]
fn a_call_is_a_command_of_the_category_rpc() {
    let command = Message::rpc_command("sum", [1, 2]);
    assert_eq!(command.category, Category::Rpc);
    let written = serde_json::to_value(&command).unwrap();
    assert_eq!(
        (&written["type"], &written["category"]),
        (&json!("command"), &json!("rpc"))
    );
    assert_eq!(written["content"], json!({"parameters": [1, 2]}));
}

#[test]
fn a_category_that_is_none_is_refused() {
    let wrong = json!({"type": "command", "category": "other", "content": {}});
    let read = serde_json::from_value::<Message<Nothing>>(wrong);
    assert!(read.unwrap_err().to_string().contains("`message` or `rpc`"));
}

#[test]
fn results_are_read_as_they_are_written() {
    for result in [
        RpcResult::success(3),
        RpcResult::Error {
            message: "no".to_owned(),
        },
        RpcResult::Exception {
            name: "KeyError".to_owned(),
            message: "no".to_owned(),
        },
    ] {
        let message = Message::answer(result);
        let written = serde_json::to_string(&message).unwrap();
        assert_eq!(
            serde_json::from_str::<Message<RpcResult<i32>>>(&written).unwrap(),
            message
        );
    }
}

/// As Postage's own encoder writes it: `json.dumps` of Python, the version and the process as text, `none` for no name.
fn golden(kind: &str, name: &str, category: &str, content: &str) -> String {
    format!(
        r#"{{"type": "{kind}", "name": "{name}", "category": "{category}", "version": "2", "fingerprint": {{"name": "pinger", "type": "example", "pid": "4242", "host": "alpha", "user": "joe", "vhost": "/"}}, "content": {content}, "_reserved": {{}}}}"#
    )
}

fn pinger() -> Fingerprint {
    let mut pinger = Fingerprint::default().named("pinger", "example");
    for (field, value) in [
        (&mut pinger.pid, "4242"),
        (&mut pinger.host, "alpha"),
        (&mut pinger.user, "joe"),
        (&mut pinger.vhost, "/"),
    ] {
        *field = Some(value.to_owned());
    }
    pinger
}

/// Reads Postage's text as the message, and writes the message as Postage does, but for the version, which is a number here.
fn assert_golden<C>(text: &str, message: Message<C>)
where
    C: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let message = message.from(pinger());
    let read: Message<C> = serde_json::from_str(text).unwrap();
    assert_eq!(read, message);
    let mut expected: Value = serde_json::from_str(text).unwrap();
    expected["version"] = json!(2);
    assert_eq!(serde_json::to_value(&message).unwrap(), expected);
}

#[test]
fn messages_are_read_and_written_as_postages_own() {
    assert_golden(
        &golden(
            "command",
            "ping",
            "message",
            r#"{"parameters": {"send_time": 1370000000.25}}"#,
        ),
        Message::command("ping", json!({"send_time": 1_370_000_000.25})),
    );
    assert_golden(
        &golden("command", "quit", "message", r#"{"parameters": {}}"#),
        Message::command("quit", Nothing {}),
    );
    assert_golden(
        &golden(
            "command",
            "sum",
            "rpc",
            r#"{"parameters": {"a": 1, "b": "\u00e9"}}"#,
        ),
        Message::rpc_command("sum", json!({"a": 1, "b": "é"})),
    );
    assert_golden(
        &golden("status", "ready", "message", "{}"),
        Message::status("ready"),
    );
    assert_golden(
        &golden(
            "none",
            "none",
            "message",
            r#"{"args": [1, "str"], "kwds": {"values": [1, 2, 3]}}"#,
        ),
        Message::generic(
            [json!(1), json!("str")],
            [("values".to_owned(), json!([1, 2, 3]))],
        ),
    );
    assert_golden(
        &golden(
            "result",
            "none",
            "message",
            r#"{"type": "success", "value": 6, "message": ""}"#,
        ),
        Message::result(6),
    );
    assert_golden(
        &golden(
            "result",
            "none",
            "message",
            r#"{"type": "error", "value": null, "message": "division by zero"}"#,
        ),
        Message::error("division by zero"),
    );
    assert_golden(
        &golden(
            "result",
            "none",
            "message",
            r#"{"type": "exception", "value": "TimeoutError", "message": ""}"#,
        ),
        Message::exception("TimeoutError", ""),
    );
}

/// Of the kind that its components read.
#[tokio::test]
async fn a_producer_has_a_serializer_of_its_own() {
    let connection = kombu::connect("memory://").await.unwrap();
    connection
        .declare_queue(&Queue::new("inbox"))
        .await
        .unwrap();
    let producer = Producer::open(&connection).to(Exchange::default(), "inbox");
    let producer = producer.serializer("msgpack").await.unwrap();
    producer.status("ready").await.unwrap();
    let delivery = connection.get("inbox").await.unwrap().unwrap();
    assert_eq!(delivery.content_type(), Some("application/x-msgpack"));
    assert_eq!(delivery.decode::<Value>().unwrap()["name"], "ready");
    delivery.ack().await.unwrap();
}

/// As the broker takes it: only the first slash is none of its name.
#[tokio::test]
async fn a_virtual_host_may_begin_with_a_slash() {
    for (url, expected) in [
        ("memory://postage-host//slashed", "/slashed"),
        ("memory://postage-host/plain", "plain"),
        ("memory://postage-host", "/"),
    ] {
        let connection = kombu::connect(url).await.unwrap();
        let me = Fingerprint::of_process().on(&connection);
        assert_eq!(me.vhost.as_deref(), Some(expected));
    }
}

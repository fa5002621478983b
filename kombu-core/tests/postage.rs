//! Messages of Postage, as values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "postage")]

use kombu::postage::{Category, Fingerprint, Message, Nothing, Producer, RpcResult};
use kombu::{Exchange, Queue};
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

//! Python kombu on the other side of a RabbitMQ: what one sends the other reads, value by value.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp_python), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{DeliveryMode, ErrorKind, Exchange, FieldTable, FieldValue, Queue, Timestamp};
use kombu_tests::{AmqpHarness, COMPRESSIONS, Meeting, SERIALIZERS, integer, next, value};
use serde_json::{Value, json};

const TIME: u64 = 1_700_000_000;

async fn meeting() -> Meeting {
    Meeting::at(AmqpHarness::new()).await
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn every_property_that_python_sets_arrives() {
    let meeting = meeting().await;
    let mut consumer = meeting.consumer().await;
    let message = json!({
        "routing_key": "inbox",
        "body": "hello",
        "publish": {
            "content_type": "text/x-greeting",
            "content_encoding": "ascii",
            "delivery_mode": 1,
            "priority": 7,
            "correlation_id": "correlation",
            "reply_to": "answers",
            "expiration": 120.5,
            "message_id": "message",
            "timestamp": TIME,
            "type": "greeting",
            "user_id": "guest",
            "app_id": "application",
            "cluster_id": "cluster",
        },
    });
    let plain = json!({"routing_key": "inbox", "body": {"table": {}}});
    meeting.python_sends(&[message, plain]).await;

    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.body().as_ref(), b"hello");
    assert_eq!(delivery.exchange(), "");
    assert_eq!(delivery.routing_key(), "inbox");
    assert_eq!(delivery.content_type(), Some("text/x-greeting"));
    assert_eq!(delivery.content_encoding(), Some("ascii"));
    assert_eq!(delivery.delivery_mode(), DeliveryMode::Transient);
    assert_eq!(delivery.priority(), Some(7));
    assert_eq!(delivery.correlation_id(), Some("correlation"));
    assert_eq!(delivery.reply_to(), Some("answers"));
    assert_eq!(delivery.expiration(), Some(Duration::from_millis(120_500)));
    assert_eq!(delivery.message_id(), Some("message"));
    assert_eq!(delivery.timestamp(), Some(Timestamp::from_secs(TIME)));
    assert_eq!(delivery.kind(), Some("greeting"));
    assert_eq!(delivery.user_id(), Some("guest"));
    assert_eq!(delivery.app_id(), Some("application"));
    assert_eq!(delivery.cluster_id(), Some("cluster"));
    delivery.ack().await.unwrap();

    // What Python sets by itself, and nothing else.
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.content_type(), Some("application/json"));
    assert_eq!(delivery.content_encoding(), Some("utf-8"));
    assert_eq!(delivery.delivery_mode(), DeliveryMode::Persistent);
    assert_eq!(delivery.priority(), Some(0));
    assert!(delivery.headers().is_empty());
    assert_eq!(
        (delivery.correlation_id(), delivery.reply_to()),
        (None, None)
    );
    assert_eq!((delivery.expiration(), delivery.timestamp()), (None, None));
    assert_eq!((delivery.message_id(), delivery.kind()), (None, None));
    assert_eq!((delivery.user_id(), delivery.app_id()), (None, None));
    assert_eq!(delivery.cluster_id(), None);
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn python_reads_every_property() {
    let meeting = meeting().await;
    let producer = meeting.producer().await;
    producer
        .publish(&7)
        .content_type("application/json")
        .content_encoding("ascii")
        .delivery_mode(DeliveryMode::Transient)
        .priority(7)
        .correlation_id("correlation")
        .reply_to("answers")
        .expiration(Duration::from_millis(120_500))
        .message_id("message")
        .timestamp(Timestamp::from_secs(TIME))
        .kind("greeting")
        .user_id("guest")
        .app_id("application")
        .cluster_id("cluster")
        .await
        .unwrap();
    producer.publish(&json!({})).await.unwrap();

    let received = meeting.python_receives(2).await;
    assert_eq!(
        received[0],
        json!({
            "exchange": "",
            "routing_key": "inbox",
            "redelivered": false,
            "properties": {
                "content_type": "application/json",
                "content_encoding": "ascii",
                "delivery_mode": 1,
                "priority": 7,
                "correlation_id": "correlation",
                "reply_to": "answers",
                "expiration": "120500",
                "message_id": "message",
                "timestamp": TIME,
                "type": "greeting",
                "user_id": "guest",
                "app_id": "application",
                "cluster_id": "cluster",
            },
            "headers": {},
            "body": integer(7),
        })
    );
    assert_eq!(
        received[1]["properties"],
        json!({
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
        })
    );
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn headers_of_every_type_that_python_sends_are_read() {
    let meeting = meeting().await;
    let mut consumer = meeting.consumer().await;
    let nested = json!({"array": [integer(1), "two", {"table": {"three": {"array": []}}}]});
    let nested_here = FieldValue::Array(vec![
        FieldValue::I32(1),
        FieldValue::from("two"),
        FieldValue::Table(FieldTable::from([("three", FieldValue::Array(vec![]))])),
    ]);
    let long = "ü".repeat(40_000);
    let decimal = |scale, value| FieldValue::Decimal { scale, value };
    // Python has one type of integers, and sends the smaller of two; its bytes go out as a long string.
    let headers = [
        ("none", json!(null), FieldValue::Void),
        ("true", json!(true), FieldValue::Bool(true)),
        ("false", json!(false), FieldValue::Bool(false)),
        ("zero", integer(0), FieldValue::I32(0)),
        ("most", integer(2_147_483_647), FieldValue::I32(i32::MAX)),
        ("least", integer(-2_147_483_647), FieldValue::I32(-i32::MAX)),
        ("more", integer(1 << 31), FieldValue::I64(1 << 31)),
        ("much", integer(i64::MAX), FieldValue::I64(i64::MAX)),
        ("little", integer(i64::MIN), FieldValue::I64(i64::MIN)),
        ("float", json!({"float": 0.1}), FieldValue::F64(0.1)),
        ("large", json!({"float": -1e300}), FieldValue::F64(-1e300)),
        ("decimal", json!({"decimal": "12.50"}), decimal(2, 1250)),
        // Python's have a sign, and AMQP's haven't.
        (
            "minus",
            json!({"decimal": "-12.50"}),
            decimal(2, u32::MAX - 1249),
        ),
        ("text", json!("Grüße"), FieldValue::from("Grüße")),
        ("empty", json!(""), FieldValue::from("")),
        ("long", json!(long), FieldValue::from(long.as_str())),
        (
            "bytes",
            json!({"bytes": "00ff"}),
            FieldValue::Bytes(b"\x00\xff"[..].into()),
        ),
        (
            "time",
            json!({"time": TIME}),
            FieldValue::Timestamp(Timestamp::from_secs(TIME)),
        ),
        ("nested", nested, nested_here),
    ];
    let sent: serde_json::Map<_, _> = headers
        .iter()
        .map(|(name, sent, _)| ((*name).to_owned(), sent.clone()))
        .collect();
    let message = json!({"routing_key": "inbox", "body": "", "headers": {"table": sent}});
    meeting.python_sends(&[message]).await;

    let delivery = next(&mut consumer).await;
    for (name, _, expected) in &headers {
        assert_eq!(delivery.headers().get(name), Some(expected), "{name}");
    }
    assert_eq!(delivery.headers().len(), headers.len());
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn python_reads_headers_of_every_type() {
    let meeting = meeting().await;
    let long = "ü".repeat(40_000);
    let nested = FieldValue::Array(vec![
        FieldValue::U8(1),
        FieldValue::Void,
        FieldValue::Table(FieldTable::from([("three", FieldValue::Array(vec![]))])),
    ]);
    let nested_there = json!({"array": [integer(1), null, {"table": {"three": {"array": []}}}]});
    let time = FieldValue::Timestamp(Timestamp::from_secs(TIME));
    let decimal = |scale, value| FieldValue::Decimal { scale, value };
    let headers = [
        ("void", FieldValue::Void, json!(null)),
        ("true", FieldValue::Bool(true), json!(true)),
        ("false", FieldValue::Bool(false), json!(false)),
        ("i8", FieldValue::I8(i8::MIN), integer(-128)),
        ("u8", FieldValue::U8(u8::MAX), integer(255)),
        ("i16", FieldValue::I16(i16::MIN), integer(-32_768)),
        ("u16", FieldValue::U16(u16::MAX), integer(65_535)),
        ("i32", FieldValue::I32(i32::MIN), integer(-2_147_483_648)),
        ("u32", FieldValue::U32(u32::MAX), integer(4_294_967_295)),
        ("i64", FieldValue::I64(i64::MIN), integer(i64::MIN)),
        ("f32", FieldValue::F32(0.5), json!({"float": 0.5})),
        ("f64", FieldValue::F64(0.1), json!({"float": 0.1})),
        ("decimal", decimal(2, 1275), json!({"decimal": "12.75"})),
        ("text", FieldValue::from("Grüße"), json!("Grüße")),
        ("long", FieldValue::from(long.as_str()), json!(long)),
        (
            "bytes",
            FieldValue::Bytes(b"\x00\xff"[..].into()),
            json!({"bytes": "00ff"}),
        ),
        ("time", time, json!({"time": TIME})),
        ("nested", nested, nested_there),
    ];
    let producer = meeting.producer().await;
    let mut publish = producer.publish(&7);
    for (name, sent, _) in &headers {
        publish = publish.header(*name, sent.clone());
    }
    publish.await.unwrap();

    let received = meeting.python_receives(1).await;
    let received = received[0]["headers"].as_object().unwrap();
    for (name, _, expected) in &headers {
        assert_eq!(received.get(*name), Some(expected), "{name}");
    }
    assert_eq!(received.len(), headers.len());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn what_python_serializes_is_decoded() {
    let meeting = meeting().await;
    let mut consumer = meeting.consumer().await;
    let (here, there) = value();
    let mut messages: Vec<Value> = SERIALIZERS
        .iter()
        .map(|(name, _)| {
            json!({"routing_key": "inbox", "body": there, "publish": {"serializer": name}})
        })
        .collect();
    messages.push(json!({"routing_key": "inbox", "body": "Grüße"}));
    messages.push(json!({"routing_key": "inbox", "body": {"bytes": "00ff"}}));
    meeting.python_sends(&messages).await;

    for (_, content_type) in SERIALIZERS {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.content_type(), Some(content_type));
        let (decoded, delivery) = delivery.take::<Value>().unwrap();
        assert_eq!(decoded, here, "{content_type}");
        delivery.ack().await.unwrap();
    }
    let (text, delivery) = next(&mut consumer).await.take::<String>().unwrap();
    assert_eq!(
        (delivery.content_type(), text.as_str()),
        (Some("text/plain"), "Grüße")
    );
    delivery.ack().await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.content_type(), Some("application/data"));
    assert_eq!(delivery.content_encoding(), Some("binary"));
    assert_eq!(delivery.decode::<&[u8]>().unwrap(), b"\x00\xff");
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn python_decodes_what_is_serialized() {
    let meeting = meeting().await;
    let producer = meeting.producer().await;
    let (here, there) = value();
    for (name, _) in SERIALIZERS {
        let publish = producer.publish(&here).serializer(name);
        publish.await.unwrap();
    }
    producer.publish_text("Grüße").await.unwrap();
    producer.publish_bytes(&b"\x00\xff"[..]).await.unwrap();

    let received = meeting.python_receives(5).await;
    for (message, (_, content_type)) in received.iter().zip(SERIALIZERS) {
        assert_eq!(message["properties"]["content_type"], content_type);
        assert_eq!(message["body"], there, "{content_type}");
    }
    assert_eq!(received[3]["body"], "Grüße");
    assert_eq!(received[4]["body"], json!({"bytes": "00ff"}));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn what_python_pickles_is_not_decoded_and_there_as_bytes() {
    let meeting = meeting().await;
    let mut consumer = meeting.consumer().await;
    let message =
        json!({"routing_key": "inbox", "body": integer(7), "publish": {"serializer": "pickle"}});
    meeting.python_sends(&[message]).await;
    let delivery = next(&mut consumer).await;
    let error = delivery.decode::<u32>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownSerializer);
    let content_type = "application/x-python-serialize";
    assert!(error.to_string().contains(content_type), "{error}");
    // Protocol 4, the number 7, the end.
    assert_eq!(delivery.body().as_ref(), b"\x80\x04K\x07.");
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn what_python_compresses_is_decompressed() {
    let meeting = meeting().await;
    let mut consumer = meeting.consumer().await;
    let text = "many words ".repeat(1000);
    let messages = COMPRESSIONS.map(|(name, _)| {
        json!({"routing_key": "inbox", "body": {"array": [text]}, "publish": {"compression": name}})
    });
    meeting.python_sends(&messages).await;
    for (_, content_type) in COMPRESSIONS {
        let delivery = next(&mut consumer).await;
        let header = delivery.headers().get("compression");
        assert_eq!(header.and_then(FieldValue::as_str), Some(content_type));
        assert!(delivery.body().len() < text.len() / 10, "{content_type}");
        let (decoded, delivery) = delivery.take::<Vec<String>>().unwrap();
        assert_eq!(decoded, [text.as_str()], "{content_type}");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn python_decompresses_what_is_compressed() {
    let meeting = meeting().await;
    let producer = meeting.producer().await;
    let text = ["many words ".repeat(1000)];
    for (name, _) in COMPRESSIONS {
        let publish = producer.publish(&text).compression(name);
        publish.await.unwrap();
    }
    let received = meeting.python_receives(COMPRESSIONS.len()).await;
    for (message, (_, content_type)) in received.iter().zip(COMPRESSIONS) {
        assert_eq!(message["headers"]["compression"], content_type);
        assert_eq!(message["body"], json!({"array": text}), "{content_type}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn the_most_urgent_comes_first_on_both_sides() {
    let meeting = meeting().await;
    let priorities = [0, 5, 9, 1];
    let expected = [9, 5, 1, 0];
    let messages = priorities.map(|priority| {
        json!({
            "queue": {"name": "urgent", "max_priority": 9},
            "routing_key": "urgent",
            "body": integer(priority),
            "publish": {"priority": priority},
        })
    });
    meeting.python_sends(&messages).await;
    let urgent = Queue::new("urgent").max_priority(9);
    let mut consumer = meeting.connection.consumer(&urgent).await.unwrap();
    for priority in expected {
        let (number, delivery) = next(&mut consumer).await.take::<i64>().unwrap();
        assert_eq!(
            (number, delivery.priority()),
            (priority, u8::try_from(priority).ok())
        );
        delivery.ack().await.unwrap();
    }

    let inbox = Queue::new("inbox").max_priority(9);
    meeting.connection.declare_queue(&inbox).await.unwrap();
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.routing_key("inbox").await.unwrap();
    for priority in priorities {
        let publish = producer.publish(&priority);
        let publish = publish.priority(u8::try_from(priority).unwrap());
        publish.await.unwrap();
    }
    let received = meeting.python_receives(priorities.len()).await;
    let numbers: Vec<&Value> = received.iter().map(|message| &message["body"]).collect();
    assert_eq!(numbers, expected.map(integer).iter().collect::<Vec<_>>());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn what_one_declares_is_the_same_to_the_other() {
    let meeting = meeting().await;
    let message = json!({
        "queue": {
            "name": "inbox",
            "exchange": {"name": "media", "type": "topic"},
            "routing_key": "video.#",
            "expires": 3600,
            "message_ttl": 1800.5,
            "max_length": 100,
            "max_length_bytes": 1_000_000,
            "max_priority": 3,
        },
        "exchange": "media",
        "routing_key": "video.new",
        "body": "first",
    });
    let media = Exchange::topic("media");
    let inbox = Queue::new("inbox")
        .bind(&media, "video.#")
        .expires(Duration::from_secs(3600))
        .message_ttl(Duration::from_millis(1_800_500))
        .max_length(100)
        .max_length_bytes(1_000_000)
        .max_priority(3);

    // RabbitMQ refuses a declaration that differs from what is there.
    meeting.python_sends(std::slice::from_ref(&message)).await;
    let mut consumer = meeting.connection.consumer(&inbox).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.exchange(), "media");
    assert_eq!(delivery.decode::<&str>().unwrap(), "first");
    delivery.ack().await.unwrap();
    consumer.cancel().await.unwrap();

    meeting.connection.delete_queue("inbox").await.unwrap();
    meeting.connection.delete_exchange("media").await.unwrap();
    meeting.connection.declare_queue(&inbox).await.unwrap();
    meeting.python_sends(&[message]).await;
    let producer = meeting.connection.producer(&media).await.unwrap();
    let publish = producer.publish(&"second").routing_key("video.old.sold");
    assert!(publish.await.unwrap().routed);
    let received = meeting.python_receives(2).await;
    assert_eq!(received[0]["body"], "first");
    assert_eq!(received[1]["body"], "second");
    assert_eq!(received[1]["exchange"], "media");
    assert_eq!(received[1]["routing_key"], "video.old.sold");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn python_answers_requests() {
    let meeting = meeting().await;
    let producer = meeting.producer().await;
    let answers = Queue::server_named().exclusive(true);
    let mut consumer = meeting.connection.consumer(&answers).await.unwrap();
    let answers = consumer.queues()[0].clone();
    for number in [3, 21] {
        let publish = producer.publish(&number).reply_to(answers.clone());
        publish.correlation_id(number.to_string()).await.unwrap();
    }
    let python = meeting.python(&["answer", "inbox", "2"]);
    for number in [3, 21] {
        let (answer, delivery) = next(&mut consumer).await.take::<u32>().unwrap();
        assert_eq!(answer, number * 2);
        assert_eq!(delivery.correlation_id(), Some(number.to_string().as_str()));
        delivery.ack().await.unwrap();
    }
    python.end().await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn requests_of_python_are_answered() {
    let meeting = meeting().await;
    let mut consumer = meeting.consumer().await;
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.await.unwrap();
    let mut python = meeting.python(&["ask", "inbox", "21"]);
    let (number, request) = next(&mut consumer).await.take::<u32>().unwrap();
    let answer = number * 2;
    let publish = producer.publish(&answer);
    let publish = publish.routing_key(request.reply_to().unwrap());
    let publish = publish.correlation_id(request.correlation_id().unwrap());
    publish.await.unwrap();
    request.ack().await.unwrap();
    assert_eq!(python.line().await, json!(["7", 42]));
    python.end().await;
}

//! Python's kombu on the other side, wherever it can be: what one sends the other reads, value by value.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(any(kombu_test_amqp_python, kombu_test_redis_python)),
    allow(dead_code, unused_imports)
)]

use std::time::Duration;

use kombu::{DeliveryMode, ErrorKind, Exchange, FieldTable, FieldValue, Queue, Timestamp};
use kombu_tests::{
    AmqpHarness, COMPRESSIONS, Meeting, RedisHarness, SERIALIZERS, integer, next, value,
};
use serde_json::{Value, json};

const TIME: u64 = 1_700_000_000;

macro_rules! on_each_broker {
    ($($test:ident,)*) => {
        mod amqp {
            $(
                #[tokio::test]
                #[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
                async fn $test() {
                    super::$test(super::Meeting::at(super::AmqpHarness::new()).await).await;
                }
            )*
        }
        mod redis {
            $(
                #[tokio::test]
                #[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
                async fn $test() {
                    super::$test(super::Meeting::at(super::RedisHarness::new()).await).await;
                }
            )*
        }
    };
}

on_each_broker! {
    every_property_that_python_sets_arrives,
    python_reads_every_property,
    headers_of_every_type_that_python_sends_are_read,
    python_reads_headers_of_every_type,
    what_python_serializes_is_decoded,
    python_decodes_what_is_serialized,
    what_python_pickles_is_not_decoded_and_there_as_bytes,
    what_python_compresses_is_decompressed,
    python_decompresses_what_is_compressed,
    python_answers_requests,
    requests_of_python_are_answered,
}

/// Integers as the widest type: RabbitMQ's protocol has many, JSON has one.
fn widened(value: &FieldValue) -> FieldValue {
    match value {
        FieldValue::I32(number) => FieldValue::I64((*number).into()),
        FieldValue::Array(values) => FieldValue::Array(values.iter().map(widened).collect()),
        value => value.clone(),
    }
}

async fn every_property_that_python_sets_arrives(meeting: Meeting) {
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
    meeting.python_sends(&[plain, message]).await;

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
    assert!(!delivery.redelivered());
    delivery.ack().await.unwrap();

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
}

async fn python_reads_every_property(meeting: Meeting) {
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

async fn headers_of_every_type_that_python_sends_are_read(meeting: Meeting) {
    let mut consumer = meeting.consumer().await;
    let nested = json!({"array": [integer(1), "two", {"table": {"three": {"array": []}}}]});
    let nested_here = FieldValue::Array(vec![
        FieldValue::I64(1),
        FieldValue::from("two"),
        FieldValue::Table(FieldTable::from([("three", FieldValue::Array(vec![]))])),
    ]);
    let long = "ü".repeat(40_000);
    let decimal = |scale, value| FieldValue::Decimal { scale, value };
    let headers = [
        ("none", json!(null), FieldValue::Void),
        ("true", json!(true), FieldValue::Bool(true)),
        ("false", json!(false), FieldValue::Bool(false)),
        ("zero", integer(0), FieldValue::I64(0)),
        ("small", integer(-2_147_483_648), FieldValue::I64(-1 << 31)),
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
        (
            "text",
            json!("Grüße \u{1f389}"),
            FieldValue::from("Grüße \u{1f389}"),
        ),
        (
            "quoted",
            json!("\"\\\n\u{0}"),
            FieldValue::from("\"\\\n\u{0}"),
        ),
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
        let header = delivery.headers().get(name).map(widened);
        assert_eq!(header.as_ref(), Some(expected), "{name}");
    }
    assert_eq!(delivery.headers().len(), headers.len());
    delivery.ack().await.unwrap();
}

async fn python_reads_headers_of_every_type(meeting: Meeting) {
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
        (
            "quoted",
            FieldValue::from("\"\\\n\u{0}"),
            json!("\"\\\n\u{0}"),
        ),
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

async fn what_python_serializes_is_decoded(meeting: Meeting) {
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

async fn python_decodes_what_is_serialized(meeting: Meeting) {
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

async fn what_python_pickles_is_not_decoded_and_there_as_bytes(meeting: Meeting) {
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

async fn what_python_compresses_is_decompressed(meeting: Meeting) {
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

async fn python_decompresses_what_is_compressed(meeting: Meeting) {
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

async fn python_answers_requests(meeting: Meeting) {
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

async fn requests_of_python_are_answered(meeting: Meeting) {
    let mut consumer = meeting.consumer().await;
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.await.unwrap();
    let mut python = meeting.python(&["ask", "inbox", "21"]);
    let (number, request) = next(&mut consumer).await.take::<u32>().unwrap();
    let answer = number * 2;
    // Python waits at a list that isn't there before it has a message.
    let publish = producer.publish(&answer).allow_unroutable();
    let publish = publish.routing_key(request.reply_to().unwrap());
    let publish = publish.correlation_id(request.correlation_id().unwrap());
    publish.await.unwrap();
    request.ack().await.unwrap();
    assert_eq!(python.line().await, json!(["7", 42]));
    python.end().await;
}

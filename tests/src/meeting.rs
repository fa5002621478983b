use std::time::Duration;

use kombu::{Connection, Consumer, Delivery, Exchange, Producer, Queue};
use kombu_testkit::{Broker, Harness};
use serde_json::{Value, json};

use crate::Peer;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/peer.py");

/// A broker where we meet Python's kombu, with a connection of ours.
#[derive(Debug)]
pub struct Meeting {
    /// The broker.
    pub broker: Broker,
    /// A connection to it.
    pub connection: Connection,
}

impl Meeting {
    /// At a broker of its own.
    pub async fn at(harness: impl Harness) -> Self {
        let broker = harness.broker().await;
        let connection = broker.connect().await;
        Meeting { broker, connection }
    }

    /// Python's kombu with a command of `peer.py`.
    pub fn python(&self, arguments: &[&str]) -> Peer {
        Peer::start([&[SCRIPT, self.broker.url()], arguments].concat())
    }

    /// Has Python publish these messages, in order.
    ///
    /// # Panics
    ///
    /// If it doesn't.
    pub async fn python_sends(&self, messages: &[Value]) {
        let mut python = self.python(&["send"]);
        for message in messages {
            python.tell(message).await;
            assert_eq!(python.line().await, "sent");
        }
        python.end().await;
    }

    /// What Python makes of as many messages of the queue `inbox`.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub async fn python_receives(&self, count: usize) -> Vec<Value> {
        let mut python = self.python(&["receive", "inbox", &count.to_string()]);
        let mut received = Vec::new();
        while received.len() < count {
            received.push(python.line().await);
        }
        python.end().await;
        received
    }

    /// A consumer of the queue `inbox`, which it declares.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn consumer(&self) -> Consumer {
        let consumer = self.connection.consumer(&Queue::new("inbox")).await;
        consumer.expect("the queue can be consumed")
    }

    /// A producer to the queue `inbox`, which is there.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub async fn producer(&self) -> Producer {
        let declared = self.connection.declare_queue(&Queue::new("inbox")).await;
        declared.expect("the queue can be declared");
        let producer = self.connection.producer(Exchange::default());
        let producer = producer.routing_key("inbox").await;
        producer.expect("a producer is opened")
    }
}

/// The next delivery, which is on its way.
///
/// # Panics
///
/// If none comes.
pub async fn next(consumer: &mut Consumer) -> Delivery {
    let delivery = consumer.receive(Duration::from_secs(60)).await;
    let delivery = delivery.expect("the consumer is open");
    delivery.expect("a message arrives")
}

/// A value that JSON doesn't have, as `peer.py` writes it.
pub fn integer(value: i64) -> Value {
    json!({ "integer": value })
}

/// What every serializer can carry, here and as `peer.py` writes it.
pub fn value() -> (Value, Value) {
    let here = json!({
        "text": "Grüße, 世界 🎉",
        "numbers": [0, -1, 9_007_199_254_740_993_i64, 0.1, 1e300],
        "nothing": null,
        "truth": [true, false],
        "empty": {},
        "looks like another": ["null", "true", "1", "1.5", "2026-01-02", "~", "no", ""],
    });
    let there = json!({"table": {
        "text": "Grüße, 世界 🎉",
        "numbers": {"array": [
            integer(0), integer(-1), integer(9_007_199_254_740_993), {"float": 0.1}, {"float": 1e300},
        ]},
        "nothing": null,
        "truth": {"array": [true, false]},
        "empty": {"table": {}},
        "looks like another": {"array": ["null", "true", "1", "1.5", "2026-01-02", "~", "no", ""]},
    }});
    (here, there)
}

/// Serializers on both sides, and the content types that they give.
pub const SERIALIZERS: [(&str, &str); 3] = [
    ("json", "application/json"),
    ("yaml", "application/x-yaml"),
    ("msgpack", "application/x-msgpack"),
];

/// Compressions on both sides, and what the header says of them.
pub const COMPRESSIONS: [(&str, &str); 3] = [
    ("zlib", "application/x-gzip"),
    ("bzip2", "application/x-bz2"),
    ("zstd", "application/zstd"),
];

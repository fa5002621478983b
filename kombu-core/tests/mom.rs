//! The settings of canopsis' messaging.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::mom::{DataType, Mom, Settings};
use kombu::{ErrorKind, Faults};

fn parsed(uri: &str) -> Settings {
    uri.parse().unwrap()
}

#[test]
fn a_scheme_has_a_protocol_and_a_data_type() {
    let plain = parsed("kombu://localhost:5672");
    assert_eq!(
        (plain.protocol.as_str(), plain.data_type),
        ("amqp", DataType::Pt2Pt)
    );
    let demo = parsed("kombu-pubsub://canopsis:canopsis@demo.canopsis.org:5672/canopsis");
    assert_eq!(
        (demo.protocol.as_str(), demo.data_type),
        ("amqp", DataType::PubSub)
    );
    assert_eq!(
        demo.uri.as_deref(),
        Some("amqp://canopsis:canopsis@demo.canopsis.org:5672/canopsis")
    );
    let redis = parsed("redis-pt2pt://localhost/3?prefix=x.&senders=a");
    assert_eq!(
        (redis.protocol.as_str(), redis.data_type),
        ("redis", DataType::Pt2Pt)
    );
    assert_eq!(redis.uri.as_deref(), Some("redis://localhost/3?prefix=x."));
    let empty = parsed("memory-://shop");
    assert_eq!(empty.data_type, DataType::Pt2Pt);
    let wrong = "kombu-nonsense://host".parse::<Settings>().unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Config);
    assert!(wrong.to_string().contains("nonsense"), "{wrong}");
}

#[test]
fn senders_and_receivers_stand_in_the_uri_both_ways() {
    let uri =
        "memory-pubsub://shop?senders=canopsis.events:topic,canopsis.alerts&receivers=q:work,other";
    let settings = parsed(uri);
    let names: Vec<_> = settings.senders.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["canopsis.events:topic", "canopsis.alerts"]);
    let (q, other) = (&settings.receivers[0], &settings.receivers[1]);
    assert_eq!(
        (q.name.as_str(), q.callback.as_deref()),
        ("q", Some("work"))
    );
    assert_eq!(
        (other.name.as_str(), other.callback.as_deref()),
        ("other", None)
    );
    let written = settings.uri(&kombu::registry()).unwrap();
    assert_eq!(parsed(&written), settings);
    let wrong = "memory://shop?senders=a:sideways".parse::<Settings>();
    assert!(wrong.unwrap_err().to_string().contains("sideways"));
}

#[test]
fn a_configuration_has_the_same_keys() {
    let settings: Settings = serde_json::from_str(
        r#"{
            "protocol": "memory", "data_type": "pubsub", "host": "shop", "path": "tests",
            "safe": false, "conn_timeout": 20000, "in_timeout": 5, "out_timeout": 100,
            "senders": "canopsis.events,canopsis.alerts,canopsis.incidents", "receivers": ["jobs:work"]
        }"#,
    )
    .unwrap();
    assert_eq!(settings.senders.len(), 3);
    assert_eq!(settings.in_timeout, Duration::from_millis(5));
    assert!(!settings.safe);
    let uri = settings.uri(&kombu::registry()).unwrap();
    assert!(uri.starts_with("memory-pubsub://shop/tests?"), "{uri}");
    let from_uri = parsed(&uri);
    assert_eq!(
        (from_uri.senders, from_uri.receivers),
        (settings.senders, settings.receivers)
    );
    let unknown = serde_json::from_str::<Settings>(r#"{"sender": "a"}"#);
    assert!(unknown.is_err());
    let secret = parsed("kombu://me:secret@host");
    assert!(!format!("{secret:?}").contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_takes_too_long_is_given_up() {
    let faults = Faults::default();
    let settings = parsed("memory-pubsub://slow-mom?senders=events");
    let layer = faults.clone();
    let mom = Mom::open(kombu::registry(), settings)
        .connection(move |connection| connection.layer(layer))
        .await
        .unwrap();
    faults.delay_publishes(Duration::from_secs(10));
    let begin = tokio::time::Instant::now();
    let late = mom.send("message", "key").await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(begin.elapsed(), Duration::from_secs(2));
    let late = mom.send("message", "key").timeout(Duration::from_millis(7));
    assert_eq!(late.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(begin.elapsed(), Duration::from_millis(2_007));
}

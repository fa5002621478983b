//! OCCO's configuration.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::ErrorKind;
use kombu::handler::{Attempt, Payload};
use kombu::occo::Config;

fn config(text: &str) -> Config {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn a_configuration_has_a_serializer() {
    let config = config(
        r#"{"protocol": "memory", "host": "occo-serializer", "routing_key": "test", "serializer": "yaml"}"#,
    );
    let registry = kombu::registry();
    let producer = config.asynchronous_producer(&registry).await.unwrap();
    producer.push_message(&[1, 2]).await.unwrap();
    let delivery = producer.connection().get("test").await.unwrap().unwrap();
    assert_eq!(delivery.content_type(), Some("application/x-yaml"));
    delivery.ack().await.unwrap();
}

#[test]
fn a_key_that_is_none_is_refused() {
    let wrong = serde_json::from_str::<Config>(r#"{"protocl": "memory"}"#);
    let wrong = wrong.unwrap_err().to_string();
    assert!(wrong.contains("protocl"), "{wrong}");
}

/// All that is said otherwise is a default of the transport; which transports there are is known.
#[tokio::test]
async fn a_protocol_alone_is_a_configuration() {
    let registry = kombu::registry();
    assert!(registry.capabilities("memory").is_some());
    assert!(registry.capabilities("carrier-pigeon").is_none());
    let config: Config = serde_json::from_str(r#""memory""#).unwrap();
    let producer = config.asynchronous_producer(&registry).await.unwrap();
    producer.push_message_to("jobs", &1).await.unwrap();
    let info = producer.connection().queue_info("jobs").await.unwrap();
    assert_eq!(info.ready, 1);
    let unknown = Config::new("carrier-pigeon").rpc_producer(&registry).await;
    assert_eq!(unknown.unwrap_err().kind(), ErrorKind::UnknownScheme);
}

/// Neither its password nor a URL that may hold one.
#[test]
fn a_configuration_that_is_printed_shows_no_secret() {
    let config = config(
        r#"{"protocol": "amqp", "user": "me", "password": "secret", "url": "amqp://me:secret@host"}"#,
    );
    let printed = format!("{config:?}");
    assert!(!printed.contains("secret"), "{printed}");
}

/// However many come, what can be processed is, one at a time, until there is no room left.
#[tokio::test]
async fn a_consumer_holds_what_can_not_be_processed_up_to_a_limit() {
    let config = config(
        r#"{"protocol": "memory", "host": "occo-held", "routing_key": "test", "queue": "test"}"#,
    );
    let registry = kombu::registry();
    let messages = config.asynchronous_producer(&registry).await.unwrap();
    let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    let noting = async move |Payload(number): Payload<u32>| seen.send(number).unwrap();
    let consumer = config.event_driven_consumer(&registry, noting);
    let running = tokio::spawn(consumer.await.unwrap().start_consuming());
    for number in 0..64 {
        messages.push_message("no number").await.unwrap();
        messages.push_message(&number).await.unwrap();
        assert_eq!(log.recv().await, Some(number));
    }
    messages.push_message("no number").await.unwrap();
    let full = running.await.unwrap().unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Undecodable);
    let info = messages.connection().queue_info("test").await.unwrap();
    assert_eq!(info.ready, 65);
}

/// Nothing that somebody may want is thrown away: it goes on being tried.
#[tokio::test(start_paused = true)]
async fn what_a_processor_fails_with_again_and_again_stays() {
    let config = config(
        r#"{"protocol": "memory", "host": "occo-failing", "routing_key": "test", "queue": "test"}"#,
    );
    let registry = kombu::registry();
    let producer = config.asynchronous_producer(&registry).await.unwrap();
    producer.push_message(&1).await.unwrap();
    let (seen, mut attempts) = tokio::sync::mpsc::unbounded_channel();
    let failing = async move |Attempt(attempt): Attempt| {
        seen.send(attempt).unwrap();
        Err::<(), _>("bad luck")
    };
    let consumer = config.event_driven_consumer(&registry, failing).await;
    let consuming = tokio::spawn(consumer.unwrap().start_consuming());
    for attempt in 1..=20 {
        let next = tokio::time::timeout(Duration::from_secs(3600), attempts.recv());
        assert_eq!(next.await, Ok(Some(attempt)));
    }
    consuming.abort();
}

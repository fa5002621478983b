//! Declarations in configuration files: what is written, what is read back, what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Debug;
use std::time::Duration;

use kombu_core::declare::{
    Binding, DeclareMode, DeliveryMode, Exchange, ExchangeKind, Overflow, Queue, QueueType,
    duration,
};
use kombu_core::field::FieldValue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

fn through_all_formats<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
    let tree = serde_json::to_value(value).unwrap();
    assert_eq!(&serde_json::from_value::<T>(tree).unwrap(), value);
    let yaml = serde_saphyr::to_string(value).unwrap();
    let read = serde_saphyr::from_str::<T>(&yaml).unwrap_or_else(|error| panic!("{yaml}{error}"));
    assert_eq!(&read, value, "{yaml}");
    let toml = toml::to_string(value).unwrap();
    let read = toml::from_str::<T>(&toml).unwrap_or_else(|error| panic!("{toml}{error}"));
    assert_eq!(&read, value, "{toml}");
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap()
}

fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{text}{error}"))
}

fn refused<T: DeserializeOwned + Debug>(text: &str) -> String {
    serde_json::from_str::<T>(text).expect_err(text).to_string()
}

fn full_exchange() -> Exchange {
    Exchange::topic("media")
        .durable(false)
        .auto_delete(true)
        .internal(true)
        .delivery_mode(DeliveryMode::Transient)
        .alternate_exchange("unrouted")
        .passive()
        .argument("x-owner", "team a")
        .argument("x-weight", 2.5)
        .bind(Exchange::fanout("everything"), "")
        .bind_with(
            Binding::new(Exchange::headers("by-header"), "ignored")
                .match_any()
                .argument("format", "pdf")
                .argument("pages", 7)
                .argument("signed", FieldValue::Void),
        )
}

fn full_queue() -> Queue {
    Queue::new("grüße 🦀")
        .durable(false)
        .exclusive(true)
        .no_ack(true)
        .alias("greetings")
        .classic()
        .expires(Duration::from_secs(1_800))
        .message_ttl(Duration::from_millis(1_500))
        .max_length(10_000)
        .max_length_bytes(1 << 40)
        .overflow(Overflow::RejectPublish)
        .max_priority(9)
        .dead_letter_exchange("")
        .dead_letter_routing_key("failed")
        .single_active_consumer(true)
        .declare(DeclareMode::Verify)
        .argument("x-queue-version", 2)
        .argument("x-message-ttl-note", "text")
        .consumer_argument("x-priority", -5i64)
        .bind(full_exchange(), "video.#")
        .bind(Exchange::direct("elsewhere").no_declare(), "key")
}

#[test]
fn a_declaration_with_everything_set_comes_back_equal() {
    through_all_formats(&full_exchange());
    through_all_formats(&full_queue());
    through_all_formats(
        &Queue::new("jobs")
            .dead_letter_exchange("failed")
            .max_deliveries(5),
    );
    through_all_formats(&Exchange::custom("x-consistent-hash", "shards"));
    for binding in full_queue().bindings() {
        through_all_formats(binding);
    }
}

#[test]
fn every_mode_and_kind_comes_back_equal() {
    for exchange in [
        Exchange::direct("e"),
        Exchange::fanout("e"),
        Exchange::headers("e").declare(DeclareMode::Ensure),
        Exchange::custom("", "e"),
    ] {
        through_all_formats(&exchange);
    }
    for queue in [
        Queue::new("q").quorum().overflow(Overflow::DropHead),
        Queue::new("q").no_declare(),
        Queue::new("q").auto_delete(true),
    ] {
        through_all_formats(&queue);
    }
}

#[test]
fn defaults_come_back_equal_and_are_not_written() {
    through_all_formats(&Exchange::default());
    through_all_formats(&Queue::server_named());
    assert_eq!(json(&Exchange::default()), "{}");
    assert_eq!(json(&Queue::server_named()), "{}");
    assert_eq!(json(&Exchange::direct("media")), r#"{"name":"media"}"#);
    assert_eq!(
        json(&Exchange::topic("media")),
        r#"{"name":"media","type":"topic"}"#
    );
    assert_eq!(
        json(&Queue::new("videos").durable(false)),
        r#"{"name":"videos","durable":false}"#
    );
}

#[test]
fn the_keys_in_files_are_the_documented_ones() {
    let queue: Queue = yaml(
        r#"
name: videos
durable: true
exclusive: false
auto_delete: false
no_ack: true
alias: v
type: quorum
expires: 1d
message_ttl: 90000
max_length: 10
max_length_bytes: 1000
overflow: drop-head
dead_letter_exchange: failed
dead_letter_routing_key: videos
max_deliveries: 5
single_active_consumer: true
declare: verify
arguments: {x-queue-leader-locator: balanced}
consumer_arguments: {x-priority: 10}
bindings:
  - {exchange: media, routing_key: "video.#"}
  - exchange:
      name: reports
      type: headers
      durable: false
      auto_delete: true
      internal: true
      delivery_mode: transient
      alternate_exchange: unrouted
      declare: never
      arguments: {}
      bindings: [{exchange: all}]
    arguments: {x-match: any, format: pdf}
"#,
    );
    let reports = Exchange::headers("reports")
        .durable(false)
        .auto_delete(true)
        .internal(true)
        .delivery_mode(DeliveryMode::Transient)
        .alternate_exchange("unrouted")
        .no_declare()
        .bind(Exchange::direct("all").no_declare(), "");
    let expected = Queue::new("videos")
        .no_ack(true)
        .alias("v")
        .quorum()
        .expires(Duration::from_secs(86_400))
        .message_ttl(Duration::from_secs(90))
        .max_length(10)
        .max_length_bytes(1_000)
        .overflow(Overflow::DropHead)
        .dead_letter_exchange("failed")
        .dead_letter_routing_key("videos")
        .max_deliveries(5)
        .single_active_consumer(true)
        .passive()
        .argument("x-queue-leader-locator", "balanced")
        .consumer_argument("x-priority", 10i64)
        .bind(Exchange::direct("media").no_declare(), "video.#")
        .bind_with(Binding::from(reports).match_any().argument("format", "pdf"));
    assert_eq!(queue, expected);
    assert_eq!(
        yaml::<Queue>("{name: p, max_priority: 9}"),
        Queue::new("p").max_priority(9)
    );
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    for text in [
        r#"{"name": "q", "mesage_ttl": 5}"#,
        r#"{"bindings": [{"exchange": "e", "mesage_ttl": 5}]}"#,
    ] {
        let error = refused::<Queue>(text);
        assert!(error.contains("mesage_ttl"), "{error}");
    }
    let error = refused::<Exchange>(r#"{"exhange_type": "topic"}"#);
    assert!(
        error.contains("exhange_type") && error.contains("auto_delete"),
        "{error}"
    );
    let error = refused::<Queue>(r#"{"bindings": [{"exchange": {"name": "e", "kind": "topic"}}]}"#);
    assert!(error.contains("kind") && error.contains("type"), "{error}");
}

#[test]
fn a_value_that_can_not_be_is_refused() {
    for (text, word) in [
        (r#"{"declare": "maybe"}"#, "ensure"),
        (r#"{"type": "stream"}"#, "quorum"),
        (r#"{"overflow": "drop_head"}"#, "drop-head"),
        (r#"{"max_priority": 256}"#, "256"),
        (r#"{"message_ttl": "soon"}"#, "`30s`"),
        (r#"{"message_ttl": -5}"#, "-5"),
        (r#"{"message_ttl": 1.5}"#, "1.5"),
        (r#"{"bindings": [{"routing_key": "k"}]}"#, "exchange"),
        (r#"{"bindings": [{"exchange": 5}]}"#, "name of an exchange"),
    ] {
        let error = refused::<Queue>(text);
        assert!(error.contains(word), "{text}: {error}");
    }
    assert!(refused::<Exchange>(r#"{"delivery_mode": "durable"}"#).contains("persistent"));
}

#[test]
fn an_exchange_that_is_named_only_is_declared_by_somebody_else_and_written_as_its_name() {
    let binding: Binding = yaml("{exchange: media, routing_key: video}");
    assert_eq!(binding.exchange().kind(), &ExchangeKind::Direct);
    assert_eq!(binding.exchange().declare_mode(), Some(DeclareMode::Never));
    assert_eq!(
        json(&binding),
        r#"{"exchange":"media","routing_key":"video"}"#
    );
    let full = Binding::from(Exchange::direct("media"));
    assert_eq!(json(&full), r#"{"exchange":{"name":"media"}}"#);
}

#[test]
fn an_exclusive_queue_in_a_file_is_auto_deleted_too() {
    let queue: Queue = yaml("{name: q, exclusive: true}");
    assert!(queue.is_auto_delete());
    assert_eq!(queue, Queue::new("q").exclusive(true));
}

#[test]
fn a_limit_on_deliveries_in_a_file_means_quorum() {
    let queue: Queue = yaml("{name: q, dead_letter_exchange: d, max_deliveries: 3}");
    assert_eq!(queue.get_queue_type(), Some(QueueType::Quorum));
    assert_eq!(
        queue,
        Queue::new("q").dead_letter_exchange("d").max_deliveries(3)
    );
}

#[test]
fn rabbitmqs_names_in_a_file_set_the_attributes() {
    let queue: Queue = yaml(
        "{name: q, arguments: {x-message-ttl: 1000, x-queue-type: classic, x-overflow: drop-head, x-other: 1}}",
    );
    let expected = Queue::new("q")
        .message_ttl(Duration::from_secs(1))
        .classic()
        .overflow(Overflow::DropHead)
        .argument("x-other", 1i64);
    assert_eq!(queue, expected);
    let exchange: Exchange = yaml("{name: e, arguments: {alternate-exchange: other}}");
    assert_eq!(exchange, Exchange::direct("e").alternate_exchange("other"));
}

#[test]
fn an_attribute_in_a_file_wins_over_the_argument_that_says_the_same() {
    let queue: Queue = yaml("{name: q, message_ttl: 5s, arguments: {x-message-ttl: 1000}}");
    assert_eq!(queue, Queue::new("q").message_ttl(Duration::from_secs(5)));
    let exchange: Exchange =
        yaml("{name: e, alternate_exchange: a, arguments: {alternate-exchange: b}}");
    assert_eq!(exchange, Exchange::direct("e").alternate_exchange("a"));
}

#[test]
fn a_queue_without_a_name_in_its_file_can_get_one() {
    let queue = yaml::<Queue>("{durable: false}").with_name("videos");
    assert_eq!(queue, Queue::new("videos").durable(false));
    let exchange = yaml::<Exchange>("{type: topic}").with_name("media");
    assert_eq!(exchange, Exchange::topic("media"));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Options {
    #[serde(with = "duration")]
    wait: Duration,
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    limit: Option<Duration>,
}

#[test]
fn durations_serve_other_option_types_too() {
    let options = Options {
        wait: Duration::from_secs(300),
        limit: Some(Duration::from_millis(250)),
    };
    through_all_formats(&options);
    assert_eq!(json(&options), r#"{"wait":"5m","limit":"250ms"}"#);
    let options: Options = yaml("{wait: 1500}");
    assert_eq!(options.wait, Duration::from_millis(1_500));
    assert_eq!(options.limit, None);
    through_all_formats(&options);
    assert_eq!(yaml::<Options>("{wait: 0s, limit: null}").limit, None);
}

//! What is refused before anything is sent, and what it says.

#![allow(clippy::expect_used)]

use std::time::Duration;

use kombu_core::declare::{Binding, DeclareMode, Exchange, Overflow, Queue};
use kombu_core::field::{FieldTable, FieldValue};
use kombu_core::{ErrorKind, Result};

#[track_caller]
fn refused(result: Result<()>, kind: ErrorKind, words: &[&str]) {
    let error = result.expect_err("it should have been refused");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is missing: {text}");
    }
}

fn long() -> String {
    "n".repeat(256)
}

#[test]
fn what_is_in_order_passes() {
    let media = Exchange::topic("media")
        .alternate_exchange("other")
        .bind(Exchange::direct("amq.direct"), "k");
    assert!(media.check().is_ok());
    assert!(Exchange::default().check().is_ok());
    assert!(
        Exchange::custom("x-consistent-hash", "hash")
            .check()
            .is_ok()
    );
    assert!(Queue::server_named().exclusive(true).check().is_ok());
    let queue = Queue::new("q".repeat(255))
        .bind(&media, "k".repeat(255))
        .message_ttl(Duration::ZERO)
        .expires(Duration::from_millis(u32::MAX.into()))
        .max_length(0)
        .dead_letter_exchange("")
        .dead_letter_routing_key("");
    assert!(queue.check().is_ok());
    assert!(queue.clone().max_deliveries(1).check().is_ok());
    assert!(queue.clone().quorum().check().is_ok());
    assert!(queue.max_priority(255).classic().check().is_ok());
}

#[test]
fn names_and_keys_over_255_bytes_are_refused() {
    let kind = ErrorKind::InvalidName;
    let e = Exchange::direct("e");
    refused(Queue::new(long()).check(), kind, &["queue name", "256"]);
    refused(Exchange::direct(long()).check(), kind, &["exchange name"]);
    refused(
        Exchange::custom(long(), "e").check(),
        kind,
        &["exchange type"],
    );
    refused(
        e.clone().alternate_exchange(long()).check(),
        kind,
        &["alternate exchange"],
    );
    refused(e.clone().argument(long(), 1).check(), kind, &["field name"]);
    refused(Binding::new(&e, long()).check(), kind, &["routing key"]);
    refused(
        Binding::from(Exchange::direct(long())).check(),
        kind,
        &["exchange name"],
    );
    refused(
        Binding::from(&e).argument(long(), 1).check(),
        kind,
        &["field name"],
    );
    refused(
        e.clone().bind(Exchange::direct("s"), long()).check(),
        kind,
        &["routing key"],
    );
    let q = Queue::new("q");
    refused(q.clone().bind(&e, long()).check(), kind, &["routing key"]);
    refused(
        q.clone().dead_letter_exchange(long()).check(),
        kind,
        &["dead-letter exchange"],
    );
    refused(
        q.clone()
            .dead_letter_exchange("d")
            .dead_letter_routing_key(long())
            .check(),
        kind,
        &["dead-letter routing key"],
    );
    refused(q.clone().argument(long(), 1).check(), kind, &["field name"]);
    refused(
        q.consumer_argument(long(), 1).check(),
        kind,
        &["field name"],
    );
}

#[test]
fn a_queue_name_that_amqp_reserves_is_refused_unless_it_is_only_looked_up() {
    refused(
        Queue::new("amq.mine").check(),
        ErrorKind::AccessRefused,
        &[
            "`amq.mine`",
            "queue names starting with `amq.` are reserved by AMQP; choose another",
        ],
    );
    assert_eq!(
        Queue::new("amq.mine").check().unwrap_err().code(),
        Some(403)
    );
    assert!(Queue::new("amq.gen-1").passive().check().is_ok());
    assert!(Queue::new("amq.gen-1").no_declare().check().is_ok());
    assert!(Queue::new("amq.gen-1").check_as(DeclareMode::Never).is_ok());
    assert!(
        Queue::new("amq.gen-1")
            .declare(DeclareMode::Ensure)
            .check_as(DeclareMode::Never)
            .is_err()
    );
    assert!(Queue::new("amqp").check().is_ok());
}

#[test]
fn an_exchange_name_that_amqp_reserves_is_refused_unless_it_is_there_from_the_start() {
    refused(
        Exchange::direct("amq.mine").check(),
        ErrorKind::AccessRefused,
        &["`amq.mine`", "reserved", "choose another"],
    );
    assert!(
        Exchange::topic("amq.rabbitmq.trace")
            .passive()
            .check()
            .is_ok()
    );
    assert!(
        Queue::new("q")
            .bind(Exchange::topic("amq.rabbitmq.trace").no_declare(), "#")
            .check()
            .is_ok()
    );
    refused(
        Queue::new("q")
            .bind(Exchange::topic("amq.rabbitmq.trace"), "#")
            .check(),
        ErrorKind::AccessRefused,
        &["amq.rabbitmq.trace"],
    );
    for exchange in [
        Exchange::direct("amq.direct"),
        Exchange::fanout("amq.fanout"),
        Exchange::topic("amq.topic"),
        Exchange::headers("amq.headers"),
        Exchange::headers("amq.match"),
    ] {
        assert!(exchange.is_predeclared());
        assert!(exchange.check().is_ok());
        let kind = ErrorKind::PreconditionFailed;
        refused(
            exchange.clone().durable(false).check(),
            kind,
            &["`durable`", exchange.name()],
        );
        refused(
            exchange.clone().auto_delete(true).check(),
            kind,
            &["`auto_delete`"],
        );
        refused(
            exchange.clone().internal(true).check(),
            kind,
            &["`internal`"],
        );
    }
    refused(
        Exchange::topic("amq.direct").check(),
        ErrorKind::PreconditionFailed,
        &["`type`", "`amq.direct`", "is direct, not topic"],
    );
    assert!(!Exchange::direct("direct").is_predeclared());
}

#[test]
fn the_default_exchange_takes_no_bindings_and_no_other_kind() {
    let kind = ErrorKind::AccessRefused;
    refused(
        Queue::new("q").bind(Exchange::default(), "q").check(),
        kind,
        &["default exchange"],
    );
    refused(
        Binding::from(Exchange::default().no_declare()).check(),
        kind,
        &["default exchange"],
    );
    refused(
        Exchange::fanout("f").bind(Exchange::default(), "").check(),
        kind,
        &["default exchange"],
    );
    refused(
        Exchange::default().bind(Exchange::fanout("f"), "").check(),
        kind,
        &["default exchange", "`f`"],
    );
    refused(
        Exchange::topic("").check(),
        kind,
        &["default exchange", "topic"],
    );
}

#[test]
fn a_kind_without_a_name_is_refused() {
    refused(
        Exchange::custom("", "e").check(),
        ErrorKind::InvalidName,
        &["`type`", "`e`", "topic"],
    );
}

#[test]
fn an_x_match_that_no_broker_knows_is_refused() {
    let binding =
        |value: FieldValue| Binding::from(Exchange::headers("h")).argument("x-match", value);
    for value in ["all", "any", "all-with-x", "any-with-x"] {
        assert!(binding(value.into()).check().is_ok());
    }
    for value in [FieldValue::from("some"), true.into(), ().into()] {
        refused(
            binding(value).check(),
            ErrorKind::PreconditionFailed,
            &["`x-match`", "`h`", "any"],
        );
    }
    assert!(
        Binding::from(Exchange::topic("t"))
            .argument("x-match", 5)
            .check()
            .is_ok()
    );
}

#[test]
fn arguments_of_a_wrong_type_are_refused_with_the_right_one() {
    for (argument, value, expected) in [
        ("x-queue-type", FieldValue::from(1), "text"),
        ("x-expires", "1m".into(), "milliseconds"),
        ("x-expires", (-1).into(), "not -1"),
        ("x-message-ttl", 1.5.into(), "milliseconds"),
        ("x-max-length", (-1).into(), "not -1"),
        ("x-max-length-bytes", "1k".into(), "integer"),
        ("x-overflow", true.into(), "reject-publish-dlx, not bool"),
        (
            "x-overflow",
            "drop-tail".into(),
            "drop-head, reject-publish or reject-publish-dlx, not `drop-tail`",
        ),
        ("x-max-priority", 256.into(), "from 0 to 255, not 256"),
        ("x-dead-letter-exchange", ().into(), "text, not void"),
        ("x-dead-letter-routing-key", 5.into(), "text"),
        ("x-delivery-limit", "3".into(), "integer"),
        ("x-single-active-consumer", 1.into(), "true or false"),
    ] {
        refused(
            Queue::new("q").argument(argument, value).check(),
            ErrorKind::PreconditionFailed,
            &[argument, "queue `q`", expected],
        );
    }
    refused(
        Exchange::direct("e")
            .argument("alternate-exchange", 5)
            .check(),
        ErrorKind::PreconditionFailed,
        &["alternate-exchange", "exchange `e`", "text"],
    );
}

#[test]
fn times_and_limits_that_rabbitmq_refuses_are_refused() {
    let kind = ErrorKind::PreconditionFailed;
    let too_long = Duration::from_millis(u64::from(u32::MAX) + 1);
    refused(
        Queue::new("q").expires(Duration::ZERO).check(),
        kind,
        &["`expires`", "`q`", "1ms"],
    );
    refused(
        Queue::new("q").expires(too_long).check(),
        kind,
        &["`expires`", "4294967295ms"],
    );
    refused(
        Queue::new("q").message_ttl(too_long).check(),
        kind,
        &["`message_ttl`", "leave it out"],
    );
    refused(
        Queue::new("q").message_ttl(Duration::MAX).check(),
        kind,
        &["`message_ttl`"],
    );
    refused(
        Queue::new("q").max_length(u64::MAX).check(),
        kind,
        &["`max_length`"],
    );
    refused(
        Queue::new("q").max_length_bytes(u64::MAX).check(),
        kind,
        &["`max_length_bytes`"],
    );
}

#[test]
fn a_dead_letter_key_without_an_exchange_is_refused() {
    refused(
        Queue::new("q").dead_letter_routing_key("k").check(),
        ErrorKind::PreconditionFailed,
        &["`dead_letter_routing_key`", "`q`", "`dead_letter_exchange`"],
    );
}

#[test]
fn a_limit_on_deliveries_needs_a_dead_letter_target_and_a_queue_that_can_be_quorum() {
    let kind = ErrorKind::PreconditionFailed;
    let queue = || Queue::new("q").max_deliveries(3).dead_letter_exchange("d");
    assert!(queue().check().is_ok());
    refused(
        Queue::new("q").max_deliveries(3).check(),
        kind,
        &["`max_deliveries`", "`q`", "`dead_letter_exchange`"],
    );
    refused(
        queue().max_deliveries(0).check(),
        kind,
        &["`max_deliveries`", "at least 1"],
    );
    refused(
        queue().classic().check(),
        kind,
        &["`max_deliveries`", "classic", "quorum()"],
    );
    refused(
        queue().argument("x-queue-type", "stream").check(),
        kind,
        &["`max_deliveries`", "stream"],
    );
    for (queue, obstacle) in [
        (queue().exclusive(true), "`exclusive`"),
        (queue().auto_delete(true), "`auto_delete`"),
        (queue().durable(false), "`durable: false`"),
        (queue().max_priority(5), "`max_priority`"),
        (
            queue().overflow(Overflow::RejectPublishDlx),
            "`overflow: reject-publish-dlx`",
        ),
    ] {
        refused(
            queue.check(),
            kind,
            &[
                "`max_deliveries` of queue `q`",
                "quorum",
                obstacle,
                "leave out",
            ],
        );
    }
}

#[test]
fn a_quorum_queue_can_not_be_what_only_classic_ones_can() {
    let queue = || Queue::new("q").quorum();
    for (queue, obstacle) in [
        (queue().exclusive(true), "`exclusive`"),
        (queue().auto_delete(true), "`auto_delete`"),
        (queue().durable(false), "`durable: false`"),
        (queue().max_priority(5), "`max_priority`"),
        (
            queue().overflow(Overflow::RejectPublishDlx),
            "`overflow: reject-publish-dlx`",
        ),
    ] {
        refused(
            queue.check(),
            ErrorKind::PreconditionFailed,
            &["`type` of queue `q` is quorum", obstacle, "leave out"],
        );
    }
}

#[test]
fn arguments_nested_too_deep_are_refused() {
    let mut value = FieldValue::Void;
    for _ in 0..65 {
        value = FieldTable::from([("inner", value)]).into();
    }
    let kind = ErrorKind::Encode;
    refused(
        Queue::new("q").argument("x", value.clone()).check(),
        kind,
        &["`inner`", "64"],
    );
    refused(
        Queue::new("q")
            .consumer_argument("x", value.clone())
            .check(),
        kind,
        &["64"],
    );
    refused(
        Exchange::direct("e").argument("x", value.clone()).check(),
        kind,
        &["64"],
    );
    refused(
        Binding::from(Exchange::direct("e"))
            .argument("x", value)
            .check(),
        kind,
        &["64"],
    );
}

#[test]
fn a_server_named_queue_is_called_so_in_errors() {
    refused(
        Queue::server_named().expires(Duration::ZERO).check(),
        ErrorKind::PreconditionFailed,
        &["the server-named queue"],
    );
}

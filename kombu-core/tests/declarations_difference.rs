//! What makes a second declaration differ from what the broker has.

#![allow(clippy::expect_used)]

use std::time::Duration;

use kombu_core::declare::{Binding, DeliveryMode, Exchange, Overflow, Queue};

#[track_caller]
fn queue_differs(here: Queue, broker: Queue, text: &str) {
    let difference = here.difference(&broker).expect("they should differ");
    assert_eq!(difference.to_string(), text);
}

#[track_caller]
fn exchange_differs(here: Exchange, broker: Exchange, text: &str) {
    let difference = here.difference(&broker).expect("they should differ");
    assert_eq!(difference.to_string(), text);
}

fn queue() -> Queue {
    Queue::new("q")
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn equal_declarations_do_not_differ() {
    let full = queue()
        .message_ttl(secs(5))
        .max_priority(3)
        .dead_letter_exchange("d");
    assert_eq!(full.difference(&full.clone()), None);
    let exchange = Exchange::topic("e").alternate_exchange("a");
    assert_eq!(exchange.difference(&exchange.clone()), None);
}

#[test]
fn each_attribute_of_a_queue_is_named_with_both_values() {
    for (here, text) in [
        (
            queue().exclusive(true),
            "`exclusive` is true here and false on the broker",
        ),
        (
            queue().durable(false),
            "`durable` is false here and true on the broker",
        ),
        (
            queue().auto_delete(true),
            "`auto_delete` is true here and false on the broker",
        ),
        (
            queue().quorum(),
            "`type` (x-queue-type) is quorum here and classic on the broker",
        ),
        (
            queue().expires(secs(3_600)),
            "`expires` (x-expires) is 1h here and unset on the broker",
        ),
        (
            queue().message_ttl(secs(90)),
            "`message_ttl` (x-message-ttl) is 90s here and unset on the broker",
        ),
        (
            queue().max_length(5),
            "`max_length` (x-max-length) is 5 here and unset on the broker",
        ),
        (
            queue().max_length_bytes(5),
            "`max_length_bytes` (x-max-length-bytes) is 5 here and unset on the broker",
        ),
        (
            queue().overflow(Overflow::RejectPublish),
            "`overflow` (x-overflow) is reject-publish here and unset on the broker",
        ),
        (
            queue().max_priority(9),
            "`max_priority` (x-max-priority) is 9 here and unset on the broker",
        ),
        (
            queue().dead_letter_exchange(""),
            "`dead_letter_exchange` (x-dead-letter-exchange) is \"\" here and unset on the broker",
        ),
        (
            queue().dead_letter_routing_key("k"),
            "`dead_letter_routing_key` (x-dead-letter-routing-key) is `k` here and unset on the broker",
        ),
        (
            queue().single_active_consumer(true),
            "`single_active_consumer` (x-single-active-consumer) is true here and false on the broker",
        ),
    ] {
        queue_differs(here, queue(), text);
    }
    queue_differs(
        queue().max_deliveries(3),
        queue().quorum(),
        "`max_deliveries` (x-delivery-limit) is 3 here and unset on the broker",
    );
    queue_differs(
        queue(),
        queue().message_ttl(secs(60)),
        "`message_ttl` (x-message-ttl) is unset here and 1m on the broker",
    );
}

#[test]
fn each_attribute_of_an_exchange_is_named_with_both_values() {
    let exchange = || Exchange::direct("e");
    for (here, text) in [
        (
            Exchange::custom("x-hash", "e"),
            "`type` is x-hash here and direct on the broker",
        ),
        (
            exchange().durable(false),
            "`durable` is false here and true on the broker",
        ),
        (
            exchange().auto_delete(true),
            "`auto_delete` is true here and false on the broker",
        ),
        (
            exchange().internal(true),
            "`internal` is true here and false on the broker",
        ),
        (
            exchange().alternate_exchange("a"),
            "`alternate_exchange` (alternate-exchange) is `a` here and unset on the broker",
        ),
    ] {
        exchange_differs(here, exchange(), text);
    }
}

#[test]
fn what_brokers_do_not_compare_makes_no_difference() {
    let media = Exchange::topic("media");
    for other in [
        queue().bind(&media, "k"),
        queue().alias("a"),
        queue().no_ack(true),
        queue().passive(),
        queue().argument("x-unknown", 1),
        queue().consumer_argument("x-priority", 1),
        queue().classic(),
        queue().single_active_consumer(false),
    ] {
        assert_eq!(other.difference(&queue()), None, "{other:?}");
        assert_eq!(queue().difference(&other), None, "{other:?}");
    }
    for other in [
        media.clone().delivery_mode(DeliveryMode::Transient),
        media.clone().no_declare(),
        media.clone().argument("x-unknown", 1),
        media
            .clone()
            .bind_with(Binding::from(Exchange::fanout("f"))),
    ] {
        assert_eq!(other.difference(&media), None, "{other:?}");
    }
}

#[test]
fn arguments_that_no_attribute_holds_are_compared_by_rabbitmqs_name() {
    queue_differs(
        queue().argument("x-queue-type", "stream"),
        queue(),
        "`type` (x-queue-type) is stream here and classic on the broker",
    );
    queue_differs(
        queue().quorum().argument("x-delivery-limit", -1),
        queue().max_deliveries(3),
        "`max_deliveries` (x-delivery-limit) is unlimited here and 3 on the broker",
    );
}

#[test]
fn the_parts_of_a_difference_can_be_read() {
    let difference = queue().max_length(5).difference(&queue()).unwrap();
    assert_eq!(difference.attribute(), "max_length");
    assert_eq!(difference.argument(), Some("x-max-length"));
    assert_eq!((difference.here(), difference.broker()), ("5", "unset"));
    let difference = queue().exclusive(true).difference(&queue()).unwrap();
    assert_eq!(
        (difference.attribute(), difference.argument()),
        ("exclusive", None)
    );
}

//! The attributes of declarations under the names that RabbitMQ has for them.

use std::collections::HashSet;
use std::time::Duration;

use kombu_core::Name;
use kombu_core::declare::{
    Binding, DeclareMode, DeliveryMode, Exchange, ExchangeKind, Overflow, Queue, QueueType,
};
use kombu_core::field::{FieldTable, FieldValue};

/// Each attribute by its setter, and by RabbitMQ's name.
fn both_spellings() -> Vec<(Queue, &'static str, FieldValue)> {
    let queue = || Queue::new("q");
    vec![
        (queue().classic(), "x-queue-type", "classic".into()),
        (queue().quorum(), "x-queue-type", "quorum".into()),
        (
            queue().expires(Duration::from_secs(60)),
            "x-expires",
            60_000i64.into(),
        ),
        (
            queue().message_ttl(Duration::ZERO),
            "x-message-ttl",
            0i64.into(),
        ),
        (queue().max_length(5), "x-max-length", 5i64.into()),
        (
            queue().max_length_bytes(1 << 40),
            "x-max-length-bytes",
            (1i64 << 40).into(),
        ),
        (
            queue().overflow(Overflow::DropHead),
            "x-overflow",
            "drop-head".into(),
        ),
        (
            queue().overflow(Overflow::RejectPublish),
            "x-overflow",
            "reject-publish".into(),
        ),
        (
            queue().overflow(Overflow::RejectPublishDlx),
            "x-overflow",
            "reject-publish-dlx".into(),
        ),
        (queue().max_priority(255), "x-max-priority", 255i64.into()),
        (
            queue().dead_letter_exchange(""),
            "x-dead-letter-exchange",
            "".into(),
        ),
        (
            queue().dead_letter_routing_key("k"),
            "x-dead-letter-routing-key",
            "k".into(),
        ),
        (
            queue().single_active_consumer(true),
            "x-single-active-consumer",
            true.into(),
        ),
    ]
}

#[test]
fn both_spellings_are_equal_declarations() {
    for (queue, argument, value) in both_spellings() {
        let other = Queue::new("q").argument(argument, value);
        assert_eq!(queue, other, "{argument}");
        assert_eq!(HashSet::from([queue, other]).len(), 1, "{argument}");
    }
    assert_eq!(
        Queue::new("q").max_deliveries(3),
        Queue::new("q").argument("x-delivery-limit", 2)
    );
    assert_eq!(
        Exchange::fanout("e").alternate_exchange("other"),
        Exchange::fanout("e").argument("alternate-exchange", "other")
    );
}

#[test]
fn an_integer_argument_may_have_any_width() {
    let expected = Queue::new("q").max_length(7);
    for value in [
        FieldValue::I8(7),
        FieldValue::U8(7),
        FieldValue::I16(7),
        FieldValue::U16(7),
        FieldValue::I32(7),
        FieldValue::U32(7),
        FieldValue::I64(7),
    ] {
        assert_eq!(Queue::new("q").argument("x-max-length", value), expected);
    }
}

#[test]
fn the_table_for_the_broker_has_every_attribute_by_rabbitmqs_name() {
    for (queue, argument, value) in both_spellings() {
        assert_eq!(
            queue.arguments_table(),
            FieldTable::from([(argument, value)])
        );
    }
    let table = Queue::new("q")
        .message_ttl(Duration::from_secs(1))
        .argument("x-queue-version", 2)
        .arguments_table();
    assert_eq!(
        table,
        FieldTable::from([
            ("x-message-ttl", FieldValue::I64(1_000)),
            ("x-queue-version", FieldValue::I32(2)),
        ])
    );
    assert_eq!(
        Exchange::fanout("e")
            .alternate_exchange("other")
            .argument("x", 1)
            .arguments_table(),
        FieldTable::from([
            ("alternate-exchange", FieldValue::from("other")),
            ("x", 1.into())
        ])
    );
    assert!(
        Queue::new("q")
            .single_active_consumer(false)
            .arguments_table()
            .is_empty()
    );
    assert!(Exchange::default().arguments_table().is_empty());
}

#[test]
fn three_deliveries_are_the_first_one_and_two_more() {
    let queue = Queue::new("q").max_deliveries(3);
    assert_eq!(
        queue.arguments_table(),
        FieldTable::from([
            ("x-delivery-limit", FieldValue::I64(2)),
            ("x-queue-type", "quorum".into()),
        ])
    );
}

#[test]
fn a_limit_on_deliveries_means_quorum_but_does_not_override_a_type() {
    assert_eq!(
        Queue::new("q").max_deliveries(3).get_queue_type(),
        Some(QueueType::Quorum)
    );
    for queue in [
        Queue::new("q").max_deliveries(3).classic(),
        Queue::new("q").classic().max_deliveries(3),
    ] {
        assert_eq!(queue.get_queue_type(), Some(QueueType::Classic));
    }
}

#[test]
fn the_last_of_two_spellings_counts() {
    let queue = Queue::new("q")
        .message_ttl(Duration::from_secs(5))
        .argument("x-message-ttl", 1_000);
    assert_eq!(queue, Queue::new("q").message_ttl(Duration::from_secs(1)));
    let queue = Queue::new("q")
        .argument("x-message-ttl", "soon")
        .message_ttl(Duration::from_secs(1));
    assert_eq!(queue, Queue::new("q").message_ttl(Duration::from_secs(1)));
    let queue = Queue::new("q")
        .message_ttl(Duration::from_secs(1))
        .argument("x-message-ttl", "soon");
    assert_eq!(queue.get_message_ttl(), None);
    assert_eq!(queue.arguments().get("x-message-ttl"), Some(&"soon".into()));
    let exchange = Exchange::direct("e")
        .argument("alternate-exchange", 5)
        .alternate_exchange("a");
    assert_eq!(exchange, Exchange::direct("e").alternate_exchange("a"));
}

#[test]
fn what_no_attribute_can_hold_is_passed_on() {
    let queue = Queue::new("q")
        .argument("x-queue-type", "stream")
        .argument("x-delivery-limit", -1);
    assert_eq!(queue.get_queue_type(), None);
    assert_eq!(queue.arguments_table().len(), 2);
    assert!(queue.check().is_ok());
}

#[test]
fn less_than_a_millisecond_is_rounded_up() {
    let queue = Queue::new("q")
        .message_ttl(Duration::from_micros(1))
        .expires(Duration::from_micros(1_001));
    assert_eq!(queue.get_message_ttl(), Some(Duration::from_millis(1)));
    assert_eq!(queue.get_expires(), Some(Duration::from_millis(2)));
}

#[test]
fn an_exclusive_queue_is_always_auto_deleted() {
    for queue in [
        Queue::new("q").exclusive(true),
        Queue::new("q").exclusive(true).auto_delete(false),
        Queue::new("q").auto_delete(false).exclusive(true),
    ] {
        assert!(queue.is_exclusive() && queue.is_auto_delete());
    }
    assert!(!Queue::new("q").exclusive(false).is_auto_delete());
}

#[test]
fn defaults_are_those_of_kombu() {
    let exchange = Exchange::default();
    assert!(exchange.is_default() && exchange.is_durable());
    assert!(!exchange.is_auto_delete() && !exchange.is_internal());
    assert_eq!(exchange.kind(), &ExchangeKind::Direct);
    assert_eq!(exchange.get_delivery_mode(), DeliveryMode::Persistent);
    assert_eq!(exchange.declare_mode(), None);
    let queue = Queue::new("q");
    assert!(queue.is_durable() && !queue.is_server_named());
    assert!(!queue.is_exclusive() && !queue.is_auto_delete() && !queue.is_no_ack());
    assert!(queue.arguments_table().is_empty());
    assert!(Queue::server_named().is_server_named());
}

#[test]
fn setters_set_what_the_getters_read() {
    let dead = Exchange::fanout("dead");
    let queue = Queue::new("q")
        .durable(false)
        .no_ack(true)
        .alias("a")
        .dead_letter_exchange(&dead)
        .dead_letter_routing_key("k")
        .max_deliveries(3)
        .max_length(1)
        .max_length_bytes(2)
        .max_priority(4)
        .overflow(Overflow::DropHead)
        .single_active_consumer(true)
        .consumer_argument("x-priority", 1)
        .passive();
    assert!(!queue.is_durable() && queue.is_no_ack() && queue.is_single_active_consumer());
    assert_eq!(queue.get_alias(), Some(&Name::from("a")));
    assert_eq!(queue.get_dead_letter_exchange(), Some(&Name::from("dead")));
    assert_eq!(queue.get_dead_letter_routing_key(), Some(&Name::from("k")));
    assert_eq!(queue.get_max_deliveries(), Some(3));
    assert_eq!(queue.get_max_length(), Some(1));
    assert_eq!(queue.get_max_length_bytes(), Some(2));
    assert_eq!(queue.get_max_priority(), Some(4));
    assert_eq!(queue.get_overflow(), Some(Overflow::DropHead));
    assert_eq!(queue.consumer_arguments().len(), 1);
    assert_eq!(queue.declare_mode(), Some(DeclareMode::Verify));
    assert_eq!(queue.clone().with_name("other").name(), "other");
    assert_eq!(Name::from(&queue), "q");
    assert_eq!(Name::from(queue), "q");
    assert_eq!(
        Exchange::direct("e").no_declare().declare_mode(),
        Some(DeclareMode::Never)
    );
}

#[test]
fn a_binding_holds_its_exchange_key_and_arguments() {
    let media = Exchange::topic("media");
    let queue = Queue::new("q")
        .bind(&media, "a.*")
        .bind_with(Binding::from(&media).routing_key("b.#"));
    let keys: Vec<&str> = queue
        .bindings()
        .iter()
        .map(|binding| binding.get_routing_key().as_str())
        .collect();
    assert_eq!(keys, ["a.*", "b.#"]);
    assert!(
        queue
            .bindings()
            .iter()
            .all(|binding| *binding.exchange() == media)
    );
    let all = Binding::from(&media)
        .match_any()
        .match_all()
        .argument("a", ());
    assert_eq!(
        all.arguments(),
        &FieldTable::from([("a", FieldValue::Void), ("x-match", "all".into())])
    );
    assert_eq!(
        Exchange::fanout("f").bind(&media, "a").bindings(),
        [Binding::new(&media, "a")]
    );
}

#[test]
fn a_kind_that_amqp_has_is_not_a_custom_one() {
    assert_eq!(Exchange::custom("topic", "e"), Exchange::topic("e"));
    assert_eq!(
        Exchange::custom("x-delayed-message", "e").kind(),
        &ExchangeKind::Custom("x-delayed-message".into())
    );
}

#[test]
fn delivery_modes_have_amqps_numbers() {
    assert_eq!(u8::from(DeliveryMode::Transient), 1);
    assert_eq!(DeliveryMode::try_from(2).unwrap(), DeliveryMode::Persistent);
    assert!(DeliveryMode::try_from(0).is_err());
}

//! A headers exchange compares the arguments of its bindings with the headers of the message.

use kombu_core::{Binding, ErrorKind, Exchange, FieldTable, FieldValue, Queue};

use super::bodies;
use crate::expect::assert_refused;
use crate::{Broker, Freedom};

/// Messages in which the readings of a binding differ.
fn messages() -> [(&'static str, FieldTable); 5] {
    [
        ("m0", FieldTable::from([("a", 1), ("b", 2)])),
        ("m1", FieldTable::from([("a", 1)])),
        ("m2", FieldTable::from([("b", 2), ("c", 3)])),
        ("m3", FieldTable::new()),
        ("m4", FieldTable::from([("a", 9)])),
    ]
}

/// A binding to the exchange of these cases.
fn binding() -> Binding {
    Binding::from(Exchange::headers("reports"))
}

/// Publishes each message, with its name as the body: those of `matched` arrive, in order, and no other does.
async fn assert_matches<const N: usize>(
    broker: &Broker,
    binding: Binding,
    messages: [(&str, FieldTable); N],
    matched: &[&str],
) {
    let connection = broker.connect().await;
    let exchange = binding.exchange().clone();
    let queue = Queue::new("matched").bind_with(binding);
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(&exchange).await.unwrap();
    for (name, headers) in messages {
        let mut publish = producer.publish_text(name);
        for (header, value) in headers {
            publish = publish.header(header, value);
        }
        let published = publish.await.unwrap();
        assert_eq!(published.routed, matched.contains(&name), "{name}");
    }
    assert_eq!(bodies(&connection, "matched").await, matched);
}

/// `x-match: all`
pub async fn match_all_wants_every_argument(broker: &Broker) {
    let binding = binding().match_all().argument("a", 1).argument("b", 2);
    assert_matches(broker, binding, messages(), &["m0"]).await;
}

/// `x-match: any`
pub async fn match_any_wants_one_argument(broker: &Broker) {
    let binding = binding().match_any().argument("a", 1).argument("b", 2);
    assert_matches(broker, binding, messages(), &["m0", "m1", "m2"]).await;
}

/// No `x-match`
pub async fn without_x_match_all_arguments_are_wanted(broker: &Broker) {
    let binding = binding().argument("a", 1).argument("b", 2);
    assert_matches(broker, binding, messages(), &["m0"]).await;
}

/// No `x-match`, and one argument.
pub async fn without_x_match_one_argument_is_enough_if_it_is_the_only_one(broker: &Broker) {
    let binding = binding().argument("a", 1);
    assert_matches(broker, binding, messages(), &["m0", "m1"]).await;
}

/// No arguments at all.
pub async fn a_binding_without_arguments_matches_every_message(broker: &Broker) {
    let all = ["m0", "m1", "m2", "m3", "m4"];
    assert_matches(broker, binding(), messages(), &all).await;
}

/// `any` of nothing is nothing.
pub async fn match_any_without_arguments_matches_no_message(broker: &Broker) {
    assert_matches(broker, binding().match_any(), messages(), &[]).await;
}

/// A void argument asks for the header, whatever its value is.
pub async fn a_void_argument_wants_the_header_to_be_there(broker: &Broker) {
    let binding = binding().argument("a", ());
    assert_matches(broker, binding, messages(), &["m0", "m1", "m4"]).await;
}

/// Arguments that start with `x-` belong to the broker.
pub async fn arguments_that_start_with_x_are_not_compared(broker: &Broker) {
    let binding = binding().argument("x-tenant", "eu").argument("a", 1);
    assert_matches(broker, binding, messages(), &["m0", "m1"]).await;
}

/// Nor can they be the one that is enough.
pub async fn arguments_that_start_with_x_are_not_compared_by_match_any(broker: &Broker) {
    let binding = binding()
        .match_any()
        .argument("x-tenant", "eu")
        .argument("b", 2);
    let messages = [
        ("tenant", FieldTable::from([("x-tenant", "eu")])),
        ("b", FieldTable::from([("b", 2)])),
    ];
    assert_matches(broker, binding, messages, &["b"]).await;
}

/// How wide the publisher wrote a number says nothing about it.
pub async fn integers_are_equal_by_value_whatever_their_width(broker: &Broker) {
    let binding = binding().argument("a", 1i32);
    let number = |value: FieldValue| FieldTable::from([("a", value)]);
    let messages = [
        ("i8", number(1i8.into())),
        ("u8", number(1u8.into())),
        ("i16", number(1i16.into())),
        ("u16", number(1u16.into())),
        ("i32", number(1i32.into())),
        ("u32", number(1u32.into())),
        ("i64", number(1i64.into())),
        ("another", number(2i64.into())),
    ];
    let matched = ["i8", "u8", "i16", "u16", "i32", "u32", "i64"];
    assert_matches(broker, binding, messages, &matched).await;
}

/// Nor how wide the fraction.
pub async fn fractions_are_equal_by_value_whatever_their_width(broker: &Broker) {
    let binding = binding().argument("a", 2.0f64);
    let number = |value: FieldValue| FieldTable::from([("a", value)]);
    let messages = [
        ("f32", number(2.0f32.into())),
        ("f64", number(2.0f64.into())),
        ("another", number(2.5f64.into())),
    ];
    assert_matches(broker, binding, messages, &["f32", "f64"]).await;
}

/// Nor does whether it is a whole one: RabbitMQ 3 puts all numbers into one class.
pub async fn numbers_are_equal_by_value_whatever_their_type(broker: &Broker) {
    let connection = broker.connect().await;
    for (whole, other) in [(0, 0.0), (2, 2.0), (-7, -7.0)] {
        for (wanted, sent) in [
            (FieldValue::from(whole), FieldValue::from(other)),
            (FieldValue::from(other), FieldValue::from(whole)),
        ] {
            let binding = binding().argument("a", wanted.clone());
            let exchange = binding.exchange().clone();
            let queue = Queue::new("matched").bind_with(binding);
            connection.declare_queue(&queue).await.unwrap();
            let producer = connection.producer(&exchange).await.unwrap();
            let publish = producer.publish_text("0").header("a", sent.clone());
            let routed = publish.await.unwrap().routed;
            assert!(
                routed || broker.may(Freedom::TellNumbersApart),
                "{wanted:?} and {sent:?}"
            );
            let arrived = bodies(&connection, "matched").await.len();
            assert_eq!(arrived, usize::from(routed));
            connection.delete_queue("matched").await.unwrap();
        }
    }
}

/// `x-match: all-with-x` and `any-with-x` compare those arguments, too.
pub async fn arguments_that_start_with_x_are_compared_if_x_match_says_so(broker: &Broker) {
    let messages = || {
        [
            ("both", FieldTable::from([("x-tenant", 7), ("a", 1)])),
            ("x", FieldTable::from([("x-tenant", 7)])),
            ("a", FieldTable::from([("a", 1)])),
            ("none", FieldTable::from([("x-tenant", 8)])),
        ]
    };
    let with = |mode: &str, exchange: &str| {
        let binding = Binding::from(Exchange::headers(exchange)).argument("x-match", mode);
        binding.argument("x-tenant", 7).argument("a", 1)
    };
    assert_matches(broker, with("all-with-x", "all"), messages(), &["both"]).await;
    broker
        .connect()
        .await
        .delete_queue("matched")
        .await
        .unwrap();
    let any = with("any-with-x", "any");
    assert_matches(broker, any, messages(), &["both", "x", "a"]).await;
}

/// Text isn't a number, whatever it says.
pub async fn a_value_of_another_type_is_another_value(broker: &Broker) {
    let binding = binding().argument("a", 1);
    let messages = [
        ("text", FieldTable::from([("a", "1")])),
        ("true", FieldTable::from([("a", true)])),
        ("number", FieldTable::from([("a", 1)])),
    ];
    assert_matches(broker, binding, messages, &["number"]).await;
}

/// Texts are compared byte for byte, and so are names.
pub async fn texts_are_compared_by_case(broker: &Broker) {
    let binding = binding().argument("format", "pdf");
    let messages = [
        ("equal", FieldTable::from([("format", "pdf")])),
        ("value", FieldTable::from([("format", "PDF")])),
        ("name", FieldTable::from([("Format", "pdf")])),
        ("part", FieldTable::from([("format", "pdf2")])),
    ];
    assert_matches(broker, binding, messages, &["equal"]).await;
}

/// Only headers count.
pub async fn routing_keys_do_not_matter(broker: &Broker) {
    let connection = broker.connect().await;
    let reports = Exchange::headers("reports");
    let binding = Binding::new(&reports, "key").argument("a", 1);
    connection
        .declare_queue(&Queue::new("matched").bind_with(binding))
        .await
        .unwrap();
    let producer = connection.producer(&reports).await.unwrap();
    for (body, key, value) in [("same key", "key", 2), ("other key", "other", 1)] {
        let publish = producer.publish_text(body).routing_key(key);
        publish.header("a", value).await.unwrap();
    }
    assert_eq!(bodies(&connection, "matched").await, ["other key"]);
}

/// Two bindings of one queue that differ in their arguments are two bindings.
pub async fn bindings_that_differ_in_their_arguments_are_apart(broker: &Broker) {
    let connection = broker.connect().await;
    let (first, second) = (binding().argument("a", 1), binding().argument("a", 2));
    let queue = Queue::new("matched")
        .bind_with(first.clone())
        .bind_with(second);
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection
        .producer(Exchange::headers("reports"))
        .await
        .unwrap();
    producer.publish_text("one").header("a", 1).await.unwrap();
    producer.publish_text("two").header("a", 2).await.unwrap();
    connection.unbind_queue("matched", &first).await.unwrap();
    producer
        .publish_text("late one")
        .header("a", 1)
        .await
        .unwrap();
    producer
        .publish_text("late two")
        .header("a", 2)
        .await
        .unwrap();
    assert_eq!(
        bodies(&connection, "matched").await,
        ["one", "two", "late two"]
    );
}

/// Also where the one who binds takes the exchange for one of another kind, of which nothing can be said in advance.
pub async fn a_way_to_match_that_there_is_not_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let exchange = Exchange::headers("reports");
    connection.declare_exchange(&exchange).await.unwrap();
    connection
        .declare_queue(&Queue::new("matched"))
        .await
        .unwrap();
    for kind in [exchange, Exchange::direct("reports")] {
        for how in [FieldValue::from("some"), FieldValue::from(1)] {
            let binding = Binding::from(&kind).argument("x-match", how);
            let bound = connection.bind_queue("matched", &binding).await;
            assert_refused(bound, ErrorKind::PreconditionFailed, 406);
            // Nobody can have made it, so removing it is no mistake.
            connection.unbind_queue("matched", &binding).await.unwrap();
        }
    }
}

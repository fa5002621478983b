//! What transports say that they can do, against the fixed table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Exchange, Feature, Queue, Support};
use kombu_testkit::expect::assert_unsupported;
use kombu_testkit::table;

/// Not there yet: each goes as soon as it is.
const PENDING: &[Feature] = &[Feature::CustomExchangeKind];

#[tokio::test]
async fn memory_is_capable_of_what_the_table_says_with_a_connection_and_without() {
    let before = kombu::registry().capabilities("memory").unwrap();
    let connection = kombu::connect("memory://").await.unwrap();
    assert_eq!(*connection.capabilities(), before);
    let expected: Vec<_> = PENDING
        .iter()
        .map(|feature| format!("{feature:?}"))
        .collect();
    let differences = table::differences("memory", &before);
    assert_eq!(differences.len(), expected.len(), "{differences:#?}");
    for (difference, feature) in differences.iter().zip(expected) {
        let text = format!("({feature}): native expected, unsupported found");
        assert!(difference.ends_with(&text), "{difference}");
    }
}

#[test]
fn the_table_finds_what_is_claimed_too_much_and_too_little() {
    let amqp = table::of("amqp").unwrap();
    assert!(table::differences("amqp", &amqp).is_empty());
    let more = amqp.native(Feature::Immediate);
    let less = amqp.without(Feature::DeadLetter);
    let otherwise = amqp.native(Feature::DelayedPublish);
    let smaller = amqp.with_max_priority(9);
    for (wrong, part) in [
        (more, "unsupported expected, native found"),
        (less, "native expected, unsupported found"),
        (otherwise, "emulated expected, native found"),
        (smaller, "255 expected, 9 found"),
    ] {
        let differences = table::differences("amqp", &wrong);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(differences[0].contains(part), "{differences:?}");
    }
    assert_eq!(amqp.support(Feature::Immediate), Support::Unsupported);
}

/// The check lies around the transport, whoever asks.
#[tokio::test]
async fn what_is_unsupported_is_refused_before_the_transport_sees_it() {
    let awkward = kombu_testkit::awkward::Awkward::default();
    let registry = kombu::Registry::new().with(awkward);
    let connection = kombu::Connection::builder(registry)
        .url("awkward://refusing")
        .await
        .unwrap();
    let queue = Queue::new("jobs").single_active_consumer(true);
    let error = assert_unsupported(connection.declare_queue(&queue).await);
    assert!(
        error.to_string().contains("single active consumers"),
        "{error}"
    );
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let expiring = producer
        .publish(&1)
        .routing_key("jobs")
        .expiration(std::time::Duration::from_secs(1));
    let error = assert_unsupported(expiring.await);
    assert!(
        error.to_string().contains("expiration on messages"),
        "{error}"
    );
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

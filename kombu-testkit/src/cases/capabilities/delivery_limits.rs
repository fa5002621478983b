//! How often a message is handed out.

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, FieldValue, Queue};

use super::has_queue;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect_one};

/// Handed out three times and given back three times, it is dead.
pub async fn a_message_that_was_handed_out_too_often_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .max_deliveries(3)
        .dead_letter_exchange("");
    let jobs = jobs.dead_letter_routing_key("dead");
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs).await {
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", ["poison"]).await;
    for attempt in 1..=3 {
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.retry().await.unwrap();
    }
    let letter = collect_one(&mut dead).await;
    assert_eq!(letter.body(), "poison");
    let deaths = letter
        .headers()
        .get("x-death")
        .and_then(FieldValue::as_array)
        .unwrap();
    let death = deaths[0].as_table().unwrap();
    assert_eq!(
        death.get("reason").and_then(FieldValue::as_str),
        Some("delivery_limit")
    );
    letter.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// It would lose messages: refused whether the transport has the feature or not.
pub async fn a_limit_without_a_dead_letter_exchange_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let declared = connection
        .declare_queue(&Queue::new("jobs").max_deliveries(3))
        .await;
    let error = assert_refused(declared, ErrorKind::PreconditionFailed, 406);
    assert!(error.to_string().contains("`max_deliveries`"), "{error}");
}

//! How often a message is handed out.

use kombu_core::driver::Feature;
use kombu_core::{ErrorKind, FieldValue, Queue};

use super::{LONG, SOON, has_queue, retries_later};
use crate::cases::{fates, publish, reject};
use crate::expect::{assert_refused, collect_one, drain, texts};
use crate::{Broker, Freedom};

/// A queue whose messages are handed out this often; then they go to `dead`, which isn't declared here.
fn jobs(max_deliveries: u32) -> Queue {
    Queue::new("jobs")
        .max_deliveries(max_deliveries)
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead")
}

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

/// The first failure is the last one.
pub async fn a_limit_of_one_allows_one_delivery(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(1)).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&jobs(1)).await.unwrap();
    publish(&connection, "jobs", ["bad", "good"]).await;
    let bad = collect_one(&mut consumer).await;
    bad.retry().confirmed().await.unwrap();
    let good = collect_one(&mut consumer).await;
    assert_eq!(good.body(), "good");
    good.ack().await.unwrap();
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let [letter] = drain(&connection, "dead").await.try_into().unwrap();
    assert_eq!(letter.body(), "bad");
    assert_eq!(fates(&letter), [("jobs", "delivery_limit", 1)]);
}

/// Single gets count as well.
pub async fn deliveries_to_single_gets_count(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(3)).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["poison"]).await;
    for attempt in 1..=3 {
        broker.assert_counts(&connection, "jobs", 1, 0).await;
        let delivery = connection.get("jobs").await.unwrap().unwrap();
        assert_eq!(delivery.attempt(), attempt);
        delivery.retry().confirmed().await.unwrap();
    }
    assert!(connection.get("jobs").await.unwrap().is_none());
    broker.assert_counts(&connection, "dead", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["poison"]);
}

/// Whoever gets it.
pub async fn deliveries_to_all_consumers_count_together(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(3)).await {
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["poison"]).await;
    for attempt in 1..=3 {
        let other = broker.connect().await;
        let mut consumer = other.consumer(&jobs(3)).await.unwrap();
        let delivery = collect_one(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        consumer.cancel().await.unwrap();
        delivery.retry().confirmed().await.unwrap();
        other.close().await.unwrap();
    }
    let letter = collect_one(&mut dead).await;
    assert_eq!(fates(&letter), [("jobs", "delivery_limit", 1)]);
    letter.ack().await.unwrap();
}

/// Not our turn isn't a failure.
pub async fn releases_do_not_wear_a_message_out(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(2)).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["work"]).await;
    for _ in 0..5 {
        let Some(delivery) = connection.get("jobs").await.unwrap() else {
            assert!(broker.may(Freedom::CountReleases));
            broker.assert_counts(&connection, "dead", 1, 0).await;
            assert_eq!(texts(&drain(&connection, "dead").await), ["work"]);
            return;
        };
        assert!(delivery.attempt() == 1 || broker.may(Freedom::CountReleases));
        delivery.release().confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// After the delay, it is counted; and the last one doesn't wait for it.
pub async fn retries_with_a_delay_count(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(2)).await
        || !retries_later(&connection).await
    {
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&jobs(2)).await.unwrap();
    publish(&connection, "jobs", ["poison"]).await;
    let first = collect_one(&mut consumer).await;
    first.retry_after(SOON).await.unwrap();
    let second = collect_one(&mut consumer).await;
    assert_eq!(second.attempt(), 2);
    second.retry_after(LONG).await.unwrap();
    let letter = collect_one(&mut dead).await;
    assert_eq!(fates(&letter), [("jobs", "delivery_limit", 1)]);
    letter.ack().await.unwrap();
}

/// Whoever gives it up before says so.
pub async fn a_rejection_is_no_worn_out_message(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(3)).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delivery.retry().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let [letter] = drain(&connection, "dead").await.try_into().unwrap();
    assert_eq!(fates(&letter), [("jobs", "rejected", 1)]);
}

/// It is a new message there.
pub async fn a_dead_letter_has_not_been_tried_in_its_new_queue(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(2)).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["poison"]).await;
    for _ in 0..2 {
        broker.assert_counts(&connection, "jobs", 1, 0).await;
        let delivery = connection.get("jobs").await.unwrap().unwrap();
        delivery.retry().confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let letter = connection.get("dead").await.unwrap().unwrap();
    assert_eq!((letter.attempt(), letter.redelivered()), (1, false));
    letter.ack().await.unwrap();
}

/// Each message is counted for itself.
pub async fn one_worn_out_message_leaves_the_others(broker: &Broker) {
    let connection = broker.connect().await;
    if !has_queue(&connection, Feature::MaxDeliveries, &jobs(3)).await {
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&jobs(3)).prefetch(8).await.unwrap();
    publish(&connection, "jobs", (0..20).map(|n: u32| n.to_string())).await;
    let (mut poisoned, mut done) = (0, Vec::new());
    while done.len() < 19 || poisoned < 3 {
        let delivery = collect_one(&mut consumer).await;
        if delivery.body() == "7" {
            poisoned += 1;
            delivery.retry().await.unwrap();
        } else {
            done.extend(texts([&delivery]));
            delivery.ack().await.unwrap();
        }
    }
    let letter = collect_one(&mut dead).await;
    assert_eq!(letter.body(), "7");
    letter.ack().await.unwrap();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), 19);
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

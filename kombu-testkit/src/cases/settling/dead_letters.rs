//! A rejected message of a queue with a dead-letter exchange goes there, and says where it died.

use std::time::SystemTime;

use kombu_core::driver::Feature;
use kombu_core::{
    Binding, Connection, Exchange, FieldTable, FieldValue, Queue, Timestamp, TraceContext,
};

use crate::cases::{deaths, producer_to, publish, reject, text_of};
use crate::expect::{assert_unsupported, collect_one, drain, texts};
use crate::{Broker, Freedom};

/// Declares the queue. Whether the cases can go on: false where dead-lettering is refused, as it then has to be.
async fn declared(connection: &Connection, queue: &Queue) -> bool {
    let result = connection.declare_queue(queue).await;
    if connection.capabilities().has(Feature::DeadLetter) {
        result.unwrap();
        return true;
    }
    assert_unsupported(result);
    false
}

fn count(death: &FieldTable) -> Option<i64> {
    death.get("count").and_then(FieldValue::as_i64)
}

/// Everything that RabbitMQ writes, as it writes it.
pub async fn a_rejected_message_tells_how_it_died(broker: &Broker) {
    let connection = broker.connect().await;
    let (work, failed) = (Exchange::topic("work"), Exchange::fanout("failed"));
    let jobs = Queue::new("jobs")
        .bind(&work, "job.#")
        .dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("dead").bind(&failed, ""))
        .await
        .unwrap();
    let producer = connection.producer(&work).await.unwrap();
    producer
        .publish_text("bad")
        .routing_key("job.new")
        .await
        .unwrap();
    let before = Timestamp::now().as_secs();
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let dead = connection.get("dead").await.unwrap().unwrap();
    let [death] = deaths(&dead).try_into().unwrap();
    assert_eq!(count(death), Some(1));
    assert_eq!(text_of(death, "reason"), Some("rejected"));
    assert_eq!(text_of(death, "queue"), Some("jobs"));
    assert_eq!(text_of(death, "exchange"), Some("work"));
    let keys = death.get("routing-keys").and_then(FieldValue::as_array);
    assert_eq!(keys, Some(&[FieldValue::from("job.new")][..]));
    let time = death
        .get("time")
        .and_then(FieldValue::as_timestamp)
        .unwrap()
        .as_secs();
    // Whole seconds, by the clock of the broker.
    let now = Timestamp::from(SystemTime::now()).as_secs();
    assert!(
        (before - 60..=now + 60).contains(&time),
        "{time} is far from {now}"
    );
    assert_eq!(death.len(), 6, "{death:?}");
    let headers = dead.headers();
    assert_eq!(text_of(headers, "x-first-death-reason"), Some("rejected"));
    assert_eq!(text_of(headers, "x-first-death-queue"), Some("jobs"));
    assert_eq!(text_of(headers, "x-first-death-exchange"), Some("work"));
    dead.ack().await.unwrap();
}

/// Those of its headers `CC` and `BCC`, unless its queue has a key for its dead letters.
pub async fn a_dead_letter_goes_by_its_further_keys_too(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    let failed = Exchange::direct("failed");
    for queue in [
        Queue::new("others")
            .dead_letter_exchange("failed")
            .dead_letter_routing_key("jobs"),
        Queue::new("dead").bind(&failed, "jobs"),
        Queue::new("cc").bind(&failed, "others"),
        Queue::new("bcc").bind(&failed, "hidden"),
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let others = FieldValue::Array(vec!["others".into()]);
    let both = FieldValue::Array(vec!["jobs".into(), "others".into()]);
    let producer = producer_to(&connection, "jobs").await;
    let hidden = FieldValue::Array(vec!["hidden".into()]);
    let publish = producer.publish_text("bad").header("BCC", hidden);
    publish.header("CC", others.clone()).await.unwrap();
    reject(&connection, "jobs").await;
    for queue in ["dead", "cc", "bcc"] {
        let [letter] = drain(&connection, queue).await.try_into().unwrap();
        assert_eq!(letter.headers().get("CC"), Some(&others));
        let [death] = deaths(&letter).try_into().unwrap();
        assert_eq!(death.get("routing-keys"), Some(&both));
    }
    reject(&connection, "others").await;
    let [letter] = drain(&connection, "dead").await.try_into().unwrap();
    let keys = letter.headers().get("CC");
    assert!(keys.is_none() || broker.may(Freedom::KeepFurtherKeys));
    let [death] = deaths(&letter).try_into().unwrap();
    assert_eq!(death.get("routing-keys"), Some(&both));
    for queue in ["cc", "bcc"] {
        broker.assert_counts(&connection, queue, 0, 0).await;
    }
}

/// It is a new message there: in its own words, and never delivered before.
pub async fn a_dead_letter_is_otherwise_unchanged(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::topic("failed");
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    let mut dead = connection
        .consumer(&Queue::new("dead").bind(&failed, "#"))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish(&[1, 2, 3]).routing_key("jobs");
    let publish = publish.header("tenant", 7).header("note", "kept");
    let publish = publish
        .message_id("m-1")
        .correlation_id("c-1")
        .reply_to("answers");
    publish
        .timestamp(Timestamp::from_secs(1_700_000_000))
        .priority(3)
        .await
        .unwrap();
    let first = connection.get("jobs").await.unwrap().unwrap();
    first.release().confirmed().await.unwrap();
    reject(&connection, "jobs").await;
    let dead = collect_one(&mut dead).await;
    assert_eq!(dead.exchange(), "failed");
    assert_eq!(dead.routing_key(), "jobs");
    assert_eq!(dead.queue(), "dead");
    assert!(!dead.redelivered());
    assert_eq!(dead.attempt(), 1);
    assert_eq!(dead.decode::<Vec<u32>>().unwrap(), [1, 2, 3]);
    assert_eq!(dead.content_type(), Some("application/json"));
    assert_eq!(dead.content_encoding(), Some("utf-8"));
    assert_eq!(dead.message_id(), Some("m-1"));
    assert_eq!(dead.correlation_id(), Some("c-1"));
    assert_eq!(dead.reply_to(), Some("answers"));
    assert_eq!(dead.timestamp(), Some(Timestamp::from_secs(1_700_000_000)));
    assert_eq!(dead.priority(), Some(3));
    assert_eq!(dead.delivery_mode(), kombu_core::DeliveryMode::Persistent);
    let own: Vec<_> = dead
        .headers()
        .iter()
        .filter(|(name, _)| !name.starts_with("x-"))
        .collect();
    assert_eq!(own.len(), 2, "{own:?}");
    assert_eq!(text_of(dead.headers(), "note"), Some("kept"));
    assert_eq!(
        dead.headers().get("tenant").and_then(FieldValue::as_i64),
        Some(7)
    );
    dead.ack().await.unwrap();
}

/// What becomes of it there belongs to the trace that it came from.
pub async fn a_dead_letter_keeps_its_trace_context(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let tracestate = "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE";
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let publish = producer.publish_text("bad");
    let publish = publish.header("traceparent", traceparent);
    publish.header("tracestate", tracestate).await.unwrap();
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let dead = connection.get("dead").await.unwrap().unwrap();
    assert_eq!(deaths(&dead).len(), 1);
    assert_eq!(text_of(dead.headers(), "traceparent"), Some(traceparent));
    assert_eq!(text_of(dead.headers(), "tracestate"), Some(tracestate));
    let context = TraceContext::parse(traceparent, Some(tracestate));
    assert_eq!(dead.trace_context(), context);
    dead.ack().await.unwrap();
}

/// The queue's own key, where it has one.
pub async fn a_dead_letter_routing_key_replaces_the_messages_own(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::direct("failed");
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("failed")
        .dead_letter_routing_key("dead");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("by-new-key").bind(&failed, "dead"))
        .await
        .unwrap();
    connection
        .declare_queue(&Queue::new("by-old-key").bind(&failed, "jobs"))
        .await
        .unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "by-new-key", 1, 0).await;
    let dead = connection.get("by-new-key").await.unwrap().unwrap();
    assert_eq!(dead.routing_key(), "dead");
    let keys = deaths(&dead)[0]
        .get("routing-keys")
        .and_then(FieldValue::as_array);
    assert_eq!(keys, Some(&[FieldValue::from("jobs")][..]));
    dead.ack().await.unwrap();
    broker.assert_counts(&connection, "by-old-key", 0, 0).await;
}

/// A queue by its name.
pub async fn dead_letters_go_through_the_default_exchange_too(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["bad", "worse"]).await;
    reject(&connection, "jobs").await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 2, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["bad", "worse"]);
}

/// Every queue that is bound there gets a copy.
pub async fn a_dead_letter_is_routed_as_any_message(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::headers("failed");
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    for (queue, tenant) in [("one", 7), ("two", 7), ("other", 8)] {
        let binding = Binding::from(&failed).argument("tenant", tenant);
        connection
            .declare_queue(&Queue::new(queue).bind_with(binding))
            .await
            .unwrap();
    }
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("bad")
        .routing_key("jobs")
        .header("tenant", 7)
        .await
        .unwrap();
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "one", 1, 0).await;
    broker.assert_counts(&connection, "two", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "one").await), ["bad"]);
    assert_eq!(texts(&drain(&connection, "two").await), ["bad"]);
    assert_eq!(drain(&connection, "other").await.len(), 0);
}

/// One entry per queue and reason, which counts.
pub async fn dying_twice_in_a_loop_counts_to_two(broker: &Broker) {
    let connection = broker.connect().await;
    // Straight back, by its own name.
    let jobs = Queue::new("jobs").dead_letter_exchange("");
    if !declared(&connection, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["bad"]).await;
    for times in 1..=3 {
        reject(&connection, "jobs").await;
        broker.assert_counts(&connection, "jobs", 1, 0).await;
        let again = connection.get("jobs").await.unwrap().unwrap();
        let [death] = deaths(&again).try_into().unwrap();
        assert_eq!(count(death), Some(times));
        assert_eq!(text_of(death, "queue"), Some("jobs"));
        assert!(!again.redelivered());
        again.release().confirmed().await.unwrap();
    }
}

/// The latest first; the first one stays named.
pub async fn deaths_in_two_queues_are_told_apart(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("second");
    let second = Queue::new("second")
        .dead_letter_exchange("")
        .dead_letter_routing_key("jobs");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection.declare_queue(&second).await.unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    for queue in ["jobs", "second", "jobs"] {
        broker.assert_counts(&connection, queue, 1, 0).await;
        reject(&connection, queue).await;
    }
    broker.assert_counts(&connection, "second", 1, 0).await;
    let dead = connection.get("second").await.unwrap().unwrap();
    let [latest, earlier] = deaths(&dead).try_into().unwrap();
    assert_eq!(
        (text_of(latest, "queue"), count(latest)),
        (Some("jobs"), Some(2))
    );
    assert_eq!(
        (text_of(earlier, "queue"), count(earlier)),
        (Some("second"), Some(1))
    );
    assert_eq!(text_of(dead.headers(), "x-first-death-queue"), Some("jobs"));
    dead.ack().await.unwrap();
}

/// As without any.
pub async fn a_dead_letter_exchange_that_is_missing_discards(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("nowhere");
    if !declared(&connection, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["bad", "good"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["good"]);
}

/// As without any.
pub async fn a_dead_letter_that_matches_no_queue_is_discarded(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection
        .declare_exchange(&Exchange::direct("failed"))
        .await
        .unwrap();
    publish(&connection, "jobs", ["bad", "good"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
}

/// The exchange is looked up when the message dies.
pub async fn a_dead_letter_exchange_may_come_later(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", ["early", "late"]).await;
    collect_one(&mut consumer)
        .await
        .reject()
        .confirmed()
        .await
        .unwrap();
    let other = broker.connect().await;
    let dead = Queue::new("dead").bind(Exchange::fanout("failed"), "");
    other.declare_queue(&dead).await.unwrap();
    collect_one(&mut consumer)
        .await
        .reject()
        .confirmed()
        .await
        .unwrap();
    broker.assert_counts(&connection, "dead", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["late"]);
}

/// Publishers may not, the broker may.
pub async fn dead_letters_go_through_an_internal_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::fanout("failed").internal(true);
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection
        .declare_queue(&Queue::new("dead").bind(&failed, ""))
        .await
        .unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["bad"]);
}

/// Acks, releases and retries of the same queue leave it alone.
pub async fn only_what_is_rejected_dies(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    if !declared(&connection, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&connection, "jobs", ["work"]).await;
    collect_one(&mut consumer).await.release().await.unwrap();
    collect_one(&mut consumer).await.retry().await.unwrap();
    drop(collect_one(&mut consumer).await);
    let delivery = collect_one(&mut consumer).await;
    assert!(!delivery.headers().contains("x-death"));
    assert_eq!(delivery.attempt(), 2);
    delivery.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

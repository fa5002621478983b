//! What a message says that died in its queue, and where it goes. Rejected ones are in `settling::dead_letters`.

use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::message::Content;
use kombu_core::{Binding, ErrorKind, Exchange, FieldValue, Overflow, Queue, Timestamp};

use super::{SOON, a_while, has_queue, has_queue_with, until_gone, until_over};
use crate::cases::{deaths, fates, producer_to, publish, reject, text_of};
use crate::expect::{assert_refused, collect_one, drain, texts};
use crate::{Broker, Freedom};

/// A queue of this name whose dead letters go to another one.
fn queue(name: &str, dead_letters: &str) -> Queue {
    Queue::new(name)
        .dead_letter_exchange("")
        .dead_letter_routing_key(dead_letters)
}

/// Fails unless the message died like this, the latest death first.
fn assert_fates(broker: &Broker, letter: &Content, mut expected: [(&str, &str, i64); 3]) {
    let mut found = fates(letter);
    assert_eq!(found[0], expected[0]);
    if broker.may(Freedom::ShuffleDeaths) {
        found.sort_unstable();
        expected.sort_unstable();
    }
    assert_eq!(found, expected);
}

/// Everything that RabbitMQ writes, as it writes it.
pub async fn an_expired_message_tells_how_it_died(broker: &Broker) {
    let connection = broker.connect().await;
    let (work, failed) = (Exchange::topic("work"), Exchange::topic("failed"));
    let jobs = Queue::new("jobs")
        .message_ttl(SOON)
        .bind(&work, "job.#")
        .dead_letter_exchange("failed");
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    let dead = Queue::new("dead").bind(&failed, "job.*");
    let mut dead = connection.consumer(&dead).await.unwrap();
    let producer = connection.producer(&work).await.unwrap();
    let before = Timestamp::now().as_secs();
    let publish = producer.publish_text("late").routing_key("job.new");
    publish.await.unwrap();
    let letter = collect_one(&mut dead).await;
    assert_eq!(letter.exchange(), "failed");
    assert_eq!(letter.routing_key(), "job.new");
    assert!(!letter.redelivered());
    let [death] = deaths(&letter).try_into().unwrap();
    assert_eq!(death.get("count").and_then(FieldValue::as_i64), Some(1));
    assert_eq!(text_of(death, "reason"), Some("expired"));
    assert_eq!(text_of(death, "queue"), Some("jobs"));
    assert_eq!(text_of(death, "exchange"), Some("work"));
    let keys = death.get("routing-keys").and_then(FieldValue::as_array);
    assert_eq!(keys, Some(&[FieldValue::from("job.new")][..]));
    let time = death.get("time").and_then(FieldValue::as_timestamp);
    let time = time.unwrap().as_secs();
    let now = Timestamp::now().as_secs();
    assert!(
        (before - 60..=now + 60).contains(&time),
        "{time} is far from {now}"
    );
    assert_eq!(death.len(), 6, "{death:?}");
    let headers = letter.headers();
    assert_eq!(text_of(headers, "x-first-death-reason"), Some("expired"));
    assert_eq!(text_of(headers, "x-first-death-queue"), Some("jobs"));
    assert_eq!(text_of(headers, "x-first-death-exchange"), Some("work"));
    letter.ack().await.unwrap();
}

/// The oldest, with its reason.
pub async fn what_a_full_queue_drops_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").max_length(2);
    let features = [Feature::MaxLength, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1", "2", "3", "4"]).await;
    let letters = drain(&connection, "dead").await;
    assert_eq!(texts(&letters), ["0", "1", "2"]);
    for letter in &letters {
        assert_eq!(fates(letter), [("jobs", "maxlen", 1)]);
        let reason = text_of(letter.headers(), "x-first-death-reason");
        assert_eq!(reason, Some("maxlen"));
    }
    assert_eq!(texts(&drain(&connection, "jobs").await), ["3", "4"]);
}

/// As many as it takes.
pub async fn what_a_queue_drops_for_its_bytes_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").max_length_bytes(10);
    let features = [Feature::MaxLengthBytes, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["aaaa", "bbbb", "cc", "dddddddd"]).await;
    let letters = drain(&connection, "dead").await;
    assert_eq!(texts(&letters), ["aaaa", "bbbb"]);
    assert_eq!(fates(&letters[1]), [("jobs", "maxlen", 1)]);
    let left = texts(&drain(&connection, "jobs").await);
    assert_eq!(left, ["cc", "dddddddd"]);
}

/// Its publisher has it still, and knows.
pub async fn what_a_full_queue_refuses_is_not_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead")
        .max_length(1)
        .overflow(Overflow::RejectPublish);
    let features = [
        Feature::MaxLength,
        Feature::RejectPublish,
        Feature::DeadLetter,
    ];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    let producer = producer_to(&connection, "jobs").await;
    assert_refused(producer.publish_text("1").await, ErrorKind::Nacked, None);
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// One entry each, though the queue is the same.
pub async fn deaths_of_different_reasons_are_told_apart(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").max_length(1);
    let dead = queue("dead", "jobs");
    let features = [Feature::MaxLength, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&dead).await.unwrap();
    publish(&connection, "jobs", ["pushed out", "pushes"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 2, 0).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 0);
    // "pushed out" goes back, and is rejected there.
    reject(&connection, "dead").await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 2, 0).await;
    let letters = drain(&connection, "dead").await;
    assert_eq!(texts(&letters), ["pushes", "pushed out"]);
    let expected = [
        ("jobs", "rejected", 1),
        ("dead", "rejected", 1),
        ("jobs", "maxlen", 1),
    ];
    assert_fates(broker, &letters[1], expected);
    let reason = text_of(letters[1].headers(), "x-first-death-reason");
    assert_eq!(reason, Some("maxlen"));
}

/// The latest first; the first one stays named.
pub async fn a_chain_of_dead_letter_queues_is_told_in_order(broker: &Broker) {
    let connection = broker.connect().await;
    let first = queue("first", "second");
    if !has_queue(&connection, Feature::DeadLetter, &first).await {
        return;
    }
    for (name, next) in [("second", "third"), ("third", "fourth")] {
        connection.declare_queue(&queue(name, next)).await.unwrap();
    }
    let fourth = Queue::new("fourth");
    connection.declare_queue(&fourth).await.unwrap();
    publish(&connection, "first", ["bad"]).await;
    for queue in ["first", "second", "third"] {
        broker.assert_counts(&connection, queue, 1, 0).await;
        reject(&connection, queue).await;
    }
    broker.assert_counts(&connection, "fourth", 1, 0).await;
    let [letter] = drain(&connection, "fourth").await.try_into().unwrap();
    let expected = [
        ("third", "rejected", 1),
        ("second", "rejected", 1),
        ("first", "rejected", 1),
    ];
    assert_fates(broker, &letter, expected);
    let queue = text_of(letter.headers(), "x-first-death-queue");
    assert_eq!(queue, Some("first"));
}

/// Each entry has the exchange and key that the message had when it came there.
pub async fn each_death_tells_how_the_message_had_come(broker: &Broker) {
    let connection = broker.connect().await;
    let (work, failed) = (Exchange::direct("work"), Exchange::direct("failed"));
    let jobs = Queue::new("jobs")
        .bind(&work, "new")
        .dead_letter_exchange("failed")
        .dead_letter_routing_key("again");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    let second = queue("second", "dead").bind(&failed, "again");
    connection.declare_queue(&second).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let producer = connection.producer(&work).await.unwrap();
    let publish = producer.publish_text("bad").routing_key("new");
    publish.await.unwrap();
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "second", 1, 0).await;
    reject(&connection, "second").await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    let [letter] = drain(&connection, "dead").await.try_into().unwrap();
    let came = |death: &kombu_core::FieldTable| {
        let keys = death.get("routing-keys").and_then(FieldValue::as_array);
        let key = keys.and_then(|keys| keys[0].as_str()).map(str::to_owned);
        let exchange = text_of(death, "exchange").map(str::to_owned);
        (exchange.unwrap(), key.unwrap())
    };
    let came: Vec<_> = deaths(&letter).into_iter().map(came).collect();
    let expected = [("failed", "again"), ("work", "new")];
    assert_eq!(came, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    assert_eq!(letter.routing_key(), "dead");
}

/// Whatever the order in which they came.
pub async fn dead_letters_keep_the_order_of_their_deaths(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1", "2", "3"]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(Some(connection.get("jobs").await.unwrap().unwrap()));
    }
    for index in [2, 0, 3, 1] {
        let delivery = held[index].take().unwrap();
        delivery.reject().confirmed().await.unwrap();
    }
    broker.assert_counts(&connection, "dead", 4, 0).await;
    let letters = texts(&drain(&connection, "dead").await);
    assert_eq!(letters, ["2", "0", "3", "1"]);
}

/// By the key that it was published with.
pub async fn dead_letters_go_through_a_topic_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    let (work, failed) = (Exchange::topic("work"), Exchange::topic("failed"));
    let jobs = Queue::new("jobs")
        .bind(&work, "#")
        .dead_letter_exchange("failed");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    for (name, pattern) in [("audio", "*.audio.#"), ("video", "*.video.#")] {
        let queue = Queue::new(name).bind(&failed, pattern);
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&work).await.unwrap();
    for key in ["eu.audio.new", "eu.video", "eu.text"] {
        let publish = producer.publish_text(key).routing_key(key);
        publish.await.unwrap();
        reject(&connection, "jobs").await;
    }
    broker.assert_counts(&connection, "audio", 1, 0).await;
    broker.assert_counts(&connection, "video", 1, 0).await;
    let audio = texts(&drain(&connection, "audio").await);
    assert_eq!(audio, ["eu.audio.new"]);
    assert_eq!(texts(&drain(&connection, "video").await), ["eu.video"]);
}

/// By what dead-lettering itself wrote, too, for a binding that looks at it.
pub async fn a_headers_exchange_sorts_dead_letters_by_their_reason(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::headers("failed");
    let jobs = Queue::new("jobs")
        .max_length(1)
        .dead_letter_exchange("failed");
    let features = [Feature::MaxLength, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    for reason in ["maxlen", "rejected"] {
        let binding = Binding::from(&failed)
            .argument("x-match", "all-with-x")
            .argument("x-first-death-reason", reason);
        let queue = Queue::new(reason).bind_with(binding);
        connection.declare_queue(&queue).await.unwrap();
    }
    publish(&connection, "jobs", ["pushed out", "bad"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "maxlen", 1, 0).await;
    broker.assert_counts(&connection, "rejected", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "maxlen").await), ["pushed out"]);
    assert_eq!(texts(&drain(&connection, "rejected").await), ["bad"]);
}

/// Through every exchange on the way.
pub async fn dead_letters_follow_bindings_between_exchanges(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await
        || !connection.capabilities().has(Feature::ExchangeBinding)
    {
        return;
    }
    let failed = Exchange::fanout("failed");
    let archive = Exchange::fanout("archive").bind(&failed, "");
    let dead = Queue::new("dead").bind(&failed, "").bind(&archive, "");
    connection.declare_queue(&dead).await.unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 1, 0).await;
    // One copy, however many ways there are.
    assert_eq!(texts(&drain(&connection, "dead").await), ["bad"]);
}

/// It takes what the other can't route.
pub async fn dead_letters_go_to_an_alternate_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await
        || !connection.capabilities().has(Feature::AlternateExchange)
    {
        return;
    }
    let failed = Exchange::direct("failed").alternate_exchange("rest");
    connection.declare_exchange(&failed).await.unwrap();
    let rest = Queue::new("rest").bind(Exchange::fanout("rest"), "");
    connection.declare_queue(&rest).await.unwrap();
    publish(&connection, "jobs", ["bad"]).await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "rest", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "rest").await), ["bad"]);
}

/// Nobody is there to be told, and nothing waits for room.
pub async fn a_dead_letter_that_a_full_queue_refuses_is_discarded(broker: &Broker) {
    let connection = broker.connect().await;
    let failed = Exchange::fanout("failed");
    let small = Queue::new("small")
        .max_length(1)
        .overflow(Overflow::RejectPublish)
        .bind(&failed, "");
    let features = [Feature::MaxLength, Feature::RejectPublish];
    if !has_queue_with(&connection, &features, &small).await {
        return;
    }
    let jobs = Queue::new("jobs").dead_letter_exchange("failed");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    let large = Queue::new("large").bind(&failed, "");
    connection.declare_queue(&large).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    reject(&connection, "jobs").await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    broker.assert_counts(&connection, "small", 1, 0).await;
    broker.assert_counts(&connection, "large", 2, 0).await;
    assert_eq!(texts(&drain(&connection, "small").await), ["0"]);
    assert_eq!(texts(&drain(&connection, "large").await), ["0", "1"]);
}

/// As any message would.
pub async fn a_dead_letter_pushes_the_oldest_out_of_a_full_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let dead = queue("dead", "pushed-out").max_length(1);
    let features = [Feature::MaxLength, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &dead).await {
        return;
    }
    for queue in [queue("jobs", "dead"), Queue::new("pushed-out")] {
        connection.declare_queue(&queue).await.unwrap();
    }
    publish(&connection, "jobs", ["0", "1"]).await;
    reject(&connection, "jobs").await;
    reject(&connection, "jobs").await;
    broker.assert_counts(&connection, "pushed-out", 1, 0).await;
    assert_eq!(texts(&drain(&connection, "dead").await), ["1"]);
    assert_eq!(texts(&drain(&connection, "pushed-out").await), ["0"]);
}

/// It is served by its priority there.
pub async fn a_dead_letter_keeps_its_priority(broker: &Broker) {
    let connection = broker.connect().await;
    let dead = Queue::new("dead").max_priority(9);
    if !has_queue(&connection, Feature::Priority, &dead).await {
        return;
    }
    let jobs = queue("jobs", "dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    let producer = producer_to(&connection, "jobs").await;
    for (text, priority) in [("low", 0), ("high", 9)] {
        let publish = producer.publish_text(text).priority(priority);
        publish.await.unwrap();
        reject(&connection, "jobs").await;
    }
    broker.assert_counts(&connection, "dead", 2, 0).await;
    let letters = drain(&connection, "dead").await;
    assert_eq!(texts(&letters), ["high", "low"]);
    let priorities: Vec<_> = letters.iter().map(|letter| letter.priority()).collect();
    assert_eq!(priorities, [Some(9), Some(0)]);
}

/// Nobody gave it up, and its time wasn't over.
pub async fn a_purge_does_not_dead_letter(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    assert_eq!(connection.purge("jobs").await.unwrap(), 2);
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// Its messages are gone with it.
pub async fn a_queue_that_is_deleted_does_not_dead_letter(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    assert_eq!(connection.delete_queue("jobs").await.unwrap(), 2);
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// Those that somebody has, too: rejecting one afterwards moves nothing.
pub async fn a_delivery_of_a_deleted_queue_is_not_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead");
    if !has_queue(&connection, Feature::DeadLetter, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0", "1"]).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    let second = connection.get("jobs").await.unwrap().unwrap();
    connection.delete_queue("jobs").await.unwrap();
    // Whether that is an error is left open.
    drop(first.reject().confirmed().await);
    broker.assert_counts(&connection, "dead", 0, 0).await;
    // Nor is it, or given back, when there is another queue of that name.
    connection.declare_queue(&jobs).await.unwrap();
    drop(second.reject().confirmed().await);
    broker.assert_counts(&connection, "dead", 0, 0).await;
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// A queue that goes because nobody uses it takes its messages along.
pub async fn a_queue_that_expires_does_not_dead_letter(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").expires(a_while(broker));
    let features = [Feature::QueueExpiry, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    until_gone(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// So does one that goes with its last consumer.
pub async fn a_queue_that_goes_with_its_consumer_does_not_dead_letter(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").auto_delete(true);
    let features = [Feature::AutoDelete, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    consumer.cancel().await.unwrap();
    until_gone(&connection, "jobs").await;
    broker.assert_counts(&connection, "dead", 0, 0).await;
}

/// When a message died there, it still had its queue.
pub async fn what_died_before_its_queue_went_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").message_ttl(Duration::ZERO);
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    let mut dead = connection.consumer(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    assert_eq!(connection.delete_queue("jobs").await.unwrap(), 0);
    let letter = collect_one(&mut dead).await;
    assert_eq!(fates(&letter), [("jobs", "expired", 1)]);
    letter.ack().await.unwrap();
}

/// Whoever comes next finds what died meanwhile where it belongs.
pub async fn a_message_that_dies_while_nobody_is_connected_is_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = queue("jobs", "dead").message_ttl(SOON);
    let features = [Feature::QueueMessageTtl, Feature::DeadLetter];
    if !has_queue_with(&connection, &features, &jobs).await {
        return;
    }
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    publish(&connection, "jobs", ["0"]).await;
    connection.close().await.unwrap();
    let other = broker.connect().await;
    until_over(&other, SOON).await;
    broker.assert_counts(&other, "jobs", 0, 0).await;
    assert_eq!(texts(&drain(&other, "dead").await), ["0"]);
}

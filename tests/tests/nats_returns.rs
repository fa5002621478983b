//! What goes back to its queue on NATS: it counts as a failure only if it was one, leaves others' messages alone, and comes again in
//! its place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, Consumer, DeclareMode, Delivery, Exchange, Overflow, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{collect, collect_one, texts};
use kombu_testkit::proxy::Proxy;
use kombu_tests::{NatsFilter, NatsLine};
use serde_json::json;
use url::Url;

/// Far more than any of this takes, on a slow machine.
const LONG: Duration = Duration::from_secs(30);

async fn connect(nats: &Nats) -> Connection {
    kombu::connect(nats.url()).await.unwrap()
}

/// A queue whose messages die when they come back a single time.
async fn declare_frail(connection: &Connection) {
    let dead = Queue::new("dead");
    connection.declare_queue(&dead).await.unwrap();
    let frail = Queue::new("jobs").max_deliveries(1);
    let frail = frail
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    connection.declare_queue(&frail).await.unwrap();
}

async fn publish(connection: &Connection, numbers: std::ops::Range<usize>) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let mut receipts = Vec::new();
    for number in numbers {
        let publish = producer.publish_text(number.to_string());
        receipts.push(publish.send().await.unwrap());
        if receipts.len() == 500 {
            for receipt in receipts.drain(..) {
                receipt.await.unwrap();
            }
        }
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
}

async fn consumer(connection: &Connection, prefetch: u32) -> Consumer {
    let consumer = connection.consumer(&Queue::new("jobs"));
    let consumer = consumer.declare(DeclareMode::Never).prefetch(prefetch);
    consumer.await.unwrap()
}

async fn numbers(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let collecting = tokio::time::timeout(LONG, collect(consumer, count));
    collecting.await.expect("they come")
}

fn expected(numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

async fn take(connection: &Connection, expected: &str) -> Delivery {
    let taken = connection.get("jobs").await.unwrap();
    let taken = taken.unwrap_or_else(|| panic!("`{expected}` isn't there"));
    assert_eq!(texts(&[&*taken]), [expected]);
    taken
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_was_given_back_and_handled_elsewhere_takes_no_bytes_of_a_limit() {
    let nats = Nats::start().unwrap();
    let here = connect(&nats).await;
    let elsewhere = connect(&nats).await;
    for overflow in [Overflow::DropHead, Overflow::RejectPublish] {
        let jobs = Queue::new("jobs").max_length_bytes(10).overflow(overflow);
        here.declare_queue(&jobs).await.unwrap();
        let producer = here.producer(Exchange::default());
        let producer = producer.routing_key("jobs").await.unwrap();
        producer.publish_text("held").await.unwrap();
        let held = take(&elsewhere, "held").await;
        producer.publish_text("handled").await.unwrap();
        take(&here, "handled")
            .await
            .release()
            .confirmed()
            .await
            .unwrap();
        let handled = take(&elsewhere, "handled").await;
        handled.ack().confirmed().await.unwrap();

        producer.publish_text("waiting").await.unwrap();

        take(&here, "waiting").await;
        held.ack().confirmed().await.unwrap();
        here.delete_queue(jobs.name()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_queue_at_its_limit_drops_nothing_for_what_a_silent_session_may_hold() {
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let here = connect(&nats).await;
    let through = format!("nats://{}", proxy.address());
    let silent = kombu::connect(through.as_str()).await.unwrap();
    let jobs = Queue::new("jobs")
        .max_length(1)
        .overflow(Overflow::DropHead);
    here.declare_queue(&jobs).await.unwrap();
    publish(&here, 0..1).await;
    // Each of them has given it back once.
    take(&here, "0").await.release().confirmed().await.unwrap();
    take(&silent, "0")
        .await
        .release()
        .confirmed()
        .await
        .unwrap();
    take(&here, "0").await.release().confirmed().await.unwrap();
    let held = take(&silent, "0").await;

    proxy.freeze();
    publish(&here, 1..2).await;
    proxy.heal().await.unwrap();

    take(&here, "1").await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn workers_that_are_started_again_and_again_kill_nothing_that_nobody_handled() {
    const COUNT: usize = 100;
    let nats = Nats::start().unwrap();
    let connection = connect(&nats).await;
    declare_frail(&connection).await;
    publish(&connection, 0..COUNT).await;
    for handled in 0..4 {
        let worker = connect(&nats).await;
        let mut jobs = consumer(&worker, 64).await;
        let delivery = collect_one(&mut jobs).await;
        assert_eq!(delivery.body(), handled.to_string().as_str());
        delivery.ack().confirmed().await.unwrap();
        worker.close().await.unwrap();
    }
    let late = connect(&nats).await;
    let rest = numbers(&mut consumer(&late, 200).await, COUNT - 4).await;
    assert_eq!(texts(&rest), expected(4..COUNT));
    assert!(rest.iter().all(|delivery| delivery.attempt() == 1));
    let dead = connection.queue_info("dead").await.unwrap();
    assert_eq!(dead.ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_retry_counts_for_those_that_come_later_and_a_release_does_not() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats).await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    publish(&connection, 0..2).await;
    let mut jobs = consumer(&connection, 2).await;
    for _ in 0..3 {
        for delivery in numbers(&mut jobs, 2).await {
            delivery.release().confirmed().await.unwrap();
        }
    }
    let both = numbers(&mut jobs, 2).await;
    for (index, delivery) in both.into_iter().enumerate() {
        match index {
            0 => delivery.retry().confirmed().await.unwrap(),
            _ => delivery.release().confirmed().await.unwrap(),
        }
    }
    connection.close().await.unwrap();
    let late = connect(&nats).await;
    let both = numbers(&mut consumer(&late, 2).await, 2).await;
    assert_eq!(
        both.iter().map(Delivery::attempt).collect::<Vec<_>>(),
        [2, 1]
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn releases_in_great_number_count_for_nothing_and_keep_their_order() {
    const COUNT: usize = 10_500;
    let nats = Nats::start().unwrap();
    let connection = connect(&nats).await;
    declare_frail(&connection).await;
    publish(&connection, 0..COUNT).await;
    let mut jobs = consumer(&connection, COUNT as u32).await;
    let held = numbers(&mut jobs, COUNT).await;
    jobs.pause();
    for delivery in held {
        delivery.release().await.unwrap();
    }
    jobs.cancel().await.unwrap();
    let held = numbers(&mut consumer(&connection, COUNT as u32).await, COUNT).await;
    assert_eq!(texts(&held), expected(0..COUNT));
    let dead = connection.queue_info("dead").await.unwrap();
    assert_eq!(dead.ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_release_leaves_messages_alone_that_nobody_has_had() {
    const COUNT: usize = 100;
    let nats = Nats::start().unwrap();
    let (connection, other) = (connect(&nats).await, connect(&nats).await);
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    publish(&connection, 0..COUNT).await;
    let mut jobs = consumer(&connection, COUNT as u32).await;
    let mut held = numbers(&mut jobs, COUNT).await;
    jobs.pause();
    let first = held.remove(0);
    for delivery in held {
        delivery.release().confirmed().await.unwrap();
    }
    let mut others = consumer(&other, COUNT as u32).await;
    for delivery in numbers(&mut others, COUNT - 1).await {
        delivery.ack().confirmed().await.unwrap();
    }
    others.cancel().await.unwrap();
    publish(&connection, COUNT..2 * COUNT).await;
    first.release().confirmed().await.unwrap();
    let all = numbers(&mut consumer(&other, 200).await, COUNT + 1).await;
    assert_eq!(
        texts(&all),
        expected([0].into_iter().chain(COUNT..2 * COUNT))
    );
    let redelivered = all.iter().filter(|delivery| delivery.redelivered());
    assert_eq!(redelivered.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn releases_one_by_one_from_the_last_to_the_first_come_back_in_order() {
    const COUNT: usize = 100;
    let nats = Nats::start().unwrap();
    let connection = connect(&nats).await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    publish(&connection, 0..COUNT).await;
    let mut jobs = consumer(&connection, COUNT as u32).await;
    let mut held = numbers(&mut jobs, COUNT).await;
    jobs.pause();
    // Each takes all those behind it again.
    while let Some(delivery) = held.pop() {
        delivery.release().confirmed().await.unwrap();
    }
    jobs.cancel().await.unwrap();
    let held = numbers(&mut consumer(&connection, COUNT as u32).await, COUNT).await;
    assert_eq!(texts(&held), expected(0..COUNT));
}

/// What came back at one level says nothing of the others.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_was_given_back_at_one_priority_expires_there_and_leaves_the_others_alone() {
    let nats = Nats::start().unwrap();
    let connection = connect(&nats).await;
    let dead = Queue::new("dead");
    connection.declare_queue(&dead).await.unwrap();
    let queue = Queue::new("jobs").max_priority(2);
    let queue = queue
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let low = producer.publish_text("low").priority(0);
    low.expiration(Duration::from_millis(500)).await.unwrap();
    let held = connection.get("jobs").await.unwrap().unwrap();
    producer.publish_text("high").priority(2).await.unwrap();
    held.release().confirmed().await.unwrap();
    // Its time is over, and the other one is in front of it.
    tokio::time::sleep(Duration::from_millis(800)).await;
    let high = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(high.body(), "high");
    assert!(!high.redelivered());
    high.ack().confirmed().await.unwrap();
    let mut dead = connection.consumer(&dead).await.unwrap();
    assert_eq!(texts(&numbers(&mut dead, 1).await), ["low"]);
}

/// What is written down of deliveries that don't count, by the keys of that.
fn discounts(nats: &Nats) -> Vec<(String, String)> {
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let filter = json!({ "subjects_filter": "$KV.kombu_sessions.d.>" });
    let info = line.request("$JS.API.STREAM.INFO.KV_kombu_sessions", &filter.to_string());
    let subjects = info["state"]["subjects"].as_object();
    let subjects = subjects.into_iter().flatten().map(|(subject, _)| subject);
    let texts = subjects.map(|subject| {
        let last = json!({ "last_by_subj": subject }).to_string();
        let found = line.request("$JS.API.STREAM.MSG.GET.KV_kombu_sessions", &last);
        let text = found["message"]["data"].as_str().unwrap();
        let text = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
        (subject.clone(), String::from_utf8(text.unwrap()).unwrap())
    });
    texts.collect()
}

/// Three messages are released while what they are written down with meets this fault for a moment.
async fn release_during(fault: impl Fn(&NatsFilter, &str)) {
    const NOTES: &str = ".kombu_sessions.d.";
    let nats = Nats::start().unwrap();
    let filter = NatsFilter::start(nats.address()).await;
    let connection = kombu::connect(filter.url()).await.unwrap();
    declare_frail(&connection).await;
    publish(&connection, 0..3).await;
    let mut jobs = consumer(&connection, 3).await;
    let held = numbers(&mut jobs, 3).await;
    jobs.cancel().await.unwrap();
    fault(&filter, NOTES);
    for delivery in held {
        delivery.release().await.unwrap();
    }
    filter.until(NOTES, 1).await;
    filter.heal();
    let late = connect(&nats).await;
    let mut jobs = consumer(&late, 3).await;
    let coming = tokio::time::timeout(Duration::from_secs(15), collect(&mut jobs, 3)).await;
    assert_eq!(texts(&coming.expect("they come")), expected(0..3));
    let written = discounts(&nats);
    let texts: Vec<_> = written.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["[[1,3,1]]"]);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn releases_wait_for_somebody_who_takes_note_of_them() {
    release_during(NatsFilter::refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn releases_are_written_down_once_though_the_answer_is_lost() {
    release_during(NatsFilter::mute).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn nothing_is_kept_of_releases_to_a_queue_that_is_gone() {
    let nats = Nats::start().unwrap();
    let (connection, other) = (connect(&nats).await, connect(&nats).await);
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    publish(&connection, 0..10).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(connection.get("jobs").await.unwrap().unwrap());
    }
    // It is written down, and forgotten with the queue.
    held.pop().unwrap().release().confirmed().await.unwrap();
    let written = discounts(&nats);
    assert_eq!(written.len(), 1);
    let (key, text) = &written[0];
    assert!(
        key.starts_with("$KV.kombu_sessions.d.kombu-q-jobs-"),
        "{key}"
    );
    assert!(key.ends_with(".0") && text == "[[10,10,1]]", "{written:?}");
    other.delete_queue("jobs").await.unwrap();
    for delivery in held {
        // Whether it is known here that the queue is gone or not.
        drop(delivery.release().confirmed().await);
    }
    let forgotten = async {
        while !discounts(&nats).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), forgotten)
        .await
        .expect("nothing is written down");
}

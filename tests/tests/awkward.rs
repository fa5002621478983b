//! What only a broker that answers late brings out.

// Its helpers say no as its tests do.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use kombu::virt::BindingRecord;
use kombu::{Binding, Connection, Content, ErrorKind, Exchange, Queue, Registry};
use kombu_testkit::awkward::Awkward;
use kombu_testkit::expect::{drain, texts};

fn url() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("awkward://late-{number}")
}

async fn connect(awkward: &Awkward, url: &str) -> Connection {
    Connection::builder(Registry::new().with(awkward.clone()))
        .url(url)
        .await
        .unwrap()
}

/// A queue `jobs`, bound to a topic exchange `media` for everything.
fn jobs(media: &Exchange) -> Queue {
    Queue::new("jobs").bind(media, "#")
}

#[tokio::test]
async fn sends_keep_their_order_while_the_table_changes() {
    let (awkward, url) = (Awkward::default(), url());
    let (publishing, changing) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let media = Exchange::topic("media");
    publishing.declare_queue(&jobs(&media)).await.unwrap();
    let producer = publishing.producer(&media).await.unwrap();
    let mut receipts = Vec::new();
    let mut number = 0;
    for round in 0..20 {
        // From afar: what is sent now is routed with an older table, and refused.
        let other = Queue::new(format!("other-{round}")).bind(&media, "never");
        changing.declare_queue(&other).await.unwrap();
        // The newer table is on its way here, ahead of those refusals.
        let looking = publishing.queue_info("jobs");
        let sending = async {
            for _ in 0..3 {
                let publish = producer.publish_text(number.to_string()).routing_key("old");
                receipts.push(publish.send().await.unwrap());
                number += 1;
            }
        };
        let (looked, ()) = tokio::join!(biased; looking, sending);
        looked.unwrap();
        // What is sent next is routed with it.
        for _ in 0..3 {
            let key = format!("new.{number}");
            let publish = producer.publish_text(number.to_string()).routing_key(key);
            receipts.push(publish.send().await.unwrap());
            number += 1;
        }
    }
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
    let stored = texts(&drain(&changing, "jobs").await);
    assert!(
        stored
            .iter()
            .eq(&(0..number).map(|n| n.to_string()).collect::<Vec<_>>()),
        "{stored:?}"
    );
}

#[tokio::test]
async fn a_publish_whose_receipt_is_dropped_is_routed_again_all_the_same() {
    let (awkward, url) = (Awkward::default(), url());
    let (publishing, changing) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let media = Exchange::topic("media");
    let producer = publishing.producer(&media).await.unwrap();
    producer.publish_text("nowhere").await.unwrap();
    let mut consumer = changing.consumer(&jobs(&media)).await.unwrap();
    // Its route is of an older table, and nobody waits for it.
    drop(producer.publish_text("work").send().await.unwrap());
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(delivery.body(), "work");
    delivery.ack().await.unwrap();
}

#[tokio::test]
async fn closing_brings_home_what_has_to_be_routed_again() {
    let (awkward, url) = (Awkward::default(), url());
    let (publishing, changing) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let media = Exchange::topic("media");
    let producer = publishing.producer(&media).await.unwrap();
    changing.declare_queue(&jobs(&media)).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..20 {
        let publish = producer.publish_text(number.to_string());
        receipts.push(publish.send().await.unwrap());
    }
    publishing.close().await.unwrap();
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
    let stored = texts(&drain(&changing, "jobs").await);
    assert!(
        stored
            .iter()
            .eq(&(0..20).map(|n| n.to_string()).collect::<Vec<_>>())
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_while_closing_is_not_waited_for() {
    let (awkward, url) = (Awkward::default(), url());
    let connection = connect(&awkward, &url).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    awkward.lose_replies(1);
    let receipt = producer.publish_text("work").send().await.unwrap();
    connection.close().await.unwrap();
    let error = receipt.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(error.may_have_been_stored());
}

#[tokio::test]
async fn a_cancelled_consumer_has_given_everything_back_when_that_is_answered() {
    let (awkward, url) = (Awkward::default(), url());
    let (consuming, other) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let queue = Queue::new("jobs");
    other.declare_queue(&queue).await.unwrap();
    let producer = other
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for number in 0..20 {
        producer.publish(&number).await.unwrap();
    }
    let busy = consuming
        .producer(Exchange::fanout("nowhere"))
        .await
        .unwrap();
    for _ in 0..10 {
        let mut consumer = consuming.consumer(&queue).await.unwrap();
        let held = consumer.try_next().await.unwrap().unwrap();
        // The line of this session is busy, so that a cancel takes its time.
        for _ in 0..100 {
            drop(busy.publish_text("").send().await.unwrap());
        }
        consumer.cancel().await.unwrap();
        // Another session asks the broker on a line of its own.
        let info = other.queue_info("jobs").await.unwrap();
        assert_eq!(
            (info.ready, info.unsettled, info.consumers),
            (19, Some(1), 0)
        );
        held.release().confirmed().await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_stored_once() {
    let (awkward, url) = (Awkward::default(), url());
    let connection = connect(&awkward, &url).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    awkward.lose_replies(1);
    let mut receipts = Vec::new();
    for number in 0..30 {
        let publish = producer.publish_text(number.to_string());
        receipts.push(publish.send().await.unwrap());
    }
    let mut resent = Vec::new();
    for receipt in receipts {
        resent.push(receipt.await.unwrap().resent);
    }
    assert!(resent[0], "the first answer was lost");
    let stored = texts(&drain(&connection, "jobs").await);
    assert!(
        stored
            .iter()
            .eq(&(0..30).map(|n| n.to_string()).collect::<Vec<_>>())
    );
}

#[tokio::test]
async fn what_a_cut_session_held_comes_to_the_next_one() {
    let (awkward, url) = (Awkward::default(), url());
    let connection = connect(&awkward, &url).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    producer.publish_text("work").await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    awkward.cut();
    let again = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(again.body(), "work");
    assert!(again.redelivered());
    held.ack().confirmed().await.unwrap_err();
    again.ack().confirmed().await.unwrap();
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

/// Unlike all others here, this binding goes the other way: what is published after it must not come.
#[tokio::test]
async fn a_send_after_an_unbind_does_not_overtake_it() {
    let (awkward, url) = (Awkward::default(), url());
    let (publishing, changing) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let media = Exchange::topic("media");
    changing.declare_queue(&jobs(&media)).await.unwrap();
    let producer = publishing.producer(&media).await.unwrap();
    let before = producer.publish_text("before").send().await.unwrap();
    assert!(before.await.unwrap().routed);
    changing
        .unbind_queue("jobs", &Binding::new(&media, "#"))
        .await
        .unwrap();
    let after = producer.publish_text("after").send().await.unwrap();
    assert!(!after.await.unwrap().routed);
    assert_eq!(texts(&drain(&changing, "jobs").await), ["before"]);
}

#[tokio::test]
async fn one_window_is_asked_for_once_however_many_queues_there_are() {
    let (awkward, url) = (Awkward::default(), url());
    let (consuming, other) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let queues = ["a", "b", "c"].map(Queue::new);
    let producer = other.producer(Exchange::default()).await.unwrap();
    for queue in &queues {
        other.declare_queue(queue).await.unwrap();
    }
    for _ in 0..2 {
        for queue in &queues {
            let publish = producer.publish_text(queue.name().as_str());
            publish.routing_key(queue.name().clone()).await.unwrap();
        }
    }
    let mut consumer = consuming.consumer(&queues).prefetch(1).await.unwrap();
    for left in (0..6).rev() {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        // It isn't polled now, and holds no more than the window has.
        let mut counts = (0, 0);
        for queue in &queues {
            let info = other.queue_info(queue.name()).await.unwrap();
            counts.0 += info.ready;
            counts.1 += info.unsettled.unwrap();
        }
        assert_eq!(counts, (left, 1));
        delivery.ack().confirmed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_under_way_and_no_longer() {
    let (awkward, url) = (Awkward::default(), url());
    let connection = connect(&awkward, &url).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for number in 0..20 {
        drop(producer.publish(&number).send().await.unwrap());
    }
    let begin = tokio::time::Instant::now();
    connection.close().await.unwrap();
    // Everything is answered within some turns; nothing waits for a clock.
    assert!(begin.elapsed() < Duration::from_secs(1));
    let other = connect(&awkward, &url).await;
    assert_eq!(other.queue_info("jobs").await.unwrap().ready, 20);
}

#[tokio::test]
async fn a_consumer_whose_session_is_lost_while_it_is_cancelled_has_given_everything_back() {
    let (awkward, url) = (Awkward::default(), url());
    let (consuming, other) = (connect(&awkward, &url).await, connect(&awkward, &url).await);
    let queue = Queue::new("jobs");
    let mut consumer = consuming.consumer(&queue).await.unwrap();
    let producer = other
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for number in 0..5 {
        producer.publish(&number).await.unwrap();
    }
    let held = consumer.try_next().await.unwrap().unwrap();
    let mut cancelling = std::pin::pin!(consumer.cancel());
    // The cancel is on its way.
    let polled = std::future::poll_fn(|context| Poll::Ready(cancelling.as_mut().poll(context)));
    assert!(polled.await.is_pending());
    awkward.cut();
    cancelling.await.unwrap();
    drop(held);
    loop {
        let info = other.queue_info("jobs").await.unwrap();
        if (info.ready, info.consumers) == (5, 0) {
            break;
        }
        tokio::task::yield_now().await;
    }
}

/// A queue `jobs` with room for one message, whose dead letters go through this exchange.
fn short(failed: &str) -> Queue {
    let queue = Queue::new("jobs")
        .max_length(1)
        .dead_letter_exchange(failed);
    queue.dead_letter_routing_key("dead")
}

async fn until_ready(connection: &Connection, queue: &str, ready: u64) {
    while connection.queue_info(queue).await.unwrap().ready != ready {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_operation_that_is_dropped_leaves_no_dead_letter_half_moved() {
    const ROUNDS: usize = 200;
    let (awkward, url) = (Awkward::default(), url());
    let connection = connect(&awkward, &url).await;
    for queue in [Queue::new("dead"), short("")] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for round in 0..=ROUNDS {
        let receipt = producer.publish(&round).send().await.unwrap();
        {
            // It looks for the dead first, and is given up somewhere on the way.
            let mut asking = std::pin::pin!(connection.queue_info("dead"));
            for _ in 0..round % 50 {
                let polled =
                    std::future::poll_fn(|context| Poll::Ready(asking.as_mut().poll(context)));
                if polled.await.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        receipt.await.unwrap();
    }
    let arrived = until_ready(&connection, "dead", ROUNDS as u64);
    tokio::time::timeout(Duration::from_secs(10), arrived)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dead_letter_that_one_session_cant_route_is_left_to_another() {
    fn all(_: &Content, bindings: &[&BindingRecord]) -> Vec<usize> {
        (0..bindings.len()).collect()
    }
    let (awkward, url) = (Awkward::default(), url());
    let stranger = connect(&awkward, &url).await;
    let knowing = Connection::builder(Registry::new().with(awkward.clone()))
        .url(&url)
        .exchange_kind("x-all", all)
        .await
        .unwrap();
    let failed = Exchange::custom("x-all", "failed");
    for queue in [Queue::new("dead").bind(&failed, ""), short("failed")] {
        knowing.declare_queue(&queue).await.unwrap();
    }
    let producer = stranger
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for number in 0..20 {
        producer.publish(&number).await.unwrap();
        // It looks for the dead first.
        stranger.queue_info("jobs").await.unwrap();
    }
    let last = stranger.get("jobs").await.unwrap().unwrap();
    last.reject().confirmed().await.unwrap();
    let arrived = until_ready(&stranger, "dead", 20);
    tokio::time::timeout(Duration::from_secs(10), arrived)
        .await
        .unwrap();
}

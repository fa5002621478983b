//! Waiting until a broker on `memory://` has nothing left to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kombu::memory::{self, Inspector};
use kombu::{Connection, ErrorKind, Exchange, Queue};
use kombu_testkit::expect::collect_one;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn fresh() -> (Connection, Inspector) {
    let connection = kombu::connect("memory://").await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    (connection, broker)
}

async fn publish(connection: &Connection, queue: &str, text: &'static str) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish_bytes(text).routing_key(queue);
    publish.await.unwrap();
}

/// Waits until the broker is settled, and fails rather than waits in vain.
async fn settled_within(limit: Duration, broker: &Inspector) {
    let settled = tokio::time::timeout(limit, broker.settled()).await;
    assert!(settled.is_ok(), "{broker:?}");
}

/// Lets everything else run, and then polls once.
async fn is_done<F: Future>(future: &mut Pin<&mut F>) -> bool {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

#[tokio::test]
async fn a_broker_without_messages_is_settled() {
    let (connection, broker) = fresh().await;
    broker.settled().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let _idle = connection.consumer(&Queue::new("jobs")).await.unwrap();
    broker.settled().await;
}

#[tokio::test]
async fn what_is_ready_or_unsettled_is_waited_for() {
    let (connection, broker) = fresh().await;
    let mut settled = pin!(broker.settled());
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "one").await;
    publish(&connection, "jobs", "two").await;
    assert!(!is_done(&mut settled).await);
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    collect_one(&mut consumer).await.ack().await.unwrap();
    assert!(!is_done(&mut settled).await);
    let second = collect_one(&mut consumer).await;
    assert!(!is_done(&mut settled).await);
    second.release().await.unwrap();
    assert!(!is_done(&mut settled).await);
    collect_one(&mut consumer).await.ack().await.unwrap();
    assert!(is_done(&mut settled).await);
}

#[tokio::test]
async fn a_message_from_a_get_is_waited_for() {
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "one").await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    let mut settled = pin!(broker.settled());
    assert!(!is_done(&mut settled).await);
    delivery.reject().await.unwrap();
    assert!(is_done(&mut settled).await);
}

#[tokio::test]
async fn a_purge_settles() {
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "one").await;
    let mut settled = pin!(broker.settled());
    assert!(!is_done(&mut settled).await);
    connection.purge("jobs").await.unwrap();
    assert!(is_done(&mut settled).await);
}

#[tokio::test]
async fn a_deletion_settles_what_is_ready_delayed_and_unsettled() {
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "unsettled").await;
    publish(&connection, "jobs", "ready").await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let delayed = producer.publish(&1).routing_key("jobs").delay(HOUR);
    delayed.await.unwrap();
    let held = connection.get("jobs").await.unwrap().unwrap();
    let mut settled = pin!(broker.settled());
    assert!(!is_done(&mut settled).await);
    connection.delete_queue("jobs").await.unwrap();
    assert!(is_done(&mut settled).await);
    drop(held);
}

#[tokio::test]
async fn what_a_length_limit_drops_is_settled() {
    let (connection, broker) = fresh().await;
    let jobs = Queue::new("jobs").max_length(0);
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", "dropped").await;
    assert!(is_done(&mut pin!(broker.settled())).await);
}

#[tokio::test(start_paused = true)]
async fn time_goes_on_to_delayed_and_retried_messages() {
    let (connection, broker) = fresh().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery.unwrap();
            match delivery.attempt() {
                1 => delivery.retry_after(2 * HOUR).await.unwrap(),
                _ => delivery.ack().await.unwrap(),
            }
        }
    });
    let start = Instant::now();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let delayed = producer.publish(&1).routing_key("jobs").delay(HOUR);
    delayed.await.unwrap();
    settled_within(10 * HOUR, &broker).await;
    assert_eq!(start.elapsed(), 3 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_waited_for_on_their_way_and_where_they_arrive() {
    let (connection, broker) = fresh().await;
    let mut next = "end".to_owned();
    for stage in ["third", "second", "first"] {
        let queue = Queue::new(stage).message_ttl(HOUR);
        let queue = queue
            .dead_letter_exchange("")
            .dead_letter_routing_key(&*next);
        connection.declare_queue(&queue).await.unwrap();
        next = stage.to_owned();
    }
    let mut end = connection.consumer(&Queue::new("end")).await.unwrap();
    tokio::spawn(async move {
        while let Some(delivery) = end.next().await {
            tokio::time::sleep(HOUR).await;
            delivery.unwrap().ack().await.unwrap();
        }
    });
    let start = Instant::now();
    publish(&connection, "first", "late").await;
    settled_within(10 * HOUR, &broker).await;
    assert_eq!(start.elapsed(), 4 * HOUR);
}

/// Not even a connection is open.
#[tokio::test(start_paused = true)]
async fn what_expires_while_nobody_is_connected_is_waited_for() {
    let (connection, broker) = fresh().await;
    let jobs = Queue::new("jobs").message_ttl(HOUR);
    connection.declare_queue(&jobs).await.unwrap();
    let unused = Queue::new("unused").expires(2 * HOUR);
    connection.declare_queue(&unused).await.unwrap();
    let start = Instant::now();
    publish(&connection, "jobs", "one").await;
    publish(&connection, "unused", "one").await;
    connection.close().await.unwrap();
    settled_within(10 * HOUR, &broker).await;
    assert_eq!(start.elapsed(), 2 * HOUR);
}

/// A dead letter stays where it is until somebody connects.
#[tokio::test(start_paused = true)]
async fn the_dead_of_a_broker_without_connections_are_not_settled() {
    let name = "memory://settled-dead";
    let connection = kombu::connect(name).await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    let jobs = Queue::new("jobs").message_ttl(HOUR);
    let jobs = jobs.dead_letter_exchange("nowhere");
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", "one").await;
    connection.close().await.unwrap();
    tokio::time::advance(2 * HOUR).await;
    assert!(broker.queue("jobs").unwrap().ready.is_empty());
    let mut settled = pin!(broker.settled());
    assert!(!is_done(&mut settled).await);
    let _again = kombu::connect(name).await.unwrap();
    assert!(is_done(&mut settled).await);
    memory::remove("settled-dead");
}

#[tokio::test]
async fn chosen_queues_are_settled_whatever_lies_in_others() {
    let (connection, broker) = fresh().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("");
    let jobs = jobs.dead_letter_routing_key("failed");
    connection.declare_queue(&jobs).await.unwrap();
    connection
        .declare_queue(&Queue::new("failed"))
        .await
        .unwrap();
    publish(&connection, "jobs", "one").await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    let mut chosen = pin!(broker.settled_in(["jobs"]));
    assert!(!is_done(&mut chosen).await);
    delivery.reject().await.unwrap();
    assert!(is_done(&mut chosen).await);
    assert_eq!(broker.queue("failed").unwrap().ready.len(), 1);
    let mut all = pin!(broker.settled());
    assert!(!is_done(&mut all).await);
}

#[tokio::test]
async fn a_chosen_queue_has_to_be_there() {
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let error = broker.settled_in(["jobs", "jbos"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("`jbos`"), "{error}");
}

/// Queues through which messages are rejected, each into the next one. Whoever looks at them in order of name meets the
/// messages on their way. Answers the name of the first one, and counts what came to the end.
async fn open_stages(connection: &Connection) -> (String, Arc<AtomicUsize>) {
    const STAGES: usize = 4;
    let done = Arc::new(AtomicUsize::new(0));
    let name = |left: usize| format!("stage-{left}");
    for left in 0..STAGES {
        let queue = Queue::new(name(left)).dead_letter_exchange("");
        let queue = queue.dead_letter_routing_key(name(left.saturating_sub(1)));
        let mut consumer = connection.consumer(&queue).await.unwrap();
        let done = done.clone();
        tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                let delivery = delivery.unwrap();
                if left == 0 {
                    done.fetch_add(1, Ordering::SeqCst);
                    delivery.ack().await.unwrap();
                } else {
                    delivery.reject().await.unwrap();
                }
            }
        });
    }
    // What comes here dies at once, and is moved by whichever task comes to it first.
    let first = Queue::new("first")
        .max_length(0)
        .dead_letter_exchange("")
        .dead_letter_routing_key(name(STAGES - 1));
    connection.declare_queue(&first).await.unwrap();
    ("first".to_owned(), done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_is_told_when_the_last_message_is_settled_on_another_thread() {
    const MESSAGES: usize = 5;
    let (connection, broker) = fresh().await;
    let (first, done) = open_stages(&connection).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for round in 1..=1_000 {
        for _ in 0..MESSAGES {
            let publish = producer.publish(&0).routing_key(&*first);
            publish.await.unwrap();
        }
        settled_within(Duration::from_secs(30), &broker).await;
        assert_eq!(done.load(Ordering::SeqCst), round * MESSAGES);
    }
}

/// One message is under way at a time, and somebody asks all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_overlooked_while_it_moves_on_another_thread() {
    let (connection, broker) = fresh().await;
    let (first, done) = open_stages(&connection).await;
    let published = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Handle::current();
    let asking = std::thread::spawn({
        let (published, done, over) = (published.clone(), done.clone(), over.clone());
        move || {
            let _within = runtime.enter();
            let mut context = Context::from_waker(Waker::noop());
            let mut times = 0;
            while !over.load(Ordering::Relaxed) {
                let before = published.load(Ordering::SeqCst);
                if pin!(broker.settled()).poll(&mut context).is_ready() {
                    assert!(done.load(Ordering::SeqCst) >= before);
                    times += 1;
                }
            }
            times
        }
    });
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for number in 1..=5_000 {
        let publish = producer.publish(&0).routing_key(&*first);
        publish.await.unwrap();
        published.store(number, Ordering::SeqCst);
        while done.load(Ordering::SeqCst) < number && !asking.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::Relaxed);
    assert!(asking.join().unwrap() > 0);
}

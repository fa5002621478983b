//! Hours of waiting in milliseconds: on tokio's paused clock, everything on `memory://` happens at its exact instant.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, Consumer, DeclareMode, Delivery, ErrorKind, Exchange, Queue, Timestamp};
use kombu_testkit::expect::{collect, drain, info, texts};
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

async fn connect() -> Connection {
    kombu::connect("memory://").await.unwrap()
}

/// Declares a queue whose dead letters go to another one.
async fn declare_before(connection: &Connection, queue: Queue, next: &str) {
    let queue = queue.dead_letter_exchange("").dead_letter_routing_key(next);
    connection.declare_queue(&queue).await.unwrap();
}

/// Three queues in which a message waits, 60 units in all, before it comes to `end`.
async fn declare_ladder(connection: &Connection, unit: Duration) {
    for (stage, wait, next) in [
        ("first", 10 * unit, "second"),
        ("second", 20 * unit, "third"),
        ("third", 30 * unit, "end"),
    ] {
        declare_before(connection, Queue::new(stage).message_ttl(wait), next).await;
    }
    connection.declare_queue(&Queue::new("end")).await.unwrap();
}

async fn publish(connection: &Connection, queue: &str, text: &'static str) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish_bytes(text).routing_key(queue);
    publish.await.unwrap();
}

async fn publish_expiring(
    connection: &Connection,
    queue: &str,
    text: &'static str,
    expiration: Duration,
) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish_bytes(text).routing_key(queue);
    publish.expiration(expiration).await.unwrap();
}

async fn publish_delayed(
    connection: &Connection,
    queue: &str,
    text: &'static str,
    delay: Duration,
) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish_bytes(text).routing_key(queue);
    publish.delay(delay).await.unwrap();
}

async fn next(consumer: &mut Consumer) -> Delivery {
    // Longer than anything here takes: on a paused clock, waiting in vain would go on for ever.
    let received = tokio::time::timeout(100 * HOUR, consumer.next()).await;
    received.expect("a message").unwrap().unwrap()
}

async fn counts(connection: &Connection, queues: &[&str]) -> Vec<u64> {
    let mut counts = Vec::new();
    for queue in queues {
        counts.push(info(connection, *queue).await.ready);
    }
    counts
}

async fn is_there(connection: &Connection, queue: &str) -> bool {
    // Publishing is the one way to ask that doesn't count as using the queue.
    let producer = connection.producer(Exchange::default()).await.unwrap();
    match producer.publish(&0).routing_key(queue).await {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::Unroutable => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_ladder_of_queues_is_climbed_in_exactly_an_hour() {
    let connection = connect().await;
    declare_ladder(&connection, MINUTE).await;
    let mut end = connection.consumer(&Queue::new("end")).await.unwrap();
    let start = Instant::now();
    publish(&connection, "first", "late").await;
    let delivery = next(&mut end).await;
    assert_eq!(start.elapsed(), HOUR);
    let deaths = delivery.headers().get("x-death").unwrap();
    let deaths = deaths.as_array().unwrap().iter();
    let queues = deaths.map(|death| death.as_table().unwrap().get("queue").unwrap());
    let queues: Vec<_> = queues.map(|queue| queue.as_str().unwrap()).collect();
    assert_eq!(queues, ["third", "second", "first"]);
    delivery.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_dead_after_a_jump_of_the_clock_is_where_it_belongs_then() {
    let connection = connect().await;
    declare_ladder(&connection, MINUTE).await;
    publish(&connection, "first", "late").await;
    let stages = ["first", "second", "third", "end"];
    tokio::time::advance(29 * MINUTE).await;
    assert_eq!(counts(&connection, &stages).await, [0, 1, 0, 0]);
    tokio::time::advance(31 * MINUTE).await;
    assert_eq!(counts(&connection, &stages).await, [0, 0, 0, 1]);
    publish(&connection, "first", "later").await;
    tokio::time::advance(HOUR).await;
    let arrived = drain(&connection, "end").await;
    assert_eq!(texts(&arrived), ["late", "later"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_jump_dead_letters_lie_in_the_order_in_which_they_died() {
    let connection = connect().await;
    for (queue, ttl, next) in [
        ("one", HOUR, "end"),
        ("other", HOUR, "end"),
        ("lower", MINUTE, "upper"),
        ("upper", MINUTE, "end"),
    ] {
        declare_before(&connection, Queue::new(queue).message_ttl(ttl), next).await;
    }
    connection.declare_queue(&Queue::new("end")).await.unwrap();
    publish_expiring(&connection, "one", "fourth", 4 * MINUTE).await;
    publish_expiring(&connection, "other", "first", MINUTE).await;
    publish_expiring(&connection, "other", "third", 3 * MINUTE).await;
    publish(&connection, "lower", "second").await;
    tokio::time::advance(2 * HOUR).await;
    let arrived = drain(&connection, "end").await;
    assert_eq!(texts(&arrived), ["first", "second", "third", "fourth"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_comes_back_to_the_instant() {
    let connection = connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "hard").await;
    let start = Instant::now();
    for (attempt, delay) in [(1, MINUTE), (2, HOUR), (3, 24 * HOUR)] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.retry_after(delay).await.unwrap();
    }
    next(&mut consumer).await.ack().await.unwrap();
    assert_eq!(start.elapsed(), MINUTE + 25 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_come_to_the_instant_and_in_the_order_in_which_they_are_due() {
    let connection = connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let start = Instant::now();
    for (text, minutes) in [("last", 60), ("first", 1), ("second", 30)] {
        publish_delayed(&connection, "jobs", text, minutes * MINUTE).await;
    }
    for (text, minutes) in [("first", 1), ("second", 30), ("last", 60)] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.body(), text);
        assert_eq!(start.elapsed(), minutes * MINUTE);
        delivery.ack().await.unwrap();
    }
}

/// Its time in the queue begins when it is due, and nobody has to look for that.
#[tokio::test(start_paused = true)]
async fn a_delayed_message_that_nobody_takes_dies_at_its_time() {
    let connection = connect().await;
    declare_before(&connection, Queue::new("jobs").message_ttl(MINUTE), "late").await;
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let start = Instant::now();
    publish_delayed(&connection, "jobs", "job", HOUR).await;
    next(&mut late).await.ack().await.unwrap();
    assert_eq!(start.elapsed(), HOUR + MINUTE);
}

/// As the one before, and the clock jumps over both instants.
#[tokio::test(start_paused = true)]
async fn a_delayed_message_is_gone_after_a_jump_beyond_its_time() {
    let connection = connect().await;
    let jobs = Queue::new("jobs").message_ttl(MINUTE);
    connection.declare_queue(&jobs).await.unwrap();
    publish_delayed(&connection, "jobs", "job", HOUR).await;
    tokio::time::advance(HOUR + MINUTE).await;
    assert_eq!(info(&connection, "jobs").await.ready, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_stands_before_what_is_published_after_it_was_due() {
    let connection = connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish_delayed(&connection, "jobs", "delayed", MINUTE).await;
    tokio::time::advance(HOUR).await;
    publish(&connection, "jobs", "new").await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["delayed", "new"]);
}

/// It was hidden behind one that lives longer, and nobody looks at the queue afterwards.
#[tokio::test(start_paused = true)]
async fn a_message_that_comes_to_the_head_by_a_get_still_dies_at_its_time() {
    let connection = connect().await;
    declare_before(&connection, Queue::new("jobs"), "late").await;
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let start = Instant::now();
    publish(&connection, "jobs", "stays").await;
    publish_expiring(&connection, "jobs", "goes", HOUR).await;
    let first = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(first.body(), "stays");
    first.ack().await.unwrap();
    let letter = next(&mut late).await;
    assert_eq!(letter.body(), "goes");
    assert_eq!(start.elapsed(), HOUR);
    letter.ack().await.unwrap();
}

/// The same, and its predecessor is pushed out instead of taken.
#[tokio::test(start_paused = true)]
async fn a_message_that_comes_to_the_head_by_a_limit_still_dies_at_its_time() {
    let connection = connect().await;
    declare_before(&connection, Queue::new("jobs").max_length(2), "late").await;
    let mut late = connection.consumer(&Queue::new("late")).await.unwrap();
    let start = Instant::now();
    publish(&connection, "jobs", "pushed out").await;
    publish_expiring(&connection, "jobs", "goes", HOUR).await;
    publish(&connection, "jobs", "new").await;
    let letter = next(&mut late).await;
    assert_eq!(letter.body(), "pushed out");
    assert_eq!(start.elapsed(), Duration::ZERO);
    letter.ack().await.unwrap();
    let letter = next(&mut late).await;
    assert_eq!(letter.body(), "goes");
    assert_eq!(start.elapsed(), HOUR);
    letter.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_uses_goes_to_the_instant() {
    let connection = connect().await;
    let jobs = Queue::new("jobs").expires(HOUR);
    connection.declare_queue(&jobs).await.unwrap();
    tokio::time::sleep(HOUR - Duration::from_millis(1)).await;
    assert!(is_there(&connection, "jobs").await);
    tokio::time::sleep(Duration::from_millis(1)).await;
    // Both were due now, this task and the queue.
    tokio::task::yield_now().await;
    assert!(!is_there(&connection, "jobs").await);
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_gone_after_a_jump_beyond_its_expiry() {
    let connection = connect().await;
    let jobs = Queue::new("jobs").expires(HOUR);
    connection.declare_queue(&jobs).await.unwrap();
    tokio::time::advance(HOUR).await;
    let verified = connection
        .declare_queue(&Queue::new("jobs").declare(DeclareMode::Verify))
        .await;
    assert_eq!(verified.unwrap_err().kind(), ErrorKind::NotFound);
    connection.declare_queue(&jobs).await.unwrap();
    tokio::time::advance(HOUR).await;
    let taken = connection.get("jobs").await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::NotFound);
}

/// No clock gets there, and it is no reason to panic.
#[tokio::test(start_paused = true)]
async fn a_delay_without_end_is_one() {
    let connection = connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish_delayed(&connection, "jobs", "never", Duration::MAX).await;
    publish(&connection, "jobs", "for ever").await;
    let delivery = next(&mut consumer).await;
    delivery.retry_after(Duration::MAX).await.unwrap();
    tokio::time::advance(1_000 * HOUR).await;
    assert_eq!(info(&connection, "jobs").await.ready, 0);
    drop(consumer);
    assert!(drain(&connection, "jobs").await.is_empty());
}

/// What a program with retries, limits and dead letters goes through; answers when each message came.
async fn mixed() -> Vec<(u64, String)> {
    let connection = connect().await;
    declare_ladder(&connection, SECOND).await;
    let work = Queue::new("work")
        .message_ttl(45 * SECOND)
        .max_priority(5)
        .max_length(4);
    declare_before(&connection, work, "first").await;
    let unused = Queue::new("unused").expires(40 * SECOND);
    connection.declare_queue(&unused).await.unwrap();
    let mut end = connection
        .consumer([&Queue::new("end"), &Queue::new("jobs")])
        .await
        .unwrap();
    let start = Instant::now();
    for text in ["pushed out", "rejected", "one", "two", "three"] {
        publish(&connection, "work", text).await;
    }
    let rejected = connection.get("work").await.unwrap().unwrap();
    assert_eq!(rejected.body(), "rejected");
    rejected.reject().await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let urgent = producer.publish_bytes("urgent").routing_key("work");
    urgent.priority(9).await.unwrap();
    let urgent = connection.get("work").await.unwrap().unwrap();
    assert_eq!(urgent.body(), "urgent");
    urgent.release().await.unwrap();
    publish_delayed(&connection, "jobs", "delayed", 50 * SECOND).await;
    publish(&connection, "jobs", "retried").await;
    let mut arrived = Vec::new();
    while arrived.len() < 9 {
        let delivery = next(&mut end).await;
        let text = String::from_utf8(delivery.body().to_vec()).unwrap();
        assert_eq!(start.elapsed().subsec_nanos(), 0);
        arrived.push((start.elapsed().as_secs(), text));
        if delivery.body() == "retried" && delivery.attempt() == 1 {
            delivery.retry_after(25 * SECOND).await.unwrap();
        } else {
            delivery.ack().await.unwrap();
        }
    }
    assert!(!is_there(&connection, "unused").await);
    connection.close().await.unwrap();
    arrived
}

#[test]
fn a_thousand_fresh_brokers_go_through_the_same() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let first = runtime().block_on(mixed());
    let seconds = |seconds, text: &str| (seconds, text.to_owned());
    assert_eq!(
        first,
        [
            seconds(0, "retried"),
            seconds(25, "retried"),
            seconds(50, "delayed"),
            seconds(60, "pushed out"),
            seconds(60, "rejected"),
            seconds(105, "urgent"),
            seconds(105, "one"),
            seconds(105, "two"),
            seconds(105, "three"),
        ]
    );
    let repeated = runtime();
    for round in 0..1_000 {
        assert_eq!(repeated.block_on(mixed()), first, "in round {round}");
    }
}

/// A consumer that is there from the start is told of nothing late, whatever else the runtime does.
#[tokio::test(start_paused = true)]
async fn many_timers_at_once_ring_in_their_order() {
    let connection = connect().await;
    let mut end = connection.consumer(&Queue::new("end")).await.unwrap();
    let start = Instant::now();
    for minute in (1..=100).rev() {
        let queue = format!("wait-{minute}");
        let wait = Queue::new(&*queue).message_ttl(minute * MINUTE);
        declare_before(&connection, wait, "end").await;
        publish(&connection, &queue, "late").await;
    }
    for minute in 1..=100 {
        let delivery = collect(&mut end, 1).await.remove(0);
        assert_eq!(start.elapsed(), minute * MINUTE);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_tells_when_it_died_and_not_when_it_was_moved() {
    let url = "memory://virtual-time-of-death";
    let connection = kombu::connect(url).await.unwrap();
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let jobs = Queue::new("jobs").message_ttl(HOUR);
    declare_before(&connection, jobs, "dead").await;
    publish(&connection, "jobs", "work").await;
    connection.close().await.unwrap();
    let published = Timestamp::now().as_secs();
    tokio::time::advance(24 * HOUR).await;
    // The first one to come moves it.
    let connection = kombu::connect(url).await.unwrap();
    let [letter] = drain(&connection, "dead").await.try_into().unwrap();
    let deaths = letter.headers().get("x-death").unwrap();
    let death = deaths.as_array().unwrap()[0].as_table().unwrap();
    let died = death.get("time").and_then(|time| time.as_timestamp());
    let before_now = published - died.unwrap().as_secs();
    // The wall clock stood still meanwhile, or nearly.
    let hours = 23 * 60 * 60;
    assert!(
        (hours - 60..=hours + 60).contains(&before_now),
        "{before_now}"
    );
    kombu::memory::remove("virtual-time-of-death");
}

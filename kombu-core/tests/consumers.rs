//! Consumers whose options, queues and pauses outlive their sessions, and what they hold back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::{IntoFuture, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use kombu::driver::{
    self, BoxFuture, Layer, Op, Operation, Outcome, Received, SessionLayer, Settle, Subscription,
};
use kombu::{
    Connection, ConnectionBuilder, Consumer, Content, DeclareMode, ErrorKind, Event, Events,
    Exchange, Faults, Interceptor, Name, Queue, UndecodablePolicy,
};
use tokio::time::Instant;

fn builder(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url(format!("memory://consumers-{name}"))
        .layer(faults.clone())
}

/// A connection to the same broker that no fault reaches.
async fn other(name: &str) -> Connection {
    kombu::connect(format!("memory://consumers-{name}"))
        .await
        .unwrap()
}

async fn until_restored(events: &mut Events) {
    while !matches!(events.next().await, Some(Event::Restored { .. })) {}
}

async fn publish(connection: &Connection, queue: &str, text: &str) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish_text(text).routing_key(queue);
    publish.await.unwrap();
}

/// The next delivery as queue and text, acked.
async fn next(consumer: &mut Consumer) -> (String, String) {
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let text = String::from_utf8_lossy(delivery.body()).into_owned();
    let queue = delivery.queue().to_string();
    delivery.ack().await.unwrap();
    (queue, text)
}

fn received(queue: &str, text: &str) -> (String, String) {
    (queue.to_owned(), text.to_owned())
}

async fn is_silent(consumer: &mut Consumer) -> bool {
    consumer.receive(Duration::ZERO).await.unwrap().is_none()
}

async fn consumers(connection: &Connection, queue: &str) -> u64 {
    connection.queue_info(queue).await.unwrap().consumers
}

#[tokio::test(start_paused = true)]
async fn options_hold_on_the_next_session() {
    let faults = Faults::default();
    let connection = builder("options", &faults).await.unwrap();
    let other = other("options").await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let open = connection.consumer(&jobs).exclusive(true).no_local(true);
    let mut only = open.await.unwrap();
    let ranked = Queue::new("ranked");
    let mut low = other.consumer(&ranked).priority(1).await.unwrap();
    let mut high = connection.consumer(&ranked).priority(2).await.unwrap();
    for round in ["first", "second"] {
        publish(&connection, "jobs", "own").await;
        publish(&other, "jobs", round).await;
        assert_eq!(next(&mut only).await, received("jobs", round));
        assert!(is_silent(&mut only).await);
        let refused = other.consumer(&jobs).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AccessRefused);
        assert!(is_silent(&mut high).await);
        publish(&other, "ranked", round).await;
        assert!(is_silent(&mut low).await);
        assert_eq!(next(&mut high).await, received("ranked", round));
        faults.cut();
        until_restored(&mut events).await;
        // Polled, both subscribe again.
        assert!(
            only.receive(Duration::from_millis(1))
                .await
                .unwrap()
                .is_none()
        );
        assert!(
            high.receive(Duration::from_millis(1))
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn queues_that_were_added_and_left_are_so_on_the_next_session() {
    let faults = Faults::default();
    let connection = builder("added", &faults).await.unwrap();
    let other = other("added").await;
    let mut events = connection.events();
    let queues = ["a", "b", "c"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    consumer.cancel_queue("a").await.unwrap();
    consumer.add_queue(&Queue::new("d")).await.unwrap();
    publish(&other, "d", "held").await;
    let old = consumer.try_next().await.unwrap().unwrap();
    faults.cut();
    until_restored(&mut events).await;
    // Numbers start over on the new session; the old delivery keeps its queue's name.
    let (queue, text) = next(&mut consumer).await;
    assert_eq!((queue.as_str(), text.as_str()), ("d", "held"));
    assert_eq!(old.queue(), "d");
    assert_eq!(old.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    consumer.add_queue(&Queue::new("e")).await.unwrap();
    assert_eq!(consumer.queues(), ["b", "c", "d", "e"]);
    for queue in ["b", "c", "d", "e"] {
        publish(&other, queue, "new").await;
        assert_eq!(next(&mut consumer).await, received(queue, "new"));
    }
    assert_eq!(consumers(&other, "a").await, 0);
    // Leaving takes out what it says and nothing else.
    consumer.cancel_queue("c").await.unwrap();
    publish(&other, "c", "stays").await;
    publish(&other, "d", "comes").await;
    assert_eq!(next(&mut consumer).await, received("d", "comes"));
    assert!(is_silent(&mut consumer).await);
}

#[tokio::test(start_paused = true)]
async fn queues_come_and_go_during_an_outage() {
    let faults = Faults::default();
    let connection = builder("outage", &faults).await.unwrap();
    let other = other("outage").await;
    let queues = ["a", "b"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost; 5]);
    faults.cut();
    // It learns that the session is gone, and waits for the next one.
    assert!(is_silent(&mut consumer).await);
    consumer.cancel_queue("a").await.unwrap();
    assert_eq!(consumer.queues(), ["b"]);
    // Waits until there is a session to declare it on.
    consumer.add_queue(&Queue::new("c")).await.unwrap();
    assert!(connection.health().connected);
    for queue in ["b", "c"] {
        publish(&other, queue, "new").await;
        assert_eq!(next(&mut consumer).await, received(queue, "new"));
    }
    let counts = [consumers(&other, "a").await, consumers(&other, "c").await];
    assert_eq!(counts, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn leaving_the_last_queue_during_an_outage_ends_the_consumer() {
    let faults = Faults::default();
    let connection = builder("last", &faults).await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    faults.cut();
    assert!(is_silent(&mut consumer).await);
    consumer.cancel_queue("jobs").await.unwrap();
    assert!(consumer.next().await.is_none());
    until_restored(&mut events).await;
    assert_eq!(consumers(&connection, "jobs").await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_add_whose_request_or_reply_is_lost_is_made_on_the_next_session() {
    for (name, lose) in [
        (
            "request",
            Faults::lose_control_requests as fn(&Faults, usize),
        ),
        ("reply", Faults::lose_control_replies),
    ] {
        let faults = Faults::default();
        let connection = builder(name, &faults).await.unwrap();
        let other = other(name).await;
        let mut consumer = connection.consumer(&Queue::new("a")).await.unwrap();
        connection.declare_queue(&Queue::new("b")).await.unwrap();
        lose(&faults, 1);
        // Nothing has to be declared, so this is about the subscription.
        let added = consumer.add_queue(&Queue::new("b").no_declare()).await;
        added.unwrap();
        assert_eq!(connection.health().sessions, 2, "{name}");
        for queue in ["a", "b"] {
            publish(&other, queue, "new").await;
            assert_eq!(next(&mut consumer).await, received(queue, "new"));
            assert_eq!(consumers(&other, queue).await, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_add_and_a_leave_that_are_not_answered_end_by_their_deadline() {
    let faults = Faults::default();
    let connection = builder("unanswered", &faults)
        .deadlines({
            let mut deadlines = kombu::Deadlines::default();
            deadlines.declare = Duration::from_secs(3);
            deadlines
        })
        .await
        .unwrap();
    let queues = ["a", "b"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    connection.declare_queue(&Queue::new("c")).await.unwrap();
    faults.withhold_replies(true);
    let begin = Instant::now();
    let added = consumer.add_queue(&Queue::new("c").no_declare()).await;
    let error = added.unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::Timeout, Some("add queue"))
    );
    assert!(error.to_string().contains("the broker's answer"), "{error}");
    let left = consumer.cancel_queue("a").await;
    let error = left.unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::Timeout, Some("cancel queue"))
    );
    assert_eq!(begin.elapsed().as_secs(), 6);
    faults.withhold_replies(false);
    assert_eq!(consumer.queues(), ["b"]);
    publish(&connection, "b", "goes on").await;
    assert_eq!(next(&mut consumer).await, received("b", "goes on"));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_was_deleted_is_not_subscribed_to_again() {
    let faults = Faults::default();
    let connection = builder("deleted", &faults).await.unwrap();
    let other = other("deleted").await;
    let mut events = connection.events();
    let queues = ["a", "b"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    other.delete_queue("a").await.unwrap();
    assert!(is_silent(&mut consumer).await);
    let told = events.next().await;
    assert_eq!(
        told,
        Some(Event::ConsumerCancelled {
            queue: Name::from("a")
        })
    );
    other.declare_queue(&Queue::new("a")).await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    publish(&other, "a", "stays").await;
    publish(&other, "b", "comes").await;
    assert_eq!(next(&mut consumer).await, received("b", "comes"));
    assert_eq!(consumers(&other, "a").await, 0);
    other.delete_queue("b").await.unwrap();
    let error = consumer.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerCancelled);
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlives_its_session() {
    let faults = Faults::default();
    let connection = builder("pause", &faults).await.unwrap();
    let other = other("pause").await;
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    consumer.pause();
    faults.cut();
    until_restored(&mut events).await;
    publish(&other, "jobs", "waits").await;
    assert!(
        consumer
            .receive(Duration::from_secs(1))
            .await
            .unwrap()
            .is_none()
    );
    let info = other.queue_info("jobs").await.unwrap();
    assert_eq!(
        (info.ready, info.unsettled, info.consumers),
        (1, Some(0), 1)
    );
    assert!(consumer.is_paused());
    // It can also be ended between two sessions.
    faults.cut();
    consumer.resume();
    until_restored(&mut events).await;
    assert_eq!(next(&mut consumer).await, received("jobs", "waits"));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_always_dropped_comes_ten_times_a_second() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "poison").await;
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_secs(1) {
        let Some(delivery) = consumer.receive(Duration::from_secs(1)).await.unwrap() else {
            break;
        };
        times.push(begin.elapsed().as_millis());
        drop(delivery);
    }
    // The second one at once, since the first may have been an accident.
    assert_eq!(
        times,
        [0, 0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_comes_to_another_consumer_while_the_first_is_busy_elsewhere() {
    let connection = kombu::connect("memory://").await.unwrap();
    let jobs = Queue::new("jobs");
    let mut busy = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", "poison").await;
    for _ in 0..2 {
        drop(busy.try_next().await.unwrap().unwrap());
    }
    let mut other = connection.consumer(&jobs).await.unwrap();
    let begin = Instant::now();
    let (_, text) = next(&mut other).await;
    assert_eq!(text, "poison");
    assert_eq!(begin.elapsed().as_millis(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_busy_consumer_gives_back_what_it_put_off() {
    let connection = kombu::connect("memory://").await.unwrap();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(10).await.unwrap();
    publish(&connection, "jobs", "poison").await;
    for _ in 0..2 {
        drop(consumer.try_next().await.unwrap().unwrap());
    }
    // There is always a next message, so it never waits.
    for round in 0..20_u32 {
        publish(&connection, "jobs", "fine").await;
        tokio::time::advance(Duration::from_millis(10)).await;
        let (_, text) = next(&mut consumer).await;
        if text == "poison" {
            assert!((9..=10).contains(&round), "after {round} others");
            return;
        }
    }
    panic!("it never came back");
}

#[tokio::test(start_paused = true)]
async fn what_is_put_off_comes_back_to_its_place() {
    let connection = kombu::connect("memory://").await.unwrap();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(3).await.unwrap();
    for text in ["0", "1", "2", "3"] {
        publish(&connection, "jobs", text).await;
    }
    for _ in 0..2 {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(consumer.try_next().await.unwrap().unwrap());
        }
        drop(held);
    }
    // The window is full of them until their time comes.
    assert!(is_silent(&mut consumer).await);
    let begin = Instant::now();
    for text in ["0", "1", "2", "3"] {
        assert_eq!(next(&mut consumer).await, received("jobs", text));
    }
    assert_eq!(begin.elapsed().as_millis(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_release_by_hand_and_by_an_interceptor_are_as_ever() {
    /// Acks what nobody settled.
    struct Forgiving;

    impl Interceptor for Forgiving {
        fn on_settle(&self, _: &Name, outcome: kombu::driver::Outcome) -> kombu::driver::Outcome {
            match outcome {
                kombu::driver::Outcome::Release => kombu::driver::Outcome::Ack,
                other => other,
            }
        }
    }

    let connection = kombu::connect("memory://").await.unwrap();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&connection, "jobs", "again").await;
    let begin = Instant::now();
    for _ in 0..50 {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        delivery.release().await.unwrap();
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let delivery = consumer.try_next().await.unwrap().unwrap();
    consumer.cancel().await.unwrap();
    drop(delivery);
    let mut consumer = connection
        .consumer(&jobs)
        .intercept(Forgiving)
        .await
        .unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert!(delivery.redelivered());
    drop(delivery);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_message_that_is_released_comes_slowly_too() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .on_undecodable(UndecodablePolicy::Release)
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", "no number").await;
    let begin = Instant::now();
    for _ in 0..5 {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        drop(delivery.take::<u32>().unwrap_err());
    }
    assert_eq!(begin.elapsed().as_millis(), 300);
}

#[tokio::test(start_paused = true)]
async fn what_was_put_off_goes_back_with_its_session_or_its_queue() {
    let faults = Faults::default();
    let connection = builder("put-off", &faults).await.unwrap();
    let mut events = connection.events();
    let queues = ["a", "b"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).await.unwrap();
    publish(&connection, "a", "poison").await;
    for _ in 0..2 {
        drop(consumer.try_next().await.unwrap().unwrap());
    }
    faults.cut();
    until_restored(&mut events).await;
    let begin = Instant::now();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    drop(delivery);
    let info = connection.queue_info("a").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(1)));
    consumer.cancel_queue("a").await.unwrap();
    let info = connection.queue_info("a").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (1, Some(0)));
}

/// Never comes to an end with a message.
#[derive(Clone, Default)]
struct Stuck(Arc<AtomicBool>);

impl Interceptor for Stuck {
    fn on_delivery<'a>(&'a self, _: &'a mut Content) -> BoxFuture<'a, kombu::Result<()>> {
        self.0.store(true, Ordering::Relaxed);
        Box::pin(pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_is_with_the_interceptors_goes_back_when_its_queue_is_left_or_paused() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queues = ["a", "b"].map(Queue::new);
    let stuck = Stuck::default();
    let open = connection.consumer(&queues).intercept(stuck.clone());
    let mut consumer = open.await.unwrap();
    let counts = async |queue: &str| {
        let info = connection.queue_info(queue).await.unwrap();
        (info.ready, info.unsettled)
    };
    publish(&connection, "a", "work").await;
    assert!(is_silent(&mut consumer).await);
    assert!(stuck.0.swap(false, Ordering::Relaxed));
    assert_eq!(counts("a").await, (0, Some(1)));
    consumer.pause();
    assert_eq!(counts("a").await, (1, Some(0)));
    consumer.resume();
    assert!(is_silent(&mut consumer).await);
    assert!(stuck.0.swap(false, Ordering::Relaxed));
    consumer.cancel_queue("b").await.unwrap();
    assert_eq!(counts("a").await, (0, Some(1)));
    consumer.add_queue(&queues[1]).await.unwrap();
    consumer.cancel_queue("a").await.unwrap();
    assert_eq!(counts("a").await, (1, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn an_add_that_is_dropped_adds_nothing() {
    let faults = Faults::default();
    let connection = builder("dropped", &faults).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("a")).await.unwrap();
    let next_queue = Queue::new("b");
    connection.declare_queue(&next_queue).await.unwrap();
    faults.withhold_replies(true);
    let passive = next_queue.no_declare();
    let adding = consumer.add_queue(&passive).into_future();
    let late = tokio::time::timeout(Duration::from_secs(1), adding).await;
    assert!(late.is_err());
    faults.withhold_replies(false);
    assert_eq!(consumer.queues(), ["a"]);
    publish(&connection, "b", "stays").await;
    publish(&connection, "a", "comes").await;
    assert_eq!(next(&mut consumer).await, received("a", "comes"));
    assert!(is_silent(&mut consumer).await);
}

#[tokio::test(start_paused = true)]
async fn a_publish_to_several_destinations_waits_for_the_next_session_as_one_does() {
    let faults = Faults::default();
    let connection = builder("destinations", &faults).await.unwrap();
    let default = Exchange::default();
    for queue in ["a", "b"] {
        connection.declare_queue(&Queue::new(queue)).await.unwrap();
    }
    let open = connection.producer(&default);
    let open = open.destinations([(&default, "a"), (&default, "b")]);
    let producer = open.await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost; 2]);
    faults.lose_replies(1);
    let results = producer
        .publish_text("list")
        .destinations([(&default, "a"), (&default, "b")])
        .await;
    let resent: Vec<_> = results
        .into_iter()
        .map(|result| result.unwrap().resent)
        .collect();
    assert!(resent[0]);
    faults.lose_replies(1);
    assert!(producer.publish_text("default").await.unwrap().resent);
    // Those whose reply was lost are there twice.
    assert_eq!(connection.purge("a").await.unwrap(), 4);
    assert!(connection.purge("b").await.unwrap() >= 2);
    let receipt = producer.publish_text("sent").send().await.unwrap();
    faults.cut();
    assert!(receipt.await.unwrap().routed);
}

#[tokio::test(start_paused = true)]
async fn queues_that_went_during_an_outage_leave_the_others() {
    let faults = Faults::default();
    let connection = builder("went", &faults).await.unwrap();
    let other = other("went").await;
    let mut events = connection.events();
    let queues = ["a", "b", "c"].map(Queue::new);
    for queue in &queues {
        other.declare_queue(queue).await.unwrap();
    }
    let consumer = connection.consumer(&queues).declare(DeclareMode::Never);
    let mut consumer = consumer.await.unwrap();
    let cancelled = |queue| Event::ConsumerCancelled {
        queue: Name::from(queue),
    };
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    other.delete_queue("a").await.unwrap();
    until_restored(&mut events).await;
    publish(&other, "b", "goes on").await;
    assert_eq!(next(&mut consumer).await, received("b", "goes on"));
    assert_eq!(events.next().await, Some(cancelled("a")));
    assert_eq!(consumer.queues(), ["b", "c"]);

    // It is another queue now.
    other.declare_queue(&queues[0]).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    for queue in ["b", "c"] {
        other.delete_queue(queue).await.unwrap();
    }
    let error = consumer.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerCancelled);
    until_restored(&mut events).await;
    for queue in ["b", "c"] {
        assert_eq!(events.next().await, Some(cancelled(queue)));
    }
    assert_eq!(consumers(&other, "a").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_for_the_next_session_starts_nothing_in_a_drain() {
    let faults = Faults::default();
    let connection = builder("drained", &faults).await.unwrap();
    let other = other("drained").await;
    let mut events = connection.events();
    let queue = Queue::new("jobs");
    let mut polled = connection.consumer(&queue).await.unwrap();
    let mut unpolled = connection.consumer(&queue).await.unwrap();
    let held = connection.declare_queue(&Queue::new("held")).await.unwrap();
    publish(&other, "jobs", "new").await;
    publish(&other, held.name.as_str(), "held").await;
    faults.refuse_connects([ErrorKind::ConnectionLost; 3]);
    faults.cut();
    let waiting = tokio::spawn(async move { polled.next().await.is_none() });
    tokio::task::yield_now().await;
    let drain = tokio::spawn({
        let connection = connection.clone();
        async move { connection.drain(Duration::from_secs(60)).await }
    });
    // Before there is a session, and after.
    let begin = Instant::now();
    assert!(waiting.await.unwrap());
    assert_eq!(begin.elapsed(), Duration::ZERO);
    drain.await.unwrap().unwrap();
    assert!(unpolled.next().await.is_none());
    drop(events.next().await);
    assert_eq!(other.queue_info("jobs").await.unwrap().ready, 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_dropped_stops_the_consumers_that_there_were_and_no_others() {
    let faults = Faults::default();
    let connection = builder("half-drained", &faults).await.unwrap();
    let mut events = connection.events();
    let queue = Queue::new("jobs");
    let mut before = connection.consumer(&queue).await.unwrap();
    publish(&connection, "jobs", "held").await;
    let held = before.try_next().await.unwrap().unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    assert!(is_silent(&mut before).await);
    let mut drain = Box::pin(connection.drain(Duration::from_secs(60)));
    tokio::select! {
        biased;
        _ = &mut drain => panic!("a delivery is held"),
        () = tokio::task::yield_now() => {}
    }
    drop(drain);
    drop(held);
    until_restored(&mut events).await;
    assert!(before.next().await.is_none());
    let mut after = connection.consumer(&queue).await.unwrap();
    assert_eq!(next(&mut after).await, received("jobs", "held"));
}

/// Declares the queue `two` slowly; after that, the broker answers nothing.
struct ThenSilent(Faults);

impl Layer for ThenSilent {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(ThenSilent(self.0.clone()))
    }
}

impl SessionLayer for ThenSilent {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, kombu::Result<()>>,
    ) -> BoxFuture<'a, kombu::Result<()>> {
        let two = matches!(operation, Operation::DeclareQueue(queue, _) if queue.name() == "two");
        if !two {
            return next;
        }
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            next.await?;
            self.0.withhold_replies(true);
            Ok(())
        })
    }
}

/// From some time on the broker answers nothing on one session, and never will: its driver waits for ever, and doesn't know that it is
/// lost.
struct Deaf {
    session: usize,
    sessions: AtomicUsize,
    is_deaf: Arc<AtomicBool>,
}

impl Deaf {
    /// On the session with this number, from when this is set.
    fn on(session: usize, is_deaf: &Arc<AtomicBool>) -> Self {
        Deaf {
            session,
            sessions: AtomicUsize::new(0),
            is_deaf: is_deaf.clone(),
        }
    }
}

impl Layer for Deaf {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed);
        let is_deaf = match session == self.session {
            true => self.is_deaf.clone(),
            false => Arc::default(),
        };
        Arc::new(DeafSession(is_deaf))
    }
}

struct DeafSession(Arc<AtomicBool>);

impl SessionLayer for DeafSession {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, kombu::Result<()>>,
    ) -> BoxFuture<'a, kombu::Result<()>> {
        match operation {
            Operation::OpenSubscription(..) | Operation::QueueInfo(_) | Operation::Ping
                if self.0.load(Ordering::Relaxed) =>
            {
                Box::pin(std::future::pending())
            }
            _ => next,
        }
    }

    fn subscription(&self, next: Box<dyn Subscription>) -> Box<dyn Subscription> {
        Box::new(DeafSubscription(next, self.0.clone()))
    }
}

struct DeafSubscription(Box<dyn Subscription>, Arc<AtomicBool>);

impl DeafSubscription {
    fn unless_deaf(&self, answer: Op<kombu::Result<()>>) -> Op<kombu::Result<()>> {
        match self.1.load(Ordering::Relaxed) {
            true => Op::pending(std::future::pending()),
            false => answer,
        }
    }
}

impl Stream for DeafSubscription {
    type Item = kombu::Result<Received>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<kombu::Result<Received>>> {
        Pin::new(&mut self.0).poll_next(context)
    }
}

impl Subscription for DeafSubscription {
    fn settler(&self) -> Arc<dyn Settle> {
        self.0.settler()
    }

    fn set_window(&self, window: u32) {
        self.0.set_window(window);
    }

    fn pause(&mut self, paused: bool) {
        self.0.pause(paused);
    }

    fn add(&mut self, queue: &Name) -> BoxFuture<'_, kombu::Result<u16>> {
        match self.1.load(Ordering::Relaxed) {
            true => Box::pin(std::future::pending()),
            false => self.0.add(queue),
        }
    }

    fn remove(&mut self, queue: u16) -> Op<kombu::Result<()>> {
        let answer = self.0.remove(queue);
        self.unless_deaf(answer)
    }

    fn cancel(self: Box<Self>) -> Op<kombu::Result<()>> {
        let DeafSubscription(next, is_deaf) = *self;
        let answer = next.cancel();
        match is_deaf.load(Ordering::Relaxed) {
            true => Op::pending(std::future::pending()),
            false => answer,
        }
    }
}

/// How long it takes until a session is taken for lost on which nothing is answered.
fn liveness() -> Duration {
    kombu::Deadlines::default().liveness
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_session_that_fell_silent_goes_on_with_the_next_one() {
    let faults = Faults::default();
    let is_deaf = Arc::new(AtomicBool::new(true));
    let builder = builder("deaf", &faults).layer(Deaf::on(1, &is_deaf));
    let connection = builder.await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    let begin = Instant::now();
    let (info, ()) = tokio::join!(connection.queue_info("jobs"), async {
        assert!(is_silent(&mut consumer).await);
    });
    info.unwrap();
    publish(&connection, "jobs", "new").await;
    assert_eq!(next(&mut consumer).await, received("jobs", "new"));
    assert_eq!(begin.elapsed(), liveness());
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_added_on_the_next_session_if_this_one_fell_silent() {
    let is_deaf = Arc::default();
    let builder = builder("deaf-add", &Faults::default()).layer(Deaf::on(0, &is_deaf));
    let connection = builder.await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("one")).await.unwrap();
    is_deaf.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    consumer.add_queue(&Queue::new("two")).await.unwrap();
    assert_eq!(begin.elapsed(), liveness());
    publish(&connection, "two", "new").await;
    assert_eq!(next(&mut consumer).await, received("two", "new"));
}

#[tokio::test(start_paused = true)]
async fn leaving_and_cancelling_end_with_a_session_that_fell_silent() {
    for leaves_one in [true, false] {
        let is_deaf = Arc::default();
        let builder = builder("deaf-leave", &Faults::default()).layer(Deaf::on(0, &is_deaf));
        let connection = builder.await.unwrap();
        let queues = [Queue::new("one"), Queue::new("two")];
        let mut consumer = connection.consumer(queues).await.unwrap();
        is_deaf.store(true, Ordering::Relaxed);
        let begin = Instant::now();
        match leaves_one {
            true => consumer.cancel_queue("one").await.unwrap(),
            false => consumer.cancel().await.unwrap(),
        }
        assert_eq!(begin.elapsed(), liveness());
        connection.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_add_has_one_deadline_for_declaring_and_subscribing() {
    let faults = Faults::default();
    let mut deadlines = kombu::Deadlines::default();
    deadlines.liveness = Duration::from_secs(3600);
    let connection = builder("one-deadline", &faults)
        .deadlines(deadlines)
        .layer(ThenSilent(faults.clone()))
        .await
        .unwrap();
    let mut consumer = connection.consumer(&Queue::new("one")).await.unwrap();
    let begin = Instant::now();
    let error = consumer.add_queue(&Queue::new("two")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(begin.elapsed().as_secs(), 30);
}

/// Counts settles, and panics at acks and, if it is told to, at releases.
#[derive(Clone, Default)]
struct Nervous {
    settles: Arc<AtomicUsize>,
    at_releases: Arc<AtomicBool>,
}

impl Interceptor for Nervous {
    fn on_settle(&self, _: &Name, outcome: Outcome) -> Outcome {
        self.settles.fetch_add(1, Ordering::Relaxed);
        let panics = match outcome {
            Outcome::Ack => true,
            Outcome::Release => self.at_releases.load(Ordering::Relaxed),
            _ => false,
        };
        assert!(!panics, "the interceptor's");
        outcome
    }
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_sees_what_is_held_once_when_it_is_dropped() {
    let nervous = Nervous::default();
    let builder = Connection::builder(kombu::registry()).url("memory://");
    let connection = builder.intercept(nervous.clone()).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "no number").await;
    let delivery = consumer.try_next().await.unwrap().unwrap();
    drop(delivery.take::<u32>().unwrap_err());
    assert_eq!(nervous.settles.load(Ordering::Relaxed), 1);
    drop(consumer);
    assert_eq!(nervous.settles.load(Ordering::Relaxed), 1);
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 1);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_whose_interceptor_panics_is_released() {
    let nervous = Nervous::default();
    let builder = Connection::builder(kombu::registry()).url("memory://");
    let connection = builder.intercept(nervous.clone()).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "once more").await;
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let acking = AssertUnwindSafe(|| drop(delivery.ack()));
    assert!(catch_unwind(acking).is_err());
    assert_eq!(nervous.settles.load(Ordering::Relaxed), 1);

    nervous.at_releases.store(true, Ordering::Relaxed);
    drop(consumer.try_next().await.unwrap().unwrap());
    drop(consumer);
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (1, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_interceptor_panics_counts_as_undecodable_and_the_next_one_comes() {
    struct Particular;
    impl Interceptor for Particular {
        fn on_delivery<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, kombu::Result<()>> {
            Box::pin(async {
                assert_ne!(&content.body()[..], b"odd", "the interceptor's");
                Ok(())
            })
        }
    }

    let builder = Connection::builder(kombu::registry()).url("memory://");
    let connection = builder.intercept(Particular).await.unwrap();
    let dead = Queue::new("dead");
    connection.declare_queue(&dead).await.unwrap();
    let queue = Queue::new("jobs");
    let queue = queue
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    let mut consumer = connection.consumer(&queue).await.unwrap();
    publish(&connection, "jobs", "odd").await;
    publish(&connection, "jobs", "even").await;
    assert_eq!(next(&mut consumer).await, received("jobs", "even"));
    assert_eq!(connection.queue_info("dead").await.unwrap().ready, 1);
    let jobs = connection.queue_info("jobs").await.unwrap();
    assert_eq!((jobs.ready, jobs.unsettled), (0, Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_get_that_is_dropped_on_a_plain_thread_gives_back_what_comes() {
    let faults = Faults::default();
    let connection = builder("get", &faults).await.unwrap();
    let other = other("get").await;
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    publish(&connection, "q", "one").await;
    faults.withhold_replies(true);
    let mut get: BoxFuture<'static, _> = Box::pin({
        let connection = connection.clone();
        async move { connection.get("q").await.map(drop) }
    });
    poll_fn(|context| {
        assert!(get.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(other.queue_info("q").await.unwrap().ready, 0);
    std::thread::spawn(move || drop(get)).join().unwrap();
    faults.withhold_replies(false);
    let mut consumer = other.consumer(&Queue::new("q")).await.unwrap();
    assert_eq!(next(&mut consumer).await, received("q", "one"));
}

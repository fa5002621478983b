//! How the next session comes to be: attempts, what they restore, and what ends them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kombu::driver::{self, BoxFuture, Layer, Operation, SessionLayer};
use kombu::{
    Connection, ConnectionBuilder, Consumer, Deadlines, Error, ErrorKind, Event, Events, Exchange,
    Faults, Queue, Result, RetryPolicy,
};
use tokio::time::{Instant, sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);

fn builder(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url(format!("memory://restoring-{name}"))
        .layer(faults.clone())
}

/// A connection to the same broker that no fault reaches.
async fn other(name: &str) -> Connection {
    kombu::connect(format!("memory://restoring-{name}"))
        .await
        .unwrap()
}

/// What is told until the next session is there.
async fn told_until_restored(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    loop {
        match events.next().await.unwrap() {
            Event::Restored { .. } => return told,
            event => told.push(event),
        }
    }
}

async fn until_retrying(events: &mut Events) {
    while !matches!(events.next().await, Some(Event::Retrying { .. })) {}
}

async fn next(consumer: &mut Consumer) -> u32 {
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let (value, delivery) = delivery.take::<u32>().unwrap();
    delivery.ack().await.unwrap();
    value
}

/// Answers requests after a while.
struct Slow(Duration);

impl Layer for Slow {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Slow(self.0))
    }
}

impl SessionLayer for Slow {
    fn control<'a>(
        &'a self,
        _: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            sleep(self.0).await;
            next.await
        })
    }
}

/// In later sessions, a broker that has no room for consumers the first times that it is asked.
struct Full {
    sessions: AtomicUsize,
    refusals: Arc<AtomicUsize>,
}

struct FullIn(Arc<AtomicUsize>);

impl Layer for Full {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        let is_first = self.sessions.fetch_add(1, Ordering::Relaxed) == 0;
        Arc::new(FullIn(match is_first {
            true => Arc::default(),
            false => self.refusals.clone(),
        }))
    }
}

impl SessionLayer for FullIn {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        let less = |left: usize| left.checked_sub(1);
        let is_refused = matches!(operation, Operation::OpenSubscription(..))
            && self
                .0
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok();
        match is_refused {
            true => Box::pin(async { Err(Error::new(ErrorKind::Backpressure, "it is full")) }),
            false => next,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_a_full_broker_refuses_after_a_lost_session_goes_on_when_there_is_room() {
    let faults = Faults::default();
    let refusals = Arc::new(AtomicUsize::new(20));
    let full = Full {
        sessions: AtomicUsize::new(0),
        refusals: refusals.clone(),
    };
    let connection = builder("full", &faults).layer(full).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    faults.cut();
    producer.publish(&1).routing_key("jobs").await.unwrap();
    assert_eq!(next(&mut consumer).await, 1);
    assert_eq!(refusals.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_topology_that_takes_longer_than_connecting_may_is_restored() {
    let faults = Faults::default();
    let slow = Slow(Duration::from_secs(2));
    let connection = builder("large", &faults).layer(slow).await.unwrap();
    for number in 0..500 {
        let queue = Queue::new(format!("q{number}"));
        connection.declare_queue(&queue).await.unwrap();
    }
    let mut events = connection.events();
    let begin = Instant::now();
    faults.cut();
    let told = timeout(HOUR, told_until_restored(&mut events)).await;
    assert!(
        matches!(told.unwrap()[..], [Event::Lost { .. }]),
        "it took more than one attempt"
    );
    // Asked for and declared: 2 s each, and many at a time.
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(10) && took < Duration::from_secs(60),
        "{took:?}"
    );
}

/// In the second session, the request with this number is never answered; pings are.
struct Unanswered {
    request: usize,
    sessions: AtomicUsize,
}

struct UnansweredIn {
    request: Option<usize>,
    requests: AtomicUsize,
}

impl Layer for Unanswered {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        let second = self.sessions.fetch_add(1, Ordering::Relaxed) == 1;
        Arc::new(UnansweredIn {
            request: second.then_some(self.request),
            requests: AtomicUsize::new(0),
        })
    }
}

impl SessionLayer for UnansweredIn {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        let is_ping = matches!(operation, Operation::Ping);
        if !is_ping && Some(self.requests.fetch_add(1, Ordering::Relaxed)) == self.request {
            return Box::pin(pending());
        }
        next
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_not_answered_is_closed_before_the_next_and_sends_nothing() {
    // The exclusive queue, the first producer, the second one.
    for request in 0..3 {
        let faults = Faults::default();
        let name = format!("unanswered-{request}");
        let unanswered = Unanswered {
            request,
            sessions: AtomicUsize::new(0),
        };
        let mut deadlines = Deadlines::default();
        deadlines.declare = Duration::from_secs(5);
        let builder = builder(&name, &faults).layer(unanswered);
        let connection = builder.deadlines(deadlines).await.unwrap();
        let mut events = connection.events();
        let queue = Queue::new("mine").exclusive(true);
        let mut consumer = connection.consumer(&queue).await.unwrap();
        let producer = || connection.producer(Exchange::default()).routing_key("mine");
        let (first, _second) = (producer().await.unwrap(), producer().await.unwrap());
        faults.lose_requests(1);
        let published = tokio::spawn(async move { first.publish(&1).await });
        let told = told_until_restored(&mut events).await;
        assert!(
            matches!(
                told[..],
                [
                    Event::Lost { .. },
                    Event::Retrying {
                        kind: ErrorKind::Timeout,
                        ..
                    }
                ]
            ),
            "{told:?}"
        );
        // The first session that the message was sent on is the last one.
        assert!(!published.await.unwrap().unwrap().resent);
        assert_eq!(next(&mut consumer).await, 1);
        assert!(
            consumer
                .receive(Duration::from_secs(60))
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_that_the_broker_still_gives_to_the_lost_session_is_waited_for() {
    let faults = Faults::default();
    let connection = builder("exclusive", &faults).await.unwrap();
    let mut events = connection.events();
    let queue = Queue::new("mine").exclusive(true);
    let mut consumer = connection.consumer(&queue).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    until_retrying(&mut events).await;
    // It looks so to us if the broker hasn't noticed yet that the old session is gone.
    let old = other("exclusive").await;
    old.declare_queue(&queue).await.unwrap();
    for _ in 0..5 {
        let event = events.next().await.unwrap();
        let Event::Retrying { kind, pause, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(kind, ErrorKind::ResourceLocked);
        assert!(pause < Duration::from_secs(4), "{pause:?}");
    }
    old.close().await.unwrap();
    let told = told_until_restored(&mut events).await;
    let mismatch = |event: &Event| matches!(event, Event::TopologyMismatch { .. });
    assert!(!told.iter().any(mismatch), "{told:?}");
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("mine").await.unwrap();
    assert_eq!(next(&mut consumer).await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_that_somebody_else_has_for_good_holds_up_the_others_for_a_while_only() {
    let faults = Faults::default();
    let connection = builder("taken", &faults).await.unwrap();
    let mut events = connection.events();
    let queue = Queue::new("mine").exclusive(true);
    connection.declare_queue(&queue).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    until_retrying(&mut events).await;
    let begin = Instant::now();
    let taker = other("taken").await;
    taker.declare_queue(&queue).await.unwrap();
    let told = told_until_restored(&mut events).await;
    assert!(
        matches!(told.last(), Some(Event::TopologyMismatch { .. })),
        "{told:?}"
    );
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(60) && took < Duration::from_secs(90),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_consumer_waits_until_the_broker_lets_go_of_the_one_of_the_lost_session() {
    let faults = Faults::default();
    let connection = builder("exclusive-consumer", &faults).await.unwrap();
    let mut events = connection.events();
    let queue = Queue::new("jobs");
    let consumer = connection.consumer(&queue).exclusive(true);
    let mut consumer = consumer.await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    until_retrying(&mut events).await;
    let old = other("exclusive-consumer").await;
    let held = old.consumer(&queue).exclusive(true).await.unwrap();
    told_until_restored(&mut events).await;
    let still_refused = consumer.receive(Duration::from_secs(20)).await;
    assert!(still_refused.unwrap().is_none());
    held.cancel().await.unwrap();
    let producer = old.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("jobs").await.unwrap();
    assert_eq!(next(&mut consumer).await, 1);

    // For good, it is somebody else's.
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    until_retrying(&mut events).await;
    let _taken = old.consumer(&queue).exclusive(true).await.unwrap();
    let begin = Instant::now();
    let error = consumer.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessRefused);
    assert!(begin.elapsed() < Duration::from_secs(90));
}

/// Every session but the first ends a moment after it has begun.
#[derive(Default)]
struct ShortLived(Arc<AtomicUsize>);

struct Lives(Option<Duration>);

impl Layer for ShortLived {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        let first = self.0.fetch_add(1, Ordering::Relaxed) == 0;
        let moment = Duration::from_millis(5);
        Arc::new(Lives((!first).then_some(moment)))
    }
}

impl SessionLayer for Lives {
    fn closed(&self) -> BoxFuture<'static, Error> {
        let lives = self.0;
        Box::pin(async move {
            match lives {
                Some(moment) => sleep(moment).await,
                None => pending().await,
            }
            Error::new(
                ErrorKind::ConnectionLost,
                "it ended a moment after it had begun",
            )
        })
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_end_as_soon_as_they_are_there_are_backed_off() {
    let faults = Faults::default();
    let sessions = Arc::new(AtomicUsize::new(0));
    let short_lived = ShortLived(sessions.clone());
    let builder = builder("short-lived", &faults).layer(short_lived);
    let _connection = builder.await.unwrap();
    faults.cut();
    sleep(Duration::from_secs(60)).await;
    let made = sessions.load(Ordering::Relaxed);
    assert!((5..20).contains(&made), "{made} sessions in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_lived_a_while_is_followed_without_a_pause() {
    let faults = Faults::default();
    let connection = builder("lived", &faults).await.unwrap();
    let mut events = connection.events();
    for _ in 0..5 {
        sleep(Duration::from_secs(10)).await;
        let begin = Instant::now();
        faults.cut();
        told_until_restored(&mut events).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}

/// The first attempt to connect is never answered.
#[derive(Default)]
struct BlackHole(AtomicBool);

impl Layer for BlackHole {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Lives(None))
    }

    fn before_connect(&self) -> BoxFuture<'_, Result<()>> {
        match self.0.swap(true, Ordering::Relaxed) {
            true => Box::pin(std::future::ready(Ok(()))),
            false => Box::pin(pending()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_that_never_answers_leaves_time_for_the_others_at_the_first_connect() {
    let begin = Instant::now();
    let faults = Faults::default();
    let connection = builder("black-hole", &faults)
        .url("memory://restoring-second")
        .layer(BlackHole::default());
    assert!(connection.await.unwrap().health().connected);
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
}

#[tokio::test]
async fn a_liveness_that_no_broker_can_keep_is_refused() {
    for liveness in [Duration::ZERO, Duration::from_nanos(1)] {
        let mut deadlines = Deadlines::default();
        deadlines.liveness = liveness;
        let builder = Connection::builder(kombu::registry()).url("memory://");
        let error = builder.deadlines(deadlines).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("liveness"), "{error}");
    }
    let mut deadlines = Deadlines::default();
    deadlines.liveness = Duration::MAX;
    let builder = Connection::builder(kombu::registry()).url("memory://");
    let connection = builder.deadlines(deadlines).await.unwrap();
    tokio::task::yield_now().await;
    connection.declare_queue(&Queue::new("q")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_ends_nothing() {
    let faults = Faults::default();
    let policy = RetryPolicy::default().on_retry(|_, _| panic!("the observer's"));
    let connection = builder("observer", &faults).retry(policy).await.unwrap();
    let mut events = connection.events();
    faults.refuse_connects([ErrorKind::ConnectionLost; 2]);
    faults.cut();
    told_until_restored(&mut events).await;
    connection.declare_queue(&Queue::new("q")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_next_broker_cannot_do_is_told_and_the_rest_is_restored() {
    let faults = Faults::default();
    let connection = builder("able", &faults)
        .url("memory://restoring-less-able?like=redis")
        .await
        .unwrap();
    let mut events = connection.events();
    let priorities = Queue::new("priorities").max_priority(20);
    connection.declare_queue(&priorities).await.unwrap();
    connection
        .declare_queue(&Queue::new("plain"))
        .await
        .unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    let told = timeout(HOUR, told_until_restored(&mut events))
        .await
        .unwrap();
    let mismatches: Vec<_> = told
        .iter()
        .filter(|event| matches!(event, Event::TopologyMismatch { .. }))
        .collect();
    assert_eq!(mismatches.len(), 1, "{told:?}");
    connection.queue_info("plain").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_block_ends_with_its_session() {
    let faults = Faults::default();
    let connection = builder("blocked", &faults).await.unwrap();
    let mut events = connection.events();
    faults.block("low on memory");
    assert!(matches!(events.next().await, Some(Event::Blocked { .. })));
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    assert!(matches!(events.next().await, Some(Event::Lost { .. })));
    assert_eq!(events.next().await, Some(Event::Unblocked));
    faults.unblock();
    let told = told_until_restored(&mut events).await;
    assert!(matches!(told[..], [Event::Retrying { .. }]), "{told:?}");
    assert_eq!(connection.health().blocked, None);
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_is_told_as_lost_before_it_is_closed() {
    let faults = Faults::default();
    let connection = builder("silent", &faults).await.unwrap();
    let mut events = connection.events();
    let begin = Instant::now();
    faults.silence(true);
    assert!(matches!(events.next().await, Some(Event::Lost { .. })));
    assert!(begin.elapsed() <= Duration::from_secs(10));
    assert!(!connection.health().connected);
}

/// Every attempt but the first takes a while.
#[derive(Default)]
struct SlowLater(AtomicBool);

impl Layer for SlowLater {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Lives(None))
    }

    fn before_connect(&self) -> BoxFuture<'_, Result<()>> {
        let later = self.0.swap(true, Ordering::Relaxed);
        Box::pin(async move {
            if later {
                sleep(Duration::from_secs(2)).await;
            }
            Ok(())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_while_it_comes_back_declares_nothing_any_more() {
    let faults = Faults::default();
    // Once while it connects, once while it declares.
    for closed_after in [1, 4] {
        let name = format!("closed-{closed_after}");
        let connection = builder(&name, &faults)
            .layer(SlowLater::default())
            .layer(Slow(Duration::from_secs(3)))
            .await
            .unwrap();
        for queue in ["first", "second"] {
            connection.declare_queue(&Queue::new(queue)).await.unwrap();
        }
        let other = other(&name).await;
        for queue in ["first", "second"] {
            other.delete_queue(queue).await.unwrap();
        }
        faults.cut();
        sleep(Duration::from_secs(closed_after)).await;
        connection.close().await.unwrap();
        sleep(Duration::from_secs(60)).await;
        for queue in ["first", "second"] {
            let missing = other.queue_info(queue).await.unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_end_with_their_connection() {
    let faults = Faults::default();
    let connection = builder("events", &faults).await.unwrap();
    let mut events = connection.events();
    connection.close().await.unwrap();
    assert_eq!(timeout(HOUR, events.next()).await, Ok(None));
    assert_eq!(timeout(HOUR, connection.events().next()).await, Ok(None));

    let policy = RetryPolicy::default().max_attempts(1);
    let connection = builder("events", &faults).retry(policy).await.unwrap();
    let mut events = connection.events();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    while !matches!(events.next().await, Some(Event::GivenUp { .. })) {}
    assert_eq!(timeout(HOUR, events.next()).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_somebody_deleted_under_a_consumer_is_not_declared_again() {
    let faults = Faults::default();
    let connection = builder("deleted", &faults).await.unwrap();
    let other = other("deleted").await;
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    other.delete_queue("jobs").await.unwrap();
    let error = consumer.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerCancelled);
    faults.cut();
    let told = told_until_restored(&mut events).await;
    assert!(
        matches!(
            told[..],
            [Event::ConsumerCancelled { .. }, Event::Lost { .. }]
        ),
        "{told:?}"
    );
    let missing = connection.queue_info("jobs").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

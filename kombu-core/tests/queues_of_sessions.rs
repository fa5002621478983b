//! Queues that belong to a session, or to its consumers, when the session is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kombu::{
    Connection, ConnectionBuilder, Consumer, DeclareMode, Error, ErrorKind, Event, Events,
    Exchange, Faults, Queue,
};
use kombu_core::driver::{self, BoxFuture, Layer, Operation, SessionLayer};

fn builder(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url(format!("memory://queues-of-sessions-{name}"))
        .layer(faults.clone())
}

/// Another connection to the same broker, which is never cut.
async fn other(name: &str) -> Connection {
    kombu::connect(&format!("memory://queues-of-sessions-{name}"))
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

async fn next(consumer: &mut Consumer) -> String {
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let text = String::from_utf8(delivery.body().to_vec()).unwrap();
    delivery.ack().await.unwrap();
    text
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_is_there_again_with_its_bindings() {
    let faults = Faults::default();
    let connection = builder("exclusive", &faults).await.unwrap();
    let other = other("exclusive").await;
    let mut events = connection.events();
    let news = Exchange::fanout("news");
    let answers = Queue::new("answers").exclusive(true).bind(&news, "");
    let mut consumer = connection.consumer(&answers).await.unwrap();
    let producer = other.producer(&news).await.unwrap();
    for round in 0..5 {
        producer.publish_text(round.to_string()).await.unwrap();
        assert_eq!(next(&mut consumer).await, round.to_string());
        faults.cut();
        until_restored(&mut events).await;
        // It belongs to the new session.
        let refused = other.get("answers").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceLocked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_named_queue_keeps_its_name() {
    let faults = Faults::default();
    let connection = builder("named", &faults).await.unwrap();
    let other = other("named").await;
    let mut events = connection.events();
    let answers = Queue::server_named().exclusive(true);
    let mut consumer = connection.consumer(&answers).await.unwrap();
    let name = consumer.queues()[0].clone();
    // Who was told the name before goes on using it.
    for round in ["0", "1", "2"] {
        faults.cut();
        until_restored(&mut events).await;
        assert_eq!(consumer.queues(), [name.as_str()]);
        publish(&other, &name, round).await;
        assert_eq!(next(&mut consumer).await, round);
    }
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_is_empty_after_its_session_was_lost() {
    let faults = Faults::default();
    let connection = builder("empty", &faults).await.unwrap();
    let mut events = connection.events();
    let answers = Queue::new("answers").exclusive(true);
    let declared = connection.declare_queue(&answers).await.unwrap();
    publish(&connection, &declared.name, "gone with it").await;
    faults.cut();
    until_restored(&mut events).await;
    assert_eq!(connection.queue_info("answers").await.unwrap().ready, 0);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_is_gone_while_its_connection_is_away() {
    let faults = Faults::default();
    let connection = builder("away", &faults).await.unwrap();
    let other = other("away").await;
    let mut events = connection.events();
    let answers = Queue::new("answers").exclusive(true);
    let mut consumer = connection.consumer(&answers).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost; 3]);
    faults.cut();
    while !matches!(events.next().await, Some(Event::Lost { .. })) {}
    let found = loop {
        match other.queue_info("answers").await {
            // Until the broker has noticed.
            Err(error) if error.kind() == ErrorKind::ResourceLocked => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            found => break found,
        }
    };
    assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound);
    until_restored(&mut events).await;
    publish(&other, "answers", "welcome back").await;
    assert_eq!(next(&mut consumer).await, "welcome back");
}

#[tokio::test(start_paused = true)]
async fn an_auto_delete_queue_and_its_exchange_are_there_again() {
    let faults = Faults::default();
    let connection = builder("auto-delete", &faults).await.unwrap();
    let other = other("auto-delete").await;
    let mut events = connection.events();
    let news = Exchange::fanout("news").auto_delete(true);
    let jobs = Queue::new("jobs").auto_delete(true).bind(&news, "");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    for round in 0..3 {
        faults.cut();
        until_restored(&mut events).await;
        let producer = other.producer(&news).await.unwrap();
        producer.publish_text(round.to_string()).await.unwrap();
        assert_eq!(next(&mut consumer).await, round.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_consumer_is_active_when_the_active_ones_session_is_lost() {
    let faults = Faults::default();
    let connection = builder("active", &faults).await.unwrap();
    let other = other("active").await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs").single_active_consumer(true);
    let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let mut waiting = other.consumer(&jobs).prefetch(1).await.unwrap();
    publish(&other, "jobs", "0").await;
    let held = active.try_next().await.unwrap().unwrap();
    faults.cut();
    until_restored(&mut events).await;
    let again = waiting.try_next().await.unwrap().unwrap();
    assert!(again.redelivered());
    again.ack().await.unwrap();
    assert_eq!(held.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    // The one that was active has come back as the last.
    publish(&other, "jobs", "1").await;
    assert!(active.receive(Duration::ZERO).await.unwrap().is_none());
    assert_eq!(next(&mut waiting).await, "1");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_expired_during_an_outage_is_declared_again() {
    let faults = Faults::default();
    let connection = builder("expired", &faults).await.unwrap();
    let other = other("expired").await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs").expires(Duration::from_millis(50));
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost; 5]);
    faults.cut();
    until_restored(&mut events).await;
    publish(&other, "jobs", "0").await;
    assert_eq!(next(&mut consumer).await, "0");
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_moved_by_whichever_session_is_there() {
    let faults = Faults::default();
    let connection = builder("dying", &faults).await.unwrap();
    let mut events = connection.events();
    let time_to_live = Duration::from_secs(1);
    let jobs = Queue::new("jobs").message_ttl(time_to_live);
    let jobs = jobs
        .dead_letter_exchange("")
        .dead_letter_routing_key("late");
    connection.declare_queue(&jobs).await.unwrap();
    let late = Queue::new("late");
    let mut late = connection.consumer(&late).await.unwrap();
    for round in ["0", "1", "2"] {
        publish(&connection, "jobs", round).await;
        faults.cut();
        until_restored(&mut events).await;
        assert_eq!(next(&mut late).await, round);
    }
}

/// Nobody would ever take what came to it.
#[tokio::test(start_paused = true)]
async fn a_queue_that_went_with_its_last_consumer_is_not_there_again() {
    let faults = Faults::default();
    let connection = builder("unconsumed", &faults).await.unwrap();
    let mut events = connection.events();
    let news = Queue::broadcast("news");
    let cancelled = connection.consumer(&news).await.unwrap();
    let dropped = connection.consumer(&news).await.unwrap();
    let mut left = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let added = left.add_queue(&news).await.unwrap();
    let gone = [
        cancelled.queues()[0].clone(),
        dropped.queues()[0].clone(),
        added.clone(),
    ];
    cancelled.cancel().await.unwrap();
    drop(dropped);
    left.cancel_queue(added).await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    for queue in gone {
        let found = connection.queue_info(&queue).await.unwrap_err();
        assert_eq!(found.kind(), ErrorKind::NotFound);
    }
}

/// Only the last one takes it along.
#[tokio::test(start_paused = true)]
async fn a_queue_with_another_consumer_is_there_again() {
    let faults = Faults::default();
    let connection = builder("another", &faults).await.unwrap();
    let mut events = connection.events();
    let answers = Queue::new("answers").exclusive(true);
    let one = connection.consumer(&answers).await.unwrap();
    let mut other = connection.consumer(&answers).await.unwrap();
    one.cancel().await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    publish(&connection, "answers", "still here").await;
    assert_eq!(next(&mut other).await, "still here");
}

async fn until_gone(connection: &Connection, queue: &str) {
    let gone = async {
        while connection.queue_info(queue).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone)
        .await
        .unwrap();
}

/// The broker has never had a consumer of it since: it would wait for one for ever, with a copy of everything.
#[tokio::test(start_paused = true)]
async fn a_queue_goes_with_a_consumer_that_has_not_come_back() {
    for (is_polled, is_dropped) in [(false, false), (false, true), (true, false), (true, true)] {
        let faults = Faults::default();
        let connection = builder("abandoned", &faults).await.unwrap();
        let mut events = connection.events();
        let jobs = Queue::new("jobs").auto_delete(true);
        let mut consumer = connection.consumer(&jobs).await.unwrap();
        faults.cut();
        if is_polled {
            // It has noticed, and waits for the next session.
            assert!(consumer.receive(Duration::ZERO).await.unwrap().is_none());
        }
        until_restored(&mut events).await;
        assert_eq!(connection.queue_info("jobs").await.unwrap().consumers, 0);
        match is_dropped {
            true => {
                drop(consumer);
                until_gone(&connection, "jobs").await;
            }
            // Whoever waited for the end waited for that, too.
            false => {
                consumer.cancel().await.unwrap();
                let gone = connection.queue_info("jobs").await.unwrap_err();
                assert_eq!(gone.kind(), ErrorKind::NotFound);
            }
        }
    }
}

/// It waits for the next session, where the queue is declared again before it is deleted.
#[tokio::test(start_paused = true)]
async fn a_queue_is_gone_when_its_consumer_was_cancelled_between_two_sessions() {
    let faults = Faults::default();
    let connection = builder("between", &faults).await.unwrap();
    let jobs = Queue::new("jobs").auto_delete(true);
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    consumer.add_queue(&Queue::new("more")).await.unwrap();
    faults.cut();
    consumer.cancel_queue("jobs").await.unwrap();
    let gone = connection.queue_info("jobs").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(connection.queue_info("more").await.unwrap().ready, 0);

    let consumer = connection.consumer(&jobs).await.unwrap();
    faults.outage(true);
    let cancelling = tokio::spawn(consumer.cancel());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!cancelling.is_finished());
    faults.outage(false);
    cancelling.await.unwrap().unwrap();
    let gone = connection.queue_info("jobs").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// What it waits for has an end.
#[tokio::test(start_paused = true)]
async fn a_cancel_without_a_connection_ends_by_its_deadline() {
    let faults = Faults::default();
    let connection = builder("never", &faults).await.unwrap();
    let jobs = Queue::new("jobs").auto_delete(true);
    let consumer = connection.consumer(&jobs).await.unwrap();
    let plain = connection.consumer(&Queue::new("plain")).await.unwrap();
    faults.outage(true);
    while connection.health().connected {
        tokio::task::yield_now().await;
    }
    let late = consumer.cancel().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    plain.cancel().await.unwrap();
    faults.outage(false);
    until_gone(&connection, "jobs").await;
}

/// Whoever consumes from it keeps it.
#[tokio::test(start_paused = true)]
async fn a_queue_stays_for_others_than_a_consumer_that_has_not_come_back() {
    let faults = Faults::default();
    let connection = builder("not-abandoned", &faults).await.unwrap();
    let other = other("not-abandoned").await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs").auto_delete(true);
    let consumer = connection.consumer(&jobs).await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    let mut others = other.consumer(&jobs).await.unwrap();
    drop(consumer);
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&other, "jobs", "still here").await;
    assert_eq!(next(&mut others).await, "still here");
}

/// Deletions take a second, and then the first ones fail.
#[derive(Clone)]
struct SlowDeletions {
    /// What they fail with.
    kinds: Arc<[ErrorKind]>,
    /// How many there were.
    count: Arc<AtomicUsize>,
    faults: Faults,
}

impl SlowDeletions {
    fn failing(kinds: impl IntoIterator<Item = ErrorKind>) -> Self {
        SlowDeletions {
            kinds: kinds.into_iter().collect(),
            count: Arc::default(),
            faults: Faults::default(),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until so many were asked for.
    async fn until(&self, count: usize) {
        while self.count() < count {
            tokio::task::yield_now().await;
        }
    }
}

impl Layer for SlowDeletions {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(self.clone())
    }
}

impl SessionLayer for SlowDeletions {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, kombu::Result<()>>,
    ) -> BoxFuture<'a, kombu::Result<()>> {
        if !matches!(operation, Operation::DeleteQueue(_)) {
            return next;
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            match self.kinds.get(number) {
                Some(kind) => {
                    if *kind == ErrorKind::ConnectionLost {
                        self.faults.cut();
                    }
                    Err(Error::new(*kind, "not now"))
                }
                None => next.await,
            }
        })
    }
}

/// An auto-delete queue whose only consumer was dropped while it had no session, on one where deletions are slow.
async fn abandoned(name: &str, deletions: &SlowDeletions) -> (Connection, Queue) {
    let builder = builder(name, &deletions.faults).layer(deletions.clone());
    let connection = builder.await.unwrap();
    let mut events = connection.events();
    let jobs = Queue::new("jobs").auto_delete(true);
    let consumer = connection.consumer(&jobs).await.unwrap();
    deletions.faults.cut();
    until_restored(&mut events).await;
    drop(consumer);
    deletions.until(1).await;
    (connection, jobs)
}

/// The broker is asked for both, the deletion first.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_declared_while_it_is_being_deleted_is_there_afterwards() {
    for consumed in [false, true] {
        let deletions = SlowDeletions::failing([]);
        let name = format!("declared-{consumed}");
        let (connection, jobs) = abandoned(&name, &deletions).await;
        let consumer = match consumed {
            true => Some(connection.consumer(&jobs).await.unwrap()),
            false => {
                connection.declare_queue(&jobs).await.unwrap();
                None
            }
        };
        tokio::time::sleep(Duration::from_secs(60)).await;
        publish(&connection, "jobs", "still here").await;
        if let Some(mut consumer) = consumer {
            assert_eq!(next(&mut consumer).await, "still here");
        }
        assert_eq!(deletions.count(), 1);
    }
}

/// It isn't there for its last consumer then, but for whoever declares it.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_being_declared_when_its_consumer_goes_stays() {
    let faults = Faults::default();
    let connection = builder("being-declared", &faults).await.unwrap();
    let mut events = connection.events();
    let jobs = Queue::new("jobs").auto_delete(true);
    let consumer = connection.consumer(&jobs).await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    faults.silence(true);
    let declarer = connection.clone();
    let declaring = tokio::spawn(async move { declarer.declare_queue(&jobs).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(consumer);
    // The deletion, if there is one, is on its way behind it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    faults.silence(false);
    declaring.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_deleted_when_the_broker_is_ready_for_it() {
    let kinds = [
        ErrorKind::Timeout,
        ErrorKind::Backpressure,
        ErrorKind::Unavailable,
    ];
    let deletions = SlowDeletions::failing(kinds);
    let (connection, _) = abandoned("later", &deletions).await;
    until_gone(&connection, "jobs").await;
    assert_eq!(deletions.count(), 4);
}

/// It is asked a few times, and not for ever.
#[tokio::test(start_paused = true)]
async fn a_queue_that_the_broker_never_deletes_is_left_alone() {
    for kind in [ErrorKind::ConnectionLost, ErrorKind::Unavailable] {
        let deletions = SlowDeletions::failing([kind; 100]);
        let (connection, jobs) = abandoned("never-deleted", &deletions).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let count = deletions.count();
        assert_eq!(count, 5, "{kind:?}");
        // It is anybody's again.
        connection.declare_queue(&jobs).await.unwrap();
    }
}

/// Whoever only looks whether it is there leaves that to those who declared it.
#[tokio::test(start_paused = true)]
async fn a_queue_that_others_declare_stays_without_its_consumer() {
    let faults = Faults::default();
    let connection = builder("others", &faults).await.unwrap();
    let other = other("others").await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs").auto_delete(true);
    other.declare_queue(&jobs).await.unwrap();
    let consumer = connection.consumer(&jobs).declare(DeclareMode::Verify);
    let consumer = consumer.await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    // It went with the lost session.
    other.declare_queue(&jobs).await.unwrap();
    drop(consumer);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(other.queue_info("jobs").await.unwrap().ready, 0);
}

/// The broker still has it, since no consumer took it along.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_could_not_be_opened_takes_no_queue_along() {
    let faults = Faults::default();
    let connection = builder("not-opened", &faults).await.unwrap();
    let other = other("not-opened").await;
    let mut events = connection.events();
    let news = Exchange::fanout("news");
    let jobs = Queue::new("jobs").auto_delete(true).bind(&news, "");
    connection.declare_queue(&jobs).await.unwrap();
    let _keeps_others_away = other.consumer(&jobs).exclusive(true).await.unwrap();
    let refused = connection.consumer(&jobs).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessRefused);
    let mut more = connection.consumer(&Queue::new("more")).await.unwrap();
    let refused = more.add_queue(&jobs).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AccessRefused);
    other.close().await.unwrap();
    faults.cut();
    until_restored(&mut events).await;
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

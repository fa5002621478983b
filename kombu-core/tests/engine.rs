//! Sessions that end and come back, seen by those who hold the handles.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::{IntoFuture, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use kombu::driver::{self, BoxFuture, Confirm, Layer, Op, Operation, Publisher, SessionLayer};
use kombu::{
    Binding, Connection, ConnectionBuilder, Consumer, DeclareMode, Entity, Error, ErrorKind, Event,
    Events, Exchange, Faults, Queue, RetryPolicy,
};
use kombu_core::message::Envelope;
use tokio::sync::Semaphore;

fn builder(name: &str, faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url(format!("memory://engine-{name}"))
        .layer(faults.clone())
}

async fn until_restored(events: &mut Events) {
    while !matches!(events.next().await, Some(Event::Restored { .. })) {}
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

async fn next(consumer: &mut Consumer) -> u32 {
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let (value, delivery) = delivery.take::<u32>().unwrap();
    delivery.ack().await.unwrap();
    value
}

#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_after_a_cut() {
    let faults = Faults::default();
    let connection = builder("consumer", &faults).await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for round in 0..20 {
        producer.publish(&round).routing_key("q").await.unwrap();
        assert_eq!(next(&mut consumer).await, round);
        faults.cut();
        until_restored(&mut events).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_of_a_lost_session_comes_again_and_its_old_handle_says_so() {
    let faults = Faults::default();
    let connection = builder("delivery", &faults).await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&7).routing_key("q").await.unwrap();
    let old = consumer.try_next().await.unwrap().unwrap();
    faults.cut();
    until_restored(&mut events).await;
    let again = consumer.try_next().await.unwrap().unwrap();
    assert!(again.redelivered());
    assert_eq!(old.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    again.ack().await.unwrap();
    let info = connection.queue_info("q").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_publish_during_an_outage_waits_for_the_next_session() {
    let faults = Faults::default();
    let connection = builder("outage", &faults).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost; 5]);
    faults.cut();
    let mut receipts = Vec::new();
    for number in 0..10u32 {
        let producer = producer.clone();
        receipts.push(tokio::spawn(async move { producer.publish(&number).await }));
        tokio::task::yield_now().await;
    }
    for receipt in receipts {
        let published = receipt.await.unwrap().unwrap();
        assert!(published.routed);
    }
    for number in 0..10 {
        assert_eq!(next(&mut consumer).await, number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_answered_as_resent_and_a_lost_request_is_stored_once() {
    let faults = Faults::default();
    let connection = builder("reply", &faults).await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.lose_replies(1);
    let published = producer.publish(&1).await.unwrap();
    assert!(published.resent);
    assert_eq!(connection.purge("q").await.unwrap(), 2);
    faults.lose_requests(1);
    producer.publish(&2).await.unwrap();
    assert_eq!(connection.purge("q").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_no_session_takes_ends_by_its_deadline_and_says_in_which_phase() {
    let faults = Faults::default();
    let connection = builder("deadline", &faults).await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.refuse_connects(vec![ErrorKind::ConnectionLost; 1000]);
    faults.cut();
    let begin = tokio::time::Instant::now();
    let error = producer.publish(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        error.to_string().contains("waiting for a connection"),
        "{error}"
    );
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_counts_as_lost_within_the_liveness_interval() {
    let faults = Faults::default();
    let connection = builder("silent", &faults).await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let begin = tokio::time::Instant::now();
    faults.silence(true);
    while !matches!(events.next().await, Some(Event::Lost { .. })) {}
    assert!(
        begin.elapsed() <= Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    faults.silence(false);
    until_restored(&mut events).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&3).routing_key("q").await.unwrap();
    assert_eq!(next(&mut consumer).await, 3);
}

#[tokio::test(start_paused = true)]
async fn wrong_credentials_fail_at_once_at_start_up_and_are_tried_slowly_later() {
    let faults = Faults::default();
    faults.refuse_connects([ErrorKind::Credentials]);
    let begin = tokio::time::Instant::now();
    let error = builder("credentials", &faults).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Credentials);
    assert_eq!(begin.elapsed(), Duration::ZERO);

    let seen = Arc::new(AtomicUsize::new(0));
    let pauses = seen.clone();
    let policy = RetryPolicy::default().on_retry(move |error, pause| {
        assert_eq!(error.kind(), ErrorKind::Credentials);
        assert!(pause >= Duration::from_millis(7500), "{pause:?}");
        pauses.fetch_add(1, Ordering::Relaxed);
    });
    let connection = builder("credentials", &faults).retry(policy).await.unwrap();
    let mut events = connection.events();
    faults.refuse_connects([ErrorKind::Credentials; 3]);
    faults.cut();
    until_restored(&mut events).await;
    assert_eq!(seen.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_given_up_when_the_policy_says_so_and_nothing_waits_any_more() {
    let faults = Faults::default();
    let connection = builder("given-up", &faults)
        .retry(RetryPolicy::default().max_attempts(3))
        .await
        .unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost; 3]);
    faults.cut();
    let publishing = tokio::spawn(async move { producer.publish(&1).await });
    while !matches!(events.next().await, Some(Event::GivenUp { .. })) {}
    let error = publishing.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("given up after 3 attempts"),
        "{error}"
    );
    assert!(consumer.next().await.unwrap().is_err());
    assert!(connection.queue_info("q").await.is_err());
    assert!(!connection.health().connected);
}

#[tokio::test(start_paused = true)]
async fn the_next_url_is_tried_when_one_fails() {
    let faults = Faults::default();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    let connection = builder("failover-first", &faults)
        .url("memory://engine-failover-second")
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let second = kombu::connect("memory://engine-failover-second")
        .await
        .unwrap();
    assert_eq!(second.queue_info("q").await.unwrap().ready, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_declared_is_declared_again_and_what_was_deleted_is_not() {
    let faults = Faults::default();
    let connection = builder("replay", &faults).await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let kept = Queue::new("kept").bind(&media, "a.#");
    connection.declare_queue(&kept).await.unwrap();
    connection
        .declare_queue(&Queue::new("deleted"))
        .await
        .unwrap();
    connection.delete_queue("deleted").await.unwrap();
    // The broker forgets everything.
    kombu::memory::remove("engine-replay");
    faults.cut();
    until_restored(&mut events).await;
    let producer = connection.producer(&media).await.unwrap();
    assert!(
        producer
            .publish(&1)
            .routing_key("a.b")
            .await
            .unwrap()
            .routed
    );
    assert_eq!(connection.queue_info("kept").await.unwrap().ready, 1);
    assert_eq!(
        connection.queue_info("deleted").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn what_had_gone_meanwhile_is_told_before_the_connection_is_restored() {
    let faults = Faults::default();
    let connection = builder("recreated", &faults).await.unwrap();
    let other = kombu::connect("memory://engine-recreated").await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let gone = Queue::new("gone").bind(&media, "a");
    connection.declare_queue(&gone).await.unwrap();
    let kept = Queue::new("kept").bind(&media, "b");
    connection.declare_queue(&kept).await.unwrap();

    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    while !matches!(events.next().await, Some(Event::Retrying { .. })) {}
    other.delete_queue("gone").await.unwrap();
    let recreated = |what, name: &str| Event::Recreated {
        what,
        name: name.into(),
    };
    assert_eq!(
        told_until_restored(&mut events).await,
        [recreated(Entity::Queue, "gone")]
    );

    kombu::memory::remove("engine-recreated");
    faults.cut();
    assert_eq!(
        told_until_restored(&mut events).await[1..],
        [
            recreated(Entity::Exchange, "media"),
            recreated(Entity::Queue, "gone"),
            recreated(Entity::Queue, "kept"),
        ]
    );

    faults.cut();
    assert!(matches!(
        told_until_restored(&mut events).await[..],
        [Event::Lost { .. }]
    ));
}

#[tokio::test(start_paused = true)]
async fn what_has_other_attributes_meanwhile_is_told_as_a_mismatch_and_not_as_recreated() {
    let faults = Faults::default();
    let connection = builder("mismatch", &faults).await.unwrap();
    let other = kombu::connect("memory://engine-mismatch").await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    connection.declare_exchange(&media).await.unwrap();
    faults.refuse_connects([ErrorKind::ConnectionLost]);
    faults.cut();
    while !matches!(events.next().await, Some(Event::Retrying { .. })) {}
    other.delete_exchange("media").await.unwrap();
    let changed = Exchange::fanout("media");
    other.declare_exchange(&changed).await.unwrap();
    assert!(matches!(
        told_until_restored(&mut events).await[..],
        [Event::TopologyMismatch { .. }]
    ));
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_its_connection_or_its_users_is_declared_again_without_a_word() {
    let faults = Faults::default();
    let connection = builder("not-missed", &faults).await.unwrap();
    let mut events = connection.events();
    let used = Exchange::topic("used").auto_delete(true);
    let queues = [
        Queue::new("exclusive").exclusive(true).bind(&used, "a"),
        Queue::new("auto-delete").auto_delete(true),
        Queue::new("expires").expires(Duration::from_secs(3600)),
    ];
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    kombu::memory::remove("engine-not-missed");
    faults.cut();
    assert!(matches!(
        told_until_restored(&mut events).await[..],
        [Event::Lost { .. }]
    ));
    for queue in &queues {
        connection.queue_info(queue.name()).await.unwrap();
    }
}

/// Loses the answer to the next declaration of a queue that may make it.
#[derive(Clone, Default)]
struct LoseDeclared(Arc<AtomicBool>);

impl Layer for LoseDeclared {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(self.clone())
    }
}

impl SessionLayer for LoseDeclared {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, kombu::Result<()>>,
    ) -> BoxFuture<'a, kombu::Result<()>> {
        let makes = matches!(operation, Operation::DeclareQueue(_, DeclareMode::Ensure));
        Box::pin(async move {
            next.await?;
            match makes && self.0.swap(false, Ordering::Relaxed) {
                true => Err(Error::new(ErrorKind::ConnectionLost, "the answer is lost")),
                false => Ok(()),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_made_anew_by_an_attempt_that_failed_is_told_once() {
    let faults = Faults::default();
    let lose = LoseDeclared::default();
    let builder = builder("recreated-lost", &faults).layer(lose.clone());
    let connection = builder.await.unwrap();
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    kombu::memory::remove("engine-recreated-lost");
    lose.0.store(true, Ordering::Relaxed);
    faults.cut();
    let told = told_until_restored(&mut events).await;
    assert!(
        matches!(
            told[..],
            [
                Event::Lost { .. },
                Event::Retrying { .. },
                Event::Recreated { .. }
            ]
        ),
        "{told:?}"
    );
}

/// Sends a request whose answer never comes, and gives up waiting for it.
async fn send_then_drop<T>(faults: &Faults, request: impl IntoFuture<Output = kombu::Result<T>>) {
    faults.withhold_replies(true);
    let answer = tokio::time::timeout(Duration::from_secs(1), request).await;
    assert!(answer.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_was_cancelled_is_not_undone_by_the_next_session() {
    let faults = Faults::default();
    let connection = builder("cancelled-deletion", &faults).await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let binding = Binding::new(&media, "b");
    let queue = Queue::new("q").bind(&media, "a").bind_with(binding.clone());
    connection.declare_queue(&queue).await.unwrap();
    connection.declare_queue(&Queue::new("gone")).await.unwrap();
    connection
        .declare_exchange(&Exchange::fanout("gone"))
        .await
        .unwrap();
    send_then_drop(&faults, connection.delete_queue("gone")).await;
    send_then_drop(&faults, connection.delete_exchange("gone")).await;
    send_then_drop(&faults, connection.unbind_queue("q", &binding)).await;
    faults.withhold_replies(false);
    faults.cut();
    assert!(matches!(
        told_until_restored(&mut events).await[..],
        [Event::Lost { .. }]
    ));

    let gone = connection.queue_info("gone").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let passive = Exchange::fanout("gone").passive();
    let gone = connection.declare_exchange(&passive).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    let producer = connection.producer(&media).await.unwrap();
    for (key, routed) in [("a", true), ("b", false)] {
        let published = producer.publish(&1).routing_key(key).await.unwrap();
        assert_eq!(published.routed, routed, "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_refused_to_delete_is_declared_again_in_its_place() {
    let faults = Faults::default();
    let connection = builder("refused-deletion", &faults).await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let queue = Queue::new("q").bind(&media, "a");
    let consumer = connection.consumer(&queue).await.unwrap();
    let last = Queue::new("last").bind(&media, "b");
    connection.declare_queue(&last).await.unwrap();
    let refused = [
        connection.delete_unused_exchange("media").await.err(),
        connection.delete_queue("q").if_unused().await.err(),
    ];
    for error in refused {
        assert_eq!(error.unwrap().kind(), ErrorKind::PreconditionFailed);
    }
    kombu::memory::remove("engine-refused-deletion");
    faults.cut();
    let told = told_until_restored(&mut events).await;
    // In the order in which they were declared: a binding comes behind both of its ends.
    let names: Vec<_> = told[1..]
        .iter()
        .map(|event| match event {
            Event::Recreated { name, .. } => name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["media", "q", "last"]);
    let producer = connection.producer(&media).await.unwrap();
    let published = producer.publish(&1).routing_key("a").await.unwrap();
    assert!(published.routed);
    drop(consumer);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_supervisor() {
    let faults = Faults::default();
    let connection = builder("dropped", &faults).await.unwrap();
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    drop(connection);
    while tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
        >= tasks
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delayed_publish_and_a_delayed_retry_come_when_they_are_due_and_not_before() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    let begin = tokio::time::Instant::now();
    let hour = Duration::from_secs(3600);
    producer.publish(&2).delay(hour).await.unwrap();
    producer.publish(&1).await.unwrap();
    assert_eq!(connection.queue_info("q").await.unwrap().ready, 1);
    assert_eq!(next(&mut consumer).await, 1);
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(begin.elapsed().as_secs(), 3600);
    assert_eq!(delivery.attempt(), 1);
    delivery.retry_after(hour).await.unwrap();
    producer.publish(&3).await.unwrap();
    assert_eq!(next(&mut consumer).await, 3);
    let again = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(begin.elapsed().as_secs(), 7200);
    assert_eq!((again.attempt(), again.redelivered()), (2, true));
    again.ack().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_only_verifies_makes_nothing_and_revives_nothing() {
    let faults = Faults::default();
    let owner = kombu::connect("memory://engine-verify").await.unwrap();
    let connection = builder("verify", &faults)
        .declare(DeclareMode::Verify)
        .await
        .unwrap();
    let queue = Queue::new("q");
    let error = connection.consumer(&queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        owner.queue_info("q").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    owner.declare_queue(&queue).await.unwrap();
    let unused = Queue::new("unused");
    owner.declare_queue(&unused).await.unwrap();
    connection
        .declare_queue(&unused.clone().passive())
        .await
        .unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&queue).await.unwrap();
    owner.delete_queue("q").await.unwrap();
    assert_eq!(
        consumer.next().await.unwrap().unwrap_err().kind(),
        ErrorKind::ConsumerCancelled
    );
    owner.delete_queue("unused").await.unwrap();
    faults.cut();
    let told = told_until_restored(&mut events).await;
    let [
        Event::ConsumerCancelled { .. },
        Event::Lost { .. },
        Event::TopologyMismatch { reason },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
    assert!(reason.contains("`unused`"), "{reason}");
    for queue in ["q", "unused"] {
        let missing = owner.queue_info(queue).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
    // One handle may differ from its connection, and one declaration from its handle.
    connection
        .consumer(&queue)
        .declare(DeclareMode::Ensure)
        .await
        .unwrap();
    connection
        .consumer(&Queue::new("missing").no_declare())
        .declare(DeclareMode::Ensure)
        .await
        .unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_deliveries_and_confirms_and_says_what_became_of_them() {
    let faults = Faults::default();
    let connection = builder("drain", &faults).await.unwrap();
    let queue = Queue::new("q");
    let mut consumer = connection.consumer(&queue).prefetch(10).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    for number in 0..5 {
        producer.publish(&number).await.unwrap();
    }
    let first = consumer.try_next().await.unwrap().unwrap();
    let second = consumer.try_next().await.unwrap().unwrap();
    faults.delay_publishes(Duration::from_secs(2));
    let late = producer.publish(&5).into_future();
    let handler = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        first.ack().await
    });
    let ends = tokio::spawn(async move { consumer.next().await.is_none() });
    let report = connection.drain(Duration::from_secs(10)).await.unwrap();
    assert!(ends.await.unwrap());
    handler.await.unwrap().unwrap();
    assert!(late.await.unwrap().routed);
    assert_eq!((report.settled, report.unsettled), (1, 1));
    assert_eq!((report.confirmed, report.unconfirmed), (1, 0));
    assert_eq!(
        second.ack().await.unwrap_err().kind(),
        ErrorKind::SettleLost
    );
    let other = kombu::connect("memory://engine-drain").await.unwrap();
    let info = other.queue_info("q").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (5, Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_with_the_last_delivery_whichever_thread_settles_it() {
    const GRACE: Duration = Duration::from_secs(3600);
    for _ in 0..200 {
        let connection = kombu::connect("memory://").await.unwrap();
        let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
        let producer = connection.producer(Exchange::default()).await.unwrap();
        let mut handlers = Vec::new();
        for number in 0..4 {
            producer.publish(&number).routing_key("q").await.unwrap();
            let delivery = consumer.try_next().await.unwrap().unwrap();
            handlers.push(tokio::spawn(async move {
                tokio::task::yield_now().await;
                delivery.ack().await.unwrap();
            }));
        }
        let drain = tokio::time::timeout(GRACE / 60, connection.drain(GRACE));
        let report = drain.await.expect("nobody told of the last one").unwrap();
        assert_eq!((report.unsettled, report.unconfirmed), (0, 0));
        for handler in handlers {
            handler.await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_message_whose_delivery_is_settled() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for number in 0..2 {
        producer.publish(&number).routing_key("q").await.unwrap();
    }
    let (kept, acker) = consumer.try_next().await.unwrap().unwrap().split();
    acker.ack().await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    let settled_later = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_kept, acker) = held.split();
        acker.ack().await.unwrap();
    });
    let begin = tokio::time::Instant::now();
    let report = connection.drain(Duration::from_secs(60)).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    assert_eq!((report.settled, report.unsettled), (1, 0));
    assert_eq!(kept.decode::<u32>().unwrap(), 0);
    settled_later.await.unwrap();
}

/// Publishes take a while to be sent, and a while to be confirmed, and only while somebody asks for that.
struct InTwoStages;

impl Layer for InTwoStages {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(InTwoStages)
    }
}

impl SessionLayer for InTwoStages {
    fn publisher(&self, next: Arc<dyn Publisher>) -> Arc<dyn Publisher> {
        Arc::new(Staged(next))
    }
}

struct Staged(Arc<dyn Publisher>);

impl Publisher for Staged {
    fn publish(&self, envelope: &Envelope) -> Op<kombu::Result<Confirm>> {
        let sent = self.0.publish(envelope);
        Op::pending(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            let confirm = sent.await?;
            Ok(Op::pending(async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                confirm.await
            }))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_confirms_while_deliveries_are_held_and_for_what_handlers_publish() {
    let faults = Faults::default();
    let staged = || builder("drain-both", &faults).layer(InTwoStages);
    for settles in [false, true] {
        let connection = staged().await.unwrap();
        let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
        let open = connection.producer(Exchange::default()).routing_key("q");
        let producer = open.await.unwrap();
        producer.publish(&1).await.unwrap();
        let held = consumer.try_next().await.unwrap().unwrap();
        // Handed over, and not asked for.
        let receipt = producer.publish(&2).into_future();
        let handler = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(8)).await;
            if settles {
                let published = producer.publish(&3).into_future();
                held.ack().await.unwrap();
                return Some(published.await);
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(held);
            None
        });
        let begin = tokio::time::Instant::now();
        let report = connection.drain(Duration::from_secs(20)).await.unwrap();
        let took = begin.elapsed().as_secs();
        assert_eq!(took, if settles { 14 } else { 20 });
        assert_eq!(report.unsettled, usize::from(!settles));
        assert_eq!(report.unconfirmed, 0);
        assert!(receipt.await.unwrap().routed);
        if let Some(published) = handler.await.unwrap() {
            assert!(published.unwrap().routed);
        }
        let other = kombu::connect("memory://engine-drain-both").await.unwrap();
        // The second one, and either the one that nobody settled or the handler's.
        assert_eq!(other.purge("q").await.unwrap(), 2);
    }
}

mod interceptors {
    use kombu::driver::{BoxFuture, Outcome};
    use kombu::{
        Binding, Connection, Content, Error, ErrorKind, Exchange, Interceptor, Name, Queue, Result,
    };
    use std::sync::{Arc, Mutex};

    /// Writes down what it sees, turns bodies around on both ways, and refuses what is marked.
    #[derive(Clone)]
    struct Mirror {
        name: &'static str,
        seen: Arc<Mutex<Vec<String>>>,
    }

    impl Mirror {
        fn note(&self, what: &str) {
            self.seen
                .lock()
                .unwrap()
                .push(format!("{} {what}", self.name));
        }
    }

    fn turned(content: &mut Content) {
        let body: Vec<u8> = content.body().iter().rev().copied().collect();
        content.set_body(body);
    }

    impl Interceptor for Mirror {
        fn on_publish<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
            self.note("publish");
            turned(content);
            Box::pin(async {
                tokio::task::yield_now().await;
                Ok(())
            })
        }

        fn on_delivery<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
            self.note("delivery");
            turned(content);
            let refused = content.headers().contains("refuse");
            Box::pin(async move {
                tokio::task::yield_now().await;
                if refused {
                    return Err(Error::new(ErrorKind::Undecodable, "marked"));
                }
                Ok(())
            })
        }

        fn on_settle(&self, queue: &Name, outcome: Outcome) -> Outcome {
            self.note(&format!("{outcome} {queue}"));
            outcome
        }
    }

    #[tokio::test]
    async fn they_see_and_change_messages_and_settles_in_order_also_of_what_is_dropped() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mirror = |name| Mirror {
            name,
            seen: seen.clone(),
        };
        let connection = Connection::builder(kombu::registry())
            .url("memory://")
            .intercept(mirror("all"))
            .await
            .unwrap();
        let dead = Exchange::fanout("dead");
        let lost = Queue::new("lost").bind_with(Binding::from(&dead));
        connection.declare_queue(&lost).await.unwrap();
        let queue = Queue::new("q").dead_letter_exchange(&dead);
        let mut consumer = connection
            .consumer(&queue)
            .intercept(mirror("mine"))
            .await
            .unwrap();
        let producer = connection
            .producer(Exchange::default())
            .routing_key("q")
            .await
            .unwrap();
        producer.publish_text("abc").await.unwrap();
        let delivery = consumer.try_next().await.unwrap().unwrap();
        // Turned around three times: once on the way in, twice on the way out.
        assert_eq!(delivery.decode::<&str>().unwrap(), "cba");
        delivery.ack().await.unwrap();
        producer
            .publish_text("gone")
            .header("refuse", 1)
            .await
            .unwrap();
        producer.publish_text("next").await.unwrap();
        let delivery = consumer.try_next().await.unwrap().unwrap();
        assert_eq!(delivery.decode::<&str>().unwrap(), "txen");
        drop(delivery);
        assert_eq!(
            *seen.lock().unwrap(),
            [
                "all publish",
                "all delivery",
                "mine delivery",
                "all ack q",
                "mine ack q",
                "all publish",
                "all publish",
                "all delivery",
                "all reject q",
                "mine reject q",
                "all delivery",
                "mine delivery",
                "all release q",
                "mine release q",
            ]
        );
        assert_eq!(connection.queue_info("lost").await.unwrap().ready, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_tells_that_it_was_lost() {
    let faults = Faults::default();
    let connection = builder("lost", &faults).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("q").await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    let still_ours = tokio::time::timeout(Duration::from_secs(60), delivery.lost()).await;
    assert!(still_ours.is_err());
    faults.cut();
    delivery.lost().await;
    assert_eq!(
        delivery.ack().await.unwrap_err().kind(),
        ErrorKind::SettleLost
    );
}

#[tokio::test(start_paused = true)]
async fn credentials_are_asked_for_at_each_attempt() {
    use kombu::Credentials;
    let faults = Faults::default();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let connection = builder("provider", &faults)
        .credentials(move || {
            let number = count.fetch_add(1, Ordering::Relaxed);
            async move { Ok(Credentials::new("user", format!("secret-{number}"))) }
        })
        .await
        .unwrap();
    let mut events = connection.events();
    for sessions in 2..5 {
        faults.cut();
        until_restored(&mut events).await;
        assert_eq!(asked.load(Ordering::Relaxed), sessions);
    }
    assert!(!format!("{connection:?}").contains("secret"));
    assert!(!format!("{:?}", Credentials::new("user", "secret")).contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_an_undecodable_delivery_is_the_consumers_to_say() {
    use kombu::UndecodablePolicy;
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("q");
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    for (policy, ready_after) in [
        (UndecodablePolicy::Reject, 0),
        (UndecodablePolicy::Release, 1),
        (UndecodablePolicy::Hold, 0),
    ] {
        let mut consumer = connection
            .consumer(&queue)
            .prefetch(5)
            .on_undecodable(policy)
            .await
            .unwrap();
        producer.publish_text("not a number").await.unwrap();
        let delivery = consumer.try_next().await.unwrap().unwrap();
        drop(delivery.take::<u32>().unwrap_err());
        if policy == UndecodablePolicy::Release {
            let again = consumer.try_next().await.unwrap().unwrap();
            assert!(again.redelivered());
            again.release().await.unwrap();
        }
        let info = connection.queue_info("q").await.unwrap();
        let held = u64::from(policy == UndecodablePolicy::Hold);
        assert_eq!(
            (info.ready, info.unsettled),
            (ready_after, Some(held)),
            "{policy:?}"
        );
        drop(consumer);
        connection.purge("q").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn publishes_wait_for_room_when_too_many_are_unconfirmed_and_end_with_backpressure() {
    let faults = Faults::default();
    let connection = builder("room", &faults).await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.delay_publishes(Duration::from_secs(12));
    let mut receipts = Vec::new();
    for number in 0..1024 {
        receipts.push(producer.publish(&number).into_future());
    }
    let begin = tokio::time::Instant::now();
    let published = producer.publish(&1024).await.unwrap();
    assert!(published.routed);
    // The first ones had to be confirmed before it could be sent.
    assert_eq!(begin.elapsed().as_secs(), 24);
    for receipt in receipts {
        receipt.await.unwrap();
    }
    faults.delay_publishes(Duration::from_secs(3600));
    let receipts: Vec<_> = (0..1024)
        .map(|number| producer.publish(&number).into_future())
        .collect();
    let error = producer.publish(&1024).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backpressure);
    drop(receipts);
}

/// Confirms what the test lets it, and counts the answers that it was asked for.
#[derive(Clone)]
struct Confirming {
    allowed: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
}

impl Layer for Confirming {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(self.clone())
    }
}

impl SessionLayer for Confirming {
    fn publisher(&self, next: Arc<dyn Publisher>) -> Arc<dyn Publisher> {
        Arc::new(ConfirmingPublisher(self.clone(), next))
    }
}

struct ConfirmingPublisher(Confirming, Arc<dyn Publisher>);

impl Publisher for ConfirmingPublisher {
    fn publish(&self, envelope: &Envelope) -> Op<kombu::Result<Confirm>> {
        let (confirming, sent) = (self.0.clone(), self.1.publish(envelope));
        Op::ready(Ok(Op::pending(async move {
            confirming.asked.fetch_add(1, Ordering::Relaxed);
            confirming.allowed.acquire().await.unwrap().forget();
            sent.await?.await
        })))
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_is_asked_for_an_answer_when_somebody_waits_for_it_or_for_its_room() {
    let confirming = Confirming {
        allowed: Arc::new(Semaphore::new(0)),
        asked: Arc::default(),
    };
    let asked = || confirming.asked.load(Ordering::Relaxed);
    let builder = builder("asked", &Faults::default()).layer(confirming.clone());
    let connection = builder.await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let open = connection.producer(Exchange::default()).routing_key("q");
    let producer = open.await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1024 {
        receipts.push(producer.publish(&number).send().await.unwrap());
    }
    assert_eq!(asked(), 0);

    // Nobody waits for the receipts, but for their room.
    let mut last = Box::pin(producer.publish(&1024).send());
    let polled = poll_fn(|context| Poll::Ready(last.as_mut().poll(context)));
    assert!(polled.await.is_pending());
    assert_eq!(asked(), 1);
    confirming.allowed.add_permits(1);
    receipts.push(last.await.unwrap());
    assert_eq!(asked(), 2);

    confirming.allowed.add_permits(1024);
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
    assert_eq!(asked(), 1025);
}

#[tokio::test(start_paused = true)]
async fn a_receive_of_no_length_takes_what_is_there_and_waits_for_nothing() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let begin = tokio::time::Instant::now();
    assert!(consumer.receive(Duration::ZERO).await.unwrap().is_none());
    producer.publish(&1).routing_key("q").await.unwrap();
    let delivery = consumer.receive(Duration::ZERO).await.unwrap().unwrap();
    delivery.ack().await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn verifying_asks_for_the_name_only() {
    let connection = kombu::connect("memory://").await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let limited = Queue::new("q").max_length(10);
    assert_eq!(
        connection.declare_queue(&limited).await.unwrap_err().kind(),
        ErrorKind::PreconditionFailed
    );
    let info = connection.declare_queue(&limited.passive()).await.unwrap();
    assert_eq!(info.name, "q");
}

#[tokio::test(start_paused = true)]
async fn a_refused_resend_does_not_say_that_the_message_is_not_there() {
    let faults = Faults::default();
    let connection = builder("refused-resend", &faults).await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.lose_replies(1);
    faults.nack_publishes(1);
    let error = producer.publish(&1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Nacked);
    assert!(error.may_have_been_stored());
    assert_eq!(connection.purge("q").await.unwrap(), 1);
    faults.nack_publishes(1);
    let error = producer.publish(&2).await.unwrap_err();
    assert!(!error.may_have_been_stored());
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_an_ended_session_still_sits_on_goes_to_the_next_one() {
    let faults = Faults::default();
    let connection = builder("sitting", &faults).await.unwrap();
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.delay_publishes(Duration::from_secs(25));
    let receipt = producer.publish(&1).into_future();
    faults.delay_publishes(Duration::ZERO);
    faults.silence(true);
    while !matches!(events.next().await, Some(Event::Lost { .. })) {}
    faults.silence(false);
    until_restored(&mut events).await;
    assert!(receipt.await.unwrap().resent);
    assert_eq!(connection.purge("q").await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_blocks_holds_back_publishes_and_nothing_else() {
    let faults = Faults::default();
    let connection = builder("blocked", &faults).await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    producer.publish(&1).await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();

    faults.block("low on memory");
    let reason = "low on memory".to_owned();
    assert_eq!(
        events.next().await,
        Some(Event::Blocked {
            reason: reason.clone()
        })
    );
    assert_eq!(connection.health().blocked, Some(reason));
    let refused = producer.publish(&2).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Backpressure);
    assert!(refused.to_string().contains("low on memory"), "{refused}");
    held.ack().confirmed().await.unwrap();
    connection
        .declare_queue(&Queue::new("other"))
        .await
        .unwrap();

    let waiting = tokio::spawn(producer.publish(&3).into_future());
    faults.unblock();
    assert_eq!(events.next().await, Some(Event::Unblocked));
    waiting.await.unwrap().unwrap();
    assert_eq!(connection.health().blocked, None);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_begins_while_the_broker_blocks_knows_it() {
    let faults = Faults::default();
    let connection = builder("still-blocked", &faults).await.unwrap();
    let mut events = connection.events();
    faults.block("the disk is full");
    assert!(matches!(events.next().await, Some(Event::Blocked { .. })));
    faults.cut();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(events.next().await.unwrap());
    }
    assert!(matches!(
        seen[..],
        [
            Event::Lost { .. },
            Event::Unblocked,
            Event::Restored { .. },
            Event::Blocked { .. }
        ]
    ));
    assert!(connection.health().blocked.is_some());
}

#[tokio::test(start_paused = true)]
async fn silence_holds_back_deliveries_and_settles_too() {
    let faults = Faults::default();
    let connection = builder("silence-both-ways", &faults).await.unwrap();
    let other = kombu::connect("memory://engine-silence-both-ways")
        .await
        .unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = other
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    producer.publish(&1).await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    faults.silence(true);
    producer.publish(&2).await.unwrap();
    let ack = held.ack();
    let while_silent = consumer.receive(Duration::from_secs(1)).await.unwrap();
    assert!(while_silent.is_none());
    let info = other.queue_info("q").await.unwrap();
    assert_ne!(info.unsettled, Some(0), "the ack went through: {info:?}");

    faults.silence(false);
    ack.confirmed().await.unwrap();
    assert_eq!(next(&mut consumer).await, 2);
    let info = other.queue_info("q").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn delayed_publishes_go_on_without_being_awaited_and_keep_their_order() {
    let faults = Faults::default();
    let connection = builder("delayed", &faults).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.delay_publishes(Duration::from_millis(400));
    let first = producer.publish(&1).into_future();
    faults.delay_publishes(Duration::ZERO);
    let second = producer.publish(&2).into_future();
    assert_eq!(next(&mut consumer).await, 1);
    assert_eq!(next(&mut consumer).await, 2);
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_publish_has_one_deadline_for_room_and_confirm_from_the_call() {
    let faults = Faults::default();
    let connection = builder("one-deadline", &faults).await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .await
        .unwrap();
    faults.delay_publishes(Duration::from_secs(20));
    let receipts: Vec<_> = (0..1024)
        .map(|number| producer.publish(&number).into_future())
        .collect();
    let begin = tokio::time::Instant::now();
    // 20 s for room, and 20 s for the confirm.
    let late = producer.publish(&1024).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert_eq!(begin.elapsed().as_secs(), 30);
    drop(receipts);

    // One that is awaited late ends no later.
    let other = connection.producer(Exchange::default()).routing_key("q");
    let other = other.await.unwrap();
    faults.silence(true);
    let waiting = other.publish(&1025).into_future();
    tokio::time::sleep(Duration::from_secs(31)).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

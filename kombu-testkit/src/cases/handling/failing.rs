//! Handlers that return errors, panic, or never return.

use std::time::{Duration, Instant};

use kombu_core::call::Failure;
use kombu_core::handler::{Attempt, Outcome, Payload, Retries, Router};
use kombu_core::{CallError, Connection, Exchange, Queue};

use super::{Running, caller_to, log, retries, soon, until, until_empty};
use crate::Broker;
use crate::cases::{fates, producer_to, publish};
use crate::expect::{drain, info};

/// A queue whose dead letters go to `dead`.
async fn with_dead_letters(connection: &Connection) -> Queue {
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let queue = Queue::new("jobs")
        .dead_letter_exchange(Exchange::default().name())
        .dead_letter_routing_key("dead");
    connection.declare_queue(&queue).await.unwrap();
    queue
}

async fn until_dead(connection: &Connection, count: u64) {
    until(async || info(connection, "dead").await.ready == count).await;
}

/// With pauses that grow; after the last try it is dead-lettered. Others are handled meanwhile.
pub async fn an_error_is_retried_and_then_dead_lettered(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = with_dead_letters(&connection).await;
    let (seen, mut log) = log();
    let handler = async move |Payload(text): Payload<String>, Attempt(attempt): Attempt| {
        seen.send((text.clone(), attempt, Instant::now())).unwrap();
        match text.as_str() {
            "bad" => Err("bad luck"),
            _ => Ok(()),
        }
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let _running = Running::start(serve.queues(&queue).retries(retries(2))).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish("bad").await.unwrap();
    jobs.publish("good").await.unwrap();
    let mut tries = Vec::new();
    let mut good = 0;
    while tries.len() < 3 || good < 1 {
        let (text, attempt, when) = soon(log.next()).await;
        match text.as_str() {
            "good" => good += 1,
            _ => tries.push((attempt, when)),
        }
    }
    let attempts: Vec<u32> = tries.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert!(tries[1].1 - tries[0].1 >= Duration::from_millis(45));
    assert!(tries[2].1 - tries[1].1 >= Duration::from_millis(90));
    until_dead(&connection, 1).await;
    let dead = drain(&connection, "dead").await;
    assert_eq!(dead[0].decode::<String>().unwrap(), "bad");
    assert_eq!(fates(&dead[0]), [("jobs", "rejected", 1)]);
    until_empty(&connection, "jobs").await;
    assert!(log.is_empty());
}

/// Another process goes on with the count.
pub async fn attempts_are_counted_over_all_processes(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = with_dead_letters(&connection).await;
    let (seen, mut log) = log();
    let router = || {
        let seen = seen.clone();
        Router::new().fallback(async move |Attempt(attempt): Attempt| {
            seen.send(attempt).unwrap();
            Err::<(), _>("bad luck")
        })
    };
    publish(&connection, "jobs", ["bad"]).await;
    for attempt in 1..=2 {
        let another = broker.connect().await;
        let serve = another.serve(router()).queues(&queue);
        let pause = Duration::from_millis(500);
        let retries = Retries::new(1).first_pause(pause).jitter(false);
        let running = Running::start(serve.retries(retries)).await;
        assert_eq!(soon(log.next()).await, attempt);
        running.stop().await;
        another.close().await.unwrap();
    }
    until_dead(&connection, 1).await;
    assert!(log.is_empty());
}

/// Nothing is lost: it is held until the component ends, and goes back then.
pub async fn without_a_dead_letter_exchange_it_is_held(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    let (seen, mut log) = log();
    let handler = async move |Payload(text): Payload<String>| {
        seen.send(text.clone()).unwrap();
        match text.as_str() {
            "bad" => Err("bad luck"),
            _ => Ok(()),
        }
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let running = Running::start(serve.queues(&queue).retries(Retries::none())).await;
    until(async || connection.queue_info("jobs").await.is_ok()).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish("bad").await.unwrap();
    assert_eq!(log.next().await, "bad");
    jobs.publish("good").await.unwrap();
    assert_eq!(log.next().await, "good");
    running.stop().await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
    assert!(log.is_empty());
}

/// As an error; the component goes on.
pub async fn a_panic_is_an_error(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = with_dead_letters(&connection).await;
    let handler = async |Payload(text): Payload<String>| match text.as_str() {
        "bad" => panic!("bad luck"),
        _ => "fine",
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let serve = serve.queues(&queue).retries(retries(1));
    let _running = Running::start(serve).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish("bad").await.unwrap();
    until_dead(&connection, 1).await;
    // A question is answered, without what the panic said, and isn't tried again.
    let caller = caller_to(&connection, "jobs").await;
    let failed = caller.call::<_, String>("bad").await.unwrap_err();
    assert!(
        matches!(failed, CallError::Transient { code: 500, .. }),
        "{failed:?}"
    );
    assert!(!failed.to_string().contains("luck"), "{failed}");
    until_dead(&connection, 2).await;
    assert_eq!(caller.call::<_, String>("good").await.unwrap(), "fine");
}

#[derive(Debug)]
struct OutOfStock;

impl std::fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("none left")
    }
}

impl std::error::Error for OutOfStock {}

/// That it failed, and nothing more; with its name and text where that is asked for.
pub async fn an_error_is_answered_and_told_where_that_is_wanted(broker: &Broker) {
    let connection = broker.connect().await;
    let fails = async || Err::<(), _>(OutOfStock);
    for (queue, tell) in [("closed", false), ("open", true)] {
        connection.declare_queue(&Queue::new(queue)).await.unwrap();
        let serve = connection.serve(Router::new().fallback(fails));
        let serve = serve.queues(&Queue::new(queue)).tell_errors(tell);
        let _running = Running::start(serve).await;
        let caller = caller_to(&connection, queue).await;
        let failed = caller.call::<_, ()>(&1).await.unwrap_err();
        match failed {
            CallError::Transient { message, .. } if !tell => assert!(!message.contains("left")),
            CallError::Application { name, message, .. } if tell => {
                assert_eq!(
                    (name.as_str(), message.as_str()),
                    ("OutOfStock", "none left")
                );
            }
            other => panic!("{other:?}"),
        }
        until_empty(&connection, queue).await;
    }
}

/// What the handler says is answered, and is an answer like others: it isn't tried again.
pub async fn a_failure_is_answered_as_it_is(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = with_dead_letters(&connection).await;
    let fails = async |Payload(code): Payload<u16>| match code {
        400.. => Err::<(), _>(Failure::critical(code, "no")),
        _ => Err(Failure::application("Odd", "a small number").payload(code)),
    };
    let _running = Running::serving(&connection, &queue, Router::new().fallback(fails)).await;
    let caller = caller_to(&connection, "jobs").await;
    let failed = caller.call::<_, ()>(&404).await.unwrap_err();
    assert!(
        matches!(failed, CallError::Critical { code: 404, .. }),
        "{failed:?}"
    );
    let CallError::Application { payload, .. } = caller.call::<_, ()>(&3).await.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(payload.unwrap().decode::<u16>().unwrap(), 3);
    until_empty(&connection, "jobs").await;
    // Without a question, a critical one is given up at once.
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish(&404).await.unwrap();
    until_dead(&connection, 1).await;
}

/// The broker does what it says.
pub async fn an_outcome_settles_the_delivery(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = with_dead_letters(&connection).await;
    let (seen, mut log) = log();
    let handler = async move |Payload(text): Payload<String>, Attempt(attempt): Attempt| {
        seen.send((text.clone(), attempt)).unwrap();
        match (text.as_str(), attempt) {
            ("reject", _) => Outcome::Reject,
            ("retry", 1) => Outcome::Retry,
            _ => Outcome::Ack,
        }
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let _running = Running::start(serve.queues(&queue).retries(retries(3))).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish("reject").await.unwrap();
    assert_eq!(log.next().await, ("reject".to_owned(), 1));
    until_dead(&connection, 1).await;
    jobs.publish("retry").await.unwrap();
    assert_eq!(log.next().await, ("retry".to_owned(), 1));
    assert_eq!(soon(log.next()).await, ("retry".to_owned(), 2));
    until_empty(&connection, "jobs").await;
}

/// Released for somebody else, as when a processor isn't ready for it: the message goes to another component.
pub async fn a_release_goes_to_somebody_else(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let (released, mut releases) = log();
    let not_ready = Router::new().fallback(async move || {
        released.send(()).unwrap();
        Outcome::Release
    });
    let one = Running::serving(&connection, &queue, not_ready).await;
    publish(&connection, "jobs", ["do it"]).await;
    releases.next().await;
    let (seen, mut log) = log();
    let ready = Router::new().fallback(async move |delivery: kombu_core::Delivery| {
        seen.send(delivery.redelivered()).unwrap();
        delivery.ack().await
    });
    let _other = Running::serving(&broker.connect().await, &queue, ready).await;
    assert!(log.next().await, "it was handed out before");
    one.stop().await;
    until_empty(&connection, "jobs").await;
}

/// It is cancelled, and the message comes again; the component goes on.
pub async fn a_handler_that_never_returns_is_cancelled(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let (seen, mut log) = log();
    struct Cancelled(tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for Cancelled {
        fn drop(&mut self) {
            self.0.send("cancelled").unwrap();
        }
    }
    let handler = async move |Attempt(attempt): Attempt| {
        if attempt == 1 {
            let _cancelled = Cancelled(seen.clone());
            std::future::pending::<()>().await;
        }
        seen.send("done").unwrap();
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let limit = Duration::from_millis(300);
    let _running = Running::start(serve.queues(&queue).max_processing_time(limit)).await;
    publish(&connection, "jobs", ["do it"]).await;
    assert_eq!(soon(log.next()).await, "cancelled");
    assert_eq!(soon(log.next()).await, "done");
    until_empty(&connection, "jobs").await;
}

/// All of them come again, also those that succeeded.
pub async fn one_of_several_handlers_that_fails_has_all_retried(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let (seen, mut log) = log();
    let other = seen.clone();
    let router = Router::new()
        .on("job", async move |Attempt(attempt): Attempt| {
            seen.send(attempt).unwrap();
            if attempt == 1 {
                Err("bad luck")
            } else {
                Ok(())
            }
        })
        .on("job", async move |Attempt(attempt): Attempt| {
            other.send(attempt).unwrap();
        });
    let serve = connection.serve(router).queues(&queue).retries(retries(1));
    let _running = Running::start(serve).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish(&()).kind("job").await.unwrap();
    let mut attempts = Vec::new();
    for _ in 0..4 {
        attempts.push(soon(log.next()).await);
    }
    assert_eq!(attempts, [1, 1, 2, 2]);
    until_empty(&connection, "jobs").await;
}

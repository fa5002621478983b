//! How a component ends.

use std::sync::Arc;
use std::time::Duration;

use kombu_core::handler::{Component, Exit, Outcome, Payload, Router};
use kombu_core::{Delivery, ErrorKind, Queue};
use tokio::sync::Notify;

use super::{Running, log, soon, until};
use crate::Broker;
use crate::cases::producer_to;
use crate::expect::{assert_refused, info};

/// What is being handled is finished and acked; the rest stays in the queue, and nothing is lost.
pub async fn a_component_that_is_stopped_finishes_what_it_handles(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    for number in 0..10 {
        producer.publish(&number).await.unwrap();
    }
    let (seen, mut log) = log();
    let go_on = Arc::new(Notify::new());
    let waiting = go_on.clone();
    let handler = async move |Payload(number): Payload<u32>| {
        seen.send(number).unwrap();
        waiting.notified().await;
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let mut running = Running::start(serve.queues(&queue).concurrency(2)).await;
    let mut begun = [log.next().await, log.next().await];
    begun.sort_unstable();
    assert_eq!(begun, [0, 1]);
    drop(running.stop.take());
    tokio::time::sleep(broker.lag() / 2).await;
    assert!(!running.task.is_finished());
    go_on.notify_waiters();
    assert_eq!(soon(running.ended()).await, Exit::Stopped);
    broker.assert_counts(&connection, "jobs", 8, 0).await;
    assert!(log.is_empty());
}

/// Who isn't done when the grace is over is cancelled, and the message goes back.
pub async fn a_handler_that_outlasts_the_grace_is_cancelled(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish(&1).await.unwrap();
    let (seen, mut log) = log();
    let handler = async move || {
        seen.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let serve = serve.queues(&queue).grace(Duration::from_millis(100));
    let running = Running::start(serve).await;
    log.next().await;
    running.stop().await;
    broker.assert_counts(&connection, "jobs", 1, 0).await;
}

/// The message is acked, and the component ends.
pub async fn a_handler_can_end_its_component(broker: &Broker) {
    let connection = broker.connect().await;
    for (kind, exit) in [("stop", Exit::Quit), ("again", Exit::Restart)] {
        let router = Router::new()
            .on("stop", async || Outcome::Quit)
            .on("again", async || Outcome::Restart);
        let mut running = Running::serving(&connection, &Queue::new("jobs"), router).await;
        let producer = producer_to(&connection, "jobs").await;
        producer.publish(&()).kind(kind).await.unwrap();
        assert_eq!(soon(running.ended()).await, exit);
        broker.assert_counts(&connection, "jobs", 0, 0).await;
    }
}

/// All processors of it, by a message to one.
pub async fn commands_end_a_component(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = [Queue::new("jobs"), Queue::new("orders")];
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    for (name, exit) in [("quit", Exit::Quit), ("restart", Exit::Restart)] {
        let serve = |queue| {
            let router = Router::new().on("command", async || {});
            connection.serve(router).queues(queue)
        };
        let component = Component::new()
            .with(serve(&queues[0]))
            .with(serve(&queues[1]));
        let component = tokio::spawn(component.run());
        let producer = producer_to(&connection, "orders").await;
        // Another one is no business of the component's.
        let other = producer
            .publish(&())
            .kind("command")
            .header("name", "other");
        other.await.unwrap();
        let command = producer.publish(&()).kind("command").header("name", name);
        command.await.unwrap();
        assert_eq!(soon(component).await.unwrap().unwrap(), exit);
        broker.assert_counts(&connection, "orders", 0, 0).await;
        until(async || info(&connection, "jobs").await.consumers == 0).await;
    }
}

/// Without a component, commands are messages like others.
pub async fn commands_are_obeyed_only_where_that_is_wanted(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let handler = async move || seen.send("handled").unwrap();
    let router = Router::new().on("command", handler);
    let running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let producer = producer_to(&connection, "jobs").await;
    let command = producer.publish(&()).kind("command").header("name", "quit");
    command.await.unwrap();
    assert_eq!(log.next().await, "handled");
    running.stop().await;
}

/// Closed or drained: handlers that run have their time when it is drained.
pub async fn a_component_ends_with_its_connection(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    let router = Router::new().fallback(async || {});
    let mut running = Running::serving(&connection, &queue, router).await;
    until(async || info(&connection, "jobs").await.consumers == 1).await;
    connection.close().await.unwrap();
    assert_eq!(soon(running.ended()).await, Exit::Closed);

    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let go_on = Arc::new(Notify::new());
    let waiting = go_on.clone();
    let handler = async move || {
        seen.send(()).unwrap();
        waiting.notified().await;
    };
    let router = Router::new().fallback(handler);
    let mut running = Running::serving(&connection, &queue, router).await;
    let producer = producer_to(&connection, "jobs").await;
    producer.publish(&1).await.unwrap();
    log.next().await;
    let draining = tokio::spawn({
        let connection = connection.clone();
        async move { connection.drain(super::PATIENCE).await }
    });
    go_on.notify_one();
    assert_eq!(soon(running.ended()).await, Exit::Closed);
    let report = soon(draining).await.unwrap().unwrap();
    assert_eq!((report.settled, report.unsettled), (1, 0));
}

/// What is wrong with a component is said before it takes anything.
pub async fn a_component_that_cannot_be_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let nothing = connection.serve(Router::new()).run().await;
    assert_refused(nothing, ErrorKind::Config, None);
    let router = Router::new()
        .on("job", async |delivery: Delivery| delivery.ack().await)
        .on("job", async || {});
    let serve = connection.serve(router).queues(&Queue::new("jobs"));
    let conflict = assert_refused(serve.run().await, ErrorKind::Config, None);
    assert!(conflict.to_string().contains("type `job`"), "{conflict}");
    let missing = connection
        .serve(Router::new())
        .queues(&Queue::new("jobs").passive());
    assert_refused(missing.run().await, ErrorKind::NotFound, 404);
}

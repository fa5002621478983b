//! Which handler a message goes to, and with what.

use kombu_core::handler::{Attempt, Headers, Payload, Router, State};
use kombu_core::{Message, Queue};
use tokio::sync::mpsc::UnboundedSender;

use super::{Running, log, until_empty};
use crate::Broker;
use crate::cases::producer_to;

/// By type and name, by type, by queue, by a condition, and what is left.
pub async fn the_closest_handler_gets_a_message(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let handler = |name: &'static str| {
        let seen = seen.clone();
        async move |Payload(number): Payload<u32>| seen.send((name, number)).unwrap()
    };
    let router = Router::new()
        .on_named("command", "ping", handler("named"))
        .on("command", handler("typed"))
        .queue("other", handler("queue"))
        .when(
            |message| message.priority() == Some(9),
            handler("condition"),
        )
        .fallback(handler("fallback"));
    let queues = [Queue::new("jobs"), Queue::new("other")];
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    let _running = Running::start(connection.serve(router).queues(&queues)).await;
    let jobs = producer_to(&connection, "jobs").await;
    let number = |number: &'static u32| jobs.publish(number);
    let ping = number(&1).kind("command").header("name", "ping");
    ping.await.unwrap();
    assert_eq!(log.next().await, ("named", 1));
    let pong = number(&2).kind("command").header("name", "pong");
    pong.await.unwrap();
    assert_eq!(log.next().await, ("typed", 2));
    number(&3).kind("command").priority(9).await.unwrap();
    assert_eq!(log.next().await, ("typed", 3));
    number(&4).routing_key("other").priority(9).await.unwrap();
    assert_eq!(log.next().await, ("queue", 4));
    number(&5).priority(9).await.unwrap();
    assert_eq!(log.next().await, ("condition", 5));
    number(&6).kind("status").await.unwrap();
    assert_eq!(log.next().await, ("fallback", 6));
    until_empty(&connection, "jobs").await;
    until_empty(&connection, "other").await;
}

/// What else says what a message is: here a header of its own.
pub async fn a_router_can_find_types_elsewhere(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let router = Router::new()
        .keyed_by(|message| (message.header("task").map(Into::into), None))
        .on("add", async move |Payload(numbers): Payload<Vec<i64>>| {
            seen.send(numbers).unwrap()
        });
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish(&[1, 2]).header("task", "add").await.unwrap();
    assert_eq!(log.next().await, [1, 2]);
}

/// Each has its own copy, and all of them run, in the order in which they were added.
pub async fn several_handlers_each_get_a_copy(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let changing = |number: i64| {
        let seen = seen.clone();
        async move |Payload(mut numbers): Payload<Vec<i64>>| {
            numbers.push(number);
            seen.send(numbers).unwrap();
        }
    };
    let router = Router::new()
        .on("job", changing(2))
        .on("job", changing(3))
        .on("job", changing(4));
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish(&[1]).kind("job").await.unwrap();
    for number in 2..=4 {
        assert_eq!(log.next().await, [1, number]);
    }
    until_empty(&connection, "jobs").await;
    assert!(log.is_empty());
}

/// Body, headers, properties, attempt and state.
pub async fn a_handler_gets_what_it_asks_for(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log::<(String, u32)>();

    async fn handle(
        State(seen): State<UnboundedSender<(String, u32)>>,
        Headers(headers): Headers,
        message: Message,
        Attempt(attempt): Attempt,
        Payload(text): Payload<String>,
    ) {
        let tenant = headers.get("tenant").unwrap().as_i64().unwrap();
        let app = message.app_id().unwrap();
        seen.send((format!("{text} {tenant} {app}"), attempt))
            .unwrap();
    }

    let router = Router::new().fallback(handle).with_state(seen);
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let jobs = producer_to(&connection, "jobs").await;
    let job = jobs.publish("hello").header("tenant", 7).app_id("shop");
    job.await.unwrap();
    assert_eq!(log.next().await, ("hello 7 shop".to_owned(), 1));
}

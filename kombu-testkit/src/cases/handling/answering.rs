//! What a handler returns is the answer, if there was a question.

use std::future::IntoFuture;
use std::sync::Arc;

use kombu_core::call::{Failure, Responder};
use kombu_core::handler::{Outcome, Payload, Reply, Router};
use kombu_core::{CallError, Queue};
use tokio::sync::Notify;

use super::{Running, caller_to, log, soon, until_empty};
use crate::Broker;
use crate::cases::{producer_to, publish};

/// The same handler for both: who asks is answered, who tells isn't.
pub async fn a_question_is_answered_and_a_message_is_not(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let double = async move |Payload(number): Payload<i64>| {
        seen.send(number).unwrap();
        Reply(number * 2)
    };
    let router = Router::new().fallback(double);
    let _running = Running::serving(&connection, &Queue::new("doubles"), router).await;
    let caller = caller_to(&connection, "doubles").await;
    assert_eq!(caller.call::<_, i64>(&21).await.unwrap(), 42);
    assert_eq!(log.next().await, 21);
    let doubles = producer_to(&connection, "doubles").await;
    doubles.publish(&5).await.unwrap();
    assert_eq!(log.next().await, 5);
    until_empty(&connection, "doubles").await;
}

/// Who asks and gets nothing gets null.
pub async fn a_handler_that_returns_nothing_answers_null(broker: &Broker) {
    let connection = broker.connect().await;
    let router = Router::new().fallback(async || {});
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let caller = caller_to(&connection, "jobs").await;
    assert_eq!(caller.call::<_, Option<i64>>(&1).await.unwrap(), None);
}

/// The answer is there while the handler still cleans up.
pub async fn an_early_answer_comes_before_the_handler_ends(broker: &Broker) {
    let connection = broker.connect().await;
    let answered = Arc::new(Notify::new());
    let (seen, mut log) = log();
    let cleaning = answered.clone();
    let handler = async move |responder: Responder| {
        responder.reply("early").await?;
        cleaning.notified().await;
        seen.send("cleaned up").unwrap();
        kombu_core::Result::Ok(())
    };
    let router = Router::new().fallback(handler);
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let caller = caller_to(&connection, "jobs").await;
    assert_eq!(caller.call::<_, String>(&1).await.unwrap(), "early");
    assert!(log.is_empty());
    answered.notify_one();
    assert_eq!(log.next().await, "cleaned up");
    until_empty(&connection, "jobs").await;
}

/// A handler that takes over the answering, and doesn't, is asked in vain; one that fails before it has answered is
/// answered for.
pub async fn a_handler_that_fails_before_its_early_answer_is_answered_for(broker: &Broker) {
    let connection = broker.connect().await;
    let handler = async |_: Responder| Err::<(), _>(Failure::critical(409, "not now"));
    let router = Router::new().fallback(handler);
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let caller = caller_to(&connection, "jobs").await;
    let failed = caller.call::<_, i64>(&1).await.unwrap_err();
    assert!(
        matches!(failed, CallError::Critical { code: 409, .. }),
        "{failed:?}"
    );
}

/// Both run; the one that was added last answers.
pub async fn of_two_handlers_for_a_question_the_last_one_answers(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let handler = |name: &'static str| {
        let seen = seen.clone();
        async move || {
            seen.send(name).unwrap();
            name
        }
    };
    let router = Router::new()
        .on("who", handler("first"))
        .on("who", handler("last"));
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let caller = caller_to(&connection, "jobs").await;
    for _ in 0..2 {
        let answer = caller.call::<_, String>(&()).kind("who").await.unwrap();
        assert_eq!(answer, "last");
        let mut names = [log.next().await, log.next().await];
        names.sort_unstable();
        assert_eq!(names, ["first", "last"]);
    }
}

/// The message goes to another one, or comes again: nobody is answered for now.
pub async fn an_outcome_other_than_done_answers_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let (seen, mut log) = log();
    let handler = async move |again: kombu_core::handler::Attempt| {
        seen.send(again.0).unwrap();
        match again.0 {
            1 => Outcome::RetryAfter(std::time::Duration::from_millis(50)),
            _ => Outcome::Ack,
        }
    };
    let router = Router::new().fallback(handler);
    let _running = Running::serving(&connection, &Queue::new("jobs"), router).await;
    let caller = caller_to(&connection, "jobs").await;
    soon(caller.call::<_, ()>(&1).into_future()).await.unwrap();
    assert_eq!((log.next().await, log.next().await), (1, 2));
}

/// Many at once, each in its own task.
pub async fn questions_are_answered_side_by_side(broker: &Broker) {
    let connection = broker.connect().await;
    let all_here = Arc::new(tokio::sync::Barrier::new(4));
    let handler = async move |Payload(number): Payload<i64>| {
        all_here.wait().await;
        number
    };
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let serve = connection.serve(Router::new().fallback(handler));
    let _running = Running::start(serve.queues(&queue).concurrency(4)).await;
    let caller = caller_to(&connection, "jobs").await;
    let calls = (0..8).map(|number: i64| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call::<_, i64>(&number).await })
    });
    for (number, call) in (0..).zip(calls.collect::<Vec<_>>()) {
        assert_eq!(call.await.unwrap().unwrap(), number);
    }
    publish(&connection, "jobs", Vec::<String>::new()).await;
}

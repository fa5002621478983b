//! Questions whose answers are fetched later, from a queue of their own.

use std::time::Duration;

use kombu_core::driver::{Feature, Support};
use kombu_core::{CallError, Exchange, Queue};

use super::{PATIENCE, caller_to, serve, until_ready, value};
use crate::Broker;
use crate::expect::collect_one;

/// The queue is there at once, and the answer waits in it.
pub async fn the_answer_waits_in_the_queue_that_was_handed_out(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = serve(&connection, &Queue::new("questions"), |question| {
        question.reply(&42)
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let mut asked = caller.call::<_, i64>("what?").ask().await.unwrap();
    until_ready(&connection, asked.queue(), 1).await;
    assert_eq!(value(asked.answer(PATIENCE).await), 42);
    let late = asked.answer(Duration::from_millis(50)).await;
    assert!(matches!(late, Err(CallError::Timeout { .. })), "{late:?}");
}

/// Several results, of several servers.
pub async fn several_answers_are_fetched(broker: &Broker) {
    let connection = broker.connect().await;
    let everybody = Exchange::fanout("everybody");
    let mut servers = Vec::new();
    for name in ["left", "right"] {
        let queue = Queue::new(name).bind(&everybody, "");
        servers.push(serve(&connection, &queue, move |question| question.reply(name)).await);
    }
    let caller = connection.caller(&everybody).await.unwrap();
    let mut asked = caller.call::<_, String>("who?").ask().await.unwrap();
    let answers = value(asked.gather(2, PATIENCE).await);
    let mut names: Vec<String> = answers.into_iter().map(value).collect();
    names.sort();
    assert_eq!(names, ["left", "right"]);
}

/// Since the queue is the question's own, an answer without a correlation id is one, too.
pub async fn an_answer_needs_no_correlation_id(broker: &Broker) {
    let connection = broker.connect().await;
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let caller = caller_to(&connection, "questions").await;
    let mut asked = caller.call::<_, i64>("what?").ask().await.unwrap();
    let question = collect_one(&mut questions).await;
    assert_eq!(question.reply_to(), Some(asked.queue().as_str()));
    let answers = connection.producer(Exchange::default()).await.unwrap();
    answers
        .publish(&42)
        .routing_key(asked.queue())
        .await
        .unwrap();
    question.ack().await.unwrap();
    assert_eq!(value(asked.answer(PATIENCE).await), 42);
}

/// Its queue goes with it, or when it is closed where queues don't go by themselves.
pub async fn the_queue_goes_when_it_is_dropped(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = serve(&connection, &Queue::new("questions"), |question| {
        question.reply(&42)
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let mut asked = caller.call::<_, i64>("what?").ask().await.unwrap();
    assert_eq!(value(asked.answer(PATIENCE).await), 42);
    let queue = asked.queue().clone();
    match connection.capabilities().support(Feature::AutoDelete) {
        Support::Unsupported => asked.close().await.unwrap(),
        _ => drop(asked),
    }
    let begin = std::time::Instant::now();
    while connection.queue_info(&queue).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "the queue is still there");
        tokio::task::yield_now().await;
    }
}

/// There is no queue for the question: nothing is handed out.
pub async fn a_question_without_a_queue_is_unroutable(broker: &Broker) {
    let connection = broker.connect().await;
    let caller = caller_to(&connection, "nowhere").await;
    let failed = caller.call::<_, i64>("what?").ask().await;
    assert!(
        matches!(failed, Err(CallError::Unroutable(_))),
        "{failed:?}"
    );
}

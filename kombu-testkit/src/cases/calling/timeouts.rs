//! Nobody answers, or not in time.

use std::time::Duration;

use kombu_core::{CallError, ErrorKind, Exchange, Queue};
use tokio::time::Instant;

use super::{PATIENCE, caller_to, serve, until_ready, value};
use crate::Broker;
use crate::expect::{collect_one, drain};

/// Once, and four times more, with one message id; each attempt has its time.
pub async fn a_question_that_nobody_answers_is_sent_five_times(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("unserved");
    connection.declare_queue(&queue).await.unwrap();
    let caller = connection.caller(Exchange::default());
    let timeout = Duration::from_millis(500);
    let caller = caller
        .routing_key("unserved")
        .timeout(timeout)
        .await
        .unwrap();
    let begin = Instant::now();
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    assert!(
        matches!(failed, CallError::Timeout { attempts: 5 }),
        "{failed:?}"
    );
    assert!(failed.is_retryable());
    assert!(begin.elapsed() >= timeout * 5);
    broker.assert_counts(&connection, "unserved", 5, 0).await;
    let questions = drain(&connection, "unserved").await;
    let first = questions[0].message_id().unwrap();
    assert!(
        questions
            .iter()
            .all(|again| again.message_id() == Some(first))
    );
}

/// The call's own settings are before the caller's.
pub async fn a_call_says_how_often_it_is_sent(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_queue(&Queue::new("unserved"))
        .await
        .unwrap();
    let caller = caller_to(&connection, "unserved").await;
    let call = caller.call::<_, i64>("what?").max_retries(1);
    let failed = call.timeout(Duration::from_millis(50)).await.unwrap_err();
    assert!(
        matches!(failed, CallError::Timeout { attempts: 2 }),
        "{failed:?}"
    );
    broker.assert_counts(&connection, "unserved", 2, 0).await;
}

/// The server answers the second one, and the first one a little later.
pub async fn a_repeat_is_answered(broker: &Broker) {
    let connection = broker.connect().await;
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let server = tokio::spawn(async move {
        let first = collect_one(&mut questions).await;
        let second = collect_one(&mut questions).await;
        assert_eq!(first.message_id(), second.message_id());
        for question in [second, first] {
            question.reply(&42).await.unwrap();
            question.ack().await.unwrap();
        }
    });
    let caller = caller_to(&connection, "questions").await;
    let call = caller.call::<_, i64>("what?").max_retries(1);
    assert_eq!(value(call.timeout(Duration::from_secs(1)).await), 42);
    server.await.unwrap();
}

/// There is no queue for it: that isn't waited for.
pub async fn a_question_without_a_queue_is_unroutable(broker: &Broker) {
    let connection = broker.connect().await;
    let caller = caller_to(&connection, "nowhere").await;
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    let CallError::Unroutable(error) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unroutable, Some(312))
    );
    // Nobody listens to the exchange, where a publish would be fine.
    let everybody = Exchange::fanout("everybody");
    let caller = connection
        .caller(&everybody)
        .timeout(PATIENCE)
        .await
        .unwrap();
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    assert!(matches!(failed, CallError::Unroutable(_)), "{failed:?}");
}

/// Where that is asked for, a queue without a consumer isn't waited for.
pub async fn a_queue_that_nobody_serves_is_told_at_once(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("questions");
    connection.declare_queue(&queue).await.unwrap();
    let caller = caller_to(&connection, "questions").await;
    let call = || caller.call::<_, i64>("what?").needs_responder(true);
    let failed = call().await.unwrap_err();
    assert!(
        matches!(&failed, CallError::NoResponder { queue } if queue == "questions"),
        "{failed:?}"
    );
    broker.assert_counts(&connection, "questions", 0, 0).await;
    let failed = call().routing_key("nowhere").await.unwrap_err();
    assert!(matches!(failed, CallError::Unroutable(_)), "{failed:?}");
    let _server = serve(&connection, &queue, |question| question.reply(&42)).await;
    assert_eq!(value(call().await), 42);
}

/// Without a timeout, the answer may take as long as it likes.
pub async fn a_call_without_a_timeout_waits(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("questions");
    connection.declare_queue(&queue).await.unwrap();
    let caller = caller_to(&connection, "questions").await;
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").timeout(None).await });
    until_ready(&connection, "questions", 1).await;
    let _server = serve(&connection, &queue, |question| question.reply(&42)).await;
    assert_eq!(value(call.await.unwrap()), 42);
}

/// What was asked stays asked; its answer disturbs nobody.
pub async fn a_call_that_is_dropped_leaves_nothing(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("questions");
    connection.declare_queue(&queue).await.unwrap();
    let caller = caller_to(&connection, "questions").await;
    let call = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call::<_, i64>(&1).await }
    });
    until_ready(&connection, "questions", 1).await;
    call.abort();
    call.await.unwrap_err();
    let _server = serve(&connection, &queue, |question| {
        question.reply(&question.decode::<i64>().unwrap())
    })
    .await;
    assert_eq!(value(caller.call::<_, i64>(&2).await), 2);
}

/// The connection was closed: nobody will answer.
pub async fn a_call_ends_with_its_connection(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_queue(&Queue::new("unserved"))
        .await
        .unwrap();
    let caller = caller_to(&connection, "unserved").await;
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").timeout(None).await });
    until_ready(&connection, "unserved", 1).await;
    connection.close().await.unwrap();
    let failed = call.await.unwrap().unwrap_err();
    let CallError::Transport(error) = failed else {
        panic!("{failed:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Closed);
}

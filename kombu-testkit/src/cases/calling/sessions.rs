//! Connections that are lost while a question is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kombu_core::handler::Router;
use kombu_core::layers::Faults;
use kombu_core::{CallError, Event, Queue};

use super::{caller_to, serve, value};
use crate::Broker;
use crate::cases::handling::{Running, log, until_empty};
use crate::expect::collect_one;

/// The one who asks is cut off after the question: it asks again, with the same message id, and is answered.
pub async fn a_call_goes_on_after_a_lost_connection(broker: &Broker) {
    let faults = Faults::default();
    let here = broker.connection().layer(faults.clone()).await.unwrap();
    let there = broker.connect().await;
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let caller = caller_to(&here, "questions").await;
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").max_retries(4).await });
    let first = collect_one(&mut questions).await;
    let mut events = here.events();
    faults.cut();
    while !matches!(events.next().await, Some(Event::Restored { .. }) | None) {}
    let second = collect_one(&mut questions).await;
    assert_eq!(second.message_id(), first.message_id());
    second.reply(&42).await.unwrap();
    second.ack().await.unwrap();
    first.ack().await.unwrap();
    assert_eq!(value(call.await.unwrap()), 42);
}

/// Later calls of the same caller are answered as before.
pub async fn a_caller_goes_on_after_a_lost_connection(broker: &Broker) {
    let faults = Faults::default();
    let here = broker.connection().layer(faults.clone()).await.unwrap();
    let there = broker.connect().await;
    let _server = serve(&there, &Queue::new("questions"), |question| {
        question.reply(&42)
    })
    .await;
    let caller = caller_to(&here, "questions").await;
    // An answer that was on its way when the connection was cut is gone.
    let call = || caller.call::<_, i64>("what?").max_retries(4);
    for _ in 0..3 {
        assert_eq!(value(call().await), 42);
        faults.cut();
    }
    assert_eq!(value(call().await), 42);
}

/// Without retries it isn't asked twice: a call that would wait for ever ends.
pub async fn a_call_without_retries_or_timeout_ends_with_its_session(broker: &Broker) {
    let faults = Faults::default();
    let here = broker.connection().layer(faults.clone()).await.unwrap();
    let there = broker.connect().await;
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let caller = caller_to(&here, "questions").await;
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").timeout(None).await });
    let first = collect_one(&mut questions).await;
    // Until the broker's confirm is there, the question would be sent again by itself.
    tokio::time::sleep(broker.lag()).await;
    faults.cut();
    let failed = call.await.unwrap().unwrap_err();
    assert!(matches!(failed, CallError::Transport(_)), "{failed:?}");
    assert!(failed.is_retryable());
    first.ack().await.unwrap();
    broker.assert_silent(&mut questions).await;
}

/// Cut off between question and answer it couldn't settle the question: it is asked again, and whoever asked is answered.
pub async fn a_server_that_is_cut_off_mid_call_answers(broker: &Broker) {
    let faults = Faults::default();
    let here = broker.connect().await;
    let there = broker.connection().layer(faults.clone()).await.unwrap();
    let (seen, mut log) = log();
    let was_cut = Arc::new(AtomicBool::new(false));
    let router = Router::new().fallback(async move || {
        seen.send(()).unwrap();
        if !was_cut.swap(true, Ordering::Relaxed) {
            faults.cut();
        }
        42
    });
    let _running = Running::serving(&there, &Queue::new("questions"), router).await;
    let caller = caller_to(&here, "questions").await;
    assert_eq!(value(caller.call::<_, i64>("what?").await), 42);
    log.next().await;
    log.next().await;
    until_empty(&here, "questions").await;
}

/// What the dead server had not settled goes to the next one.
pub async fn a_server_that_dies_is_replaced(broker: &Broker) {
    let (here, dying) = (broker.connect().await, broker.connect().await);
    let queue = Queue::new("questions");
    let mut questions = dying.consumer(&queue).await.unwrap();
    let caller = caller_to(&here, "questions").await;
    let call = tokio::spawn(async move { caller.call::<_, i64>("what?").await });
    let question = collect_one(&mut questions).await;
    dying.close().await.unwrap();
    drop((question, questions));
    let there = broker.connect().await;
    let _server = serve(&there, &queue, |question| {
        assert!(question.redelivered());
        question.reply(&42)
    })
    .await;
    assert_eq!(value(call.await.unwrap()), 42);
}

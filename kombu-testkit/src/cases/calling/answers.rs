//! Each question has its own answer.

use kombu_core::{CallError, ErrorKind, Exchange, Queue};

use super::{caller_to, serve, value};
use crate::Broker;
use crate::cases::{producer_to, publish};
use crate::expect::{assert_refused, collect_one};

/// With the value that the other side sent, decoded.
pub async fn a_call_is_answered(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let _server = serve(&there, &Queue::new("sums"), |question| {
        let numbers: Vec<i64> = question.decode().unwrap();
        question.reply(&numbers.iter().sum::<i64>())
    })
    .await;
    let caller = caller_to(&here, "sums").await;
    assert_eq!(value(caller.call::<_, i64>(&[1, 2, 3]).await), 6);
    assert_eq!(value(caller.call::<_, i64>(&[40, 2]).await), 42);
}

/// Properties and headers of question and answer are there.
pub async fn properties_go_both_ways(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = serve(&connection, &Queue::new("questions"), |question| {
        assert_eq!(question.kind(), Some("greeting"));
        assert_eq!(question.message_id(), Some("m-1"));
        assert_eq!(question.headers().get("tenant").unwrap().as_i64(), Some(7));
        question.reply("hello").kind("answer").header("took", 3)
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let call = caller.call::<_, String>("hi").kind("greeting");
    let answer = call.header("tenant", 7).message_id("m-1").answer().await;
    let answer = value(answer);
    assert_eq!(answer.kind(), Some("answer"));
    assert_eq!(answer.headers().get("took").unwrap().as_i64(), Some(3));
    assert_eq!(answer.decode::<String>().unwrap(), "hello");
}

/// A hundred at once over one caller, answered in another order than they were asked in.
pub async fn calls_at_once_get_their_own_answers(broker: &Broker) {
    let connection = broker.connect().await;
    let mut questions = connection.consumer(&Queue::new("doubles")).await.unwrap();
    questions.set_prefetch(100);
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        while held.len() < 100 {
            held.push(collect_one(&mut questions).await);
        }
        while let Some(question) = held.pop() {
            let number: u64 = question.decode().unwrap();
            question.reply(&(number * 2)).await.unwrap();
            question.ack().await.unwrap();
        }
    });
    let caller = caller_to(&connection, "doubles").await;
    let calls = (0..100).map(|number: u64| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call::<_, u64>(&number).await })
    });
    for (number, call) in (0..).zip(calls.collect::<Vec<_>>()) {
        assert_eq!(value(call.await.unwrap()), number * 2);
    }
    server.await.unwrap();
}

/// However many callers a connection has; another connection has its own.
pub async fn callers_of_a_connection_share_a_reply_queue(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let _server = serve(&there, &Queue::new("where"), |question| {
        question.reply(question.reply_to().unwrap())
    })
    .await;
    let (one, other) = (
        caller_to(&here, "where").await,
        caller_to(&here, "where").await,
    );
    let first = value(one.call::<_, String>(&()).await);
    assert_eq!(value(one.call::<_, String>(&()).await), first);
    assert_eq!(value(other.call::<_, String>(&()).await), first);
    let elsewhere = caller_to(&there, "where").await;
    assert_ne!(value(elsewhere.call::<_, String>(&()).await), first);
}

/// They read like the question: in its serializer.
pub async fn an_answer_comes_in_the_serializer_of_the_question(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = serve(&connection, &Queue::new("echo"), |question| {
        question.reply(&question.decode::<Vec<i64>>().unwrap())
    })
    .await;
    let caller = caller_to(&connection, "echo").await;
    for (name, content_type) in [
        ("msgpack", "application/x-msgpack"),
        ("yaml", "application/x-yaml"),
        ("json", "application/json"),
    ] {
        let call = caller.call::<_, Vec<i64>>(&[1, 2]).serializer(name);
        let answer = value(call.answer().await);
        assert_eq!(answer.content_type(), Some(content_type));
        assert_eq!(answer.decode::<Vec<i64>>().unwrap(), [1, 2]);
    }
}

/// A peer in another language publishes to the queue that `reply_to` names, with the correlation id.
pub async fn a_plain_message_answers(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let server = tokio::spawn(async move {
        let question = collect_one(&mut questions).await;
        let answers = there.producer(Exchange::default()).await.unwrap();
        let answer = answers
            .publish(&42)
            .routing_key(question.reply_to().unwrap());
        let id = question.correlation_id().unwrap();
        answer.correlation_id(id).await.unwrap();
        question.ack().await.unwrap();
        // Its connection has to be there until the answer is.
        there
    });
    let caller = caller_to(&here, "questions").await;
    assert_eq!(value(caller.call::<_, i64>("what?").await), 42);
    server.await.unwrap();
}

/// Answers that come a second time, for nobody, or without a correlation id.
pub async fn answers_that_nobody_waits_for_are_ignored(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let server = tokio::spawn(async move {
        let answers = there.producer(Exchange::default()).await.unwrap();
        for number in 0..3 {
            let question = collect_one(&mut questions).await;
            let to = question.reply_to().unwrap();
            for id in ["nobody's", ""] {
                let stray = answers.publish(&"stray").routing_key(to).correlation_id(id);
                stray.await.unwrap();
            }
            answers.publish(&"stray").routing_key(to).await.unwrap();
            question.reply(&number).await.unwrap();
            question.reply(&"late").await.unwrap();
            question.ack().await.unwrap();
        }
        there
    });
    let caller = caller_to(&here, "questions").await;
    for number in 0..3 {
        assert_eq!(value(caller.call::<_, i64>("what?").await), number);
    }
    server.await.unwrap();
}

/// The next call is answered all the same.
pub async fn an_answer_that_cannot_be_read_is_malformed(broker: &Broker) {
    let (here, there) = (broker.connect().await, broker.connect().await);
    let mut questions = there.consumer(&Queue::new("questions")).await.unwrap();
    let server = tokio::spawn(async move {
        let answers = there.producer(Exchange::default()).await.unwrap();
        for body in ["{\"garb", "42"] {
            let question = collect_one(&mut questions).await;
            let answer = answers.publish_text(body).content_type("application/json");
            let answer = answer.routing_key(question.reply_to().unwrap());
            let id = question.correlation_id().unwrap();
            answer.correlation_id(id).await.unwrap();
            question.ack().await.unwrap();
        }
        there
    });
    let caller = caller_to(&here, "questions").await;
    let malformed = caller.call::<_, i64>("what?").await;
    assert!(
        matches!(malformed, Err(CallError::Malformed(_))),
        "{malformed:?}"
    );
    assert_eq!(value(caller.call::<_, i64>("what?").await), 42);
    server.await.unwrap();
}

/// What was pushed and not asked.
pub async fn a_message_without_reply_to_has_no_responder(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["do it"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert!(delivery.responder().is_none());
    assert_refused(
        delivery.reply("done").await,
        ErrorKind::PreconditionFailed,
        406,
    );
    delivery.ack().await.unwrap();
}

/// The one who asked is gone: the server learns nothing of it, and goes on.
pub async fn an_answer_to_somebody_who_is_gone_is_no_error(broker: &Broker) {
    let connection = broker.connect().await;
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let producer = producer_to(&connection, "questions").await;
    let question = producer
        .publish(&1)
        .reply_to("nowhere")
        .correlation_id("c-1");
    question.await.unwrap();
    let question = collect_one(&mut questions).await;
    question.reply("too late").await.unwrap();
    question.ack().await.unwrap();
    broker.assert_counts(&connection, "questions", 0, 0).await;
}

//! Calls, as far as no broker has a part in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kombu::driver::{self, BoxFuture, Layer, Operation, SessionLayer};
use kombu::{
    CallError, Connection, Content, DeliveryMode, Error, ErrorKind, Event, Exchange, Interceptor,
    Queue, Result,
};

async fn answering(connection: &Connection, answers: usize) {
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    tokio::spawn(async move {
        while let Some(question) = questions.try_next().await? {
            let responder = question.responder().unwrap();
            for number in 0..answers {
                responder.part(&number).await?;
            }
            question.ack().await?;
        }
        Result::Ok(())
    });
}

#[tokio::test]
async fn a_caller_does_not_keep_its_connection_when_it_is_dropped() {
    let there = kombu::connect("memory://kept").await.unwrap();
    answering(&there, 1).await;
    let connection = kombu::connect("memory://kept").await.unwrap();
    let mut events = connection.events();
    let caller = connection.caller(Exchange::default()).await.unwrap();
    let call = caller.call::<_, usize>(&()).routing_key("questions");
    assert_eq!(call.await.unwrap(), 0);
    drop((caller, connection));
    // What tells them has gone with the connection.
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn the_reply_queue_goes_with_the_last_caller() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let caller = connection
        .caller(Exchange::default())
        .routing_key("questions")
        .await
        .unwrap();
    let other = caller.clone();
    let call = tokio::spawn(async move { caller.call::<_, usize>(&()).await });
    let question = questions.try_next().await.unwrap().unwrap();
    let queue = question.reply_to().unwrap().to_owned();
    question.reply(&1).await.unwrap();
    question.ack().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    assert!(connection.queue_info(&queue).await.is_ok());
    drop(other);
    while connection.queue_info(&queue).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reply_queue_that_somebody_deletes_is_declared_again() {
    let connection = kombu::connect("memory://").await.unwrap();
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let caller = connection
        .caller(Exchange::default())
        .routing_key("questions")
        .await
        .unwrap();
    let asking = caller.clone();
    let call = tokio::spawn(async move { asking.call::<_, usize>(&1).await });
    let question = questions.try_next().await.unwrap().unwrap();
    connection
        .delete_queue(question.reply_to().unwrap())
        .await
        .unwrap();
    // Its answer might have been in there, so it is asked again.
    let again = questions.try_next().await.unwrap().unwrap();
    assert_eq!(again.message_id(), question.message_id());
    again.reply(&1).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    again.ack().await.unwrap();
    question.ack().await.unwrap();
}

/// Refuses to have a reply queue declared again.
struct Refusing;

impl Layer for Refusing {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Refusing)
    }
}

impl SessionLayer for Refusing {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        match operation {
            Operation::DeclareQueue(queue, _) if queue.name().starts_with("kombu.reply-") => {
                let refused = Error::new(ErrorKind::AccessRefused, "not again");
                Box::pin(async move { Err(refused) })
            }
            _ => next,
        }
    }
}

/// Or whoever waits without a timeout would wait for ever.
#[tokio::test(start_paused = true)]
async fn a_session_on_which_no_answers_come_any_more_is_ended() {
    let url = "memory://calls-no-answers";
    let client = Connection::builder(kombu::registry());
    let client = client.url(url).layer(Refusing).await.unwrap();
    let server = kombu::connect(url).await.unwrap();
    let mut questions = server.consumer(&Queue::new("questions")).await.unwrap();
    let caller = client.caller(Exchange::default()).routing_key("questions");
    let caller = caller.timeout(None).await.unwrap();
    let mut events = client.events();
    let call = tokio::spawn(async move { caller.call::<_, usize>(&1).await });
    let question = questions.try_next().await.unwrap().unwrap();
    client
        .delete_queue(question.reply_to().unwrap())
        .await
        .unwrap();
    while !matches!(events.next().await, Some(Event::Restored { .. })) {}
    let again = questions.try_next().await.unwrap().unwrap();
    assert_eq!(again.message_id(), question.message_id());
    again.reply(&1).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    again.ack().await.unwrap();
    question.ack().await.unwrap();
}

struct Seen(Arc<AtomicUsize>);

impl Interceptor for Seen {
    fn on_delivery<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
        if content.reply_to().is_none() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn answers_go_through_the_interceptors() {
    let seen = Arc::new(AtomicUsize::new(0));
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .intercept(Seen(seen.clone()))
        .await
        .unwrap();
    answering(&connection, 1).await;
    let caller = connection
        .caller(Exchange::default())
        .routing_key("questions")
        .await
        .unwrap();
    caller.call::<_, usize>(&()).await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let connection = kombu::connect("memory://").await.unwrap();
    answering(&connection, 3000).await;
    let caller = connection
        .caller(Exchange::default())
        .routing_key("questions")
        .await
        .unwrap();
    let mut replies = caller.call::<_, usize>(&()).stream();
    assert_eq!(replies.next().await.unwrap().unwrap(), 0);
    // The server is done when its question is settled.
    while connection.queue_info("questions").await.unwrap().unsettled != Some(0) {
        tokio::task::yield_now().await;
    }
    let mut last = None;
    let mut count = 1;
    while let Some(reply) = replies.next().await {
        count += 1;
        last = Some(reply);
    }
    let Some(Err(CallError::Transport(error))) = last else {
        panic!("{last:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Backpressure);
    assert!(count < 1100, "{count}");
}

#[tokio::test(start_paused = true)]
async fn five_attempts_of_30_seconds_are_made_unless_it_is_said_otherwise() {
    let connection = kombu::connect("memory://").await.unwrap();
    connection
        .declare_queue(&Queue::new("unserved"))
        .await
        .unwrap();
    let caller = connection
        .caller(Exchange::default())
        .routing_key("unserved")
        .await
        .unwrap();
    let begin = tokio::time::Instant::now();
    let failed = caller.call::<_, usize>(&()).await;
    assert!(
        matches!(failed, Err(CallError::Timeout { attempts: 5 })),
        "{failed:?}"
    );
    assert_eq!(begin.elapsed().as_secs(), 150);
    let begin = tokio::time::Instant::now();
    let call = caller.call::<_, usize>(&()).max_retries(0);
    let failed = call.timeout(Duration::from_secs(2)).await;
    assert!(
        matches!(failed, Err(CallError::Timeout { attempts: 1 })),
        "{failed:?}"
    );
    assert_eq!(begin.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn what_cannot_be_written_is_not_sent() {
    let connection = kombu::connect("memory://").await.unwrap();
    connection
        .declare_queue(&Queue::new("questions"))
        .await
        .unwrap();
    let caller = connection
        .caller(Exchange::default())
        .routing_key("questions")
        .await
        .unwrap();
    let unwritable = std::collections::HashMap::from([(vec![1], 1)]);
    let Err(CallError::Transport(error)) = caller.call::<_, usize>(&unwritable).await else {
        panic!("it was written");
    };
    assert_eq!(error.kind(), ErrorKind::Encode);
    let Err(CallError::Transport(error)) =
        caller.call::<_, usize>(&()).serializer("nonsense").await
    else {
        panic!("it was written");
    };
    assert_eq!(error.kind(), ErrorKind::UnknownSerializer);
    assert_eq!(connection.queue_info("questions").await.unwrap().ready, 0);
}

#[tokio::test]
async fn a_question_that_is_asked_again_needs_not_survive_its_broker() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("questions");
    let mut questions = connection.consumer(&queue).await.unwrap();
    let caller = connection.caller(Exchange::default());
    let caller = caller.routing_key("questions").await.unwrap();
    let kept = connection.caller(Exchange::default());
    let kept = kept.delivery_mode(DeliveryMode::Persistent);
    let kept = kept.routing_key("questions").await.unwrap();
    for (caller, retries, own, expected) in [
        (&caller, 4, None, DeliveryMode::Transient),
        (&caller, 0, None, DeliveryMode::Persistent),
        (&kept, 4, None, DeliveryMode::Persistent),
        (
            &kept,
            0,
            Some(DeliveryMode::Transient),
            DeliveryMode::Transient,
        ),
    ] {
        let mut call = caller.call::<_, usize>(&()).max_retries(retries);
        if let Some(own) = own {
            call = call.delivery_mode(own);
        }
        let answer = call.answer();
        let (_, delivery) = tokio::join!(answer, async {
            let question = questions.try_next().await.unwrap().unwrap();
            question.reply(&1).await.unwrap();
            question
        });
        assert_eq!(delivery.delivery_mode(), expected);
        delivery.ack().await.unwrap();
    }
    // Nothing but a lost session would have it asked again.
    let call = caller.call::<_, usize>(&()).timeout(None);
    let (_, delivery) = tokio::join!(call.answer(), async {
        let question = questions.try_next().await.unwrap().unwrap();
        question.reply(&1).await.unwrap();
        question
    });
    assert_eq!(delivery.delivery_mode(), DeliveryMode::Persistent);
    delivery.ack().await.unwrap();
    // Nobody waits for the answer, and so nobody asks again.
    let asked = caller.call::<_, usize>(&()).ask().await.unwrap();
    let question = questions.try_next().await.unwrap().unwrap();
    assert_eq!(question.delivery_mode(), DeliveryMode::Persistent);
    question.ack().await.unwrap();
    drop(asked);
}

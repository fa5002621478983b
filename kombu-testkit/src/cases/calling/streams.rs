//! One server that answers piece by piece.

use kombu_core::call::{Failure, Responder};
use kombu_core::driver::BoxFuture;
use kombu_core::{CallError, Connection, Queue, Result};

use super::{Server, caller_to, value};
use crate::Broker;

async fn streaming(
    connection: &Connection,
    answer: fn(Responder) -> BoxFuture<'static, Result<()>>,
) -> Server {
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    Server(tokio::spawn(async move {
        while let Some(question) = questions.try_next().await? {
            if let Some(responder) = question.responder() {
                answer(responder).await?;
            }
            question.ack().await?;
        }
        Ok(())
    }))
}

/// Each as it comes, up to the end.
pub async fn the_parts_of_an_answer_come_in_order(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = streaming(&connection, |responder| {
        Box::pin(async move {
            for number in 0..50 {
                responder.part(&number).await?;
            }
            responder.end().await?;
            Ok(())
        })
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let mut replies = caller.call::<_, i64>("count").stream();
    for number in 0..50 {
        assert_eq!(value(replies.next().await.unwrap()), number);
    }
    assert!(replies.next().await.is_none());
    assert!(replies.next().await.is_none());
}

/// A last value needs no end behind it, and a lone one is a stream as well.
pub async fn a_value_without_further_ones_is_the_last(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = streaming(&connection, |responder| {
        Box::pin(async move {
            responder.part(&1).await?;
            responder.reply(&2).await?;
            Ok(())
        })
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let mut replies = caller.call::<_, i64>("count").stream();
    assert_eq!(value(replies.next().await.unwrap()), 1);
    assert_eq!(value(replies.next().await.unwrap()), 2);
    assert!(replies.next().await.is_none());
    // Who asks for one value gets the first.
    assert_eq!(value(caller.call::<_, i64>("count").await), 1);
}

/// What came before it was handed out.
pub async fn a_failure_ends_the_stream(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = streaming(&connection, |responder| {
        Box::pin(async move {
            responder.part(&1).await?;
            responder.fail(Failure::transient(503, "gone")).await?;
            Ok(())
        })
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let mut replies = caller.call::<_, i64>("count").stream();
    assert_eq!(value(replies.next().await.unwrap()), 1);
    let failed = replies.next().await.unwrap();
    assert!(
        matches!(failed, Err(CallError::Transient { .. })),
        "{failed:?}"
    );
    assert!(replies.next().await.is_none());
}

//! What the other side answers when it has no value.

use kombu_core::call::Failure;
use kombu_core::{CallError, Connection, ErrorKind, Queue};

use super::{Server, caller_to, serve, value};
use crate::Broker;

async fn failing(connection: &Connection, failure: fn() -> Failure) -> Server {
    serve(connection, &Queue::new("questions"), move |question| {
        question.responder().unwrap().fail(failure())
    })
    .await
}

/// Its name, its text, and what belongs to it.
pub async fn an_error_of_the_application_is_told(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = failing(&connection, || {
        Failure::application("OutOfStock", "none left").payload(["red", "blue"])
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    assert!(!failed.is_retryable());
    let CallError::Application {
        name,
        message,
        payload,
    } = failed
    else {
        panic!("{failed:?}");
    };
    assert_eq!(
        (name.as_str(), message.as_str()),
        ("OutOfStock", "none left")
    );
    let payload = payload.unwrap().decode::<Vec<String>>().unwrap();
    assert_eq!(payload, ["red", "blue"]);
}

/// Refused for good.
pub async fn a_critical_failure_is_not_retryable(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = failing(&connection, || Failure::critical(422, "no number")).await;
    let caller = caller_to(&connection, "questions").await;
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    assert!(!failed.is_retryable());
    assert_eq!(failed.to_string(), "no number (422)");
    assert_eq!(
        kombu_core::Error::from(failed).kind(),
        ErrorKind::CallRefused
    );
}

/// The same question may be answered later.
pub async fn a_transient_failure_is_retryable(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = failing(&connection, || Failure::transient(503, "busy")).await;
    let caller = caller_to(&connection, "questions").await;
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    assert!(failed.is_retryable());
    assert!(
        matches!(failed, CallError::Transient { code: 503, .. }),
        "{failed:?}"
    );
    let error = kombu_core::Error::from(failed);
    assert!(error.is_transient());
}

/// A text longer than any header may be is cut, and answered.
pub async fn a_long_text_is_cut(broker: &Broker) {
    let connection = broker.connect().await;
    let _server = failing(&connection, || {
        Failure::application("TooMuch", "ä".repeat(200_000))
    })
    .await;
    let caller = caller_to(&connection, "questions").await;
    let failed = caller.call::<_, i64>("what?").await.unwrap_err();
    assert!(failed.to_string().starts_with("TooMuch: ää"));
}

/// A value that its serializer can't write is the server's error, and nothing is answered by it.
pub async fn a_value_that_cannot_be_written_is_not_answered(broker: &Broker) {
    let connection = broker.connect().await;
    let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
    let server = tokio::spawn(async move {
        let question = crate::expect::collect_one(&mut questions).await;
        // Keys of JSON are texts.
        let unwritable = std::collections::HashMap::from([(vec![1], 1)]);
        let refused = question.reply(&unwritable).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Encode);
        question.reply(&1).await.unwrap();
        question.ack().await.unwrap();
    });
    let caller = caller_to(&connection, "questions").await;
    assert_eq!(value(caller.call::<_, i64>("what?").await), 1);
    server.await.unwrap();
}

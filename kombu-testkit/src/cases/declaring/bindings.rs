//! A binding needs both of its ends.

use kombu_core::driver::Feature;
use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported};

/// Binding declares nothing.
pub async fn a_queue_can_not_be_bound_to_a_missing_exchange(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_queue(&Queue::new("videos"))
        .await
        .unwrap();
    let binding = Binding::new(Exchange::topic("media"), "#");
    let bound = connection.bind_queue("videos", &binding).await;
    let error = assert_refused(bound, ErrorKind::NotFound, 404);
    assert!(error.to_string().contains("`media`"), "{error}");
    assert_works(&connection).await;
}

/// Nor the other end.
pub async fn a_missing_queue_can_not_be_bound(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("media"))
        .await
        .unwrap();
    let binding = Binding::new(Exchange::topic("media"), "#");
    let bound = connection.bind_queue("videos", &binding).await;
    let error = assert_refused(bound, ErrorKind::NotFound, 404);
    assert!(error.to_string().contains("`videos`"), "{error}");
    assert_works(&connection).await;
}

/// Either end missing.
pub async fn exchanges_that_are_missing_can_not_be_bound(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_exchange(&Exchange::topic("here"))
        .await
        .unwrap();
    let missing = [
        connection
            .bind_exchange("here", &Binding::from(Exchange::topic("nowhere")))
            .await,
        connection
            .bind_exchange("nowhere", &Binding::from(Exchange::topic("here")))
            .await,
    ];
    for bound in missing {
        if connection.capabilities().has(Feature::ExchangeBinding) {
            assert_refused(bound, ErrorKind::NotFound, 404);
        } else {
            assert_unsupported(bound);
        }
    }
    assert_works(&connection).await;
}

/// `x-match` is `all`, `any`, or one of these with `-with-x`.
pub async fn a_headers_binding_with_an_unknown_match_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let reports = Exchange::headers("reports");
    connection.declare_exchange(&reports).await.unwrap();
    connection.declare_queue(&Queue::new("pdf")).await.unwrap();
    let binding = Binding::from(&reports).argument("x-match", "some");
    let bound = connection.bind_queue("pdf", &binding).await;
    assert_refused(bound, ErrorKind::PreconditionFailed, 406);
    assert_works(&connection).await;
}

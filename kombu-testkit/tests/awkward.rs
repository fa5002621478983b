//! What a driver is told of a session with the awkward broker that was cut.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(feature = "awkward")]

use std::sync::Arc;

use futures_util::StreamExt;
use kombu_core::driver::{Connection, SubscribeOptions, Target, Transport};
use kombu_core::{DeclareMode, ErrorKind, Queue};
use kombu_testkit::awkward::Awkward;

async fn connect(awkward: &Awkward) -> Arc<dyn Connection> {
    let target = Target::new("awkward://cut".parse().unwrap());
    awkward.connect(&target).await.unwrap()
}

#[tokio::test]
async fn a_session_that_was_cut_gives_no_sign_of_life() {
    let awkward = Awkward::default();
    let session = connect(&awkward).await;
    session.ping().await.unwrap();
    awkward.cut();
    let error = session.ping().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
}

/// A cancelled consumer would be at its end; this one is to be opened again in the next session.
#[tokio::test]
async fn a_subscription_whose_session_was_cut_is_lost_and_not_cancelled() {
    let awkward = Awkward::default();
    let session = connect(&awkward).await;
    let queue = Queue::new("jobs");
    let declaring = session.declare_queue(&queue, DeclareMode::Ensure);
    declaring.await.unwrap();
    let options = SubscribeOptions::new(1);
    let queues = ["jobs".into()];
    let opening = session.open_subscription(&queues, &options);
    let mut subscription = opening.await.unwrap();
    awkward.cut();
    let error = subscription.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost, "{error}");
}

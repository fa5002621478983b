//! The suite finds a broker that breaks one promise, and finds nothing on the same broker without the flaw.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu_testkit::awkward::{AwkwardHarness, Flaw};
use kombu_testkit::oracle::Oracle;
use kombu_testkit::{DEADLINE, failures};

#[track_caller]
fn assert_found(flaw: Flaw, case: &str) {
    // Some cases wait for what will never come: not for long.
    let found = failures(AwkwardHarness::with_flaw(flaw), Duration::from_secs(5));
    let names: Vec<&str> = found.iter().map(|failure| failure.case).collect();
    assert!(names.contains(&case), "{flaw:?} is found by {names:?} only");
}

#[test]
fn the_broker_without_a_flaw_passes() {
    assert_eq!(failures(AwkwardHarness::new(), DEADLINE), []);
}

#[test]
fn one_that_loses_what_is_released_is_found() {
    assert_found(
        Flaw::LosesOnRelease,
        "settling::releasing::a_released_message_goes_back_to_the_head",
    );
}

#[test]
fn one_that_stores_twice_when_an_answer_is_lost_is_found() {
    assert_found(
        Flaw::DuplicatesOnLostReply,
        "ordering::sends_batches_and_publishes_of_one_producer_keep_their_order",
    );
}

#[test]
fn one_that_ignores_an_unbind_is_found() {
    assert_found(
        Flaw::IgnoresUnbind,
        "routing::bindings::the_next_publish_on_another_connection_honours_a_change",
    );
}

#[test]
fn one_that_forgets_what_an_ended_session_held_is_found() {
    assert_found(
        Flaw::ForgetsLease,
        "closing::deliveries::unsettled_messages_go_back_when_the_connection_closes",
    );
}

#[test]
fn one_whose_publishes_overtake_each_other_is_found() {
    assert_found(
        Flaw::Reorders,
        "ordering::every_queue_gets_the_messages_of_a_producer_in_order",
    );
}

/// The oracle doesn't need a case for it.
async fn assert_told_apart(flaw: Flaw) {
    let oracle = Oracle::new(&AwkwardHarness::new(), &AwkwardHarness::with_flaw(flaw)).await;
    for seed in 0..100 {
        if oracle.difference(seed).await.is_some() {
            return;
        }
    }
    panic!("{flaw:?} is not found");
}

#[tokio::test]
async fn two_without_a_flaw_are_not_told_apart() {
    let oracle = Oracle::new(&AwkwardHarness::new(), &AwkwardHarness::new()).await;
    oracle.assert_alike(0..100).await;
}

#[tokio::test]
async fn what_is_lost_on_release_is_told_apart() {
    assert_told_apart(Flaw::LosesOnRelease).await;
}

#[tokio::test]
async fn an_unbind_that_is_ignored_is_told_apart() {
    assert_told_apart(Flaw::IgnoresUnbind).await;
}

#[tokio::test]
async fn a_death_that_is_counted_twice_is_told_apart() {
    assert_told_apart(Flaw::CountsDeathsTwice).await;
}

//! Pools of connections: who waits for how long, and which connections are handed out again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, ErrorKind, Event, Faults, Pools, Queue, RetryPolicy};
use tokio::time::Instant;

const URL: &str = "memory://pools";

/// Marks a connection: the queue is its own.
async fn mark(connection: &Connection, name: &str) {
    let queue = Queue::new(name).exclusive(true);
    connection.declare_queue(&queue).await.unwrap();
}

async fn has_mark(connection: &Connection, name: &str) -> bool {
    connection.queue_info(name).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_too_long_is_told_and_takes_nobodys_place() {
    let pools = Pools::new(kombu::registry()).limit(1);
    for (pools, patience) in [
        (pools.clone(), 10),
        (pools.patience(Duration::from_secs(3)), 3),
    ] {
        let one = pools.acquire(URL).await.unwrap();
        let begin = Instant::now();
        let refused = pools.acquire(URL).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Backpressure);
        assert_eq!(begin.elapsed().as_secs(), patience);
        drop(one);
        let again = pools.acquire(URL).await.unwrap();
        // Another URL has a pool of its own.
        pools.try_acquire("memory://other-pools").await.unwrap();
        drop(again);
        pools.try_acquire(URL).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_given_up_is_not_handed_out() {
    let faults = Faults::default();
    let layer = faults.clone();
    let pools = Pools::built_by(move || {
        let policy = RetryPolicy::default().max_attempts(1);
        let builder = Connection::builder(kombu::registry());
        builder.layer(layer.clone()).retry(policy)
    });
    let pools = pools.limit(1);
    for comes_back_first in [true, false] {
        let one = pools.acquire("memory://pools-given-up").await.unwrap();
        mark(&one, "own").await;
        let mut events = one.events();
        let one = match comes_back_first {
            true => {
                drop(one);
                None
            }
            false => Some(one),
        };
        faults.refuse_connects([ErrorKind::ConnectionLost]);
        faults.cut();
        while !matches!(events.next().await, Some(Event::GivenUp { .. })) {}
        drop(one);
        let next = pools.try_acquire("memory://pools-given-up").await.unwrap();
        assert!(!has_mark(&next, "own").await);
        mark(&next, "other").await;
        drop(next);
        pools.close_idle().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_too_old_is_not_handed_out_again() {
    const AGE: Duration = Duration::from_secs(60);
    let pools = Pools::new(kombu::registry()).limit(1).max_age(AGE);
    let url = "memory://pools-of-age";
    let one = pools.acquire(url).await.unwrap();
    mark(&one, "young").await;
    drop(one);
    tokio::time::advance(AGE / 2).await;
    let one = pools.acquire(url).await.unwrap();
    assert!(has_mark(&one, "young").await, "it is the same");
    // Nobody is disturbed who has it, however old it gets.
    tokio::time::advance(AGE).await;
    assert!(has_mark(&one, "young").await);
    drop(one);
    let next = pools.acquire(url).await.unwrap();
    assert!(!has_mark(&next, "young").await, "it is another one");
    mark(&next, "idle").await;
    drop(next);
    tokio::time::advance(AGE).await;
    let last = pools.acquire(url).await.unwrap();
    assert!(
        !has_mark(&last, "idle").await,
        "it was too old where it lay"
    );
}

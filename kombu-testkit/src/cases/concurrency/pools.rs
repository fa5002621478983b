//! Connections that are shared by URL.

use std::time::Duration;

use futures_util::FutureExt;
use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, Pools, Queue};

use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported};

const PATIENCE: Duration = Duration::from_secs(20);

fn pools(broker: &Broker) -> Pools {
    Pools::new(broker.registry().clone())
}

/// Whoever wants one more waits until one comes back, or is refused.
pub async fn a_pool_has_no_more_connections_than_its_limit(broker: &Broker) {
    let pools = pools(broker).limit(2);
    let one = pools.acquire(broker.url()).await.unwrap();
    let other = pools.acquire(broker.url()).await.unwrap();
    let refused = pools.try_acquire(broker.url()).await;
    assert_refused(refused, ErrorKind::Backpressure, None);
    let mut waiting = std::pin::pin!(pools.acquire(broker.url()));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(one);
    let waited = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    drop((waited.unwrap(), other));
    pools.try_acquire(broker.url()).await.unwrap();
    pools.close_idle().await.unwrap();
}

/// With what it had: a queue of its own is still its own.
pub async fn a_connection_goes_back_to_its_pool_as_it_is(broker: &Broker) {
    let pools = pools(broker);
    let mine = Queue::new("mine").exclusive(true);
    let one = pools.acquire(broker.url()).await.unwrap();
    if !one.capabilities().has(Feature::ExclusiveQueue) {
        assert_unsupported(one.declare_queue(&mine).await);
        return;
    }
    one.declare_queue(&mine).await.unwrap();
    drop(one);
    let again = pools.acquire(broker.url()).await.unwrap();
    again.declare_queue(&mine).await.unwrap();
    let other = pools.acquire(broker.url()).await.unwrap();
    let locked = other.declare_queue(&mine).await;
    assert_refused(locked, ErrorKind::ResourceLocked, 405);
}

/// Nor does it take anybody's place.
pub async fn a_connection_that_was_closed_does_not_come_again(broker: &Broker) {
    let pools = pools(broker).limit(1);
    let one = pools.acquire(broker.url()).await.unwrap();
    Connection::close(&one).await.unwrap();
    drop(one);
    let next = pools.try_acquire(broker.url()).await.unwrap();
    next.declare_queue(&Queue::new("jobs")).await.unwrap();
    let shared = pools.clone();
    drop(next);
    shared.close_idle().await.unwrap();
    let last = shared.try_acquire(broker.url()).await.unwrap();
    assert_eq!(last.queue_info("jobs").await.unwrap().ready, 0);
}

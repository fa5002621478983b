//! Components that share a queue.

use std::sync::Arc;

use kombu_core::Queue;
use kombu_core::handler::{Payload, Router};
use tokio::sync::Semaphore;

use super::{Running, log};
use crate::Broker;
use crate::cases::producer_to;

/// It handles one at a time, and has at most one more, unless it is told otherwise.
pub async fn a_slow_component_leaves_the_rest_to_the_other(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    let go_on = Arc::new(Semaphore::new(0));
    let waiting = go_on.clone();
    let (seen, mut slowly) = log();
    let slow = async move |Payload(number): Payload<u32>| {
        seen.send(number).unwrap();
        waiting.acquire().await.unwrap().forget();
    };
    let slow = Router::new().fallback(slow);
    let _slow = Running::serving(&broker.connect().await, &queue, slow).await;
    let jobs = producer_to(&connection, "jobs").await;
    jobs.publish(&0).await.unwrap();
    assert_eq!(slowly.next().await, 0);

    let (seen, mut fast) = log();
    let handler = async move |Payload(number): Payload<u32>| seen.send(number).unwrap();
    let router = Router::new().fallback(handler);
    let _fast = Running::serving(&broker.connect().await, &queue, router).await;
    for number in 1..=10 {
        jobs.publish(&number).await.unwrap();
    }
    let mut handled = vec![0];
    for _ in 0..9 {
        handled.push(fast.next().await);
    }
    assert!(slowly.is_empty());
    go_on.add_permits(2);
    handled.push(tokio::select! {
        number = slowly.next() => number,
        number = fast.next() => number,
    });
    handled.sort_unstable();
    assert!(handled.into_iter().eq(0..=10));
}

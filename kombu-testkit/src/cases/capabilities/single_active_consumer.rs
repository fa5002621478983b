//! One consumer at a time.

use kombu_core::Queue;
use kombu_core::driver::Feature;

use super::has_queue;
use crate::Broker;
use crate::cases::publish;
use crate::expect::collect_one;

/// The first gets everything; when it goes, the next one does.
pub async fn the_others_wait_until_the_active_one_goes(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").single_active_consumer(true);
    if !has_queue(&connection, Feature::SingleActiveConsumer, &jobs).await {
        return;
    }
    let mut active = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let mut waiting = broker
        .connect()
        .await
        .consumer(&jobs)
        .prefetch(1)
        .await
        .unwrap();
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    let first = collect_one(&mut active).await;
    broker.assert_silent(&mut waiting).await;
    first.ack().await.unwrap();
    let second = collect_one(&mut active).await;
    assert_eq!(second.body(), "1");
    second.ack().await.unwrap();
    active.cancel().await.unwrap();
    let third = collect_one(&mut waiting).await;
    assert_eq!(third.body(), "2");
    third.ack().await.unwrap();
}

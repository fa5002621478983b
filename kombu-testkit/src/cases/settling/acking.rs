//! An acked message is done.

use kombu_core::Queue;

use crate::Broker;
use crate::cases::publish;
use crate::expect::{collect, collect_one, drain, texts};

/// Neither to this consumer nor to another one.
pub async fn an_acked_message_does_not_come_again(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["done"]).await;
    collect_one(&mut consumer).await.ack().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    connection.close().await.unwrap();
    let other = broker.connect().await;
    assert_eq!(drain(&other, "jobs").await.len(), 0);
}

/// Each settles its own message, whatever was delivered before.
pub async fn deliveries_are_acked_in_any_order(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["0", "1", "2", "3", "4"]).await;
    let mut held: Vec<_> = collect(&mut consumer, 5)
        .await
        .into_iter()
        .map(Some)
        .collect();
    for index in [3, 1, 4] {
        held[index].take().unwrap().ack().await.unwrap();
    }
    broker.assert_counts(&connection, "jobs", 0, 2).await;
    connection.close().await.unwrap();
    let other = broker.connect().await;
    assert_eq!(texts(&drain(&other, "jobs").await), ["0", "2"]);
}

/// The message goes on being used here, and is settled there.
pub async fn a_split_delivery_is_acked_by_another_task(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["shared"]).await;
    let (message, acker) = collect_one(&mut consumer).await.split();
    tokio::spawn(async move { acker.ack().await })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(message.body(), "shared");
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// It is queued by the call; awaiting it only tells whether it was lost.
pub async fn an_ack_that_is_not_awaited_counts(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["done"]).await;
    drop(collect_one(&mut consumer).await.ack());
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// Once the broker has answered, the message is gone.
pub async fn a_confirmed_ack_is_done(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["done"]).await;
    collect_one(&mut consumer)
        .await
        .ack()
        .confirmed()
        .await
        .unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

//! What is deleted with its last user.

use kombu_core::driver::Feature;
use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use super::{has_exchange, has_queue, until_gone};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect_one, info};

/// Not with an earlier one.
pub async fn a_queue_goes_with_its_last_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let other = broker.connect().await;
    let jobs = Queue::new("jobs").auto_delete(true);
    if !has_queue(&connection, Feature::AutoDelete, &jobs).await {
        return;
    }
    let first = connection.consumer(&jobs).await.unwrap();
    let mut second = other.consumer(&jobs).await.unwrap();
    first.cancel().await.unwrap();
    publish(&connection, "jobs", ["still here"]).await;
    let delivery = collect_one(&mut second).await;
    assert_eq!(delivery.body(), "still here");
    delivery.ack().await.unwrap();
    second.cancel().await.unwrap();
    until_gone(&connection, "jobs").await;
}

/// Without one, it waits for its first.
pub async fn a_queue_that_never_had_a_consumer_stays(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").auto_delete(true);
    if !has_queue(&connection, Feature::AutoDelete, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["waiting"]).await;
    connection.close().await.unwrap();
    let other = broker.connect().await;
    assert_eq!(info(&other, "jobs").await.ready, 1);
}

/// Not with an earlier one.
pub async fn an_exchange_goes_with_its_last_binding(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &news).await {
        return;
    }
    for queue in ["first", "second"] {
        connection
            .declare_queue(&Queue::new(queue).bind(&news, ""))
            .await
            .unwrap();
    }
    connection
        .unbind_queue("first", &Binding::from(&news))
        .await
        .unwrap();
    connection
        .declare_exchange(&news.clone().passive())
        .await
        .unwrap();
    connection.delete_queue("second").await.unwrap();
    let found = connection.declare_exchange(&news.passive()).await;
    assert_refused(found, ErrorKind::NotFound, 404);
}

//! When a consumer begins to take messages.

use kombu_core::{ErrorKind, Queue};

use super::consumers;
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect_one, info};

/// A builder takes nothing and declares nothing; opened, it gets what was there before.
pub async fn nothing_is_taken_before_the_consumer_is_opened(broker: &Broker) {
    let connection = broker.connect().await;
    let (jobs, later) = (Queue::new("jobs"), Queue::new("later"));
    connection.declare_queue(&jobs).await.unwrap();
    let opening = connection.consumer(&jobs);
    drop(connection.consumer(&later));
    publish(&connection, "jobs", ["early"]).await;
    assert_eq!(info(&connection, "jobs").await.ready, 1);
    assert_eq!(consumers(&connection, "jobs").await, 0);
    let missing = connection.queue_info("later").await;
    assert_refused(missing, ErrorKind::NotFound, 404);
    let mut consumer = opening.await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "early");
    delivery.ack().await.unwrap();
}

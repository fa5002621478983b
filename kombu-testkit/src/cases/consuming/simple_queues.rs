//! A queue as a collection.

use std::time::Duration;

use crate::Broker;

const PATIENCE: Duration = Duration::from_secs(20);

/// In the order in which it was put.
pub async fn what_is_put_is_got_in_order(broker: &Broker) {
    let connection = broker.connect().await;
    let mut queue = connection.simple_queue("jobs").await.unwrap();
    for number in 0..5 {
        queue.put(&number).await.unwrap();
    }
    assert_eq!(queue.size().await.unwrap(), 5);
    for number in 0..5 {
        let job = queue.get(PATIENCE).await.unwrap().unwrap();
        assert_eq!(job.decode::<u32>().unwrap(), number);
        job.ack().confirmed().await.unwrap();
    }
    assert!(
        queue
            .get(Duration::from_millis(50))
            .await
            .unwrap()
            .is_none()
    );
    broker.assert_counts(&connection, "jobs", 0, 0).await;
}

/// It takes what is there, and doesn't wait.
pub async fn a_simple_queue_is_polled(broker: &Broker) {
    let connection = broker.connect().await;
    let mut queue = connection.simple_queue("jobs").await.unwrap();
    assert!(queue.get(Duration::ZERO).await.unwrap().is_none());
    queue.put(&1).await.unwrap();
    let job = queue.get(Duration::ZERO).await.unwrap().unwrap();
    job.ack().await.unwrap();
}

/// Unless it is settled, it comes again.
pub async fn what_is_got_from_a_simple_queue_has_to_be_settled(broker: &Broker) {
    let connection = broker.connect().await;
    let mut queue = connection.simple_queue("jobs").await.unwrap();
    queue.put(&1).await.unwrap();
    let job = queue.get(PATIENCE).await.unwrap().unwrap();
    job.release().await.unwrap();
    let job = queue.get(PATIENCE).await.unwrap().unwrap();
    assert!(job.redelivered());
    job.ack().await.unwrap();
}

/// And counted.
pub async fn a_simple_queue_is_cleared(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = connection
        .simple_queue("jobs")
        .serializer("msgpack")
        .await
        .unwrap();
    for number in 0..3 {
        queue.put(&number).await.unwrap();
    }
    assert_eq!(queue.clear().await.unwrap(), 3);
    assert_eq!(queue.size().await.unwrap(), 0);
}

/// It needs no settling.
pub async fn what_is_got_from_a_simple_buffer_is_gone(broker: &Broker) {
    let connection = broker.connect().await;
    let mut buffer = connection.simple_buffer("ticks").await.unwrap();
    for number in 0..3 {
        buffer.put(&number).await.unwrap();
    }
    for number in 0..3 {
        let tick = buffer.get(PATIENCE).await.unwrap().unwrap();
        assert_eq!(tick.decode::<u32>().unwrap(), number);
    }
    broker.assert_counts(&connection, "ticks", 0, 0).await;
}

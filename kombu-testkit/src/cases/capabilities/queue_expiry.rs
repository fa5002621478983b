//! A queue that goes when nobody uses it for a while, and what counts as using it.

use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, Exchange, Queue};

use super::{SOON, a_while, has_exchange, has_queue, until_gone};
use crate::Broker;
use crate::cases::{producer_to, publish};
use crate::expect::{assert_refused, collect_one, info};

/// Uses a queue that expires after a while, again and again, until another one that came later has gone.
async fn is_kept_by(
    broker: &Broker,
    connection: &Connection,
    use_it: impl AsyncFn(&Connection, &Queue),
) {
    let used = Queue::new("used").expires(a_while(broker));
    if !has_queue(connection, Feature::QueueExpiry, &used).await {
        return;
    }
    let unused = Queue::new("unused").expires(a_while(broker));
    connection.declare_queue(&unused).await.unwrap();
    let producer = producer_to(connection, "unused").await;
    while producer.publish_text("still there?").await.is_ok() {
        use_it(connection, &used).await;
        tokio::task::yield_now().await;
    }
    let producer = producer_to(connection, "used").await;
    producer.publish_text("still there").await.unwrap();
}

/// Though it takes nothing.
pub async fn a_single_get_keeps_a_queue(broker: &Broker) {
    let connection = broker.connect().await;
    is_kept_by(broker, &connection, async |connection, queue| {
        assert!(connection.get(queue).await.unwrap().is_none());
    })
    .await;
}

/// As it is.
pub async fn declaring_again_keeps_a_queue(broker: &Broker) {
    let connection = broker.connect().await;
    is_kept_by(broker, &connection, async |connection, queue| {
        connection.declare_queue(queue).await.unwrap();
    })
    .await;
}

/// Asking whether it is there is using it.
pub async fn verifying_keeps_a_queue(broker: &Broker) {
    let connection = broker.connect().await;
    is_kept_by(broker, &connection, async |connection, queue| {
        let asked = queue.clone().passive();
        connection.declare_queue(&asked).await.unwrap();
    })
    .await;
}

/// Nobody reads them.
pub async fn publishing_does_not_keep_a_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").expires(SOON);
    if !has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        return;
    }
    // Publishes until it is gone.
    until_gone(&connection, "jobs").await;
}

/// However long it receives nothing.
pub async fn a_consumer_keeps_its_queue(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").expires(SOON);
    if !has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        return;
    }
    let mut consumer = loop {
        // It may be gone between the declaration and the consumer.
        if let Ok(consumer) = connection.consumer(&jobs).await {
            break consumer;
        }
    };
    for name in ["one", "another"] {
        let unused = Queue::new(name).expires(SOON);
        connection.declare_queue(&unused).await.unwrap();
        until_gone(&connection, name).await;
    }
    publish(&connection, "jobs", ["0"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "0");
    delivery.ack().await.unwrap();
}

/// From when its last consumer went.
pub async fn a_queue_expires_after_its_last_consumer_went(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").expires(SOON);
    if !has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        return;
    }
    let (first, second) = loop {
        let first = connection.consumer(&jobs).await;
        let second = connection.consumer(&jobs).await;
        if let (Ok(first), Ok(second)) = (first, second) {
            break (first, second);
        }
    };
    first.cancel().await.unwrap();
    let unused = Queue::new("unused").expires(SOON);
    connection.declare_queue(&unused).await.unwrap();
    until_gone(&connection, "unused").await;
    assert_eq!(info(&connection, "jobs").await.consumers, 1);
    second.cancel().await.unwrap();
    until_gone(&connection, "jobs").await;
}

/// Whoever declares it afterwards gets another one, of whatever kind.
pub async fn an_expired_queue_leaves_its_name_free(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").expires(SOON);
    if !has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        return;
    }
    // With messages in it.
    until_gone(&connection, "jobs").await;
    let other = Queue::new("jobs").durable(false);
    assert_eq!(connection.declare_queue(&other).await.unwrap().ready, 0);
}

/// And an exchange that was there for it only.
pub async fn an_expired_queue_takes_its_bindings_along(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &news).await {
        return;
    }
    let jobs = Queue::new("jobs").expires(a_while(broker)).bind(&news, "");
    if !has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        return;
    }
    until_gone(&connection, "jobs").await;
    let found = connection.declare_exchange(&news.passive()).await;
    assert_refused(found, ErrorKind::NotFound, 404);
}

/// On the connection that declared it, or on any other.
pub async fn a_queue_outlives_the_connection_that_declared_it(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs").expires(a_while(broker));
    if !has_queue(&connection, Feature::QueueExpiry, &jobs).await {
        return;
    }
    connection.close().await.unwrap();
    assert_eq!(info(&other, "jobs").await.ready, 0);
    until_gone(&other, "jobs").await;
}

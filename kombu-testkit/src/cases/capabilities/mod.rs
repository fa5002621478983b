//! Features that not every transport has. A transport either has one, and then it works, or refuses it before
//! anything is sent.

use kombu_core::driver::Feature;
use kombu_core::{Connection, Consumer, ErrorKind, Exchange, OpenConsumer, Queue};

use crate::expect::{assert_refused, assert_unsupported, info as info_of};

pub mod auto_delete;
pub mod consumer_priorities;
pub mod custom_kinds;
pub mod delivery_limits;
pub mod exclusive;
pub mod exclusive_consumers;
pub mod expiry;
pub mod immediate;
pub mod length_limits;
pub mod no_local;
pub mod priorities;
pub mod single_active_consumer;

/// Declares a queue that needs a feature. Whether the case can go on: false where the transport doesn't have it.
/// Then it has to refuse the queue, to a consumer too, and must not have made it.
async fn has_queue(connection: &Connection, feature: Feature, queue: &Queue) -> bool {
    let declared = connection.declare_queue(queue).await;
    if connection.capabilities().has(feature) {
        declared.unwrap();
        return true;
    }
    let error = assert_unsupported(declared);
    let text = error.to_string();
    for part in [queue.name().as_str(), &feature.to_string()] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert_unsupported(connection.consumer(queue).await);
    let info = connection.queue_info(queue.name()).await;
    assert_refused(info, ErrorKind::NotFound, 404);
    false
}

/// Opens a consumer that needs these features, of the queue `jobs`, which isn't there. `None` where the transport lacks
/// one. Then it has to refuse the consumer before the queue is declared.
async fn has_consumer(
    connection: &Connection,
    features: &[Feature],
    open: impl Fn() -> OpenConsumer,
) -> Option<Consumer> {
    let opened = open().await;
    let capabilities = connection.capabilities();
    let mut features = features.iter();
    let Some(feature) = features.find(|feature| !capabilities.has(**feature)) else {
        return Some(opened.unwrap());
    };
    let error = assert_unsupported(opened);
    let text = error.to_string();
    for part in ["jobs", &feature.to_string()] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    let info = connection.queue_info("jobs").await;
    assert_refused(info, ErrorKind::NotFound, 404);
    // Where it is, it is left alone.
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    assert_unsupported(open().await);
    assert_eq!(info_of(connection, "jobs").await.consumers, 0);
    None
}

/// The same for an exchange, and its producers.
async fn has_exchange(connection: &Connection, feature: Feature, exchange: &Exchange) -> bool {
    let declared = connection.declare_exchange(exchange).await;
    if connection.capabilities().has(feature) {
        declared.unwrap();
        return true;
    }
    let error = assert_unsupported(declared);
    let text = error.to_string();
    for part in [exchange.name().as_str(), &feature.to_string()] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert_unsupported(connection.producer(exchange).await);
    let asking = Exchange::direct(exchange.name()).passive();
    let found = connection.declare_exchange(&asking).await;
    assert_refused(found, ErrorKind::NotFound, 404);
    false
}

/// Waits until there is no queue of this name.
async fn until_gone(connection: &Connection, queue: &str) {
    // Publishing isn't a use that would keep a queue alive.
    let producer = connection
        .producer(Exchange::default())
        .routing_key(queue)
        .await
        .unwrap();
    loop {
        match producer.publish_text("still there?").await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unroutable, "{error}");
                return;
            }
        }
    }
}

//! Features that not every transport has. A transport either has one, and then it works, or refuses it before
//! anything is sent.

use std::time::Duration;

use kombu_core::driver::Feature;
use kombu_core::{
    Connection, Consumer, Delivery, ErrorKind, Exchange, OpenConsumer, Producer, Queue,
};

use super::{producer_to, publish};
use crate::Broker;
use crate::expect::{assert_refused, assert_unsupported, info};

pub mod auto_delete;
pub mod consumer_priorities;
pub mod counts;
pub mod custom_kinds;
pub mod cycles;
pub mod delayed_publishing;
pub mod delayed_retries;
pub mod delivery_limits;
pub mod dying;
pub mod exclusive;
pub mod exclusive_consumers;
pub mod expiry;
pub mod immediate;
pub mod length_limits;
pub mod no_local;
pub mod priorities;
pub mod queue_expiry;
pub mod refusing_queues;
pub mod single_active_consumer;
pub mod time_to_live;

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
    let found = connection.queue_info("jobs").await;
    assert_refused(found, ErrorKind::NotFound, 404);
    // Where it is, it is left alone.
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    assert_unsupported(open().await);
    assert_eq!(info(connection, "jobs").await.consumers, 0);
    None
}

/// The same for a queue that needs several features, in the order in which a transport looks at them.
async fn has_queue_with(connection: &Connection, features: &[Feature], queue: &Queue) -> bool {
    let capabilities = connection.capabilities();
    let missing = features.iter().find(|feature| !capabilities.has(**feature));
    has_queue(connection, *missing.unwrap_or(&features[0]), queue).await
}

/// Whether messages can ask for a feature. Where they can't, one that does has to be refused.
async fn takes(connection: &Connection, feature: Feature) -> bool {
    if connection.capabilities().has(feature) {
        return true;
    }
    let producer = producer_to(connection, "nowhere").await;
    let publish = producer.publish_text("refused").allow_unroutable();
    let publish = match feature {
        Feature::MessageTtl => publish.expiration(SOON),
        Feature::DelayedPublish => publish.delay(SOON),
        feature => panic!("messages don't ask for {feature}"),
    };
    let error = assert_unsupported(publish.await);
    assert!(error.to_string().contains(&feature.to_string()), "{error}");
    false
}

/// The same for retries with a delay. A delivery whose retry is refused is back.
async fn retries_later(connection: &Connection) -> bool {
    if connection.capabilities().has(Feature::DelayedRetry) {
        return true;
    }
    let queue = Queue::new("refusing");
    connection.declare_queue(&queue).await.unwrap();
    publish(connection, "refusing", ["again"]).await;
    let delivery = connection.get("refusing").await.unwrap().unwrap();
    assert_unsupported(delivery.retry_after(SOON).confirmed().await);
    assert_eq!(info(connection, "refusing").await.ready, 1);
    false
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

/// Soon over.
const SOON: Duration = Duration::from_millis(20);

/// Long enough that one use of a queue follows another in time, short enough to wait for.
fn a_while(broker: &Broker) -> Duration {
    Duration::from_millis(400) + 4 * broker.lag()
}

/// Over when no case runs any more.
const LONG: Duration = Duration::from_secs(3600);

/// Waits until the queue has no ready message.
async fn until_empty(connection: &Connection, queue: &str) {
    while info(connection, queue).await.ready > 0 {
        tokio::task::yield_now().await;
    }
}

/// Waits until the broker has heard of what was settled: nothing that every broker shows tells of it.
async fn until_heard(broker: &Broker) {
    tokio::time::sleep(broker.lag()).await;
}

/// Waits until this time to live is over for everything that was published before.
async fn until_over(connection: &Connection, time_to_live: Duration) {
    let witness = Queue::new("witness").message_ttl(time_to_live);
    connection.declare_queue(&witness).await.unwrap();
    publish(connection, "witness", ["still there?"]).await;
    until_empty(connection, "witness").await;
}

/// Publishes messages that expire soon until one is taken before it does.
async fn take_in_time(connection: &Connection, producer: &Producer, queue: &str) -> Delivery {
    for attempt in 0.. {
        let publish = producer.publish_text(format!("attempt {attempt}"));
        publish.expiration(SOON).await.unwrap();
        if let Some(delivery) = connection.get(queue).await.unwrap() {
            return delivery;
        }
    }
    panic!("each of very many messages expired first")
}

/// Waits until there is no queue of this name.
async fn until_gone(connection: &Connection, queue: &str) {
    // Publishing isn't a use that would keep a queue alive.
    let producer = producer_to(connection, queue).await;
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

//! What is deleted with its last user.

use kombu_core::driver::Feature;
use kombu_core::{Binding, Connection, ErrorKind, Exchange, Queue};

use super::{has_exchange, has_queue, until_gone};
use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect_one, info};

/// Whether the exchange is there.
async fn is_there(connection: &Connection, exchange: &Exchange) -> bool {
    let asked = Exchange::fanout(exchange.name()).passive();
    match connection.declare_exchange(&asked).await {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            false
        }
    }
}

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

/// Without one, it waits for its first.
pub async fn an_exchange_that_never_had_a_binding_stays(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &news).await {
        return;
    }
    // Others come and go.
    let other = Queue::new("other").bind(Exchange::fanout("else"), "");
    connection.declare_queue(&other).await.unwrap();
    connection.delete_queue("other").await.unwrap();
    assert!(is_there(&connection, &news).await);
}

/// It doesn't matter how the last one went.
pub async fn an_exchange_goes_when_its_last_binding_is_removed(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &news).await {
        return;
    }
    let jobs = Queue::new("jobs").bind(&news, "one").bind(&news, "other");
    connection.declare_queue(&jobs).await.unwrap();
    for (key, stays) in [("one", true), ("other", false)] {
        let binding = Binding::new(&news, key);
        connection.unbind_queue("jobs", &binding).await.unwrap();
        assert_eq!(is_there(&connection, &news).await, stays);
    }
    assert_eq!(info(&connection, "jobs").await.ready, 0);
}

/// A binding to an exchange is one, too; and with that exchange, it goes.
pub async fn exchanges_go_one_after_the_other(broker: &Broker) {
    let connection = broker.connect().await;
    let first = Exchange::fanout("first").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &first).await
        || !connection.capabilities().has(Feature::ExchangeBinding)
    {
        return;
    }
    let second = Exchange::fanout("second").auto_delete(true);
    let second = second.bind(&first, "");
    let third = Exchange::fanout("third").auto_delete(true);
    let third = third.bind(&second, "");
    let jobs = Queue::new("jobs").bind(&third, "");
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(&first).await.unwrap();
    assert!(producer.publish_text("0").await.unwrap().routed);
    connection.delete_queue("jobs").await.unwrap();
    for exchange in [&first, &second, &third] {
        assert!(!is_there(&connection, exchange).await, "{exchange:?}");
    }
}

/// The one whose other ways led to the same end.
pub async fn an_exchange_goes_when_all_of_its_ways_are_gone(broker: &Broker) {
    let connection = broker.connect().await;
    let source = Exchange::fanout("source").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &source).await
        || !connection.capabilities().has(Feature::ExchangeBinding)
    {
        return;
    }
    let branches = ["left", "right"].map(|name| {
        let branch = Exchange::fanout(name).auto_delete(true);
        branch.bind(&source, "")
    });
    let jobs = Queue::new("jobs").bind(&source, "");
    let jobs = jobs.bind(&branches[0], "").bind(&branches[1], "");
    connection.declare_queue(&jobs).await.unwrap();
    connection.delete_queue("jobs").await.unwrap();
    for exchange in branches.iter().chain([&source]) {
        assert!(!is_there(&connection, exchange).await, "{exchange:?}");
    }
}

/// As long as one way is left, and whatever is no such exchange.
pub async fn exchanges_with_another_use_stay(broker: &Broker) {
    let connection = broker.connect().await;
    let used = Exchange::fanout("used").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &used).await
        || !connection.capabilities().has(Feature::ExchangeBinding)
    {
        return;
    }
    let kept = Exchange::fanout("kept");
    let unused = Exchange::fanout("unused").auto_delete(true);
    let unused = unused.bind(&used, "").bind(&kept, "");
    let jobs = Queue::new("jobs").bind(&unused, "").bind(&kept, "");
    connection.declare_queue(&jobs).await.unwrap();
    let other = Queue::new("other").bind(&used, "");
    connection.declare_queue(&other).await.unwrap();
    connection.delete_queue("jobs").await.unwrap();
    assert!(!is_there(&connection, &unused).await);
    assert!(is_there(&connection, &used).await);
    assert!(is_there(&connection, &kept).await);
    let producer = connection.producer(&used).await.unwrap();
    assert!(producer.publish_text("0").await.unwrap().routed);
}

/// The bindings from a queue's side: an exchange that is deleted leaves those that led to it without one.
pub async fn an_exchange_goes_with_the_exchange_that_it_led_to(broker: &Broker) {
    let connection = broker.connect().await;
    let source = Exchange::fanout("source").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &source).await
        || !connection.capabilities().has(Feature::ExchangeBinding)
    {
        return;
    }
    let archive = Exchange::fanout("archive").bind(&source, "");
    connection.declare_exchange(&archive).await.unwrap();
    connection.delete_exchange("archive").await.unwrap();
    assert!(!is_there(&connection, &source).await);
}

/// Whether it was cancelled or not.
pub async fn a_queue_goes_with_the_connection_of_its_last_consumer(broker: &Broker) {
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs").auto_delete(true);
    if !has_queue(&connection, Feature::AutoDelete, &jobs).await {
        return;
    }
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    publish(&other, "jobs", ["unsettled", "ready"]).await;
    let delivery = collect_one(&mut consumer).await;
    connection.close().await.unwrap();
    until_gone(&other, "jobs").await;
    drop((consumer, delivery));
}

/// A single get isn't one.
pub async fn a_single_get_is_no_consumer(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs").auto_delete(true);
    if !has_queue(&connection, Feature::AutoDelete, &jobs).await {
        return;
    }
    publish(&connection, "jobs", ["0"]).await;
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    delivery.ack().confirmed().await.unwrap();
    assert!(connection.get("jobs").await.unwrap().is_none());
    assert_eq!(info(&connection, "jobs").await.consumers, 0);
}

/// Its bindings go with it, and what was there for them.
pub async fn a_queue_takes_its_exchange_along(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news").auto_delete(true);
    if !has_exchange(&connection, Feature::AutoDelete, &news).await {
        return;
    }
    let jobs = Queue::new("jobs").auto_delete(true).bind(&news, "");
    let consumer = connection.consumer(&jobs).await.unwrap();
    assert!(is_there(&connection, &news).await);
    consumer.cancel().await.unwrap();
    until_gone(&connection, "jobs").await;
    assert!(!is_there(&connection, &news).await);
}

//! A queue is declared as often as you like, but only as what it is.

use std::collections::HashSet;

use kombu_core::driver::Feature;
use kombu_core::{Connection, ErrorKind, Exchange, Queue};

use super::assert_works;
use crate::Broker;
use crate::expect::{assert_refused, collect, drain, texts};

/// Redeclares `jobs` otherwise than it is: 406, the attribute by its name, and the queue as it was.
async fn assert_differs(broker: &Broker, other: &Queue, attribute: &str) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("kept")
        .routing_key("jobs")
        .await
        .unwrap();
    let declared = connection.declare_queue(other).await;
    let error = assert_refused(declared, ErrorKind::PreconditionFailed, 406);
    let text = error.to_string();
    for part in ["`jobs`", attribute] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    let consumer = connection.consumer(other).await;
    assert_refused(consumer, ErrorKind::PreconditionFailed, 406);
    assert_works(&connection).await;
    assert_eq!(texts(&drain(&connection, "jobs").await), ["kept"]);
}

/// What is in it stays, and the answer counts it.
pub async fn an_equal_declaration_succeeds_again_and_keeps_the_messages(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    let jobs = Queue::new("jobs");
    assert_eq!(one.declare_queue(&jobs).await.unwrap().ready, 0);
    let producer = one.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("kept")
        .routing_key("jobs")
        .await
        .unwrap();
    assert_eq!(other.declare_queue(&jobs).await.unwrap().ready, 1);
    assert_eq!(texts(&drain(&other, "jobs").await), ["kept"]);
}

/// The answer has the name, and how many messages and consumers there are.
pub async fn the_answer_counts_messages_and_consumers(broker: &Broker) {
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs");
    let info = connection.declare_queue(&jobs).await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.ready, info.consumers),
        ("jobs", 0, 0)
    );
    let mut consumer = connection.consumer(&jobs).prefetch(2).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for text in ["one", "two", "three"] {
        producer
            .publish_text(text)
            .routing_key("jobs")
            .await
            .unwrap();
    }
    let held = collect(&mut consumer, 2).await;
    broker.assert_counts(&connection, "jobs", 1, 2).await;
    let info = connection.declare_queue(&jobs).await.unwrap();
    assert_eq!((info.ready, info.consumers), (1, 1));
    drop(held);
}

/// Durable here, and not durable there.
pub async fn another_durability_is_refused_by_name(broker: &Broker) {
    let other = Queue::new("jobs").durable(false);
    assert_differs(broker, &other, "`durable`").await;
}

/// RabbitMQ's `x-queue-type`.
pub async fn another_type_is_refused_by_name(broker: &Broker) {
    assert_differs(broker, &Queue::new("jobs").quorum(), "`type`").await;
}

/// A dead-letter exchange that wasn't there.
pub async fn another_dead_letter_exchange_is_refused_by_name(broker: &Broker) {
    let connection = broker.connect().await;
    let other = Queue::new("jobs").dead_letter_exchange("failed");
    if connection.capabilities().has(Feature::DeadLetter) {
        assert_differs(broker, &other, "`dead_letter_exchange`").await;
    } else {
        crate::expect::assert_unsupported(connection.declare_queue(&other).await);
    }
}

/// A time to live that wasn't there.
pub async fn another_message_ttl_is_refused_by_name(broker: &Broker) {
    let connection = broker.connect().await;
    let other = Queue::new("jobs").message_ttl(std::time::Duration::from_secs(60));
    if connection.capabilities().has(Feature::QueueMessageTtl) {
        assert_differs(broker, &other, "`message_ttl`").await;
    } else {
        crate::expect::assert_unsupported(connection.declare_queue(&other).await);
    }
}

/// What the client alone cares about isn't compared.
pub async fn client_side_attributes_may_differ(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let other = Queue::new("jobs")
        .alias("work")
        .no_ack(true)
        .consumer_argument("x-note", 1);
    connection.declare_queue(&other).await.unwrap();
}

/// The default type is classic, whether it is said or not.
pub async fn a_classic_queue_equals_one_that_does_not_say_so(broker: &Broker) {
    let connection = broker.connect().await;
    connection
        .declare_queue(&Queue::new("jobs").classic())
        .await
        .unwrap();
    connection
        .declare_queue(&Queue::new("jobs").classic())
        .await
        .unwrap();
    let argument = Queue::new("jobs").argument("x-queue-type", "classic");
    connection.declare_queue(&argument).await.unwrap();
}

/// A hundred queues without a name are a hundred queues.
pub async fn queues_without_a_name_get_distinct_ones(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    let mut names = HashSet::new();
    for connection in [&one, &other].into_iter().cycle().take(100) {
        let info = connection
            .declare_queue(&Queue::server_named())
            .await
            .unwrap();
        assert!(!info.name.is_empty());
        names.insert(info.name);
    }
    assert_eq!(names.len(), 100);
}

/// The name in the answer is one to publish to and to read from.
pub async fn a_queue_that_got_its_name_is_used_by_it(broker: &Broker) {
    let connection = broker.connect().await;
    let name = connection
        .declare_queue(&Queue::server_named())
        .await
        .unwrap()
        .name;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("found")
        .routing_key(&name)
        .await
        .unwrap();
    assert_eq!(texts(&drain(&connection, &name).await), ["found"]);
}

/// Opening a consumer declares queue, exchange and binding.
pub async fn a_consumer_declares_its_queue_with_exchange_and_binding(broker: &Broker) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "video.#");
    let mut consumer = connection.consumer(&videos).await.unwrap();
    let other: Connection = broker.connect().await;
    let producer = other.producer(media.passive()).await.unwrap();
    producer
        .publish_text("seen")
        .routing_key("video.new")
        .await
        .unwrap();
    assert_eq!(texts(&collect(&mut consumer, 1).await), ["seen"]);
}

/// A declaration that can't be is refused before its first part is there.
pub async fn nothing_of_a_refused_declaration_is_made(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("amq.mine").bind(Exchange::topic("media"), "#");
    let declared = connection.declare_queue(&queue).await;
    assert_refused(declared, ErrorKind::AccessRefused, 403);
    let exchange = connection
        .declare_exchange(&Exchange::topic("media").passive())
        .await;
    assert_refused(exchange, ErrorKind::NotFound, 404);
}

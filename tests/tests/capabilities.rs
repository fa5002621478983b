//! What transports say that they can do, against the fixed table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Capabilities, ErrorKind, Event, Exchange, Faults, Feature, Queue, Support};
use kombu_testkit::expect::assert_unsupported;
use kombu_testkit::{Harness, table};
use kombu_tests::{AmqpHarness, MemoryHarness, RedisHarness};

#[tokio::test]
async fn memory_is_capable_of_what_the_table_says_with_a_connection_and_without() {
    assert_capable(&MemoryHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn rabbitmq_is_capable_of_what_the_table_says_with_a_connection_and_without() {
    assert_capable(&AmqpHarness::new()).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn redis_is_capable_of_what_the_table_says_with_a_connection_and_without() {
    assert_capable(&RedisHarness::new()).await;
}

async fn assert_capable(harness: &impl Harness) {
    let transport = harness.name();
    let before = kombu::registry().capabilities(transport).unwrap();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    assert_eq!(*connection.capabilities(), before);
    assert_as_in_table(transport, &before);
}

/// What Redis lacks is refused on it as on memory that is like it.
#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test against")]
async fn redis_refuses_what_memory_like_it_refuses() {
    let broker = RedisHarness::new().broker().await;
    let memory = kombu::connect("memory://?like=redis").await.unwrap();
    let mut refusals = Vec::new();
    for connection in [broker.connect().await, memory] {
        let higher = Queue::new("higher").max_priority(10);
        let higher = assert_unsupported(connection.declare_queue(&higher).await);
        let jobs = Queue::new("jobs");
        let preferred = connection.consumer(&jobs).priority(1).await;
        let preferred = assert_unsupported(preferred);
        let producer = connection.producer(Exchange::default()).await.unwrap();
        let immediate = producer.publish(&1).routing_key("jobs").immediate(true);
        let immediate = assert_unsupported(immediate.await);
        refusals.push([higher, preferred, immediate].map(|error| error.to_string()));
    }
    assert_eq!(refusals[0], refusals[1]);
}

/// Compares with a transport's column.
fn assert_as_in_table(transport: &str, found: &Capabilities) {
    assert_eq!(table::differences(transport, found), Vec::<String>::new());
}

#[tokio::test]
async fn memory_that_is_like_another_transport_is_capable_of_what_that_is() {
    for transport in table::TRANSPORTS {
        let url = match transport {
            "memory" => "memory://".to_owned(),
            other => format!("memory://?like={other}"),
        };
        let connection = kombu::connect(url).await.unwrap();
        assert_as_in_table(transport, connection.capabilities());
    }
}

#[tokio::test]
async fn memory_that_is_like_another_transport_refuses_what_that_lacks() {
    let redis = kombu::connect("memory://?like=redis").await.unwrap();
    let highest = Queue::new("highest").max_priority(9);
    redis.declare_queue(&highest).await.unwrap();
    let higher = Queue::new("higher").max_priority(10);
    let error = assert_unsupported(redis.declare_queue(&higher).await);
    assert!(error.to_string().contains("up to 9"), "{error}");

    let nats = kombu::connect("memory://?like=nats").await.unwrap();
    let producer = nats.producer(Exchange::fanout("news")).await.unwrap();
    let largest = producer.publish_bytes(vec![0; 1024 * 1024]);
    largest.await.unwrap();
    let larger = producer.publish_bytes(vec![0; 1024 * 1024 + 1]).await;
    assert_eq!(larger.unwrap_err().kind(), ErrorKind::TooLarge);
    let raised = "memory://?like=nats&max_message_size=2000000";
    let raised = kombu::connect(raised).await.unwrap();
    let producer = raised.producer(Exchange::fanout("news")).await.unwrap();
    let larger = producer.publish_bytes(vec![0; 1024 * 1024 + 1]);
    larger.await.unwrap();
}

/// A transport that is like another one has its limits after a reconnect, too.
#[tokio::test(start_paused = true)]
async fn memory_is_like_the_other_transport_in_its_next_session_as_well() {
    let faults = Faults::default();
    let redis = kombu::Connection::builder(kombu::registry())
        .url("memory://?like=redis")
        .layer(faults.clone())
        .await
        .unwrap();
    let mut events = redis.events();
    faults.cut();
    while !matches!(events.next().await, Some(Event::Restored { .. })) {}
    let higher = Queue::new("higher").max_priority(10);
    assert_unsupported(redis.declare_queue(&higher).await);
}

#[tokio::test]
async fn an_unknown_transport_to_be_like_is_refused_with_the_nearest_known_one() {
    for (written, hint) in [
        ("reddis", "did you mean `redis`?"),
        ("ampq", "did you mean `amqp`?"),
        ("kafka", "must be one of amqp, redis, nats"),
    ] {
        let refused = kombu::connect(format!("memory://?like={written}")).await;
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[test]
fn the_table_finds_what_is_claimed_too_much_and_too_little() {
    let amqp = table::of("amqp").unwrap();
    assert!(table::differences("amqp", &amqp).is_empty());
    let more = amqp.native(Feature::Immediate);
    let less = amqp.without(Feature::DeadLetter);
    let otherwise = amqp.native(Feature::DelayedPublish);
    let smaller = amqp.with_max_priority(9);
    for (wrong, part) in [
        (more, "unsupported expected, native found"),
        (less, "native expected, unsupported found"),
        (otherwise, "emulated expected, native found"),
        (smaller, "255 expected, 9 found"),
    ] {
        let differences = table::differences("amqp", &wrong);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert!(differences[0].contains(part), "{differences:?}");
    }
    assert_eq!(amqp.support(Feature::Immediate), Support::Unsupported);
}

/// The check lies around the transport, whoever asks.
#[tokio::test]
async fn what_is_unsupported_is_refused_before_the_transport_sees_it() {
    let awkward = kombu_testkit::awkward::Awkward::default();
    let registry = kombu::Registry::new().with(awkward);
    let connection = kombu::Connection::builder(registry)
        .url("awkward://refusing")
        .await
        .unwrap();
    let queue = Queue::new("jobs").single_active_consumer(true);
    let error = assert_unsupported(connection.declare_queue(&queue).await);
    assert!(
        error.to_string().contains("single active consumers"),
        "{error}"
    );
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let immediate = producer.publish(&1).routing_key("jobs").immediate(true);
    let error = assert_unsupported(immediate.await);
    assert!(
        error.to_string().contains("immediate publishing"),
        "{error}"
    );
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

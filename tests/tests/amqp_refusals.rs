//! RabbitMQ closes a channel to say no: what a refusal costs, and whom it disturbs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Connection, DeclareMode, ErrorKind, Event, Events, Exchange, Queue};
use kombu_testkit::expect::assert_refused;
use kombu_testkit::{Broker, Harness};
use kombu_tests::AmqpHarness;

/// A connection with so many channels at most.
async fn connect_with_channels(harness: &AmqpHarness, broker: &Broker, most: u32) -> Connection {
    Connection::builder(harness.registry())
        .url(format!("{}?channel_max={most}", broker.url()))
        .await
        .unwrap()
}

/// Fails if the session was lost until now.
async fn assert_not_lost(events: &mut Events) {
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn refusals_use_no_channels_up_and_disturb_nobody() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = connect_with_channels(&harness, &broker, 8).await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let own = Queue::new("own").exclusive(true);
    connection.declare_queue(&own).await.unwrap();
    producer.publish(&1).await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    for _ in 0..30 {
        let error = connection.get("nowhere").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::NotFound, Some(404))
        );
        let other = jobs.clone().max_length(7);
        let error = connection.declare_queue(&other).await.unwrap_err();
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::PreconditionFailed, Some(406)), "{error}");
        // What belongs to the connection still does.
        assert_eq!(connection.queue_info("own").await.unwrap().ready, 0);
    }
    let more = connection.consumer(&Queue::new("more")).await.unwrap();
    more.cancel().await.unwrap();
    held.ack().confirmed().await.unwrap();
    producer.publish(&2).await.unwrap();
    let next = consumer.try_next().await.unwrap().unwrap();
    assert!(!next.redelivered());
    next.ack().await.unwrap();
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_thousand_failing_declarations_leave_no_channel_behind() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let other = jobs.clone().max_length(7);
    for _ in 0..1000 {
        let error = connection.declare_queue(&other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    }
    // One for the consumer, and at most one each for declarations and for signs of life.
    harness.until_channels(&broker, 1..=3).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish(&1).routing_key("jobs");
    publish.await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    delivery.ack().await.unwrap();
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn what_rabbitmq_closes_connections_over_disturbs_nobody() {
    let broker = AmqpHarness::new().broker().await;
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("jobs").await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    // Our session can't know of which type it is.
    let quorum = Queue::new("quorum").quorum();
    other.declare_queue(&quorum).await.unwrap();
    for _ in 0..2 {
        let error = connection.delete_queue("quorum").if_empty().await;
        assert_refused(error, ErrorKind::Unsupported, 540);
        let error = connection.delete_queue("quorum").if_unused().await;
        assert_refused(error, ErrorKind::Unsupported, 540);
        let unknown = Exchange::custom("x-unheard-of", "odd");
        let error = connection.declare_exchange(&unknown).await.unwrap_err();
        // Since RabbitMQ 4 it closes the channel only.
        assert!(matches!(error.code(), Some(503 | 406)), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    held.ack().confirmed().await.unwrap();
    assert_eq!(connection.delete_queue("jobs").if_empty().await.unwrap(), 0);
    assert_not_lost(&mut events).await;
}

/// What RabbitMQ may close the connection over is asked for on another one.
#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_broker_that_takes_no_further_connection_disturbs_nobody() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = connect_with_channels(&harness, &broker, 16).await;
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("jobs").await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    harness.limit_connections(&broker, 1);
    for _ in 0..2 {
        let error = connection.delete_queue("jobs").if_unused().await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("limit"), "{error}");
    }
    // Refusals that would be asked for on a further connection, too.
    for _ in 0..10 {
        let error = connection.get("nowhere").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    held.ack().confirmed().await.unwrap();
    assert_not_lost(&mut events).await;
    harness.limit_connections(&broker, 100);
    connection
        .delete_queue("jobs")
        .if_unused()
        .await
        .unwrap_err();
    consumer.cancel().await.unwrap();
    connection.delete_queue("jobs").if_unused().await.unwrap();
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_session_without_channels_is_replaced() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = connect_with_channels(&harness, &broker, 8).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let (other, taken) = (broker.connect().await, Queue::new("taken"));
    let _only = other.consumer(&taken).exclusive(true).await.unwrap();
    // A refused consumer costs a channel of the connection that everything else is on.
    for _ in 0..30 {
        let error = connection.consumer(&taken).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::AccessRefused, Some(403))
        );
    }
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish(&1).routing_key("jobs");
    publish.await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    delivery.ack().confirmed().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn publishes_to_an_exchange_that_somebody_deletes_are_refused_and_disturb_nobody() {
    let broker = AmqpHarness::new().broker().await;
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let mut events = connection.events();
    // A name with what RabbitMQ puts around names.
    let doomed = Exchange::fanout("john's exchange");
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    let mut consumer = connection.consumer(&Queue::new("mine")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("mine").await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    for every in [1000, 100] {
        // Not by the one that publishes, whose next session would bring it back.
        other.declare_exchange(&doomed).await.unwrap();
        let doomed = doomed.clone().no_declare();
        // Known to be there.
        producer.publish(&0).exchange(&doomed).await.unwrap();
        other.delete_exchange(doomed.name().clone()).await.unwrap();
        let mut receipts = Vec::new();
        for number in 0..1000 {
            let publish = producer.publish(&number).routing_key("jobs");
            let publish = match number % every {
                50 => publish.exchange(&doomed),
                _ => publish,
            };
            receipts.push((number, publish.send().await.unwrap()));
        }
        let mut resent = 0;
        for (number, receipt) in receipts {
            match receipt.await {
                Ok(published) => {
                    assert!(published.routed && number % every != 50, "{number}");
                    // Behind the last one that is refused the broker had looked at nothing.
                    assert!(!published.resent || number < 1000 - every + 50, "{number}");
                    resent += u64::from(published.resent);
                }
                Err(error) => {
                    let found = (number % every, error.kind());
                    assert_eq!(found, (50, ErrorKind::NotFound), "{error}");
                    // Of several, the first may have come before the exchange was gone, for all we know.
                    assert!(!error.may_have_been_stored() || every == 100);
                }
            }
        }
        let right = 1000 - 1000 / every;
        let stored = connection.purge("jobs").await.unwrap();
        assert!(
            (right..=right + resent).contains(&stored),
            "{stored}, {resent} resent"
        );
    }
    held.ack().confirmed().await.unwrap();
    assert_not_lost(&mut events).await;
}

/// So much is written behind the answer to the refusal that RabbitMQ closes the connection.
#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_refusal_before_more_than_is_written_at_once_disturbs_nobody() {
    let broker = AmqpHarness::new().broker().await;
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let mut events = connection.events();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let doomed = Exchange::fanout("doomed");
    let undeclared = doomed.clone().no_declare();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let innocent = connection.producer(Exchange::default());
    let innocent = innocent.routing_key("jobs").await.unwrap();
    producer.publish(&"held").await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    for _ in 0..5 {
        other.declare_exchange(&doomed).await.unwrap();
        producer.publish(&"").exchange(&undeclared).await.unwrap();
        other.delete_exchange("doomed").await.unwrap();
        let mut receipts = Vec::new();
        for number in 0..50 {
            let large = "x".repeat(1 << 18);
            let publish = producer.publish(&large);
            let publish = match number {
                5 => publish.exchange(&undeclared),
                _ => publish,
            };
            receipts.push((number, publish.send().await.unwrap()));
            let publish = innocent.publish(&"small");
            receipts.push((100, publish.send().await.unwrap()));
        }
        let mut resent = 0;
        for (number, receipt) in receipts {
            match receipt.await {
                Ok(published) => {
                    assert!(published.routed && number != 5);
                    // Behind the refused one nothing of this producer's was looked at.
                    assert!(!published.resent || !(6..100).contains(&number), "{number}");
                    resent += u64::from(published.resent);
                }
                Err(error) => {
                    let found = (number, error.kind(), error.may_have_been_stored());
                    assert_eq!(found, (5, ErrorKind::NotFound, false), "{error}");
                }
            }
        }
        assert_not_lost(&mut events).await;
        let stored = connection.purge("jobs").await.unwrap();
        assert!(
            (99..=99 + resent).contains(&stored),
            "{stored}, {resent} resent"
        );
    }
    held.ack().confirmed().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_key_that_is_not_permitted_is_refused_and_no_other() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = broker.connect().await;
    let news = Exchange::topic("news");
    let jobs = Queue::new("jobs").bind(&news, "#");
    connection.declare_queue(&jobs).await.unwrap();
    let url = harness.user(&broker, [".*"; 3]);
    harness.permit_keys(&broker, "news", "^open");
    let other = Connection::builder(harness.registry())
        .url(url)
        .await
        .unwrap();
    let mut events = other.events();
    let producer = other
        .producer(&news)
        .declare(DeclareMode::Never)
        .await
        .unwrap();
    producer.publish(&0).routing_key("open").await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..200 {
        let key = if number == 100 { "closed" } else { "open" };
        let publish = producer.publish(&number).routing_key(key);
        receipts.push((number, publish.send().await.unwrap()));
    }
    for (number, receipt) in receipts {
        match receipt.await {
            Ok(published) => {
                assert!(published.routed && number != 100, "{number}");
                assert!(!published.resent || number < 100, "{number}");
            }
            Err(error) => {
                let found = (number, error.kind(), error.may_have_been_stored());
                assert_eq!(found, (100, ErrorKind::AccessRefused, false), "{error}");
            }
        }
    }
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_refusal_that_cannot_be_read_is_told_to_whom_it_concerns() {
    let broker = AmqpHarness::new().broker().await;
    let (connection, other) = (broker.connect().await, broker.connect().await);
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    // Where its name ends in RabbitMQ's text, nobody can tell.
    let odd = Exchange::fanout("odd' in vhost 'odd");
    other.declare_exchange(&odd).await.unwrap();
    let odd = odd.no_declare();
    producer.publish(&0).exchange(&odd).await.unwrap();
    other.delete_exchange(odd.name().clone()).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..100 {
        let publish = producer.publish(&number);
        let publish = match number {
            40 | 99 => publish.exchange(&odd),
            _ => publish,
        };
        receipts.push((number, publish.send().await.unwrap()));
    }
    for (number, receipt) in receipts {
        match receipt.await {
            Ok(published) => assert!(published.routed && ![40, 99].contains(&number)),
            Err(error) => {
                assert!([40, 99].contains(&number), "{number}: {error}");
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            }
        }
    }
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_user_who_may_not_publish_to_the_default_exchange_is_told_so() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = Connection::builder(harness.registry())
        .url(harness.user(&broker, [".*", "jobs", ".*"]))
        .await
        .unwrap();
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for _ in 0..2 {
        let refused = producer.publish(&1).routing_key("jobs").await;
        let error = assert_refused(refused, ErrorKind::AccessRefused, 403);
        assert!(!error.may_have_been_stored());
    }
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn headers_that_rabbitmq_closes_the_connection_over_are_not_sent() {
    let broker = AmqpHarness::new().broker().await;
    let connection = broker.connect().await;
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    // With the header's name, its length and everything around it.
    let fits = |text: usize| {
        producer
            .publish(&1)
            .header("large", "x".repeat(text))
            .message_id("1")
    };
    let mut largest = 131_072 - 200;
    while fits(largest).await.is_ok() {
        largest += 1;
        assert!(largest < 131_072);
    }
    let error = fits(largest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(!error.may_have_been_stored());
    for number in [f64::NAN, f64::INFINITY] {
        let refused = producer.publish(&1).header("number", number).await;
        let error = assert_refused(refused, ErrorKind::Unsupported, None);
        assert!(!error.may_have_been_stored());
    }
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_user_id_that_is_not_ours_is_refused_and_no_other_publish() {
    let broker = AmqpHarness::new().broker().await;
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let honest = producer.publish(&1).routing_key("jobs").user_id("guest");
    honest.await.unwrap();
    let forged = producer.publish(&2).routing_key("jobs").user_id("somebody");
    let error = forged.await.unwrap_err();
    let found = (error.kind(), error.code());
    assert_eq!(found, (ErrorKind::PreconditionFailed, Some(406)), "{error}");
    let after = producer.publish(&3).routing_key("jobs");
    assert!(!after.await.unwrap().resent);
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 2);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_refused_get_costs_nobody_what_was_gotten_from_another_queue() {
    let broker = AmqpHarness::new().broker().await;
    let connection = broker.connect().await;
    let mut events = connection.events();
    // Where only one consumer is active, RabbitMQ refuses gets.
    let single = Queue::new("single").quorum().single_active_consumer(true);
    for queue in [Queue::new("jobs"), single] {
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&1).await.unwrap();
    let held = connection.get("jobs").await.unwrap().unwrap();
    for _ in 0..3 {
        let error = connection.get("single").await.unwrap_err();
        let found = (error.kind(), error.code());
        assert_eq!(found, (ErrorKind::ResourceLocked, Some(405)), "{error}");
    }
    assert!(connection.get("jobs").await.unwrap().is_none());
    held.ack().confirmed().await.unwrap();
    broker.assert_counts(&connection, "jobs", 0, 0).await;
    assert_not_lost(&mut events).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn gets_from_many_queues_take_few_channels() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let connection = connect_with_channels(&harness, &broker, 16).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for round in 0..2 {
        for number in 0..20 {
            let name = format!("jobs {number}");
            connection
                .declare_queue(&Queue::new(name.as_str()))
                .await
                .unwrap();
            let publish = producer.publish(&round).routing_key(name.as_str());
            publish.await.unwrap();
            let delivery = connection.get(name.as_str()).await.unwrap().unwrap();
            assert_eq!(delivery.decode::<u32>().unwrap(), round);
            delivery.ack().confirmed().await.unwrap();
        }
    }
}

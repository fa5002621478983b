//! What takes RabbitMQ or its users too long: it closes the channel of a consumer that holds a delivery, and a queue may not
//! answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kombu::{Connection, Deadlines, ErrorKind, Event, Exchange, Queue};
use kombu_testkit::Harness;
use kombu_testkit::brokers::RabbitMq;
use kombu_testkit::expect::collect_one;
use kombu_tests::{AmqpHarness, OnReceived};

/// A RabbitMQ that looks every 200 ms for what is held longer than this.
fn impatient(patience: u64) -> RabbitMq {
    let broker = RabbitMq::start().unwrap();
    for (setting, millis) in [
        ("consumer_timeout", patience),
        ("channel_tick_interval", 200),
    ] {
        let set = format!("application:set_env(rabbit, {setting}, {millis}).");
        broker.ctl(["eval", &set]).unwrap();
    }
    broker
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_delivery_that_is_held_too_long_comes_again_and_its_consumer_goes_on() {
    let broker = impatient(500);
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .await
        .unwrap();
    let mut events = connection.events();
    let queues = [Queue::new("slow"), Queue::new("other")];
    let mut consumer = connection.consumer(&queues).prefetch(2).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish(&1).routing_key("slow");
    publish.await.unwrap();
    let held = collect_one(&mut consumer).await;
    // The same message, as soon as the broker has taken it away.
    let again = collect_one(&mut consumer).await;
    assert_eq!(
        (again.queue().as_str(), again.redelivered()),
        ("slow", true)
    );
    assert_eq!(held.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    again.ack().confirmed().await.unwrap();
    // Its place in the window is free again, and the session is the same.
    for queue in ["slow", "other"] {
        for number in 0..10 {
            let publish = producer.publish(&number).routing_key(queue);
            publish.await.unwrap();
            let delivery = collect_one(&mut consumer).await;
            assert_eq!(delivery.queue(), queue);
            delivery.ack().await.unwrap();
        }
    }
    connection.close().await.unwrap();
    drop((consumer, producer, connection));
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

/// The broker takes it back long before the consumer would, again and again.
#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn what_is_held_too_long_because_it_cannot_be_decoded_ends_no_consumer() {
    let broker = impatient(2_000);
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .await
        .unwrap();
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).prefetch(2).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&"no number").await.unwrap();
    for number in 0..4 {
        let poison = collect_one(&mut consumer).await;
        assert_eq!(poison.redelivered(), number > 0);
        drop(poison.take::<u32>().unwrap_err());
        producer.publish(&number).await.unwrap();
        let (other, delivery) = collect_one(&mut consumer).await.take::<u32>().unwrap();
        assert_eq!(other, number);
        delivery.ack().confirmed().await.unwrap();
    }
}

/// Since the broker sent it, whether somebody asked for it or not.
#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_message_says_how_long_it_waited_for_its_consumer() {
    let broker = RabbitMq::start().unwrap();
    let registry = AmqpHarness::new().registry();
    let connection = Connection::builder(registry.clone())
        .url(broker.url())
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let waiting = Arc::new(Mutex::new(None));
    let seen = waiting.clone();
    let layer = OnReceived::new(move |one| *seen.lock().unwrap() = Some(one.waited));
    let other = Connection::builder(registry)
        .url(broker.url())
        .layer(layer)
        .await
        .unwrap();
    let mut consumer = other.consumer(&Queue::new("jobs")).await.unwrap();
    let waited = || waiting.lock().unwrap().take().unwrap();

    let begin = Instant::now();
    let (first, _) = tokio::join!(collect_one(&mut consumer), producer.publish(&1));
    assert!(waited() < begin.elapsed());
    first.ack().await.unwrap();

    // Nobody looks at what comes meanwhile, for longer than it was waited for before.
    assert!(consumer.receive(Duration::ZERO).await.unwrap().is_none());
    let begin = Instant::now();
    producer.publish(&2).await.unwrap();
    while connection.queue_info("jobs").await.unwrap().ready > 0 {
        tokio::task::yield_now().await;
    }
    let sent = Instant::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = collect_one(&mut consumer).await;
    let (least, time) = (sent.elapsed() / 2, waited());
    assert!(time > least && time < begin.elapsed(), "{time:?}");
    second.ack().await.unwrap();

    // What the broker says besides, as a window grows, is no message.
    consumer.set_prefetch(2_000);
    let nothing = consumer.receive(Duration::from_secs(2)).await.unwrap();
    assert!(nothing.is_none());
    let begin = Instant::now();
    let (third, _) = tokio::join!(collect_one(&mut consumer), producer.publish(&3));
    assert!(waited() < begin.elapsed());
    third.ack().confirmed().await.unwrap();
    consumer.cancel().await.unwrap();

    // Of a consumer that wasn't asked for anything yet, as well.
    producer.publish(&4).await.unwrap();
    let mut consumer = other.consumer(&Queue::new("jobs")).await.unwrap();
    while connection.queue_info("jobs").await.unwrap().ready > 0 {
        tokio::task::yield_now().await;
    }
    let sent = Instant::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let least = sent.elapsed();
    let fourth = collect_one(&mut consumer).await;
    assert!(waited() >= least);
    fourth.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_single_delivery_that_is_held_too_long_leaves_the_next_ones() {
    let broker = impatient(500);
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    producer.publish(&1).await.unwrap();
    let held = connection.get("jobs").await.unwrap().unwrap();
    // It is back when the broker has closed the channel.
    while connection.queue_info("jobs").await.unwrap().ready == 0 {
        tokio::task::yield_now().await;
    }
    let again = connection.get("jobs").await.unwrap().unwrap();
    assert!(again.redelivered());
    assert_eq!(held.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    again.ack().confirmed().await.unwrap();
    assert!(connection.get("jobs").await.unwrap().is_none());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_queue_that_does_not_answer_costs_neither_the_session_nor_publishes() {
    let broker = RabbitMq::start().unwrap();
    let mut deadlines = Deadlines::default();
    deadlines.liveness = Duration::from_secs(1);
    deadlines.declare = Duration::from_secs(4);
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(broker.url())
        .deadlines(deadlines)
        .await
        .unwrap();
    let mut events = connection.events();
    let news = Exchange::fanout("news");
    connection.declare_exchange(&news).await.unwrap();
    connection
        .declare_queue(&Queue::new("stuck"))
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let suspend = "{ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"stuck\">>)),\
                   sys:suspend(amqqueue:get_pid(Queue)).";
    broker.ctl(["eval", suspend]).unwrap();
    let mut asked = Box::pin(connection.queue_info("stuck"));
    let published = async {
        // To an exchange that this session hasn't published to.
        let publish = producer.publish(&1).exchange(&news);
        publish.await.unwrap()
    };
    tokio::select! {
        biased;
        answer = &mut asked => panic!("a queue that is suspended answers {answer:?}"),
        published = published => assert!(!published.routed),
    }
    // Several times as long as the broker may be silent.
    let error = asked.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

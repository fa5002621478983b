//! RabbitMQ: what the transport itself has to get right, on a live broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp), allow(dead_code, unused_imports))]

use kombu::{Binding, Connection, ErrorKind, Event, Exchange, FieldValue, Overflow, Queue};
use kombu_testkit::{Broker, Harness};
use kombu_tests::AmqpHarness;

async fn broker() -> Broker {
    AmqpHarness::new().broker().await
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn each_of_many_publishes_under_way_gets_its_own_answer() {
    let broker = broker().await;
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000 {
        // The same body and the same message id throughout: only the key tells them apart.
        let key = if number % 3 == 0 { "nobody" } else { "jobs" };
        let publish = producer.publish(&7).routing_key(key).message_id("same");
        receipts.push((number, publish.send().await.unwrap()));
    }
    for (number, receipt) in receipts {
        let answer = receipt.await;
        if number % 3 == 0 {
            let error = answer.unwrap_err();
            assert_eq!(
                (error.kind(), error.code()),
                (ErrorKind::Unroutable, Some(312))
            );
        } else {
            assert!(answer.unwrap().routed, "{number}");
        }
    }
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 666);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn messages_that_differ_in_their_headers_only_get_their_own_answers() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let sorted = Exchange::headers("sorted");
    let wanted = Binding::from(&sorted).argument("wanted", true);
    let jobs = Queue::new("jobs").bind_with(wanted);
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(&sorted).mandatory(true).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000 {
        let wanted = number % 7 == 3;
        let publish = producer.publish(&"same").message_id("same");
        let publish = publish.header("wanted", wanted);
        receipts.push((wanted, publish.send().await.unwrap()));
    }
    for (wanted, receipt) in receipts {
        match receipt.await {
            Ok(published) => assert!(wanted && published.routed),
            Err(error) => assert_eq!((wanted, error.code()), (false, Some(312)), "{error}"),
        }
    }
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 143);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn messages_that_say_whose_they_are_get_their_own_answers() {
    let broker = broker().await;
    let connection = broker.connect().await;
    // From now on they carry a mark.
    let mine = Queue::new("mine");
    let consumer = connection.consumer(&mine).no_local(true).exclusive(true);
    let _consumer = consumer.await.unwrap();
    let sorted = Exchange::headers("sorted");
    let wanted = Binding::from(&sorted).argument("wanted", true);
    let jobs = Queue::new("jobs").bind_with(wanted);
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(&sorted).mandatory(true).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000 {
        let wanted = number % 7 == 3;
        let publish = producer.publish(&"same").header("wanted", wanted);
        receipts.push((wanted, publish.send().await.unwrap()));
    }
    for (wanted, receipt) in receipts {
        assert_eq!(receipt.await.is_ok(), wanted);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn messages_that_differ_in_their_hidden_keys_only_get_their_own_answers() {
    let broker = broker().await;
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000 {
        let wanted = number % 7 == 3;
        let key = if wanted { "jobs" } else { "nobody" };
        let publish = producer.publish(&"same").routing_key("none");
        let publish = publish.header("BCC", FieldValue::Array(vec![key.into()]));
        receipts.push((wanted, publish.send().await.unwrap()));
    }
    for (wanted, receipt) in receipts {
        assert_eq!(receipt.await.is_ok(), wanted);
    }
    let delivery = connection.get("jobs").await.unwrap().unwrap();
    assert!(delivery.headers().is_empty(), "{:?}", delivery.headers());
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn one_of_a_thousand_is_refused_and_it_is_the_right_one() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let full = Queue::new("full")
        .max_length(1)
        .overflow(Overflow::RejectPublish);
    for queue in [&full, &Queue::new("jobs")] {
        connection.declare_queue(queue).await.unwrap();
    }
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let fills = producer.publish(&0).routing_key("full");
    fills.await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000 {
        let key = if number == 619 { "full" } else { "jobs" };
        let publish = producer.publish(&number).routing_key(key);
        receipts.push(publish.message_id("same").send().await.unwrap());
    }
    for (number, receipt) in receipts.into_iter().enumerate() {
        match receipt.await {
            Ok(published) => assert!(published.routed && number != 619, "{number}"),
            Err(error) => assert_eq!((number, error.kind()), (619, ErrorKind::Nacked), "{error}"),
        }
    }
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 999);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_full_queue_refuses_exactly_those_that_it_has_no_room_for() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let jobs = Queue::new("jobs")
        .max_length(500)
        .overflow(Overflow::RejectPublish);
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let numbers: Vec<u32> = (0..1000).collect();
    let answers = producer
        .batch(numbers.iter().map(|number| producer.publish(number)))
        .await;
    let stored: Vec<u32> = numbers
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.is_ok())
        .map(|(number, _)| *number)
        .collect();
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(refused.kind(), ErrorKind::Nacked);
    }
    let mut consumer = connection.consumer(&jobs.passive()).await.unwrap();
    for number in stored {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        assert_eq!(delivery.decode::<u32>().unwrap(), number);
        delivery.ack().await.unwrap();
    }
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 0);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_publish_to_a_missing_exchange_disturbs_none_of_its_neighbours() {
    let broker = broker().await;
    let connection = broker.connect().await;
    let mut events = connection.events();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let nowhere = Exchange::topic("nowhere");
    let mut receipts = Vec::new();
    for number in 0..1000 {
        let publish = producer.publish(&number);
        let publish = if number == 500 {
            publish.exchange(&nowhere)
        } else {
            publish
        };
        receipts.push(publish.send().await.unwrap());
    }
    for (number, receipt) in receipts.into_iter().enumerate() {
        match receipt.await {
            Ok(published) => assert!(published.routed && !published.resent, "{number}"),
            Err(error) => {
                assert_eq!(
                    (number, error.kind()),
                    (500, ErrorKind::NotFound),
                    "{error}"
                );
            }
        }
    }
    assert_eq!(connection.queue_info("jobs").await.unwrap().ready, 999);
    connection.close().await.unwrap();
    drop((producer, connection));
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn wrong_credentials_and_a_missing_virtual_host_fail_at_once() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let wrong_password = broker.url().replace("guest:guest", "guest:wrong");
    let missing_host = format!("{}-missing", broker.url());
    for url in [wrong_password, missing_host] {
        let begin = std::time::Instant::now();
        let error = Connection::builder(harness.registry())
            .url(url)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
        assert!(begin.elapsed().as_secs() < 5);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn a_connection_that_the_broker_closes_comes_back_with_its_consumers_and_producers() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let name = format!("to-be-closed-{}", fastrand::u64(..));
    let connection = Connection::builder(harness.registry())
        .url(format!("{}?connection_name={name}", broker.url()))
        .await
        .unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    producer.publish(&1).await.unwrap();
    let held = consumer.try_next().await.unwrap().unwrap();
    harness.close_connections(&name).await;
    while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
    assert_eq!(held.ack().await.unwrap_err().kind(), ErrorKind::SettleLost);
    producer.publish(&2).await.unwrap();
    for expected in [1, 2] {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        assert_eq!(delivery.decode::<u32>().unwrap(), expected);
        delivery.ack().await.unwrap();
    }
}

/// lapin keeps the error of each channel that was closed by one, and hands it to the next channel of that number.
#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "there is no RabbitMQ to test against")]
async fn errors_do_not_come_again_when_channel_numbers_are_used_again() {
    let broker = broker().await;
    let url = format!("{}?channel_max=20", broker.url());
    let connection = Connection::builder(AmqpHarness::new().registry())
        .url(url)
        .await
        .unwrap();
    let jobs = Queue::new("jobs");
    connection.declare_queue(&jobs).await.unwrap();
    for round in 0..100 {
        let missing = format!("missing-{round}");
        let error = connection.queue_info(&missing).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&missing), "{error}");
        connection.queue_info(&jobs).await.unwrap();
    }
}

//! Python's kombu on the other side of a RabbitMQ: what one declares, the other finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_amqp_python), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Exchange, Queue};
use kombu_tests::{AmqpHarness, Meeting, integer, next};
use serde_json::{Value, json};

async fn meeting() -> Meeting {
    Meeting::at(AmqpHarness::new()).await
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn the_most_urgent_comes_first_on_both_sides() {
    let meeting = meeting().await;
    let priorities = [0, 5, 9, 1];
    let expected = [9, 5, 1, 0];
    let messages = priorities.map(|priority| {
        json!({
            "queue": {"name": "urgent", "max_priority": 9},
            "routing_key": "urgent",
            "body": integer(priority),
            "publish": {"priority": priority},
        })
    });
    meeting.python_sends(&messages).await;
    let urgent = Queue::new("urgent").max_priority(9);
    let mut consumer = meeting.connection.consumer(&urgent).await.unwrap();
    for priority in expected {
        let (number, delivery) = next(&mut consumer).await.take::<i64>().unwrap();
        assert_eq!(
            (number, delivery.priority()),
            (priority, u8::try_from(priority).ok())
        );
        delivery.ack().await.unwrap();
    }

    let inbox = Queue::new("inbox").max_priority(9);
    meeting.connection.declare_queue(&inbox).await.unwrap();
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.routing_key("inbox").await.unwrap();
    for priority in priorities {
        let publish = producer.publish(&priority);
        let publish = publish.priority(u8::try_from(priority).unwrap());
        publish.await.unwrap();
    }
    let received = meeting.python_receives(priorities.len()).await;
    let numbers: Vec<&Value> = received.iter().map(|message| &message["body"]).collect();
    assert_eq!(numbers, expected.map(integer).iter().collect::<Vec<_>>());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp_python), ignore = "no RabbitMQ or no Python kombu")]
async fn what_one_declares_is_the_same_to_the_other() {
    let meeting = meeting().await;
    let message = json!({
        "queue": {
            "name": "inbox",
            "exchange": {"name": "media", "type": "topic"},
            "routing_key": "video.#",
            "expires": 3600,
            "message_ttl": 1800.5,
            "max_length": 100,
            "max_length_bytes": 1_000_000,
            "max_priority": 3,
        },
        "exchange": "media",
        "routing_key": "video.new",
        "body": "first",
    });
    let media = Exchange::topic("media");
    let inbox = Queue::new("inbox")
        .bind(&media, "video.#")
        .expires(Duration::from_secs(3600))
        .message_ttl(Duration::from_millis(1_800_500))
        .max_length(100)
        .max_length_bytes(1_000_000)
        .max_priority(3);

    // RabbitMQ refuses a declaration that differs from what is there.
    meeting.python_sends(std::slice::from_ref(&message)).await;
    let mut consumer = meeting.connection.consumer(&inbox).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.exchange(), "media");
    assert_eq!(delivery.decode::<&str>().unwrap(), "first");
    delivery.ack().await.unwrap();
    consumer.cancel().await.unwrap();

    meeting.connection.delete_queue("inbox").await.unwrap();
    meeting.connection.delete_exchange("media").await.unwrap();
    meeting.connection.declare_queue(&inbox).await.unwrap();
    meeting.python_sends(&[message]).await;
    let producer = meeting.connection.producer(&media).await.unwrap();
    let publish = producer.publish(&"second").routing_key("video.old.sold");
    assert!(publish.await.unwrap().routed);
    let received = meeting.python_receives(2).await;
    assert_eq!(received[0]["body"], "first");
    assert_eq!(received[1]["body"], "second");
    assert_eq!(received[1]["exchange"], "media");
    assert_eq!(received[1]["routing_key"], "video.old.sold");
}

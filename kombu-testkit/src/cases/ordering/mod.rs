//! In which order messages reach a queue, and leave it.

use kombu_core::{Connection, Exchange, Message, Producer, Queue};

use crate::Broker;
use crate::expect::{collect, collect_one, drain, texts};

async fn producer_to(connection: &Connection, queue: &str) -> Producer {
    connection.declare_queue(&Queue::new(queue)).await.unwrap();
    connection
        .producer(Exchange::default())
        .routing_key(queue)
        .await
        .unwrap()
}

fn numbers(messages: &[Message]) -> Vec<u32> {
    messages
        .iter()
        .map(|message| message.decode().unwrap())
        .collect()
}

/// As they were called, whichever way they were sent.
pub async fn sends_batches_and_publishes_of_one_producer_keep_their_order(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = producer_to(&connection, "jobs").await;
    let expected: Vec<u32> = (0..300).collect();
    let mut receipts = Vec::new();
    for chunk in expected.chunks(10) {
        let (sent, rest) = chunk.split_at(5);
        for number in sent {
            receipts.push(producer.publish(number).send().await.unwrap());
        }
        let (batch, last) = rest.split_at(4);
        for published in producer
            .batch(batch.iter().map(|number| producer.publish(number)))
            .await
        {
            published.unwrap();
        }
        producer.publish(&last[0]).await.unwrap();
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(numbers(&drain(&connection, "jobs").await), expected);
}

/// Every queue has them in the order of the calls.
pub async fn every_queue_gets_the_messages_of_a_producer_in_order(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    for queue in ["a", "b", "c"] {
        connection
            .declare_queue(&Queue::new(queue).bind(&news, ""))
            .await
            .unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..200u32 {
        receipts.push(producer.publish(&number).send().await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    for queue in ["a", "b", "c"] {
        let received = numbers(&drain(&connection, queue).await);
        assert!(received.into_iter().eq(0..200), "{queue}");
    }
}

/// The order of the keys' queues is kept while headers, sizes and keys differ.
pub async fn messages_of_different_sizes_do_not_overtake_each_other(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = producer_to(&connection, "jobs").await;
    let mut receipts = Vec::new();
    for number in 0..60u32 {
        let size = if number % 3 == 0 { 200_000 } else { 1 };
        let publish = producer.publish_bytes(vec![0; size]);
        receipts.push(publish.header("number", number).send().await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let received = drain(&connection, "jobs").await;
    let received = received.iter().map(|message| {
        message
            .headers()
            .get("number")
            .and_then(|number| number.as_i64())
            .unwrap()
    });
    assert!(received.eq(0..60));
}

/// What came back is in front of what came later, in the order in which it first came.
pub async fn released_messages_come_again_in_their_order(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = producer_to(&connection, "jobs").await;
    for number in 0..6u32 {
        producer.publish(&number).await.unwrap();
    }
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(4)
        .await
        .unwrap();
    let held = collect(&mut consumer, 4).await;
    consumer.cancel().await.unwrap();
    producer.publish(&6).await.unwrap();
    for delivery in held {
        delivery.release().confirmed().await.unwrap();
    }
    assert!(
        numbers(&drain(&connection, "jobs").await)
            .into_iter()
            .eq(0..7)
    );
}

/// Released one by one while it goes on, a message is the next one each time.
pub async fn a_released_message_comes_before_those_that_were_not_delivered(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = producer_to(&connection, "jobs").await;
    for text in ["a", "b", "c"] {
        producer.publish_text(text).await.unwrap();
    }
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(1)
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        for again in [true, true, false] {
            let delivery = collect_one(&mut consumer).await;
            seen.extend(texts([&delivery]));
            if again {
                delivery.release().await.unwrap();
            } else {
                delivery.ack().await.unwrap();
            }
        }
    }
    assert_eq!(seen, ["a", "a", "a", "b", "b", "b", "c", "c", "c"]);
}

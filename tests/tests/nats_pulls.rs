//! How often a consumer on NATS asks the server for messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kombu::{Exchange, Queue};
use kombu_testkit::brokers::Nats;
use tokio::sync::mpsc;

/// The server reads four things for each: the message and its ring, what asks for it, and the acknowledgement. After a message, a
/// queue is looked at again after a millisecond, and less and less often, which a busy machine may take long enough for.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_message_that_is_waited_for_is_asked_for_once() {
    const ROUNDS: usize = 10;
    const MESSAGES: u64 = 50;
    let nats = Nats::start().unwrap();
    let connection = kombu::connect(nats.url()).await.unwrap();
    let queue = Queue::new("jobs");
    let mut consumer = connection.consumer(&queue).prefetch(100).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let (done, mut is_done) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(delivery) = consumer.next().await {
            delivery.unwrap().ack().await.unwrap();
            done.send(()).await.unwrap();
        }
    });
    let read = || {
        nats.monitored("/varz").unwrap()["in_msgs"]
            .as_u64()
            .unwrap()
    };
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        let before = read();
        for number in 0..MESSAGES {
            producer.publish_text(number.to_string()).await.unwrap();
            is_done.recv().await.unwrap();
        }
        least = least.min(read() - before);
    }
    assert!(2 * least < 9 * MESSAGES, "{least} for {MESSAGES}");
}

//! Where in its queue memory puts what comes back, and what comes later.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, Delivery, Exchange, Producer, Queue};
use kombu_testkit::expect::{drain, texts};

const MINUTE: Duration = Duration::from_secs(60);

async fn open() -> (Connection, Producer) {
    let connection = kombu::connect("memory://").await.unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default()).routing_key("q");
    (connection, producer.await.unwrap())
}

async fn take(connection: &Connection) -> Delivery {
    connection.get("q").await.unwrap().unwrap()
}

#[tokio::test]
async fn a_retried_message_comes_back_to_its_place() {
    let (connection, producer) = open().await;
    for text in ["a", "b", "c"] {
        producer.publish_text(text).await.unwrap();
    }
    let (a, b) = (take(&connection).await, take(&connection).await);
    b.retry().await.unwrap();
    a.retry().await.unwrap();
    assert_eq!(texts(&drain(&connection, "q").await), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_delay_comes_back_to_its_place_when_the_delay_is_over() {
    let (connection, producer) = open().await;
    for text in ["a", "b", "c"] {
        producer.publish_text(text).await.unwrap();
    }
    take(&connection).await.retry_after(MINUTE).await.unwrap();
    let b = take(&connection).await;
    assert_eq!(b.body(), "b");
    b.release().await.unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(texts(&drain(&connection, "q").await), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_goes_to_the_back_when_it_is_due() {
    let (connection, producer) = open().await;
    producer.publish_text("late").delay(MINUTE).await.unwrap();
    producer.publish_text("early").await.unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(connection.queue_info("q").await.unwrap().ready, 2);
    producer.publish_text("later").await.unwrap();
    assert_eq!(
        texts(&drain(&connection, "q").await),
        ["early", "late", "later"]
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_delayed_survives_a_purge() {
    let (connection, producer) = open().await;
    producer.publish_text("late").delay(MINUTE).await.unwrap();
    producer.publish_text("early").await.unwrap();
    assert_eq!(connection.purge("q").await.unwrap(), 1);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(texts(&drain(&connection, "q").await), ["late"]);
}

/// Whatever they die of, and whichever of the queues somebody looks at first.
#[tokio::test]
async fn letters_of_several_queues_that_one_message_dies_in_arrive_in_the_order_of_the_queues() {
    let connection = kombu::connect("memory://").await.unwrap();
    let news = Exchange::fanout("news");
    let buried = |name| {
        let queue = Queue::new(name).bind(&news, "");
        queue.dead_letter_exchange("").dead_letter_routing_key("q")
    };
    let queues = [
        Queue::new("q"),
        buried("a").message_ttl(Duration::ZERO),
        buried("b").max_length(0),
        buried("c").message_ttl(Duration::ZERO),
    ];
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_text("rain").await.unwrap();
    let letters = drain(&connection, "q").await;
    let origins: Vec<_> = letters
        .iter()
        .map(|letter| letter.headers().get("x-first-death-queue"))
        .map(|queue| queue.unwrap().as_str().unwrap())
        .collect();
    assert_eq!(origins, ["a", "b", "c"]);
}

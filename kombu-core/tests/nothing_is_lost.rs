//! What must not be lost, discarded or ignored when things don't fit together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use std::time::Duration;

use kombu::{
    Binding, Connection, ErrorKind, Exchange, Feature, Name, Queue, RetryPolicy, UndecodablePolicy,
};

async fn garbage_in(connection: &Connection, queue: &Queue) {
    connection.declare_queue(queue).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("no number")
        .routing_key(queue.name())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_undecodable_message_is_held_where_nobody_knows_that_a_reject_would_move_it() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("q");
    garbage_in(&connection, &queue).await;
    // The broker's queue has no dead-letter exchange, whatever this declaration says.
    let claimed = queue.clone().dead_letter_exchange("dead").passive();
    let mut consumer = connection.consumer(&claimed).await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    drop(delivery.take::<u32>().unwrap_err());
    drop(consumer);
    assert_eq!(connection.queue_info("q").await.unwrap().ready, 1);
}

#[tokio::test]
async fn an_undecodable_message_that_outlives_its_consumer_goes_back() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("q");
    garbage_in(&connection, &queue).await;
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    consumer.cancel().await.unwrap();
    drop(delivery.take::<u32>().unwrap_err());
    let info = connection.queue_info("q").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (1, Some(0)));
    // The policy is about consumers that are there.
    let mut consumer = connection
        .consumer(&queue)
        .on_undecodable(UndecodablePolicy::Hold)
        .await
        .unwrap();
    drop(consumer.try_next().await.unwrap().unwrap().take::<u32>());
    assert_eq!(connection.queue_info("q").await.unwrap().ready, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_if_empty_was_empty() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("q");
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publishing = {
        let (connection, queue) = (connection.clone(), queue.clone());
        tokio::spawn(async move {
            for number in 0..20_000 {
                // It may be deleted again before its counts are asked for.
                connection.declare_queue(&queue).await.ok();
                let publish = producer.publish(&number).routing_key("q");
                drop(publish.allow_unroutable().await.unwrap());
            }
        })
    };
    let mut deleted = 0;
    while !publishing.is_finished() {
        match connection.delete_queue("q").if_empty().await {
            Ok(messages) => {
                assert_eq!(messages, 0);
                deleted += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
                connection.purge("q").await.ok();
            }
        }
        tokio::task::yield_now().await;
    }
    publishing.await.unwrap();
    assert!(deleted > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_opened_while_the_connection_closes_ends() {
    for round in 0..500 {
        let name = format!("memory://closing-{round}");
        let connection = kombu::connect(&name).await.unwrap();
        let queue = Queue::new("q");
        connection.declare_queue(&queue).await.unwrap();
        let closing = tokio::spawn({
            let connection = connection.clone();
            async move { connection.close().await }
        });
        if let Ok(mut consumer) = connection.consumer(&queue).await {
            // Hangs if nobody told it that the session is over.
            assert!(consumer.try_next().await.unwrap().is_none());
        }
        closing.await.unwrap().unwrap();
        let other = kombu::connect(&name).await.unwrap();
        let info = other.queue_info("q").await.unwrap();
        assert_eq!((info.consumers, info.unsettled), (0, Some(0)));
        kombu::memory::remove(&format!("closing-{round}"));
    }
}

#[tokio::test]
async fn whoever_is_woken_may_look_at_the_queue_at_once() {
    /// Asks the broker something when it is woken, as a waker of an executor of one's own might.
    struct Curious(Connection);

    impl Wake for Curious {
        fn wake(self: Arc<Self>) {
            let mut info = std::pin::pin!(self.0.queue_info("q"));
            let mut context = Context::from_waker(Waker::noop());
            assert!(info.as_mut().poll(&mut context).is_ready());
        }
    }

    let connection = kombu::connect("memory://").await.unwrap();
    let queue = Queue::new("q");
    let mut holder = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    producer.publish(&1).routing_key("q").await.unwrap();
    let delivery = holder.try_next().await.unwrap().unwrap();
    let mut waiting = connection.consumer(&queue).await.unwrap();
    let waker = Waker::from(Arc::new(Curious(connection.clone())));
    {
        let mut next = std::pin::pin!(waiting.next());
        let mut context = Context::from_waker(&waker);
        assert!(next.as_mut().poll(&mut context).is_pending());
    }
    delivery.release().await.unwrap();
    assert!(waiting.try_next().await.unwrap().is_some());
}

#[tokio::test]
async fn what_was_said_about_unroutable_messages_holds_for_any_exchange_and_in_any_order() {
    let connection = kombu::connect("memory://").await.unwrap();
    let topic = Exchange::topic("t");
    connection.declare_exchange(&topic).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for publish in [
        producer.publish(&1).mandatory().exchange(&topic),
        producer.publish(&1).exchange(&topic).mandatory(),
    ] {
        assert_eq!(publish.await.unwrap_err().kind(), ErrorKind::Unroutable);
    }
    assert!(!producer.publish(&1).exchange(&topic).await.unwrap().routed);
    let strict = connection
        .producer(Exchange::default())
        .mandatory(true)
        .await
        .unwrap();
    let error = strict.publish(&1).exchange(&topic).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused_by_every_operation() {
    let connection = kombu::connect("memory://").await.unwrap();
    let long = Name::from("q".repeat(256));
    let to_long_key = Binding::new(Exchange::direct("e"), &long);
    let results = [
        connection.get(&long).await.map(drop),
        connection.purge(&long).await.map(drop),
        connection.queue_info(&long).await.map(drop),
        connection.delete_queue(&long).await.map(drop),
        connection
            .bind_queue(&long, &Binding::from(Exchange::direct("amq.direct")))
            .await,
        connection.unbind_queue("q", &to_long_key).await,
    ];
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidName);
    }
}

#[tokio::test]
async fn several_queues_are_checked_before_the_first_one_is_declared() {
    let connection = kombu::connect("memory://").await.unwrap();
    let (fine, not) = (Queue::new("fine"), Queue::new("not").max_deliveries(1));
    let error = connection.consumer([&fine, &not]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    let missing = connection.queue_info("fine").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let mut connecting = std::pin::pin!(kombu::connect("memory://"));
    let mut context = Context::from_waker(Waker::noop());
    let std::task::Poll::Ready(Err(error)) = connecting.as_mut().poll(&mut context) else {
        panic!("nothing to wait for");
    };
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

#[test]
fn what_a_transport_can_do_is_known_without_a_connection() {
    let capabilities = kombu::registry().capabilities("memory").unwrap();
    assert!(capabilities.has(Feature::DeadLetter));
    assert!(kombu::registry().capabilities("nowhere").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_is_opened_while_the_session_is_lost_publishes_on_the_next_one() {
    let faults = kombu::Faults::default();
    let connection = Connection::builder(kombu::registry())
        .url("memory://opened-during-a-cut")
        // Sessions that are lost at once are backed off.
        .retry(RetryPolicy::default().longest_pause(Duration::from_millis(1)))
        .layer(faults.clone())
        .await
        .unwrap();
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    for number in 0..200 {
        let cutting = tokio::spawn({
            let faults = faults.clone();
            async move { faults.cut() }
        });
        let producer = connection.producer(Exchange::default()).await.unwrap();
        let publish = producer.publish(&number).routing_key("q");
        assert!(publish.await.unwrap().routed);
        cutting.await.unwrap();
    }
    assert!(connection.purge("q").await.unwrap() >= 200);
}

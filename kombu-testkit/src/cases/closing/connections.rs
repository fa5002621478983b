//! A closed connection refuses everything, and ends what was opened on it.

use std::time::Duration;

use futures_util::future::join_all;
use kombu_core::{Binding, ErrorKind, Exchange, Queue};

use crate::Broker;
use crate::cases::publish;
use crate::expect::{assert_refused, collect, collect_one, drain, info, texts};

/// Whatever is asked of it.
pub async fn every_operation_after_close_is_refused(broker: &Broker) {
    let connection = broker.connect().await;
    let (jobs, media) = (Queue::new("jobs"), Exchange::topic("media"));
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    let binding = Binding::new(&media, "#");
    connection.close().await.unwrap();
    let closed = |error: kombu_core::Error| {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    };
    closed(producer.publish_text("late").await.unwrap_err());
    closed(connection.producer(&media).await.unwrap_err());
    closed(connection.producer(Exchange::default()).await.unwrap_err());
    closed(connection.consumer(&jobs).await.unwrap_err());
    closed(
        connection
            .consumer(&jobs.clone().no_declare())
            .await
            .unwrap_err(),
    );
    closed(connection.get("jobs").await.unwrap_err());
    closed(connection.declare_queue(&jobs).await.unwrap_err());
    closed(connection.declare_exchange(&media).await.unwrap_err());
    closed(connection.delete_queue("jobs").await.unwrap_err());
    closed(connection.delete_exchange("media").await.unwrap_err());
    closed(connection.bind_queue("jobs", &binding).await.unwrap_err());
    closed(connection.unbind_queue("jobs", &binding).await.unwrap_err());
    closed(connection.purge("jobs").await.unwrap_err());
    closed(connection.queue_info("jobs").await.unwrap_err());
}

/// For all handles, once and for all.
pub async fn closing_twice_is_fine(broker: &Broker) {
    let connection = broker.connect().await;
    let other_handle = connection.clone();
    connection.close().await.unwrap();
    connection.close().await.unwrap();
    other_handle.close().await.unwrap();
    let declared = other_handle.declare_queue(&Queue::new("jobs")).await;
    assert_refused(declared, ErrorKind::Closed, None);
}

/// Other connections to the same broker don't notice.
pub async fn closing_one_connection_leaves_the_others(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    let mut consumer = other.consumer(&Queue::new("jobs")).await.unwrap();
    one.close().await.unwrap();
    publish(&other, "jobs", ["still here"]).await;
    let delivery = collect_one(&mut consumer).await;
    assert_eq!(delivery.body(), "still here");
    delivery.ack().await.unwrap();
}

/// The program closed it, so its end isn't an error.
pub async fn a_waiting_consumer_ends_without_an_error(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let (ended, closed) = tokio::join!(biased; consumer.next(), connection.close());
    closed.unwrap();
    assert!(ended.is_none(), "{ended:?}");
    assert!(consumer.try_next().await.unwrap().is_none());
    let nothing = consumer.receive(Duration::from_secs(60)).await;
    assert_refused(nothing, ErrorKind::Closed, None);
}

/// Also one that waits for room, and one that has several queues.
pub async fn a_consumer_with_a_full_window_ends_as_well(broker: &Broker) {
    let connection = broker.connect().await;
    let queues = ["jobs", "more"].map(Queue::new);
    let mut consumer = connection.consumer(&queues).prefetch(1).await.unwrap();
    publish(&connection, "jobs", ["held", "ready"]).await;
    let held = collect_one(&mut consumer).await;
    let (ended, closed) = tokio::join!(biased; consumer.next(), connection.close());
    closed.unwrap();
    assert!(ended.is_none(), "{ended:?}");
    drop(held);
}

/// They are back in the queue: handed out from here, they would be worked on twice.
pub async fn what_was_not_received_is_not_handed_out_after_close(broker: &Broker) {
    let connection = broker.connect().await;
    let other = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(10)
        .await
        .unwrap();
    publish(&other, "jobs", ["0", "1", "2", "3"]).await;
    collect_one(&mut consumer)
        .await
        .ack()
        .confirmed()
        .await
        .unwrap();
    connection.close().await.unwrap();
    let next = consumer.next().await;
    assert!(next.is_none(), "{next:?}");
    assert_eq!(texts(&drain(&other, "jobs").await), ["1", "2", "3"]);
}

/// A consumer that wasn't dropped yet doesn't count any more.
pub async fn its_consumers_are_not_counted_after_close(broker: &Broker) {
    let (one, other) = (broker.connect().await, broker.connect().await);
    let consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    assert_eq!(info(&other, "jobs").await.consumers, 1);
    one.close().await.unwrap();
    assert_eq!(info(&other, "jobs").await.consumers, 0);
    other.delete_queue("jobs").if_unused().await.unwrap();
    drop(consumer);
}

/// Acks that were queued, and not waited for, are done.
pub async fn close_flushes_what_was_settled(broker: &Broker) {
    let connection = broker.connect().await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", ["0", "1", "2"]).await;
    for delivery in collect(&mut consumer, 3).await {
        drop(delivery.ack());
    }
    connection.close().await.unwrap();
    let other = broker.connect().await;
    broker.assert_counts(&other, "jobs", 0, 0).await;
}

/// Publishes that were handed over are answered.
pub async fn close_answers_what_was_sent(broker: &Broker) {
    let connection = broker.connect().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let mut receipts = Vec::new();
    for number in 0..100 {
        receipts.push(producer.publish(&number).send().await.unwrap());
    }
    connection.close().await.unwrap();
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
    let other = broker.connect().await;
    broker.assert_counts(&other, "jobs", 100, 0).await;
}

/// Each of them, as done or as refused; none hangs, and what was stored is there.
pub async fn operations_under_way_at_close_are_answered(broker: &Broker) {
    let (closing, other) = (broker.connect().await, broker.connect().await);
    closing.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = closing
        .producer(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    let operations = |number: u32| {
        let (closing, producer) = (&closing, &producer);
        async move {
            let published = producer.publish(&number).await;
            let counted = closing.queue_info("jobs").await;
            let taken = closing.get("nowhere").await;
            (published, counted.map(drop), taken.map(drop))
        }
    };
    let (before, closed, after) = tokio::join!(
        biased;
        join_all((0..50).map(operations)),
        closing.close(),
        join_all((50..100).map(operations)),
    );
    closed.unwrap();
    let (mut stored, mut unsure) = (0, 0);
    for (published, counted, taken) in before.into_iter().chain(after) {
        match published {
            Ok(published) => stored += usize::from(published.routed),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                unsure += usize::from(error.may_have_been_stored());
            }
        }
        if let Err(error) = counted {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        }
        let kind = taken.unwrap_err().kind();
        assert!(
            matches!(kind, ErrorKind::NotFound | ErrorKind::Closed),
            "{kind:?}"
        );
    }
    let there = drain(&other, "jobs").await.len();
    assert!(
        (stored..=stored + unsure).contains(&there),
        "{there} of {stored} and {unsure}"
    );
}

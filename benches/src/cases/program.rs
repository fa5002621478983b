//! The programs that are measured: the same for every transport.

use std::collections::VecDeque;
use std::time::Instant;

use kombu::{Connection, Consumer, Delivery, Error, ErrorKind, Exchange, Producer, Queue};
use kombu_bench_raw::laps;
use kombu_bench_raw::sample::{BODY, QUEUE, WINDOW};

use super::Outcome;

/// Publishes, with as many publishes under way as the limit has.
pub(super) async fn publish(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let producer = open_producer(&connection).await?;
    tokio::spawn(send(producer, messages)).await??;
    Ok(connection.close().await?)
}

pub(super) async fn consume(url: &str, messages: u64) -> Outcome {
    let connection = kombu::connect(url).await?;
    let consumer = open_consumer(&connection).await?;
    tokio::spawn(ack(consumer, messages)).await??;
    Ok(connection.close().await?)
}

/// A publish to a consumer that has nothing to do, again and again.
pub(super) async fn handover(url: &str, messages: u64) -> Outcome {
    let publishing = kombu::connect(url).await?;
    let producer = open_producer(&publishing).await?;
    hand_over(url, producer, messages).await?;
    Ok(publishing.close().await?)
}

pub(super) async fn hand_over(url: &str, producer: Producer, messages: u64) -> Outcome {
    let consuming = kombu::connect(url).await?;
    let mut consumer = open_consumer(&consuming).await?;
    let (arrived, mut arrivals) = tokio::sync::mpsc::channel(1);
    let consumer = tokio::spawn(async move {
        for _ in 0..messages {
            let delivery = next(&mut consumer).await?;
            if arrived.send(()).await.is_err() {
                break;
            }
            delivery.ack().await?;
        }
        kombu::Result::Ok(())
    });
    let publisher = tokio::spawn(async move {
        for _ in 0..messages {
            let begin = Instant::now();
            producer.publish_bytes(&BODY[..]).await?;
            arrivals.recv().await;
            laps::done_since(begin);
        }
        kombu::Result::Ok(())
    });
    publisher.await??;
    consumer.await??;
    Ok(consuming.close().await?)
}

pub(super) async fn open_producer(connection: &Connection) -> kombu::Result<Producer> {
    connection.declare_queue(&Queue::new(QUEUE)).await?;
    connection
        .producer(Exchange::default())
        .routing_key(QUEUE)
        .await
}

pub(super) async fn open_consumer(connection: &Connection) -> kombu::Result<Consumer> {
    connection
        .consumer(&Queue::new(QUEUE))
        .prefetch(WINDOW as u32)
        .await
}

pub(super) async fn send(producer: Producer, messages: u64) -> kombu::Result<()> {
    let mut receipts = VecDeque::new();
    for _ in 0..messages {
        if receipts.len() == WINDOW
            && let Some(receipt) = receipts.pop_front()
        {
            receipt.await?;
        }
        receipts.push_back(producer.publish_bytes(&BODY[..]).send().await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

pub(super) async fn ack(mut consumer: Consumer, messages: u64) -> kombu::Result<()> {
    for _ in 0..messages {
        let delivery = next(&mut consumer).await?;
        delivery.ack().await?;
    }
    Ok(())
}

/// The consumer's end would be a short cut.
async fn next(consumer: &mut Consumer) -> kombu::Result<Delivery> {
    let next = consumer.try_next().await?;
    next.ok_or_else(|| Error::new(ErrorKind::ConsumerCancelled, "there are messages left"))
}

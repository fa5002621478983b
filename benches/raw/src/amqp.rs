//! lapin 4 against RabbitMQ, by the strategies that get the most out of it, and by the usual ones.
//!
//! A publish of lapin's resolves when its frame is written to the socket, so a loop that awaits each one writes them one by
//! one; with many publishes under way, lapin writes them together. `delivery.ack()` goes through two tasks,
//! `channel.basic_ack()` through one, and one that is `multiple` settles what came before.
//!
//! Publishers and consumers have a connection each, as kombu's have.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use crate::laps;
use crate::sample::{BODY, QUEUE, WINDOW};

/// How many deliveries one ack settles.
const ACK: u64 = 100;

type Outcome = Result<(), Box<dyn Error>>;

/// Makes an empty, durable queue.
pub async fn prepare(url: &str) -> Outcome {
    let connection = connect(url).await?;
    let channel = connection.create_channel().await?;
    channel
        .queue_delete(QUEUE.into(), QueueDeleteOptions::default())
        .await?;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(QUEUE.into(), options, FieldTable::default())
        .await?;
    Ok(connection.close(200, "".into()).await?)
}

/// The same, with so many messages in it.
pub async fn fill(url: &str, messages: u64) -> Outcome {
    prepare(url).await?;
    publish(url, messages).await
}

/// Publishes, with a thousand publishes under way from their start to their confirm.
pub async fn publish(url: &str, messages: u64) -> Outcome {
    let (connection, other) = (connect(url).await?, connect(url).await?);
    let channel = confirming(&connection).await?;
    tokio::spawn(in_flight(channel.clone(), messages)).await??;
    close(connection, other).await
}

async fn in_flight(channel: Channel, messages: u64) -> lapin::Result<()> {
    let mut under_way = FuturesUnordered::new();
    for _ in 0..messages {
        if under_way.len() == WINDOW
            && let Some(answer) = under_way.next().await
        {
            confirmed(answer)?;
        }
        under_way.push(async { basic_publish(&channel).await?.await });
    }
    while let Some(answer) = under_way.next().await {
        confirmed(answer)?;
    }
    Ok(())
}

/// Publishes as is usual: each publish is awaited, and its confirm when a thousand are without one.
pub async fn publish_usual(url: &str, messages: u64) -> Outcome {
    let (connection, other) = (connect(url).await?, connect(url).await?);
    let channel = confirming(&connection).await?;
    let publisher = channel.clone();
    let publishing = tokio::spawn(async move {
        let mut confirms = VecDeque::new();
        for _ in 0..messages {
            if confirms.len() == WINDOW
                && let Some(confirm) = confirms.pop_front()
            {
                confirmed(confirm.await)?;
            }
            confirms.push_back(basic_publish(&publisher).await?);
        }
        for confirm in confirms {
            confirmed(confirm.await)?;
        }
        lapin::Result::Ok(())
    });
    publishing.await??;
    close(connection, other).await
}

/// Consumes, with one ack for a hundred deliveries.
pub async fn consume(url: &str, messages: u64) -> Outcome {
    let (connection, other) = (connect(url).await?, connect(url).await?);
    let channel = connection.create_channel().await?;
    tokio::spawn(acked(channel.clone(), messages)).await??;
    close(connection, other).await
}

async fn acked(channel: Channel, messages: u64) -> lapin::Result<()> {
    let mut consumer = open_consumer(&channel).await?;
    let multiple = BasicAckOptions { multiple: true };
    for number in 1..=messages {
        let delivery = next(&mut consumer).await?;
        if number % ACK == 0 || number == messages {
            channel.basic_ack(delivery.delivery_tag, multiple).await?;
        }
    }
    Ok(())
}

/// Consumes as is usual: each delivery is acked by itself, and that is awaited.
pub async fn consume_usual(url: &str, messages: u64) -> Outcome {
    let (connection, other) = (connect(url).await?, connect(url).await?);
    let channel = connection.create_channel().await?;
    let acking = channel.clone();
    let consuming = tokio::spawn(async move {
        let mut consumer = open_consumer(&acking).await?;
        for _ in 0..messages {
            let delivery = next(&mut consumer).await?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
        lapin::Result::Ok(())
    });
    consuming.await??;
    close(connection, other).await
}

/// Publishes and consumes at the same time, by the best strategy of each.
pub async fn both(url: &str, messages: u64) -> Outcome {
    let (publishing, consuming) = (connect(url).await?, connect(url).await?);
    let confirmed = confirming(&publishing).await?;
    let delivered = consuming.create_channel().await?;
    let publish = tokio::spawn(in_flight(confirmed.clone(), messages));
    let consume = tokio::spawn(acked(delivered.clone(), messages));
    publish.await??;
    consume.await??;
    close(publishing, consuming).await
}

async fn connect(url: &str) -> lapin::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await
}

/// While their channels live: a channel that is dropped is closed, and a connection doesn't like that while it closes.
async fn close(first: Connection, second: Connection) -> Outcome {
    first.close(200, "".into()).await?;
    Ok(second.close(200, "".into()).await?)
}

async fn confirming(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn open_consumer(channel: &Channel) -> lapin::Result<lapin::Consumer> {
    channel
        .basic_qos(WINDOW as u16, BasicQosOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(QUEUE.into(), "".into(), options, FieldTable::default())
        .await
}

async fn next(consumer: &mut lapin::Consumer) -> lapin::Result<lapin::message::Delivery> {
    match consumer.next().await {
        Some(delivery) => delivery,
        None => Err(io::Error::other("the broker cancelled the consumer").into()),
    }
}

async fn basic_publish(channel: &Channel) -> lapin::Result<lapin::PublisherConfirm> {
    // Those of kombu's messages, so that the same bytes go over the wire.
    let properties = BasicProperties::default()
        .with_content_type("application/data".into())
        .with_content_encoding("binary".into())
        .with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    channel
        .basic_publish("".into(), QUEUE.into(), options, BODY, properties)
        .await
}

fn confirmed(answer: lapin::Result<Confirmation>) -> lapin::Result<()> {
    match answer?.is_ack() {
        true => Ok(()),
        false => Err(io::Error::other("the broker refused a message").into()),
    }
}

/// What answers are consumed from, and what a question has as `reply_to`.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Questions one after the other, whose answers come straight to the channel that they went out on.
pub async fn call(url: &str, calls: u64) -> Outcome {
    let (here, there) = (connect(url).await?, connect(url).await?);
    let serving = there.create_channel().await?;
    let questions = open_consumer(&serving).await?;
    let server = tokio::spawn(answer(serving.clone(), questions));
    let channel = here.create_channel().await?;
    let no_ack = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut answers = channel
        .basic_consume(REPLY_TO.into(), "".into(), no_ack, FieldTable::default())
        .await?;
    let calling = channel.clone();
    let asking = tokio::spawn(async move {
        for number in 0..calls {
            // As ours, which are asked again.
            let properties = BasicProperties::default()
                .with_delivery_mode(1)
                .with_reply_to(REPLY_TO.into())
                .with_correlation_id(number.to_string().into());
            let begin = Instant::now();
            publish_to(&calling, QUEUE, properties).await?;
            next(&mut answers).await?;
            laps::done_since(begin);
        }
        lapin::Result::Ok(())
    });
    asking.await??;
    server.abort();
    drop(server.await);
    // A channel that is dropped closes itself, and the connection can't be closed meanwhile.
    let closed = close(here, there).await;
    drop((channel, serving));
    closed
}

async fn answer(channel: Channel, mut questions: lapin::Consumer) -> lapin::Result<()> {
    loop {
        let question = next(&mut questions).await?;
        let to = question.properties.reply_to().clone().unwrap_or_default();
        let id = question.properties.correlation_id().clone();
        let properties = BasicProperties::default().with_correlation_id(id.unwrap_or_default());
        publish_to(&channel, to.as_str(), properties).await?;
        question.ack(BasicAckOptions::default()).await?;
    }
}

async fn publish_to(
    channel: &Channel,
    key: &str,
    properties: BasicProperties,
) -> lapin::Result<()> {
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), key.into(), options, BODY, properties);
    published.await.map(drop)
}

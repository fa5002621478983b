//! What tests wait for and compare with. Everything here panics with a message that says what was found.
//!
//! ```
//! use kombu::{ErrorKind, Exchange, Queue};
//! use kombu_testkit::expect::{assert_empty, assert_refused, collect, drain, texts};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! let connection = kombu::connect("memory://").await?;
//! let mut consumer = connection.consumer(&Queue::new("jobs")).prefetch(2).await?;
//! let producer = connection.producer(Exchange::default()).routing_key("jobs").await?;
//! for text in ["one", "two", "three"] {
//!     producer.publish_text(text).await?;
//! }
//!
//! let deliveries = collect(&mut consumer, 2).await;
//! assert_eq!(texts(&deliveries), ["one", "two"]);
//! for delivery in deliveries {
//!     delivery.ack().await?;
//! }
//! assert_eq!(texts(&drain(&connection, "jobs").await), ["three"]);
//! assert_empty(&connection, "jobs").await;
//! assert_refused(connection.get("nowhere").await, ErrorKind::NotFound, 404);
//! # Ok(())
//! # }
//! ```

use std::fmt::Debug;
use std::ops::Deref;

use kombu_core::driver::QueueInfo;
use kombu_core::message::Content;
use kombu_core::{Connection, Consumer, Delivery, Error, ErrorKind, Message, Name, Result};

/// Waits for the next `count` deliveries of a consumer.
///
/// # Panics
///
/// If the consumer ends before.
pub async fn collect(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::with_capacity(count);
    while deliveries.len() < count {
        match consumer.next().await {
            Some(Ok(delivery)) => deliveries.push(delivery),
            Some(Err(error)) => panic!("after {} of {count} deliveries: {error}", deliveries.len()),
            None => panic!(
                "the consumer ended after {} of {count} deliveries",
                deliveries.len()
            ),
        }
    }
    deliveries
}

/// Waits for one delivery.
///
/// # Panics
///
/// If the consumer ends instead.
pub async fn collect_one(consumer: &mut Consumer) -> Delivery {
    match consumer.next().await {
        Some(Ok(delivery)) => delivery,
        Some(Err(error)) => panic!("an error in place of a delivery: {error}"),
        None => panic!("the consumer ended in place of a delivery"),
    }
}

/// Takes all ready messages out of a queue, and acks them.
///
/// # Panics
///
/// If the queue can't be read.
pub async fn drain(connection: &Connection, queue: impl Into<Name>) -> Vec<Message> {
    let queue = queue.into();
    let mut messages = Vec::new();
    loop {
        let delivery = match connection.get(&queue).await {
            Ok(Some(delivery)) => delivery,
            Ok(None) => return messages,
            Err(error) => panic!("`{queue}` can't be drained: {error}"),
        };
        let (message, acker) = delivery.split();
        if let Err(error) = acker.ack().confirmed().await {
            panic!("`{queue}` can't be drained: {error}");
        }
        messages.push(message);
    }
}

/// The counts of a queue.
///
/// # Panics
///
/// If the broker doesn't tell them.
pub async fn info(connection: &Connection, queue: impl Into<Name>) -> QueueInfo {
    match connection.queue_info(queue).await {
        Ok(info) => info,
        Err(error) => panic!("no counts: {error}"),
    }
}

/// Fails unless the queue has no message, neither ready nor unsettled.
///
/// # Panics
///
/// If it has one, or isn't there.
pub async fn assert_empty(connection: &Connection, queue: impl Into<Name>) {
    let info = info(connection, queue).await;
    assert_eq!(
        (info.ready, info.unsettled.unwrap_or(0)),
        (0, 0),
        "ready and unsettled messages of `{}`",
        info.name
    );
}

/// The bodies as text.
pub fn texts<'a, C>(contents: impl IntoIterator<Item = &'a C>) -> Vec<String>
where
    C: Deref<Target = Content> + 'a,
{
    contents
        .into_iter()
        .map(|content| String::from_utf8_lossy(content.body()).into_owned())
        .collect()
}

/// Fails unless the result is an error of this kind and with this AMQP reply code; returns the error.
///
/// # Panics
///
/// If it isn't.
#[track_caller]
pub fn assert_refused<T: Debug>(
    result: Result<T>,
    kind: ErrorKind,
    code: impl Into<Option<u16>>,
) -> Error {
    match result {
        Ok(value) => panic!("expected {kind:?}, got {value:?}"),
        Err(error) => {
            let found = (error.kind(), error.code());
            assert_eq!(found, (kind, code.into()), "{error}");
            error
        }
    }
}

/// Fails unless the result is [`ErrorKind::Unsupported`]; returns the error.
///
/// # Panics
///
/// If it isn't.
#[track_caller]
pub fn assert_unsupported<T: Debug>(result: Result<T>) -> Error {
    assert_refused(result, ErrorKind::Unsupported, None)
}

//! What every transport does: each function is one behaviour, and a test on every transport.
//!
//! A case gets a broker of its own, opens the connections that it needs, and panics if the broker behaves
//! otherwise. To add one, write a `pub async fn` that takes a `&Broker`; the build finds it.

use kombu_core::message::Content;
use kombu_core::{Connection, ErrorKind, Exchange, FieldTable, FieldValue, Producer, Queue};

use crate::Broker;
use crate::expect::assert_refused;

pub mod calling;
pub mod capabilities;
pub mod closing;
pub mod concurrency;
pub mod consuming;
pub mod declaring;
pub mod facades;
pub mod handling;
pub mod mailboxes;
pub mod ordering;
pub mod postage;
pub mod publishing;
pub mod routing;
pub mod serializing;
pub mod settling;

pub(crate) mod table {
    include!(concat!(env!("OUT_DIR"), "/table.rs"));
}

/// What is on one broker isn't on the other.
pub(crate) async fn share_nothing(one: &Broker, other: &Broker) {
    let (here, there) = (one.connect().await, other.connect().await);
    here.declare_queue(&Queue::new("apart")).await.unwrap();
    let nowhere = there.queue_info("apart").await;
    assert_refused(nowhere, ErrorKind::NotFound, 404);
}

/// A producer to one queue.
async fn producer_to(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue).await.unwrap()
}

/// Publishes texts to a queue that is there.
async fn publish<T: Into<String>>(
    connection: &Connection,
    queue: &str,
    texts: impl IntoIterator<Item = T>,
) {
    let producer = producer_to(connection, queue).await;
    for text in texts {
        producer.publish_text(text).await.unwrap();
    }
}

/// Takes the first message of a queue and rejects it.
async fn reject(connection: &Connection, queue: &str) {
    let delivery = connection.get(queue).await.unwrap().unwrap();
    delivery.reject().confirmed().await.unwrap();
}

/// The entries of `x-death`, the latest first.
fn deaths(content: &Content) -> Vec<&FieldTable> {
    let deaths = content
        .headers()
        .get("x-death")
        .and_then(FieldValue::as_array);
    deaths
        .unwrap()
        .iter()
        .map(|death| death.as_table().unwrap())
        .collect()
}

/// Where, why and how often a message died, the latest first.
fn fates(content: &Content) -> Vec<(&str, &str, i64)> {
    let fate = |death| {
        let count = FieldTable::get(death, "count").and_then(FieldValue::as_i64);
        Some((text_of(death, "queue")?, text_of(death, "reason")?, count?))
    };
    deaths(content)
        .into_iter()
        .map(|death| fate(death).unwrap())
        .collect()
}

fn text_of<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    table.get(name).and_then(FieldValue::as_str)
}

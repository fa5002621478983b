//! How messages come to consumers, and what becomes of those that were fetched when a consumer goes.

use kombu_core::Connection;

use crate::expect::info;

pub mod adding_queues;
pub mod broadcasting;
pub mod dropping;
pub mod ending;
pub mod getting;
pub mod leaving_queues;
pub mod no_ack;
pub mod pausing;
pub mod processing_times;
pub mod receiving;
pub mod several_queues;
pub mod sharing;
pub mod simple_queues;
pub mod values;
pub mod windows;

/// The numbers as texts.
fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

/// How many consumers a queue has.
async fn consumers(connection: &Connection, queue: &str) -> u64 {
    info(connection, queue).await.consumers
}

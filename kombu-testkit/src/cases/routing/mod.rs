//! Which queues a message reaches, by the kind of its exchange and the bindings.

use kombu_core::Connection;

use crate::expect::{drain, texts};

pub mod fanout;
pub mod topic;

/// The bodies that a queue has, in order; they are taken out.
async fn bodies(connection: &Connection, queue: &str) -> Vec<String> {
    texts(&drain(connection, queue).await)
}

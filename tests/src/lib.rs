//! Where the tests find a broker of each kind.

#![allow(clippy::expect_used, clippy::panic)]

mod amqp;
mod memory;

pub use amqp::{AmqpHarness, ask};
pub use memory::MemoryHarness;

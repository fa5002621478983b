//! Where the tests find a broker of each kind.

#![allow(clippy::expect_used, clippy::panic)]

mod amqp;
mod memory;

pub use amqp::AmqpHarness;
pub use memory::MemoryHarness;

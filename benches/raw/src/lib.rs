//! The limits that kombu is measured against, written as a user of the raw library would write them.

pub mod amqp;
pub mod channel;
pub mod laps;
pub mod nats;
pub mod redis;
pub mod sample;

//! Where the tests find a broker of each kind, and the programs that they talk to.

#![allow(clippy::expect_used, clippy::panic)]

mod amqp;
mod captured;
mod certificates;
mod meeting;
mod memory;
mod nats;
mod nats_filter;
mod peer;
mod received;
mod redis;
mod trust;
mod worker;

pub use amqp::{AmqpHarness, ask};
pub use captured::Captured;
pub use certificates::{Authority, Pair};
pub use meeting::{COMPRESSIONS, Meeting, SERIALIZERS, integer, next, value};
pub use memory::MemoryHarness;
pub use nats::{NatsHarness, NatsLine};
pub use nats_filter::NatsFilter;
pub use peer::Peer;
pub use received::OnReceived;
pub use redis::{RawRedis, RedisAdmin, RedisHarness, redis_command};
pub use trust::{Trust, connect, refused, round_trip};
pub use worker::{Work, publish, work, worker_event};

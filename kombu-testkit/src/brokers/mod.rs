//! Private brokers, on free ports of the loopback interface: started by a test, or for a run of them, and ended with it.
//!
//! ```no_run
//! use kombu_testkit::brokers::{Data, RabbitMq};
//!
//! # fn main() -> std::io::Result<()> {
//! let mut rabbit = RabbitMq::builder().config("consumer_timeout = 10000").start()?;
//! let url = rabbit.url(); // the same for as long as it lives
//! rabbit.kill()?; // like a crash
//! rabbit.restart(Data::Keep)?;
//! rabbit.pause()?; // there, and silent
//! rabbit.resume()?;
//! # Ok(())
//! # }
//! ```
//!
//! The programs are those of the system, or of the folder that `KOMBU_TEST_BROKERS_ROOT` names, which holds a system of its
//! own and is entered with `chroot`; that takes root, and Linux. `scripts/install-next-brokers` makes one.
//!
//! Everything here blocks the thread that calls it. A test whose client has to notice meanwhile runs on several threads
//! (`#[tokio::test(flavor = "multi_thread")]`).
//!
//! # Drop
//!
//! Ends the broker as a crash would, and removes its data. The same happens when the process that started it is killed.

mod certificates;
mod folder;
mod nats;
mod process;
mod programs;
mod rabbitmq;
mod redis;
mod sentinel;
mod server;

pub use certificates::Certificates;
pub use nats::{Nats, NatsBuilder};
pub use rabbitmq::{RabbitMq, RabbitMqBuilder};
pub use redis::{Redis, RedisBuilder};
pub use sentinel::{Sentinel, SentinelBuilder};
pub use server::{Data, Server};

/// Whether `KOMBU_TEST_REQUIRE`, a list with commas, names this broker.
pub fn is_required(broker: &str) -> bool {
    std::env::var("KOMBU_TEST_REQUIRE")
        .is_ok_and(|list| list.split(',').any(|name| name.trim() == broker))
}

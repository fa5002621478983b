//! `memory://`: a broker within the process, and the reference for what every other transport does.
//!
//! - `memory://name` is one broker per name. It lives, messages and all, until the process ends or
//!   [`remove`] takes it away, so that a program can close its connection and find everything again.
//! - `memory://` is a fresh broker for each connection.
//! - The path is a virtual host: `memory://name/tests` and `memory://name/other` share nothing.
//!
//! | option | what it does |
//! |---|---|
//! | `max_message_size=BYTES` | the largest body that the connection takes; default 16 MiB |
//! | `like=amqp`, `like=redis`, `like=nats` | the connection refuses what that transport would: see [`Like`] |
//! | `history=LIMIT` | the broker records the latest published and dead messages: see [`Inspector::record`] |
//!
//! Everything runs on tokio's clock: with `#[tokio::test(start_paused = true)]`, an hour of delays passes in no time, and
//! each thing happens at its exact instant. [`inspect`] looks into a broker, and [`Inspector::settled`] waits until it has
//! nothing left to do.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! use kombu::{Exchange, Queue};
//!
//! let sender = kombu::connect("memory://shop").await?;
//! let receiver = kombu::connect("memory://shop").await?;
//! receiver.declare_queue(&Queue::new("orders")).await?;
//! sender.producer(Exchange::default()).await?.publish(&7).routing_key("orders").await?;
//!
//! let delivery = receiver.get("orders").await?.expect("the order");
//! assert_eq!(delivery.decode::<u32>()?, 7);
//! delivery.ack().await?;
//! # Ok(())
//! # }
//! ```

mod broker;
mod dead;
mod held;
mod history;
mod inspect;
mod like;
mod queue;
mod schedule;
mod settling;
mod store;
mod transport;

pub use broker::remove;
pub use inspect::{
    DeathRecord, History, Inspector, Place, PublishRecord, QueueState, StoredMessage, inspect,
};
pub use kombu_core::virt::Death;
pub use like::Like;
pub use transport::{Memory, MemoryOptions};

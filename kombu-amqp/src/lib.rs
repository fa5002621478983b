//! `amqp://`: RabbitMQ, and other brokers that speak AMQP 0-9-1.
//!
//! - `amqp://user:password@host:port/vhost`; what is missing is `guest`, `guest`, `localhost`, 5672 and `/`.
//! - `?heartbeat=SECONDS`, `?frame_max=BYTES`, `?channel_max=N`, `?connection_name=TEXT`, `?max_message_size=BYTES`.

mod error;
mod fields;
mod ladder;
mod lines;
mod message;
mod publisher;
mod returns;
mod session;
mod settler;
mod socket;
mod subscription;
#[cfg(feature = "tls")]
mod tls;
mod transport;
mod under_way;

#[cfg(feature = "tls")]
pub use rustls;
#[cfg(feature = "tls")]
pub use transport::AmqpWithTls;
pub use transport::{Amqp, AmqpOptions, AuthMechanism};

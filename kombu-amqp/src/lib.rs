//! `amqp://` and `amqps://`: RabbitMQ, and other brokers that speak AMQP 0-9-1.
//!
//! - `amqp://user:password@host:port/vhost`; what is missing is `guest`, `guest`, `localhost`, 5672 and `/`. What has a
//!   meaning in URLs is percent-encoded: the virtual host `a/b` is `a%2Fb`.
//! - `?heartbeat=SECONDS`, `?frame_max=BYTES`, `?channel_max=N`, `?connection_name=TEXT`, `?max_message_size=BYTES`.
//! - `amqps://` encrypts (port 5671), with the feature `tls`. The broker's certificate is always checked, against the
//!   authorities that the system trusts, `?ca_file=PATH` instead, or `?extra_ca_file=PATH` beside them, and against the
//!   URL's host, or `?server_name=NAME`. `?cert_file=PATH` and `?key_file=PATH` are our own certificate;
//!   `?auth_mechanism=external` has the broker take the user from it.
//!
//! All of them are described at [`AmqpOptions`].

mod caller;
mod error;
mod fields;
mod frames;
mod greeting;
mod ladder;
mod lines;
mod message;
mod pipeline;
mod publisher;
mod returns;
mod room;
mod session;
mod settler;
mod socket;
mod subscription;
mod transport;
mod under_way;

#[cfg(feature = "tls")]
pub use kombu_core::driver::tls::rustls;
#[cfg(feature = "tls")]
pub use transport::AmqpWithTls;
pub use transport::{Amqp, AmqpOptions, AuthMechanism};

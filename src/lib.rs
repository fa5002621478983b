//! One messaging model - exchanges, queues and bindings - on the broker that a URL names.
//!
//! ```
//! use kombu::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Video {
//!     name: String,
//!     size: u64,
//! }
//!
//! #[tokio::main]
//! async fn main() -> kombu::Result<()> {
//!     let media = Exchange::topic("media");
//!     let videos = Queue::new("videos").bind(&media, "video.#");
//!
//!     let conn = kombu::connect("memory://").await?;
//!     let mut consumer = conn.consumer(&videos).prefetch(32).await?; // declares queue, exchange and binding
//!     let producer = conn.producer(&media).await?; // declares what it publishes to
//!
//!     producer
//!         .publish(&Video { name: "lolcat1.avi".into(), size: 1_301_013 })
//!         .routing_key("video.new")
//!         .header("tenant", "7")
//!         .await?; // resolves when the broker has it
//!
//!     while let Some(delivery) = consumer.try_next().await? {
//!         let (video, delivery) = delivery.take::<Video>()?; // codec by content type
//!         println!("{} {}", video.name, video.size);
//!         delivery.ack().await?; // takes self: settling twice doesn't compile
//!         break; // a service goes on
//!     }
//!     conn.close().await // flushes queued acks and confirms
//! }
//! ```
//!
//! The derives need `serde` in your own `Cargo.toml`, with its feature `derive`.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `memory` | yes | `memory://`, a broker within the process |
//! | `amqp` | no | `amqp://`, RabbitMQ |
//! | `redis` | no | `redis://`, the queues of Python's kombu and Celery |
//! | `nats` | no | `nats://` and `tls://`, streams of NATS JetStream; compiles C and assembly (ring) |
//! | `tls` | no | `amqps://` with `amqp`, `rediss://` with `redis`; compiles C |
//! | `json`, `msgpack`, `yaml`, `raw` | yes | serializers; `json` and `yaml` also read configuration files |
//! | `zlib`, `bzip2`, `zstd` | no | compression, see [`OpenProducer::compression`]; `zstd` compiles C |
//! | `toml` | no | configuration files in TOML |
//! | `schema` | no | [`Config::json_schema`], the JSON Schema of configuration files, for editors |
//! | `tower` | no | [layers of tower's](handler::Router::layer) around handlers |
//! | `postage` | no | [messages and components of Postage](postage) |
//! | `blocking` | no | [waiting instead of `await`](blocking), for programs without a runtime |
//! | `signal` | no | draining on Ctrl-C and `SIGTERM` |

#[cfg(feature = "blocking")]
pub mod blocking;
mod config;
#[cfg(feature = "signal")]
mod signal;

pub use config::{Config, Format, from_config};
#[cfg(feature = "amqp")]
pub use kombu_amqp as amqp;
pub use kombu_core::declare::{
    Binding, DeclareMode, DeliveryMode, Exchange, ExchangeKind, Overflow, Queue, QueueType,
};
pub use kombu_core::driver::{BrokerInfo, Capabilities, Credentials, Feature, QueueInfo, Support};
pub use kombu_core::field::{FieldTable, FieldValue, Timestamp};
pub use kombu_core::layers::Faults;
pub use kombu_core::message::Content;
#[cfg(feature = "postage")]
pub use kombu_core::postage;
pub use kombu_core::{
    Acker, Body, CallError, Caller, CarryTrace, Connection, ConnectionBuilder, Consumer, Deadlines,
    Delivery, Destinations, DrainReport, Entity, Error, ErrorKind, Event, Events, FeatureUse,
    Health, Interceptor, Message, Name, OpenConsumer, OpenProducer, OpenSimpleBuffer,
    OpenSimpleQueue, Place, Pooled, Pools, Portability, Portable, Producer, Publish, Published,
    Publishing, PublishingAll, QueueDeletion, Queues, Receipt, Registry, Result, RetryPolicy,
    Sending, Settling, SimpleBuffer, SimpleQueue, Topology, TraceContext, UndecodablePolicy,
    Values,
};
pub use kombu_core::{
    call, declare, driver, field, handler, mailbox, mom, occo, serializers, virt,
};
#[doc(hidden)] // for the command
pub use kombu_core::{nearest, without_secrets};
#[cfg(feature = "memory")]
pub use kombu_memory as memory;
#[cfg(feature = "nats")]
pub use kombu_nats as nats;
#[cfg(feature = "redis")]
pub use kombu_redis as redis;
#[cfg(feature = "signal")]
pub use signal::{drain_on_signal, shutdown_signal};

/// What most programs need: `use kombu::prelude::*`.
pub mod prelude {
    pub use crate::{
        Binding, CallError, Caller, Connection, Consumer, Delivery, Exchange, Producer, Queue,
    };
    pub use serde::{Deserialize, Serialize};
}

/// The version of this crate.
///
/// ```
/// println!("kombu {}", kombu::VERSION);
/// # assert_eq!(kombu::VERSION.split('.').count(), 3);
/// ```
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The transports that this crate's features built in.
///
/// ```
/// let schemes = kombu::registry().schemes();
/// assert!(schemes.contains(&"memory"));
/// ```
pub fn registry() -> Registry {
    let registry = Registry::new()
        .without("memory", "memory")
        .without("amqp", "amqp")
        .without("amqps", "tls")
        .without("redis", "redis")
        .without("redis+unix", "redis")
        .without("redis+socket", "redis")
        .without("redis+sentinel", "redis")
        .without("rediss", "tls")
        .without("rediss+sentinel", "tls")
        .without("nats", "nats")
        .without("tls", "nats");
    #[cfg(feature = "amqp")]
    let registry = registry.with(amqp::Amqp);
    #[cfg(feature = "memory")]
    let registry = registry.with(memory::Memory);
    #[cfg(feature = "nats")]
    let registry = registry.with(nats::Nats);
    #[cfg(feature = "redis")]
    let registry = registry.with(redis::Redis);
    registry
}

/// Connects to the broker that a URL names, with the transports of [`registry`].
///
/// [`Connection::builder`] takes options, and transports from other crates.
///
/// # Errors
///
/// [`ErrorKind::UnknownScheme`], [`ErrorKind::Config`] for a malformed URL or an unknown option, and what the
/// transport meets.
pub async fn connect(url: impl Into<String>) -> Result<Connection> {
    Connection::builder(registry()).url(url).await
}

// What the front page shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

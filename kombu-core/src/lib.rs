//! Core of kombu: the vocabulary that users write, the contract that transports meet, and the client between
//! them. Programs depend on `kombu`, which re-exports it; transports depend on this crate.
//!
//! - [`declare`]: exchanges, queues and bindings as plain values; [`field`]: AMQP's field values.
//! - [`message`]: a message and its envelope.
//! - [`driver`]: the traits that a transport implements; [`virt`]: the same one level up, for brokers that
//!   only have queues.
//! - [`Connection`], [`Producer`], [`Consumer`], [`Delivery`]: what users hold.

pub mod call;
pub mod declare;
pub mod driver;
pub mod field;
pub mod layers;
pub mod message;
pub mod virt;

mod client;
mod engine;
mod error;
pub mod handler;
pub mod mailbox;
pub mod mom;
mod name;
pub mod occo;
mod options;
mod portability;
#[cfg(feature = "postage")]
pub mod postage;
#[cfg(feature = "schema")]
#[doc(hidden)] // for the facade's files
pub mod schema;
mod secrets;
mod watched;

pub use call::{CallError, Caller};
pub use client::{
    Acker, Body, CarryTrace, Connection, ConnectionBuilder, Consumer, Delivery, Destinations,
    DrainReport, Interceptor, Message, OpenConsumer, OpenProducer, OpenSimpleBuffer,
    OpenSimpleQueue, Place, Pooled, Pools, Producer, Publish, Published, Publishing, PublishingAll,
    QueueDeletion, Queues, Receipt, Registry, Sending, Settling, SimpleBuffer, SimpleQueue,
    TraceContext, UndecodablePolicy, Values,
};
pub use declare::{
    Binding, DeclareMode, DeliveryMode, Difference, Exchange, ExchangeKind, Overflow, Queue,
    QueueType,
};
pub use engine::{Deadlines, Entity, Event, Events, Health, RetryPolicy};
pub use error::{Error, ErrorKind, Result};
pub use field::{FieldTable, FieldValue, Timestamp};
pub use kombu_serializers as serializers;
pub use name::Name;
#[doc(hidden)] // for the facade's files
pub use options::nearest;
pub use portability::{FeatureUse, Portability, Portable, Topology};
#[doc(hidden)] // for the facade's files, and the command
pub use secrets::without_secrets;

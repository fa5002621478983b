//! What a backend writes: the traits between the client and a broker.
//!
//! A transport implements [`Transport`], whose [`connect`](Transport::connect) makes one attempt and returns
//! a [`Connection`]. From there come [`Publisher`]s and [`Subscription`]s, and every subscription has a
//! [`Settle`]r. All traits are object-safe; the client holds nothing else.
//!
//! Brokers that have no exchanges of their own are easier to add one level up: write a
//! [`QueueStore`](crate::virt::QueueStore) and let [`VirtualConnection`](crate::virt::VirtualConnection) be
//! the connection.
//!
//! # Contract
//!
//! - A driver makes **one attempt** and never retries or reconnects. It classifies the error
//!   ([`ErrorKind`](crate::ErrorKind)) and leaves the rest to the client.
//! - Control operations are asynchronous functions. The hot ones ([`Publisher::publish`],
//!   [`Settle::settle`]) are plain functions: what was queued is queued when the call returns, in the order
//!   of the calls, and the returned [`Op`] brings the answer. Dropping an [`Op`] undoes nothing.
//! - A driver needs no cooperative yielding; the client does that.
//! - A queue that is deleted under its consumer is an item of the stream ([`Received::Cancelled`]), and no end: the
//!   consumer's other queues go on, and the client says what follows.
//! - Buffers are bounded: a subscription holds at most its window.
//! - Nothing panics, whatever the broker sends.

mod caller;
mod capabilities;
mod connection;
mod exchange_kinds;
mod layer;
mod op;
mod publisher;
mod subscription;
pub mod tls;
mod transport;

pub use caller::{Caller, PastQueues};
pub use capabilities::{Capabilities, Feature, Support};
pub use connection::{
    BrokerInfo, Connection, DeleteQueue, Destination, Notice, Notices, QueueInfo,
};
pub use exchange_kinds::{ExchangeKinds, RouteMessages};
pub(crate) use layer::Layered;
pub use layer::{Layer, Operation, SessionLayer};
pub use op::{BoxFuture, Op};
pub use publisher::{Confirm, Confirmation, Publisher};
pub use subscription::{
    Outcome, RawDelivery, Received, Settle, Settlement, SubscribeOptions, Subscription, Tag,
};
pub use transport::{Credentials, Target, Transport};

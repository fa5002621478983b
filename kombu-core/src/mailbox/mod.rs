//! Mailboxes: commands to processes by name, and their replies. Python's `kombu.pidbox`, which Celery controls its workers
//! with.
//!
//! Each process has a [`Node`], with handlers for methods. Whoever commands them has a [`Nodes`]: it [casts](Nodes::cast) a
//! method to some or all of them, or [calls](Nodes::call) it and collects what they reply.
//!
//! ```
//! use kombu::handler::Router;
//! use kombu::mailbox::{Arguments, Mailbox};
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Add {
//!     x: i64,
//!     y: i64,
//! }
//!
//! async fn add(Arguments(Add { x, y }): Arguments<Add>) -> i64 {
//!     x + y
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! let connection = kombu::connect("memory://").await?;
//! let workers = Mailbox::new("workers");
//! for name in ["left", "right"] {
//!     let node = workers.node(&connection, name, Router::new().on("add", add)).await?;
//!     tokio::spawn(node.run());
//! }
//!
//! let mut nodes = workers.nodes(&connection).await?;
//! let replies = nodes.call::<_, i64>("add", &Add { x: 2, y: 3 }).limit(2).await?;
//! assert!(replies.iter().all(|reply| reply.result == Ok(5)));
//! let replies = nodes.call::<_, i64>("add", &Add { x: 1, y: 1 }).to(["left"]).await?;
//! assert_eq!((replies[0].node.as_str(), &replies[0].result), ("left", &Ok(2)));
//! # Ok(())
//! # }
//! ```
//!
//! Either side may be Python's, on RabbitMQ and on Redis; a mailbox of the kind `fanout` on Redis needs `?fanout=kombu` in the URL
//! of nodes that Python commands.

mod clock;
mod command;
mod node;
mod nodes;

pub(crate) use clock::Clock;
pub use node::{Arguments, Node};
pub use nodes::{Call, Cast, Nodes, Reply};

use crate::declare::{DeliveryMode, Exchange, Queue};
use crate::name::Name;

/// A namespace of processes: a plain value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    namespace: Name,
    fanout: bool,
}

impl Mailbox {
    /// A mailbox over a direct exchange, as Python has it unless it is told otherwise.
    pub fn new(namespace: impl Into<Name>) -> Self {
        Mailbox {
            namespace: namespace.into(),
            fanout: false,
        }
    }

    /// The same over a fanout exchange, as Celery has it.
    #[must_use]
    pub fn fanout(mut self) -> Self {
        self.fanout = true;
        self
    }

    /// Where commands go.
    pub fn exchange(&self) -> Exchange {
        let name = format!("{}.pidbox", self.namespace);
        let exchange = match self.fanout {
            true => Exchange::fanout(name),
            false => Exchange::direct(name),
        };
        transient(exchange)
    }

    /// Where replies go.
    pub fn reply_exchange(&self) -> Exchange {
        transient(Exchange::direct(format!("reply.{}.pidbox", self.namespace)))
    }

    /// Where a node's commands wait.
    fn queue(&self, node: &Name) -> Queue {
        let name = format!("{node}.{}.pidbox", self.namespace);
        Queue::new(name).bind(self.exchange(), "")
    }
}

fn transient(exchange: Exchange) -> Exchange {
    exchange
        .durable(false)
        .delivery_mode(DeliveryMode::Transient)
}

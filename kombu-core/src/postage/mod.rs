//! Messages and components of Postage, a library for networks of components: commands, statuses and results as JSON maps, which
//! say who sent them.
//!
//! A [`Message`] is what goes over the wire. A [`Producer`] sends them, to one exchange or several, and makes calls; it
//! adds its [`Fingerprint`] to each. Handlers are those of [`handler`](crate::handler): [`serve`] finds them by a
//! message's type and name, and [`Content`] hands them what it carries.
//!
//! ```
//! use kombu::postage::{self, Content, Message, Nothing, Parameters, RpcResult};
//! use kombu::handler::Router;
//! use kombu::{Exchange, Queue};
//!
//! async fn sum(Content(command): Content<Parameters<Vec<i64>>>) -> Message<RpcResult<i64>> {
//!     Message::result(command.parameters.iter().sum())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! let connection = kombu::connect("memory://").await?;
//! let calculators = Exchange::direct("calculators");
//! let queue = Queue::new("sums").bind(&calculators, "sum");
//! connection.declare_queue(&queue).await?;
//! let router = Router::new().on_named("command", "sum", sum);
//! let component = tokio::spawn(postage::serve(&connection, router).queues(&queue).run());
//!
//! let producer = postage::Producer::open(&connection).to(&calculators, "sum").await?;
//! let result: RpcResult<i64> = producer.rpc("sum", [1, 2, 3]).await?;
//! assert_eq!(result, RpcResult::success(6));
//!
//! producer.command("quit", Nothing {}).await?; // every component obeys
//! component.await.expect("no panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! On the wire a message is a map of `type`, `name`, `category` (`message`, or `rpc` if it is to be answered), `version` (2),
//! `fingerprint`, `content` and `_reserved`; what it is in AMQP's terms doesn't matter. Results go to where the question's
//! `reply_to` says, with its `correlation_id`. A component that doesn't send that back is asked with
//! [`ask`](Rpc::ask), which gives the question a queue of its own.

mod built;
mod fingerprint;
mod message;
mod producer;
mod rpc;
mod serving;

pub use built::Built;
pub use fingerprint::Fingerprint;
pub use message::{Arguments, Category, Message, Nothing, Parameters, RpcResult};
pub use producer::{OpenProducer, Producer};
pub use rpc::Rpc;
pub use serving::{Content, Responder, keys, serve, serve_as};

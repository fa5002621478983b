//! Handlers: functions that run when a message arrives.
//!
//! ```
//! use kombu::handler::{Payload, Reply, Router, State};
//! use kombu::{CallError, Exchange, Queue};
//!
//! #[derive(Clone)]
//! struct Prices {
//!     each: u64,
//! }
//!
//! async fn price(Payload(count): Payload<u64>, State(prices): State<Prices>) -> Reply<u64> {
//!     Reply(count * prices.each)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! // A handler is a plain function, and is tested as one.
//! let Reply(total) = price(Payload(2), State(Prices { each: 3 })).await;
//! assert_eq!(total, 6);
//!
//! let connection = kombu::connect("memory://").await?;
//! let router = Router::new().on("price", price).with_state(Prices { each: 3 });
//! connection.declare_queue(&Queue::new("shop")).await?; // before the question
//! let shop = connection.serve(router).queues(&Queue::new("shop")).concurrency(8);
//! let shop = tokio::spawn(shop.run());
//!
//! let caller = connection.caller(Exchange::default()).routing_key("shop").await?;
//! let total = caller.call::<_, u64>(&7).kind("price").await?;
//! assert_eq!(total, 21);
//! connection.close().await?; // ends the shop
//! shop.await.expect("no panic")?;
//! # Ok(())
//! # }
//! ```
//!
//! # What becomes of a delivery
//!
//! | the handler | a message | a question (it has a `reply_to`) |
//! |---|---|---|
//! | returns a value | acked | answered with it, then acked |
//! | returns an [`Outcome`] | what it says | the same, with nothing answered unless it is `Ack` |
//! | returns an error, panics, or takes [too long](Serve::max_processing_time) | retried with back-off; after the last try as one that can't be decoded | answered as a transient error, without its text; then rejected, or retried if that answer can't be sent |
//! | returns a [`Failure`](crate::call::Failure) | the same; a critical one isn't retried | answered with it, then acked |
//! | took the [`Delivery`](crate::Delivery), and fails in time | what it did with it; dropped unsettled it comes again, and again | nothing is answered; the same |
//! | can't be called: an extractor fails, or there is no handler | rejected into the queue's dead-letter exchange; held until the end if it has none | answered as critical, then rejected |
//!
//! What is held has room for 64 messages beside the window, and ends the component with
//! [`ErrorKind::Undecodable`](crate::ErrorKind::Undecodable) when it fills that and the window: a queue whose messages may be anything
//! needs a dead-letter exchange, or a policy that discards them.
//!
//! The number of tries is the broker's, so it survives the process ([`Delivery::attempt`](crate::Delivery::attempt)).
//! [`Serve`] has the settings.

mod component;
mod dispatch;
mod error;
mod extract;
mod function;
mod lanes;
mod reaction;
mod request;
mod retries;
mod route;
mod router;
mod run;
mod serve;
#[cfg(feature = "tower")]
mod service;

pub use component::Component;
pub use error::{HandlerError, Rejection};
pub use extract::{Attempt, FromDelivery, FromMessage, FromState, Headers, Payload, State};
pub use function::Handler;
#[cfg(feature = "postage")]
pub(crate) use reaction::Style;
pub use reaction::{IntoReaction, Outcome, Reaction, Reply};
pub use request::Request;
pub use retries::Retries;
pub use router::{Complete, Router};
pub use run::Exit;
pub use serve::{Serve, Serving};
#[cfg(feature = "tower")]
pub use service::HandlerService;

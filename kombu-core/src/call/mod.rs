//! Calls: a question over a queue, and its answers.
//!
//! A [`Caller`] asks and a [`Responder`] answers. A question is a message with a `reply_to` and a `correlation_id`; an
//! answer is one that goes to the queue which `reply_to` names, with that `correlation_id`. So either side may be
//! Python's kombu, pika or another client.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> kombu::Result<()> {
//! use kombu::{Exchange, Queue};
//!
//! let connection = kombu::connect("memory://").await?;
//! let mut questions = connection.consumer(&Queue::new("sums")).await?;
//! let server = tokio::spawn(async move {
//!     while let Some(delivery) = questions.try_next().await? {
//!         let (numbers, delivery) = delivery.take::<Vec<i64>>()?;
//!         delivery.reply(&numbers.iter().sum::<i64>()).await?;
//!         delivery.ack().await?;
//!     }
//!     kombu::Result::Ok(())
//! });
//!
//! let caller = connection.caller(Exchange::default()).routing_key("sums").await?;
//! let sum = caller.call::<_, i64>(&[1, 2, 3]).await?;
//! assert_eq!(sum, 6);
//! # server.abort();
//! # Ok(())
//! # }
//! ```
//!
//! An answer that says that something went wrong has headers for it, and `x-kombu-error` among them: `application`,
//! `critical` or `transient`. The others are `x-kombu-error-name`, `x-kombu-error-message` and `x-kombu-error-code`; the body is
//! what belongs to it, if anything does. Of several answers to one question all but the last carry `x-kombu-more`.

mod answer;
mod answers;
mod asked;
mod asking;
mod builder;
mod caller;
mod error;
mod failure;
mod inbox;
mod replies;
mod responder;

pub use answer::Answer;
pub(crate) use answers::Answers;
pub use asked::Asked;
pub use builder::Call;
pub(crate) use caller::SharedLine;
pub use caller::{Caller, OpenCaller};
pub use error::CallError;
pub use failure::{Failure, FailureKind};
pub use replies::Replies;
pub(crate) use responder::Signature;
pub use responder::{Replying, Responder};

/// What went wrong, in an answer that says so: one of [`FailureKind`]'s texts.
const ERROR: &str = "x-kombu-error";
/// The name of an application's error.
const ERROR_NAME: &str = "x-kombu-error-name";
const ERROR_MESSAGE: &str = "x-kombu-error-message";
const ERROR_CODE: &str = "x-kombu-error-code";
/// Further answers follow this one.
const MORE: &str = "x-kombu-more";
/// No value is in this answer, which ends those before it.
const END: &str = "x-kombu-end";

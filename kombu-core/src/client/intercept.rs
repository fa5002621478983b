use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::driver::{BoxFuture, Outcome};
use crate::error::{Error, ErrorKind, Result, panic_text};
use crate::message::Content;
use crate::name::Name;

/// Sees, and may change, every message and every settle of a connection or of one handle.
///
/// Interceptors run in the order in which they were added, those of the connection before those of the handle. They
/// see bodies as they travel: encoded, and compressed where that was asked for.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Connection, Content, Exchange, Interceptor, Queue, driver::BoxFuture};
///
/// struct Tenant(i64);
///
/// impl Interceptor for Tenant {
///     fn on_publish<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, kombu::Result<()>> {
///         content.headers_mut().insert("tenant", self.0);
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// let connection = Connection::builder(kombu::registry())
///     .url("memory://")
///     .intercept(Tenant(7))
///     .await?;
/// connection.declare_queue(&Queue::new("jobs")).await?;
/// connection.producer(Exchange::default()).await?.publish(&1).routing_key("jobs").await?;
/// let delivery = connection.get("jobs").await?.expect("a job");
/// assert_eq!(delivery.headers().get("tenant").and_then(|tenant| tenant.as_i64()), Some(7));
/// delivery.ack().await?;
/// # Ok(())
/// # }
/// ```
pub trait Interceptor: Send + Sync + 'static {
    /// A message is about to be published. An error is the publish's, and nothing is sent.
    fn on_publish<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
        let _ = content;
        Box::pin(std::future::ready(Ok(())))
    }

    /// A message was fetched and is about to be handed out.
    ///
    /// An error, or a panic, makes it undecodable: it is not handed out, and what becomes of it is what becomes of a
    /// delivery whose body can't be decoded.
    fn on_delivery<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
        let _ = content;
        Box::pin(std::future::ready(Ok(())))
    }

    /// A delivery from this queue is about to be settled, also by being dropped. What is returned happens.
    ///
    /// It runs within `Drop`: it must not block. If it panics, the delivery is released; whoever settled it gets the panic.
    /// It runs once for each delivery: what was dropped and is held for later was seen when it was dropped.
    fn on_settle(&self, queue: &Name, outcome: Outcome) -> Outcome {
        let _ = queue;
        outcome
    }
}

/// Interceptors in the order in which they run.
pub(crate) type Interceptors = Arc<[Arc<dyn Interceptor>]>;

/// What the interceptors make of a message that was fetched.
pub(crate) async fn received(interceptors: Interceptors, mut content: Content) -> Result<Content> {
    let intercepting = async {
        for interceptor in interceptors.iter() {
            interceptor.on_delivery(&mut content).await?;
        }
        Ok(content)
    };
    let intercepted = AssertUnwindSafe(intercepting).catch_unwind().await;
    intercepted.unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        Err(Error::new(
            ErrorKind::Undecodable,
            format!("an interceptor panicked at a message: {text}"),
        ))
    })
}

/// Those of the connection, then those of the handle.
pub(super) fn chain(connection: &Interceptors, handle: Vec<Arc<dyn Interceptor>>) -> Interceptors {
    if handle.is_empty() {
        return connection.clone();
    }
    connection.iter().cloned().chain(handle).collect()
}

//! Questions that go over queues, and their answers.

use std::time::Duration;

use kombu_core::call::Replying;
use kombu_core::{CallError, Caller, Connection, Delivery, Exchange, Name, Queue, Result};
use tokio::task::JoinHandle;

use crate::expect::info;

pub mod answers;
pub mod asking;
pub mod failures;
pub mod gathering;
pub mod sessions;
pub mod streams;
pub mod timeouts;

/// Longer than any broker takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A caller to one queue.
async fn caller_to(connection: &Connection, queue: &str) -> Caller {
    let caller = connection.caller(Exchange::default());
    let caller = caller.routing_key(queue).timeout(PATIENCE).max_retries(0);
    caller.await.unwrap()
}

/// A server that does this with each question, and ends when it is dropped.
struct Server(JoinHandle<Result<()>>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(
    connection: &Connection,
    queue: &Queue,
    answer: impl Fn(&Delivery) -> Replying + Send + 'static,
) -> Server {
    let mut questions = connection.consumer(queue).await.unwrap();
    Server(tokio::spawn(async move {
        while let Some(delivery) = questions.try_next().await? {
            let replying = answer(&delivery);
            replying.await?;
            delivery.ack().await?;
        }
        Ok(())
    }))
}

/// The value of a call that was answered with one.
#[track_caller]
fn value<T>(answered: std::result::Result<T, CallError>) -> T {
    match answered {
        Ok(value) => value,
        Err(error) => panic!("a call failed: {error}"),
    }
}

/// Waits until as many messages are ready in a queue.
async fn until_ready(connection: &Connection, queue: impl Into<Name>, ready: u64) {
    let queue = queue.into();
    while info(connection, &queue).await.ready != ready {
        tokio::task::yield_now().await;
    }
}

//! Functions that run when a message arrives.

use std::future::Future;
use std::time::Duration;

use kombu_core::handler::{Exit, Retries, Router, Serve};
use kombu_core::{Caller, Connection, Exchange, Name, Queue, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::expect::info;

pub mod answering;
pub mod blocking;
pub mod ending;
pub mod failing;
pub mod ordering;
pub mod producing;
pub mod refusing;
pub mod routing;
pub mod sharing;

/// Longer than any broker takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// How long anything may take that is looked for again and again, what a dead consumer held included.
const LONGEST: Duration = Duration::from_secs(60);

/// Retries that a test can wait for.
fn retries(count: u32) -> Retries {
    let pause = Duration::from_millis(50);
    Retries::new(count).first_pause(pause).jitter(false)
}

/// A component that runs.
pub(super) struct Running {
    task: JoinHandle<Result<Exit>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Running {
    pub(super) async fn start(serve: Serve) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        Running {
            task: tokio::spawn(serve.run_until(stopped)),
            stop: Some(stop),
        }
    }

    /// Runs a router on a queue.
    pub(super) async fn serving(connection: &Connection, queue: &Queue, router: Router) -> Self {
        connection.declare_queue(queue).await.unwrap();
        Running::start(connection.serve(router).queues(queue)).await
    }

    /// Ends it from without.
    pub(super) async fn stop(mut self) {
        drop(self.stop.take());
        assert_eq!(self.ended().await, Exit::Stopped);
    }

    pub(super) async fn ended(&mut self) -> Exit {
        match (&mut self.task).await.unwrap() {
            Ok(exit) => exit,
            Err(error) => panic!("a component failed: {error}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What handlers have seen.
pub(super) fn log<T>() -> (mpsc::UnboundedSender<T>, Log<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Log(receiver))
}

pub(super) struct Log<T>(mpsc::UnboundedReceiver<T>);

impl<T> Log<T> {
    pub(super) async fn next(&mut self) -> T {
        soon(self.0.recv()).await.unwrap()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) async fn caller_to(connection: &Connection, queue: &str) -> Caller {
    let caller = connection.caller(Exchange::default()).routing_key(queue);
    caller.timeout(PATIENCE).max_retries(0).await.unwrap()
}

/// Waits until a queue holds nothing, neither ready nor unsettled as far as the broker tells.
pub(super) async fn until_empty(connection: &Connection, queue: impl Into<Name>) {
    let queue = queue.into();
    until(async || {
        let info = info(connection, &queue).await;
        (info.ready, info.unsettled.unwrap_or(0)) == (0, 0)
    })
    .await;
}

/// Waits until something holds.
pub(super) async fn until(holds: impl AsyncFn() -> bool) {
    let held = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONGEST, held).await.unwrap();
}

/// The result within the time that any broker takes.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

use std::fmt;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;

use crate::error::Result;

use super::{Exit, Serve};

/// Several processors that live and end together: when one ends, all do.
///
/// All of them obey the commands `quit` and `restart`: messages of type `command` whose header `name` says so.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::handler::{Component, Exit, Router};
/// use kombu::{Exchange, Queue};
///
/// async fn work() {}
///
/// let connection = kombu::connect("memory://").await?;
/// let jobs = connection.serve(Router::new().on("job", work)).queues(&Queue::new("jobs"));
/// connection.declare_queue(&Queue::new("orders")).await?; // before the command
/// let orders = connection.serve(Router::new()).queues(&Queue::new("orders"));
/// let component = tokio::spawn(Component::new().with(jobs).with(orders).run());
///
/// let producer = connection.producer(Exchange::default()).await?;
/// producer.publish(&()).routing_key("orders").kind("command").header("name", "quit").await?;
/// assert_eq!(component.await.expect("no panic")?, Exit::Quit);
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use = "nothing is handled until it is run"]
pub struct Component {
    processors: Vec<Serve>,
}

impl Component {
    /// Without processors.
    pub fn new() -> Self {
        Component::default()
    }

    /// Adds one.
    pub fn with(mut self, processor: Serve) -> Self {
        self.processors.push(processor.obey_commands(true));
        self
    }

    /// Runs them all until one of them ends, ends the others in an orderly way, and answers why the first one ended.
    ///
    /// # Errors
    ///
    /// That of the first processor that failed.
    pub async fn run(self) -> Result<Exit> {
        self.run_until(std::future::pending()).await
    }

    /// As [`run`](Component::run), and ends with [`Exit::Stopped`] when `stop` resolves.
    ///
    /// # Errors
    ///
    /// As `run`.
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> Result<Exit> {
        let (ending, end) = watch::channel(false);
        let until_end = || {
            let mut end = end.clone();
            async move {
                // Without its sender there is nobody left to run for.
                let _ = end.wait_for(|ended| *ended).await;
            }
        };
        let processors = self.processors.into_iter();
        let mut running: FuturesUnordered<_> = processors
            .map(|processor| processor.run_until(until_end()))
            .collect();
        if running.is_empty() {
            return Ok(Exit::Stopped);
        }
        let mut result = tokio::select! {
            biased;
            () = stop => Ok(Exit::Stopped),
            first = running.next() => first.unwrap_or(Ok(Exit::Stopped)),
        };
        ending.send_replace(true);
        while let Some(ended) = running.next().await {
            if result.is_ok() && ended.is_err() {
                result = ended;
            }
        }
        result
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("processors", &self.processors)
            .finish()
    }
}

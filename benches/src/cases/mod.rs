//! One file per promise; each case is our side and the limit that it is held against.

mod amqp;
mod codec;
mod memory;
mod nats;
mod program;
mod redis;
mod routing;
mod rpc;

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Runs so many operations.
pub(crate) type Side = Box<dyn Fn(u64) -> Outcome>;

/// Something to measure.
pub(crate) struct Case {
    /// What it is called, by theme and behaviour.
    pub(crate) name: &'static str,
    /// The ratio of our rate to the limit's that has to be reached.
    pub(crate) bar: f64,
    /// Operations per run.
    pub(crate) count: u64,
    /// Run before each side, and not measured.
    pub(crate) prepare: Side,
    /// Our side.
    pub(crate) ours: Side,
    /// What it is held against.
    pub(crate) limit: Limit,
}

/// What our side is held against.
pub(crate) enum Limit {
    /// Another program that does the same, run in turn with ours.
    Side(Side),
    /// So much time per operation.
    Time(Duration),
}

impl Limit {
    pub(crate) fn side(run: impl Fn(u64) -> Outcome + 'static) -> Self {
        Limit::Side(Box::new(run))
    }
}

/// All of them, in the order in which they are run.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = memory::cases();
    cases.extend(routing::cases());
    cases.extend(codec::cases());
    cases.extend(amqp::cases());
    cases.extend(redis::cases());
    cases.extend(nats::cases());
    cases.extend(rpc::cases());
    cases
}

/// For cases that need no preparation.
fn nothing() -> Side {
    Box::new(|_| Ok(()))
}

/// Runs on a fresh runtime with this many worker threads.
fn on(workers: usize, work: impl Future<Output = Outcome>) -> Outcome {
    runtime(workers)?.block_on(work)
}

/// Runs against a broker, with two worker threads.
fn side<F>(url: &'static str, run: impl Fn(&'static str, u64) -> F + 'static) -> Side
where
    F: Future<Output = Outcome> + 'static,
{
    Box::new(move |count| on(2, run(url, count)))
}

fn runtime(workers: usize) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
}

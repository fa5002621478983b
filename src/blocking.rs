//! kombu for programs without `async`: each verb is waited for.
//!
//! [`connect`] connects, and everything that is awaited elsewhere has a [`wait`](Wait::wait) here: the same builders, the
//! same errors, the same deadlines. [`each`] makes an iterator of a consumer. Connections of this module live on a runtime of
//! their own, which is started by the first one and runs on one thread, whatever the program's threads do.
//!
//! ```
//! use kombu::blocking::{self, Wait};
//! use kombu::{Exchange, Queue};
//!
//! # fn main() -> kombu::Result<()> {
//! let connection = blocking::connect("memory://")?;
//! let mut consumer = connection.consumer(&Queue::new("jobs")).prefetch(1).wait()?;
//! let producer = connection.producer(Exchange::default()).routing_key("jobs").wait()?;
//! for job in 1..=3 {
//!     producer.publish(&job).wait()?; // the broker has it
//! }
//!
//! let mut sum = 0;
//! for next in blocking::each(consumer.values::<u32>().limit(3)) {
//!     let (job, delivery) = next?;
//!     sum += job;
//!     delivery.ack().wait()?;
//! }
//! assert_eq!(sum, 6);
//! connection.close().wait()
//! # }
//! ```
//!
//! Handlers may wait as well, those of connections that were made here: while one does, another thread does what its thread did.
//! There are 512 of these threads at most: handlers that wait beyond that hold up everything until one of them is done.
//! Connections that tasks made can be used so, too, as long as their runtime runs on another thread. Within a task of another
//! runtime, waiting holds up the thread that the task is on.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use futures_core::Stream;
use tokio::runtime::{Builder, EnterGuard, Handle, Runtime, RuntimeFlavor};

use crate::{Connection, Error, ErrorKind, Result};

thread_local! {
    /// Whether this thread is the runtime's.
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// What connections of this module live on.
fn runtime() -> std::result::Result<&'static Runtime, &'static str> {
    static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();
    let start = || {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .on_thread_start(|| OURS.set(true))
            .thread_name("kombu-blocking")
            .enable_all()
            .build()
            .map_err(|problem| problem.to_string())
    };
    RUNTIME.get_or_init(start).as_ref().map_err(String::as_str)
}

/// Connects, as [`kombu::connect`](crate::connect) does.
///
/// # Errors
///
/// Those of [`kombu::connect`](crate::connect), and [`ErrorKind::Unavailable`] if the runtime can't be started.
pub fn connect(url: impl Into<String>) -> Result<Connection> {
    if let Err(problem) = runtime() {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("no thread for blocking connections could be started: {problem}"),
        ));
    }
    crate::connect(url).wait()
}

/// Whatever can be awaited can be waited for.
pub trait Wait: IntoFuture + Sized {
    /// Waits until it is done. Deadlines are those of the connection.
    fn wait(self) -> Self::Output {
        let gives_way = gives_way();
        // Much begins its work here, and some of it wants to be within a runtime.
        let _entered = enter();
        block_on(pin!(self.into_future()), gives_way)
    }

    /// Waits for so long at most; `None` if it isn't done by then, and is given up. What was sent stays sent. To wait for the
    /// same thing again, wait for `&mut` of a pinned future.
    ///
    /// ```
    /// use kombu::blocking::{self, Wait};
    /// use kombu::Queue;
    /// use std::time::Duration;
    ///
    /// # fn main() -> kombu::Result<()> {
    /// let connection = blocking::connect("memory://")?;
    /// let mut consumer = connection.consumer(&Queue::new("jobs")).wait()?;
    /// assert!(consumer.try_next().wait_for(Duration::from_millis(10)).is_none());
    /// # Ok(())
    /// # }
    /// ```
    fn wait_for(self, time: Duration) -> Option<Self::Output> {
        let future = async {
            let future = self.into_future();
            tokio::time::timeout(time, future).await.ok()
        };
        block_on(pin!(future), gives_way())
    }
}

impl<F: IntoFuture> Wait for F {}

/// An iterator over a stream, which waits for each item: for a consumer's deliveries, and for
/// [`values`](crate::Consumer::values).
pub fn each<S: Stream + Unpin>(stream: S) -> Each<S> {
    Each(stream)
}

/// See [`each`].
pub struct Each<S>(S);

impl<S: Stream + Unpin> Iterator for Each<S> {
    type Item = S::Item;

    fn next(&mut self) -> Option<S::Item> {
        let next = poll_fn(|context| Pin::new(&mut self.0).poll_next(context));
        block_on(pin!(next), gives_way())
    }
}

impl<S> fmt::Debug for Each<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Each").finish_non_exhaustive()
    }
}

/// Wakes a thread that waits.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

fn enter() -> Option<EnterGuard<'static>> {
    runtime().ok().map(Runtime::enter)
}

/// Whether another thread may take the place of this one. A runtime of one thread, which somebody may run on a thread of ours,
/// has no other, and refuses with a panic.
fn gives_way() -> bool {
    let is_alone = |runtime: Handle| runtime.runtime_flavor() == RuntimeFlavor::CurrentThread;
    OURS.get() && !Handle::try_current().is_ok_and(is_alone)
}

/// Polls on this thread. A runtime's own way refuses to do so within a task, with a panic.
fn block_on<F: Future>(future: Pin<&mut F>, gives_way: bool) -> F::Output {
    match gives_way {
        // What is waited for may need the thread.
        true => tokio::task::block_in_place(|| park_until(future)),
        false => park_until(future),
    }
}

fn park_until<F: Future>(future: Pin<&mut F>) -> F::Output {
    let _entered = enter();
    // Within a task nothing would give it a new budget.
    let mut future = pin!(tokio::task::coop::unconstrained(future));
    let parked = Arc::new(Parked {
        thread: std::thread::current(),
        woken: AtomicBool::new(false),
    });
    let waker = Waker::from(parked.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        while !parked.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

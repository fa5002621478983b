use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A future without a lifetime that may run on any thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer of an operation that starts when it is called, not when it is polled.
///
/// An in-process transport answers at once and allocates nothing; a networked one returns a boxed
/// future. The future borrows nothing, so whoever holds it needs no handle to the session that it
/// came from. Dropping it doesn't undo what was started.
pub enum Op<T> {
    /// The answer is there; `None` after it was taken.
    Ready(Option<T>),
    /// The answer comes later.
    Pending(BoxFuture<'static, T>),
}

impl<T> Op<T> {
    /// An operation that is already done.
    #[inline]
    pub fn ready(value: T) -> Self {
        Op::Ready(Some(value))
    }

    /// An operation whose answer this future brings. The operation has to be under way already.
    pub fn pending(future: impl Future<Output = T> + Send + 'static) -> Self {
        Op::Pending(Box::pin(future))
    }

    /// Polls the future once, so that it is under way, or done, when the call returns.
    pub fn start(future: impl Future<Output = T> + Send + 'static) -> Self {
        let mut future: BoxFuture<'static, T> = Box::pin(future);
        // Whoever polls the operation registers a real waker then.
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(value) => Op::ready(value),
            Poll::Pending => Op::Pending(future),
        }
    }

    /// Turns the answer into something else, at once if it is there.
    pub fn map<U, F>(self, change: F) -> Op<U>
    where
        T: 'static,
        F: FnOnce(T) -> U + Send + 'static,
    {
        match self {
            Op::Ready(value) => Op::Ready(value.map(change)),
            Op::Pending(future) => Op::pending(async move { change(future.await) }),
        }
    }
}

// The value in `Ready` is moved out, never pinned.
impl<T> Unpin for Op<T> {}

impl<T> Future for Op<T> {
    type Output = T;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.get_mut() {
            // As with every future, polling after the answer was taken is the caller's mistake.
            // It stays pending then: a transport must not be able to bring the program down.
            Op::Ready(value) => match value.take() {
                Some(value) => Poll::Ready(value),
                None => Poll::Pending,
            },
            Op::Pending(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Ready(_) => "Op::Ready",
            Op::Pending(_) => "Op::Pending",
        })
    }
}

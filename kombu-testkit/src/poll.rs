use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Whether a future has been woken since it was last waited for.
#[derive(Default)]
struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// Polls a future this many times and drops it; answers its output if it was ready before.
///
/// Between two polls it waits until the future wants to be polled: until what it waits for has come. Some never do, since
/// what they wait for never comes, and there is no event for that. They are polled again after 10 ms, which on a paused
/// clock are over as soon as nothing else goes on.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use kombu_testkit::poll_then_drop;
///
/// let steps = || async {
///     tokio::task::yield_now().await;
///     7
/// };
/// assert_eq!(poll_then_drop(0, steps()).await, None);
/// assert_eq!(poll_then_drop(1, steps()).await, None);
/// assert_eq!(poll_then_drop(2, steps()).await, Some(7));
/// # }
/// ```
pub async fn poll_then_drop<F: IntoFuture>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future.into_future());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    for round in 0..times {
        if round > 0 {
            drop(timeout(Duration::from_millis(10), woken.0.notified()).await);
            // Whatever woke it may be about to do more.
            tokio::task::yield_now().await;
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    None
}

use std::future::{IntoFuture, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Polls a future this many times and drops it; answers its output if it was ready before.
///
/// Between two polls, 10 ms pass, in which what it waits for may come.
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
    for round in 0..times {
        if round > 0 {
            // Whatever it waits for may be there in a moment; on a paused clock, this costs none.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(output) = polled {
            return Some(output);
        }
    }
    None
}

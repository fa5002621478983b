//! A single get whose caller may go away before the answer comes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::driver::{BoxFuture, Outcome, RawDelivery, Settle, Tag};
use crate::engine::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

type Taken = Option<(RawDelivery, Arc<dyn Settle>)>;

/// Takes one message. The request may be on its way when the caller drops this: what the broker answers then is given
/// back, or nobody would have it until the session ends.
pub(super) async fn get(runtime: &Handle, session: Arc<Session>, queue: Name) -> Result<Taken> {
    let mut get: BoxFuture<'static, Result<Taken>> =
        Box::pin(async move { session.driver.get(&queue, false).await });
    // A broker within the process answers at once.
    let at_once = poll_fn(|context| Poll::Ready(get.as_mut().poll(context))).await;
    if let Poll::Ready(taken) = at_once {
        return taken;
    }
    let (answer, received) = oneshot::channel();
    runtime.spawn(async move {
        let taken = get.await.map(Unclaimed);
        // Dropped with its receiver, or with the answer that it holds, it goes back.
        drop(answer.send(taken));
    });
    match received.await {
        Ok(taken) => taken.map(|mut unclaimed| unclaimed.0.take()),
        Err(_) => Err(Error::new(
            ErrorKind::ConnectionLost,
            "the runtime that the connection was made in is gone; connect again",
        )),
    }
}

/// What nobody has received yet.
struct Unclaimed(Taken);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some((delivery, settler)) = self.0.take() {
            let tag = Tag {
                queue: delivery.queue,
                id: delivery.id,
            };
            drop(settler.settle(tag, Outcome::Release));
        }
    }
}

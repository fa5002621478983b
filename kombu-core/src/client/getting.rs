//! A single get whose caller may go away before the answer comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use crate::driver::{BoxFuture, Outcome, RawDelivery, Settle, Tag};
use crate::engine::Session;
use crate::error::Result;
use crate::name::Name;

type Taken = Result<Option<(RawDelivery, Arc<dyn Settle>)>>;

/// What a driver's `get` is doing. The request may be on its way when the caller drops this: what the broker
/// answers then is waited for and given back, or nobody would have it until the session ends.
pub(super) struct Getting(Option<BoxFuture<'static, Taken>>);

impl Getting {
    pub(super) fn new(session: Arc<Session>, queue: Name) -> Self {
        Getting(Some(Box::pin(async move {
            session.driver.get(&queue, false).await
        })))
    }
}

impl Future for Getting {
    type Output = Taken;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Taken> {
        let Some(get) = &mut self.0 else {
            return Poll::Pending;
        };
        let answer = get.as_mut().poll(context);
        if answer.is_ready() {
            self.0 = None;
        }
        answer
    }
}

impl Drop for Getting {
    fn drop(&mut self) {
        let Some(get) = self.0.take() else { return };
        // Without a runtime, nothing of the session goes on either, and it gives everything back.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Ok(Some((delivery, settler))) = get.await {
                let tag = Tag {
                    queue: delivery.queue,
                    id: delivery.id,
                };
                drop(settler.settle(tag, Outcome::Release));
            }
        });
    }
}

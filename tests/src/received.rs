//! What a transport hands over, before the library has it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use kombu::driver::{
    self, BoxFuture, Layer, Op, RawDelivery, Received, SessionLayer, Settle, Subscription,
};
use kombu::{Name, Result};

type Look = Arc<dyn Fn(&mut RawDelivery) + Send + Sync>;

/// A layer that looks at what is received, and may change it.
#[derive(Clone)]
pub struct OnReceived(Look);

impl OnReceived {
    /// Calls this for each message.
    pub fn new(look: impl Fn(&mut RawDelivery) + Send + Sync + 'static) -> Self {
        OnReceived(Arc::new(look))
    }
}

impl fmt::Debug for OnReceived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnReceived").finish_non_exhaustive()
    }
}

impl Layer for OnReceived {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(self.clone())
    }
}

impl SessionLayer for OnReceived {
    fn subscription(&self, next: Box<dyn Subscription>) -> Box<dyn Subscription> {
        let look = self.0.clone();
        Box::new(Looking { next, look })
    }
}

struct Looking {
    next: Box<dyn Subscription>,
    look: Look,
}

impl Stream for Looking {
    type Item = Result<Received>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        let mut received = Pin::new(&mut self.next).poll_next(context);
        if let Poll::Ready(Some(Ok(Received::Delivery(delivery)))) = &mut received {
            (self.look)(delivery);
        }
        received
    }
}

impl Subscription for Looking {
    fn settler(&self) -> Arc<dyn Settle> {
        self.next.settler()
    }

    fn set_window(&self, window: u32) {
        self.next.set_window(window);
    }

    fn pause(&mut self, paused: bool) {
        self.next.pause(paused);
    }

    fn add(&mut self, queue: &Name) -> BoxFuture<'_, Result<u16>> {
        self.next.add(queue)
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        self.next.remove(queue)
    }

    fn cancel(self: Box<Self>) -> Op<Result<()>> {
        self.next.cancel()
    }
}

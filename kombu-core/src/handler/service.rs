//! Handlers as services of tower's, so that its layers go around them.

use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::driver::BoxFuture;

use super::route::Erased;
use super::{HandlerError, Reaction, Request, Router};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A handler, as a service from request to reaction.
#[derive(Clone)]
pub struct HandlerService(Arc<dyn Erased<()>>);

impl Service<Request> for HandlerService {
    type Response = Reaction;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Reaction, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let reaction = self.0.call(request, ());
        Box::pin(async move { Ok(reaction.await) })
    }
}

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerService").finish_non_exhaustive()
    }
}

/// A service in place of a handler.
struct Layered<L> {
    service: L,
    takes_delivery: bool,
}

impl<L> Erased<()> for Layered<L>
where
    L: Service<Request, Response = Reaction, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn takes_delivery(&self) -> bool {
        self.takes_delivery
    }

    fn call(&self, request: Request, (): ()) -> BoxFuture<'static, Reaction> {
        let mut service = self.service.clone();
        Box::pin(async move {
            let answered = async {
                poll_fn(|context| service.poll_ready(context)).await?;
                service.call(request).await
            };
            match answered.await {
                Ok(reaction) => reaction,
                Err(error) => Reaction::failed(HandlerError::new(error)),
            }
        })
    }
}

impl Router {
    /// Puts a layer of tower's around each of the handlers that the router has by now. What a layer fails with is as an
    /// error of the handler.
    pub fn layer<L>(self, layer: L) -> Router
    where
        L: Layer<HandlerService>,
        L::Service: Service<Request, Response = Reaction, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.mapped(|handler| {
            Arc::new(Layered {
                takes_delivery: handler.takes_delivery(),
                service: layer.layer(HandlerService(handler)),
            })
        })
    }
}

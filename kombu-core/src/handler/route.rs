use std::marker::PhantomData;
use std::sync::Arc;

use crate::driver::BoxFuture;

use super::{Handler, Reaction, Request};

/// A handler whose arguments have been forgotten, for one state.
pub(super) trait Erased<S>: Send + Sync {
    fn takes_delivery(&self) -> bool;
    fn call(&self, request: Request, state: S) -> BoxFuture<'static, Reaction>;
}

pub(super) struct Function<H, Arguments> {
    handler: H,
    arguments: PhantomData<fn(Arguments)>,
}

impl<H, Arguments> Function<H, Arguments> {
    pub(super) fn new(handler: H) -> Self {
        Function {
            handler,
            arguments: PhantomData,
        }
    }
}

impl<H, Arguments, S> Erased<S> for Function<H, Arguments>
where
    H: Handler<Arguments, S>,
    Arguments: 'static,
{
    fn takes_delivery(&self) -> bool {
        self.handler.takes_delivery()
    }

    fn call(&self, request: Request, state: S) -> BoxFuture<'static, Reaction> {
        self.handler.clone().call(request, state)
    }
}

/// A handler that has its state.
pub(super) struct Stateful<S> {
    pub(super) handler: Arc<dyn Erased<S>>,
    pub(super) state: S,
}

impl<S: Clone + Send + Sync, T> Erased<T> for Stateful<S> {
    fn takes_delivery(&self) -> bool {
        self.handler.takes_delivery()
    }

    fn call(&self, request: Request, _: T) -> BoxFuture<'static, Reaction> {
        self.handler.call(request, self.state.clone())
    }
}

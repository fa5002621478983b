use crate::driver::BoxFuture;

use super::extract::{FromDelivery, FromMessage};
use super::{IntoReaction, Reaction, Request};

/// A function that handles messages: an `async fn` whose arguments are extractors.
///
/// Up to eight arguments. What has no arguments or state of its own can be a closure; what has a context is a closure that
/// captures it, or takes it as [`State`](super::State).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler for this router",
    note = "a handler is an `async fn` whose arguments are extractors: `Payload<T>`, `State<T>`, `Headers`, `Attempt`, `Message`, `Responder`, `Option<Responder>`, and `Delivery` as the last one only",
    note = "it returns `()`, an `Outcome`, a number, a text, `Reply(value)`, or a `Result` of one of these; and its future is `Send`: no `Rc`, and no lock guard across an `.await`",
    note = "a `State<T>` that it takes is given to the router with `.with_state(..)`, and that of this router is `{S}`"
)]
pub trait Handler<Arguments, S>: Clone + Send + Sync + 'static {
    /// Whether it takes the delivery, and settles it.
    fn takes_delivery(&self) -> bool {
        false
    }

    /// Handles a message.
    fn call(self, request: Request, state: S) -> BoxFuture<'static, Reaction>;
}

impl<F, R, S> Handler<((),), S> for F
where
    F: FnOnce() -> R + Clone + Send + Sync + 'static,
    R: Future<Output: IntoReaction> + Send,
{
    fn call(self, _: Request, _: S) -> BoxFuture<'static, Reaction> {
        Box::pin(async move { self().await.into_reaction() })
    }
}

macro_rules! functions {
    ($($($argument:ident)* | $last:ident;)*) => {$(
        #[allow(non_snake_case)] // the arguments have their types' names
        impl<F, R, S, M, $($argument,)* $last> Handler<(M, $($argument,)* $last), S> for F
        where
            F: FnOnce($($argument,)* $last) -> R + Clone + Send + Sync + 'static,
            R: Future<Output: IntoReaction> + Send,
            S: Send + Sync + 'static,
            $($argument: FromMessage<S> + Send,)*
            $last: FromDelivery<S, M> + Send,
        {
            fn takes_delivery(&self) -> bool {
                $last::TAKES_DELIVERY
            }

            fn call(self, request: Request, state: S) -> BoxFuture<'static, Reaction> {
                Box::pin(async move {
                    #[allow(unused_mut)] // of the last argument alone
                    let mut request = request;
                    $(
                        let $argument = match $argument::from_message(&mut request, &state) {
                            Ok(value) => value,
                            Err(rejection) => return Reaction::rejected(rejection),
                        };
                    )*
                    let $last = match $last::from_delivery(request, &state) {
                        Ok(value) => value,
                        Err(rejection) => return Reaction::rejected(rejection),
                    };
                    drop(state);
                    self($($argument,)* $last).await.into_reaction()
                })
            }
        }
    )*};
}

functions! {
    | T1;
    T1 | T2;
    T1 T2 | T3;
    T1 T2 T3 | T4;
    T1 T2 T3 T4 | T5;
    T1 T2 T3 T4 T5 | T6;
    T1 T2 T3 T4 T5 T6 | T7;
    T1 T2 T3 T4 T5 T6 T7 | T8;
}

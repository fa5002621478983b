use serde::de::DeserializeOwned;

use crate::call::Responder;
use crate::client::{Delivery, Message};
use crate::error::{Error, ErrorKind};
use crate::field::FieldTable;

use super::{Rejection, Request};

/// An argument of a handler that is read from the message, and leaves it to the others.
///
/// ```
/// use kombu::handler::{FromMessage, Rejection, Request};
/// use kombu::{Error, ErrorKind};
///
/// struct Tenant(i64);
///
/// impl<S> FromMessage<S> for Tenant {
///     fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
///         let tenant = request.message().headers().get("tenant").and_then(|tenant| tenant.as_i64());
///         let missing = || Error::new(ErrorKind::Undecodable, "the header `tenant` is missing");
///         Ok(Tenant(tenant.ok_or_else(missing)?))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be an argument of a handler here",
    label = "not an extractor, or not at this place",
    note = "extractors are `Payload<T>` (with `T: Deserialize`), `State<T>`, `Headers`, `Attempt`, `Message`, `Responder` and `Option<Responder>`; `Delivery` only as the last argument",
    note = "for a value that is decoded from the body, write `Payload<{Self}>`; for one that is shared, `State<{Self}>`"
)]
pub trait FromMessage<S>: Sized {
    /// Reads it. An error means that the handler can't be called with this message.
    fn from_message(request: &mut Request, state: &S) -> Result<Self, Rejection>;
}

/// The last argument of a handler: it may take the delivery. Every [`FromMessage`] is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the last argument of a handler",
    label = "not an extractor",
    note = "extractors are `Payload<T>` (with `T: Deserialize`), `State<T>`, `Headers`, `Attempt`, `Message`, `Responder`, `Option<Responder>`, and as the last argument `Delivery`",
    note = "for a value that is decoded from the body, write `Payload<{Self}>`; for one that is shared, `State<{Self}>`"
)]
pub trait FromDelivery<S, M = private::TakesDelivery>: Sized {
    #[doc(hidden)]
    const TAKES_DELIVERY: bool;

    /// Reads it, or takes the delivery.
    fn from_delivery(request: Request, state: &S) -> Result<Self, Rejection>;
}

pub(super) mod private {
    /// Tells the two ways apart in which an argument may be the last.
    #[derive(Debug)]
    pub enum TakesDelivery {}
    #[derive(Debug)]
    pub enum ReadsMessage {}
}

impl<S, T: FromMessage<S>> FromDelivery<S, private::ReadsMessage> for T {
    const TAKES_DELIVERY: bool = false;

    fn from_delivery(mut request: Request, state: &S) -> Result<Self, Rejection> {
        T::from_message(&mut request, state)
    }
}

/// The delivery itself: the handler settles it. What it returns then settles and answers nothing, and an error is only logged;
/// one that takes [too long](super::Serve::max_processing_time) has failed like any other. If
/// one of the other arguments can't be had, it doesn't get the delivery, which is treated as that of any handler.
impl<S> FromDelivery<S> for Delivery {
    const TAKES_DELIVERY: bool = true;

    fn from_delivery(mut request: Request, _: &S) -> Result<Self, Rejection> {
        let taken = || Error::new(ErrorKind::NotSettleable, "the delivery was taken already");
        Ok(request.take_delivery().ok_or_else(taken)?)
    }
}

/// The body, decoded with the codec of its content type.
///
/// A body that isn't a `T` is undecodable: the handler isn't called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Payload<T>(pub T);

impl<S, T: DeserializeOwned> FromMessage<S> for Payload<T> {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        Ok(Payload(request.message().decode()?))
    }
}

/// What the program gave to all of its handlers ([`Router::with_state`](super::Router::with_state)): a clone of it, or of a part
/// ([`FromState`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State<T>(pub T);

/// A part of the state.
///
/// ```
/// use kombu::handler::{FromState, State};
///
/// #[derive(Clone)]
/// struct Pool;
///
/// #[derive(Clone)]
/// struct Shop {
///     pool: Pool,
/// }
///
/// impl FromState<Shop> for Pool {
///     fn from_state(shop: &Shop) -> Self {
///         shop.pool.clone()
///     }
/// }
///
/// async fn sell(State(_pool): State<Pool>) {}
/// # let _: kombu::handler::Router = kombu::handler::Router::new().on("sell", sell).with_state(Shop { pool: Pool });
/// ```
#[diagnostic::on_unimplemented(
    message = "a handler asks for `State<{Self}>`, and the router's state is `{S}`",
    label = "this state isn't given",
    note = "give it with `.with_state(..)`, or implement `FromState<{S}>` for `{Self}` if it is a part of the state"
)]
pub trait FromState<S> {
    /// Takes it out of the whole.
    fn from_state(state: &S) -> Self;
}

impl<S: Clone> FromState<S> for S {
    fn from_state(state: &S) -> Self {
        state.clone()
    }
}

impl<S, T: FromState<S>> FromMessage<S> for State<T> {
    fn from_message(_: &mut Request, state: &S) -> Result<Self, Rejection> {
        Ok(State(T::from_state(state)))
    }
}

/// The headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub FieldTable);

impl<S> FromMessage<S> for Headers {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        Ok(Headers(request.message().headers().clone()))
    }
}

/// Which counted try this is: 1 for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

impl<S> FromMessage<S> for Attempt {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        Ok(Attempt(request.attempt()))
    }
}

/// The whole message: body as it travels, properties and headers.
impl<S> FromMessage<S> for Message {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        Ok(request.message().clone())
    }
}

/// What answers the message, for handlers that answer before they return, or more than once. What they return answers
/// nothing then. A message that asks for no answer is rejected; `Option<Responder>` takes both.
impl<S> FromMessage<S> for Responder {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        let responder = request.take_responder();
        let missing = || {
            Error::new(
                ErrorKind::Undecodable,
                "the message asks for no answer, and its handler only answers; take `Option<Responder>` for both",
            )
        };
        Ok(responder.ok_or_else(missing)?)
    }
}

impl<S> FromMessage<S> for Option<Responder> {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        Ok(request.take_responder())
    }
}

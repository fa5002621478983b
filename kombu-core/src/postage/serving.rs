use std::any::Any;
use std::fmt;
use std::sync::Arc;

use kombu_serializers::erased_serde::Serialize as Erased;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::call::{self, Failure, FailureKind, Replying};
use crate::client::{self, Connection, UndecodablePolicy};
use crate::error::{Error, ErrorKind};
use crate::handler::{
    Complete, FromMessage, IntoReaction, Reaction, Rejection, Request, Retries, Router, Serve,
    Style,
};
use crate::name::Name;

use super::{Category, Fingerprint, Message, RpcResult};

/// What a message's handler is found by.
#[derive(Deserialize)]
struct Keys {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    name: Option<String>,
    category: Category,
}

impl Keys {
    fn of(message: &client::Message) -> Option<Self> {
        let keys = message.decode();
        keys.inspect_err(|error| tracing::debug!(%error, "not a message of Postage's"))
            .ok()
    }

    /// The same for handlers of calls alone.
    fn of_calls(&self) -> String {
        format!("rpc {}", self.kind)
    }
}

impl From<Keys> for (Option<Name>, Option<Name>) {
    fn from(keys: Keys) -> Self {
        (Some(keys.kind.into()), keys.name.map(Name::from))
    }
}

/// By what a [`Router`] finds the handler of a message: its type and its name, whatever its category. For [`Router::keyed_by`].
///
/// Without a type, or with a category that isn't one, it is no message of Postage's, and goes to the router's fallback.
pub fn keys(message: &client::Message) -> (Option<Name>, Option<Name>) {
    Keys::of(message).map_or_else(Default::default, Keys::into)
}

/// The same, but for calls of a type for whose calls the router has handlers.
fn keys_in(router: Router) -> impl Fn(&client::Message) -> (Option<Name>, Option<Name>) {
    move |message| {
        let Some(mut keys) = Keys::of(message) else {
            return Default::default();
        };
        if keys.category == Category::Rpc {
            let calls = keys.of_calls();
            if router.has_handlers_for(&calls, keys.name.as_deref()) {
                keys.kind = calls;
            }
        }
        keys.into()
    }
}

/// A component to be, with handlers for messages of Postage's: by [type](Router::on), or by [type and name](Router::on_named).
/// A handler for `command` gets messages and calls. Where there is one for `rpc command`, calls are its own: so it is with each
/// type.
///
/// The component obeys the commands `quit` and `restart`, calls of them only where there is no handler for `rpc command`. What a handler returns is the value of a [`RpcResult::Success`]; a
/// [`RpcResult`], or a [`Message`] of one, is answered as it is, and values that aren't answers by themselves are wrapped in a
/// [`Reply`](crate::handler::Reply). What a handler fails with is answered as a [`RpcResult::Exception`], by name and text, and
/// the message is rejected. One that isn't a call is rejected then, too, and not tried again ([`retries`](Serve::retries) says
/// otherwise). So is what no handler can be called with. What is rejected goes to the dead-letter exchange of its queue; without
/// one it is gone, as Postage has it, and [`on_undecodable`](Serve::on_undecodable) can have what no handler took held instead.
///
/// All answers say that this process sent them, but for a message that is [from](Message::from) somebody; [`serve_as`] names the
/// component. A [`Responder`] answers earlier, in the same way; a plain one of
/// [`call`](crate::call::Responder) with what it is given, as it is.
pub fn serve(connection: &Connection, router: impl Complete) -> Serve {
    serve_as(connection, Fingerprint::of_process().on(connection), router)
}

/// The same for a component with this fingerprint: anything that is written as a map.
pub fn serve_as<F>(connection: &Connection, fingerprint: F, router: impl Complete) -> Serve
where
    F: Serialize + Clone + Send + Sync + 'static,
{
    let router: Router = router.into();
    let serve = connection.serve(router.clone().keyed_by(keys_in(router)));
    serve
        .tell_errors(true)
        .obey_commands(true)
        .retries(Retries::new(0))
        .on_undecodable(UndecodablePolicy::Reject)
        .style(Arc::new(Answers(fingerprint)))
}

/// How a component answers: with results, in its name.
struct Answers<F>(F);

impl<F: Serialize + Clone + Send + Sync + 'static> Style for Answers<F> {
    fn reply(&self, responder: &call::Responder, value: &dyn Erased) -> Replying {
        responder.reply(&Message::result(value).from(&self.0))
    }

    fn sender(&self) -> &dyn Erased {
        &self.0
    }

    fn failure(&self, failure: Failure) -> Failure {
        exception(failure, self.0.clone())
    }
}

/// What failed, where Postage's callers look for it as well.
fn exception<F: Serialize + Send + Sync + 'static>(failure: Failure, sender: F) -> Failure {
    let name = match failure.kind() {
        FailureKind::Application => failure.name(),
        FailureKind::Critical => "CriticalError",
        FailureKind::Transient => "TransientError",
    };
    let exception = Message::exception(name, failure.message());
    failure.payload(exception.from(sender))
}

/// What a message of Postage's carries, as an argument of a handler. The whole message is
/// [`Payload<Message<C>>`](crate::handler::Payload).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Content<C>(pub C);

impl<S, C: DeserializeOwned> FromMessage<S> for Content<C> {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        #[derive(Deserialize)]
        struct Whole<C> {
            #[serde(rename = "fingerprint", default)]
            _fingerprint: IgnoredAny,
            content: C,
        }
        let whole = request.message().decode::<Whole<C>>()?;
        Ok(Content(whole.content))
    }
}

/// Answers a call before its handler returns, or more than once: what it is given becomes a [`RpcResult`], in the component's name. As
/// an argument of a handler it takes over the answering; `Option<Responder>` is for handlers of what isn't a call as well.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::postage::{self, Nothing, Producer, Responder, RpcResult};
/// use kombu::handler::Router;
/// use kombu::{Exchange, Queue};
///
/// async fn convert(responder: Responder) -> kombu::Result<()> {
///     responder.reply("converted").await?;
///     // Temporary files are removed while the caller goes on.
///     Ok(())
/// }
///
/// let connection = kombu::connect("memory://").await?;
/// let queue = Queue::new("videos");
/// connection.declare_queue(&queue).await?;
/// let router = Router::new().on_named("command", "convert", convert);
/// let component = tokio::spawn(postage::serve(&connection, router).queues(&queue).run());
///
/// let producer = Producer::open(&connection).to(Exchange::default(), "videos").await?;
/// let result: RpcResult<String> = producer.rpc("convert", Nothing {}).await?;
/// assert_eq!(result, RpcResult::success("converted".to_owned()));
/// # component.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Responder {
    responder: call::Responder,
    style: Option<Arc<dyn Style>>,
}

impl Responder {
    fn of(request: &mut Request) -> Option<Self> {
        let style = request.style().cloned();
        let responder = request.take_responder()?;
        Some(Responder { responder, style })
    }

    /// Answers that it went well, with a value. Await the result.
    pub fn reply<T: Serialize>(&self, value: T) -> Replying {
        self.answer(RpcResult::success(value))
    }

    /// Answers with a result. Await the result.
    pub fn answer<T: Serialize>(&self, result: RpcResult<T>) -> Replying {
        let message = Message::answer(result);
        match &self.style {
            Some(style) => self.responder.reply(&message.from(style.sender())),
            None => self.responder.reply(&message),
        }
    }

    /// Answers with an exception: by its name and its text. Await the result.
    pub fn fail(&self, failure: Failure) -> Replying {
        self.responder.fail(match &self.style {
            Some(style) => style.failure(failure),
            None => exception(failure, Fingerprint::default()),
        })
    }

    /// What sends anything else, as it is.
    pub fn plain(&self) -> &call::Responder {
        &self.responder
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Responder").field(&self.responder).finish()
    }
}

impl<S> FromMessage<S> for Responder {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        let missing = || {
            Error::new(
                ErrorKind::Undecodable,
                "the message is no call, and its handler only answers; take `Option<Responder>` for both",
            )
        };
        Ok(Responder::of(request).ok_or_else(missing)?)
    }
}

impl<S> FromMessage<S> for Option<Responder> {
    fn from_message(request: &mut Request, _: &S) -> Result<Self, Rejection> {
        Ok(Responder::of(request))
    }
}

/// A handler answers with a result.
impl<T: Serialize + Send + 'static> IntoReaction for RpcResult<T> {
    fn into_reaction(self) -> Reaction {
        Message::answer(self).into_reaction()
    }
}

/// A handler answers with a result as a message, from whom it says, or else from its component.
impl<T, F> IntoReaction for Message<RpcResult<T>, F>
where
    T: Serialize + Send + 'static,
    F: Serialize + Send + 'static,
{
    fn into_reaction(self) -> Reaction {
        let fingerprint: &dyn Any = &self.fingerprint;
        let is_from_nobody = fingerprint.downcast_ref() == Some(&Fingerprint::default());
        Reaction::styled(move |responder, sender| match sender {
            Some(sender) if is_from_nobody => responder.reply(&self.from(sender)),
            _ => responder.reply(&self),
        })
    }
}

use std::any::Any;
use std::sync::Arc;

use kombu_serializers::erased_serde::Serialize as Erased;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::call::{Failure, FailureKind, Replying, Responder};
use crate::client::{self, Connection, UndecodablePolicy};
use crate::handler::{
    FromMessage, IntoReaction, Reaction, Rejection, Request, Retries, Router, Serve, Style,
};
use crate::name::Name;

use super::{Category, Fingerprint, Message, RpcResult};

/// By what a [`Router`] finds the handler of a message: its type and its name. For [`Router::keyed_by`]; [`serve`] does that.
///
/// Without a type, or with a category that isn't one, it is no message of Postage's, and goes to the router's fallback.
pub fn keys(message: &client::Message) -> (Option<Name>, Option<Name>) {
    #[derive(Deserialize)]
    struct Keys {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        name: Option<String>,
        // Read for its check alone.
        #[serde(rename = "category")]
        _category: Category,
    }
    match message.decode::<Keys>() {
        Ok(keys) => (Some(keys.kind.into()), keys.name.map(Name::from)),
        Err(error) => {
            tracing::debug!(%error, "not a message of Postage's");
            (None, None)
        }
    }
}

/// A component to be, with handlers for messages of Postage's: by [type](Router::on), or by [type and name](Router::on_named).
///
/// It obeys the commands `quit` and `restart`. What a handler returns is the value of a [`RpcResult::Success`], unless it is a
/// [`RpcResult`] or a [`Message`] of one: [`Reply`](crate::handler::Reply) is for plain values, which it makes one of. What it fails with is answered as a [`RpcResult::Exception`], by name and text, and its message is rejected. A
/// message that isn't a call is rejected then, too, and not tried again ([`retries`](Serve::retries) says otherwise). So is what
/// no handler can be called with. What is rejected goes to the dead-letter exchange of its queue; without one it is gone, and
/// [`on_undecodable`](Serve::on_undecodable) can have what no handler took held instead.
///
/// All answers say that this process sent them, but for a message that is [from](Message::from) somebody; [`serve_as`] names the
/// component. A [`Responder`] answers with what it is
/// given, as it is.
pub fn serve(connection: &Connection, router: Router) -> Serve {
    serve_as(connection, Fingerprint::of_process().on(connection), router)
}

/// The same for a component with this fingerprint: anything that is written as a map.
pub fn serve_as<F>(connection: &Connection, fingerprint: F, router: Router) -> Serve
where
    F: Serialize + Clone + Send + Sync + 'static,
{
    let serve = connection.serve(router.keyed_by(keys));
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
    fn reply(&self, responder: &Responder, value: &dyn Erased) -> Replying {
        responder.reply(&Message::result(value).from(&self.0))
    }

    fn sender(&self) -> &dyn Erased {
        &self.0
    }

    /// What failed, where Postage's callers look for it as well.
    fn failure(&self, failure: Failure) -> Failure {
        let name = match failure.kind() {
            FailureKind::Application => failure.name(),
            FailureKind::Critical => "CriticalError",
            FailureKind::Transient => "TransientError",
        };
        let exception = Message::exception(name, failure.message());
        failure.payload(exception.from(self.0.clone()))
    }
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

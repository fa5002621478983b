use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::call::{Failure, FailureKind};
use crate::client::{self, Connection};
use crate::handler::{
    FromMessage, IntoReaction, Reaction, Rejection, Request, Retries, Router, Serve,
};
use crate::name::Name;

use super::{Category, Message, RpcResult};

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
/// It obeys the commands `quit` and `restart`. What a handler fails with is answered as a [`RpcResult::Exception`], by name
/// and text, and its message is rejected; a message that isn't a call is rejected then, too, and not tried again
/// ([`retries`](Serve::retries) says otherwise).
pub fn serve(connection: &Connection, router: Router) -> Serve {
    let serve = connection.serve(router.keyed_by(keys));
    serve
        .tell_errors(true)
        .obey_commands(true)
        .retries(Retries::new(0))
        .failures(as_exception)
}

/// What failed, where Postage's callers look for it as well.
fn as_exception(failure: Failure) -> Failure {
    let name = match failure.kind() {
        FailureKind::Application => failure.name(),
        FailureKind::Critical => "CriticalError",
        FailureKind::Transient => "TransientError",
    };
    let exception = Message::exception(name, failure.message());
    failure.payload(exception)
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

/// A handler answers with a result as a message.
impl<T, F> IntoReaction for Message<RpcResult<T>, F>
where
    T: Serialize + Send + 'static,
    F: Serialize + Send + 'static,
{
    fn into_reaction(self) -> Reaction {
        Reaction::value(self)
    }
}

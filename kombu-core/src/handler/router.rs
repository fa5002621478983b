use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::client::Message;
use crate::error::{Error, ErrorKind};
use crate::name::Name;

use super::route::{Erased, Function, Stateful};
use super::{Handler, HandlerError, Outcome};

/// The header that a message's name is in, beside its `type`.
const NAME: &str = "name";

type Handlers<S> = Vec<Arc<dyn Erased<S>>>;
type Predicate = Arc<dyn Fn(&Message) -> bool + Send + Sync>;
type Keys = Arc<dyn Fn(&Message) -> (Option<Name>, Option<Name>) + Send + Sync>;

/// Which handler a message goes to.
///
/// The first that fits: a handler [for its type and name](Router::on_named), one [for its type](Router::on), one [for its
/// queue](Router::queue), the first one whose [condition](Router::when) holds, the [fallback](Router::fallback). Several
/// handlers for the same each get the message: it is acked if all of them succeed, and retried for all of them if one
/// fails; the answer is that of the last one.
///
/// `S` is the state that its handlers still need; [`with_state`](Router::with_state) gives it.
pub struct Router<S = ()> {
    named: HashMap<(Name, Name), Handlers<S>>,
    typed: HashMap<Name, Handlers<S>>,
    queues: HashMap<Name, Handlers<S>>,
    conditions: Vec<(Predicate, Handlers<S>)>,
    fallback: Handlers<S>,
    keys: Option<Keys>,
}

/// A router whose handlers have their state: what can be served.
///
/// Of all routers, only `Router<()>` is one: so a router that needs no state has none, without being told.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a router whose handlers have their state",
    label = "expected `Router<()>`",
    note = "in `Router<T>`, handlers take a `State<T>`: give it with `.with_state(..)`",
    note = "a router is handed over, and not borrowed: `.clone()` makes another one"
)]
pub trait Complete: Into<Router> {}

impl Complete for Router {}

impl<S> Default for Router<S> {
    fn default() -> Self {
        Router {
            named: HashMap::new(),
            typed: HashMap::new(),
            queues: HashMap::new(),
            conditions: Vec::new(),
            fallback: Vec::new(),
            keys: None,
        }
    }
}

fn erased<H, Arguments, S>(handler: H) -> Arc<dyn Erased<S>>
where
    H: Handler<Arguments, S>,
    Arguments: 'static,
    S: 'static,
{
    Arc::new(Function::new(handler))
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// Without handlers.
    pub fn new() -> Self {
        Router::default()
    }

    /// Handles messages of this AMQP `type`, whatever their name.
    pub fn on<H, Arguments>(mut self, kind: impl Into<Name>, handler: H) -> Self
    where
        H: Handler<Arguments, S>,
        Arguments: 'static,
    {
        let handlers = self.typed.entry(kind.into()).or_default();
        handlers.push(erased(handler));
        self
    }

    /// Handles messages of this AMQP `type` whose header `name` says this.
    pub fn on_named<H, Arguments>(
        mut self,
        kind: impl Into<Name>,
        name: impl Into<Name>,
        handler: H,
    ) -> Self
    where
        H: Handler<Arguments, S>,
        Arguments: 'static,
    {
        let key = (kind.into(), name.into());
        self.named.entry(key).or_default().push(erased(handler));
        self
    }

    /// Handles what comes from this queue.
    pub fn queue<H, Arguments>(mut self, queue: impl Into<Name>, handler: H) -> Self
    where
        H: Handler<Arguments, S>,
        Arguments: 'static,
    {
        let handlers = self.queues.entry(queue.into()).or_default();
        handlers.push(erased(handler));
        self
    }

    /// Handles messages that fulfil a condition.
    pub fn when<H, Arguments>(
        mut self,
        condition: impl Fn(&Message) -> bool + Send + Sync + 'static,
        handler: H,
    ) -> Self
    where
        H: Handler<Arguments, S>,
        Arguments: 'static,
    {
        let condition: Predicate = Arc::new(condition);
        self.conditions.push((condition, vec![erased(handler)]));
        self
    }

    /// Handles what no other handler is for.
    pub fn fallback<H, Arguments>(mut self, handler: H) -> Self
    where
        H: Handler<Arguments, S>,
        Arguments: 'static,
    {
        self.fallback.push(erased(handler));
        self
    }

    /// Finds type and name of a message elsewhere than in its AMQP `type` and its header `name`.
    pub fn keyed_by(
        mut self,
        keys: impl Fn(&Message) -> (Option<Name>, Option<Name>) + Send + Sync + 'static,
    ) -> Self {
        self.keys = Some(Arc::new(keys));
        self
    }

    /// Gives the handlers their state; each call gets a clone.
    pub fn with_state<T>(self, state: S) -> Router<T> {
        self.mapped(|handler| {
            let state = state.clone();
            Arc::new(Stateful { handler, state })
        })
    }

    /// Every handler made into something else.
    pub(super) fn mapped<T>(
        self,
        change: impl Fn(Arc<dyn Erased<S>>) -> Arc<dyn Erased<T>>,
    ) -> Router<T> {
        let all = |handlers: Handlers<S>| handlers.into_iter().map(&change).collect();
        Router {
            named: self
                .named
                .into_iter()
                .map(|(key, one)| (key, all(one)))
                .collect(),
            typed: self
                .typed
                .into_iter()
                .map(|(key, one)| (key, all(one)))
                .collect(),
            queues: self
                .queues
                .into_iter()
                .map(|(key, one)| (key, all(one)))
                .collect(),
            conditions: self
                .conditions
                .into_iter()
                .map(|(condition, one)| (condition, all(one)))
                .collect(),
            fallback: all(self.fallback),
            keys: self.keys,
        }
    }

    /// Ends or restarts the component when a message of type `command` and name `quit` or `restart` comes, unless there
    /// are handlers for these.
    pub(super) fn with_commands(mut self) -> Self {
        for (name, outcome) in [("quit", Outcome::Quit), ("restart", Outcome::Restart)] {
            let key = (Name::from_static("command"), Name::from_static(name));
            let handler = async move || outcome;
            self.named
                .entry(key)
                .or_insert_with(|| vec![erased(handler)]);
        }
        self
    }

    /// The handlers for a message; none if there is none. An error is a panic of what the program looks for them with.
    pub(super) fn find(
        &self,
        message: &Message,
        queue: &Name,
    ) -> Result<&[Arc<dyn Erased<S>>], HandlerError> {
        HandlerError::catch(|| self.look_for(message, queue))
    }

    fn look_for(&self, message: &Message, queue: &Name) -> &[Arc<dyn Erased<S>>] {
        let has_keys = !self.named.is_empty() || !self.typed.is_empty();
        if has_keys && let Some(handlers) = self.find_by_key(message) {
            return handlers;
        }
        if let Some(handlers) = self.queues.get(queue) {
            return handlers;
        }
        let mut conditions = self.conditions.iter();
        match conditions.find(|(condition, _)| condition(message)) {
            Some((_, handlers)) => handlers,
            None => &self.fallback,
        }
    }

    /// What it takes for the type of a message.
    pub(super) fn kind_of(&self, message: &Message) -> Option<Name> {
        match &self.keys {
            None => message.kind().map(Name::from),
            Some(keys) => keys(message).0,
        }
    }

    fn find_by_key(&self, message: &Message) -> Option<&[Arc<dyn Erased<S>>]> {
        let made;
        let (kind, name) = match &self.keys {
            None => (
                message.kind(),
                message.headers().get(NAME).and_then(|name| name.as_str()),
            ),
            Some(keys) => {
                made = keys(message);
                (made.0.as_deref(), made.1.as_deref())
            }
        };
        self.handlers_for(kind?, name)
    }

    fn handlers_for(&self, kind: &str, name: Option<&str>) -> Option<&[Arc<dyn Erased<S>>]> {
        if let Some(name) = name
            && !self.named.is_empty()
            && let Some(handlers) = self.named.get(&(kind.into(), name.into()))
        {
            return Some(handlers);
        }
        self.typed.get(kind).map(Vec::as_slice)
    }

    /// Whether there are handlers for this type, or for this name of it.
    #[cfg(feature = "postage")]
    pub(crate) fn has_handlers_for(&self, kind: &str, name: Option<&str>) -> bool {
        self.handlers_for(kind, name).is_some()
    }

    /// A key with several handlers of which one wants the delivery for itself.
    pub(super) fn conflict(&self) -> Option<String> {
        let takes = |handlers: &Handlers<S>| {
            handlers.len() > 1 && handlers.iter().any(|handler| handler.takes_delivery())
        };
        let named = self.named.iter().find(|(_, handlers)| takes(handlers));
        if let Some(((kind, name), _)) = named {
            return Some(format!("type `{kind}` and name `{name}`"));
        }
        if let Some((kind, _)) = self.typed.iter().find(|(_, handlers)| takes(handlers)) {
            return Some(format!("type `{kind}`"));
        }
        if let Some((queue, _)) = self.queues.iter().find(|(_, handlers)| takes(handlers)) {
            return Some(format!("queue `{queue}`"));
        }
        takes(&self.fallback).then(|| "the fallback".to_owned())
    }

    /// Refuses handlers that want the delivery for themselves, for `what`, which can't give it to them.
    pub(crate) fn check_takes_none(&self, what: &str) -> crate::error::Result<()> {
        let named = self.named.values().chain(self.typed.values());
        let conditional = self.conditions.iter().map(|(_, handlers)| handlers);
        let all = named.chain(self.queues.values()).chain(conditional);
        let mut all = all.chain([&self.fallback]).flatten();
        if !all.any(|handler| handler.takes_delivery()) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Config,
            format!(
                "a handler of {what} takes the delivery, which is settled before; have it take the `Message`, or its `Payload`"
            ),
        ))
    }
}

impl<S> Clone for Router<S> {
    fn clone(&self) -> Self {
        Router {
            named: self.named.clone(),
            typed: self.typed.clone(),
            queues: self.queues.clone(),
            conditions: self.conditions.clone(),
            fallback: self.fallback.clone(),
            keys: self.keys.clone(),
        }
    }
}

impl<S> fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("named", &self.named.keys())
            .field("typed", &self.typed.keys())
            .field("queues", &self.queues.keys())
            .field("conditions", &self.conditions.len())
            .field("fallback", &!self.fallback.is_empty())
            .finish()
    }
}

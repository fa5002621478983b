use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::message::Content;
use crate::name::Name;
use crate::virt::BindingRecord;

/// How exchanges of a kind of your own route.
///
/// A closure of the same shape is one.
pub trait RouteMessages: Send + Sync + 'static {
    /// Which of `bindings` the message takes: their indices. One that isn't there counts as none.
    ///
    /// The bindings of an exchange always come in the same order: by destination, then by routing key.
    fn route(&self, message: &Content, bindings: &[&BindingRecord]) -> Vec<usize>;
}

impl<F> RouteMessages for F
where
    F: Fn(&Content, &[&BindingRecord]) -> Vec<usize> + Send + Sync + 'static,
{
    fn route(&self, message: &Content, bindings: &[&BindingRecord]) -> Vec<usize> {
        self(message, bindings)
    }
}

/// Exchange kinds beyond direct, fanout, topic and headers, by name.
///
/// Transports that route on this side need them; a broker with exchanges of its own has its plugins.
#[derive(Clone, Default)]
pub struct ExchangeKinds(BTreeMap<Name, Arc<dyn RouteMessages>>);

impl ExchangeKinds {
    /// Adds a kind, in place of one of the same name.
    pub fn add(&mut self, name: impl Into<Name>, kind: impl RouteMessages) {
        self.0.insert(name.into(), Arc::new(kind));
    }

    /// How exchanges of this kind route.
    pub fn get(&self, name: &str) -> Option<&dyn RouteMessages> {
        self.0.get(name).map(|kind| &**kind)
    }
}

impl fmt::Debug for ExchangeKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

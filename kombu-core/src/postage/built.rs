use std::any::{Any, type_name};
use std::collections::HashMap;
use std::fmt;

use kombu_serializers::erased_serde::Serialize as Erased;
use serde::{Serialize, Serializer};

use super::{Message, Parameters};

/// What a message carries that was built [by its name](super::Producer::named): whatever its builder made.
pub struct Built(Result<Box<dyn Erased + Send + Sync>, String>);

impl Built {
    fn new(content: impl Serialize + Send + Sync + 'static) -> Self {
        Built(Ok(Box::new(content)))
    }
}

impl Serialize for Built {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(content) => content.serialize(serializer),
            Err(problem) => Err(serde::ser::Error::custom(problem)),
        }
    }
}

impl fmt::Debug for Built {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Built").finish_non_exhaustive()
    }
}

type Builder = Box<dyn Fn(Box<dyn Any>) -> Message<Built> + Send + Sync>;

/// Builders of messages, by name.
#[derive(Default)]
pub(super) struct Builders(HashMap<String, Builder>);

impl Builders {
    pub(super) fn add<P, C>(
        &mut self,
        name: String,
        build: impl Fn(P) -> Message<C> + Send + Sync + 'static,
    ) where
        P: 'static,
        C: Serialize + Send + Sync + 'static,
    {
        let own = name.clone();
        let build = move |parameters: Box<dyn Any>| match parameters.downcast() {
            Ok(parameters) => build(*parameters).map(Built::new),
            Err(_) => Message::new("", own.clone(), Built(Err(mismatch::<P>(&own)))),
        };
        self.0.insert(name, Box::new(build));
    }

    /// What the builder of this name makes of the parameters; without one, what `otherwise` does.
    pub(super) fn build<P>(
        &self,
        name: String,
        parameters: P,
        otherwise: impl FnOnce(String, P) -> Message<Parameters<P>>,
    ) -> Message<Built>
    where
        P: Serialize + Send + Sync + 'static,
    {
        match self.0.get(&name) {
            Some(build) => build(Box::new(parameters)),
            None => otherwise(name, parameters).map(Built::new),
        }
    }
}

impl fmt::Debug for Builders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn mismatch<P>(name: &str) -> String {
    format!(
        "the builder of message `{name}` takes `{}`, and was given something else",
        type_name::<P>()
    )
}

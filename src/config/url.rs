use std::fmt;

use serde::Deserialize;

/// A URL that doesn't show its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(inline, description = "A URL, as in `amqp://guest:guest@localhost`.")
)]
#[serde(transparent)]
pub(super) struct Url(pub(super) String);

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, _)) => write!(f, "{scheme}://…"),
            None => f.write_str("…"),
        }
    }
}

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

/// Leaves nothing of a URL but its scheme: what is said about a file quotes values.
pub(super) fn without_urls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, url)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://…");
        // A password may have spaces in it, and quotes with a backslash.
        let mut escaped = false;
        let end = url.find(|letter| {
            let ends = !escaped && matches!(letter, '"' | '`');
            escaped = !escaped && letter == '\\';
            ends
        });
        rest = &url[end.unwrap_or(url.len())..];
    }
    shown.push_str(rest);
    shown
}

//! The codecs that come with the crate, one file each, and the table of all of them; compression likewise.

pub(crate) mod compression;
#[cfg(feature = "json")]
pub(crate) mod json;
#[cfg(feature = "msgpack")]
pub(crate) mod msgpack;
#[cfg(feature = "raw")]
pub(crate) mod raw;
#[cfg(feature = "yaml")]
pub(crate) mod yaml;

use crate::content::Identity;

pub(crate) const JSON: Identity<'static> = Identity {
    name: "json",
    content_type: "application/json",
    content_encoding: "utf-8",
};
pub(crate) const MSGPACK: Identity<'static> = Identity {
    name: "msgpack",
    content_type: "application/x-msgpack",
    content_encoding: "binary",
};
pub(crate) const YAML: Identity<'static> = Identity {
    name: "yaml",
    content_type: "application/x-yaml",
    content_encoding: "utf-8",
};
pub(crate) const RAW: Identity<'static> = Identity {
    name: "raw",
    content_type: "application/data",
    content_encoding: "binary",
};
pub(crate) const TEXT: Identity<'static> = Identity {
    name: "text",
    content_type: "text/plain",
    content_encoding: "utf-8",
};

/// The feature that a built-in codec needs and that isn't enabled, for an error to name.
pub(crate) fn missing_feature(is_it: impl Fn(Identity<'static>) -> bool) -> Option<&'static str> {
    [
        (JSON, "json", cfg!(feature = "json")),
        (MSGPACK, "msgpack", cfg!(feature = "msgpack")),
        (YAML, "yaml", cfg!(feature = "yaml")),
        (RAW, "raw", cfg!(feature = "raw")),
        (TEXT, "raw", cfg!(feature = "raw")),
    ]
    .into_iter()
    .find(|&(codec, _, enabled)| !enabled && is_it(codec))
    .map(|(_, feature, _)| feature)
}

//! What each format makes of a text: the same tree of values, with their places.

mod ini;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "toml")]
mod toml;
#[cfg(feature = "yaml")]
mod yaml;

use super::document::{Node, Problem};

/// How a configuration is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// `.yaml` and `.yml`, with kombu's cargo feature `yaml`.
    Yaml,
    /// `.toml`, with the feature `toml`.
    Toml,
    /// `.json`, with the feature `json`.
    Json,
    /// `.ini` and `.conf`: the keys that canopsis has.
    Ini,
}

impl Format {
    /// The one that the extension of a file stands for.
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension {
            "yaml" | "yml" => Some(Format::Yaml),
            "toml" => Some(Format::Toml),
            "json" => Some(Format::Json),
            "ini" | "conf" => Some(Format::Ini),
            _ => None,
        }
    }

    pub(super) fn parse(self, text: &str) -> Result<Node, Problem> {
        match self {
            #[cfg(feature = "yaml")]
            Format::Yaml => yaml::parse(text),
            #[cfg(not(feature = "yaml"))]
            Format::Yaml => Err(absent("yaml")),
            #[cfg(feature = "toml")]
            Format::Toml => toml::parse(text),
            #[cfg(not(feature = "toml"))]
            Format::Toml => Err(absent("toml")),
            #[cfg(feature = "json")]
            Format::Json => json::parse(text),
            #[cfg(not(feature = "json"))]
            Format::Json => Err(absent("json")),
            Format::Ini => ini::parse(text),
        }
    }
}

#[cfg(not(all(feature = "yaml", feature = "toml", feature = "json")))]
fn absent(feature: &str) -> Problem {
    Problem::new(format!(
        "kombu was built without its cargo feature `{feature}`, which reads such files"
    ))
}

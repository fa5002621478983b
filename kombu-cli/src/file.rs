//! The names in a configuration file. What they stand for, `kombu::from_config` says.

use std::collections::BTreeMap;
use std::path::Path;

use kombu::{Config, Exchange, Queue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::failure::{Failure, Result};

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    exchanges: BTreeMap<String, IgnoredAny>,
    #[serde(default)]
    queues: BTreeMap<String, IgnoredAny>,
}

/// What a file declares.
pub(crate) struct Declared {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
}

/// Reads the declarations of a file.
pub(crate) fn declared(path: &Path) -> Result<Declared> {
    // First, since its errors say where and what.
    let config: Config = kombu::from_config(path)?;
    let names =
        names(path).map_err(|problem| Failure::usage(format!("{}: {problem}", path.display())))?;
    let exchanges = names
        .exchanges
        .keys()
        .map(|name| config.exchange(name).cloned());
    let queues = names.queues.keys().map(|name| config.queue(name).cloned());
    Ok(Declared {
        exchanges: exchanges.collect::<kombu::Result<_>>()?,
        queues: queues.collect::<kombu::Result<_>>()?,
    })
}

fn names(path: &Path) -> std::result::Result<Names, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    // The file was read already, so these have nothing to say that people need.
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|_| "no names".to_owned()),
        Some("toml") => toml::from_str(&text).map_err(|_| "no names".to_owned()),
        _ => serde_saphyr::from_str(&text).map_err(|_| "no names".to_owned()),
    }
}

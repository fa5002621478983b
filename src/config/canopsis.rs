//! canopsis' own files: `[MIDDLEWARE]`, `[MOM]`, `[KOMBU]` and `[MANAGER]`.

use std::collections::BTreeMap;

use kombu_core::{mom, nearest};
use serde::Deserialize;

use super::connection::{Encryption, Settings};
use super::document::{Key, Node, Problem, Value};
use super::file::File;
use super::{DEFAULT, reader};

/// Each says more than those before it.
const MIDDLEWARES: [&str; 3] = ["MIDDLEWARE", "MOM", "KOMBU"];
const MANAGER: &str = "MANAGER";
/// What managers have beside the places of their middlewares. It says nothing here, where a program shares what it clones.
const OF_MANAGERS: [&str; 3] = ["shared", "scope_sharing", "auto_connect"];
/// What connections have in another place.
const ENCRYPTION: [&str; 3] = ["ssl", "ssl_key", "ssl_cert"];
/// Behind the name of a middleware, its URI.
const URI: &str = "_uri";

pub(super) fn read(node: Node) -> Result<File, Problem> {
    let at = node.at;
    let mut own: Vec<(Key, Node)> = Vec::new();
    let mut named = BTreeMap::new();
    for (section, entries) in sorted(node)? {
        for (key, value) in entries {
            if let Some(name) = key.text.strip_suffix(URI) {
                named.insert(name.to_owned(), value);
            } else if section != MANAGER {
                own.retain(|(other, _)| other.text != key.text);
                own.push((key, value));
            } else if !OF_MANAGERS.contains(&key.text.as_str()) {
                return Err(unknown("key", &key, &OF_MANAGERS));
            }
        }
    }
    let is_encryption = |(key, _): &(Key, Node)| ENCRYPTION.contains(&key.text.as_str());
    let (encryption, own): (Vec<_>, _) = own.into_iter().partition(is_encryption);
    let encryption_at = encryption.first().map_or(at, |(key, _)| key.at);
    let ssl: Ssl = reader::read(&Node::new(at, Value::Map(encryption)))?;
    let encryption = Encryption::of_mom(ssl.ssl, ssl.ssl_cert, ssl.ssl_key);
    let default: mom::Settings = reader::read(&Node::new(at, Value::Map(own)))?;
    let mut file = File::default();
    for (name, uri) in named {
        let uri_at = uri.at;
        let key = Key {
            at: uri_at,
            text: "uri".to_owned(),
        };
        let node = Node::new(uri_at, Value::Map(vec![(key, uri)]));
        let settings = mom::Settings {
            uri: reader::read::<mom::Settings>(&node)?.uri,
            ..default.clone()
        };
        let settings = encrypted(settings, &encryption).map_err(|problem| problem.at(uri_at))?;
        file.connections
            .insert(name.clone(), Settings::of_mom(&settings));
        file.moms.insert(name, settings);
    }
    // Where others have their URIs, it may be nothing's, and name no place that a URI could be made of.
    let is_needed = file.moms.is_empty() || default.uri.is_some() || default.host.is_some();
    let default = match encrypted(default.clone(), &encryption) {
        Ok(default) => default,
        Err(problem) if is_needed => return Err(problem.at(encryption_at)),
        Err(_) => default,
    };
    file.connections
        .insert(DEFAULT.to_owned(), Settings::of_mom(&default));
    file.moms.insert(DEFAULT.to_owned(), default);
    Ok(file)
}

/// What is said of encryption.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Ssl {
    ssl: Option<bool>,
    ssl_key: Option<String>,
    ssl_cert: Option<String>,
}

/// With encryption where settings have it: in their URI.
fn encrypted(settings: mom::Settings, encryption: &Encryption) -> Result<mom::Settings, Problem> {
    if !encryption.is_wanted() && !encryption.has_files() {
        return Ok(settings);
    }
    let uri = settings.uri(&crate::registry());
    let uri = uri.and_then(|uri| encryption.said_in_uri(&uri));
    Ok(mom::Settings {
        uri: Some(uri.map_err(|error| Problem::new(error.message()))?),
        ..settings
    })
}

/// A section's name, and its keys.
type Section = (String, Vec<(Key, Node)>);

/// The sections in the order in which they say more.
fn sorted(node: Node) -> Result<Vec<Section>, Problem> {
    let known: Vec<&str> = MIDDLEWARES.into_iter().chain([MANAGER]).collect();
    let mut sections = Vec::new();
    let Value::Map(found) = node.value else {
        return Ok(Vec::new());
    };
    for (key, section) in found {
        let rank = known.iter().position(|name| *name == key.text);
        let Some(rank) = rank else {
            return Err(unknown("section", &key, &known));
        };
        if let Value::Map(entries) = section.value {
            sections.push((rank, key.text, entries));
        }
    }
    sections.sort_by_key(|(rank, ..)| *rank);
    Ok(sections
        .into_iter()
        .map(|(_, name, entries)| (name, entries))
        .collect())
}

fn unknown(what: &str, key: &Key, known: &[&str]) -> Problem {
    let hint = match nearest(&key.text, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are: {}", known.join(", ")),
    };
    Problem::new(format!("unknown {what} `{}`; {hint}", key.text)).at(key.at)
}

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::{Binding, Connection, Error, ErrorKind, Exchange, Queue, Result};

/// The environment variable that replaces the URL of the default connection.
const URL_VARIABLE: &str = "KOMBU_URL";
/// The one that takes its place where nothing else says where the default connection goes.
const AMQP_URL_VARIABLE: &str = "AMQP_URL";
/// Each exchange is written out wherever it is bound to, so a small file could ask for a very large one.
const MAX_EXCHANGES: usize = 10_000;
/// The connection that is meant when none is named.
const DEFAULT: &str = "default";

/// Connections, exchanges and queues by name, as a configuration file has them.
///
/// ```yaml
/// connections:
///   default: {url: "memory://shop"}
/// exchanges:
///   media: {type: topic}
/// queues:
///   videos:
///     bindings: [{exchange: media, routing_key: "video.#"}]
/// ```
///
/// The name of an exchange or queue is its key in the file, unless it has a `name` of its own. A binding names
/// an exchange of the file, one of the broker's own (`amq.…`), or writes out a declaration.
///
/// The environment variable `KOMBU_URL` replaces the URL of the connection `default`, which may then be left
/// out of the file. Where neither of them names one, that of the environment variable `AMQP_URL` is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    urls: BTreeMap<String, Url>,
    exchanges: BTreeMap<String, Exchange>,
    queues: BTreeMap<String, Queue>,
}

/// Reads a configuration file; its extension tells the format: `.yaml`, `.yml`, `.toml` or `.json`.
///
/// Nothing is connected yet.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = std::env::temp_dir().join(format!("kombu-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let path = directory.join("kombu.yaml");
/// std::fs::write(&path, "
/// connections: {default: {url: 'memory://'}}
/// queues: {jobs: {durable: true}}
/// ")?;
/// let config = kombu::from_config(&path)?;
/// let connection = config.connect().await?;
/// let consumer = connection.consumer(config.queue("jobs")?).await?;
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`ErrorKind::Config`] names the file and what is wrong in it.
pub fn from_config(path: impl AsRef<Path>) -> Result<Config> {
    let path = path.as_ref();
    let in_file = |error: Error| {
        Error::new(
            error.kind(),
            format!("{}: {}", path.display(), error.message()),
        )
        .during("read configuration")
    };
    let text = std::fs::read_to_string(path)
        .map_err(|problem| in_file(config_error(problem.to_string())))?;
    let extension = path.extension().and_then(|extension| extension.to_str());
    let file = parse(&text, extension.unwrap_or_default()).map_err(in_file)?;
    Config::new(file, variable(URL_VARIABLE)?, variable(AMQP_URL_VARIABLE)?).map_err(in_file)
}

/// A URL of the environment; an empty one is none.
fn variable(name: &str) -> Result<Option<Url>> {
    match std::env::var(name) {
        Ok(url) => Ok((!url.is_empty()).then_some(Url(url))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Going on without it would connect to another broker than was asked for.
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(config_error(format!("{name} isn't valid UTF-8")))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    connections: BTreeMap<String, ConnectionEntry>,
    #[serde(default)]
    exchanges: BTreeMap<String, Exchange>,
    #[serde(default)]
    queues: BTreeMap<String, Queue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionEntry {
    url: Url,
}

/// A URL that doesn't show its password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
struct Url(String);

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, _)) => write!(f, "{scheme}://…"),
            None => f.write_str("…"),
        }
    }
}

#[cfg_attr(
    not(any(feature = "json", feature = "yaml", feature = "toml")),
    allow(unused_variables)
)]
fn parse(text: &str, extension: &str) -> Result<File> {
    let format = match extension {
        "yaml" | "yml" => "yaml",
        "json" | "toml" => extension,
        _ => {
            return Err(config_error(
                "a configuration file ends in .yaml, .yml, .toml or .json".to_owned(),
            ));
        }
    };
    match format {
        // What these errors quote of the file may hold a password, so no lines of it are shown.
        #[cfg(feature = "yaml")]
        "yaml" => serde_saphyr::from_str(text)
            .map_err(|problem: serde_saphyr::Error| unreadable(problem.without_snippet())),
        #[cfg(feature = "json")]
        "json" => serde_json::from_str(text).map_err(unreadable),
        #[cfg(feature = "toml")]
        "toml" => toml::from_str(text).map_err(|mut problem: toml::de::Error| {
            problem.set_input(None);
            let before = problem.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            unreadable(format_args!("line {line}: {problem}"))
        }),
        _ => Err(config_error(format!(
            "kombu was built without its cargo feature `{format}`, which reads `{}` files",
            extension.escape_debug()
        ))),
    }
}

#[cfg(any(feature = "yaml", feature = "json", feature = "toml"))]
fn unreadable(problem: impl std::fmt::Display) -> Error {
    config_error(without_urls(
        &problem.to_string().trim_end().replace('\n', ", "),
    ))
}

/// Leaves nothing of a URL but its scheme: serde quotes values that it doesn't expect.
#[cfg(any(feature = "yaml", feature = "json", feature = "toml"))]
fn without_urls(text: &str) -> String {
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

fn config_error(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

impl Config {
    fn new(file: File, replacement: Option<Url>, fallback: Option<Url>) -> Result<Self> {
        let mut urls: BTreeMap<String, Url> = file
            .connections
            .into_iter()
            .map(|(name, entry)| (name, entry.url))
            .collect();
        if let Some(url) = replacement {
            urls.insert(DEFAULT.to_owned(), url);
        }
        if let Some(url) = fallback {
            urls.entry(DEFAULT.to_owned()).or_insert(url);
        }
        let mut config = Config {
            urls,
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
        };
        let declared: BTreeMap<String, Exchange> = file
            .exchanges
            .into_iter()
            .map(|(key, exchange)| {
                let exchange = if exchange.name().is_empty() {
                    exchange.with_name(key.as_str())
                } else {
                    exchange
                };
                (key, exchange)
            })
            .collect();
        let mut count = 0;
        for key in declared.keys() {
            let exchange = resolve_exchange(key, &declared, &mut Vec::new(), &mut count)?;
            config.exchanges.insert(key.clone(), exchange);
        }
        for (key, queue) in file.queues {
            let bindings =
                resolve_bindings(queue.bindings(), |name| config.exchange(name).cloned())
                    .map_err(|error| error.with_context(&format!("queue `{key}`")))?;
            let queue = queue.with_bindings(bindings);
            let queue = if queue.is_server_named() {
                queue.with_name(key.as_str())
            } else {
                queue
            };
            config.queues.insert(key, queue);
        }
        Ok(config)
    }

    /// Connects to the connection `default`.
    ///
    /// # Errors
    ///
    /// As [`connect_to`](Config::connect_to).
    pub async fn connect(&self) -> Result<Connection> {
        self.connect_to(DEFAULT).await
    }

    /// Connects to a connection of the file, with the transports of [`registry`](crate::registry).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name, and those of [`connect`](crate::connect).
    pub async fn connect_to(&self, name: &str) -> Result<Connection> {
        crate::connect(self.url(name)?).await
    }

    /// The URL of a connection, for [`Connection::builder`]. It may hold a password.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn url(&self, name: &str) -> Result<&str> {
        match self.urls.get(name) {
            Some(url) => Ok(&url.0),
            None => Err(missing("connection", name, self.urls.keys())),
        }
    }

    /// The declaration of an exchange.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn exchange(&self, name: &str) -> Result<&Exchange> {
        self.exchanges
            .get(name)
            .ok_or_else(|| missing("exchange", name, self.exchanges.keys()))
    }

    /// The declaration of a queue, with the declarations of the exchanges that it is bound to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn queue(&self, name: &str) -> Result<&Queue> {
        self.queues
            .get(name)
            .ok_or_else(|| missing("queue", name, self.queues.keys()))
    }
}

fn missing<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let known = match known.as_slice() {
        [] => "there is none".to_owned(),
        known => format!("there are: {}", known.join(", ")),
    };
    config_error(format!("no {what} `{name}` is configured; {known}"))
}

/// Bindings that name an exchange of the file get its declaration.
fn resolve_bindings(
    bindings: &[Binding],
    mut find: impl FnMut(&str) -> Result<Exchange>,
) -> Result<Vec<Binding>> {
    bindings
        .iter()
        .map(|binding| {
            let source = binding.exchange();
            // What a plain name in the file is read as.
            let reference = Exchange::direct(source.name()).no_declare();
            if *source != reference || source.name().starts_with("amq.") {
                return Ok(binding.clone());
            }
            Ok(binding.clone().with_exchange(find(source.name())?))
        })
        .collect()
}

fn resolve_exchange(
    key: &str,
    declared: &BTreeMap<String, Exchange>,
    path: &mut Vec<String>,
    count: &mut usize,
) -> Result<Exchange> {
    let Some(exchange) = declared.get(key) else {
        return Err(missing("exchange", key, declared.keys()));
    };
    if path.iter().any(|above| above == key) {
        return Err(config_error(format!(
            "it is bound to itself by way of {}; make the last binding at run time with \
             `connection.bind_exchange`",
            path.join(", ")
        )));
    }
    *count += 1;
    if *count > MAX_EXCHANGES {
        return Err(config_error(format!(
            "its exchanges are bound to each other in more than {MAX_EXCHANGES} ways; bind some of them at run time \
             with `connection.bind_exchange`"
        )));
    }
    path.push(key.to_owned());
    let bindings = resolve_bindings(exchange.bindings(), |name| {
        resolve_exchange(name, declared, path, count)
    })
    .map_err(|error| error.with_context(&format!("exchange `{key}`")))?;
    path.pop();
    Ok(exchange.clone().with_bindings(bindings))
}

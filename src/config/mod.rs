mod canopsis;
mod connection;
mod document;
mod environment;
mod file;
mod format;
mod handles;
mod reader;
mod resolve;
#[cfg(feature = "schema")]
mod schema;
mod url;
mod variables;

use std::collections::BTreeMap;
use std::path::Path;

use kombu_core::handler::{Complete, Serve};
use kombu_core::{call, mom, nearest, occo, serializers, without_secrets};

use crate::{
    Connection, ConnectionBuilder, Error, ErrorKind, Exchange, OpenConsumer, OpenProducer, Queue,
    Result, Topology,
};

use connection::{Elsewhere, Settings};
use document::{Places, Problem, Value};
use environment::{Environment, OF_PROCESS, Surroundings};
use file::File;
use resolve::{Consumer, Declared, Handlers, Producer, Rpc};

pub use format::Format;

/// The connection that is meant when none is named.
const DEFAULT: &str = "default";

/// Everything that a configuration file says, by name: connections, exchanges and queues, and what is opened on a
/// connection.
///
/// ```yaml
/// connections:
///   default:
///     url: ["amqp://${USER:-guest}:${PASSWORD:-guest}@one", "amqp://two"]  # or protocol, host, port, user, password, vhost
///     tls: {ca_file: /etc/ca.pem}              # amqps:// from here on
///     deadlines: {connect: 5s, publish: 10s}
///     retry: {longest_pause: 1s, max_attempts: 10}
///     declare: verify
/// exchanges:
///   media: {type: topic}
/// queues:
///   videos:
///     bindings: [{exchange: media, routing_key: "video.#"}]
/// producers:
///   feed: {exchange: media, routing_key: video.new, serializer: msgpack}
/// consumers:
///   feed: {queues: [videos], prefetch: 10, max_processing_time: 1m}
/// rpc:
///   prices: {routing_key: prices, timeout: 2s, max_retries: 1}
/// handlers:
///   encode: {queues: videos, concurrency: 8, retries: {count: 3, first_pause: 100ms}}
/// ```
///
/// The name of an exchange or queue is its key in the file, unless it has a `name` of its own. A binding, a producer or a
/// consumer names an exchange or a queue of the file, one of the broker's own (`amq.…`), or writes out a declaration.
/// `dead_letter_exchange` and `alternate_exchange` are attributes that the broker gets as they are, so these have the exchange's name on
/// the broker; a key that is no name is refused there.
/// Durations are texts such as `30s`, or milliseconds. Keys are the names of the builders' methods, and the values what
/// these take; a key that is none is refused, with its line and the nearest one, and so are a name that stands for nothing and
/// one of a connection's `options` that the built-in transport of its scheme doesn't have. What begins with `x-` at the top is passed over: a
/// place for YAML's anchors.
///
/// # Variables
///
/// `${NAME}` in a value is what the environment says, and `${NAME:-default}` something else where it says nothing; `$${` is `${`
/// itself. It is put in after parsing: nothing that a variable says is a key or a quote. What has one stands for a number,
/// or true or false, where these belong.
///
/// # Which URL counts
///
/// For the default connection, from the first to the last: [`with_url`](Config::with_url), the variable `KOMBU_URL`, the
/// file, and where that doesn't say where the connection goes, `AMQP_URL`, `REDIS_URL` or `NATS_URL`: the one of the file's
/// `protocol`, or the first for which there is a transport. `POSTAGE_VHOST`, `POSTAGE_RMQ_USER` and
/// `POSTAGE_RMQ_PASSWORD` (or `POSTAGE_USER`, `POSTAGE_PASSWORD`) stand for parts that the file leaves out, on AMQP. What the file
/// says about encryption and options belongs to its URL, and doesn't come to one that replaces it; deadlines, retries and the declare
/// mode do. OCCO's objects, which have no connections by name, all go where the default connection is told to go: `with_url` and
/// `KOMBU_URL` replace the place of `mqconfig` and of each of the `endpoints`.
///
/// # Other libraries' files
///
/// OCCO's `mqconfig` is a key at the top, [`occo`](Config::occo), and `endpoints` has several of them by name. canopsis' `senders`
/// and `receivers` are keys at the top, [`mom`](Config::mom), and its own files are read as they are, `.ini` or `.conf`. The default
/// connection is theirs, if the file has no other one; what `connections` says of it besides its place counts; for OCCO's
/// objects, which connect by themselves, what a URL can say: encryption, options and the heartbeat.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    connections: BTreeMap<String, Settings>,
    around: Surroundings,
    declared: Declared,
    producers: BTreeMap<String, Producer>,
    consumers: BTreeMap<String, Consumer>,
    rpc: BTreeMap<String, Rpc>,
    handlers: BTreeMap<String, Handlers>,
    senders: Vec<mom::Sender>,
    receivers: Vec<mom::Receiver>,
    moms: BTreeMap<String, mom::Settings>,
    mqconfig: Option<occo::Config>,
    endpoints: BTreeMap<String, occo::Config>,
}

/// Reads a configuration file; its extension tells the format: `.yaml`, `.yml`, `.toml`, `.json`, or `.ini` and `.conf`, which are
/// canopsis'.
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
/// consumers: {work: {queues: jobs, prefetch: 1}}
/// ")?;
/// let config = kombu::from_config(&path)?;
/// let connection = config.connect().await?;
/// let consumer = config.consumer(&connection, "work")?.await?;
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`ErrorKind::Config`] names the file, the line, and what is wrong in it.
pub fn from_config(path: impl AsRef<Path>) -> Result<Config> {
    let path = path.as_ref();
    let in_file = |error: Error| {
        Error::new(
            error.kind(),
            format!("{}: {}", path.display(), error.message()),
        )
        .during("read configuration")
    };
    let extension = path.extension().and_then(|extension| extension.to_str());
    let Some(format) = Format::of_extension(extension.unwrap_or_default()) else {
        let message = "a configuration file ends in .yaml, .yml, .toml or .json, or .ini or .conf for canopsis' keys";
        return Err(in_file(config_error(message)));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|problem| in_file(config_error(problem.to_string())))?;
    Config::read(&text, format, &OF_PROCESS).map_err(in_file)
}

impl Config {
    /// Reads a configuration from a text, with variables from `environment`: `std::env::var(name).ok()`, a map in a test.
    ///
    /// ```
    /// # #[cfg(feature = "yaml")] {
    /// use kombu::{Config, Format};
    ///
    /// let text = "connections: {default: {url: 'memory://${SHOP}'}}";
    /// let config = Config::from_text(text, Format::Yaml, |name| (name == "SHOP").then(|| "books".to_owned()))?;
    /// assert_eq!(config.url("default")?, "memory://books");
    /// # }
    /// # Ok::<(), kombu::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`from_config`].
    pub fn from_text(
        text: &str,
        format: Format,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Config> {
        let lookup = |name: &str| Ok(environment(name));
        let read = Config::read(text, format, &Environment::new(&lookup));
        read.map_err(|error| error.during("read configuration"))
    }

    /// What the environment says without a file: the default connection.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] for a variable that isn't UTF-8.
    pub fn from_env() -> Result<Config> {
        let around = Surroundings::of(&OF_PROCESS);
        let around = around.map_err(|error| error.during("read configuration"))?;
        Config::new(File::default(), around, &Places::unknown())
    }

    /// The JSON Schema of a configuration file (draft 7), for editors: what keys there are, and what they take.
    ///
    /// Keys, types and words are in it. Whether a name stands for something, or a broker can do what is asked for, isn't, and
    /// canopsis' own files are of another kind.
    ///
    /// ```
    /// let schema: serde_json::Value = serde_json::from_str(&kombu::Config::json_schema())?;
    /// assert!(schema["properties"]["queues"].is_object());
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    #[cfg(feature = "schema")]
    pub fn json_schema() -> String {
        schema::text()
    }

    fn read(text: &str, format: Format, environment: &Environment<'_>) -> Result<Config> {
        let file = || -> std::result::Result<(File, Places), Problem> {
            let mut node = format.parse(text)?;
            variables::substitute(&mut node, environment)?;
            if format == Format::Ini {
                return Ok((canopsis::read(node)?, Places::unknown()));
            }
            if let Value::Map(entries) = &mut node.value {
                entries.retain(|(key, _)| !key.text.starts_with("x-"));
            }
            Ok((reader::read(&node)?, Places::of(node)))
        };
        let (file, places) =
            file().map_err(|problem| config_error(without_secrets(&problem.to_string())))?;
        Config::new(file, Surroundings::of(environment)?, &places)
    }

    fn new(file: File, around: Surroundings, places: &Places) -> Result<Self> {
        for (name, connection) in &file.connections {
            let tell = |path: &[&str], error: Error| {
                places.tell(path, error.with_context(&format!("connection `{name}`")))
            };
            // The environment, the program, or another library's part of the file may say where it goes.
            if name != DEFAULT && !file.moms.contains_key(name) {
                let checked = connection.check();
                checked.map_err(|error| tell(&["connections", name], error))?;
            }
            if let Some((option, error)) = connection.wrong_option(&around, name == DEFAULT) {
                return Err(tell(&["connections", name, "options", option], error));
            }
        }
        let declared = Declared::new(file.exchanges, file.queues, places)?;
        let producers = Sort("producers", "producer");
        let consumers = Sort("consumers", "consumer");
        let (rpc, handlers) = (Sort("rpc", "rpc"), Sort("handlers", "handlers"));
        Ok(Config {
            producers: producers.each(file.producers, places, |it| declared.producer(it))?,
            consumers: consumers.each(file.consumers, places, |it| declared.consumer(it))?,
            rpc: rpc.each(file.rpc, places, |it| declared.rpc(it))?,
            handlers: handlers.each(file.handlers, places, |it| declared.handlers(it))?,
            connections: file.connections,
            around,
            declared,
            senders: file.senders,
            receivers: file.receivers,
            moms: file.moms,
            mqconfig: file.mqconfig,
            endpoints: file.endpoints,
        })
    }

    /// The same with another URL for the default connection, which counts whatever file and environment say: for what a
    /// program was told when it was called.
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        self.around.url = Some(url::Url(url.into()));
        self
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
        self.builder(name)?.await
    }

    /// A connection of the file before it connects, for what a file can't say: layers, interceptors, credentials.
    ///
    /// # Errors
    ///
    /// As [`urls`](Config::urls).
    pub fn builder(&self, name: &str) -> Result<ConnectionBuilder> {
        let urls = self.urls(name)?;
        let nothing = Settings::default();
        let settings = self.connections.get(name).unwrap_or(&nothing);
        Ok(settings.builder(urls))
    }

    /// The URL of a connection, the first if there are several. It may hold a password.
    ///
    /// # Errors
    ///
    /// As [`urls`](Config::urls).
    pub fn url(&self, name: &str) -> Result<String> {
        let mut urls = self.urls(name)?.into_iter();
        urls.next().ok_or_else(|| self.no_connection(name))
    }

    /// The URLs of a connection, in the order in which they are tried. They may hold passwords.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has no connection of this name, or what it says makes no URL, and
    /// [`ErrorKind::UnknownScheme`] for a protocol without a transport.
    pub fn urls(&self, name: &str) -> Result<Vec<String>> {
        let in_connection = |error: Error| error.with_context(&format!("connection `{name}`"));
        let is_default = name == DEFAULT;
        let settings = self.connections.get(name);
        let has_place = settings.is_some_and(Settings::has_place);
        let replaced = is_default && self.around.url.is_some();
        if !has_place
            && !replaced
            && let Some(elsewhere) = self.elsewhere(name)
        {
            let url = elsewhere.url().and_then(|url| match settings {
                Some(settings) => settings.completed(&url),
                None => Ok(url),
            });
            return Ok(vec![url.map_err(in_connection)?]);
        }
        if let Some(settings) = settings {
            let urls = settings.urls(&self.around, is_default);
            return urls.map_err(in_connection);
        }
        let unsaid = Settings::default().urls(&self.around, is_default);
        unsaid.map_err(|error| match error.kind() {
            ErrorKind::Config => self.no_connection(name),
            _ => in_connection(error),
        })
    }

    /// What another library's part of the file says about a connection.
    fn elsewhere(&self, name: &str) -> Option<Elsewhere<'_>> {
        let mom = self.moms.get(name).map(Elsewhere::Mom);
        let mqconfig = self.mqconfig.as_ref().filter(|_| name == DEFAULT);
        mom.or(mqconfig.map(Elsewhere::Occo))
    }

    fn no_connection(&self, name: &str) -> Error {
        missing("connection", name, self.connections.keys())
    }

    /// The names of the file's connections.
    pub fn connections(&self) -> impl Iterator<Item = &str> {
        self.connections.keys().map(String::as_str)
    }

    /// The declaration of an exchange.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn exchange(&self, name: &str) -> Result<&Exchange> {
        self.declared.exchange(name)
    }

    /// The declaration of a queue, with the declarations of the exchanges that it is bound to.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn queue(&self, name: &str) -> Result<&Queue> {
        self.declared.queue(name)
    }

    /// What the file declares, and how its consumers and handlers consume: [`Topology::check`] says what a transport can't do of it.
    ///
    /// Senders and receivers are those of the default connection, and `mqconfig` is there if that is the default connection. What
    /// connects elsewhere isn't: `endpoints`, a `mqconfig` beside another default connection, canopsis' middlewares with a URI of
    /// their own.
    ///
    /// ```
    /// # #[cfg(feature = "yaml")] {
    /// # let text = "queues: {jobs: {max_priority: 9}}";
    /// # let config = kombu::Config::from_text(text, kombu::Format::Yaml, |_| None)?;
    /// let production = kombu::registry().capabilities("memory").expect("it is built in");
    /// config.topology().check(&production).require()?;
    /// # }
    /// # Ok::<(), kombu::Error>(())
    /// ```
    pub fn topology(&self) -> Topology {
        let mut topology = Topology::new();
        for exchange in self.declared.exchanges() {
            topology = topology.exchange(exchange);
        }
        for queue in self.declared.queues() {
            topology = topology.queue(queue);
        }
        for producer in self.producers.values() {
            for exchange in producer.exchanges() {
                topology = topology.exchange(exchange);
            }
        }
        for rpc in self.rpc.values() {
            topology = topology.exchange(&rpc.exchange);
        }
        for consumer in self.consumers.values() {
            for queue in &consumer.queues {
                topology = topology.queue(queue);
            }
            topology = topology.consumer(&consumer.queues, consumer.options);
        }
        for handlers in self.handlers.values() {
            for queue in &handlers.queues {
                topology = topology.queue(queue);
            }
            let retries = handlers.settings.retries();
            topology = topology.handlers(&handlers.queues, handlers.options, retries);
        }
        let default = self.connections.get(DEFAULT);
        let mom = match self.moms.get(DEFAULT) {
            Some(settings) => settings.clone(),
            None => {
                let data_type = default.map(Settings::data_type);
                mom::Settings {
                    data_type: data_type.unwrap_or_default(),
                    senders: self.senders.clone(),
                    receivers: self.receivers.clone(),
                    ..mom::Settings::default()
                }
            }
        };
        topology = topology.and(mom.topology());
        match &self.mqconfig {
            Some(config) if !default.is_some_and(Settings::has_place) => {
                topology.and(config.topology())
            }
            _ => topology,
        }
    }

    /// The producers, consumers, `rpc` and OCCO's objects of the file whose serializer or compression isn't among `known`, each with the
    /// first one that isn't. They couldn't be opened on a connection without it: the program has to register those of its own.
    ///
    /// ```
    /// # #[cfg(all(feature = "yaml", feature = "json"))] {
    /// use kombu::serializers::Registry;
    ///
    /// let text = "producers: {feed: {serializer: jsno}}";
    /// let config = kombu::Config::from_text(text, kombu::Format::Yaml, |_| None)?;
    /// let unknown = config.unknown_serializers(&Registry::default());
    /// assert!(unknown[0].message().starts_with("producer `feed`: "));
    /// # }
    /// # Ok::<(), kombu::Error>(())
    /// ```
    pub fn unknown_serializers(&self, known: &serializers::Registry) -> Vec<Error> {
        let mut checked = Vec::new();
        for (name, producer) in &self.producers {
            checked.push((format!("producer `{name}`"), producer.settings.check(known)));
        }
        for (name, consumer) in &self.consumers {
            checked.push((format!("consumer `{name}`"), consumer.settings.check(known)));
        }
        for (name, rpc) in &self.rpc {
            checked.push((format!("rpc `{name}`"), rpc.settings.check(known)));
        }
        let occo =
            |config: &occo::Config| handles::are_there(known, config.serializer.as_ref(), None);
        if let Some(config) = &self.mqconfig {
            checked.push(("`mqconfig`".to_owned(), occo(config)));
        }
        for (name, config) in &self.endpoints {
            checked.push((format!("endpoint `{name}`"), occo(config)));
        }
        let unknown = checked.into_iter().filter_map(|(what, checked)| {
            let error = checked.err()?;
            Some(Error::new(
                error.kind(),
                format!("{what}: {}", error.message()),
            ))
        });
        unknown.collect()
    }

    /// A producer of the file, before it is opened: its methods say otherwise than the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn producer(&self, connection: &Connection, name: &str) -> Result<OpenProducer> {
        let producer = find("producer", name, &self.producers)?;
        Ok(producer.open(connection))
    }

    /// A consumer of the file, before it is opened: its methods say otherwise than the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn consumer(&self, connection: &Connection, name: &str) -> Result<OpenConsumer> {
        let consumer = find("consumer", name, &self.consumers)?;
        Ok(consumer.settings.open(connection, consumer.queues.clone()))
    }

    /// What makes calls, an `rpc` of the file, before it is opened: its methods say otherwise than the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn caller(&self, connection: &Connection, name: &str) -> Result<call::OpenCaller> {
        let rpc = find("rpc", name, &self.rpc)?;
        Ok(rpc.settings.open(connection, rpc.exchange.clone()))
    }

    /// Handlers that serve queues as the file says, before they run: its methods say otherwise than the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn serve(
        &self,
        connection: &Connection,
        name: &str,
        router: impl Complete,
    ) -> Result<Serve> {
        let handlers = find("handlers", name, &self.handlers)?;
        let queues = handlers.queues.clone();
        Ok(handlers.settings.serve(connection, queues, router))
    }

    /// The file's senders and receivers on one of its connections, as [`mom`] opens them.
    ///
    /// # Errors
    ///
    /// As [`urls`](Config::urls).
    pub fn mom(&self, connection: &str) -> Result<mom::Settings> {
        let replaced = connection == DEFAULT && self.around.url.is_some();
        if let Some(settings) = self.moms.get(connection) {
            let mut settings = settings.clone();
            if replaced {
                settings.uri = Some(self.url(connection)?);
            }
            return Ok(settings);
        }
        let url = self.url(connection)?;
        let nothing = Settings::default();
        let settings = self.connections.get(connection).unwrap_or(&nothing);
        let mut settings = settings.mom(url);
        settings.senders.clone_from(&self.senders);
        settings.receivers.clone_from(&self.receivers);
        Ok(settings)
    }

    /// The file's `mqconfig`, as [`occo`] opens it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none, and those of [`urls`](Config::urls).
    pub fn occo(&self) -> Result<occo::Config> {
        let mqconfig = self.mqconfig.as_ref();
        let config = mqconfig.ok_or_else(|| config_error("the file has no `mqconfig`"))?;
        let mut config = self.replaced(config);
        let default = self.connections.get(DEFAULT);
        if default.is_some_and(|default| !default.has_place()) {
            // It says more of the same place.
            config.url = Some(self.url(DEFAULT)?);
        }
        Ok(config)
    }

    /// One of the file's `endpoints`, which are written as `mqconfig` is. What replaces the URL of the default connection replaces its
    /// place, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if the file has none of this name.
    pub fn endpoint(&self, name: &str) -> Result<occo::Config> {
        find("endpoint", name, &self.endpoints).map(|config| self.replaced(config))
    }

    /// Where the default connection goes, if that was said from outside.
    fn replaced(&self, config: &occo::Config) -> occo::Config {
        let mut config = config.clone();
        if let Some(url) = &self.around.url {
            config.url = Some(url.0.clone());
        }
        config
    }

    /// Whether `POSTAGE_DEBUG_MODE` asks for all that is published and received to be told: what kombu tells `tracing` at its
    /// level `debug`, if the program's subscriber listens.
    pub fn is_debug(&self) -> bool {
        self.around.debug
    }
}

fn config_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, message)
}

fn missing<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let known = match (known.as_slice(), nearest(name, known.iter().copied())) {
        ([], _) => "there is none".to_owned(),
        (known, None) => format!("there are: {}", known.join(", ")),
        (known, Some(near)) => format!("there are: {}; did you mean `{near}`?", known.join(", ")),
    };
    config_error(format!("no {what} `{name}` is configured; {known}"))
}

fn find<'a, T>(what: &str, name: &str, all: &'a BTreeMap<String, T>) -> Result<&'a T> {
    all.get(name).ok_or_else(|| missing(what, name, all.keys()))
}

/// A section of the file, and what one of it is called.
#[derive(Clone, Copy)]
struct Sort(&'static str, &'static str);

impl Sort {
    /// Resolves everything of this sort; what is wrong with one is told with its name and its place.
    fn each<T, R>(
        self,
        all: BTreeMap<String, T>,
        places: &Places,
        resolve: impl Fn(T) -> Result<R>,
    ) -> Result<BTreeMap<String, R>> {
        let resolved = all.into_iter().map(|(name, one)| match resolve(one) {
            Ok(one) => Ok((name, one)),
            Err(error) => Err(self.tell(&name, places, error)),
        });
        resolved.collect()
    }

    fn tell(self, name: &str, places: &Places, error: Error) -> Error {
        let Sort(section, what) = self;
        let error = error.with_context(&format!("{what} `{name}`"));
        places.tell(&[section, name], error)
    }
}

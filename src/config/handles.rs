//! What is opened on a connection, as a file has it: the options of the builders, by their names.

use std::fmt;
use std::time::Duration;

use kombu_core::declare::{DeclareMode, DeliveryMode, Exchange, Queue, duration};
use kombu_core::driver::SubscribeOptions;
use kombu_core::handler::{Complete, Retries, Serve};
use kombu_core::serializers::{Accept, Registry};
use kombu_core::{Connection, Name, OpenConsumer, OpenProducer, Result, UndecodablePolicy, call};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

#[cfg(feature = "schema")]
use super::schema::{OneOrSeveral, Written};

/// An exchange or a queue: by its name in the file, or written out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(untagged, inline)
)]
pub(super) enum Meant<T> {
    Name(String),
    #[cfg_attr(feature = "schema", schemars(extend("type" = "object")))]
    Declaration(Box<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Meant<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NameOrMap<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for NameOrMap<T> {
            type Value = Meant<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a map with attributes")
            }

            fn visit_str<E>(self, name: &str) -> std::result::Result<Meant<T>, E> {
                Ok(Meant::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<Meant<T>, A::Error> {
                let declaration = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Meant::Declaration(Box::new(declaration)))
            }
        }

        deserializer.deserialize_any(NameOrMap(std::marker::PhantomData))
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<Meant<Queue>>, D::Error> {
    struct Several;

    impl<'de> Visitor<'de> for Several {
        type Value = Vec<Meant<Queue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a queue, or a list of queues")
        }

        fn visit_str<E>(self, name: &str) -> std::result::Result<Self::Value, E> {
            Ok(vec![Meant::Name(name.to_owned())])
        }

        fn visit_map<A: MapAccess<'de>>(
            self,
            map: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let queue = Queue::deserialize(MapAccessDeserializer::new(map))?;
            Ok(vec![Meant::Declaration(Box::new(queue))])
        }

        fn visit_seq<A: SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            let mut queues = Vec::new();
            while let Some(queue) = seq.next_element()? {
                queues.push(queue);
            }
            Ok(queues)
        }
    }

    deserializer.deserialize_any(Several)
}

/// Tells a limit that is left out from one that is taken off.
fn limit<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Option<Duration>>, D::Error> {
    duration::option::deserialize(deserializer).map(Some)
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename = "destination")]
pub(super) struct Destination {
    /// The exchange.
    pub(super) exchange: Meant<Exchange>,
    /// The routing key.
    #[serde(default)]
    pub(super) routing_key: Name,
}

/// A producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "producer")]
pub(super) struct Producer {
    /// Default: the default exchange.
    pub(super) exchange: Option<Meant<Exchange>>,
    /// That of messages which don't set one.
    routing_key: Option<Name>,
    /// Where each message goes as well.
    pub(super) destinations: Vec<Destination>,
    /// By name: `json`, `msgpack`, `yaml`, `raw`, or one of the program's own. Default: `json`.
    serializer: Option<String>,
    /// By name: `zlib`, `bzip2`, `zstd`. Default: none.
    compression: Option<String>,
    /// Whether messages survive a restart of the broker. Default: the exchange's.
    delivery_mode: Option<DeliveryMode>,
    /// Whether a message that matches no queue is an error. Default: on the default exchange and on direct ones.
    mandatory: Option<bool>,
    /// What is done about declarations. Default: what the connection says.
    declare: Option<DeclareMode>,
}

impl Producer {
    pub(super) fn open(
        &self,
        connection: &Connection,
        exchange: Exchange,
        destinations: Vec<(Exchange, Name)>,
    ) -> OpenProducer {
        let mut producer = connection.producer(exchange).destinations(destinations);
        if let Some(key) = &self.routing_key {
            producer = producer.routing_key(key);
        }
        if let Some(name) = &self.serializer {
            producer = producer.serializer(name);
        }
        if let Some(name) = &self.compression {
            producer = producer.compression(name);
        }
        if let Some(mode) = self.delivery_mode {
            producer = producer.delivery_mode(mode);
        }
        if let Some(mandatory) = self.mandatory {
            producer = producer.mandatory(mandatory);
        }
        if let Some(mode) = self.declare {
            producer = producer.declare(mode);
        }
        producer
    }

    pub(super) fn check(&self, known: &Registry) -> Result<()> {
        are_there(known, self.serializer.as_ref(), self.compression.as_ref())
    }
}

/// Whether these serializers and compressions, by name, are there.
pub(super) fn are_there(
    known: &Registry,
    serializer: Option<&String>,
    compression: Option<&String>,
) -> Result<()> {
    if let Some(name) = serializer {
        known.by_name(name)?;
    }
    if let Some(name) = compression {
        known.stages().by_name(name)?;
    }
    Ok(())
}

/// A consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "consumer")]
pub(super) struct Consumer {
    /// From which it receives.
    #[cfg_attr(feature = "schema", schemars(with = "OneOrSeveral<Meant<Queue>>", extend("x-aliases" = ["queue"])))]
    #[serde(alias = "queue", deserialize_with = "one_or_several")]
    pub(super) queues: Vec<Meant<Queue>>,
    /// How many deliveries may be unsettled at once. Default: 64; 0 means no limit.
    prefetch: Option<u32>,
    /// Whether deliveries count as settled when they are handed out. Default: what the queues say.
    no_ack: Option<bool>,
    /// Whether nobody else may consume. Default: false.
    exclusive: bool,
    /// Consumers with a higher one are served first. Default: 0.
    priority: Option<i32>,
    /// Whether it is spared what its own connection publishes. Default: false.
    no_local: bool,
    /// Names of serializers, or content types, that are decoded. Default: all.
    accept: Option<Vec<String>>,
    /// What is done about declarations. Default: what the connection says.
    declare: Option<DeclareMode>,
    /// What becomes of a delivery that can't be decoded and isn't settled.
    on_undecodable: UndecodablePolicy,
    /// How long a delivery may be held; null takes the limit off.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(deserialize_with = "limit")]
    max_processing_time: Option<Option<Duration>>,
}

impl Consumer {
    pub(super) fn open(&self, connection: &Connection, queues: Vec<Queue>) -> OpenConsumer {
        let mut consumer = connection
            .consumer(queues)
            .exclusive(self.exclusive)
            .no_local(self.no_local)
            .on_undecodable(self.on_undecodable);
        if let Some(deliveries) = self.prefetch {
            consumer = consumer.prefetch(deliveries);
        }
        if let Some(no_ack) = self.no_ack {
            consumer = consumer.no_ack(no_ack);
        }
        if let Some(priority) = self.priority {
            consumer = consumer.priority(priority);
        }
        if let Some(names) = &self.accept {
            consumer = consumer.accept(names);
        }
        if let Some(mode) = self.declare {
            consumer = consumer.declare(mode);
        }
        if let Some(limit) = self.max_processing_time {
            consumer = consumer.max_processing_time(limit);
        }
        consumer
    }

    pub(super) fn check(&self, known: &Registry) -> Result<()> {
        match &self.accept {
            Some(names) => Ok(Accept::only(names).check(known)?),
            None => Ok(()),
        }
    }

    /// What it asks of a transport.
    pub(super) fn options(&self, queues: &[Queue]) -> Result<SubscribeOptions> {
        // Whose messages they are makes no difference to whether it can be done.
        let options = SubscribeOptions::new(self.prefetch.unwrap_or(1))
            .exclusive(self.exclusive)
            .no_local(self.no_local.then_some(0));
        match self.priority {
            Some(priority) => Ok(options.priority(priority)),
            None => options.with_priority_of(queues),
        }
    }
}

/// What makes calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "rpc")]
pub(super) struct Rpc {
    /// Default: the default exchange.
    pub(super) exchange: Option<Meant<Exchange>>,
    /// That of questions which don't set one.
    routing_key: Option<Name>,
    /// By name: `json`, `msgpack`, `yaml`, `raw`, or one of the program's own. Default: `json`.
    serializer: Option<String>,
    /// By name: `zlib`, `bzip2`, `zstd`. Default: none.
    compression: Option<String>,
    /// Whether questions survive a restart of the broker. Default: those that are asked again don't.
    delivery_mode: Option<DeliveryMode>,
    /// What is done about declarations. Default: what the connection says.
    declare: Option<DeclareMode>,
    /// How long each attempt waits; null waits for ever. Default: 30 s.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(deserialize_with = "limit")]
    timeout: Option<Option<Duration>>,
    /// How often a question that isn't answered is sent again. Default: 4.
    max_retries: Option<u32>,
}

impl Rpc {
    pub(super) fn open(&self, connection: &Connection, exchange: Exchange) -> call::OpenCaller {
        let mut caller = connection.caller(exchange);
        if let Some(key) = &self.routing_key {
            caller = caller.routing_key(key);
        }
        if let Some(name) = &self.serializer {
            caller = caller.serializer(name);
        }
        if let Some(name) = &self.compression {
            caller = caller.compression(name);
        }
        if let Some(mode) = self.delivery_mode {
            caller = caller.delivery_mode(mode);
        }
        if let Some(mode) = self.declare {
            caller = caller.declare(mode);
        }
        if let Some(timeout) = self.timeout {
            caller = caller.timeout(timeout);
        }
        if let Some(retries) = self.max_retries {
            caller = caller.max_retries(retries);
        }
        caller
    }

    pub(super) fn check(&self, known: &Registry) -> Result<()> {
        are_there(known, self.serializer.as_ref(), self.compression.as_ref())
    }
}

/// How handlers serve queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename = "handlers")]
pub(super) struct Handlers {
    /// Which they serve.
    #[cfg_attr(feature = "schema", schemars(with = "OneOrSeveral<Meant<Queue>>", extend("x-aliases" = ["queue"])))]
    #[serde(alias = "queue", deserialize_with = "one_or_several")]
    pub(super) queues: Vec<Meant<Queue>>,
    /// How many deliveries are handled at once. Default: 1.
    concurrency: Option<usize>,
    /// How many deliveries may be unsettled at once. Default: twice the concurrency.
    prefetch: Option<u32>,
    /// How often a message comes again whose handler failed.
    retries: Retries,
    /// What becomes of messages that no handler can be called with, and of those that were tried for the last time.
    on_undecodable: UndecodablePolicy,
    /// How long a handler may take; null takes the limit off.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(deserialize_with = "limit")]
    max_processing_time: Option<Option<Duration>>,
    /// What is done about declarations. Default: what the connection says.
    declare: Option<DeclareMode>,
    /// Answers a question whose handler failed with the name and text of the error. Default: false.
    tell_errors: bool,
    /// Ends on the commands `quit` and `restart`. Default: false.
    obey_commands: bool,
    /// How long handlers may go on when it ends. Default: 30 s.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Written>"))]
    #[serde(with = "duration::option")]
    grace: Option<Duration>,
}

impl Handlers {
    /// How often a message comes again.
    pub(super) fn retries(&self) -> &Retries {
        &self.retries
    }

    /// What its consumer asks of a transport.
    pub(super) fn options(&self, queues: &[Queue]) -> Result<SubscribeOptions> {
        SubscribeOptions::new(self.prefetch.unwrap_or(1)).with_priority_of(queues)
    }

    pub(super) fn serve(
        &self,
        connection: &Connection,
        queues: Vec<Queue>,
        router: impl Complete,
    ) -> Serve {
        let mut serve = connection
            .serve(router)
            .queues(queues)
            .retries(self.retries)
            .on_undecodable(self.on_undecodable)
            .tell_errors(self.tell_errors)
            .obey_commands(self.obey_commands);
        if let Some(handlers) = self.concurrency {
            serve = serve.concurrency(handlers);
        }
        if let Some(deliveries) = self.prefetch {
            serve = serve.prefetch(deliveries);
        }
        if let Some(limit) = self.max_processing_time {
            serve = serve.max_processing_time(limit);
        }
        if let Some(mode) = self.declare {
            serve = serve.declare(mode);
        }
        if let Some(grace) = self.grace {
            serve = serve.grace(grace);
        }
        serve
    }
}

//! The JSON Schema of configuration files: that it is the one in `docs/`, and that it says what their reader does.
//!
//! `KOMBU_WRITE_DOCS=1 cargo test -p kombu-tests --test schema` writes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use boon::{Compiler, SchemaIndex, Schemas};
use kombu::{Config, Format};
use serde_json::Value;

const WRITTEN: &str = "docs/kombu.schema.json";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn schema() -> Value {
    serde_json::from_str(&Config::json_schema()).unwrap()
}

struct Validator {
    schemas: Schemas,
    index: SchemaIndex,
}

impl Validator {
    fn new() -> Self {
        let mut schemas = Schemas::new();
        let mut compiler = Compiler::new();
        compiler.add_resource(WRITTEN, schema()).unwrap();
        let index = compiler.compile(WRITTEN, &mut schemas).unwrap();
        Validator { schemas, index }
    }

    /// What is wrong in this YAML, if something is.
    fn problem(&self, text: &str) -> Option<String> {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        let validated = self.schemas.validate(&value, self.index);
        validated.err().map(|problem| problem.to_string())
    }
}

/// What the reader says about this YAML.
fn refusal(text: &str) -> Option<String> {
    let read = Config::from_text(text, Format::Yaml, |_| None);
    read.err().map(|error| error.message().to_owned())
}

#[test]
fn the_schema_among_the_documents_is_that_of_the_types() {
    let path = root().join(WRITTEN);
    if std::env::var_os("KOMBU_WRITE_DOCS").is_some() {
        std::fs::write(&path, Config::json_schema()).unwrap();
    }
    let written: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(
        written == schema(),
        "{WRITTEN} is out of date; KOMBU_WRITE_DOCS=1 writes it"
    );
}

#[test]
fn the_files_of_the_examples_are_valid() {
    let validator = Validator::new();
    let folder = std::fs::read_dir(root().join("examples/config")).unwrap();
    let files = folder.map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|it| it == "yaml"))
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    files.push(root().join("examples/seeds/occo.yaml"));
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let problem = validator.problem(&text);
        assert_eq!(problem, None, "{}", file.display());
    }
}

/// What the reader takes, the schema takes.
#[test]
fn what_is_read_is_valid() {
    let validator = Validator::new();
    for text in [
        "",
        "queues:",
        "queues: {jobs: }",
        "x-common: &common {prefetch: 5}\nconsumers: {work: {<<: *common, queues: jobs}}\nqueues: {jobs: }",
        // Connections.
        "connections: {default: {url: 'memory://'}}",
        "connections: {default: {url: ['amqp://one', 'amqp://two'], shuffle: true}}",
        "connections: {default: {url: }}",
        "connections: {default: {protocol: amqp, host: here, port: 5672, user: me, password: secret, vhost: shop}}",
        "connections: {default: {protocol: amqp, pwd: 12345, path: 007}}",
        "connections: {default: {url: 'amqp://one', tls: '${TLS:-true}'}}",
        "connections: {default: {url: 'amqp://one', tls: true}}",
        "connections: {default: {url: 'amqp://one', tls: {ca_file: /etc/ca.pem, enabled: true}}}",
        "connections: {default: {url: 'amqp://one', tls: {ca: ca.pem, ssl_cert: c.pem, key: k.pem}}}",
        "connections: {default: {url: 'amqp://one', options: {heartbeat: 5, connection_name: shop}}, other: {url: 'elsewhere://one', options: {quick: true}}}",
        "connections: {default: {url: 'amqp://one', deadlines: {connect: 5s, publish: 500, settle: 1m}}}",
        "connections: {default: {url: 'amqp://one', retry: {first_pause: 10ms, longest_pause: 1h, max_attempts: 3}}}",
        "connections: {default: {url: 'amqp://one', retry: , deadlines: , heartbeat: 30s, declare: verify}}",
        "connections: {default: {url: 'amqp://one', auto_connect: true, data_type: pubsub, safe: false}}",
        "connections: {default: {url: 'amqp://one', conn_timeout: 5s, in_timeout: 10, out_timeout: 1d}}",
        // Declarations.
        "exchanges: {a: {type: topic, durable: false, delivery_mode: transient, alternate_exchange: b}}",
        "exchanges: {a: {type: x-consistent-hash, arguments: {hash-header: id}, declare: never}}",
        "exchanges: {a: {bindings: [{exchange: b, routing_key: '#'}, {exchange: {name: c}}]}, b: }",
        "queues: {a: {type: quorum, max_deliveries: 3, dead_letter_exchange: '', overflow: drop-head}}",
        "queues: {a: {message_ttl: 90s, expires: 60000, max_length: 10, max_priority: 9, exclusive: true}}",
        "queues: {a: {message_ttl: null, arguments: {x-n: 1, x-list: [1, a], x-table: {b: null}}}}",
        "queues: {a: {arguments: , consumer_arguments: {x-priority: 1}, name: 5}}",
        // What is opened.
        "exchanges: {a: }\nproducers: {p: {exchange: a, routing_key: k, serializer: msgpack, mandatory: true}}",
        "producers: {p: {exchange: {name: a, type: fanout}, destinations: [{exchange: {name: b}, routing_key: k}]}}",
        "producers: {p: , q: {exchange: null, compression: zlib}}",
        "queues: {a: }\nconsumers: {c: {queues: a, prefetch: 5, accept: [json], max_processing_time: null}}",
        "queues: {a: }\nconsumers: {c: {queue: [a, {name: b}], on_undecodable: hold, priority: -1}}",
        "rpc: {r: {routing_key: prices, timeout: null, max_retries: 0, delivery_mode: persistent}}",
        "queues: {a: }\nhandlers: {h: {queue: {name: b}, concurrency: 4, grace: 5s, retries: {count: 1, jitter: false}}}",
        "queues: {a: }\nhandlers: {h: {queues: a, retries: , tell_errors: true, obey_commands: true}}",
        // Other libraries' parts.
        "senders: [events, 'news:topic']\nreceivers: jobs:work,more",
        "senders:\nreceivers: []",
        "mqconfig: memory\nendpoints: {a: {protocol: amqp, exhange: '', port: 5672}, b: memory}",
        // Variables.
        "connections: {default: {protocol: '${P:-amqp}', port: '${PORT:-5672}', shuffle: '${S:-true}'}}",
        "connections: {default: {url: 'amqp://one', retry: {max_attempts: '${N:-3}', first_pause: '${T:-1}s'}}}",
        "connections: {default: {url: 'amqp://one', declare: '${MODE:-verify}', auto_connect: '${A:-true}'}}",
        "queues: {a: {max_length: '${N:-1}', message_ttl: '${TTL:-1h}', type: '${TYPE:-quorum}', durable: '${D:-true}'}}",
        "mqconfig: {protocol: memory, port: '${PORT:-1}', auto_delete: '${A:-false}'}",
    ] {
        assert_eq!(refusal(text), None, "{text}");
        assert_eq!(validator.problem(text), None, "{text}");
    }
}

/// What the schema refuses, the reader refuses.
#[test]
fn a_wrong_key_type_or_word_is_invalid() {
    let validator = Validator::new();
    for (text, place) in [
        // Keys.
        ("queue: {jobs: }", ""),
        ("queues: {jobs: {durabel: true}}", "/queues/jobs"),
        ("exchanges: {a: {kind: topic}}", "/exchanges/a"),
        (
            "connections: {default: {uri: 'memory://'}}",
            "/connections/default",
        ),
        (
            "connections: {default: {url: 'amqp://a', tls: {cafile: a}}}",
            "/connections/default/tls",
        ),
        (
            "connections: {default: {url: 'amqp://a', retry: {pause: 1s}}}",
            "/connections/default/retry",
        ),
        (
            "connections: {default: {url: 'amqp://a', deadlines: {send: 1s}}}",
            "/connections/default/deadlines",
        ),
        (
            "queues: {a: {bindings: [{exchange: b, key: c}]}}",
            "/queues/a/bindings/0",
        ),
        (
            "queues: {a: {bindings: [{exchange: {nam: b}}]}}",
            "/queues/a/bindings/0/exchange",
        ),
        (
            "producers: {p: {destinations: [{exchange: a, key: b}]}}",
            "/producers/p/destinations/0",
        ),
        ("consumers: {c: {queues: {nam: a}}}", "/consumers/c/queues"),
        ("consumers: {c: {prefech: 1}}", "/consumers/c"),
        ("rpc: {r: {retries: 1}}", "/rpc/r"),
        ("handlers: {h: {retries: {max: 1}}}", "/handlers/h/retries"),
        ("mqconfig: {protocl: amqp}", "/mqconfig"),
        // What is missing.
        (
            "queues: {a: {bindings: [{routing_key: b}]}}",
            "/queues/a/bindings/0",
        ),
        ("queues: {a: {bindings: [null]}}", "/queues/a/bindings/0"),
        // Types.
        ("[]", ""),
        ("queues: []", "/queues"),
        ("queues: {a: {durable: 1}}", "/queues/a/durable"),
        ("queues: {a: {durable: 'true'}}", "/queues/a/durable"),
        ("queues: {a: {durable: }}", "/queues/a/durable"),
        ("queues: {a: {max_length: many}}", "/queues/a/max_length"),
        ("queues: {a: {max_length: -1}}", "/queues/a/max_length"),
        ("queues: {a: {max_priority: 256}}", "/queues/a/max_priority"),
        ("queues: {a: {message_ttl: 1.5}}", "/queues/a/message_ttl"),
        (
            "queues: {a: {message_ttl: 1 hour}}",
            "/queues/a/message_ttl",
        ),
        ("queues: {a: {name: [b]}}", "/queues/a/name"),
        ("queues: {a: {arguments: [b]}}", "/queues/a/arguments"),
        (
            "queues: {a: {bindings: {exchange: b}}}",
            "/queues/a/bindings",
        ),
        (
            "connections: {default: {url: 5}}",
            "/connections/default/url",
        ),
        (
            "connections: {default: {protocol: amqp, port: 65536}}",
            "/connections/default/port",
        ),
        (
            "connections: {default: {url: 'amqp://a', tls: 'on'}}",
            "/connections/default/tls",
        ),
        (
            "connections: {default: {url: 'amqp://a', options: {a: [b]}}}",
            "/connections/default/options/a",
        ),
        (
            "connections: {default: {url: 'amqp://a', auto_connect: false}}",
            "/connections/default/auto_connect",
        ),
        ("consumers: {c: {queues: }}", "/consumers/c/queues"),
        ("consumers: {c: {queues: [null]}}", "/consumers/c/queues"),
        (
            "handlers: {h: {concurrency: 1.5}}",
            "/handlers/h/concurrency",
        ),
        ("senders: {a: b}", "/senders"),
        // Words.
        ("queues: {a: {type: stream}}", "/queues/a/type"),
        ("queues: {a: {overflow: drop}}", "/queues/a/overflow"),
        ("queues: {a: {declare: Ensure}}", "/queues/a/declare"),
        (
            "exchanges: {a: {delivery_mode: 2}}",
            "/exchanges/a/delivery_mode",
        ),
        (
            "consumers: {c: {on_undecodable: drop}}",
            "/consumers/c/on_undecodable",
        ),
        (
            "connections: {default: {url: 'amqp://a', data_type: all}}",
            "/connections/default/data_type",
        ),
    ] {
        assert!(refusal(text).is_some(), "the reader takes {text}");
        let problem = validator.problem(text);
        let problem = problem.unwrap_or_else(|| panic!("the schema takes {text}"));
        assert!(problem.contains(&format!("'{place}'")), "{text}: {problem}");
    }
}

/// What the schema has at a place, references followed.
fn at<'a>(schema: &'a Value, place: &[&str]) -> Vec<&'a Value> {
    let mut found = alternatives(schema, schema);
    for step in place {
        let below = found.iter().flat_map(|it| match *step {
            "0" => it.get("items"),
            key => it["properties"]
                .get(key)
                .or_else(|| it.get("additionalProperties")),
        });
        let below: Vec<&Value> = below.collect();
        found = below
            .into_iter()
            .flat_map(|it| alternatives(schema, it))
            .collect();
    }
    found
}

fn alternatives<'a>(schema: &'a Value, at: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![at];
    if let Some(reference) = at["$ref"].as_str() {
        let target = schema.pointer(reference.trim_start_matches('#')).unwrap();
        found.extend(alternatives(schema, target));
    }
    for several in ["allOf", "anyOf", "oneOf"] {
        for one in at[several].as_array().into_iter().flatten() {
            found.extend(alternatives(schema, one));
        }
    }
    found
}

/// The keys or values that the reader names when it is given another one.
fn known(text: &str) -> BTreeSet<String> {
    let refusal = refusal(text).unwrap();
    let (_, known) = refusal
        .split_once("known are: ")
        .unwrap_or_else(|| panic!("{refusal}"));
    known.split(", ").map(str::to_owned).collect()
}

/// A text with this value at a place.
fn yaml(place: &[&str], value: &str) -> String {
    place
        .iter()
        .rev()
        .fold(value.to_owned(), |inner, step| match *step {
            "0" => format!("[{inner}]"),
            key => format!("{{{key}: {inner}}}"),
        })
}

#[test]
fn the_keys_are_those_that_the_reader_knows() {
    let schema = schema();
    for place in [
        &[][..],
        &["connections", "default"],
        &["connections", "default", "tls"],
        &["connections", "default", "deadlines"],
        &["connections", "default", "retry"],
        &["exchanges", "a"],
        &["exchanges", "a", "bindings", "0"],
        &["exchanges", "a", "bindings", "0", "exchange"],
        &["queues", "a"],
        &["queues", "a", "bindings", "0"],
        &["producers", "a"],
        &["producers", "a", "exchange"],
        &["producers", "a", "destinations", "0"],
        &["consumers", "a"],
        &["consumers", "a", "queues"],
        &["consumers", "a", "queues", "0"],
        &["rpc", "a"],
        &["rpc", "a", "exchange"],
        &["handlers", "a"],
        &["handlers", "a", "retries"],
        &["handlers", "a", "queues", "0"],
        &["mqconfig"],
        &["endpoints", "a"],
    ] {
        let found = at(&schema, place);
        let keys = found.iter().filter_map(|it| it["properties"].as_object());
        let keys: BTreeSet<String> = keys.flat_map(|it| it.keys().cloned()).collect();
        assert_eq!(keys, known(&yaml(place, "{zzzzzzzz: 1}")), "{place:?}");
    }
}

#[test]
fn the_words_are_those_that_the_reader_knows() {
    let schema = schema();
    for place in [
        &["connections", "default", "declare"][..],
        &["connections", "default", "data_type"],
        &["exchanges", "a", "delivery_mode"],
        &["queues", "a", "type"],
        &["queues", "a", "overflow"],
        &["consumers", "a", "on_undecodable"],
    ] {
        let found = at(&schema, place);
        let words = found.iter().filter_map(|it| it["const"].as_str());
        let words: BTreeSet<String> = words.map(str::to_owned).collect();
        assert_eq!(words, known(&yaml(place, "zzzzzzzz")), "{place:?}");
    }
}

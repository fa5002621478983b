//! Connections, exchanges and queues from files in three formats, and from the environment.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use kombu::{Config, Error, ErrorKind, Exchange, Queue};

const SECRET: &str = "correct-horse";

/// A file that is there as long as this value is.
struct File {
    folder: PathBuf,
    path: PathBuf,
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("kombu-configuration-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        File { folder, path }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn read(name: &str, text: &str) -> Result<Config, Error> {
    kombu::from_config(&File::new(name, text).path)
}

/// Reads a file that is wrong: the error names it and says these things, and none of its passwords.
fn refused(name: &str, text: &str, parts: &[&str]) {
    let error = read(name, text).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert_eq!(error.operation(), Some("read configuration"));
    let shown = format!("{error} {error:?}");
    for part in parts.iter().chain([&name]) {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
    assert!(!shown.contains(SECRET), "{shown}");
}

const YAML: &str = r##"
connections:
  shop: {url: "memory://configured"}
  reports: {url: "memory://reports?max_message_size=1000"}
exchanges:
  media: {type: topic, alternate_exchange: rest-of-all}
  rest: {name: rest-of-all, type: fanout}
  archive:
    type: fanout
    bindings: [{exchange: media, routing_key: "#.old"}]
queues:
  videos:
    durable: false
    bindings:
      - {exchange: media, routing_key: "video.#"}
      - {exchange: amq.topic, routing_key: "video.#"}
      - {exchange: {name: own, type: headers}, arguments: {tenant: 7}}
  jobs: {name: jobs-of-all, dead_letter_exchange: rest-of-all}
"##;

const TOML: &str = r##"
[connections]
shop.url = "memory://configured"
reports.url = "memory://reports?max_message_size=1000"

[exchanges]
media = { type = "topic", alternate_exchange = "rest-of-all" }
rest = { name = "rest-of-all", type = "fanout" }

[exchanges.archive]
type = "fanout"
bindings = [{ exchange = "media", routing_key = "#.old" }]

[queues.videos]
durable = false

[[queues.videos.bindings]]
exchange = "media"
routing_key = "video.#"

[[queues.videos.bindings]]
exchange = "amq.topic"
routing_key = "video.#"

[[queues.videos.bindings]]
exchange = { name = "own", type = "headers" }
arguments = { tenant = 7 }

[queues.jobs]
name = "jobs-of-all"
dead_letter_exchange = "rest-of-all"
"##;

const JSON: &str = r##"{
  "connections": {
    "shop": {"url": "memory://configured"},
    "reports": {"url": "memory://reports?max_message_size=1000"}
  },
  "exchanges": {
    "media": {"type": "topic", "alternate_exchange": "rest-of-all"},
    "rest": {"name": "rest-of-all", "type": "fanout"},
    "archive": {"type": "fanout", "bindings": [{"exchange": "media", "routing_key": "#.old"}]}
  },
  "queues": {
    "videos": {
      "durable": false,
      "bindings": [
        {"exchange": "media", "routing_key": "video.#"},
        {"exchange": "amq.topic", "routing_key": "video.#"},
        {"exchange": {"name": "own", "type": "headers"}, "arguments": {"tenant": 7}}
      ]
    },
    "jobs": {"name": "jobs-of-all", "dead_letter_exchange": "rest-of-all"}
  }
}"##;

#[test]
fn a_file_in_each_format_says_the_same() {
    let yaml = read("kombu.yaml", YAML).unwrap();
    assert_eq!(read("kombu.yml", YAML).unwrap(), yaml);
    assert_eq!(read("kombu.toml", TOML).unwrap(), yaml);
    assert_eq!(read("kombu.json", JSON).unwrap(), yaml);
}

#[test]
fn what_a_file_declares_is_what_the_setters_declare() {
    let config = read("kombu.yaml", YAML).unwrap();
    let media = Exchange::topic("media").alternate_exchange("rest-of-all");
    assert_eq!(config.exchange("media").unwrap(), &media);
    let rest = Exchange::fanout("rest-of-all");
    assert_eq!(config.exchange("rest").unwrap(), &rest);
    let archive = Exchange::fanout("archive").bind(&media, "#.old");
    assert_eq!(config.exchange("archive").unwrap(), &archive);
    let jobs = Queue::new("jobs-of-all").dead_letter_exchange("rest-of-all");
    assert_eq!(config.queue("jobs").unwrap(), &jobs);
    let videos = config.queue("videos").unwrap();
    assert_eq!(videos.name(), "videos");
    assert!(!videos.is_durable());
    let [first, second, third] = videos.bindings() else {
        panic!("{videos:?}");
    };
    assert_eq!(
        (first.exchange(), first.get_routing_key().as_str()),
        (&media, "video.#")
    );
    assert_eq!(second.exchange().name(), "amq.topic");
    assert_eq!(third.exchange(), &Exchange::headers("own"));
    assert_eq!(
        third
            .arguments()
            .get("tenant")
            .and_then(|tenant| tenant.as_i64()),
        Some(7)
    );
    assert_eq!(config.url("shop").unwrap(), "memory://configured");
}

#[tokio::test]
async fn what_stands_in_a_file_is_published_to_and_consumed_from() {
    let config = read("kombu.toml", TOML).unwrap();
    let connection = config.connect_to("shop").await.unwrap();
    let mut consumer = connection
        .consumer(config.queue("videos").unwrap())
        .await
        .unwrap();
    let producer = connection
        .producer(config.exchange("media").unwrap())
        .await
        .unwrap();
    producer
        .publish_text("new")
        .routing_key("video.new")
        .await
        .unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    assert_eq!(delivery.body(), "new");
    delivery.ack().await.unwrap();
    let through_own = producer
        .publish_text("own")
        .exchange(&Exchange::headers("own"));
    assert!(through_own.header("tenant", 7).await.unwrap().routed);
    let through_predeclared = producer
        .publish_text("amq")
        .exchange(&Exchange::topic("amq.topic"));
    assert!(
        through_predeclared
            .routing_key("video")
            .await
            .unwrap()
            .routed
    );
    kombu::memory::remove("configured");
}

#[tokio::test]
async fn the_options_of_a_url_in_a_file_take_effect() {
    let config = read("kombu.json", JSON).unwrap();
    let connection = config.connect_to("reports").await.unwrap();
    assert_eq!(connection.capabilities().max_message_size(), 1000);
    kombu::memory::remove("reports");
}

#[tokio::test]
async fn a_url_in_a_file_is_checked_when_it_is_connected_to() {
    let text =
        "connections: {birds: {url: 'pigeon://loft'}, typo: {url: 'memory://?max_mesage_size=1'}}";
    let config = read("kombu.yaml", text).unwrap();
    let error = config.connect_to("birds").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownScheme, "{error}");
    let error = config.connect_to("typo").await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("did you mean `max_message_size`"),
        "{error}"
    );
}

#[test]
fn an_empty_file_declares_nothing() {
    for (name, text) in [
        ("kombu.yaml", "{}"),
        ("kombu.toml", ""),
        ("kombu.json", "{}"),
    ] {
        let config = read(name, text).unwrap();
        assert_eq!(config.queue("jobs").unwrap_err().kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn a_name_that_is_not_in_the_file_lists_those_that_are() {
    let config = read("kombu.yaml", YAML).unwrap();
    for (error, parts) in [
        (
            config.url("shpo").unwrap_err(),
            ["connection `shpo`", "reports, shop"],
        ),
        (
            config.connect_to("shpo").await.unwrap_err(),
            ["connection `shpo`", "reports, shop"],
        ),
        (
            config.exchange("medai").unwrap_err(),
            ["exchange `medai`", "archive, media, rest"],
        ),
        (
            config.queue("vidoes").unwrap_err(),
            ["queue `vidoes`", "jobs, videos"],
        ),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config);
        for part in parts {
            assert!(
                error.to_string().contains(part),
                "`{part}` is missing in: {error}"
            );
        }
    }
}

#[test]
fn an_unknown_key_is_refused_wherever_it_stands_with_its_line_and_the_nearest_one() {
    let near = "did you mean `connections`?";
    refused(
        "kombu.yaml",
        "conections: {}",
        &["conections", near, "line 1"],
    );
    refused(
        "kombu.toml",
        "conections = {}",
        &["conections", near, "line 1"],
    );
    refused(
        "kombu.json",
        r#"{"conections": {}}"#,
        &["conections", near, "line 1"],
    );
    refused(
        "kombu.yaml",
        "connections:\n  shop:\n    url: 'memory://'\n    prot: 1\n",
        &[
            "`prot`",
            "line 4, column 5",
            "`connections.shop`",
            "did you mean `port`?",
        ],
    );
    refused(
        "kombu.yaml",
        "connections: {shop: {url: 'memory://', uri: x}}",
        &["uri", "did you mean `url`?"],
    );
    refused(
        "kombu.yaml",
        "exchanges: {media: {kind: topic}}",
        &["`kind`", "known are: name, type"],
    );
    refused(
        "kombu.yaml",
        "queues: {jobs: {durabel: true}}",
        &["`durabel`", "did you mean `durable`?"],
    );
    refused(
        "kombu.yaml",
        "queues: {jobs: {queue_type: quorum}}",
        &["`queue_type`", "did you mean `type`?"],
    );
    refused(
        "kombu.yaml",
        "queues: {jobs: {bindings: [{exchange: media, key: x}]}}",
        &["`key`", "`queues.jobs.bindings.0`"],
    );
}

/// The same mistake on line 12 of each.
const WRONG: [(&str, &str); 3] = [
    (
        "kombu.yaml",
        "# A shop.\nconnections:\n  default:\n    url: memory://\n\nexchanges:\n  media: {type: topic}\n\n\
         queues:\n  jobs:\n    message_ttl: 30s\n    max_lenght: 7\n    durable: true\n",
    ),
    (
        "kombu.toml",
        "# A shop.\n[connections.default]\nurl = 'memory://'\n\n[exchanges.media]\ntype = 'topic'\n\n\
         [queues.other]\n\n[queues.jobs]\nmessage_ttl = '30s'\nmax_lenght = 7\ndurable = true\n",
    ),
    (
        "kombu.json",
        "{\n\"connections\": {\n\"default\": {\"url\": \"memory://\"}\n},\n\"exchanges\": {\n\
         \"media\": {\"type\": \"topic\"}\n},\n\"queues\": {\n\"jobs\": {\n\"priority\":\n12\n,\"x\": 1}}}",
    ),
];

#[test]
fn the_line_of_a_wrong_key_is_told_in_each_format() {
    let (yaml, toml) = (WRONG[0], WRONG[1]);
    let wanted = &["line 12", "`max_lenght`", "did you mean `max_length`?"];
    refused(toml.0, toml.1, wanted);
    refused(yaml.0, yaml.1, wanted);
    let (name, json) = WRONG[2];
    refused(name, json, &["line 10", "`priority`"]);
    // A number is over with the line that it stands on.
    let wrong = json.replace("\"priority\":\n12", "\"max_length\":\n-12");
    refused(
        name,
        &wrong,
        &["line 11", "`queues.jobs.max_length`", "-12"],
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    let yaml = "queues: {jobs: {durable: perhaps}}";
    refused("kombu.yaml", yaml, &["boolean", "line 1, column 26"]);
    let toml = "\nqueues.jobs.max_length = 'many'";
    refused(
        "kombu.toml",
        toml,
        &["line 2, column 26", "`queues.jobs.max_length`"],
    );
    let json = r#"{"queues": {"jobs": {"message_ttl": "soon"}}}"#;
    refused("kombu.json", json, &["soon", "line 1"]);
    refused(
        "kombu.yaml",
        "connections: {shop: {}}",
        &["connection `shop`", "url"],
    );
}

#[test]
fn a_binding_to_an_unknown_exchange_is_refused() {
    let yaml = "queues: {jobs: {bindings: [{exchange: nowhere}]}}";
    refused(
        "kombu.yaml",
        yaml,
        &["queue `jobs`", "exchange `nowhere`", "there is none"],
    );
    let yaml = "exchanges: {media: {bindings: [{exchange: nowhere}]}, news: {}}";
    refused(
        "kombu.yaml",
        yaml,
        &["exchange `media`", "exchange `nowhere`", "media, news"],
    );
}

#[test]
fn exchanges_that_are_bound_in_a_ring_are_refused() {
    let yaml = "exchanges: {a: {bindings: [{exchange: b}]}, b: {bindings: [{exchange: a}]}}";
    refused("kombu.yaml", yaml, &["exchange `a`", "itself"]);
    refused(
        "kombu.yaml",
        "exchanges: {a: {bindings: [{exchange: a}]}}",
        &["exchange `a`", "itself"],
    );
}

#[test]
fn another_extension_is_refused() {
    for name in ["kombu.xml", "kombu", "kombu.yaml.bak", "kombu.YAML"] {
        refused(name, "{}", &[".yaml, .yml, .toml or .json"]);
    }
}

#[test]
fn a_file_that_is_not_of_its_format_is_refused() {
    refused("kombu.yaml", "connections: [", &[]);
    refused("kombu.toml", "connections: {}", &[]);
    refused("kombu.json", "connections: {}", &[]);
    refused("kombu.json", "", &[]);
    refused(
        "kombu.yaml",
        "connections: {}\nconnections: {}",
        &["connections"],
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = kombu::from_config("nowhere/kombu.yaml").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("nowhere/kombu.yaml"), "{error}");
}

#[test]
fn no_password_of_a_file_is_shown() {
    let url = format!("amqp://user:{SECRET}@host/");
    let config = read(
        "kombu.yaml",
        &format!("connections: {{shop: {{url: '{url}'}}}}"),
    )
    .unwrap();
    assert_eq!(config.url("shop").unwrap(), url);
    let shown = format!(
        "{config:?} {config:#?} {}",
        config.url("other").unwrap_err()
    );
    assert!(!shown.contains(SECRET), "{shown}");
    // Mistakes next to it, and of it.
    for wrong in [
        format!("connections: {{shop: '{url}'}}"),
        format!("connections: {{shop: ['{url}']}}"),
        format!("connections: {{shop: {{uri: '{url}'}}}}"),
        format!("connections:\n  shop:\n    url: '{url}'\n    uri: '{url}'\n"),
        format!("connections:\n  shop:\n    url: '{url}'\n  other: {{}}\n"),
        format!("connections: '{url}'"),
        format!("'{url}': 1"),
        format!("'{url}'"),
        format!("connections: {{shop: {{'{url}': 1}}}}"),
        format!("connections:\n  shop:\n    url: '{url}'\nqueues: [\n"),
        format!("queues: {{jobs: {{durable: '{url}'}}}}"),
    ] {
        refused("kombu.yaml", &wrong, &[]);
    }
    for wrong in [
        format!("connections.shop = '{url}'"),
        format!("connections.shop.uri = '{url}'"),
        format!("[connections.shop]\nurl = '{url}'\nuri = '{url}'\n"),
        format!("connections.shop.url = '{url}' x"),
        format!("connections.shop.url = '{url}"),
        format!("'{url}' = 1"),
        format!("connections.shop.'{url}' = 1"),
        format!("queues.jobs.durable = '{url}'"),
    ] {
        refused("kombu.toml", &wrong, &[]);
    }
    for wrong in [
        format!(r#"{{"connections": {{"shop": "{url}"}}}}"#),
        format!(r#"{{"connections": {{"shop": {{"uri": "{url}"}}}}}}"#),
        format!(r#"{{"{url}": 1}}"#),
        format!(r#""{url}""#),
        format!(r#"{{"connections": {{"shop": {{"url": "{url}"}} x }}"#),
        format!(r#"{{"queues": {{"jobs": {{"durable": "{url}"}}}}}}"#),
    ] {
        refused("kombu.json", &wrong, &[]);
    }
}

/// Runs a program that prints the URL of the default connection, with this environment.
fn default_url(file: &File, url: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_default_url"));
    command.arg(&file.path);
    command.env_remove("KOMBU_URL").env_remove("AMQP_URL");
    if let Some(url) = url {
        command.env("KOMBU_URL", url);
    }
    command.output().unwrap()
}

fn printed(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn kombu_url_replaces_the_url_of_the_default_connection() {
    let file = File::new(
        "kombu.yaml",
        "connections: {default: {url: 'memory://file'}}",
    );
    assert_eq!(printed(default_url(&file, None)), "memory://file");
    assert_eq!(
        printed(default_url(&file, Some("memory://environment"))),
        "memory://environment"
    );
    assert_eq!(printed(default_url(&file, Some(""))), "memory://file");
}

#[test]
fn kombu_url_takes_the_place_of_a_default_connection() {
    let file = File::new("kombu.yaml", "connections: {other: {url: 'memory://file'}}");
    assert_eq!(
        printed(default_url(&file, Some("memory://environment"))),
        "memory://environment"
    );
    let without = default_url(&file, None);
    assert!(!without.status.success());
    let error = String::from_utf8(without.stderr).unwrap();
    assert!(
        error.contains("no connection `default` is configured; there are: other"),
        "{error}"
    );
}

#[test]
fn amqp_url_is_the_default_connection_where_nothing_else_says() {
    let with = |file: &File, kombu_url: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_default_url"));
        command.arg(&file.path).env("AMQP_URL", "amqp://broker");
        printed(command.env("KOMBU_URL", kombu_url).output().unwrap())
    };
    let named = File::new(
        "kombu.yaml",
        "connections: {default: {url: 'memory://file'}}",
    );
    assert_eq!(with(&named, ""), "memory://file");
    let nameless = File::new("kombu.yaml", "queues: {jobs: {}}");
    assert_eq!(with(&nameless, ""), "amqp://broker");
    assert_eq!(with(&nameless, "memory://kombu"), "memory://kombu");
}

#[test]
fn kombu_url_replaces_no_other_connection() {
    let file = File::new(
        "kombu.yaml",
        "connections: {default: {url: 'memory://file'}, other: {}}",
    );
    let output = default_url(&file, Some("memory://environment"));
    // The file is wrong, and stays wrong.
    assert!(!output.status.success());
}

#[test]
fn a_small_file_that_asks_for_very_many_exchanges_is_refused() {
    use std::fmt::Write;
    let mut text = "exchanges:\n  e0: {type: topic}\n".to_owned();
    for number in 1..24 {
        let before = number - 1;
        writeln!(
            text,
            "  e{number}: {{type: topic, bindings: [{{exchange: e{before}, routing_key: a}}, {{exchange: e{before}, routing_key: b}}]}}"
        )
        .unwrap();
    }
    refused("many.yaml", &text, &["10000", "bind_exchange"]);
}

#[test]
fn an_exchange_that_is_written_out_and_not_declared_is_no_reference() {
    let text = "queues: {q: {bindings: [{exchange: {name: theirs, type: topic, declare: never}, routing_key: a}]}}";
    let config = read("theirs.yaml", text).unwrap();
    let queue = config.queue("q").unwrap();
    assert_eq!(
        queue.bindings()[0].exchange(),
        &kombu::Exchange::topic("theirs").no_declare()
    );
}

#[test]
fn a_url_without_a_scheme_is_not_shown_either() {
    let text = "connections: {default: {url: 'guest:hunter2@host'}}";
    let shown = format!("{:?}", read("schemeless.yaml", text).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}

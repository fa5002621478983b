//! What a configuration opens, and other libraries' files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::handler::{Payload, Reply, Router};
use kombu::mom::DataType;
use kombu::{Config, Connection, Error, ErrorKind, Feature, Format};

fn read_as(text: &str, format: Format, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let variables: Vec<(String, String)> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Config::from_text(text, format, |name| {
        let mut variables = variables.iter();
        let found = variables.find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone())
    })
}

fn read(text: &str) -> Config {
    read_as(text, Format::Yaml, &[]).unwrap()
}

#[track_caller]
fn refused(text: &str, format: Format, parts: &[&str]) {
    let error = read_as(text, format, &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    for part in parts {
        assert!(
            error.to_string().contains(part),
            "`{part}` is missing in: {error}"
        );
    }
}

async fn connect(config: &Config) -> Connection {
    config.connect().await.unwrap()
}

const ALL: &str = "
connections: {default: {url: 'memory://'}}
exchanges:
  media: {type: topic}
  rest: {type: fanout}
queues:
  videos: {bindings: [{exchange: media, routing_key: 'video.#'}]}
  all: {bindings: [{exchange: rest}]}
producers:
  feed: {exchange: media, routing_key: video.new, serializer: msgpack, delivery_mode: transient, mandatory: true}
  both: {destinations: [{exchange: media, routing_key: video.old}, {exchange: rest}]}
  plain: {}
consumers:
  feed: {queues: videos, prefetch: 1, on_undecodable: reject}
  several: {queues: [videos, all], prefetch: 10}
  own: {queue: {name: own, auto_delete: true, bindings: [{exchange: media, routing_key: own}]}, no_ack: true}
  picky: {queues: [videos], accept: [json]}
rpc:
  prices: {routing_key: prices, timeout: 5s, max_retries: 0}
handlers:
  prices: {queues: {name: prices}, concurrency: 2, retries: {count: 1, first_pause: 1ms}, max_processing_time: 1m}
";

#[tokio::test]
async fn a_producer_and_a_consumer_are_opened_by_name() {
    let config = read(ALL);
    let connection = connect(&config).await;
    let mut consumer = config.consumer(&connection, "feed").unwrap().await.unwrap();
    let producer = config.producer(&connection, "feed").unwrap().await.unwrap();
    for number in [1, 2] {
        producer.publish(&number).await.unwrap();
    }
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(delivery.routing_key(), "video.new");
    assert_eq!(delivery.content_type().unwrap(), "application/x-msgpack");
    assert_eq!(delivery.delivery_mode(), kombu::DeliveryMode::Transient);
    assert_eq!(delivery.decode::<u32>().unwrap(), 1);
    // The prefetch of the file holds.
    let second = consumer.receive(Duration::from_millis(20)).await.unwrap();
    assert!(second.is_none(), "{second:?}");
    delivery.ack().await.unwrap();
    let second = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(second.decode::<u32>().unwrap(), 2);
    second.ack().await.unwrap();
    // Mandatory, on an exchange where publishing to nobody is normal.
    let nobody = producer.publish(&3).routing_key("image.new").await;
    assert_eq!(nobody.unwrap_err().kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn a_call_says_otherwise_than_the_file() {
    let config = read(ALL);
    let connection = connect(&config).await;
    let mut consumer = config
        .consumer(&connection, "feed")
        .unwrap()
        .prefetch(2)
        .await
        .unwrap();
    let producer = config.producer(&connection, "feed").unwrap();
    let producer = producer.serializer("json").await.unwrap();
    producer.publish(&1).await.unwrap();
    producer.publish(&2).await.unwrap();
    let first = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(first.content_type().unwrap(), "application/json");
    let second = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(second.decode::<u32>().unwrap(), 2);
}

#[tokio::test]
async fn several_destinations_and_queues_stand_in_a_file() {
    let config = read(ALL);
    let connection = connect(&config).await;
    let mut consumer = config
        .consumer(&connection, "several")
        .unwrap()
        .await
        .unwrap();
    let producer = config.producer(&connection, "both").unwrap().await.unwrap();
    producer.publish(&1).await.unwrap();
    let mut exchanges = Vec::new();
    for _ in 0..2 {
        let delivery = consumer.try_next().await.unwrap().unwrap();
        exchanges.push(delivery.exchange().to_string());
        delivery.ack().await.unwrap();
    }
    exchanges.sort();
    assert_eq!(exchanges, ["media", "rest"]);
}

#[tokio::test]
async fn a_queue_may_be_written_out_with_its_consumer() {
    let config = read(ALL);
    let connection = connect(&config).await;
    let mut consumer = config.consumer(&connection, "own").unwrap().await.unwrap();
    let producer = config.producer(&connection, "feed").unwrap().await.unwrap();
    producer.publish(&1).routing_key("own").await.unwrap();
    let delivery = consumer.try_next().await.unwrap().unwrap();
    assert_eq!(
        delivery.ack().await.unwrap_err().kind(),
        ErrorKind::NotSettleable
    );
    consumer.cancel().await.unwrap();
    assert_eq!(
        connection.queue_info("own").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_call_and_its_handlers_are_those_of_the_file() {
    async fn price(Payload(count): Payload<u64>) -> Reply<u64> {
        Reply(count * 3)
    }
    let config = read(ALL);
    let connection = connect(&config).await;
    let router = Router::new().fallback(price);
    let serve = config.serve(&connection, "prices", router).unwrap();
    let serving = tokio::spawn(serve.open().await.unwrap().run());
    let caller = config.caller(&connection, "prices").unwrap().await.unwrap();
    assert_eq!(caller.call::<_, u64>(&7).await.unwrap(), 21);
    connection.close().await.unwrap();
    serving.await.unwrap().unwrap();
}

#[test]
fn a_handle_of_what_is_not_in_the_file_is_refused() {
    for (text, parts) in [
        (
            "consumers: {c: {queues: vidoes}}\nqueues: {videos: {}}",
            ["consumer `c`", "queue `vidoes`", "videos"],
        ),
        (
            "producers: {p: {exchange: meda}}\nexchanges: {media: {}}",
            ["producer `p`", "exchange `meda`", "media"],
        ),
        (
            "rpc: {r: {exchange: meda}}",
            ["rpc `r`", "exchange `meda`", "there is none"],
        ),
        (
            "handlers: {h: {queues: [jobs]}}",
            ["handlers `h`", "queue `jobs`", "there is none"],
        ),
        ("consumers: {c: {}}", ["consumer `c`", "`queues`", "no"]),
        (
            "consumers: {c: {queue: {name: q, bindings: [{exchange: nowhere}]}}}",
            ["consumer `c`", "exchange `nowhere`", "there is none"],
        ),
    ] {
        refused(text, Format::Yaml, &parts);
    }
}

#[test]
fn keys_of_handles_are_refused_with_the_nearest_one() {
    for (text, parts) in [
        (
            "producers: {p: {exchnage: media}}",
            ["`producers.p`", "`exchange`"],
        ),
        (
            "consumers: {c: {prefetsh: 1}}",
            ["`consumers.c`", "`prefetch`"],
        ),
        ("rpc: {r: {timeuot: 1s}}", ["`rpc.r`", "`timeout`"]),
        (
            "handlers: {h: {retries: {cuont: 1}}}",
            ["`handlers.h.retries`", "`count`"],
        ),
        (
            "connections: {d: {retry: {max_atempts: 1}}}",
            ["`connections.d.retry`", "`max_attempts`"],
        ),
        (
            "connections: {d: {deadlines: {publsh: 1}}}",
            ["`connections.d.deadlines`", "`publish`"],
        ),
        (
            "consumers: {c: {on_undecodable: rejct}}",
            ["`consumers.c.on_undecodable`", "`reject`"],
        ),
        (
            "queues: {q: {overflow: drop_head}}",
            ["`queues.q.overflow`", "`drop-head`"],
        ),
        ("mqconfig: {hots: h}", ["`mqconfig`", "`host`"]),
    ] {
        let [path, near] = parts;
        refused(
            text,
            Format::Yaml,
            &["line 1", path, &format!("did you mean {near}?")],
        );
    }
}

#[test]
fn the_topology_of_a_file_is_checked_without_a_broker() {
    let text = "
queues:
  jobs: {max_priority: 10, dead_letter_exchange: dead}
exchanges: {media: {alternate_exchange: rest}}
consumers:
  first: {queues: jobs, priority: 3}
  only: {queue: {name: own, max_length: 3}, exclusive: true, no_local: true}
handlers:
  work: {queues: {name: handled, expires: 1h}}
";
    let topology = read(text).topology();
    let all = kombu::registry().capabilities("memory").unwrap();
    topology.check(&all).require().unwrap();
    let redis = all.with_max_priority(9).without(Feature::ConsumerPriority);
    let error = topology.check(&redis).require().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let lines: Vec<String> = error.message().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(
        lines[0].contains("queue `jobs` asks for priorities up to 10"),
        "{error}"
    );
    assert!(lines[1].contains("consumer priorities"), "{error}");
    for feature in [
        Feature::AlternateExchange,
        Feature::DeadLetter,
        Feature::MaxLength,
        Feature::QueueExpiry,
        Feature::ExclusiveConsumer,
        Feature::NoLocal,
    ] {
        let lacking = topology.check(&all.without(feature));
        assert!(lacking.require().is_err(), "{feature}");
    }
}

#[test]
fn what_handlers_and_consumers_take_from_their_queues_is_in_the_topology() {
    let text = "
queues: {jobs: {consumer_arguments: {x-priority: 3}}}
consumers:
  said: {queues: jobs, priority: 0}
handlers:
  work: {queues: jobs}
";
    let redis = Feature::ConsumerPriority;
    let memory = kombu::registry().capabilities("memory").unwrap();
    let lacking = memory.without(redis);
    let error = read(text).topology().check(&lacking).require().unwrap_err();
    assert_eq!(error.message().lines().count(), 1, "{error}");
    let said = text.replace("work: {queues: jobs}", "");
    let checked = read(&said).topology().check(&lacking);
    checked.require().unwrap();
    let taken = said.replace(", priority: 0", "");
    assert!(read(&taken).topology().check(&lacking).require().is_err());
    refused(
        &text.replace("x-priority: 3", "x-priority: high"),
        Format::Yaml,
        &["handlers `work`", "queue `jobs`", "x-priority"],
    );
}

#[test]
fn other_libraries_parts_of_a_file_are_in_the_topology_of_the_default_connection() {
    fn declared(config: &Config) -> (Vec<String>, Vec<String>) {
        let topology = config.topology();
        let exchanges = topology.exchanges().iter();
        let queues = topology.queues().iter();
        (
            exchanges
                .map(|exchange| exchange.name().to_string())
                .collect(),
            queues.map(|queue| queue.name().to_string()).collect(),
        )
    }
    let mom = read("senders: [events:fanout]\nreceivers: [jobs]");
    assert_eq!(
        declared(&mom),
        (vec!["events".to_owned()], vec!["jobs".to_owned()])
    );
    let shared =
        read("connections: {default: {url: 'memory://', data_type: pubsub}}\nreceivers: [jobs]");
    // Each receiver has a queue that the broker names.
    assert_eq!(declared(&shared).1, [""]);
    let ini = "[MOM]\nprotocol=memory\nsenders=events\nreceivers=jobs\nother_uri=memory://other?receivers=theirs";
    let ini = read_as(ini, Format::Ini, &[]).unwrap();
    assert_eq!(
        declared(&ini),
        (vec!["events".to_owned()], vec!["jobs".to_owned()])
    );

    let occo = "mqconfig: {protocol: memory, exchange: shop, routing_key: sold, queue: orders}\n\
                endpoints: {other: {protocol: memory, queue: theirs}}";
    assert_eq!(
        declared(&read(occo)),
        (vec!["shop".to_owned()], vec!["orders".to_owned()])
    );
    assert_eq!(read(occo).topology().queues()[0].bindings().len(), 1);
    let keyed = read("mqconfig: {protocol: memory, routing_key: sold}");
    assert_eq!(declared(&keyed).1, ["sold"]);
    let elsewhere = format!("connections: {{default: {{url: 'memory://'}}}}\n{occo}");
    assert_eq!(declared(&read(&elsewhere)), (Vec::new(), Vec::new()));
}

#[test]
fn postages_variables_complete_the_default_connection() {
    let variables = [
        ("POSTAGE_VHOST", "test/night"),
        ("POSTAGE_RMQ_USER", "u"),
        ("POSTAGE_RMQ_PASSWORD", "p"),
        ("POSTAGE_USER", "later"),
        ("POSTAGE_PASSWORD", "later"),
    ];
    let url = |text: &str, variables: &[(&str, &str)]| {
        let config = read_as(text, Format::Yaml, variables).unwrap();
        config.url("default")
    };
    let amqp = kombu::registry().schemes().contains(&"amqp");
    if !amqp {
        assert_eq!(
            url("{}", &variables).unwrap_err().kind(),
            ErrorKind::UnknownScheme
        );
        return;
    }
    assert_eq!(
        url("{}", &variables).unwrap(),
        "amqp://u:p@localhost/test%2Fnight"
    );
    assert_eq!(
        url("{}", &variables[3..]).unwrap(),
        "amqp://later:later@localhost"
    );
    let host = "connections: {default: {protocol: amqp, host: h}}";
    assert_eq!(url(host, &variables).unwrap(), "amqp://u:p@h/test%2Fnight");
    // The file says more than they do.
    let user = "connections: {default: {protocol: amqp, host: h, user: f, vhost: v}}";
    assert_eq!(url(user, &variables).unwrap(), "amqp://f@h/v");
    let whole = "connections: {default: {url: 'amqp://file'}}";
    assert_eq!(url(whole, &variables).unwrap(), "amqp://file");
    // They are about RabbitMQ, and about the default connection.
    let memory = "connections: {default: {protocol: memory, host: shop}}";
    assert_eq!(url(memory, &variables).unwrap(), "memory://shop");
    let other = "connections: {other: {protocol: amqp, host: h}}";
    let other = read_as(other, Format::Yaml, &variables).unwrap();
    assert_eq!(other.url("other").unwrap(), "amqp://h");
}

#[test]
fn postages_debug_mode_is_asked_for_by_true_in_any_case() {
    for (value, asked) in [
        ("true", true),
        ("TRUE", true),
        ("True", true),
        ("1", false),
        ("", false),
    ] {
        let config = read_as("{}", Format::Yaml, &[("POSTAGE_DEBUG_MODE", value)]).unwrap();
        assert_eq!(config.is_debug(), asked, "{value}");
    }
    assert!(!read("{}").is_debug());
}

/// As its documentation shows it.
const OCCO: &str = "
mqconfig:
    protocol: memory
    host: occo-in-a-file
    vhost: test
    exhange: ''
    routing_key: test
    queue: test
    user: test
    password: test
";

#[test]
fn occos_file_is_read_as_it_is() {
    let config = read(&OCCO.replace("protocol: memory", "protocol: amqp"));
    let occo = config.occo().unwrap();
    assert_eq!(
        (occo.protocol.as_deref(), occo.host.as_deref()),
        (Some("amqp"), Some("occo-in-a-file"))
    );
    assert_eq!(
        (occo.routing_key.as_deref(), occo.queue.as_deref()),
        (Some("test"), Some("test"))
    );
    assert_eq!(occo.exchange, "");
    let error = read("{}").occo().unwrap_err();
    assert!(error.to_string().contains("`mqconfig`"), "{error}");
}

/// They are about the same connection, which would be in the clear otherwise.
#[test]
fn what_the_file_says_of_the_default_connection_counts_for_occos_place() {
    let text = "connections: {default: {tls: {ca_file: /ca.pem}, heartbeat: 5s}}\n\
                mqconfig: {protocol: amqp, host: h, queue: q}";
    let config = read(text);
    let url = "amqps://h?ca_file=/ca.pem&heartbeat=5";
    assert_eq!(config.url("default").unwrap(), url);
    let occo = config.occo().unwrap();
    assert_eq!(occo.connection_url(&kombu::registry()).unwrap(), url);
    // Another place is another connection.
    let elsewhere = text.replace("{tls:", "{url: 'amqp://there', tls:");
    let occo = read(&elsewhere).occo().unwrap();
    assert_eq!(occo.connection_url(&kombu::registry()).unwrap(), "amqp://h");
}

#[tokio::test]
async fn occos_objects_come_from_its_file() {
    async fn length(Payload(text): Payload<String>) -> Reply<usize> {
        Reply(text.len())
    }
    let text = OCCO.replace("    user: test\n    password: test\n", "");
    let config = read(&text);
    let occo = config.occo().unwrap();
    let registry = kombu::registry();
    let consumer = occo.event_driven_consumer(&registry, length).await.unwrap();
    let consuming = tokio::spawn(consumer.start_consuming());
    let producer = occo.rpc_producer(&registry).await.unwrap();
    assert_eq!(producer.push_message::<_, usize>("four").await.unwrap(), 4);
    // The default connection goes to the same place.
    let connection = connect(&config).await;
    assert_eq!(connection.queue_info("test").await.unwrap().consumers, 1);
    consuming.abort();
    kombu::memory::remove("occo-in-a-file");
}

#[test]
fn occos_roles_are_endpoints_with_anchors() {
    let text = "
x-queues:
  async: &ASYNC_Q {protocol: memory, host: here, routing_key: unittest_queue_async}
endpoints:
  producer_async: *ASYNC_Q
  consumer_async: {<<: *ASYNC_Q, queue: unittest_queue_async}
";
    let config = read(text);
    let producer = config.endpoint("producer_async").unwrap();
    assert_eq!(
        (producer.host.as_deref(), producer.queue),
        (Some("here"), None)
    );
    let consumer = config.endpoint("consumer_async").unwrap();
    assert_eq!(
        consumer.routing_key.as_deref(),
        Some("unittest_queue_async")
    );
    assert_eq!(consumer.queue.as_deref(), Some("unittest_queue_async"));
    let moved = config
        .with_url("memory://there")
        .endpoint("producer_async")
        .unwrap();
    assert_eq!(moved.url.as_deref(), Some("memory://there"));
    assert_eq!(
        read("{}").endpoint("x").unwrap_err().kind(),
        ErrorKind::Config
    );
}

/// Its files, one behind the other.
const CANOPSIS: &str = "
[MIDDLEWARE]                 ; middleware/middleware.conf
uri=
protocol=memory
data_type=pubsub
data_scope=
host=canopsis-in-a-file
port=
path=
auto_connect=true
safe=true
conn_timeout=20000
in_timeout=20000
out_timeout=100              ; ms
ssl=false
ssl_key=
ssl_cert=
user=
pwd=

[MOM]
senders=canopsis.events,canopsis.alerts,canopsis.incidents
receivers=

[KOMBU]
[MANAGER]
shared=true
scope_sharing=
auto_connect=true
STORAGE_uri=memory-pt2pt://storage?senders=jobs
";

#[test]
fn canopsis_files_are_read_as_they_are() {
    let config = read_as(CANOPSIS, Format::Ini, &[]).unwrap();
    let mom = config.mom("default").unwrap();
    assert_eq!(
        (mom.protocol.as_str(), mom.data_type),
        ("memory", DataType::PubSub)
    );
    assert_eq!(mom.host.as_deref(), Some("canopsis-in-a-file"));
    assert!(mom.safe);
    let timeouts = [mom.conn_timeout, mom.in_timeout, mom.out_timeout];
    assert_eq!(timeouts.map(|time| time.as_millis()), [20_000, 20_000, 100]);
    let senders: Vec<String> = mom.senders.iter().map(ToString::to_string).collect();
    assert_eq!(
        senders,
        ["canopsis.events", "canopsis.alerts", "canopsis.incidents"]
    );
    assert!(mom.receivers.is_empty());
    assert_eq!(
        config.url("default").unwrap(),
        "memory://canopsis-in-a-file"
    );
    let storage = config.mom("STORAGE").unwrap();
    assert_eq!(
        storage.uri.as_deref(),
        Some("memory-pt2pt://storage?senders=jobs")
    );
    assert_eq!(config.url("STORAGE").unwrap(), "memory://storage");
}

/// As what connections are encrypted with: in the URL's scheme and its query.
#[test]
fn canopsis_files_say_how_connections_are_encrypted() {
    let file = |place: &str| {
        format!("[MIDDLEWARE]\n{place}\nssl_key=/key.pem\nssl_cert=/cert.pem\n[MOM]\nsenders=jobs")
    };
    let files = "cert_file=%2Fcert.pem&key_file=%2Fkey.pem";
    for place in [
        "protocol=kombu\ndata_type=pubsub\nhost=h\nssl=true",
        "uri=kombu-pubsub://h",
    ] {
        let config = read_as(&file(place), Format::Ini, &[]).unwrap();
        assert_eq!(config.url("default").unwrap(), format!("amqps://h?{files}"));
        let mom = config.mom("default").unwrap();
        let uri = mom.uri(&kombu::registry()).unwrap();
        assert_eq!(uri, format!("amqps-pubsub://h?{files}&senders=jobs"));
    }
    // What a URI says counts, whatever the default that stands in each file.
    let text = "[MIDDLEWARE]\nuri=amqps://h\nssl=false\nssl_key=";
    let config = read_as(text, Format::Ini, &[]).unwrap();
    assert_eq!(config.url("default").unwrap(), "amqps://h");
    for (place, url) in [
        ("uri=amqps://h", format!("amqps://h?{files}")),
        ("protocol=kombu\nhost=h", "amqp://h".to_owned()),
    ] {
        let text = file(&format!("{place}\nssl=false"));
        let config = read_as(&text, Format::Ini, &[]).unwrap();
        assert_eq!(config.url("default").unwrap(), url);
    }
    // It may be said without a host, beside others that have URIs.
    let text = "[MOM]\nprotocol=amqp\nuser=u\npwd=p\nssl=true\nstorage_uri=amqp://other";
    let config = read_as(text, Format::Ini, &[]).unwrap();
    let url = config.url("default").unwrap();
    assert!(url.starts_with("amqps://u:p@"), "{url}");
    refused(
        "[MIDDLEWARE]\nprotocol=memory\nssl=true",
        Format::Ini,
        &["line 3", "`ssl`", "`memory-pt2pt://`"],
    );
    refused(
        "[MIDDLEWARE]\nssl=perhaps",
        Format::Ini,
        &["line 2", "`ssl`", "true"],
    );
}

#[test]
fn a_wrong_key_of_canopsis_is_refused_with_its_line() {
    for (text, parts) in [
        ("[MIDDLEWARE]\nhots=h", ["line 2", "`hots`", "`host`"]),
        (
            "[MOM]\n\n; a remark\nsender=a",
            ["line 4", "`sender`", "`senders`"],
        ),
        (
            "[MIDLEWARE]\nhost=h",
            ["line 1", "`MIDLEWARE`", "`MIDDLEWARE`"],
        ),
        ("[MANAGER]\nshare=true", ["line 2", "`share`", "`shared`"]),
        (
            "[MIDDLEWARE]\nport=many",
            ["line 2", "`port`", "a whole number"],
        ),
        (
            "[MIDDLEWARE]\nhost=a\nhost=b",
            ["line 3", "`host`", "twice"],
        ),
        ("[MIDDLEWARE\nhost=a", ["line 1", "[NAME]", ""]),
        ("[MIDDLEWARE]\nhost", ["line 2", "key=value", ""]),
    ] {
        refused(text, Format::Ini, &parts);
    }
}

#[tokio::test]
async fn senders_and_receivers_stand_in_a_file() {
    let text = "
connections: {default: {url: 'memory://', data_type: pt2pt, safe: false, in_timeout: 5s}}
senders: [jobs, 'news:topic']
receivers: 'jobs'
";
    let config = read(text);
    let settings = config.mom("default").unwrap();
    assert!(!settings.safe);
    assert_eq!(settings.in_timeout, Duration::from_secs(5));
    assert_eq!((settings.senders.len(), settings.receivers.len()), (2, 1));
    refused(
        "senders: ['a:sideways']",
        Format::Yaml,
        &["line 1", "`senders`", "sideways"],
    );
}

//! What a configuration's variables, connections and environment come to, without a broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use kombu::{Config, Error, ErrorKind, Format, Queue};

const SECRET: &str = "correct-horse";

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    Config::from_text(text, Format::Yaml, lookup)
}

fn read(text: &str) -> Result<Config, Error> {
    read_with(text, &[])
}

#[track_caller]
fn assert_refused(refused: Result<impl std::fmt::Debug, Error>, parts: &[&str]) {
    let error = refused.unwrap_err();
    let shown = format!("{error} {error:?}");
    for part in parts {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
    assert!(!shown.contains(SECRET), "{shown}");
}

#[track_caller]
fn urls(text: &str, name: &str) -> Vec<String> {
    read(text).unwrap().urls(name).unwrap()
}

#[test]
fn variables_are_put_into_values() {
    let text = "
connections:
  default: {url: 'amqp://${USER:-guest}:${PASSWORD}@${HOST:-localhost}/'}
queues:
  jobs: {name: '${PREFIX}jobs', max_length: '${LENGTH}', durable: '${DURABLE:-false}', message_ttl: '${TTL:-30s}'}
";
    let variables = [
        ("PASSWORD", "a"),
        ("PREFIX", ""),
        ("LENGTH", "7"),
        ("HOST", ""),
    ];
    let config = read_with(text, &variables).unwrap();
    assert_eq!(config.url("default").unwrap(), "amqp://guest:a@localhost/");
    let jobs = Queue::new("jobs").max_length(7).durable(false);
    let jobs = jobs.message_ttl(std::time::Duration::from_secs(30));
    assert_eq!(config.queue("jobs").unwrap(), &jobs);
}

#[test]
fn what_a_variable_says_is_never_read_as_yaml() {
    let text = "queues: {jobs: {name: '${NAME}'}, other: {}}";
    let hostile = "x', durable: false, y: 'z\n- ${HOME} # {";
    let config = read_with(text, &[("NAME", hostile), ("HOME", "h")]).unwrap();
    assert_eq!(config.queue("jobs").unwrap(), &Queue::new(hostile));
    // A key is none of the values.
    let text = "queues: {'${NAME}': {}}";
    let config = read_with(text, &[("NAME", "jobs")]).unwrap();
    assert!(config.queue("${NAME}").is_ok());
}

#[test]
fn ssl_is_another_word_for_tls() {
    let text = "connections: {a: {url: 'amqp://h', ssl: {ca_file: /ca.pem, verify: true}}}";
    assert_eq!(urls(text, "a"), ["amqps://h?ca_file=/ca.pem"]);
}

#[test]
fn a_certificate_that_is_not_to_be_checked_is_refused_with_the_way_out() {
    for key in ["tls", "ssl"] {
        let text =
            format!("connections:\n  a:\n    url: 'amqp://h'\n    {key}: {{verify: false}}\n");
        let parts = ["line 4", "certificates are always checked", "`ca_file`"];
        assert_refused(read(&text), &parts);
    }
}

#[test]
fn an_option_that_is_no_word_and_no_whole_number_is_refused_in_words() {
    let text = "connections: {a: {url: 'amqp://h', options: {heartbeat: 1.5}}}";
    assert_refused(
        read(text),
        &[
            "line 1",
            "heartbeat",
            "a word, a whole number, true or false",
        ],
    );
}

#[test]
fn a_number_that_is_too_large_is_refused_with_its_range() {
    for (text, range) in [
        ("queues:\n  jobs:\n    max_priority: 300", "from 0 to 255"),
        (
            "connections:\n  default:\n    port: 70000",
            "from 0 to 65535",
        ),
    ] {
        assert_refused(read(text), &["line 3", range]);
    }
}

#[test]
fn a_key_where_the_brokers_name_belongs_is_refused_with_that_name() {
    let exchanges = "exchanges: {dead: {name: shop.dead, type: fanout}, plain: {type: fanout}}\n";
    for (text, parts) in [
        (
            "queues: {jobs: {dead_letter_exchange: dead}}",
            ["queue `jobs`", "write `dead_letter_exchange: shop.dead`"],
        ),
        (
            "consumers: {work: {queues: {name: jobs, dead_letter_exchange: dead}}}",
            ["consumer `work`", "write `dead_letter_exchange: shop.dead`"],
        ),
        (
            "producers: {feed: {exchange: {name: media, alternate_exchange: dead}}}",
            ["producer `feed`", "write `alternate_exchange: shop.dead`"],
        ),
        (
            "queues: {jobs: {bindings: [{exchange: {name: media, alternate_exchange: dead}}]}}",
            ["queue `jobs`", "write `alternate_exchange: shop.dead`"],
        ),
        (
            "producers: {feed: {exchange: {name: a, bindings: [{exchange: {name: b, alternate_exchange: dead}}]}}}",
            ["producer `feed`", "write `alternate_exchange: shop.dead`"],
        ),
    ] {
        assert_refused(read(&format!("{exchanges}{text}")), &parts);
    }
    for media in [
        "{alternate_exchange: dead}",
        "{bindings: [{exchange: {name: news, alternate_exchange: dead}}]}",
    ] {
        let bound = "a: {bindings: [{exchange: media}]}";
        assert_refused(
            read(&format!(
                "exchanges: {{dead: {{name: shop.dead}}, {bound}, media: {media}}}"
            )),
            &["exchange `media`", "write `alternate_exchange: shop.dead`"],
        );
    }
    // The broker's names, those that only the broker has, and a key that is another one's name.
    for name in ["shop.dead", "plain", "elsewhere", "''"] {
        let text = format!("{exchanges}queues: {{jobs: {{dead_letter_exchange: {name}}}}}");
        read(&text).unwrap();
    }
    let crossed = "exchanges: {dead: {name: shop.dead}, other: {name: dead}}\n\
                   queues: {jobs: {dead_letter_exchange: dead}}";
    read(crossed).unwrap();
}

#[test]
fn dollar_signs_that_are_no_variables_stay() {
    let text = "queues: {jobs: {name: 'pa$$word$ $HOME $${HOME}'}}";
    let config = read(text).unwrap();
    let name = config.queue("jobs").unwrap().name().clone();
    assert_eq!(name, "pa$$word$ $HOME ${HOME}");
}

#[test]
fn a_variable_that_is_not_there_is_refused_with_its_line() {
    let text = "queues:\n  jobs:\n    name: '${NOWHERE}'\n";
    assert_refused(
        read(text),
        &["line 3", "`queues.jobs.name`", "`NOWHERE`", "${NOWHERE:-"],
    );
    for wrong in ["${", "${A", "${}", "${A B}", "${1A}", "${A-b}"] {
        let text = format!("queues:\n  jobs: {{name: '{wrong}'}}\n");
        assert_refused(read(&text), &["line 2", "${NAME:-default}"]);
    }
}

#[test]
fn a_variable_of_the_wrong_type_is_refused_without_what_it_says() {
    for key in [
        "max_length",
        "durable",
        "message_ttl",
        "overflow",
        "bindings",
        "arguments",
    ] {
        let text = format!("queues:\n  jobs:\n    {key}: '${{SECRET}}'\n");
        let refused = read_with(&text, &[("SECRET", SECRET)]);
        assert_refused(refused, &["line 3", &format!("`queues.jobs.{key}`")]);
    }
}

#[test]
fn a_text_may_look_like_a_number() {
    let text = "connections: {default: {protocol: amqp, user: 007, password: 1e3, vhost: true}}\nqueues: {jobs: {name: 0x10}}";
    let config = read(text).unwrap();
    assert_eq!(
        config.url("default").unwrap(),
        "amqp://007:1e3@localhost/true"
    );
    assert_eq!(config.queue("jobs").unwrap().name(), "0x10");
}

#[test]
fn durations_are_texts_or_milliseconds() {
    for written in ["1m", "60s", "60000ms", "60000", "'60000'"] {
        let config = read(&format!("queues: {{jobs: {{message_ttl: {written}}}}}")).unwrap();
        let jobs = Queue::new("jobs").message_ttl(std::time::Duration::from_secs(60));
        assert_eq!(config.queue("jobs").unwrap(), &jobs, "{written}");
    }
    for (section, wrong) in [
        ("queues: {jobs: {message_ttl: soon}}", "soon"),
        (
            "connections: {default: {deadlines: {publish: 1.5}}}",
            "a duration",
        ),
        ("connections: {default: {retry: {first_pause: -3}}}", "-3"),
        ("consumers: {c: {max_processing_time: 5w}}", "5w"),
    ] {
        assert_refused(
            read(section),
            &["line 1", wrong, "`30s`"].map(|part| if part == "`30s`" { "30s" } else { part }),
        );
    }
}

#[test]
fn keys_may_be_kept_at_the_top_for_anchors() {
    let text = "
x-common: &common {durable: false, max_length: 3}
queues:
  one: {<<: *common}
  two: {<<: *common, max_length: 4}
";
    let config = read(text).unwrap();
    let transient = |name| Queue::new(name).durable(false);
    assert_eq!(
        config.queue("one").unwrap(),
        &transient("one").max_length(3)
    );
    assert_eq!(
        config.queue("two").unwrap(),
        &transient("two").max_length(4)
    );
    let wrong = "x-common: &common\n  durabel: false\nqueues:\n  one: *common\n";
    assert_refused(read(wrong), &["line 2", "`durabel`"]);
}

#[test]
fn a_connection_has_a_url_or_its_parts() {
    let parts = "
connections:
  all: {protocol: amqp, host: rabbit, port: 5673, user: u@x, password: 'p/w', vhost: a/b}
  least: {protocol: memory}
  aliases: {protocol: amqp, host: rabbit, user: u, pwd: p, path: test}
  both: {url: 'amqp://first', host: second}
";
    let config = read(parts).unwrap();
    for (name, url) in [
        ("all", "amqp://u%40x:p%2Fw@rabbit:5673/a%2Fb"),
        ("least", "memory:"),
        ("aliases", "amqp://u:p@rabbit/test"),
        ("both", "amqp://first"),
    ] {
        let found = config.url(name).map_err(|error| error.kind());
        if name == "least" {
            assert!(found.unwrap().starts_with(url));
            continue;
        }
        match found {
            Ok(found) => assert_eq!(found, url),
            // Without the cargo feature.
            Err(kind) => assert_eq!(kind, ErrorKind::UnknownScheme),
        }
    }
    assert_refused(
        read("connections: {a: {host: rabbit}}"),
        &["connection `a`", "`protocol`"],
    );
    assert_refused(
        read("connections: {a: {deadlines: {}}}"),
        &["connection `a`", "`url`"],
    );
    let pigeon = read("connections: {a: {protocol: pigeon}}").unwrap();
    let error = pigeon.url("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownScheme, "{error}");
}

#[test]
fn several_urls_are_tried_in_order() {
    let text = "connections: {default: {url: ['memory://one', 'memory://two'], shuffle: false}}";
    assert_eq!(urls(text, "default"), ["memory://one", "memory://two"]);
}

#[test]
fn what_is_said_about_tls_comes_into_scheme_and_query() {
    let with = |rest: &str| format!("connections: {{a: {{{rest}}}}}");
    for (rest, url) in [
        ("url: 'amqp://h/v', tls: true", "amqps://h/v"),
        ("url: 'amqps://h', tls: true", "amqps://h"),
        ("url: 'amqp://h', tls: false", "amqp://h"),
        ("url: 'amqp://h', tls: '${SECURE:-true}'", "amqps://h"),
        ("url: 'redis://h/1', tls: {enabled: true}", "rediss://h/1"),
        (
            "url: 'nats://a,b', tls: {ca_file: /etc/a b.pem}",
            "tls://a,b?ca_file=/etc/a%20b.pem",
        ),
        (
            "url: 'amqps://h?ca_file=own.pem', tls: {ca: other.pem, cert: c.pem, key: k.pem, server_name: rabbit}",
            "amqps://h?ca_file=own.pem&cert_file=c.pem&key_file=k.pem&server_name=rabbit",
        ),
        (
            "url: 'amqp://h', heartbeat: 30s, options: {frame_max: 4096, connection_name: a&b}",
            "amqp://h?heartbeat=30&connection_name=a%26b&frame_max=4096",
        ),
    ] {
        assert_eq!(urls(&with(rest), "a"), [url]);
    }
    let config = read(&with("url: 'memory://h', tls: true")).unwrap();
    assert_refused(config.url("a"), &["connection `a`", "`tls`", "memory"]);
    let config = read(&with("url: 'amqps://h', tls: {enabled: false}")).unwrap();
    assert_refused(config.url("a"), &["`amqps://` encrypts"]);
    assert_refused(
        read(&with("url: 'amqp://h', tls: {verify: false}")),
        &["`verify`"],
    );
}

#[test]
fn an_option_that_its_transport_does_not_take_is_refused_with_its_line() {
    let text = "
connections:
  default:
    url: 'amqp://h'
    options:
      connection_name: shop
      fram_max: 8192
";
    let parts = [
        "line 7",
        "connection `default`",
        "did you mean `frame_max`?",
    ];
    assert_refused(read(text), &parts);
    // One that it has, with a value of another kind.
    let text = text.replace("fram_max: 8192", "frame_max: wide");
    assert_refused(read(&text), &["line 7", "`frame_max`"]);
    let toml = "[connections.a]\nurl = 'redis://h'\noptions = {leese = 5}\n";
    let refused = Config::from_text(toml, Format::Toml, |_| None);
    assert_refused(refused, &["line 3", "did you mean `lease`?"]);
}

/// It is refused by whoever connects, if anybody does.
#[test]
fn an_option_for_somewhere_else_is_not_refused_with_the_file() {
    let redis = [("REDIS_URL", "redis://elsewhere")];
    for (text, variables) in [
        // No transport of this scheme is built in.
        (
            "connections: {a: {url: 'nowhere://h', options: {fram_max: 1}}}",
            &[][..],
        ),
        // The place is said elsewhere in the file.
        (
            "connections: {default: {options: {connection_name: shop}}}\nmqconfig: {protocol: amqp, host: h, queue: q}",
            &redis,
        ),
        // It is replaced.
        (
            "connections: {default: {url: 'amqp://h', options: {fram_max: 1}}}",
            &[("KOMBU_URL", "memory://")],
        ),
        // The program brings the certificate.
        (
            "connections: {a: {url: 'amqps://h', options: {auth_mechanism: external}}}",
            &[],
        ),
    ] {
        read_with(text, variables).unwrap();
    }
}

#[test]
fn a_name_that_stands_for_nothing_is_refused_with_its_line_and_the_nearest_one() {
    let queues = "queues:\n  videos: {}\n";
    let consumer = "consumers:\n  first: {queues: videos}\n  second: {queues: [vidoes]}\n";
    let handlers = "handlers: {encode: {queues: vidoes}}";
    let producers = "exchanges:\n  media: {}\nproducers:\n  feed:\n    exchange: meda\n";
    for (text, parts) in [
        (
            format!("{queues}{consumer}"),
            ["line 5", "consumer `second`", "did you mean `videos`?"],
        ),
        (
            format!("{queues}{handlers}"),
            ["line 3", "handlers `encode`", "did you mean `videos`?"],
        ),
        (
            producers.to_owned(),
            ["line 4", "producer `feed`", "did you mean `media`?"],
        ),
        (
            "rpc:\n\n  r: {exchange: media}".to_owned(),
            ["line 3", "rpc `r`", "there is none"],
        ),
        (
            "queues:\n  a: {}\n  b: {bindings: [{exchange: nowhere}]}".to_owned(),
            ["line 3", "queue `b`", "exchange `nowhere`"],
        ),
        (
            "exchanges:\n  a: {bindings: [{exchange: b}]}\n  b: {bindings: [{exchange: nowhere}]}"
                .to_owned(),
            ["line 3", "exchange `b`", "exchange `nowhere`"],
        ),
        (
            "connections:\n  shop: {}".to_owned(),
            ["line 2", "connection `shop`", "url"],
        ),
    ] {
        assert_refused(read(&text), &parts);
    }
}

#[tokio::test]
async fn deadlines_retries_and_sizes_are_those_of_the_file() {
    let text = "
connections:
  default:
    url: 'memory://sizes'
    options: {max_message_size: 2000}
    max_message_size: 1000
    connect_timeout: 1500
    deadlines: {publish: 2s, declare: 3s}
    retry: {first_pause: 10ms, longest_pause: 20ms, max_attempts: 3}
    declare: never
";
    let config = read(text).unwrap();
    let shown = format!("{:?}", config.builder("default").unwrap());
    for part in [
        "connect: 1.5s",
        "publish: 2s",
        "declare: 3s",
        "first_pause: 10ms",
        "max_attempts: Some(3)",
    ] {
        assert!(shown.contains(part), "`{part}` is missing in: {shown}");
    }
    let connection = config.connect().await.unwrap();
    let jobs = Queue::new("jobs");
    let refused = connection.consumer(&jobs).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "nothing is declared");
    let producer = connection
        .producer(kombu::Exchange::default())
        .await
        .unwrap();
    let large = producer.publish_bytes(vec![0; 1001]).routing_key("jobs");
    assert_eq!(large.await.unwrap_err().kind(), ErrorKind::TooLarge);
    kombu::memory::remove("sizes");
}

#[test]
fn what_counts_for_the_default_connection_is_in_the_order_of_precedence() {
    let named = "connections: {default: {url: 'memory://file'}}";
    let nameless = "queues: {jobs: {}}";
    let kombu = ("KOMBU_URL", "memory://kombu");
    let amqp = ("AMQP_URL", "amqp://amqp");
    let redis = ("REDIS_URL", "redis://redis");
    let nats = ("NATS_URL", "nats://nats");
    let all = [kombu, amqp, redis, nats];
    let url = |text: &str, variables: &[(&str, &str)]| {
        read_with(text, variables).unwrap().url("default").unwrap()
    };
    assert_eq!(url(named, &all), "memory://kombu");
    assert_eq!(url(nameless, &all), "memory://kombu");
    assert_eq!(url(named, &all[1..]), "memory://file");
    let protocol = "connections: {default: {protocol: redis}}";
    assert_eq!(url(protocol, &all[1..]), "redis://redis");
    let protocol = "connections: {default: {protocol: nats}}";
    assert_eq!(url(protocol, &all[1..]), "nats://nats");
    assert_eq!(url(nameless, &[nats]), "nats://nats");
    assert_eq!(url(nameless, &[redis]), "redis://redis");
    assert_eq!(url(nameless, &[amqp]), "amqp://amqp");
    // An empty one is none.
    assert_eq!(url(named, &[("KOMBU_URL", "")]), "memory://file");
    let called = read_with(named, &all).unwrap().with_url("memory://called");
    assert_eq!(called.url("default").unwrap(), "memory://called");
    let other = "connections: {other: {url: 'memory://other'}}";
    let other = read_with(other, &all).unwrap().with_url("memory://called");
    assert_eq!(other.url("other").unwrap(), "memory://other");
}

#[test]
fn what_belongs_to_a_url_does_not_come_to_one_that_replaces_it() {
    let text = "connections: {default: {url: 'amqp://h', tls: true, options: {frame_max: 4096}, heartbeat: 3s}}";
    let config = read_with(text, &[("KOMBU_URL", "memory://kombu")]).unwrap();
    assert_eq!(config.urls("default").unwrap(), ["memory://kombu"]);
}

#[test]
fn a_default_connection_that_nobody_names_is_missing() {
    for text in [
        "queues: {}",
        "connections: {default: {deadlines: {publish: 1s}}}",
    ] {
        let config = read(text).unwrap();
        assert_refused(config.url("default"), &["connection `default`"]);
        let config = config.with_url("memory://");
        assert_eq!(config.url("default").unwrap(), "memory://");
    }
}

#[test]
fn no_secret_of_a_configuration_is_shown() {
    let text = format!(
        "connections: {{default: {{protocol: memory, password: {SECRET}, options: {{token: {SECRET}}}}}, \
         other: {{url: 'amqp://u:${{PASSWORD}}@h'}}}}\nmqconfig: {{protocol: amqp, password: {SECRET}}}"
    );
    let variables = [
        ("PASSWORD", SECRET),
        ("KOMBU_URL", "amqp://u:correct-horse@h"),
        ("AMQP_URL", "amqp://u:correct-horse@h"),
        ("POSTAGE_RMQ_PASSWORD", SECRET),
    ];
    let config = read_with(&text, &variables).unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains(SECRET), "{shown}");
}

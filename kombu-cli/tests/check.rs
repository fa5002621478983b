//! What a file asks for, transport by transport, without any broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use self::common::run;

const PIPELINE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../examples/config/pipeline.yaml"
);
/// What is said of it. `KOMBU_WRITE_DOCS=1 cargo test -p kombu-cli --test check` writes it.
const SAID: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pipeline.txt");
/// No broker is looked for there.
const NOWHERE: &str = "amqp://127.0.0.1:1";
const FILE: &str = "
exchanges:
  orders: {type: topic}
queues:
  jobs:
    max_priority: 12
    bindings: [{exchange: orders, routing_key: '#'}]
";

#[tokio::test]
async fn what_a_transport_can_not_do_is_told_without_a_broker() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/check.yaml");
    std::fs::write(path, FILE).unwrap();
    let all = run(NOWHERE, &["check", path]).await;
    assert_eq!(all.code, Some(7), "{}", all.errors);
    assert!(
        all.errors
            .contains("not everything can be done on nats, redis"),
        "{}",
        all.errors
    );
    let fine = run(NOWHERE, &["check", path, "--on", "amqp,memory", "--json"]).await;
    assert_eq!(fine.code, Some(0), "{}", fine.errors);
    let rows = fine.json();
    let jobs: Vec<_> = rows
        .iter()
        .filter(|row| row["declaration"] == "queue `jobs`")
        .collect();
    assert_eq!(jobs.len(), 2);
    assert!(jobs.iter().all(|row| row["support"] == "native"));
    for schemes in ["carrier-pigeon", "amqp,,redis"] {
        let unknown = run(NOWHERE, &["check", path, "--on", schemes]).await;
        assert_eq!(unknown.code, Some(2), "{}", unknown.errors);
        assert_eq!(unknown.text(), "");
    }
}

#[tokio::test]
async fn what_arguments_and_consumers_ask_for_is_told_too() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/check-arguments.yaml");
    let text = "
queues:
  log: {arguments: {x-queue-type: stream}}
  jobs: {consumer_arguments: {x-priority: 3}}
handlers:
  work: {queues: jobs}
";
    std::fs::write(path, text).unwrap();
    let fine = run(NOWHERE, &["check", path, "--on", "amqp"]).await;
    assert_eq!(fine.code, Some(0), "{}", fine.errors);
    let redis = run(NOWHERE, &["check", path, "--on", "redis", "--json"]).await;
    assert_eq!(redis.code, Some(7), "{}", redis.errors);
    let rows = redis.json();
    let row = |name: &str| rows.iter().find(|row| row["declaration"] == name).unwrap();
    let log = row("queue `log`");
    assert_eq!(log["support"], "unsupported");
    let why = log["arguments"][0].as_str().unwrap();
    assert!(why.starts_with("`x-queue-type: stream`, which"), "{why}");
    let consumer = row("the consumer of `jobs`");
    assert_eq!(consumer["support"], "unsupported");
    assert_eq!(consumer["asks"][0]["feature"], "consumer priorities");

    std::fs::write(
        path,
        "consumers: {all: {queue: {name: jobs}, no_local: true}}",
    )
    .unwrap();
    let refused = run(NOWHERE, &["check", path, "--on", "memory"]).await;
    assert_eq!(refused.code, Some(7), "{}", refused.errors);
    let said = "refused by every broker: `no_local` drops";
    assert!(refused.text().contains(said), "{}", refused.text());
}

#[tokio::test]
async fn what_the_pipeline_asks_of_each_transport_is_told() {
    let told = run(NOWHERE, &["check", PIPELINE]).await;
    assert_eq!(told.code, Some(0), "{}", told.errors);
    if std::env::var_os("KOMBU_WRITE_DOCS").is_some() {
        std::fs::write(SAID, told.text()).unwrap();
    }
    let said = std::fs::read_to_string(SAID).unwrap();
    assert_eq!(told.text(), said, "KOMBU_WRITE_DOCS=1 writes it anew");
}

#[tokio::test]
async fn what_is_kept_and_does_nothing_is_told() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/check-kept.yaml");
    std::fs::write(path, "queues: {jobs: {type: quorum}}\n").unwrap();
    let said = run(NOWHERE, &["check", path, "--on", "redis"]).await;
    assert_eq!(said.code, Some(0), "{}", said.errors);
    assert!(said.text().contains("nothing is done with `type: quorum`"));
    let rows = run(NOWHERE, &["check", path, "--json"]).await.json();
    for row in rows {
        let kept = row["kept"].as_array().unwrap();
        assert_eq!(kept.is_empty(), row["on"] == "amqp", "{row}");
    }
}

#[tokio::test]
async fn a_serializer_that_is_not_there_is_told() {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/check-serializers.yaml");
    let text = "
queues: {jobs: {}}
producers:
  fine: {serializer: msgpack, compression: zlib}
  misspelled: {serializer: jsno}
  packed: {compression: zlibb}
consumers:
  work: {queues: jobs, accept: [json, image/png, yml]}
rpc:
  sums: {serializer: pickles}
mqconfig: {protocol: memory, serializer: pickle}
endpoints:
  front: {protocol: memory, serializer: marshal}
";
    std::fs::write(path, text).unwrap();
    let checked = run(NOWHERE, &["check", path, "--on", "memory"]).await;
    // The program may register them.
    assert_eq!(checked.code, Some(0), "{}", checked.errors);
    let told: Vec<&str> = checked.errors.lines().collect();
    let names = [
        ("producer `misspelled`: ", "jsno"),
        ("producer `packed`: ", "zlibb"),
        ("consumer `work`: ", "yml"),
        ("rpc `sums`: ", "pickles"),
        ("`mqconfig`: ", "pickle"),
        ("endpoint `front`: ", "marshal"),
    ];
    assert_eq!(told.len(), names.len(), "{}", checked.errors);
    for (line, (what, name)) in told.iter().zip(names) {
        assert!(line.contains(what) && line.contains(name), "{line}");
    }
    let json = run(NOWHERE, &["check", path, "--on", "memory", "--json"]).await;
    assert_eq!((json.code, json.errors.as_str()), (Some(0), ""));
    let rows = json.json();
    let problems = rows.iter().filter(|row| row["unknown"].is_string());
    assert_eq!(problems.count(), names.len(), "{}", json.text());
}

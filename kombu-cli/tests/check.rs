//! What a file asks for, transport by transport, without any broker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use self::common::run;

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
    let unknown = run(NOWHERE, &["check", path, "--on", "carrier-pigeon"]).await;
    assert_eq!(unknown.code, Some(2), "{}", unknown.errors);
}

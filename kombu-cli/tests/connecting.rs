//! What is wrong with a connection, as scripts and people are told; and that passwords aren't.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    allow(dead_code, unused_imports)
)]

mod common;

use std::time::{Duration, Instant};

use kombu_testkit::Harness;
use kombu_testkit::brokers::{Certificates, Nats, Redis};
use kombu_tests::{AmqpHarness, Trust};
use tokio::io::AsyncReadExt;

use self::common::{KOMBU, Run, command, finish, interrupt, run};

const SECRET: &str = "Xk7-tell-nobody";

async fn ends_with(code: i32, url: &str) -> Run {
    let run = run(url, &["--timeout", "3s", "get", "jobs"]).await;
    assert_eq!(run.code, Some(code), "{url}: {}", run.errors);
    assert!(!run.errors.contains(SECRET), "{}", run.errors);
    assert_eq!(run.text(), "");
    run
}

/// Nobody listens on a port that was just free.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The path of a file with this text; `name` is a test's own.
fn file(name: &str, text: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{}-{name}.yaml", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_broker_is_code_3() {
    let port = free_port();
    for scheme in ["amqp", "redis", "nats"] {
        ends_with(3, &format!("{scheme}://user:{SECRET}@127.0.0.1:{port}")).await;
    }
}

#[tokio::test]
async fn what_cannot_be_a_url_is_code_2() {
    for url in [
        format!("nothing://user:{SECRET}@host"),
        format!("amqp://user:{SECRET}@host:99999"),
        format!("amqp://user:{SECRET}@host/?hartbeat=1"),
        String::new(),
    ] {
        ends_with(2, &url).await;
    }
}

#[tokio::test]
async fn a_time_without_a_unit_is_refused() {
    for arguments in [
        &["get", "jobs", "--timeout", "5"][..],
        &["consume", "jobs", "--idle", "1000"],
        &["declare", "queue", "jobs", "message_ttl=60"],
    ] {
        let run = run("memory://", arguments).await;
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.errors);
        assert!(run.errors.contains("has no unit"), "{}", run.errors);
    }
    let help = run("", &["consume", "--help"]).await;
    assert!(help.text().contains("TIME, as in 30s"), "{}", help.text());
}

#[tokio::test]
async fn decoded_goes_with_json_wherever_that_stands() {
    for arguments in [
        &["--json", "get", "jobs", "--decoded"][..],
        &["get", "jobs", "--decoded", "--json"],
    ] {
        let run = run("memory://", arguments).await;
        assert_eq!(run.code, Some(5), "{arguments:?}: {}", run.errors);
    }
    for arguments in [
        &["get", "jobs", "--decoded"][..],
        &["consume", "jobs", "--decoded"],
        &["dead", "show", "jobs", "--decoded"],
        &["call", "-q", "jobs", "1", "--decoded"],
    ] {
        let run = run("memory://", arguments).await;
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.errors);
        assert!(run.errors.contains("--json"), "{}", run.errors);
    }
}

/// It doesn't wait for what can't come.
async fn ends_soon(child: tokio::process::Child) -> Run {
    let ended = tokio::time::timeout(Duration::from_secs(10), finish(child, b"")).await;
    ended.expect("Ctrl-C is heard")
}

#[tokio::test]
async fn ctrl_c_ends_a_command_that_connects() {
    // It takes connections and never says anything.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", silent.local_addr().unwrap());
    let child = command(&url, &["get", "jobs", "--timeout", "60s"])
        .spawn()
        .unwrap();
    let (mut connected, _) = silent.accept().await.unwrap();
    let mut begun = [0; 8];
    connected.read_exact(&mut begun).await.unwrap();
    interrupt(&child);
    let ended = ends_soon(child).await;
    assert_eq!(ended.code, Some(130), "{}", ended.errors);
}

#[tokio::test]
async fn arguments_that_are_wrong_show_no_password() {
    let url = format!("amqp://user:{SECRET}@host");
    for arguments in [
        &["get", "jobs", "--cuont", &url][..],
        &["get", "jobs", &url],
        &["get", "jobs", "-n", &url],
        &["gett", &url],
    ] {
        let run = run("memory://", arguments).await;
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.errors);
        assert!(!run.errors.contains(SECRET), "{}", run.errors);
    }
    let run = run("memory://", &["get", &url]).await;
    assert_eq!(run.code, Some(5), "{}", run.errors);
    assert!(!run.errors.contains(SECRET), "{}", run.errors);
}

#[tokio::test]
async fn a_password_with_spaces_and_quotes_is_shown_by_no_error() {
    let url = "amqp://user:Xk7 \"tell' `nobody@host";
    let wrong = file(
        "quoted",
        r#"connections: {shop: "amqp://user:Xk7 \"tell' `nobody@host"}"#,
    );
    for arguments in [
        &["get", "jobs", "--cuont", url][..],
        &["get", "jobs", "-n", url],
        &["get", "jobs", "--timeout", url],
        &["get", "jobs", "--config", &wrong],
        &["get", "jobs", "--timeout", "3s", "--url", url],
    ] {
        let run = run("", arguments).await;
        assert_ne!(run.code, Some(0), "{arguments:?}");
        for part in ["Xk7", "tell", "nobody"] {
            assert!(!run.errors.contains(part), "{}", run.errors);
        }
    }
    std::fs::remove_file(wrong).unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "Redis isn't there")]
async fn every_url_of_a_files_connection_is_tried() {
    let redis = Redis::builder().start().unwrap();
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let there = format!("redis://{}", redis.address());
    let text = format!(
        "connections:
  default: {{url: ['{nobody}', '{there}']}}
  first: {{url: '{nobody}', deadlines: {{connect: 300ms}}}}"
    );
    let path = file("several", &text);
    let reached = run("", &["--config", &path, "get", "jobs"]).await;
    assert_eq!(reached.code, Some(5), "{}", reached.errors);
    let first = ["--config", &path, "--connection", "first", "get", "jobs"];
    let first = run("", &first).await;
    assert_eq!(first.code, Some(3), "{}", first.errors);
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_files_deadlines_hold_unless_a_timeout_is_given() {
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let text = format!(
        "connections:
  default: {{url: '{nobody}', deadlines: {{connect: 310ms}}}}
  other: {{url: '{nobody}', connect_timeout: 320ms}}"
    );
    let path = file("deadlines", &text);
    for (environment, arguments, within) in [
        ("", &[][..], "310ms"),
        (&nobody, &[], "310ms"),
        ("", &["--url", &nobody], "310ms"),
        ("", &["--connection", "other"], "320ms"),
        ("", &["--timeout", "330ms"], "330ms"),
    ] {
        let arguments = [&["get", "jobs", "--config", &path], arguments].concat();
        let run = run(environment, &arguments).await;
        assert_eq!(run.code, Some(3), "{}", run.errors);
        let said = format!("no connection within {within}");
        assert!(run.errors.contains(&said), "{arguments:?}: {}", run.errors);
    }
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_connection_is_named_only_with_a_file_and_without_a_url() {
    let named = ["get", "jobs", "--connection", "shop"];
    let nowhere = run("memory://", &named).await;
    assert_eq!(nowhere.code, Some(2), "{}", nowhere.errors);
    let said = "give --config FILE too, or --url in place of it";
    assert!(nowhere.errors.contains(said), "{}", nowhere.errors);
    let path = file("named", "connections: {shop: {url: 'memory://'}}");
    let named = [&named[..], &["--config", &path]].concat();
    let found = run("memory://", &named).await;
    assert_eq!(found.code, Some(5), "{}", found.errors);
    let both = run("", &[&named[..], &["--url", "memory://"]].concat()).await;
    assert_eq!(both.code, Some(2), "{}", both.errors);
    assert!(
        both.errors.contains("leave one of them out"),
        "{}",
        both.errors
    );
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn an_argument_wins_over_the_environment_and_that_over_the_file() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("{}-kombu.yaml", std::process::id()));
    std::fs::write(&file, "connections: {default: {url: 'file-scheme://'}}").unwrap();
    let path = file.to_str().unwrap();
    for (environment, arguments, tried) in [
        ("", &["--config", path][..], "file-scheme"),
        (
            "environment-scheme://",
            &["--config", path],
            "environment-scheme",
        ),
        (
            "environment-scheme://",
            &["--config", path, "--url", "argument-scheme://"],
            "argument-scheme",
        ),
    ] {
        let run = run(environment, &[arguments, &["get", "jobs"]].concat()).await;
        assert_eq!(run.code, Some(2));
        assert!(
            run.errors.contains(&format!("`{tried}://`")),
            "{}",
            run.errors
        );
    }
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_amqp), ignore = "RabbitMQ isn't there")]
async fn rabbitmq_refuses_a_wrong_password_or_virtual_host_with_code_4() {
    let harness = AmqpHarness::new();
    let broker = harness.broker().await;
    let right = broker.url().to_owned();
    let wrong = right.replace("guest:guest@", &format!("guest:{SECRET}@"));
    assert_ne!(wrong, right);
    ends_with(4, &wrong).await;
    let (server, _) = right.rsplit_once('/').unwrap();
    ends_with(4, &format!("{server}/no-such-host")).await;
    let doctor = run(&wrong, &["doctor", "--timeout", "3s"]).await;
    assert_eq!(doctor.code, Some(4), "{}", doctor.errors);
    assert!(
        doctor.text().contains("WRONG  credentials"),
        "{}",
        doctor.text()
    );
    assert!(!doctor.text().contains(SECRET), "{}", doctor.text());
    harness.clean_up(broker).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "Redis isn't there")]
async fn redis_refuses_a_wrong_password_with_code_4() {
    let redis = Redis::builder().password("right").start().unwrap();
    ends_with(4, &format!("redis://:{SECRET}@{}", redis.address())).await;
    ends_with(5, &format!("redis://:right@{}", redis.address())).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_nats), ignore = "NATS isn't there")]
async fn nats_refuses_a_wrong_password_with_code_4() {
    let nats = Nats::builder().user("me", "right").start().unwrap();
    ends_with(4, &format!("nats://me:{SECRET}@{}", nats.address())).await;
    ends_with(5, &format!("nats://me:right@{}", nats.address())).await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "Redis isn't there")]
async fn a_certificate_that_is_not_trusted_is_code_8() {
    const NAME: &str = "redis.example";
    let trust = Trust::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/cli"), "service");
    let pair = trust.brokers.certify(NAME, |_| {});
    let certificates = Certificates {
        authority: trust.clients.pem(),
        certificate: pair.certificate,
        key: pair.key,
    };
    let redis = Redis::builder()
        .tls(certificates)
        .config("tls-auth-clients no")
        .start()
        .unwrap();
    let address = redis.tls_address().unwrap();
    let url = |authority| {
        let query = trust.query(&[("ca_file", authority), ("server_name", NAME)]);
        format!("rediss://{address}/{query}")
    };
    let refused = ends_with(8, &url("other-ca.pem")).await;
    assert!(refused.errors.contains("certificate"), "{}", refused.errors);
    ends_with(5, &url("ca.pem")).await;
}

#[tokio::test]
async fn a_start_takes_less_than_20_ms() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/config/shop.yaml");
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        let output = tokio::process::Command::new(KOMBU)
            .args(["check", file])
            .output();
        assert!(output.await.unwrap().status.success());
        best = best.min(start.elapsed());
    }
    assert!(best < Duration::from_millis(20), "{best:?}");
}

//! The command as a program, and the brokers that it is run on.

// Each test program takes what it needs.
#![allow(dead_code, unused_imports, unused_macros)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::fd::OwnedFd;
use std::process::Stdio;

use kombu_testkit::proxy::Proxy;
use kombu_testkit::{Broker, Harness};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

pub(crate) const KOMBU: &str = env!("CARGO_BIN_EXE_kombu");

/// Makes a test of each scenario on each broker; a scenario takes the broker.
macro_rules! on_every_broker {
    ($($scenario:ident)*) => {
        mod amqp {
            $(
                #[tokio::test(flavor = "multi_thread")]
                #[cfg_attr(not(kombu_test_amqp), ignore = "RabbitMQ isn't there")]
                async fn $scenario() {
                    crate::common::on(kombu_tests::AmqpHarness::new, super::$scenario).await;
                }
            )*
        }
        mod redis {
            $(
                #[tokio::test(flavor = "multi_thread")]
                #[cfg_attr(not(kombu_test_redis), ignore = "Redis isn't there")]
                async fn $scenario() {
                    crate::common::on(kombu_tests::RedisHarness::new, super::$scenario).await;
                }
            )*
        }
        mod nats {
            $(
                #[tokio::test(flavor = "multi_thread")]
                #[cfg_attr(not(kombu_test_nats), ignore = "NATS isn't there")]
                async fn $scenario() {
                    crate::common::on(kombu_tests::NatsHarness::new, super::$scenario).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_broker;

/// Runs a scenario on a broker of its own.
pub(crate) async fn on<H: Harness>(harness: impl Fn() -> H, scenario: impl AsyncFn(&Broker)) {
    let harness = harness();
    let broker = harness.broker().await;
    scenario(&broker).await;
    harness.clean_up(broker).await;
}

/// The command, which knows of no broker but this one.
pub(crate) fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(KOMBU);
    for variable in ["AMQP_URL", "NATS_URL", "POSTAGE_DEBUG_MODE", "REDIS_URL"] {
        command.env_remove(variable);
    }
    command
        .env("KOMBU_URL", url)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a run of the command came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) errors: String,
}

impl Run {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// The lines of its output, as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let lines = self.text().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

pub(crate) async fn run(url: &str, arguments: &[&str]) -> Run {
    finish(command(url, arguments).spawn().unwrap(), b"").await
}

/// The same with something on standard input.
pub(crate) async fn feed(url: &str, arguments: &[&str], input: &[u8]) -> Run {
    let mut command = command(url, arguments);
    finish(command.stdin(Stdio::piped()).spawn().unwrap(), input).await
}

pub(crate) async fn finish(mut child: Child, input: &[u8]) -> Run {
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended without reading.
        let _ = stdin.write_all(input).await;
    }
    let output = child.wait_with_output().await.unwrap();
    Run {
        code: output.status.code(),
        out: output.stdout,
        errors: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs what has to succeed, however busy the machine is, and returns its output.
pub(crate) async fn done(broker: &Broker, arguments: &[&str]) -> Run {
    let patient = [&["--timeout", "60s"], arguments].concat();
    let run = run(broker.url(), &patient).await;
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.errors);
    run
}

/// Declares queues.
pub(crate) async fn declare(broker: &Broker, queues: &[&str]) {
    for queue in queues {
        done(broker, &["declare", "queue", queue]).await;
    }
}

/// How many messages are ready in a queue.
pub(crate) async fn ready(broker: &Broker, queue: &str) -> u64 {
    let run = done(broker, &["queues", queue, "--json"]).await;
    run.json()[0]["ready"].as_u64().unwrap()
}

/// A proxy in front of the broker, and the URL that leads through it.
pub(crate) async fn proxied(broker: &Broker) -> (Proxy, String) {
    let mut url = url::Url::parse(broker.url()).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let proxy = Proxy::start(server).await.unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    (proxy, url.into())
}

/// Both ends of a terminal: who sits there, and what a program gets.
pub(crate) fn terminal() -> (OwnedFd, Stdio) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (person, terminal.into())
}

/// Presses Ctrl-C.
pub(crate) fn interrupt(child: &Child) {
    signal(child, rustix::process::Signal::INT);
}

/// Ends it as a crash would.
pub(crate) fn kill(child: &Child) {
    signal(child, rustix::process::Signal::KILL);
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = i32::try_from(child.id().unwrap()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

/// Waits until it has no signal to take any more.
pub(crate) async fn caught(child: &Child) {
    let status = format!("/proc/{}/status", child.id().unwrap());
    until(async || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let mut pending = status.lines().filter(|line| line.starts_with("ShdPnd:"));
        pending.all(|line| line.ends_with(&"0".repeat(16)))
    })
    .await;
}

/// Waits until something holds.
pub(crate) async fn until(holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "it doesn't hold after a minute");
}

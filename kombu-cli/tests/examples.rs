//! What each `--help` shows as examples, run as it stands there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

mod common;

use std::path::{Path, PathBuf};

use kombu::{Exchange, Queue};
use kombu_testkit::{Broker, Harness};
use tokio::process::Command;

use self::common::{KOMBU, declare, done, run};

/// They go on until Ctrl-C, ask what somebody has to answer, or take long: whether their arguments can be read is seen where no
/// broker is.
const NOT_TO_THE_END: [&str; 6] = [
    "kombu bench",
    "kombu bridge",
    "kombu call",
    "kombu serve",
    "--follow",
    "--watch",
];
/// Those of the first steps, for which nothing is there.
const FIRST_STEPS: [&[&str]; 3] = [&[], &["publish"], &["consume"]];
const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/config/shop.yaml");
const NOWHERE: &str = "redis://127.0.0.1:1";

async fn help(command: &[&str]) -> String {
    let help = run(NOWHERE, &[command, &["--help"]].concat()).await;
    assert_eq!(help.code, Some(0), "{}", help.errors);
    help.text().to_owned()
}

/// The commands that a help lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // What is further to the right goes on with what a command does.
    let begun = lines.filter(|line| !line.starts_with("   "));
    let names = begun.filter_map(|line| line.split_whitespace().next());
    let ours = names.filter(|name| *name != "help");
    ours.map(str::to_owned).collect()
}

/// All commands, and those of commands.
async fn commands() -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut next = 0;
    while let Some(command) = all.get(next).cloned() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        for name in listed(&help(&words).await) {
            let command: Vec<String> = command.iter().cloned().chain([name]).collect();
            all.push(command);
        }
        next += 1;
    }
    all
}

/// The lines that somebody would type, without what they say about it.
fn examples(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| !line.starts_with("Example"));
    let lines = lines.skip(1).take_while(|line| !line.is_empty());
    let lines = lines.filter(|line| line.contains("kombu ") || line.contains("export "));
    let typed = lines.filter_map(|line| line.trim_start().split("    ").next());
    typed.map(str::to_owned).collect()
}

/// What the examples take as given.
async fn prepare(broker: &Broker, folder: &Path) {
    let connection = broker.connect().await;
    let media = Exchange::topic("media");
    let orders = Exchange::headers("orders");
    for exchange in [&media, &orders] {
        connection.declare_exchange(exchange).await.unwrap();
    }
    let archived = Queue::new("archived").bind(Exchange::topic("archive"), "#");
    connection.declare_queue(&archived).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for queue in ["events", "images", "videos", "big", "failed"] {
        connection.declare_queue(&Queue::new(queue)).await.unwrap();
        producer.publish_text("1").routing_key(queue).await.unwrap();
    }
    connection.close().await.unwrap();
    std::fs::write(folder.join("cat.webm"), "a film").unwrap();
    std::fs::copy(SHOP, folder.join("shop.yaml")).unwrap();
}

/// A folder of its own, in which `kombu` is found.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("examples-{}{name}", std::process::id()));
    std::fs::create_dir_all(folder.join(".local/share/bash-completion/completions")).unwrap();
    folder
}

async fn type_in(line: &str, url: &str, folder: &Path) -> (Option<i32>, String) {
    let programs = Path::new(KOMBU).parent().unwrap().display();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env("HOME", folder)
        .env("KOMBU_URL", url)
        .env("PATH", format!("{programs}:{path}"))
        .output();
    let output = output.await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), errors)
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_redis), ignore = "Redis isn't there")]
async fn each_example_of_each_help_does_what_it_says() {
    let harness = kombu_tests::RedisHarness::new();
    for command in commands().await {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = help(&command).await;
        let lines = examples(&help);
        assert!(!lines.is_empty(), "{command:?}: {help}");
        let broker = harness.broker().await;
        let folder = folder(&command.join("-"));
        prepare(&broker, &folder).await;
        if !FIRST_STEPS.contains(&command.as_slice()) {
            declare(&broker, &["jobs"]).await;
        }
        let before: &[&str] = match command.as_slice() {
            ["get"] => &["publish", "-q", "jobs", "1", "2"],
            ["diff"] => &["apply", SHOP],
            _ => &["--version"],
        };
        done(&broker, before).await;
        for line in lines {
            // What stands for a broker of whoever reads it.
            let line = line.replace("amqp://guest:guest@localhost", broker.url());
            let line = line.replace("amqps://user:password@host/vhost", broker.url());
            // It writes as much for other programs.
            let (line, _) = line.split_once(" | jq").unwrap_or((&line, ""));
            let is_short = !NOT_TO_THE_END.iter().any(|part| line.contains(part));
            let (code, errors) = match is_short {
                true => type_in(line, broker.url(), &folder).await,
                false => {
                    let line = line.replace("kombu ", "kombu --timeout 100ms ");
                    type_in(&line, NOWHERE, &folder).await
                }
            };
            let wanted = match is_short {
                false => 3,
                // There are fewer than it asks for.
                true if line.contains(" -n 10") => 6,
                true => 0,
            };
            assert_eq!(code, Some(wanted), "{line}: {errors}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        harness.clean_up(broker).await;
    }
}

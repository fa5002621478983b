//! How much memory the command takes, however many messages go through it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_redis, target_os = "linux")),
    allow(dead_code, unused_imports)
)]

mod common;

use std::process::Stdio;

use kombu_testkit::Harness;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

use self::common::{command, declare, finish};

const MESSAGES: usize = 60_000;
const BYTES: usize = 1_000;
const SAMPLES: usize = 10;
/// What an allocator may do, and messages that are kept don't fit into: half of them are 30 MB and more.
const GROWTH: u64 = 8 * 1024 * 1024;

/// What of its memory is in use, in bytes.
fn resident(child: &Child) -> u64 {
    let path = format!("/proc/{}/status", child.id().unwrap());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(kombu_test_redis, target_os = "linux")),
    ignore = "Redis isn't there"
)]
async fn many_messages_take_no_more_memory_than_few() {
    let harness = kombu_tests::RedisHarness::new();
    let broker = harness.broker().await;
    let url = broker.url();
    declare(&broker, &["from", "to"]).await;
    let mut publish = command(url, &["publish", "-q", "from", "--lines"]);
    let mut publish = publish.stdin(Stdio::piped()).spawn().unwrap();
    let bridge = ["bridge", "from", "--to", url, "-q", "to"];
    let bridge = command(url, &bridge).spawn().unwrap();
    let mut consume = command(url, &["consume", "to", "--follow"])
        .spawn()
        .unwrap();

    let mut input = publish.stdin.take().unwrap();
    let feeding = tokio::spawn(async move {
        let line = format!("{}\n", "x".repeat(BYTES)).repeat(100);
        for _ in 0..MESSAGES / 100 {
            input.write_all(line.as_bytes()).await.unwrap();
        }
        input
    });
    let mut lines = BufReader::new(consume.stdout.take().unwrap()).lines();
    let mut seen: [Vec<u64>; 3] = Default::default();
    for _ in 0..SAMPLES {
        for _ in 0..MESSAGES / SAMPLES {
            lines.next_line().await.unwrap().unwrap();
        }
        for (seen, child) in seen.iter_mut().zip([&publish, &bridge, &consume]) {
            seen.push(resident(child));
        }
    }
    for (seen, what) in seen.iter().zip(["publish", "bridge", "consume"]) {
        let (few, many) = seen.split_at(SAMPLES / 2);
        let grown = many
            .iter()
            .max()
            .unwrap()
            .saturating_sub(*few.iter().max().unwrap());
        assert!(grown < GROWTH, "{what}: {seen:?}");
    }
    drop(feeding.await.unwrap());
    let published = finish(publish, b"").await;
    assert_eq!(published.code, Some(0), "{}", published.errors);
    for child in [bridge, consume] {
        common::interrupt(&child);
        assert_eq!(finish(child, b"").await.code, Some(0));
    }
    harness.clean_up(broker).await;
}

//! What consumers cost that have nothing to do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use kombu::{Connection, Consumer, Queue};
use kombu_testkit::brokers::Redis;

/// How long nothing happens.
const QUIET: Duration = Duration::from_secs(6);

async fn consumers(url: &str, count: usize) -> (Connection, Vec<Consumer>) {
    let connection = kombu::connect(url).await.unwrap();
    let mut consumers = Vec::new();
    for number in 0..count {
        let queue = Queue::new(format!("jobs-{number}"));
        consumers.push(connection.consumer(&queue).await.unwrap());
    }
    (connection, consumers)
}

/// The commands that clients send in `time`. Those that scripts call are not among them.
fn commands(redis: &Redis, time: Duration) -> Vec<String> {
    let stream = TcpStream::connect(redis.address()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    (&stream).write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    let mut seen = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < time {
        // What was read of a line that isn't complete stays.
        if lines.read_line(&mut line).is_ok() {
            seen.push(std::mem::take(&mut line));
        }
    }
    seen.retain(|line| line.contains(" [") && !line.contains(" lua] "));
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn an_idle_session_sends_at_most_two_commands_a_second() {
    for (user, options) in [
        ("alice:a-secret@", ""),
        ("alice:a-secret@", "?fanout=kombu"),
        // Consumers look by themselves.
        ("untold:a-secret@", ""),
    ] {
        let redis = Redis::builder()
            .config("user alice on >a-secret ~* &* +@all")
            .config("user untold on >a-secret ~* &* +@all -client|tracking")
            .start()
            .unwrap();
        let url = format!("redis://{user}{}/{options}", redis.address());
        let (connection, consumers) = consumers(&url, 20).await;
        // What the last consumer began with.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seen = tokio::task::block_in_place(|| commands(&redis, QUIET));
        assert!(!seen.is_empty(), "it says that it lives");
        let most = 2 * QUIET.as_secs() as usize;
        assert!(seen.len() <= most, "{user}{options}: {seen:#?}");
        drop(consumers);
        connection.close().await.unwrap();
    }
}

const IDLE: &str = "KOMBU_TEST_REDIS_IDLE_URL";

/// Says how much time 20 idle consumers on 20 queues take of a core.
#[test]
fn program() {
    let Ok(url) = std::env::var(IDLE) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let (connection, consumers) = consumers(&url, 20).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begin = ProcessTime::now();
        tokio::time::sleep(QUIET).await;
        println!("[{}]", begin.elapsed().as_micros());
        drop(consumers);
        connection.close().await.unwrap();
    });
}

#[test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
fn twenty_idle_consumers_take_less_than_a_hundredth_of_a_core() {
    let redis = Redis::start().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program", "--nocapture"])
        .env(IDLE, redis.url())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let (_, said) = printed.split_once('[').expect("a number");
    let taken: u128 = said.split_once(']').unwrap().0.parse().unwrap();
    assert!(taken < QUIET.as_micros() / 100, "{taken} µs");
}

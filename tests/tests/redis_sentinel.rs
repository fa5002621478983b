//! Redis behind Sentinels: they say where the master is, at each connect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::collections::BTreeSet;
use std::time::Duration;

use kombu::{
    Connection, Credentials, Deadlines, Error, ErrorKind, Event, Exchange, Queue, RetryPolicy,
};
use kombu_testkit::brokers::{Redis, Sentinel};
use kombu_testkit::expect::collect_one;
use kombu_tests::RedisAdmin;
use tokio::time::timeout;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder(url: impl Into<String>) -> kombu::ConnectionBuilder {
    let retry = RetryPolicy::default().longest_pause(Duration::from_millis(200));
    Connection::builder(kombu::registry()).url(url).retry(retry)
}

async fn refused(url: impl Into<String>) -> Error {
    let mut deadlines = Deadlines::default();
    deadlines.connect = Duration::from_secs(3);
    builder(url).deadlines(deadlines).await.unwrap_err()
}

/// Waits until a line of `INFO` is there, and answers the rest of it.
async fn info(admin: &RedisAdmin, section: &str, line: &str) -> String {
    let looking = async {
        loop {
            let text = admin.text(["INFO", section]);
            let found = text.lines().find_map(|one| one.split_once(line));
            if let Some((_, rest)) = found {
                return rest.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("the line")
}

/// Nobody answers there.
const NOBODY: &str = "127.0.0.1:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn after_a_failover_everything_goes_on_at_the_new_master() {
    const BEFORE: u64 = 500;
    let mut master = Redis::start().unwrap();
    let replica = Redis::builder()
        .config(&format!("replicaof 127.0.0.1 {}", master.port()))
        .start()
        .unwrap();
    info(&RedisAdmin::of(&master), "replication", "state=online").await;
    let sentinel = Sentinel::of("main", master.port()).start().unwrap();
    info(&RedisAdmin::at(sentinel.address()), "sentinel", "slaves=1,").await;

    let url = format!("redis+sentinel://{NOBODY},{}/main?db=2", sentinel.address());
    let connection = builder(url).await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(10)
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for number in 0..BEFORE {
        producer.publish(&number).await.unwrap();
    }
    let held = collect_one(&mut consumer).await;
    let offset = info(
        &RedisAdmin::of(&master),
        "replication",
        "master_repl_offset:",
    )
    .await;
    let offset: u64 = offset.trim().parse().unwrap();
    loop {
        let now = info(
            &RedisAdmin::of(&replica),
            "replication",
            "slave_repl_offset:",
        )
        .await;
        if now.trim().parse::<u64>().unwrap() >= offset {
            break;
        }
    }

    tokio::task::block_in_place(|| master.kill().unwrap());
    let restored =
        async { while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {} };
    timeout(PATIENCE, restored).await.expect("a new master");
    drop(held);
    for number in BEFORE..BEFORE + 10 {
        producer.publish(&number).await.unwrap();
    }
    let mut missing: BTreeSet<u64> = (0..BEFORE + 10).collect();
    while !missing.is_empty() {
        let delivery = timeout(PATIENCE, collect_one(&mut consumer)).await;
        let delivery = delivery.unwrap_or_else(|_| panic!("{missing:?} are missing"));
        missing.remove(&delivery.decode::<u64>().unwrap());
        delivery.ack().confirmed().await.unwrap();
    }
    info(&RedisAdmin::of(&replica), "replication", "role:master").await;
    connection.close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn sentinels_and_the_master_have_passwords_of_their_own() {
    let master = Redis::builder().password("for-the-master").start().unwrap();
    let sentinel = Sentinel::of("main", master.port())
        .config("sentinel auth-pass main for-the-master")
        .config("requirepass for-all")
        .config("user asker on >for-sentinels ~* +@all")
        .start()
        .unwrap();
    let at = |user: &str, options: &str| {
        format!(
            "redis+sentinel://{user}{}/main?{options}",
            sentinel.address()
        )
    };
    for options in [
        "sentinel_password=for-all",
        "sentinel_username=asker&sentinel_password=for-sentinels",
    ] {
        let connection = builder(at(":for-the-master@", options)).await.unwrap();
        connection.close().await.unwrap();
    }
    // A provider's are the master's, too.
    let connection = builder(at("", "sentinel_password=for-all"))
        .credentials(|| async { Ok(Credentials::new("default", "for-the-master")) })
        .await
        .unwrap();
    connection.close().await.unwrap();
    for (user, options) in [
        (":for-the-master@", ""),
        (":for-the-master@", "sentinel_password=wrong-secret"),
        (":wrong-secret@", "sentinel_password=for-all"),
        ("", "sentinel_password=for-all"),
    ] {
        let error = refused(at(user, options)).await;
        let shown = format!("{error} {error:?}");
        assert_eq!(error.kind(), ErrorKind::Credentials, "{shown}");
        assert!(!shown.contains("wrong-secret"), "{shown}");
        assert!(!shown.contains("for-all"), "{shown}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_master_that_no_sentinel_knows_is_refused_and_sentinels_that_are_away_are_waited_for() {
    let master = Redis::start().unwrap();
    let sentinel = Sentinel::of("main", master.port()).start().unwrap();
    let url = format!("redis+sentinel://{}/mani", sentinel.address());
    let error = refused(url).await;
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("`mani`"), "{error}");
    assert!(error.to_string().contains(&sentinel.address()), "{error}");

    let error = refused(format!("redis+sentinel://{NOBODY}/main")).await;
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains(NOBODY), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_sentinel_that_hangs_is_passed_over() {
    let master = Redis::start().unwrap();
    let hanging = Sentinel::of("main", master.port()).start().unwrap();
    let sentinel = Sentinel::of("main", master.port()).start().unwrap();
    hanging.pause().unwrap();
    let (first, second) = (hanging.address(), sentinel.address());
    let connection = builder(format!("redis+sentinel://{first},{second}/main"));
    connection.await.unwrap().close().await.unwrap();
    hanging.resume().unwrap();
}

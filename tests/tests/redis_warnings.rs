//! What is said of a Redis at connect. This test is alone in its program: whether an event is written down is remembered for
//! all threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use kombu_testkit::brokers::Redis;
use kombu_tests::{Captured, RedisAdmin};

const EVICTION: &str = "noeviction";
const NO_LOG: &str = "append-only";
const NOTHING: &str = "stores nothing";

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_redis_may_lose_and_what_its_user_may_not_is_said() {
    for (line, said) in [
        ("save 3600 1", &[NO_LOG][..]),
        ("save 3600 1 300 100", &[NO_LOG]),
        // Redis of tests makes no snapshots unless it is told to.
        ("save \"\"", &[NOTHING]),
        ("maxmemory-policy noeviction", &[NOTHING]),
        // Answers that nobody has come for expire.
        ("maxmemory-policy volatile-lru", &[NOTHING, EVICTION]),
        ("maxmemory-policy allkeys-lru", &[NOTHING, EVICTION]),
        ("maxmemory-policy allkeys-random", &[NOTHING, EVICTION]),
        ("appendonly yes", &[]),
    ] {
        let redis = Redis::builder().config(line).start().unwrap();
        let text = written_by(&redis.url()).await;
        for part in [NO_LOG, NOTHING, EVICTION] {
            assert_eq!(text.contains(part), said.contains(&part), "{line}: {text}");
        }
    }
    for (rights, is_warned_of) in [
        ("", false),
        ("-client|tracking", true),
        ("-client|caching", true),
    ] {
        let line = format!("user alice on >a-secret ~* &* +@all {rights}");
        let redis = Redis::builder().config(&line).start().unwrap();
        let text = written_by(&format!("redis://alice:a-secret@{}", redis.address())).await;
        assert_eq!(
            text.contains("`CLIENT TRACKING`"),
            is_warned_of,
            "{rights}: {text}"
        );
        assert!(!text.contains("a-secret"), "{text}");
    }
    // Who may not ask for it is told what is known anyhow, and leaves no trace of having tried.
    let redis = Redis::builder()
        .config("user alice on >a-secret ~* &* +@all -config")
        .config("user bob on >a-secret ~* &* +@all -config|get")
        .start()
        .unwrap();
    for user in ["alice", "bob"] {
        let text = written_by(&format!("redis://{user}:a-secret@{}", redis.address())).await;
        assert!(text.contains(NO_LOG) && !text.contains(NOTHING), "{text}");
    }
    assert_eq!(RedisAdmin::of(&redis).ask(["ACL", "LOG"]), "*0");
}

/// The events of a connect.
async fn written_by(url: &str) -> String {
    let captured = Captured::default();
    let guard = tracing::subscriber::set_default(captured.clone());
    let connection = kombu::connect(url).await.unwrap();
    connection.close().await.unwrap();
    drop(guard);
    captured.text()
}

//! What is said of a Redis at connect. This test is alone in its program: whether an event is written down is remembered for
//! all threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use kombu_testkit::brokers::Redis;
use kombu_tests::Captured;

const EVICTION: &str = "noeviction";
const NO_LOG: &str = "append-only";

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_redis_may_lose_and_what_its_user_may_not_is_said() {
    for (line, said) in [
        ("maxmemory-policy noeviction", &[NO_LOG][..]),
        // Answers that nobody has come for expire.
        ("maxmemory-policy volatile-lru", &[NO_LOG, EVICTION]),
        ("maxmemory-policy allkeys-lru", &[NO_LOG, EVICTION]),
        ("maxmemory-policy allkeys-random", &[NO_LOG, EVICTION]),
        ("appendonly yes", &[]),
    ] {
        let redis = Redis::builder().config(line).start().unwrap();
        let text = written_by(&redis.url()).await;
        for part in [NO_LOG, EVICTION] {
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

//! What a Redis is warned of at connect. This test is alone in its program: whether an event is written down is remembered for
//! all threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use kombu_testkit::brokers::Redis;
use kombu_tests::Captured;

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_redis_does_or_lacks_is_warned_of() {
    for (policy, is_warned_of) in [
        ("noeviction", false),
        // None of our keys expires.
        ("volatile-lru", false),
        ("allkeys-lru", true),
        ("allkeys-random", true),
    ] {
        let line = format!("maxmemory-policy {policy}");
        let redis = Redis::builder().config(&line).start().unwrap();
        let text = written_by(&redis.url()).await;
        assert_eq!(
            text.contains("noeviction"),
            is_warned_of,
            "{policy}: {text}"
        );
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

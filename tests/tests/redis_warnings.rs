//! What a Redis is warned of at connect. This test is alone in its program: whether an event is written down is remembered for
//! all threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use kombu_testkit::brokers::Redis;
use kombu_tests::Captured;

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_redis_that_throws_queues_away_is_warned_of() {
    const WARNING: &str = "noeviction";
    for (policy, is_warned_of) in [
        ("noeviction", false),
        // None of our keys expires.
        ("volatile-lru", false),
        ("allkeys-lru", true),
        ("allkeys-random", true),
    ] {
        let line = format!("maxmemory-policy {policy}");
        let redis = Redis::builder().config(&line).start().unwrap();
        let captured = Captured::default();
        let guard = tracing::subscriber::set_default(captured.clone());
        let connection = kombu::connect(&redis.url()).await.unwrap();
        connection.close().await.unwrap();
        drop(guard);
        let text = captured.text();
        assert_eq!(text.contains(WARNING), is_warned_of, "{policy}: {text}");
    }
}

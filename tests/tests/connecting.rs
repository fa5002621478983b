//! The first connection: when it is made, and what happens when it can't be.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kombu::{Connection, ConnectionBuilder, ErrorKind, Faults, RetryPolicy};

fn builder(faults: &Faults) -> ConnectionBuilder {
    Connection::builder(kombu::registry())
        .url("memory://")
        .layer(faults.clone())
}

#[tokio::test]
async fn a_builder_connects_when_it_is_awaited_and_not_before() {
    let faults = Faults::default();
    faults.refuse_connects([ErrorKind::Credentials]);
    drop(builder(&faults));
    let waiting = builder(&faults);
    // The refusal is still there for the first one that connects.
    let error = builder(&faults).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Credentials);
    assert_eq!(error.operation(), Some("connect"));
    waiting.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn connecting_is_tried_again_and_each_failure_is_told_with_the_pause_behind_it() {
    let faults = Faults::default();
    faults.refuse_connects([ErrorKind::ConnectionLost; 4]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let policy = RetryPolicy::default()
        .first_pause(Duration::from_millis(200))
        .longest_pause(Duration::from_millis(800))
        .on_retry(move |error, pause| telling.lock().unwrap().push((error.kind(), pause)));
    let begin = tokio::time::Instant::now();
    let connection = builder(&faults).retry(policy).await.unwrap();
    let elapsed = begin.elapsed();
    assert!(connection.health().connected);
    let told = told.lock().unwrap();
    let longest = [200, 400, 800, 800].map(Duration::from_millis);
    assert_eq!(told.len(), longest.len());
    for ((kind, pause), longest) in told.iter().zip(longest) {
        assert_eq!(*kind, ErrorKind::ConnectionLost);
        assert!(*pause >= longest / 2 && *pause <= longest, "{told:?}");
    }
    let paused: Duration = told.iter().map(|(_, pause)| *pause).sum();
    // A timer rounds up to its next millisecond.
    assert!(
        elapsed >= paused && elapsed <= paused + Duration::from_millis(4),
        "{elapsed:?} {paused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_comes_ends_by_its_deadline_with_the_last_error() {
    let faults = Faults::default();
    faults.refuse_connects([ErrorKind::ConnectionLost; 1000]);
    let begin = tokio::time::Instant::now();
    let error = builder(&faults).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert!(error.to_string().contains("the last attempt"), "{error}");
    assert!(begin.elapsed() <= Duration::from_secs(10));
}

#[tokio::test]
async fn urls_are_tried_in_an_order_of_chance_if_that_is_asked_for() {
    let first = |shuffled: bool| async move {
        let urls = (0..8).map(|number| format!("memory://connecting-{number}"));
        let mut builder = urls.fold(Connection::builder(kombu::registry()), |builder, url| {
            builder.url(url)
        });
        if shuffled {
            builder = builder.shuffle_urls();
        }
        builder.await.unwrap().target().to_string()
    };
    let mut orders = std::collections::HashSet::new();
    for _ in 0..50 {
        assert_eq!(first(false).await, "memory://connecting-0");
        orders.insert(first(true).await);
    }
    // Fewer are seen in one of 10^28 runs.
    assert!(orders.len() > 2, "{orders:?}");
}

#[test]
fn a_url_is_checked_without_a_broker() {
    let registry = kombu::registry();
    for (url, wrong) in [
        ("amqp://h?fram_max=1", "did you mean `frame_max`?"),
        ("amqps://h?cafile=/ca.pem", "did you mean `ca_file`?"),
        ("amqp://h?frame_max=wide", "frame_max"),
        ("redis://h?leese=5", "did you mean `lease`?"),
        ("rediss://h?leese=5", "did you mean `lease`?"),
        ("nats://h?prefxi=shop", "did you mean `prefix`?"),
        ("tls://h?key_flie=/key.pem", "did you mean `key_file`?"),
        ("memory://h?histroy=5", "did you mean `history`?"),
        ("nowhere://h", "no transport for `nowhere://`"),
        ("amqp", "URL"),
    ] {
        let error = registry.check(url).unwrap_err().to_string();
        assert!(error.contains(wrong), "{url}: {error}");
    }
    for url in [
        "amqp://u:p@h/vhost?frame_max=8192",
        "rediss+sentinel://one,two/primary?sentinel_username=me",
        "nats://one,two?prefix=shop",
        "memory://",
    ] {
        registry.check(url).unwrap();
    }
}

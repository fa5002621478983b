//! Users of a Redis: whose passwords change, and who may do less than everything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kombu::{
    Connection, ConnectionBuilder, Credentials, ErrorKind, Event, Events, Exchange, Queue,
    RetryPolicy,
};
use kombu_testkit::brokers::Redis;
use kombu_testkit::expect::collect_one;
use kombu_tests::RedisAdmin;
use tokio::time::timeout;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(url: impl Into<String>) -> ConnectionBuilder {
    let retry = RetryPolicy::default().longest_pause(Duration::from_millis(100));
    Connection::builder(kombu::registry()).url(url).retry(retry)
}

async fn round_trip(connection: &Connection) {
    let queue = Queue::new(format!("round-trip-{}", fastrand::u64(..))).exclusive(true);
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue.name().clone()).await.unwrap();
    producer.publish(&1).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    delivery.ack().confirmed().await.unwrap();
}

async fn restored(events: &mut Events) {
    let restored =
        async { while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {} };
    timeout(PATIENCE, restored).await.expect("a new session");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn credentials_are_asked_for_at_each_attempt_and_rotated_ones_are_found() {
    let redis = Redis::builder()
        .config("user rotating on >first ~* &* +@all")
        .start()
        .unwrap();
    let admin = RedisAdmin::of(&redis);
    let current = Arc::new(Mutex::new("first"));
    let asked = current.clone();
    // Those of the URL don't count.
    let url = format!("redis://rotating:wrong-secret@{}", redis.address());
    let connection = connect(&url)
        .credentials(move || {
            let password = *asked.lock().unwrap();
            async move { Ok(Credentials::new("rotating", password)) }
        })
        .await
        .unwrap();
    let mut events = connection.events();
    for password in ["second", "third"] {
        *current.lock().unwrap() = password;
        let rule = format!(">{password}");
        admin.ask(["ACL", "SETUSER", "rotating", "resetpass", &rule]);
        admin.ask(["CLIENT", "KILL", "USER", "rotating"]);
        restored(&mut events).await;
        round_trip(&connection).await;
    }
    connection.close().await.unwrap();
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("wrong-secret"), "{shown}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_socket_takes_users_too() {
    let redis = Redis::builder()
        .unix_socket()
        .config("user alice on >a-secret ~* &* +@all")
        .config("user default off")
        .start()
        .unwrap();
    let socket = redis.unix_socket().unwrap();
    let socket = socket.display();
    let url = format!("redis+unix://alice:a-secret@localhost{socket}");
    let connection = connect(url).await.unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
    let connection = connect(format!("redis+unix://localhost{socket}?db=3"))
        .credentials(|| async { Ok(Credentials::new("alice", "a-secret")) })
        .await
        .unwrap();
    round_trip(&connection).await;
    connection.close().await.unwrap();
    let error = connect(format!("redis+unix://{socket}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Credentials, "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_database_behind_a_socket_is_named_as_kombu_names_it() {
    let redis = Redis::builder().unix_socket().start().unwrap();
    let socket = redis.unix_socket().unwrap();
    let socket = socket.display();
    let url = format!("redis+socket://{socket}?virtual_host=3");
    let connection = connect(url).await.unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let same = connect(format!("redis+unix://{socket}?db=3"))
        .await
        .unwrap();
    same.queue_info("jobs").await.unwrap();
}

/// Consumers get what comes, and know when their queue is gone, within a second or so.
async fn consuming_works(connection: &Connection) {
    let (one, other) = (Queue::new("one"), Queue::new("other"));
    let mut first = connection.consumer(&one).await.unwrap();
    let mut second = connection.consumer(&other).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for _ in 0..3 {
        for (queue, consumer) in [("one", &mut first), ("other", &mut second)] {
            producer.publish(&1).routing_key(queue).await.unwrap();
            let delivery = timeout(Duration::from_secs(3), collect_one(consumer)).await;
            delivery.expect(queue).ack().confirmed().await.unwrap();
        }
    }
    connection.delete_queue("one").await.unwrap();
    let end = timeout(Duration::from_secs(3), first.try_next()).await;
    let error = end.expect("the end").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConsumerCancelled, "{error}");
    connection.delete_queue("other").await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn without_the_right_to_be_told_of_messages_consumers_look_for_them() {
    for right in ["-client|tracking", "-client|caching"] {
        let redis = Redis::builder()
            .config(&format!("user alice on >a-secret ~* &* +@all {right}"))
            .start()
            .unwrap();
        let url = format!("redis://alice:a-secret@{}", redis.address());
        let connection = connect(url).await.unwrap();
        consuming_works(&connection).await;
        connection.close().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn the_right_to_be_told_of_messages_can_be_taken_away() {
    let redis = Redis::builder()
        .config("user alice on >a-secret ~* &* +@all")
        .start()
        .unwrap();
    let url = format!("redis://alice:a-secret@{}", redis.address());
    let connection = connect(url).await.unwrap();
    let admin = RedisAdmin::of(&redis);
    admin.ask(["ACL", "SETUSER", "alice", "-client|caching"]);
    // The first look is refused, and the next session looks by itself.
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    tokio::select! {
        () = restored(&mut events) => {}
        _ = consumer.try_next() => panic!("there is nothing to be delivered"),
    }
    drop(consumer);
    consuming_works(&connection).await;
    connection.close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_user_who_may_not_speak_at_channels_publishes_to_fanout_exchanges_all_the_same() {
    let redis = Redis::builder()
        .config("user alice on >a-secret ~* resetchannels +@all")
        .start()
        .unwrap();
    let url = format!("redis://alice:a-secret@{}", redis.address());
    let connection = connect(&url).await.unwrap();
    let news = Exchange::fanout("news");
    let queue = Queue::new("inbox").bind(&news, "");
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    for number in 0..10 {
        assert!(producer.publish(&number).await.unwrap().routed);
        let delivery = timeout(PATIENCE, collect_one(&mut consumer)).await.unwrap();
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        delivery.ack().confirmed().await.unwrap();
    }
    connection.close().await.unwrap();

    // Who wants to listen there, too, has to be allowed to.
    let connection = connect(format!("{url}/?fanout=kombu")).await;
    let error = match connection {
        Err(error) => error,
        Ok(connection) => connection.consumer(&queue).await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::AccessRefused, "{error}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_database_that_is_not_there_is_refused_at_once() {
    let redis = Redis::start().unwrap();
    let builder = connect(format!("{}/99", redis.url().trim_end_matches('/')));
    let error = timeout(PATIENCE, builder.into_future()).await;
    let error = error.expect("an answer").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessRefused, "{error}");
    assert!(!error.is_transient());
}

//! What becomes of the sessions with NATS that a program has lost: its next ones end them, and give back what they held.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Connection, Event, Events, Exchange, Queue, RetryPolicy};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::collect;
use kombu_testkit::proxy::Proxy;
use kombu_tests::NatsFilter;

/// Long before anybody else finds out that a session is gone.
const SOON: Duration = Duration::from_secs(10);

async fn publish(connection: &Connection, texts: &[&str]) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for text in texts {
        producer.publish_text(*text).await.unwrap();
    }
}

async fn until(events: &mut Events, is_it: impl Fn(&Event) -> bool) {
    while !is_it(&events.next().await.unwrap()) {}
}

/// It would take them from whoever has them by then.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_lost_sessions_held_is_given_back_once_though_the_next_begin_often() {
    const ENDS: &str = "STREAM.PURGE.KV_kombu_sessions";
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let filter = NatsFilter::start(proxy.address().to_string()).await;
    let near = kombu::connect(nats.url()).await.unwrap();
    near.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&near, &["0", "1", "2", "3"]).await;
    let mut lost = Vec::new();
    for _ in 0..2 {
        let connection = Connection::builder(kombu::registry())
            .url(filter.url())
            .retry(RetryPolicy::default().longest_pause(Duration::from_millis(100)))
            .await
            .unwrap();
        let one = connection.get("jobs").await.unwrap().unwrap();
        let other = connection.get("jobs").await.unwrap().unwrap();
        lost.push((connection.events(), connection, [one, other]));
    }
    filter.refuse(ENDS);
    let before = filter.count(ENDS);
    proxy.cut().await;
    // Each of the two tries twice at least.
    filter.until(ENDS, before + 5).await;
    filter.heal();
    for (events, ..) in &mut lost {
        until(events, |event| matches!(event, Event::Restored { .. })).await;
    }
    let mut consumer = near.consumer(&Queue::new("jobs")).await.unwrap();
    let all = tokio::time::timeout(SOON, collect(&mut consumer, 4)).await;
    all.expect("they come again at once");
    for position in 1..=4 {
        let told = filter.count(&format!(".c0.1.{position}."));
        assert_eq!(told, 1, "the message at {position}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_lost_session_is_not_ended_by_one_of_another_account() {
    let account = |name, user| {
        format!("{name}: {{ jetstream: enabled, users: [ {{ user: {user}, password: p }} ] }}")
    };
    let config = format!(
        "accounts {{ {}, {} }}",
        account("A", "a"),
        account("B", "b")
    );
    let nats = Nats::builder().config(&config).start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let url = |user| format!("nats://{user}:p@{}", proxy.address());
    let connection = Connection::builder(kombu::registry())
        .url(url("a"))
        .retry(RetryPolicy::default().max_attempts(1))
        .await
        .unwrap();
    let mine = Queue::new("mine").exclusive(true);
    for queue in [&mine, &Queue::new("jobs")] {
        connection.declare_queue(queue).await.unwrap();
    }
    publish(&connection, &["0"]).await;
    let _held = connection.get("jobs").await.unwrap().unwrap();
    let mut events = connection.events();
    proxy.refuse().await;
    proxy.cut().await;
    until(&mut events, |event| matches!(event, Event::GivenUp { .. })).await;
    proxy.heal().await.unwrap();
    let other = kombu::connect(url("b")).await.unwrap();
    let next = kombu::connect(url("a")).await.unwrap();
    next.declare_queue(&mine).await.unwrap();
    let again = async {
        loop {
            if let Some(delivery) = next.get("jobs").await.unwrap() {
                return delivery;
            }
        }
    };
    let again = tokio::time::timeout(SOON, again).await;
    assert_eq!(again.expect("it goes back at once").body(), "0");
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_connect_that_is_given_up_leaves_no_connection() {
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let filter = NatsFilter::start(proxy.address().to_string()).await;
    filter.mute("$JS.API");
    let url = filter.url();
    let connecting = tokio::spawn(async move { kombu::connect(&url).await.map(drop) });
    filter.until("$JS.API", 1).await;
    assert_eq!(proxy.counts().open, 1);
    connecting.abort();
    let closed = proxy.until(|counts| counts.open == 0);
    let closed = tokio::time::timeout(SOON, closed).await;
    closed.expect("its connection is closed");
}

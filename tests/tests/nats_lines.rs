//! What a consumer on NATS gets over a line that is slow or stands still, and of whom it takes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use kombu::{Connection, DeclareMode, Event, Exchange, FieldValue, Producer, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{collect, texts};
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_tests::{NatsFilter, NatsLine};
use url::Url;

/// Longer than a pull may be silent.
const LATE: Duration = Duration::from_millis(2600);

async fn connect(address: impl std::fmt::Display) -> Connection {
    kombu::connect(format!("nats://{address}")).await.unwrap()
}

async fn producer_to(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue).await.unwrap()
}

/// A queue whose messages die when they come back a single time.
async fn declare_frail(connection: &Connection) {
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let frail = Queue::new("jobs").max_deliveries(1);
    let frail = frail
        .dead_letter_exchange("")
        .dead_letter_routing_key("dead");
    connection.declare_queue(&frail).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_comes_later_than_it_was_waited_for_is_handed_out() {
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let near = connect(nats.address()).await;
    let far = connect(proxy.address()).await;
    declare_frail(&near).await;
    let producer = producer_to(&near, "jobs").await;
    for number in 0..20 {
        producer.publish_text(number.to_string()).await.unwrap();
    }
    let consumer = far.consumer(&Queue::new("jobs"));
    let consumer = consumer.declare(DeclareMode::Never).prefetch(8);
    let mut consumer = consumer.await.unwrap();
    let first = collect(&mut consumer, 8).await;
    proxy.delay(Direction::ToClient, LATE);
    for delivery in first {
        delivery.ack().await.unwrap();
    }
    let next = tokio::time::timeout(4 * LATE, collect(&mut consumer, 8));
    let next = next.await.expect("it comes");
    let expected: Vec<_> = (8..16).map(|number| number.to_string()).collect();
    assert_eq!(texts(&next), expected);
    assert!(next.iter().all(|delivery| !delivery.redelivered()));
    assert_eq!(near.queue_info("dead").await.unwrap().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn large_messages_come_over_a_slow_line_without_an_end() {
    const COUNT: usize = 20;
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let near = connect(nats.address()).await;
    let far = connect(proxy.address()).await;
    declare_frail(&near).await;
    let producer = producer_to(&near, "jobs").await;
    for _ in 0..COUNT {
        producer.publish_bytes(vec![0; 500_000]).await.unwrap();
    }
    let mut events = far.events();
    proxy.throttle(Direction::ToClient, 2_000_000);
    let consumer = far.consumer(&Queue::new("jobs"));
    let mut consumer = consumer.declare(DeclareMode::Never).await.unwrap();
    for _ in 0..COUNT {
        let next = tokio::time::timeout(4 * LATE, consumer.try_next()).await;
        let delivery = next.expect("it comes").unwrap().unwrap();
        assert!(!delivery.redelivered());
        delivery.ack().await.unwrap();
    }
    far.close().await.unwrap();
    while let Some(event) = events.next().await {
        let was_wrong = matches!(event, Event::Lost { .. } | Event::Repaired { .. });
        assert!(!was_wrong, "{event:?}");
    }
    assert_eq!(near.queue_info("dead").await.unwrap().ready, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_message_goes_to_one_of_those_that_wait_and_its_body_to_no_other() {
    const BODY: usize = 500_000;
    let nats = Nats::start().unwrap();
    let proxy = Proxy::start(nats.address()).await.unwrap();
    let filter = NatsFilter::start(proxy.address().to_string()).await;
    let near = connect(nats.address()).await;
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let far = kombu::connect(filter.url()).await.unwrap();
        let mut consumer = far.consumer(&Queue::new("jobs")).await.unwrap();
        waiting.push(tokio::spawn(async move {
            let delivery = consumer.try_next().await.unwrap().unwrap();
            delivery.ack().confirmed().await.unwrap();
            // It waits for nothing more.
            std::future::pending::<()>().await;
            drop((far, consumer));
        }));
    }
    // They have seen that nothing is there, before they listened and afterwards.
    filter.until("CONSUMER.MSG.NEXT.kombu-q-jobs-", 12).await;
    let before = proxy.counts().to_client;
    let producer = producer_to(&near, "jobs").await;
    producer.publish_bytes(vec![0; BODY]).await.unwrap();
    let poll = async {
        while near.queue_info("jobs").await.unwrap().unsettled != Some(0)
            || near.queue_info("jobs").await.unwrap().ready > 0
        {}
    };
    tokio::time::timeout(4 * LATE, poll)
        .await
        .expect("it is taken");
    let bytes = proxy.counts().to_client - before;
    assert!(bytes < 2 * BODY as u64, "{bytes} bytes");
}

/// Nobody but the server listens where messages are published to, so that it says at once that the stream is gone.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn a_publish_to_a_stream_that_vanished_under_a_waiting_consumer_costs_no_session() {
    let nats = Nats::start().unwrap();
    let connection = connect(nats.address()).await;
    let other = connect(nats.address()).await;
    let mut consumer = other.consumer(&Queue::new("jobs")).await.unwrap();
    let mut events = [connection.events(), other.events()];
    let producer = producer_to(&connection, "jobs").await;
    // It waits for the next one.
    producer.publish_text("0").await.unwrap();
    let delivery = collect(&mut consumer, 1).await.remove(0);
    delivery.ack().confirmed().await.unwrap();
    let next = tokio::spawn(async move { texts(&collect(&mut consumer, 1).await) });
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let subject = r#"{"subject":"kombu.q.jobs.*"}"#;
    let names = line.request("$JS.API.STREAM.NAMES", subject);
    let name = names["streams"][0].as_str().unwrap();
    line.request(&format!("$JS.API.STREAM.DELETE.{name}"), "");
    producer.publish_text("1").await.unwrap();
    let next = tokio::time::timeout(4 * LATE, next).await;
    assert_eq!(next.expect("it comes").unwrap(), ["1"]);
    connection.close().await.unwrap();
    other.close().await.unwrap();
    for events in &mut events {
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
        }
    }
}

/// A plain client at a server.
fn plain(nats: &Nats) -> TcpStream {
    let mut plain = TcpStream::connect(nats.address()).unwrap();
    plain
        .write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\n")
        .unwrap();
    plain
}

/// Publishes to the queue `jobs` with this header.
fn publish_plain(plain: &mut TcpStream, header: &[u8], body: &str) {
    let headers = [b"NATS/1.0\r\n", header, b"\r\nlast: one\r\n\r\n"].concat();
    let (length, all) = (headers.len(), headers.len() + body.len());
    let mut text = format!("HPUB kombu.q.jobs.0 {length} {all}\r\n").into_bytes();
    text.extend(headers);
    text.extend(format!("{body}\r\n").bytes());
    plain.write_all(&text).unwrap();
}

/// The client of NATS takes such headers for a broken line, or doesn't survive them.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn messages_whose_headers_the_client_cannot_read_are_read_after_two_sessions() {
    let nats = Nats::start().unwrap();
    let connection = connect(nats.address()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut events = connection.events();
    let mut plain = plain(&nats);
    let all: [[(&[u8], Option<&str>); 2]; 3] = [
        [(b"Name: Ren\xe9", Some("Ren\u{fffd}")), (b"no colon", None)],
        [(b"Pr\xc3\xa9nom: x", None), (b"two words: x", None)],
        [
            (b"Name: a\rb", Some("a b")),
            (b"Name: \xe9\rb", Some("\u{fffd} b")),
        ],
    ];
    for both in all {
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            for delivery in collect(&mut consumer, 2).await {
                let text = |name| delivery.headers().get(name).cloned();
                read.push((delivery.body().clone(), text("Name"), text("last")));
                delivery.ack().confirmed().await.unwrap();
            }
            (consumer, read)
        });
        for (index, (header, _)) in both.iter().enumerate() {
            publish_plain(&mut plain, header, &index.to_string());
            while !matches!(events.next().await.unwrap(), Event::Lost { .. }) {}
        }
        let reading = tokio::time::timeout(6 * LATE, reading).await;
        let read;
        (consumer, read) = reading.expect("they come").unwrap();
        let last = Some(FieldValue::from("one"));
        let expected = both
            .iter()
            .zip(["0", "1"])
            .map(|((_, name), body)| (body.into(), name.map(FieldValue::from), last.clone()));
        assert_eq!(read, expected.collect::<Vec<_>>());
    }
    // Nothing is left of what can't be read.
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(0)));
}

/// Each of many programs would meet it once in a while, and none of them twice in a row.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn of_the_two_sessions_that_a_message_ends_one_may_be_another_programs() {
    let nats = Nats::start().unwrap();
    let connection = connect(nats.address()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut line = NatsLine::open(&Url::parse(&nats.url()).unwrap());
    let subject = r#"{"subject":"kombu.q.jobs.*"}"#;
    let names = line.request("$JS.API.STREAM.NAMES", subject);
    let name = names["streams"][0].as_str().unwrap();
    let noted = line.request(&format!("$KV.kombu_sessions.l.{name}"), "lost");
    assert!(noted["seq"].is_u64(), "{noted}");
    publish_plain(&mut plain(&nats), b"no colon", "0");
    let next = tokio::time::timeout(4 * LATE, collect(&mut consumer, 1)).await;
    assert_eq!(texts(&next.expect("it comes")), ["0"]);
}

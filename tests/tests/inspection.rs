//! What a test sees of a broker on `memory://` that its program doesn't.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::driver::Destination;
use kombu::memory::{self, Inspector, StoredMessage};
use kombu::serializers::{BoxError, Codec, Visit};
use kombu::{Connection, ErrorKind, Exchange, Queue};
use kombu_testkit::expect::{collect, collect_one, info, texts};
use serde::de::IntoDeserializer;
use serde::de::value::StrDeserializer;
use tokio::time::Instant;

async fn fresh() -> (Connection, Inspector) {
    let connection = kombu::connect("memory://").await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    (connection, broker)
}

async fn publish(connection: &Connection, queue: &str, texts: &[&'static str]) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for text in texts {
        let publish = producer.publish_bytes(*text).routing_key(queue);
        publish.await.unwrap();
    }
}

fn bodies(messages: &[StoredMessage]) -> Vec<String> {
    texts(messages)
}

#[tokio::test]
async fn ready_messages_are_seen_in_order_and_stay() {
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", &["one", "two", "three"]).await;
    for _ in 0..2 {
        let jobs = broker.queue("jobs").unwrap();
        assert_eq!(bodies(&jobs.ready), ["one", "two", "three"]);
        assert!(jobs.unsettled.is_empty() && jobs.delayed.is_empty());
    }
    assert_eq!(info(&connection, "jobs").await.ready, 3);
    let first = connection.get("jobs").await.unwrap().unwrap();
    assert_eq!(first.body(), "one");
    assert!(!first.redelivered());
    first.ack().await.unwrap();
}

#[tokio::test]
async fn messages_with_priority_are_seen_as_they_would_be_served() {
    let (connection, broker) = fresh().await;
    let jobs = Queue::new("jobs").max_priority(9);
    connection.declare_queue(&jobs).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    for (text, priority) in [("low", 1), ("high", 9), ("middle", 5), ("high too", 9)] {
        let publish = producer.publish_bytes(text).routing_key("jobs");
        publish.priority(priority).await.unwrap();
    }
    let jobs = broker.queue("jobs").unwrap();
    assert_eq!(bodies(&jobs.ready), ["high", "high too", "middle", "low"]);
}

#[tokio::test]
async fn what_consumers_hold_is_seen_as_unsettled_whether_received_or_only_fetched() {
    let (connection, broker) = fresh().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(3)
        .await
        .unwrap();
    publish(&connection, "jobs", &["one", "two", "three", "four"]).await;
    let first = collect_one(&mut consumer).await;
    let jobs = broker.queue("jobs").unwrap();
    assert_eq!(bodies(&jobs.unsettled), ["one", "two", "three"]);
    assert_eq!(bodies(&jobs.ready), ["four"]);
    assert_eq!(jobs.consumers, 1);
    first.retry().await.unwrap();
    drop(consumer);
    let jobs = broker.queue("jobs").unwrap();
    assert_eq!(bodies(&jobs.ready), ["one", "two", "three", "four"]);
    assert_eq!((jobs.ready[0].failures(), jobs.ready[1].failures()), (1, 0));
    assert!(jobs.ready[1].redelivered() && !jobs.ready[3].redelivered());
    assert_eq!((jobs.unsettled.len(), jobs.consumers), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_are_seen_with_the_instant_at_which_they_are_due() {
    let (connection, broker) = fresh().await;
    let jobs = Queue::new("jobs").message_ttl(Duration::from_secs(60));
    connection.declare_queue(&jobs).await.unwrap();
    publish(&connection, "jobs", &["retried", "there"]).await;
    let start = Instant::now();
    let retried = connection.get("jobs").await.unwrap().unwrap();
    retried.retry_after(Duration::from_secs(30)).await.unwrap();
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let delayed = producer.publish_bytes("delayed").routing_key("jobs");
    delayed.delay(Duration::from_secs(20)).await.unwrap();

    let jobs = broker.queue("jobs").unwrap();
    assert_eq!(bodies(&jobs.ready), ["there"]);
    assert_eq!(jobs.ready[0].due(), None);
    assert_eq!(
        jobs.ready[0].expires(),
        Some(start + Duration::from_secs(60))
    );
    assert_eq!(bodies(&jobs.delayed), ["delayed", "retried"]);
    let due: Vec<_> = jobs.delayed.iter().map(|message| message.due()).collect();
    let seconds = |seconds| Some(start + Duration::from_secs(seconds));
    assert_eq!(due, [seconds(20), seconds(30)]);
    assert_eq!(jobs.delayed[1].failures(), 1);

    tokio::time::advance(Duration::from_secs(30)).await;
    let jobs = broker.queue("jobs").unwrap();
    assert_eq!(bodies(&jobs.ready), ["retried", "there", "delayed"]);
    assert_eq!(jobs.ready[2].expires(), seconds(80));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(bodies(&broker.queue("jobs").unwrap().ready), ["delayed"]);
}

#[tokio::test]
async fn messages_are_decoded_with_what_their_connection_has_registered() {
    /// Whatever it is given comes to the same.
    fn decode<'de>(_: &'de [u8], visit: &mut Visit<'_, 'de>) -> Result<(), BoxError> {
        let same: StrDeserializer<'_, serde::de::value::Error> = "same".into_deserializer();
        Ok(visit.value(same)?)
    }
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let codec = Codec::builder("same", "application/x-same", "utf-8").decoder(decode);
    connection.serializers().register(codec.build().unwrap());
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let json = producer.publish(&("a", 7)).routing_key("jobs");
    json.await.unwrap();
    let other = producer
        .publish_bytes("?")
        .content_type("application/x-same");
    other.routing_key("jobs").await.unwrap();

    let jobs = broker.queue("jobs").unwrap();
    assert_eq!(jobs.ready[0].decode::<(&str, u32)>().unwrap(), ("a", 7));
    let error = jobs.ready[0].decode::<u32>().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Undecodable);
    assert_eq!(jobs.ready[1].decode::<String>().unwrap(), "same");
}

#[tokio::test]
async fn declarations_are_seen_in_order_of_name() {
    let (connection, broker) = fresh().await;
    let media = Exchange::topic("media");
    let all = Exchange::fanout("all").bind(&media, "#");
    let videos = Queue::new("videos")
        .max_length(10)
        .bind(&media, "video.#")
        .bind(&all, "");
    connection.declare_exchange(&all).await.unwrap();
    connection.declare_queue(&videos).await.unwrap();
    connection
        .declare_queue(&Queue::new("audio"))
        .await
        .unwrap();

    let queues = broker.queues();
    let names: Vec<_> = queues.iter().map(|queue| queue.name().as_str()).collect();
    assert_eq!(names, ["audio", "videos"]);
    assert_eq!(queues[1].get_max_length(), Some(10));
    assert_eq!(broker.queue("videos").unwrap().declaration, queues[1]);
    let exchanges = broker.exchanges();
    let names: Vec<_> = exchanges
        .iter()
        .map(|found| found.name().as_str())
        .collect();
    assert_eq!(names, ["all", "media"]);
    let bindings = broker.bindings().into_iter().map(|binding| {
        let key = binding.routing_key.to_string();
        (binding.source.to_string(), key, binding.destination)
    });
    let videos = Destination::Queue("videos".into());
    assert_eq!(
        bindings.collect::<Vec<_>>(),
        [
            ("all".into(), String::new(), videos.clone()),
            (
                "media".into(),
                "#".into(),
                Destination::Exchange("all".into())
            ),
            ("media".into(), "video.#".into(), videos),
        ]
    );
}

#[tokio::test]
async fn a_broker_is_found_by_name_by_url_and_by_connection_and_by_virtual_host() {
    let _removed = Removed("inspected");
    let main = kombu::connect("memory://inspected").await.unwrap();
    let tests = kombu::connect("memory://inspected/tests?max_message_size=100");
    let tests = tests.await.unwrap();
    main.declare_queue(&Queue::new("main")).await.unwrap();
    tests.declare_queue(&Queue::new("tests")).await.unwrap();
    let names = |broker: Inspector| {
        let queues = broker.queues().into_iter();
        queues
            .map(|queue| queue.name().to_string())
            .collect::<Vec<_>>()
    };
    for place in [
        "inspected",
        "memory://inspected",
        "memory://inspected?like=nats",
    ] {
        assert_eq!(names(memory::inspect(place).unwrap()), ["main"], "{place}");
    }
    assert_eq!(names(memory::inspect(&main).unwrap()), ["main"]);
    for place in ["inspected/tests", "memory://inspected/tests"] {
        assert_eq!(names(memory::inspect(place).unwrap()), ["tests"], "{place}");
    }
    assert_eq!(names(memory::inspect(&tests).unwrap()), ["tests"]);
}

#[tokio::test]
async fn fresh_brokers_are_told_apart_and_stay_while_they_are_inspected() {
    let (first, seen) = fresh().await;
    let other = kombu::connect("memory://?history=10").await.unwrap();
    first.declare_queue(&Queue::new("first")).await.unwrap();
    assert_eq!(memory::inspect(&first).unwrap().queues().len(), 1);
    assert_eq!(memory::inspect(&other).unwrap().queues().len(), 0);
    publish(&first, "first", &["kept"]).await;
    first.close().await.unwrap();
    drop(first);
    assert_eq!(bodies(&seen.queue("first").unwrap().ready), ["kept"]);
}

#[tokio::test]
async fn looking_makes_no_broker() {
    for place in ["nobody", "memory://nobody/tests", "memory://"] {
        let error = memory::inspect(place).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{place}");
    }
    let error = memory::inspect("memory://").unwrap_err();
    assert!(
        error.to_string().contains("inspect the connection"),
        "{error}"
    );
    assert!(!memory::remove("nobody"));
}

#[tokio::test]
async fn what_is_no_memory_broker_is_refused() {
    let awkward = kombu::Registry::new().with(kombu_testkit::awkward::Awkward::default());
    let connection = Connection::builder(awkward).url("awkward://other");
    let connection = connection.await.unwrap();
    for error in [
        memory::inspect(&connection).unwrap_err(),
        memory::inspect("amqp://user:secret@localhost").unwrap_err(),
        memory::inspect("memory://a b").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_queue_that_is_not_there_is_an_error() {
    let (connection, broker) = fresh().await;
    let error = broker.queue("jobs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("`jobs`"), "{error}");
    drop(connection);
}

/// Looking isn't using.
#[tokio::test(start_paused = true)]
async fn a_queue_that_is_only_looked_at_expires() {
    let (connection, broker) = fresh().await;
    let jobs = Queue::new("jobs").expires(Duration::from_secs(60));
    connection.declare_queue(&jobs).await.unwrap();
    for _ in 0..59 {
        tokio::time::advance(Duration::from_secs(1)).await;
        broker.queue("jobs").unwrap();
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(broker.queue("jobs").is_err());
    assert!(broker.queues().is_empty());
}

#[tokio::test]
async fn an_inspector_prints_what_the_queues_have() {
    let (connection, broker) = fresh().await;
    connection.declare_queue(&Queue::new("idle")).await.unwrap();
    let consumer = connection.consumer(&Queue::new("jobs")).prefetch(2);
    let mut consumer = consumer.await.unwrap();
    publish(&connection, "jobs", &["one", "two", "secret"]).await;
    let taken = collect(&mut consumer, 1).await;
    let printed = format!("{broker:?}");
    assert!(
        printed.contains(r#""jobs": "1 ready, 2 unsettled, 0 delayed""#),
        "{printed}"
    );
    assert!(!printed.contains("secret"), "{printed}");
    let jobs = broker.queue("jobs").unwrap();
    assert!(!format!("{jobs:?}").contains("secret"));
    drop(taken);
}

/// Forgets a broker when the test is over.
struct Removed(&'static str);

impl Drop for Removed {
    fn drop(&mut self) {
        memory::remove(self.0);
    }
}

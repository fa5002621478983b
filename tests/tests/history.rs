//! What a broker on `memory://` records of published and dead messages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::memory::{self, Death, DeathRecord, History, Inspector};
use kombu::{Connection, ErrorKind, Event, Exchange, Faults, Overflow, Queue};
use kombu_testkit::expect::{drain, texts};
use tokio::time::Instant;

async fn recorded() -> (Connection, Inspector) {
    let connection = kombu::connect("memory://?history=1000").await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    (connection, broker)
}

async fn publish(connection: &Connection, queue: &str, text: &'static str) {
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let publish = producer.publish_bytes(text).routing_key(queue);
    publish.await.unwrap();
}

async fn reject_one(connection: &Connection, queue: &str) {
    let delivery = connection.get(queue).await.unwrap().unwrap();
    delivery.reject().await.unwrap();
}

/// Exchange, routing key and body of what was published, and the queues that have it.
fn published(history: &History) -> Vec<(&str, &str, String, Vec<&str>)> {
    let records = history.published.iter();
    let row = records.map(|record| {
        let queues = record.queues().iter().map(|queue| queue.as_str());
        (
            record.exchange().as_str(),
            record.routing_key().as_str(),
            String::from_utf8(record.body().to_vec()).unwrap(),
            queues.collect(),
        )
    });
    row.collect()
}

/// Body, queue and reason of what died, and where it was moved.
fn deaths(history: &History) -> Vec<(String, &str, Death, Vec<&str>)> {
    let row = |death: &'_ DeathRecord| String::from_utf8(death.body().to_vec()).unwrap();
    let records = history.deaths.iter();
    let rows = records.map(|death| {
        let moved_to = death.moved_to().iter().map(|queue| queue.as_str());
        (
            row(death),
            death.queue().as_str(),
            death.reason(),
            moved_to.collect(),
        )
    });
    rows.collect()
}

#[tokio::test]
async fn publishes_are_recorded_with_the_queues_that_they_reached() {
    let (connection, broker) = recorded().await;
    let news = Exchange::topic("news");
    for (name, pattern) in [("all", "#"), ("sport", "sport.*")] {
        let queue = Queue::new(name).bind(&news, pattern);
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    for (key, text) in [("sport.chess", "mate"), ("weather", "rain")] {
        let publish = producer.publish_bytes(text).routing_key(key);
        publish.await.unwrap();
    }
    publish(&connection, "sport", "by name").await;
    assert_eq!(
        published(&broker.history().unwrap()),
        [
            ("news", "sport.chess", "mate".into(), vec!["all", "sport"]),
            ("news", "weather", "rain".into(), vec!["all"]),
            ("", "sport", "by name".into(), vec!["sport"]),
        ]
    );
    drop(drain(&connection, "all").await);
    let history = broker.history().unwrap();
    assert_eq!(history.published.len(), 3, "consuming changes nothing");
    assert!(history.deaths.is_empty());
}

#[tokio::test]
async fn what_reaches_nobody_is_recorded_too() {
    let (connection, broker) = recorded().await;
    let events = connection.producer(Exchange::fanout("events"));
    let events = events.await.unwrap();
    events.publish_bytes("to nobody").await.unwrap();
    let must = events.publish_bytes("to somebody").mandatory();
    assert_eq!(must.await.unwrap_err().kind(), ErrorKind::Unroutable);
    let direct = connection.producer(Exchange::default()).await.unwrap();
    let missing = direct.publish_bytes("missing").routing_key("missing");
    assert_eq!(missing.await.unwrap_err().kind(), ErrorKind::Unroutable);
    assert_eq!(
        published(&broker.history().unwrap()),
        [
            ("events", "", "to nobody".into(), vec![]),
            ("events", "", "to somebody".into(), vec![]),
            ("", "missing", "missing".into(), vec![]),
        ]
    );
}

#[tokio::test]
async fn what_the_broker_refuses_is_not_recorded() {
    let (connection, broker) = recorded().await;
    let news = Exchange::direct("news");
    let producer = connection.producer(&news).await.unwrap();
    connection.delete_exchange("news").await.unwrap();
    let refused = producer.publish_bytes("too late").routing_key("all").await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(broker.history().unwrap().published.is_empty());
}

#[tokio::test]
async fn a_full_queue_is_not_among_those_that_a_publish_reached() {
    let (connection, broker) = recorded().await;
    let news = Exchange::fanout("news");
    let full = Queue::new("full")
        .max_length(1)
        .overflow(Overflow::RejectPublish)
        .bind(&news, "");
    connection.declare_queue(&full).await.unwrap();
    let all = Queue::new("all").bind(&news, "");
    connection.declare_queue(&all).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    producer.publish_bytes("one").await.unwrap();
    let nacked = producer.publish_bytes("two").await;
    assert_eq!(nacked.unwrap_err().kind(), ErrorKind::Nacked);
    assert_eq!(
        published(&broker.history().unwrap()),
        [
            ("news", "", "one".into(), vec!["all", "full"]),
            ("news", "", "two".into(), vec!["all"]),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn deaths_are_recorded_with_queue_reason_instant_and_where_they_led() {
    let (connection, broker) = recorded().await;
    let second = Duration::from_secs(1);
    let queue = |name: &str| {
        let queue = Queue::new(name).dead_letter_exchange("");
        queue.dead_letter_routing_key("late")
    };
    connection.declare_queue(&Queue::new("late")).await.unwrap();
    for queue in [
        queue("rejected"),
        queue("expired").message_ttl(second),
        queue("short").max_length(1),
        queue("tried").max_deliveries(1),
        queue("nowhere").dead_letter_routing_key("missing"),
    ] {
        connection.declare_queue(&queue).await.unwrap();
    }
    for name in ["rejected", "expired", "short", "tried", "nowhere"] {
        publish(&connection, name, "one").await;
    }
    let start = Instant::now();
    tokio::time::advance(second / 2).await;
    reject_one(&connection, "rejected").await;
    reject_one(&connection, "nowhere").await;
    publish(&connection, "short", "two").await;
    let tried = connection.get("tried").await.unwrap().unwrap();
    tried.retry().await.unwrap();
    tokio::time::advance(second).await;
    assert!(connection.get("expired").await.unwrap().is_none());

    let history = broker.history().unwrap();
    let late = || vec!["late"];
    assert_eq!(
        deaths(&history),
        [
            ("one".into(), "rejected", Death::Rejected, late()),
            ("one".into(), "nowhere", Death::Rejected, vec![]),
            ("one".into(), "short", Death::MaxLength, late()),
            ("one".into(), "tried", Death::DeliveryLimit, late()),
            ("one".into(), "expired", Death::Expired, late()),
        ]
    );
    let at: Vec<_> = history
        .deaths
        .iter()
        .map(|death| death.at() - start)
        .collect();
    let half = second / 2;
    assert_eq!(at, [half, half, half, half, second]);
    // As it was in its queue, and the letter isn't a publish.
    assert_eq!(history.deaths[0].routing_key(), "rejected");
    assert!(history.deaths[0].headers().get("x-death").is_none());
    assert_eq!(history.published.len(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_dies_without_a_dead_letter_exchange_is_recorded_as_discarded() {
    let (connection, broker) = recorded().await;
    let second = Duration::from_secs(1);
    for queue in [
        Queue::new("rejected"),
        Queue::new("expired").message_ttl(second),
        Queue::new("short").max_length(1),
    ] {
        connection.declare_queue(&queue).await.unwrap();
        publish(&connection, queue.name(), "one").await;
    }
    reject_one(&connection, "rejected").await;
    publish(&connection, "short", "two").await;
    let start = Instant::now();
    // Nobody asks the broker for anything meanwhile.
    tokio::time::sleep(2 * second).await;
    let history = broker.history().unwrap();
    assert_eq!(
        deaths(&history),
        [
            ("one".into(), "rejected", Death::Rejected, vec![]),
            ("one".into(), "short", Death::MaxLength, vec![]),
            ("one".into(), "expired", Death::Expired, vec![]),
        ]
    );
    assert_eq!(history.deaths[2].at() - start, second);
}

#[tokio::test]
async fn acks_releases_retries_and_purges_are_no_deaths() {
    let (connection, broker) = recorded().await;
    let jobs = Queue::new("jobs").dead_letter_exchange("");
    let jobs = jobs.dead_letter_routing_key("late");
    connection.declare_queue(&jobs).await.unwrap();
    for text in ["one", "two"] {
        publish(&connection, "jobs", text).await;
    }
    let get = async || connection.get("jobs").await.unwrap().unwrap();
    get().await.release().await.unwrap();
    get().await.retry().await.unwrap();
    get().await.ack().await.unwrap();
    assert_eq!(connection.purge("jobs").await.unwrap(), 1);
    assert!(broker.history().unwrap().deaths.is_empty());
}

#[tokio::test]
async fn nothing_is_recorded_unless_asked_for_and_that_is_no_empty_history() {
    let connection = kombu::connect("memory://").await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "before").await;
    let error = broker.history().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    assert!(error.to_string().contains("`record`"), "{error}");

    broker.record(10);
    publish(&connection, "jobs", "after").await;
    let history = broker.history().unwrap();
    assert_eq!(texts(&history.published), ["after"]);
    broker.record(0);
    publish(&connection, "jobs", "in between").await;
    assert!(broker.history().is_err());
    broker.record(10);
    assert!(broker.history().unwrap().published.is_empty());
}

#[tokio::test]
async fn the_oldest_records_go_first_and_are_counted() {
    let connection = kombu::connect("memory://").await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    broker.record(2);
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    for text in ["one", "two", "three"] {
        publish(&connection, "jobs", text).await;
        reject_one(&connection, "jobs").await;
    }
    let history = broker.history().unwrap();
    assert_eq!(texts(&history.published), ["two", "three"]);
    assert_eq!(texts(&history.deaths), ["two", "three"]);
    assert_eq!(history.dropped, 2);
    broker.record(1);
    let history = broker.history().unwrap();
    assert_eq!(texts(&history.published), ["three"]);
    assert_eq!(history.dropped, 4);
    broker.clear_history();
    publish(&connection, "jobs", "four").await;
    let history = broker.history().unwrap();
    assert_eq!(texts(&history.published), ["four"]);
    assert_eq!((history.deaths.len(), history.dropped), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_url_asks_for_is_kept_over_other_connections_and_reconnects() {
    let faults = Faults::default();
    let connection = Connection::builder(kombu::registry())
        .url("memory://?history=3")
        .layer(faults.clone());
    let connection = connection.await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    publish(&connection, "jobs", "one").await;
    let mut events = connection.events();
    faults.cut();
    while !matches!(events.next().await, Some(Event::Restored { .. })) {}
    for text in ["two", "three", "four"] {
        publish(&connection, "jobs", text).await;
    }
    let history = broker.history().unwrap();
    assert_eq!(texts(&history.published), ["two", "three", "four"]);
    assert_eq!(history.dropped, 1);

    let _removed = Removed("recorded");
    let larger = kombu::connect("memory://recorded?history=5").await.unwrap();
    let smaller = kombu::connect("memory://recorded?history=1").await.unwrap();
    larger.declare_queue(&Queue::new("jobs")).await.unwrap();
    for text in ["one", "two"] {
        publish(&smaller, "jobs", text).await;
    }
    let history = memory::inspect("recorded").unwrap().history().unwrap();
    assert_eq!(history.published.len(), 2);
    assert_eq!(history.dropped, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishes_from_many_threads_are_recorded_in_the_order_of_the_queue() {
    let connection = kombu::connect("memory://?history=4000").await.unwrap();
    let broker = memory::inspect(&connection).unwrap();
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let mut publishing = tokio::task::JoinSet::new();
    for number in 0..4_u32 {
        let connection = connection.clone();
        publishing.spawn(async move {
            let producer = connection.producer(Exchange::default()).await.unwrap();
            for count in 0..1_000_u32 {
                let value = (number, count);
                let publish = producer.publish(&value).routing_key("jobs");
                publish.await.unwrap();
            }
        });
    }
    publishing.join_all().await;
    let history = broker.history().unwrap();
    let recorded = history.published.iter();
    let recorded: Vec<(u32, u32)> = recorded.map(|record| record.decode().unwrap()).collect();
    let ready = broker.queue("jobs").unwrap().ready;
    let ready = ready.iter().map(|message| message.decode().unwrap());
    let ready: Vec<(u32, u32)> = ready.collect();
    assert_eq!(recorded.len(), 4_000);
    assert_eq!(recorded, ready);
}

/// Forgets a broker when the test is over.
struct Removed(&'static str);

impl Drop for Removed {
    fn drop(&mut self) {
        memory::remove(self.0);
    }
}

//! Senders and receivers by name.

use std::time::Duration;

use kombu_core::driver::{BoxFuture, Feature};
use kombu_core::handler::Payload;
use kombu_core::layers::Faults;
use kombu_core::message::Content;
use kombu_core::mom::{DataType, Mom, Receiver, Sender, Settings};
use kombu_core::{Delivery, ErrorKind, Event, Interceptor, Result};

use crate::Broker;
use crate::cases::handling::{PATIENCE, log};
use crate::expect::{assert_refused, assert_unsupported};

fn settings(
    broker: &Broker,
    data_type: DataType,
    senders: &[&str],
    receivers: &[&str],
) -> Settings {
    let sender = |text: &&str| text.parse::<Sender>().unwrap();
    let receiver = |text: &&str| text.parse::<Receiver>().unwrap();
    let scheme = match data_type {
        DataType::PubSub => "-pubsub://",
        DataType::Pt2Pt => "-pt2pt://",
    };
    Settings {
        uri: Some(broker.url().replacen("://", scheme, 1)),
        senders: senders.iter().map(sender).collect(),
        receivers: receivers.iter().map(receiver).collect(),
        out_timeout: PATIENCE,
        ..Settings::default()
    }
}

async fn open(broker: &Broker, settings: Settings) -> Mom {
    Mom::open(broker.registry().clone(), settings)
        .await
        .unwrap()
}

/// Whether the case can go on: each receiver of what is published has a queue of its own.
async fn has_receivers(broker: &Broker, settings: &Settings) -> bool {
    let connection = broker.connect().await;
    let has = connection.capabilities().has(Feature::ExclusiveQueue);
    if !has {
        assert_unsupported(Mom::open(broker.registry().clone(), settings.clone()).await);
    }
    has
}

async fn next(mom: &mut Mom, receiver: &str) -> String {
    let received = mom.receive(receiver, PATIENCE).await.unwrap();
    taken(received.unwrap()).await
}

async fn taken(delivery: Delivery) -> String {
    let text = delivery.decode().unwrap();
    delivery.ack().await.unwrap();
    text
}

async fn send(mom: &Mom, message: &str, key: &str) {
    for (name, sent) in mom.send(message, key).await.unwrap() {
        assert!(sent.unwrap().routed, "{name}");
    }
}

async fn is_empty(mom: &mut Mom, receiver: &str, lag: Duration) -> bool {
    mom.receive(receiver, lag).await.unwrap().is_none()
}

/// It is connected when it is there; what is lost comes back with both, and a close ends the receivers.
pub async fn senders_and_receivers_are_there_again_after_a_lost_connection(broker: &Broker) {
    let settings = settings(broker, DataType::Pt2Pt, &["jobs"], &["jobs"]);
    let faults = Faults::default();
    let layer = faults.clone();
    let opening = Mom::open(broker.registry().clone(), settings);
    let opening = opening.connection(move |connection| connection.layer(layer));
    let mut mom = opening.await.unwrap();
    assert!(mom.connection().health().connected);
    for message in ["before", "after"] {
        send(&mom, message, "jobs").await;
        assert_eq!(next(&mut mom, "jobs").await, message);
        let mut events = mom.connection().events();
        faults.cut();
        while !matches!(events.next().await, Some(Event::Restored { .. }) | None) {}
        assert!(mom.connection().health().connected);
    }
    let others = broker.connect().await;
    let connection = mom.connection().clone();
    mom.close().await.unwrap();
    assert!(!connection.health().connected);
    broker.assert_counts(&others, "jobs", 0, 0).await;
}

/// Holds up what goes to `slow`.
struct Slow;

impl Interceptor for Slow {
    fn on_publish<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if content.exchange() == "slow" {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }
}

/// The others have sent it.
pub async fn a_sender_that_takes_too_long_is_given_up_by_itself(broker: &Broker) {
    let mut settings = settings(broker, DataType::Pt2Pt, &["fast", "slow"], &["fast"]);
    settings.out_timeout = Duration::from_secs(5);
    let opening = Mom::open(broker.registry().clone(), settings);
    let mut mom = opening
        .connection(|connection| connection.intercept(Slow))
        .await
        .unwrap();
    let sent = mom.send("message", "fast").await.unwrap();
    let [(fast, done), (slow, late)] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!((fast.as_str(), slow.as_str()), ("fast", "slow"));
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(late.as_ref().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(next(&mut mom, "fast").await, "message");
}

/// Wherever it is; whatever kind of exchange the sender is.
pub async fn every_receiver_gets_what_is_published(broker: &Broker) {
    let senders = ["events", "alerts:fanout"];
    let receivers = ["events", "alerts"];
    let settings = settings(broker, DataType::PubSub, &senders, &receivers);
    if !has_receivers(broker, &settings).await {
        return;
    }
    let mut moms = [
        open(broker, settings.clone()).await,
        open(broker, settings).await,
    ];
    send(&moms[0], "it rains", "weather").await;
    for mom in &mut moms {
        for receiver in receivers {
            assert_eq!(next(mom, receiver).await, "it rains");
            assert!(is_empty(mom, receiver, broker.lag()).await);
        }
    }
    for mom in moms {
        mom.close().await.unwrap();
    }
}

/// They share a queue, which keeps what nobody has received yet.
pub async fn one_receiver_gets_what_is_sent_from_point_to_point(broker: &Broker) {
    let settings = settings(broker, DataType::Pt2Pt, &["jobs"], &["jobs"]);
    let mut one = open(broker, settings.clone()).await;
    let mut other = open(broker, settings.clone()).await;
    for job in ["first", "second"] {
        send(&one, job, "jobs").await;
    }
    let held = one.receive("jobs", PATIENCE).await.unwrap().unwrap();
    let there = other.receive("jobs", PATIENCE).await.unwrap().unwrap();
    let mut texts = [taken(held).await, taken(there).await];
    texts.sort();
    assert_eq!(texts, ["first", "second"]);
    one.cancel_all_receivers().await.unwrap();
    other.close().await.unwrap();
    send(&one, "later", "jobs").await;
    let mut late = open(broker, settings).await;
    assert_eq!(next(&mut late, "jobs").await, "later");
}

/// All of them, or the one that was named; one that can't doesn't keep the others from it.
pub async fn a_message_goes_to_all_senders_or_to_one(broker: &Broker) {
    let senders = ["a:topic", "b:topic", "c"];
    let settings = settings(broker, DataType::PubSub, &senders, &["a", "b"]);
    if !has_receivers(broker, &settings).await {
        return;
    }
    let mut mom = open(broker, settings).await;
    assert_eq!(mom.send("to all", "key").await.unwrap().len(), 3);
    let b: Sender = "b:topic".parse().unwrap();
    let one = mom.send("to one", "key").sender(&b).await.unwrap();
    assert_eq!(one.len(), 1);
    for (receiver, expected) in [("a", &["to all"][..]), ("b", &["to all", "to one"])] {
        for text in expected {
            assert_eq!(next(&mut mom, receiver).await, *text);
        }
        assert!(is_empty(&mut mom, receiver, broker.lag()).await);
    }
    mom.add_sender("d:direct".parse().unwrap()).await.unwrap();
    let sent = mom.send("to those who can", "nobody").await.unwrap();
    let failed: Vec<_> = sent.iter().filter(|(_, sent)| sent.is_err()).collect();
    assert_eq!((sent.len(), failed.len()), (4, 1));
    assert_eq!(failed[0].0, "d");
    assert_eq!(next(&mut mom, "a").await, "to those who can");
    let unknown = mom.send("nobody", "key").sender("nobody").await;
    let error = assert_refused(unknown, ErrorKind::NotFound, 404);
    assert!(error.to_string().contains("a, b, c, d"), "{error}");
}

/// As the message says it.
pub async fn a_message_is_sent_as_it_says(broker: &Broker) {
    let settings = settings(broker, DataType::Pt2Pt, &["jobs"], &["jobs"]);
    let mut mom = open(broker, settings).await;
    let text = "all is well\n".repeat(100);
    let send = mom.send(&text, "jobs").serializer("msgpack");
    let sent = send.compression("zlib").content_encoding("utf-7").await;
    assert!(sent.unwrap().iter().all(|(_, sent)| sent.is_ok()));
    let send = mom.send(&1, "jobs").content_type("application/vnd.one");
    send.await.unwrap();
    let received = mom.receive("jobs", PATIENCE).await.unwrap().unwrap();
    assert_eq!(received.content_type(), Some("application/x-msgpack"));
    assert_eq!(received.content_encoding(), Some("utf-7"));
    assert!(received.body().len() < 200);
    received.ack().await.unwrap();
    let received = mom.receive("jobs", PATIENCE).await.unwrap().unwrap();
    assert_eq!(received.content_type(), Some("application/vnd.one"));
    received.ack().await.unwrap();
}

/// By the settings, or later; without one, messages are fetched, and there may be none.
pub async fn callbacks_get_their_receivers_messages(broker: &Broker) {
    let senders = ["jobs", "notes"];
    let mut settings = settings(broker, DataType::Pt2Pt, &senders, &["jobs:work", "notes"]);
    settings.in_timeout = Duration::from_millis(20);
    let (seen, mut log) = log();
    let work = |what: &'static str| {
        let seen = seen.clone();
        async move |Payload(text): Payload<String>| {
            seen.send(format!("{what}: {text}")).unwrap();
        }
    };
    let mom = Mom::open(broker.registry().clone(), settings.clone());
    let mut mom = mom.callback("work", work("work")).await.unwrap();
    let send = async |mom: &Mom, text: &str, name: &str| {
        let sent = mom.send(text, name).sender(name).await.unwrap();
        sent.into_iter().for_each(|(_, sent)| drop(sent.unwrap()));
    };
    send(&mom, "one", "jobs").await;
    assert_eq!(log.next().await, "work: one");
    assert!(mom.receive("notes", None).await.unwrap().is_none());
    mom.on_receive("notes", work("note")).await.unwrap();
    send(&mom, "two", "notes").await;
    assert_eq!(log.next().await, "note: two");
    let taken = mom.receive("notes", None).await;
    assert_refused(taken, ErrorKind::PreconditionFailed, 406);
    let without = Mom::open(broker.registry().clone(), settings).await;
    assert_refused(without, ErrorKind::NotFound, 404);
    mom.close().await.unwrap();
}

/// And so does the next one: what waits is nobody's in between.
pub async fn a_callback_gets_what_waits_for_its_receiver(broker: &Broker) {
    let settings = settings(broker, DataType::PubSub, &["events"], &["events"]);
    if !has_receivers(broker, &settings).await {
        return;
    }
    let mut mom = open(broker, settings).await;
    let (seen, mut log) = log();
    for round in ["first", "second"] {
        // All of them are there when the callback is: the one before can have none of them any more.
        let (begun, mut begins) = crate::cases::handling::log();
        let (go_on, goes_on) = tokio::sync::watch::channel(false);
        let blocking = async move || {
            begun.send(()).unwrap();
            goes_on.clone().wait_for(|go_on| *go_on).await.unwrap();
        };
        mom.on_receive("events", blocking).await.unwrap();
        send(&mom, "taken", "weather").await;
        begins.next().await;
        let waiting = [format!("{round} 1"), format!("{round} 2")];
        for text in &waiting {
            send(&mom, text, "weather").await;
        }
        let seen = seen.clone();
        let noting = async move |Payload(text): Payload<String>| {
            seen.send(text).unwrap();
        };
        let changed = mom.on_receive("events", noting);
        let (changed, ()) = tokio::join!(changed, async {
            // The one before may have had the first of them in its window.
            let mut handled = [log.next().await, log.next().await];
            handled.sort();
            assert_eq!(handled, waiting);
            go_on.send_replace(true);
        });
        changed.unwrap();
    }
    mom.close().await.unwrap();
}

/// What has to be acknowledged is held meanwhile, and goes back when the receiver ends.
pub async fn what_a_callback_cannot_take_ends_no_receiver(broker: &Broker) {
    for safe in [true, false] {
        let mut settings = settings(broker, DataType::Pt2Pt, &["jobs"], &["jobs"]);
        settings.safe = safe;
        let mut mom = open(broker, settings).await;
        let (seen, mut log) = log();
        let noting = async move |Payload(text): Payload<String>| {
            seen.send(text).unwrap();
        };
        mom.on_receive("jobs", noting).await.unwrap();
        for wrong in 0..3 {
            let sent = mom.send(&wrong, "jobs").await.unwrap();
            sent.into_iter().for_each(|(_, sent)| drop(sent.unwrap()));
        }
        send(&mom, "fine", "jobs").await;
        assert_eq!(log.next().await, "fine");
        mom.close().await.unwrap();
        let connection = broker.connect().await;
        let left = if safe { 3 } else { 0 };
        broker.assert_counts(&connection, "jobs", left, 0).await;
    }
}

/// The others keep working, and names that nobody knows are passed over.
pub async fn what_is_cancelled_neither_sends_nor_receives(broker: &Broker) {
    let names = ["a", "b"];
    let settings = settings(broker, DataType::Pt2Pt, &names, &names);
    let mut mom = open(broker, settings).await;
    mom.cancel_senders(["a", "unknown"]);
    let gone = mom.send("message", "a").sender("a").await;
    assert_refused(gone, ErrorKind::NotFound, 404);
    send(&mom, "to b", "b").await;
    mom.cancel_receivers(["a", "unknown"]).await.unwrap();
    assert_refused(mom.receive("a", None).await, ErrorKind::NotFound, 404);
    assert_eq!(next(&mut mom, "b").await, "to b");
    assert_eq!(mom.receivers().collect::<Vec<_>>(), ["b"]);
    mom.cancel_all_senders();
    assert_eq!(mom.senders().count(), 0);
    assert!(mom.send("to nobody", "b").await.unwrap().is_empty());
}

/// What isn't among the new ones is cancelled, what is stays as it was, and what wasn't there comes.
pub async fn lists_of_senders_and_receivers_are_replaced(broker: &Broker) {
    let names = ["a", "b"];
    let settings = settings(broker, DataType::Pt2Pt, &names, &names);
    let (seen, mut log) = log();
    let noting = async move |Payload(text): Payload<String>| {
        seen.send(text).unwrap();
    };
    let mom = Mom::open(broker.registry().clone(), settings);
    let mut mom = mom.callback("note", noting).await.unwrap();
    let sender = |text: &str| text.parse::<Sender>().unwrap();
    let receiver = |text: &str| text.parse::<Receiver>().unwrap();
    mom.set_senders([sender("b"), sender("c")]).await.unwrap();
    let new = [receiver("b"), receiver("c:note")];
    mom.set_receivers(new).await.unwrap();
    assert_eq!(mom.senders().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(mom.receivers().collect::<Vec<_>>(), ["b", "c"]);
    let gone = mom.send("message", "a").sender("a").await;
    assert_refused(gone, ErrorKind::NotFound, 404);
    assert_refused(mom.receive("a", None).await, ErrorKind::NotFound, 404);
    for (name, text) in [("b", "fetched"), ("c", "noted")] {
        let sent = mom.send(text, name).sender(name).await.unwrap();
        sent.into_iter().for_each(|(_, sent)| drop(sent.unwrap()));
    }
    assert_eq!(next(&mut mom, "b").await, "fetched");
    assert_eq!(log.next().await, "noted");
    let unknown = mom.set_receivers([receiver("d:nothing")]).await;
    assert_refused(unknown, ErrorKind::NotFound, 404);
    assert_eq!(mom.receivers().collect::<Vec<_>>(), ["b", "c"]);
}

/// Bound to a sender, by a key.
pub async fn a_receiver_can_be_bound_to_another_sender(broker: &Broker) {
    let senders = ["events:topic", "jobs"];
    let settings = settings(broker, DataType::Pt2Pt, &senders, &["jobs"]);
    let mut mom = open(broker, settings).await;
    mom.bind("jobs", "events", "weather.#").await.unwrap();
    let sent = mom.send("it rains", "weather.local").sender("events");
    assert!(sent.await.unwrap().iter().all(|(_, sent)| sent.is_ok()));
    assert_eq!(next(&mut mom, "jobs").await, "it rains");
    let unknown = mom.bind("jobs", "nobody", "#").await;
    assert_refused(unknown, ErrorKind::NotFound, 404);
}

/// What is received without being safe is gone, and needs no acknowledgement.
pub async fn what_need_not_be_safe_is_gone_when_it_is_received(broker: &Broker) {
    let mut settings = settings(broker, DataType::Pt2Pt, &["jobs"], &["jobs"]);
    settings.safe = false;
    let mut mom = open(broker, settings).await;
    send(&mom, "job", "jobs").await;
    let received = mom.receive("jobs", PATIENCE).await.unwrap().unwrap();
    let settled = received.ack().await;
    assert_refused(settled, ErrorKind::NotSettleable, None);
    // Nor is there anything that a callback could settle.
    let takes = mom.on_receive("jobs", async |_: Delivery| ()).await;
    assert_refused(takes, ErrorKind::Config, None);
    broker.assert_counts(mom.connection(), "jobs", 0, 0).await;
}

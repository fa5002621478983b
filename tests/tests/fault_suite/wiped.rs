//! A broker that has forgotten everything while a program runs.

use std::time::Duration;

use kombu::{DeclareMode, Entity, ErrorKind, Event, Events, Exchange, Producer, Queue};
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::Recorder;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::stand::{self, Habits, count, inflict, patient};
use crate::traffic::consume;

const PATIENCE: Duration = Duration::from_secs(60);
/// How long there is traffic when nothing is wiped any more.
const KEPT: Duration = Duration::from_millis(500);
/// These are higher than those of the traffic.
const FIRST_EXPECTED: u64 = 1 << 40;

pub(crate) async fn is_declared_again(broker: &mut Breakable) {
    let wipes = count(2, 20);
    let recorder = Recorder::new();
    let connection = broker.builder().deadlines(patient()).await.unwrap();
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "video.#");
    let consumer = connection.consumer(&videos).await.unwrap();
    let producer = connection.producer(&media).routing_key("video.new");
    let producer = producer.await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let (latest, mut received) = watch::channel(0);
    let habits = Habits::of(broker);
    let consuming = consume(
        0,
        consumer,
        (connection.clone(), "videos"),
        recorder.clone(),
        habits,
        stopped,
        Some(latest),
    );
    let consuming = tokio::spawn(consuming);
    let (pace, paced) = watch::channel(Traffic::Forgotten);
    let traffic = tokio::spawn(traffic(producer.clone(), recorder.clone(), paced));
    for wipe in 0..wipes {
        let fault = [Fault::Wipe, Fault::Erase][wipe as usize % 2];
        inflict(broker, &recorder, fault).await;
        let message = FIRST_EXPECTED + wipe;
        recorder.publishing(0, message);
        recorder.expect(message, Duration::ZERO, Breakable::RECOVERY);
        // What it was published to is gone, and nobody is told otherwise: it comes back first.
        let answer = producer.publish(&message).mandatory().await;
        recorder.answered(message, &answer);
        let came = received.wait_for(|latest| *latest >= message);
        drop(timeout(PATIENCE, came).await);
        let found = recreated(&mut events).await;
        for thing in [(Entity::Exchange, "media"), (Entity::Queue, "videos")] {
            let thing = (thing.0, thing.1.to_owned());
            assert!(found.contains(&thing), "{thing:?} isn't among {found:?}");
        }
    }
    pace.send_replace(Traffic::Kept);
    sleep(KEPT).await;
    pace.send_replace(Traffic::Ends);
    let refused = traffic.await.unwrap();
    stop.send_replace(true);
    consuming.await.unwrap();
    connection.close().await.unwrap();
    let history = recorder.history();
    let rows = Row::of_each(broker.name(), &history, PATIENCE, Breakable::RECOVERY);
    stand::report(rows, &history);
    assert!(refused.is_empty(), "refused: {refused:?}");
    is_not_declared_where_that_is_not_wanted(broker).await;
}

/// What becomes of what is published.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    /// What was stored is gone with the next wipe: no answer is taken down.
    Forgotten,
    Kept,
    Ends,
}

/// Publishes until it is told to end, and returns what went wrong: what it publishes to comes back before its publishes do.
async fn traffic(
    producer: Producer,
    recorder: Recorder,
    paced: watch::Receiver<Traffic>,
) -> Vec<String> {
    let mut refused = Vec::new();
    for message in 1.. {
        let pace = *paced.borrow();
        if pace == Traffic::Ends {
            break;
        }
        recorder.publishing(1, message);
        let answer = producer.publish(&message).mandatory().await;
        if pace == Traffic::Kept {
            recorder.answered(message, &answer);
        }
        match answer {
            Ok(published) if published.routed => {}
            answer => refused.push(format!("{message}: {answer:?}")),
        }
        sleep(Duration::from_millis(2)).await;
    }
    refused
}

/// What an event says was declared again, until everything is restored.
async fn recreated(events: &mut Events) -> Vec<(Entity, String)> {
    let mut found = Vec::new();
    let looking = async {
        loop {
            match events.next().await.unwrap() {
                Event::Recreated { what, name } => found.push((what, name.to_string())),
                Event::Restored { .. } if !found.is_empty() => break,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, looking).await.expect("it is restored");
    found
}

/// Who only asks whether a queue is there is told that it has gone.
async fn is_not_declared_where_that_is_not_wanted(broker: &mut Breakable) {
    let queue = Queue::new("verified");
    let other = broker.observer().await.unwrap();
    other.declare_queue(&queue).await.unwrap();
    // It declares nothing again when the broker has forgotten it.
    other.close().await.unwrap();
    let connection = broker.builder().declare(DeclareMode::Verify);
    let connection = connection.await.unwrap();
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("verified").await.unwrap();
    broker.inflict(Fault::Wipe).await.unwrap();
    let refused = producer.publish(&1).await.unwrap_err();
    println!("published to what is gone: {refused}");
    assert_eq!(refused.kind(), ErrorKind::Unroutable, "{refused}");
    let ended = timeout(PATIENCE, consumer.try_next()).await;
    let ended = ended.expect("it is told").unwrap_err();
    println!("consumed what is gone: {ended}");
    let kinds = [ErrorKind::ConsumerCancelled, ErrorKind::NotFound];
    assert!(kinds.contains(&ended.kind()), "{ended}");
    connection.close().await.unwrap();
}

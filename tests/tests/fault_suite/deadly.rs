//! A message that kills every program which handles it.

use std::time::Duration;

use kombu::{Exchange, FieldTable, FieldValue, Message, Queue};
use kombu_testkit::expect::{collect_one, drain, info};
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::{Answer, Event, Record, Recorder};
use kombu_tests::{Peer, worker_event};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::stand::{self, count, inflict, patient};
use crate::workers::{KILLED, PROGRAM};

const PATIENCE: Duration = Duration::from_secs(60);
const DEADLY: u64 = 2;
/// One before it, and one behind it.
const LAST: u64 = 3;
const MESSAGES: [u64; 3] = [1, DEADLY, LAST];
const ORIGIN: &str = "x-origin";

/// It is handed out as often as it may be, over a restart of the broker too, and then it is a dead letter. The others are handled.
pub(crate) async fn is_bounded(broker: &mut Breakable) {
    let deliveries = count(2, 5);
    let recorder = Recorder::new();
    let failed = Exchange::fanout("failed");
    let dead = Queue::new("dead").bind(&failed, "");
    let mut queue = Queue::new("jobs")
        .dead_letter_exchange("failed")
        .max_deliveries(deliveries as u32);
    if broker.name() == "amqp" {
        // Its other queues have no such limit.
        queue = queue.quorum();
    }
    let connection = broker.observer().deadlines(patient()).await.unwrap();
    connection.declare_queue(&dead).await.unwrap();
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for message in MESSAGES {
        recorder.publishing(0, message);
        let publish = producer.publish(&message).message_id(id_of(message));
        let publish = publish.correlation_id("all").header(ORIGIN, "here");
        recorder.answered(message, &publish.await);
    }
    let queue = serde_json::to_string(&queue).unwrap();
    let url = broker.url();
    let start = |number: u64| {
        // One at a time: what it holds beside the deadly one would be handed out as often.
        let (number, prefetch, deadly) = (number.to_string(), "1", DEADLY.to_string());
        let arguments = [&url, &queue, &number, prefetch, "die", &deadly];
        Peer::run(Command::new(PROGRAM).args(arguments))
    };
    let record = |line| recorder.record(worker_event(line));
    for death in 1..=deliveries {
        start(death).died().await.into_iter().for_each(record);
        recorder.fault(KILLED);
        recorder.over();
        if death == 1 {
            inflict(broker, &recorder, Fault::Restart).await;
        }
    }
    let mut last = start(deliveries + 1);
    let mut consumer = connection.consumer(&dead).await.unwrap();
    let letter = timeout(PATIENCE, collect_one(&mut consumer)).await;
    let letter = letter.expect("it is dead-lettered");
    let (letter, acker) = letter.split();
    assert_is_as_it_was(&letter);
    assert_tells_its_death(&letter);
    acker.ack().confirmed().await.unwrap();
    let handled = async {
        // Who dies had one at a time, so what it got before has been handled. What is on its way to the last one when that ends goes
        // back.
        let mut has_come = recorder.history().records().iter().any(is_received);
        while !has_come {
            let event = worker_event(last.line().await);
            has_come = is_settled(&event);
            recorder.record(event);
        }
        while info(&connection, "jobs").await.ready > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let handled = timeout(PATIENCE, handled).await;
    handled.expect("the others are handled");
    last.rest().await.into_iter().for_each(record);
    recorder.left("dead", vec![DEADLY]);
    for queue in ["jobs", "dead"] {
        let left = drain(&connection, queue).await;
        assert_eq!(left.len(), 0, "left in {queue}");
    }
    connection.close().await.unwrap();
    let history = recorder.history();
    let records = history.records().iter();
    let handed_out = records.filter(
        |record| matches!(record.event, Event::Received { message, .. } if message == DEADLY),
    );
    assert_eq!(handed_out.count() as u64, deliveries);
    let (name, allowed) = (broker.name(), Duration::ZERO);
    let row = Row::of(
        name,
        "killed by its message",
        deliveries,
        &history,
        PATIENCE,
        allowed,
    );
    stand::report(vec![row], &history);
}

fn is_received(record: &Record) -> bool {
    matches!(record.event, Event::Received { message: LAST, .. })
}

fn is_settled(event: &Event) -> bool {
    let Event::Settled {
        message, answer, ..
    } = event
    else {
        return false;
    };
    *message == LAST && *answer == Answer::Queued
}

fn id_of(message: u64) -> String {
    format!("id-{message}")
}

#[track_caller]
fn assert_is_as_it_was(letter: &Message) {
    assert_eq!(letter.body(), DEADLY.to_string().as_bytes());
    let properties = [
        letter.message_id(),
        letter.correlation_id(),
        letter.content_type(),
    ];
    let id = id_of(DEADLY);
    let published = [&id, "all", "application/json"].map(Some);
    assert_eq!(properties, published);
    assert_eq!(letter.header(ORIGIN), Some("here"));
}

#[track_caller]
fn assert_tells_its_death(letter: &Message) {
    let deaths = letter.headers().get("x-death");
    let deaths = deaths.and_then(FieldValue::as_array).unwrap_or_default();
    let [FieldValue::Table(death)] = deaths else {
        panic!("it died once: {deaths:?}");
    };
    assert_eq!(death.get("count").and_then(FieldValue::as_i64), Some(1));
    let text = |table: &FieldTable, name: &str| {
        let text = table.get(name).and_then(FieldValue::as_str);
        text.map(str::to_owned)
    };
    for (name, value) in [
        ("reason", "delivery_limit"),
        ("queue", "jobs"),
        ("exchange", ""),
    ] {
        let value = Some(value.to_owned());
        assert_eq!(text(death, name), value, "{name} of {death:?}");
        let first = text(letter.headers(), &format!("x-first-death-{name}"));
        assert_eq!(first, value, "{name} of the first of {deaths:?}");
    }
    let keys = death.get("routing-keys").and_then(FieldValue::as_array);
    assert_eq!(keys, Some(&[FieldValue::from("jobs")][..]));
}

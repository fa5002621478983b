//! Every call ends by its deadline, whatever the broker does, and says what kept it.

use std::future::IntoFuture;
use std::time::Duration;

use kombu::{Binding, Deadlines, ErrorKind, Exchange, Queue};
use kombu_testkit::expect::collect;
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::{Event, History, Recorder};

use crate::stand;

const LIMIT: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn hold_whatever_happens(broker: &mut Breakable) {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for fault in [
        Fault::Kill,
        Fault::Refuse,
        Fault::Pause,
        Fault::Blackhole,
        Fault::Silence,
        Fault::MemoryAlarm,
        Fault::DiskAlarm,
    ] {
        if !broker.can(fault) {
            continue;
        }
        // A session that is silent is either still waited for when the deadline passes, or given up before. Under an alarm
        // the broker gives signs of life, which take it longer.
        let soon = Duration::from_millis(if is_alarm(fault) { 700 } else { 400 });
        for liveness in [Duration::from_secs(10), soon] {
            let history = under(broker, fault, liveness).await;
            let calls = history
                .records()
                .iter()
                .filter_map(|record| match &record.event {
                    Event::Called { call, error, .. } => Some((call.as_str(), error.as_deref())),
                    _ => None,
                });
            let calls: Vec<_> = calls.collect();
            println!("{} {fault}, {liveness:?}: {calls:?}", broker.name());
            for (call, error) in &calls {
                assert!(
                    is_right(broker, fault, call, *error),
                    "{fault}, {liveness:?}: {call} ended with {error:?}"
                );
            }
            let name = format!("{fault}, every call");
            let grace = Duration::from_millis(250);
            let tried = calls.len() as u64;
            rows.push(Row::of(
                broker.name(),
                name,
                tried,
                &history,
                PATIENCE,
                grace,
            ));
            all.extend(history.records().iter().cloned());
        }
    }
    // One row for each fault.
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match merged.last_mut() {
            Some(last) if last.fault == row.fault => {
                last.tried += row.tried;
                last.worst_stall = last.worst_stall.max(row.worst_stall);
                last.broken.extend(row.broken);
            }
            _ => merged.push(row),
        }
    }
    stand::report(merged, &History::from_iter(all));
}

fn is_alarm(fault: Fault) -> bool {
    matches!(fault, Fault::MemoryAlarm | Fault::DiskAlarm)
}

/// Whether this is how a call has to end.
fn is_right(broker: &Breakable, fault: Fault, call: &str, error: Option<&str>) -> bool {
    let kind = |kind: ErrorKind| format!("{kind:?}");
    let is_one_of = |kinds: &[ErrorKind]| {
        error.is_some_and(|error| kinds.iter().any(|one| kind(*one) == error))
    };
    let is_alarm = is_alarm(fault);
    match call {
        "drain" | "close" => true,
        "publish" | "send and wait" if is_alarm => is_one_of(&[ErrorKind::Backpressure]),
        // RabbitMQ doesn't read from a connection that it blocks.
        "open a producer" if is_alarm && error.is_some() => is_one_of(&[ErrorKind::Backpressure]),
        // The exchange could not be declared.
        "bind" if is_alarm && broker.name() == "nats" => {
            is_one_of(&[ErrorKind::Backpressure, ErrorKind::NotFound])
        }
        // Redis has one memory for all, and an account of NATS one disk: a declaration takes some of it, and so does a session.
        _ if is_alarm && ["redis", "nats"].contains(&broker.name()) => {
            error.is_none() || is_one_of(&[ErrorKind::Backpressure])
        }
        _ if is_alarm => error.is_none(),
        "connect" => is_one_of(&[ErrorKind::Timeout, ErrorKind::ConnectionLost]),
        // Where the broker doesn't answer, there is nothing to wait for once it is on its way.
        "ack" | "release" if error.is_none() => !broker.answers_settles(),
        "ack" | "release" => is_one_of(&[ErrorKind::Timeout, ErrorKind::SettleLost]),
        _ => is_one_of(&[ErrorKind::Timeout]),
    }
}

async fn under(broker: &mut Breakable, fault: Fault, liveness: Duration) -> History {
    let recorder = Recorder::new();
    let mut deadlines = Deadlines::default();
    deadlines.connect = LIMIT;
    deadlines.publish = LIMIT;
    deadlines.declare = LIMIT;
    deadlines.settle = LIMIT;
    deadlines.liveness = liveness;
    let observer = broker.observer().await.unwrap();
    let queues = ["jobs", "other"].map(Queue::new);
    for queue in &queues {
        observer.declare_queue(queue).await.unwrap();
        observer.purge(queue.name().clone()).await.unwrap();
    }
    let connection = broker.builder().deadlines(deadlines).await.unwrap();
    let mut consumer = connection.consumer(&queues[0]).prefetch(4).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    for number in 0..4 {
        producer.publish(&number).await.unwrap();
    }
    let mut held = collect(&mut consumer, 4).await.into_iter();
    let mut next = || held.next().unwrap();
    let (ack, release) = (next(), next());

    broker.inflict(fault).await.unwrap();
    let media = Exchange::topic("media");
    let binding = Binding::new(&media, "#");
    let fresh = Queue::new("fresh").bind(&media, "#");
    tokio::join!(
        recorder.call("publish", LIMIT, producer.publish(&5).into_future()),
        recorder.call("send and wait", LIMIT, async {
            producer.publish(&6).send().await?.await
        }),
        recorder.call(
            "declare exchange",
            LIMIT,
            connection.declare_exchange(&media)
        ),
        recorder.call("declare queue", LIMIT, connection.declare_queue(&fresh)),
        recorder.call("ask for counts", LIMIT, connection.queue_info("other")),
        recorder.call("get", LIMIT, connection.get("other")),
        recorder.call("purge", LIMIT, connection.purge("other")),
        recorder.call(
            "open a producer",
            LIMIT,
            connection.producer(&media).into_future()
        ),
        recorder.call(
            "open a consumer",
            LIMIT,
            connection.consumer(&queues[1]).into_future()
        ),
        recorder.call("ack", LIMIT, ack.ack().confirmed()),
        recorder.call("release", LIMIT, release.release().confirmed()),
        recorder.call(
            "connect",
            LIMIT,
            broker.builder().deadlines(deadlines).into_future()
        ),
    );
    tokio::join!(
        recorder.call("bind", LIMIT, connection.bind_queue("other", &binding)),
        recorder.call(
            "delete queue",
            LIMIT,
            connection.delete_queue("fresh").into_future()
        ),
    );
    // What is held is waited for, and then there is flushing to do.
    recorder
        .call("drain", GRACE + LIMIT, connection.drain(GRACE))
        .await;
    recorder.call("close", LIMIT, connection.close()).await;
    broker.heal().await.unwrap();
    drop((consumer, producer, connection));
    observer.close().await.unwrap();
    recorder.history()
}

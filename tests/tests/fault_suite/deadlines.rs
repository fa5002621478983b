//! Every call ends by its deadline, whatever the broker does, and says what kept it.

use std::future::IntoFuture;
use std::time::Duration;

use kombu::call::CallError;
use kombu::{Binding, Connection, Deadlines, Error, ErrorKind, Exchange, Published, Queue};
use kombu_testkit::expect::{collect, drain, info};
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::{Event, History, Recorder};
use tokio::time::{sleep, timeout};

use crate::stand::{self, ends};

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
            let wrong = calls
                .iter()
                .filter(|(call, error)| !is_right(broker, fault, liveness, call, *error))
                .map(|(call, error)| format!("{liveness:?}: {call} ended with {error:?}"));
            let name = format!("{fault}, every call");
            let grace = Duration::from_millis(250);
            let tried = calls.len() as u64;
            let mut row = Row::of(broker.name(), name, tried, &history, PATIENCE, grace);
            row.broken.extend(wrong);
            rows.push(row);
            all.extend(history.records().iter().cloned());
        }
    }
    // One row for each fault.
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match merged.last_mut() {
            Some(last) if last.fault == row.fault => {
                last.tried += row.tried;
                last.lost += row.lost;
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
fn is_right(
    broker: &Breakable,
    fault: Fault,
    liveness: Duration,
    call: &str,
    error: Option<&str>,
) -> bool {
    let kind = |kind: ErrorKind| format!("{kind:?}");
    let is_one_of = |kinds: &[ErrorKind]| {
        error.is_some_and(|error| kinds.iter().any(|one| kind(*one) == error))
    };
    let is_alarm = is_alarm(fault);
    let is_silent = matches!(fault, Fault::Pause | Fault::Blackhole);
    let is_noticed = liveness < LIMIT;
    match call {
        "drain" => error.is_none(),
        "asked before" => is_one_of(&[ErrorKind::Timeout]),
        "publish" | "send and wait" | "batch" | "call" if is_alarm => {
            is_one_of(&[ErrorKind::Backpressure])
        }
        // Its copy is a publish there, which is held back; the settle may still be carried out.
        "retry" if is_alarm && broker.name() == "amqp" => is_one_of(&[ErrorKind::Timeout]),
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
        "ack" | "release" | "reject" | "retry" if error.is_none() => !broker.answers_settles(),
        "ack" | "release" | "reject" | "retry" => {
            is_one_of(&[ErrorKind::Timeout, ErrorKind::SettleLost])
        }
        // With a session that is lost, there is nothing left to wait for.
        "cancel" | "close" if !is_silent => error.is_none(),
        // In process, time is exact.
        "cancel" if is_noticed && broker.is_injected() => error.is_none(),
        "cancel" if is_noticed => error.is_none() || is_one_of(&[ErrorKind::Timeout]),
        // In process, it is the one call that is no question.
        "close" if broker.is_injected() => error.is_none(),
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
    let queues = ["jobs", "other", "ending", KEPT].map(Queue::new);
    for queue in &queues {
        observer.declare_queue(queue).await.unwrap();
        observer.purge(queue.name().clone()).await.unwrap();
    }
    let there = Exchange::topic("there");
    let (unwanted, news) = (Exchange::topic("unwanted"), Exchange::topic("news"));
    for exchange in [&there, &unwanted, &news] {
        observer.declare_exchange(exchange).await.unwrap();
    }
    let of_there = Binding::new(&there, "of.#");
    observer.bind_queue("other", &of_there).await.unwrap();
    observer.bind_exchange("news", &of_there).await.unwrap();
    let connection = broker.builder().deadlines(deadlines).await.unwrap();
    let mut consumer = connection.consumer(&queues[0]).prefetch(6).await.unwrap();
    let ending = connection.consumer(&queues[2]).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(KEPT).await.unwrap();
    for number in 0..6 {
        let publish = producer.publish(&number).routing_key("jobs");
        publish.await.unwrap();
    }
    let held = ends(
        "a message on its way to the consumer",
        collect(&mut consumer, 6),
    )
    .await;
    let mut held = held.into_iter();
    let mut next = || held.next().unwrap();
    let (ack, release, reject, retry) = (next(), next(), next(), next());
    let closing = broker.builder().deadlines(deadlines).await.unwrap();
    let caller = connection.caller(Exchange::default()).routing_key(KEPT);
    let caller = caller.timeout(2 * LIMIT).max_retries(0).await.unwrap();
    // The broker has this question, and the fault comes while the answer is awaited.
    let asked = tokio::spawn({
        let (caller, recorder) = (caller.clone(), recorder.clone());
        async move {
            recorder.publishing(ASKED as u32, ASKED);
            let asking = async { Ok(caller.call::<_, u64>(&ASKED).await?) };
            recorder.call("asked before", 2 * LIMIT, asking).await
        }
    });
    let arriving = async {
        while info(&connection, KEPT).await.ready == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    ends("a question on its way to its queue", arriving).await;

    broker.inflict(fault).await.unwrap();
    let media = Exchange::topic("media");
    let (binding, more) = (Binding::new(&media, "#"), Binding::new(&there, "more.#"));
    let fresh = Queue::new("fresh").bind(&media, "#");
    tokio::join!(
        recorder.call("publish", LIMIT, async {
            recorder.publishing(PUBLISH as u32, PUBLISH);
            noted(&recorder, PUBLISH, producer.publish(&PUBLISH).await)
        }),
        recorder.call("send and wait", LIMIT, async {
            recorder.publishing(SEND as u32, SEND);
            let sent = async { producer.publish(&SEND).send().await?.await };
            noted(&recorder, SEND, sent.await)
        }),
        recorder.call("batch", LIMIT, async {
            for message in BATCH {
                recorder.publishing(message as u32, message);
            }
            let publishes = BATCH.each_ref().map(|message| producer.publish(message));
            let answers = producer.batch(publishes).await;
            let each = std::iter::zip(BATCH, answers);
            let each = each.map(|(message, answer)| noted(&recorder, message, answer));
            each.fold(Ok(()), Result::and)
        }),
        // The question has its own deadline.
        recorder.call("call", LIMIT, async {
            recorder.publishing(CALL as u32, CALL);
            match caller.call::<_, u64>(&CALL).await {
                Err(CallError::Transport(error)) => noted(&recorder, CALL, Err(error)),
                Err(error) => Err(error.into()),
                Ok(_) => panic!("nobody answers"),
            }
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
        recorder.call("reject", LIMIT, reject.reject().confirmed()),
        recorder.call("retry", LIMIT, retry.retry().confirmed()),
        recorder.call("cancel", LIMIT, ending.cancel()),
        recorder.call("add a queue", LIMIT, consumer.add_queue(&queues[1])),
        recorder.call("unbind", LIMIT, connection.unbind_queue("other", &of_there)),
        recorder.call(
            "unbind exchange",
            LIMIT,
            connection.unbind_exchange("news", &of_there)
        ),
        recorder.call(
            "bind exchange",
            LIMIT,
            connection.bind_exchange("news", &more)
        ),
        recorder.call(
            "delete exchange",
            LIMIT,
            connection.delete_exchange("unwanted")
        ),
        recorder.call(
            "connect",
            LIMIT,
            broker.builder().deadlines(deadlines).into_future()
        ),
        recorder.call("close", LIMIT, closing.close()),
    );
    tokio::join!(
        recorder.call("bind", LIMIT, connection.bind_queue("other", &binding)),
        recorder.call(
            "delete queue",
            LIMIT,
            connection.delete_queue("fresh").into_future()
        ),
    );
    ends("the question that was asked before", asked)
        .await
        .unwrap();
    // What is held is waited for, and then there is flushing to do.
    recorder
        .call("drain", GRACE + LIMIT, connection.drain(GRACE))
        .await;
    ends("healing the broker", broker.heal()).await.unwrap();
    // A delivery that is held keeps its session.
    drop((held, consumer, producer, caller, connection, closing));
    let taking = take_down_what_is_kept(broker, &observer, &recorder);
    ends("taking out what was published", taking).await;
    ends("closing", observer.close()).await.unwrap();
    recorder.history()
}

/// Nobody consumes from it.
const KEPT: &str = "kept";

// What is published to it. Each is as if it had a producer of its own: their order doesn't matter.
const PUBLISH: u64 = 10;
const SEND: u64 = 11;
const BATCH: [u64; 3] = [12, 13, 14];
const CALL: u64 = 15;
const ASKED: u64 = 16;

fn noted(recorder: &Recorder, message: u64, answer: Result<Published, Error>) -> Result<(), Error> {
    recorder.answered(message, &answer);
    answer.map(drop)
}

/// What failed and may not have been stored isn't there, when nothing is under way any more.
async fn take_down_what_is_kept(broker: &Breakable, observer: &Connection, recorder: &Recorder) {
    if let Some(proxy) = broker.proxy() {
        // The server has read all of what was sent to it.
        let closed = timeout(PATIENCE, proxy.until(|counts| counts.open == 0)).await;
        closed.expect("what was dropped is closed");
    }
    let left = drain(observer, KEPT).await;
    let left = left.iter().map(|message| message.decode().unwrap());
    recorder.left(KEPT, left.collect());
}

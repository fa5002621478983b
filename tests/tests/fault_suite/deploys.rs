//! Programs are replaced by newer ones, again and again, while messages keep coming.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kombu::{Exchange, Queue};
use kombu_testkit::expect::{drain, info};
use kombu_testkit::faults::{Breakable, Row};
use kombu_testkit::history::{Answer, Event, History, Recorder};
use kombu_tests::Work;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::stand::{self, count};
use crate::traffic::Publishing;
use crate::workers::{KILLED, Worker};

const PATIENCE: Duration = Duration::from_secs(60);
const WORKERS: usize = 4;
const PREFETCH: u32 = 16;
const FIRST_MARK: u64 = 1 << 40;

pub(crate) async fn under_load(broker: &mut Breakable) {
    let mut queue = Queue::new("jobs").dead_letter_exchange("failed");
    if broker.name() != "amqp" {
        // RabbitMQ has such a limit for quorum queues only, and counts there what comes back with its consumer.
        queue = queue.max_deliveries(20);
    }
    run(broker, queue, "deploy").await;
}

pub(crate) async fn of_a_quorum_queue(broker: &mut Breakable) {
    let queue = Queue::new("jobs").dead_letter_exchange("failed").quorum();
    run(broker, queue, "deploy, quorum queue").await;
}

async fn run(broker: &mut Breakable, queue: Queue, name: &str) {
    let deploys = count(3, 50);
    let mut rng = stand::rng();
    let recorder = Recorder::new();
    let connection = broker.observer().await.unwrap();
    let failed = Exchange::fanout("failed");
    let dead = Queue::new("dead").bind(&failed, "");
    connection.declare_queue(&dead).await.unwrap();
    connection.declare_queue(&queue).await.unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let marks = producer.clone();
    let pause = Duration::from_millis(10);
    let published = Publishing::start(1, producer, &recorder, rng.fork(), pause);

    let mut next = 1;
    let mut start = async |broker: &Breakable| {
        let (events, _) = mpsc::unbounded_channel();
        let numbers = (next, PREFETCH);
        next += 1;
        Worker::start(broker, &recorder, &queue, numbers, Work::Ack, events).await
    };
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(start(broker).await);
    }
    // What was held is back in this time, and was in front of the mark.
    let within = broker.gives_back_within() + Breakable::RECOVERY;
    let (mut drained, mut killed) = (HashSet::new(), HashSet::new());
    for deploy in 0..deploys {
        sleep(Duration::from_millis(rng.u64(200..700))).await;
        for is_drained in [true, false] {
            let newer = start(broker).await;
            let older = workers.remove(rng.usize(..WORKERS / 2));
            workers.push(newer);
            if is_drained {
                drained.insert(older.number);
                older.drain().await;
            } else {
                killed.insert(older.number);
                recorder.fault(KILLED);
                older.kill().await;
                recorder.over();
            }
        }
        let mark = FIRST_MARK + deploy;
        recorder.publishing(0, mark);
        recorder.expect(mark, Duration::ZERO, within);
        let answer = marks.publish(&mark).await;
        recorder.answered(mark, &answer);
    }
    published.end().await;
    // The last ones come back from the last that was killed.
    let emptied = async {
        loop {
            let info = info(&connection, "jobs").await;
            if info.ready == 0 && info.unsettled.unwrap_or(0) == 0 {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, emptied)
        .await
        .expect("they are all handled");
    for worker in workers {
        drained.insert(worker.number);
        worker.drain().await;
    }
    let left = drain(&connection, "jobs").await;
    let left = left.iter().map(|message| message.decode().unwrap());
    recorder.left("jobs", left.collect());
    let dead = drain(&connection, "dead").await;
    assert_eq!(dead.len(), 0, "they died of a deploy");
    connection.close().await.unwrap();
    let history = recorder.history();
    println!("{:?}", history.summary());
    let mut row = Row::of(broker.name(), name, deploys, &history, PATIENCE, within);
    row.broken.extend(stranded(&history, &drained, &killed));
    stand::report(vec![row], &history);
}

/// What was drained has acked all that it got, and nobody gets that again. Nothing is said of what was killed.
fn stranded(history: &History, drained: &HashSet<u32>, killed: &HashSet<u32>) -> Vec<String> {
    let mut held = HashSet::new();
    let mut acked = HashMap::new();
    let mut stranded = Vec::new();
    for record in history.records() {
        match &record.event {
            Event::Received {
                consumer, message, ..
            } => {
                if let Some(by) = acked.get(message)
                    && !killed.contains(consumer)
                {
                    stranded.push(format!(
                        "{consumer} got message {message}, and {by}, which was drained, had acked it"
                    ));
                }
                if drained.contains(consumer) {
                    held.insert((*consumer, *message));
                }
            }
            Event::Settled {
                consumer,
                message,
                answer: Answer::Queued | Answer::Confirmed,
                ..
            } if held.remove(&(*consumer, *message)) => {
                acked.insert(*message, *consumer);
            }
            _ => {}
        }
    }
    let unacked = held.into_iter().map(|(consumer, message)| {
        format!("{consumer} got message {message}, was drained and didn't ack it")
    });
    stranded.extend(unacked);
    stranded
}

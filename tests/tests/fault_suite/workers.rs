//! Programs that consume, and are killed.

use std::time::Duration;

use kombu::Faults;
use kombu::{Exchange, Queue};
use kombu_testkit::expect::{drain, info};
use kombu_testkit::faults::{Breakable, Row};
use kombu_testkit::history::{Answer, Event, Outcome, Recorder};
use kombu_tests::{Peer, Work, work, worker_event};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::stand::{self, count};

const PROGRAM: &str = env!("CARGO_BIN_EXE_worker");
const HELD: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that consumes: a process, or, where the broker lies within ours, a connection that is cut for good.
pub(crate) struct Worker {
    running: JoinHandle<()>,
    end: oneshot::Sender<End>,
}

enum End {
    Drain,
    Kill,
}

impl Worker {
    /// Starts one. Its events are taken down, and sent on.
    pub(crate) async fn start(
        broker: &Breakable,
        recorder: &Recorder,
        queue: &Queue,
        (number, prefetch): (u32, u32),
        what: Work,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        let tell = {
            let recorder = recorder.clone();
            move |event: Event| {
                recorder.record(event.clone());
                // Nobody may listen.
                let _ = events.send(event);
            }
        };
        let running = if broker.is_injected() {
            let faults = Faults::default();
            let connection = broker.observer().layer(faults.clone()).await.unwrap();
            let queue = queue.clone();
            tokio::spawn(async move {
                let (drain, drained) = oneshot::channel();
                let drained = async { drop(drained.await) };
                let working = work(connection, &queue, (number, prefetch), what, tell, drained);
                let mut working = std::pin::pin!(working);
                let end = tokio::select! {
                    () = &mut working => panic!("the worker ended by itself"),
                    end = ended => end.unwrap(),
                };
                match end {
                    End::Drain => {
                        drain.send(()).unwrap();
                        working.await;
                    }
                    End::Kill => faults.outage(true),
                }
            })
        } else {
            let queue = serde_json::to_string(queue).unwrap();
            let what = match what {
                Work::Hold => "hold",
                Work::Ack => "ack",
            };
            let (number, prefetch) = (number.to_string(), prefetch.to_string());
            let url = broker.url();
            let arguments = [&url, &queue, &number, &prefetch, what];
            let mut peer = Peer::run(Command::new(PROGRAM).args(arguments));
            tokio::spawn(async move {
                let mut ended = ended;
                let end = loop {
                    tokio::select! {
                        line = peer.line() => tell(worker_event(line)),
                        end = &mut ended => break end.unwrap(),
                    }
                };
                let rest = match end {
                    End::Drain => peer.rest().await,
                    End::Kill => peer.kill().await,
                };
                rest.into_iter().map(worker_event).for_each(tell);
            })
        };
        Worker { running, end }
    }

    /// Has it end in an orderly way, as at SIGTERM.
    pub(crate) async fn drain(self) {
        assert!(self.end.send(End::Drain).is_ok(), "it has ended");
        self.running.await.unwrap();
    }

    /// Kills it.
    pub(crate) async fn kill(self) {
        assert!(self.end.send(End::Kill).is_ok(), "it has ended");
        self.running.await.unwrap();
    }
}

/// Each message is in two queues; what the program held of one of them has to come back there, and nowhere else.
pub(crate) async fn are_killed(broker: &mut Breakable) {
    let kills = count(3, 100);
    // How long it takes to look, and to connect.
    let within = broker.gives_back_within() + Duration::from_secs(1);
    let recorder = Recorder::new();
    let connection = broker.observer().await.unwrap();
    let media = Exchange::topic("media");
    let [queue, sibling] = ["jobs", "sibling"].map(|name| Queue::new(name).bind(&media, "#"));
    for queue in [&queue, &sibling] {
        connection.declare_queue(queue).await.unwrap();
    }
    let producer = connection.producer(&media).routing_key("job");
    let producer = producer.await.unwrap();
    for kill in 0..kills {
        let numbers = kill * HELD..(kill + 1) * HELD;
        for message in numbers.clone() {
            recorder.publishing(0, message);
            let answer = producer.publish(&message).await;
            recorder.answered(message, &answer);
        }
        let (events, mut told) = mpsc::unbounded_channel();
        let numbers_of_worker = (kill as u32 + 1, HELD as u32);
        let worker = Worker::start(
            broker,
            &recorder,
            &queue,
            numbers_of_worker,
            Work::Hold,
            events,
        )
        .await;
        for _ in numbers.clone() {
            let told = timeout(PATIENCE, told.recv()).await;
            told.expect("it receives all of them").unwrap();
        }
        let held = info(&connection, "jobs").await;
        assert_eq!((held.ready, held.unsettled.unwrap_or(HELD)), (0, HELD));
        recorder.fault("a program is killed");
        for message in numbers.clone() {
            recorder.expect(message, Duration::ZERO, within);
        }
        worker.kill().await;
        let mut consumer = connection.consumer(&queue).await.unwrap();
        for _ in numbers {
            let Some(delivery) = consumer.receive(PATIENCE).await.unwrap() else {
                // The checker says which.
                break;
            };
            assert!(delivery.redelivered());
            let (message, delivery) = delivery.take::<u64>().unwrap();
            recorder.received(0, message, &delivery);
            let acked = delivery.ack().confirmed().await;
            let acked = Answer::of_sent(&acked, broker.answers_settles());
            recorder.settled(0, message, Outcome::Ack, acked);
        }
        consumer.cancel().await.unwrap();
    }
    assert_eq!(info(&connection, "jobs").await.ready, 0);
    let siblings = drain(&connection, "sibling").await;
    let siblings = siblings.iter().map(|message| message.decode().unwrap());
    assert_eq!(
        siblings.collect::<Vec<u64>>(),
        Vec::from_iter(0..kills * HELD)
    );
    connection.close().await.unwrap();
    let history = recorder.history();
    let (name, fault) = (broker.name(), "consumer killed with 64 deliveries");
    let row = Row::of(name, fault, kills, &history, PATIENCE, within);
    stand::report(vec![row], &history);
}

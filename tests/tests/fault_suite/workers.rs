//! Programs that consume, and are killed.

use std::time::Duration;

use futures_util::future::join_all;
use kombu::Faults;
use kombu::{Connection, Exchange, Queue};
use kombu_testkit::expect::{drain, info};
use kombu_testkit::faults::{Breakable, Row};
use kombu_testkit::history::{Answer, Event, Outcome, Recorder};
use kombu_tests::{Peer, Work, work, worker_event};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::stand::{self, count};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_worker");
const HELD: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const KILLED: &str = "a program is killed";

/// A program that consumes: a process, or, where the broker lies within ours, a connection that is cut for good.
pub(crate) struct Worker {
    /// Which consumer it is in the history.
    pub(crate) number: u32,
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
                Work::HoldAlone => "hold-alone",
                Work::Ack => "ack",
            };
            let (name, prefetch) = (number.to_string(), prefetch.to_string());
            let url = broker.url();
            let arguments = [&url, &queue, &name, &prefetch, what];
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
        Worker {
            number,
            running,
            end,
        }
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

/// Where a broker takes long to notice that a program is gone, so many are killed at once.
const AT_ONCE: u64 = 10;
const LONG: Duration = Duration::from_secs(10);

/// Each message is in two queues; what the program held of one of them has to come back there, and nowhere else.
pub(crate) async fn are_killed(broker: &mut Breakable) {
    let kills = count(3, 100);
    let lanes = match broker.gives_back_within() > LONG {
        true => kills.min(AT_ONCE),
        false => 1,
    };
    let recorder = Recorder::new();
    let connection = broker.observer().await.unwrap();
    let broker: &Breakable = broker;
    let killing = (0..lanes).map(|lane| kill(broker, &connection, &recorder, lane, kills / lanes));
    join_all(killing).await;
    connection.close().await.unwrap();
    let history = recorder.history();
    let (name, fault) = (broker.name(), "consumer killed with 64 deliveries");
    let tried = kills / lanes * lanes;
    let row = Row::of(name, fault, tried, &history, PATIENCE, within(broker));
    stand::report(vec![row], &history);
}

fn within(broker: &Breakable) -> Duration {
    // How long it takes to look, and to connect.
    broker.gives_back_within() + Duration::from_secs(1)
}

/// One after the other, on queues of their own.
async fn kill(
    broker: &Breakable,
    connection: &Connection,
    recorder: &Recorder,
    lane: u64,
    kills: u64,
) {
    let media = Exchange::topic("media");
    let key = format!("job-{lane}");
    let [queue, sibling] =
        ["jobs", "sibling"].map(|name| Queue::new(format!("{name}-{lane}")).bind(&media, &key));
    for queue in [&queue, &sibling] {
        connection.declare_queue(queue).await.unwrap();
    }
    let producer = connection.producer(&media).routing_key(key);
    let producer = producer.await.unwrap();
    let all = lane * kills * HELD..(lane + 1) * kills * HELD;
    for kill in 0..kills {
        let first = all.start + kill * HELD;
        let numbers = first..first + HELD;
        for message in numbers.clone() {
            recorder.publishing(lane as u32, message);
            let answer = producer.publish(&message).await;
            recorder.answered(message, &answer);
        }
        let (events, mut told) = mpsc::unbounded_channel();
        let number_of_worker = 1 + (lane * kills + kill) as u32;
        let worker = Worker::start(
            broker,
            recorder,
            &queue,
            (number_of_worker, HELD as u32),
            Work::Hold,
            events,
        )
        .await;
        for _ in numbers.clone() {
            let told = timeout(PATIENCE, told.recv()).await;
            told.expect("it receives all of them").unwrap();
        }
        let held = info(connection, queue.name().clone()).await;
        assert_eq!((held.ready, held.unsettled.unwrap_or(HELD)), (0, HELD));
        recorder.fault(KILLED);
        for message in numbers.clone() {
            recorder.expect(message, Duration::ZERO, within(broker));
        }
        worker.kill().await;
        recorder.over();
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
    assert_eq!(info(connection, queue.name().clone()).await.ready, 0);
    let siblings = drain(connection, sibling.name().clone()).await;
    let siblings = siblings.iter().map(|message| message.decode().unwrap());
    assert_eq!(siblings.collect::<Vec<u64>>(), Vec::from_iter(all));
}

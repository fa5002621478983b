//! Programs whose clocks are wrong, by an hour in both directions, and jump.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kombu::Queue;
use kombu_testkit::expect::info;
use kombu_testkit::faults::{Breakable, Row};
use kombu_testkit::history::{Event, Recorder};
use kombu_tests::{Peer, worker_event};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::stand::{self, count};

const PROGRAM: &str = env!("CARGO_BIN_EXE_worker");
const SOURCE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fault_suite/shifted_clock.c"
);
/// What the programs are told of the time: so many seconds more, or now more and now less.
const SHIFTS: [&str; 3] = ["3600", "-3600", "jump"];
const DELAY: Duration = Duration::from_secs(1);
/// How much later we may hear that something is published than it is.
const HEARING: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);
/// From here on, each message is as if it were the only one of its producer.
const UNORDERED: u32 = 1 << 16;

pub(crate) async fn are_wrong(broker: &mut Breakable) {
    let messages = count(50, 500);
    let recorder = Recorder::new();
    let library = compile();
    assert_shifted(&library);
    let observer = broker.observer().await.unwrap();
    let queue = Queue::new("jobs");
    observer.declare_queue(&queue).await.unwrap();
    let url = broker.url();
    let queue = serde_json::to_string(&queue).unwrap();
    let start = |shift: &str, arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .args([&url, &queue])
            .args(arguments)
            .env("LD_PRELOAD", &library)
            .env("SHIFTED_CLOCK", shift);
        Peer::run(&mut command)
    };
    let mut workers = Vec::new();
    for (number, shift) in SHIFTS.iter().enumerate() {
        let mut worker = start(shift, &[&number.to_string(), "16", "ack"]);
        let (end, mut ended) = oneshot::channel();
        let recorder = recorder.clone();
        let running = tokio::spawn(async move {
            loop {
                tokio::select! {
                    line = worker.line() => recorder.record(worker_event(line)),
                    _ = &mut ended => break,
                }
            }
            let rest = worker.rest().await;
            rest.into_iter()
                .for_each(|line| recorder.record(worker_event(line)));
        });
        workers.push((running, end));
    }
    // On NATS, several sessions move what is delayed.
    let keeps_order = broker.name() != "nats";
    let mut publishers = tokio::task::JoinSet::new();
    for (number, shift) in SHIFTS.iter().enumerate() {
        let (number, messages) = (number.to_string(), messages.to_string());
        let delay = DELAY.as_millis().to_string();
        let mut publisher = start(shift, &[&number, &messages, "publish", &delay]);
        let recorder = recorder.clone();
        publishers.spawn(async move {
            let mut left = messages.parse::<u64>().unwrap();
            while left > 0 {
                let mut event = worker_event(publisher.line().await);
                if let Event::Publishing { producer, message } = &mut event
                    && !keeps_order
                    && *message % 2 == 1
                {
                    *producer = UNORDERED + u32::try_from(*message).unwrap();
                }
                let publishing = match &event {
                    Event::Publishing { message, .. } => Some(*message),
                    _ => None,
                };
                left -= u64::from(publishing.is_none());
                recorder.record(event);
                if let Some(message) = publishing {
                    // The others have half an hour to live.
                    let delay = if message % 2 == 0 { HEARING } else { DELAY };
                    recorder.expect(message, delay - HEARING, delay + LATEST);
                }
            }
            publisher.end().await;
        });
    }
    publishers.join_all().await;
    sleep(DELAY + LATEST).await;
    for (running, end) in workers {
        end.send(()).unwrap();
        running.await.unwrap();
    }
    let left = info(&observer, "jobs").await;
    assert_eq!((left.ready, left.unsettled.unwrap_or(0)), (0, 0));
    observer.close().await.unwrap();
    let history = recorder.history();
    let summary = history.summary();
    assert_eq!(summary.stored, messages * SHIFTS.len() as u64);
    let allowed = DELAY + LATEST;
    let (name, tried) = (broker.name(), summary.stored);
    let mut row = Row::of(
        name,
        "clocks wrong by an hour",
        tried,
        &history,
        PATIENCE,
        allowed,
    );
    if row.duplicated > 0 {
        row.broken
            .push(format!("{} were handled twice", row.duplicated));
    }
    stand::report(vec![row], &history);
}

/// A library that tells a program another time.
fn compile() -> PathBuf {
    let library = std::env::temp_dir().join(format!("shifted-clock-{}.so", std::process::id()));
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([SOURCE, "-ldl"])
        .status();
    assert!(compiled.unwrap().success(), "cc fails");
    library
}

/// Otherwise, nothing would be proved.
fn assert_shifted(library: &Path) {
    let seconds = |shift: &str| {
        let mut date = std::process::Command::new("date");
        date.arg("+%s")
            .env("LD_PRELOAD", library)
            .env("SHIFTED_CLOCK", shift);
        let printed = String::from_utf8(date.output().unwrap().stdout).unwrap();
        printed.trim().parse::<i64>().unwrap()
    };
    let hours = (seconds("3600") - seconds("-3600")) as f64 / 3600.0;
    assert!((1.9..2.1).contains(&hours), "{hours} hours");
}

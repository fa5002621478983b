//! A Redis that goes for good, and its replica in its place.

use std::time::Duration;

use kombu::{Connection, Event, Exchange, Queue, RetryPolicy};
use kombu_testkit::brokers::{Redis, Sentinel};
use kombu_testkit::expect::collect_one;
use kombu_testkit::faults::{Breakable, Row};
use kombu_testkit::history::{Answer, History, Outcome, Recorder};
use kombu_tests::RedisAdmin;
use tokio::time::{sleep, timeout};

use crate::stand::{self, count, patient};

const PATIENCE: Duration = Duration::from_secs(60);
/// Until Sentinels have agreed, and everybody else knows.
const FAILOVER: Duration = Duration::from_secs(10);

pub(crate) async fn takes_over() {
    let failovers = count(1, 10);
    let mut total = Row {
        transport: "redis".into(),
        fault: "master killed, replica promoted".into(),
        allowed: FAILOVER.as_millis() as u64,
        ..Row::default()
    };
    let mut records = Vec::new();
    for _ in 0..failovers {
        let history = fail_over().await;
        let row = Row::of("redis", "", 1, &history, PATIENCE, FAILOVER);
        total.tried += 1;
        total.lost += row.lost;
        total.duplicated += row.duplicated;
        total.worst_stall = total.worst_stall.max(row.worst_stall);
        total.broken.extend(row.broken);
        records.extend(history.records().iter().cloned());
    }
    stand::report(vec![total], &History::from_iter(records));
}

async fn fail_over() -> History {
    const BEFORE: u64 = 2000;
    let recorder = Recorder::new();
    let mut master = Redis::start().unwrap();
    let replica = Redis::builder()
        .config(&format!("replicaof 127.0.0.1 {}", master.port()))
        .start()
        .unwrap();
    field(&RedisAdmin::of(&master), "replication", "state=online").await;
    let sentinel = Sentinel::of("main", master.port()).start().unwrap();
    field(&RedisAdmin::at(sentinel.address()), "sentinel", "slaves=1,").await;
    let url = format!("redis+sentinel://{}/main?lease=2", sentinel.address());
    let retry = RetryPolicy::default().longest_pause(Breakable::LONGEST_PAUSE);
    let connection = Connection::builder(kombu::registry())
        .url(url)
        .retry(retry)
        .deadlines(patient());
    let connection = connection.await.unwrap();
    let mut events = connection.events();
    let mut consumer = connection
        .consumer(&Queue::new("jobs"))
        .prefetch(10)
        .await
        .unwrap();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let mut receipts = Vec::new();
    for message in 0..BEFORE {
        recorder.publishing(0, message);
        receipts.push(producer.publish(&message).send().await.unwrap());
    }
    for (message, receipt) in (0..).zip(receipts) {
        recorder.answered(message, &receipt.await);
    }
    // What Redis had confirmed and not yet told its replica would be gone: nobody promises that.
    let told = field(
        &RedisAdmin::of(&master),
        "replication",
        "master_repl_offset:",
    )
    .await;
    let told: u64 = told.trim().parse().unwrap();
    while field(
        &RedisAdmin::of(&replica),
        "replication",
        "slave_repl_offset:",
    )
    .await
    .trim()
    .parse::<u64>()
    .unwrap()
        < told
    {
        sleep(Duration::from_millis(10)).await;
    }
    recorder.fault("the master is killed");
    recorder.expect(BEFORE, Duration::ZERO, FAILOVER);
    tokio::task::block_in_place(|| master.kill().unwrap());
    let restored = async {
        while !matches!(events.next().await.unwrap(), Event::Restored { .. }) {}
        recorder.over();
    };
    let restored = timeout(PATIENCE, restored);
    let publishing = async {
        recorder.publishing(0, BEFORE);
        let answer = producer.publish(&BEFORE).await;
        recorder.answered(BEFORE, &answer);
    };
    let consuming = async {
        loop {
            let delivery = timeout(PATIENCE, collect_one(&mut consumer)).await;
            let Ok(delivery) = delivery else {
                break;
            };
            let (message, delivery) = delivery.take::<u64>().unwrap();
            recorder.received(0, message, &delivery);
            let acked = Answer::of_sent(&delivery.ack().confirmed().await, true);
            recorder.settled(0, message, Outcome::Ack, acked);
            if message == BEFORE {
                break;
            }
        }
    };
    let (restored, (), ()) = tokio::join!(restored, publishing, consuming);
    restored.expect("a new master");
    connection.close().await.unwrap();
    recorder.history()
}

/// Waits until a line of `INFO` is there, and answers the rest of it.
async fn field(admin: &RedisAdmin, section: &str, line: &str) -> String {
    let looking = async {
        loop {
            let text = admin.text(["INFO", section]);
            let found = text.lines().find_map(|one| one.split_once(line));
            if let Some((_, rest)) = found {
                return rest.to_owned();
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.expect("the line")
}

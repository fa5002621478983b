//! Three NATS servers that form a cluster, of which one is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_nats), allow(dead_code, unused_imports))]

use std::collections::BTreeSet;
use std::time::Duration;

use kombu::{Connection, Deadlines, ErrorKind, Event, Exchange, Queue};
use kombu_testkit::brokers::{Data, Nats};
use kombu_testkit::expect::collect_one;
use kombu_tests::NatsLine;
use serde_json::Value;
use tokio::sync::watch;

/// Longer than a cluster needs to find a leader.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a session waits for an answer.
const SILENCE: Duration = Duration::from_secs(7);
/// How soon something is put right: twice the longest silence of a pull, and a pause.
const SOON: Duration = Duration::from_secs(5);

async fn connect(cluster: &[Nats; 3]) -> Connection {
    let hosts: Vec<_> = cluster.iter().map(Nats::address).collect();
    let mut deadlines = Deadlines::default();
    (deadlines.connect, deadlines.publish) = (PATIENCE, PATIENCE);
    (deadlines.declare, deadlines.settle) = (PATIENCE, PATIENCE);
    Connection::builder(kombu::registry())
        .url(format!("nats://{}?replicas=3", hosts.join(",")))
        .deadlines(deadlines)
        .await
        .unwrap()
}

/// What one of the servers says of the stream of a queue.
fn stream(nats: &Nats, queue: &str) -> Value {
    let (mut line, name) = NatsLine::to_stream_of(nats, queue);
    line.request(&format!("$JS.API.STREAM.INFO.{name}"), "")
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn what_was_confirmed_survives_the_leader() {
    let mut cluster = Nats::start_cluster().unwrap();
    let connection = connect(&cluster).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let kept = Queue::new("kept").bind(Exchange::topic("work"), "job.#");
    connection.declare_queue(&kept).await.unwrap();
    let producers = [
        connection.producer(Exchange::default()).routing_key("jobs"),
        connection
            .producer(Exchange::topic("work"))
            .routing_key("job.new"),
    ];
    let mut publishing = Vec::new();
    for producer in producers {
        let producer = producer.await.unwrap();
        publishing.push(tokio::spawn(async move {
            let mut confirmed = BTreeSet::new();
            for number in 0..2_000_u32 {
                match producer.publish(&number).await {
                    Ok(_) => drop(confirmed.insert(number)),
                    // Without a leader for so long that the queue might not know it again.
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Timeout, "{number}: {error}");
                        assert!(error.may_have_been_stored(), "{number}: {error}");
                    }
                }
            }
            confirmed
        }));
    }
    let (confirmed, mut wanted) = watch::channel(None::<BTreeSet<u32>>);
    let consuming = tokio::spawn(async move {
        let mut seen = BTreeSet::new();
        let has_all = |seen: &BTreeSet<u32>, wanted: &Option<BTreeSet<u32>>| {
            wanted.as_ref().is_some_and(|all| seen.is_superset(all))
        };
        while !has_all(&seen, &wanted.borrow()) {
            tokio::select! {
                delivery = consumer.try_next() => {
                    let delivery = delivery.unwrap().expect("it goes on");
                    seen.insert(delivery.decode::<u32>().unwrap());
                    delivery.ack().await.unwrap();
                }
                Ok(()) = wanted.changed() => {}
            }
        }
    });
    let leader = stream(&cluster[0], "jobs")["cluster"]["leader"].clone();
    let leader: usize = leader.as_str().unwrap()[1..].parse().unwrap();
    cluster[leader].kill().unwrap();
    let mut all = publishing.into_iter();
    let (to_jobs, to_kept) = (all.next().unwrap().await, all.next().unwrap().await);
    let (to_jobs, to_kept) = (to_jobs.unwrap(), to_kept.unwrap());
    for confirmed in [&to_jobs, &to_kept] {
        assert!(confirmed.len() >= 1_990 && confirmed.contains(&1_999));
    }
    confirmed.send_replace(Some(to_jobs));
    let seen = tokio::time::timeout(PATIENCE, consuming).await;
    seen.expect("all that was confirmed is consumed").unwrap();
    let mut kept = BTreeSet::new();
    while !kept.is_superset(&to_kept) {
        // Nobody else has any.
        let delivery = connection
            .get("kept")
            .await
            .unwrap()
            .expect("all are there");
        kept.insert(delivery.decode::<u32>().unwrap());
        delivery.ack().await.unwrap();
    }
    // One that comes back changes nothing.
    cluster[leader].restart(Data::Keep).unwrap();
    connection.close().await.unwrap();
}

/// The first of these queues whose stream and consumer the first server leads, or doesn't.
async fn declare_on_first(
    cluster: &[Nats; 3],
    connection: &Connection,
    mut queues: impl Iterator<Item = Queue>,
    is_led: bool,
) -> Queue {
    loop {
        let queue = queues.next().expect("one is led so");
        connection.declare_queue(&queue).await.unwrap();
        let stream = stream(&cluster[0], queue.name());
        let (mut line, name) = NatsLine::to_stream_of(&cluster[0], queue.name());
        let consumer = line.request(&format!("$JS.API.CONSUMER.INFO.{name}.c0"), "");
        let leads = |info: &Value| info["cluster"]["leader"] == "n0";
        if leads(&stream) == is_led && leads(&consumer) == is_led {
            return queue;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn a_server_that_stays_dead_costs_nobody_beside_it_a_session() {
    let mut cluster = Nats::start_cluster().unwrap();
    let connect = async |servers: &str, publish| {
        let mut deadlines = Deadlines::default();
        (deadlines.publish, deadlines.declare) = (publish, PATIENCE);
        deadlines.connect = PATIENCE;
        let url = format!("nats://{servers}?replicas=3");
        let connection = Connection::builder(kombu::registry()).url(url);
        connection.deadlines(deadlines).await.unwrap()
    };
    let alive = cluster[2].address();
    let owner = connect(&alive, PATIENCE).await;
    let names = |name| (0..50).map(move |number| Queue::new(format!("{name}{number}")));
    let mine = names("mine").map(|queue| queue.exclusive(true));
    let mine = declare_on_first(&cluster, &owner, mine, true).await;
    let lonely = names("lonely").map(|queue| queue.expires(PATIENCE));
    let lonely = declare_on_first(&cluster, &owner, lonely, true).await;
    // What was handed out just before its leader died, who told nobody yet, would be handed out again.
    let jobs = declare_on_first(&cluster, &owner, names("jobs"), false).await;
    let (worker, sender) = (
        connect(&alive, PATIENCE).await,
        connect(&alive, SILENCE).await,
    );
    let mut events = [owner.events(), worker.events(), sender.events()];
    let mut consumer = worker.consumer(&jobs).await.unwrap();
    let producer = worker.producer(Exchange::default());
    let producer = producer.routing_key(jobs.name()).await.unwrap();
    producer.publish_text("held").await.unwrap();
    let held = collect_one(&mut consumer).await;
    let to_lonely = sender
        .producer(Exchange::default())
        .routing_key(lonely.name());
    let to_lonely = to_lonely.await.unwrap();
    cluster[0].kill().unwrap();
    // Longer than a session waits for a server.
    let error = to_lonely.publish_text("nowhere").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    producer.publish_text("next").await.unwrap();
    let next = collect_one(&mut consumer).await;
    assert_eq!(next.body(), "next");
    next.ack().confirmed().await.unwrap();
    held.ack().confirmed().await.unwrap();
    // Somebody who begins now; and what belongs to somebody who ends goes.
    let other = connect(&alive, PATIENCE).await;
    assert_eq!(
        other.queue_info(jobs.name().clone()).await.unwrap().ready,
        0
    );
    owner.close().await.unwrap();
    let error = other.queue_info(mine.name().clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    for connection in [worker, sender, other] {
        connection.close().await.unwrap();
    }
    for events in &mut events {
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
        }
    }
}

/// A consumer waits meanwhile.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn consumption_goes_on_when_a_queue_has_another_leader() {
    let cluster = Nats::start_cluster().unwrap();
    let connection = connect(&cluster).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut events = connection.events();
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let (mut line, name) = NatsLine::to_stream_of(&cluster[0], "jobs");
    let steps = [
        format!("$JS.API.CONSUMER.LEADER.STEPDOWN.{name}.c0"),
        format!("$JS.API.STREAM.LEADER.STEPDOWN.{name}"),
    ];
    for (number, step) in steps.iter().cycle().take(6).enumerate() {
        let stepped = line.request(step, "");
        assert_eq!(stepped["success"], true, "{stepped}");
        producer.publish_text(number.to_string()).await.unwrap();
        let next = tokio::time::timeout(SOON, collect_one(&mut consumer)).await;
        let next = next.unwrap_or_else(|_| panic!("{number}: it goes on"));
        assert_eq!(next.body(), &number.to_string());
        next.ack().confirmed().await.unwrap();
    }
    connection.close().await.unwrap();
    while let Some(event) = events.next().await {
        assert!(!matches!(event, Event::Lost { .. }), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test with")]
async fn temporary_queues_are_not_replicated() {
    let cluster = Nats::start_cluster().unwrap();
    let connection = connect(&cluster).await;
    for (queue, replicas) in [
        (Queue::new("durable"), 3),
        (Queue::new("exclusive").exclusive(true), 1),
        (Queue::new("auto-delete").auto_delete(true), 1),
        (Queue::new("expires").expires(Duration::from_secs(60)), 1),
        (Queue::new("transient").durable(false), 1),
    ] {
        connection.declare_queue(&queue).await.unwrap();
        let config = stream(&cluster[0], queue.name())["config"].clone();
        assert_eq!(config["num_replicas"], replicas, "{}", queue.name());
    }
    connection.close().await.unwrap();
}

//! What consumers on NATS hold for long, and what becomes of what a killed program had.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use futures_util::future::{join_all, select_all};
use kombu::{Connection, ErrorKind, Exchange, Queue};
use kombu_testkit::brokers::Nats;
use kombu_testkit::expect::{collect, collect_one, info};
use kombu_tests::Peer;
use tokio::process::Command;
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_worker");

/// Longer than the server waits for whoever holds a message, which is 30 s.
const LONG: Duration = Duration::from_secs(37);
/// How soon what a killed program had is free, as `Feature::ExclusiveQueue` says.
const FREE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);

async fn connect(nats: &Nats) -> Connection {
    kombu::connect(nats.url()).await.unwrap()
}

async fn publish(connection: &Connection, queue: &Queue, numbers: std::ops::Range<u64>) {
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue.name().clone()).await.unwrap();
    for number in numbers {
        producer.publish(&number).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_a_live_consumer_holds_stays_with_it_for_as_long_as_it_likes() {
    let nats = Nats::start().unwrap();
    let (connection, other) = (connect(&nats).await, connect(&nats).await);
    let queues = ["handed", "fetched", "got"].map(Queue::new);
    let [handed, fetched, got] = &queues;
    for queue in &queues {
        connection.declare_queue(queue).await.unwrap();
    }
    publish(&connection, handed, 0..1).await;
    publish(&connection, fetched, 0..4).await;
    publish(&connection, got, 0..1).await;
    let mut asked = connection.consumer(handed).await.unwrap();
    let one = collect_one(&mut asked).await;
    // Nobody asks it for the others, unless it takes that to fetch them.
    let mut unasked = connection.consumer(fetched).await.unwrap();
    let mut received = vec![collect_one(&mut unasked).await];
    let single = connection.get("got").await.unwrap().unwrap();
    let all_are_fetched = async {
        while info(&other, "fetched").await.unsettled != Some(4) {
            received.extend(unasked.receive(PAUSE).await.unwrap());
        }
    };
    timeout(LONG, all_are_fetched).await.expect("they are");
    let mut waiting = Vec::new();
    for queue in &queues {
        waiting.push(other.consumer(queue).await.unwrap());
    }
    let anything = waiting.iter_mut().map(|consumer| Box::pin(consumer.next()));
    if let Ok((taken, ..)) = timeout(LONG, select_all(anything)).await {
        panic!("somebody else has got what is held: {taken:?}");
    }
    let left = 4 - received.len();
    let mut all = vec![one, single];
    all.extend(received);
    all.extend(collect(&mut unasked, left).await);
    for delivery in all {
        assert_eq!(delivery.attempt(), 1, "{delivery:?}");
        assert!(!delivery.redelivered(), "{delivery:?}");
        delivery.ack().confirmed().await.unwrap();
    }
    for queue in &queues {
        let info = info(&other, queue.name().clone()).await;
        assert_eq!((info.ready, info.unsettled), (0, Some(0)), "{queue:?}");
    }
}

/// Starts a program that consumes, and waits until it has a message.
async fn hold(nats: &Nats, connection: &Connection, queue: &Queue, what: &str) -> Peer {
    let url = nats.url();
    let text = serde_json::to_string(queue).unwrap();
    let mut peer = Peer::run(Command::new(PROGRAM).args([&url, &text, "1", "1", what]));
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue.name().clone()).await.unwrap();
    let declared = async {
        let publish = || producer.publish(&0_u64).allow_unroutable();
        while !publish().await.unwrap().routed {
            tokio::time::sleep(PAUSE).await;
        }
    };
    timeout(LONG, declared)
        .await
        .expect("it declares its queue");
    peer.line().await;
    peer
}

/// However many others there are, and whoever of them looks.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(kombu_test_nats), ignore = "there is no NATS to test against")]
async fn what_a_killed_program_had_for_itself_is_free_for_others_within_half_a_minute() {
    let nats = Nats::start().unwrap();
    let others = join_all((0..5).map(|_| connect(&nats))).await;
    let mine = Queue::new("mine").exclusive(true);
    let alone = Queue::new("alone");
    let turns = Queue::new("turns").single_active_consumer(true);
    let programs = [
        hold(&nats, &others[0], &mine, "hold").await,
        hold(&nats, &others[0], &alone, "hold-alone").await,
        hold(&nats, &others[0], &turns, "hold").await,
    ];
    let error = others[1].declare_queue(&mine).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceLocked, "{error}");
    let consume_alone = || others[2].consumer(&alone).exclusive(true);
    let error = consume_alone().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessRefused, "{error}");
    // What comes next is for whoever has the turn then; what the program holds comes back later.
    let mut next = others[3].consumer(&turns).await.unwrap();
    publish(&others[4], &turns, 7..8).await;
    for program in programs {
        program.kill().await;
    }
    let killed = Instant::now();
    let queue_is_free = async {
        while let Err(error) = others[1].declare_queue(&mine).await {
            assert_eq!(error.kind(), ErrorKind::ResourceLocked, "{error}");
            tokio::time::sleep(PAUSE).await;
        }
        killed.elapsed()
    };
    let consumer_is_free = async {
        while let Err(error) = consume_alone().await {
            assert_eq!(error.kind(), ErrorKind::AccessRefused, "{error}");
            tokio::time::sleep(PAUSE).await;
        }
        killed.elapsed()
    };
    let turn_is_free = async {
        let delivery = collect_one(&mut next).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), 7);
        delivery.ack().confirmed().await.unwrap();
        killed.elapsed()
    };
    let all = async { tokio::join!(queue_is_free, consumer_is_free, turn_is_free) };
    let (queue, consumer, turn) = timeout(2 * FREE, all).await.expect("they are free");
    let latest = queue.max(consumer).max(turn);
    assert!(latest < FREE, "{queue:?}, {consumer:?}, {turn:?}");
}

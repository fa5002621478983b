//! A Redis that does to us what it does to its users: it dies, forgets, refuses, hangs and runs full, and other programs
//! write where we do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::collections::HashSet;
use std::future::IntoFuture;
use std::time::Duration;

use kombu::driver::{Target, Transport};
use kombu::{
    Connection, Consumer, Deadlines, Delivery, Entity, ErrorKind, Event, Events, Exchange,
    Producer, Queue, RetryPolicy,
};
use kombu_testkit::brokers::{Data, Redis};
use kombu_testkit::expect::{assert_empty, collect_one, drain, info};
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_tests::RedisAdmin;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection that comes back soon, however often it is lost.
async fn connect(url: impl Into<String>) -> Connection {
    builder(url).await.unwrap()
}

fn builder(url: impl Into<String>) -> kombu::ConnectionBuilder {
    let retry = RetryPolicy::default().longest_pause(Duration::from_millis(100));
    Connection::builder(kombu::registry()).url(url).retry(retry)
}

async fn producer_to(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue).await.unwrap()
}

async fn until(events: &mut Events, mut is_it: impl FnMut(&Event) -> bool) {
    let found = async { while !is_it(&events.next().await.expect("the connection has ended")) {} };
    timeout(PATIENCE, found).await.expect("the event");
}

async fn restored(events: &mut Events) {
    until(events, |event| matches!(event, Event::Restored { .. })).await;
}

async fn receive(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, collect_one(consumer))
        .await
        .expect("a delivery")
}

async fn receive_number(consumer: &mut Consumer) -> u64 {
    let delivery = receive(consumer).await;
    let number = delivery.decode().unwrap();
    delivery.ack().confirmed().await.unwrap();
    number
}

/// Acks what comes, until it has seen `last`; answers what came, in order.
fn consume_until(mut consumer: Consumer, last: u64) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let delivery = receive(&mut consumer).await;
            let number = delivery.decode().unwrap();
            seen.push(number);
            // One that came with a session that is lost comes again.
            drop(delivery.ack().confirmed().await);
            if number == last {
                return seen;
            }
        }
    })
}

/// Publishes the numbers below `count`, many at once, while `fault` happens; answers those that were taken over.
async fn publish_all(
    producer: &Producer,
    count: u64,
    fault: impl Future<Output = ()>,
) -> Vec<(u64, kombu::Result<kombu::Published>)> {
    let publishing = async {
        let mut receipts = Vec::new();
        for number in 0..count {
            receipts.push((number, producer.publish(&number).send().await.unwrap()));
            // Others have their turn.
            tokio::task::yield_now().await;
        }
        let mut answers = Vec::new();
        for (number, receipt) in receipts {
            answers.push((number, receipt.await));
        }
        answers
    };
    tokio::join!(publishing, fault).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_was_confirmed_survives_a_kill_where_redis_stores_it() {
    const LAST: u64 = 3000;
    let mut redis = Redis::builder().persistent().start().unwrap();
    let connection = connect(redis.url()).await;
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    let (some, mut arrived) = tokio::sync::mpsc::channel(1);
    let consuming = tokio::spawn(async move {
        let mut seen = HashSet::new();
        while !seen.contains(&LAST) {
            let delivery = receive(&mut consumer).await;
            seen.insert(delivery.decode::<u64>().unwrap());
            drop(delivery.ack().confirmed().await);
            // Nobody listens any more after the first ones.
            let _ = some.try_send(());
        }
        (seen, consumer)
    });
    // On a thread of its own: publishing goes on meanwhile.
    let killing = tokio::spawn(async move {
        arrived.recv().await.unwrap();
        tokio::task::block_in_place(|| {
            redis.kill().unwrap();
            redis.restart(Data::Keep).unwrap();
        });
        redis
    });
    let answers = publish_all(&jobs, LAST, async {}).await;
    let _redis = killing.await.unwrap();
    restored(&mut events).await;
    jobs.publish(&LAST).await.unwrap();
    let (seen, consumer) = consuming.await.unwrap();
    let resent = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().unwrap().resent)
        .count();
    assert!(resent > 0, "the kill met nobody");
    let lost: Vec<_> = (0..LAST).filter(|number| !seen.contains(number)).collect();
    assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
    drop(consumer);
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_restart_erased_is_declared_again() {
    let mut redis = Redis::start().unwrap();
    let connection = connect(redis.url()).await;
    let mut events = connection.events();
    let media = Exchange::topic("media");
    let videos = Queue::new("videos").bind(&media, "video.#");
    let mut consumer = connection.consumer(&videos).await.unwrap();
    let producer = connection.producer(&media).await.unwrap();
    redis.restart(Data::Erase).unwrap();
    let mut recreated = HashSet::new();
    until(&mut events, |event| {
        if let Event::Recreated { what, name } = event {
            recreated.insert((*what, name.to_string()));
        }
        matches!(event, Event::Restored { .. })
    })
    .await;
    let expected = [
        (Entity::Exchange, "media".to_owned()),
        (Entity::Queue, "videos".to_owned()),
    ];
    assert_eq!(recreated, HashSet::from(expected));
    let published = producer.publish(&1).routing_key("video.new").await.unwrap();
    assert!(published.routed);
    assert_eq!(receive_number(&mut consumer).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn scripts_that_redis_forgets_cost_nothing_but_time() {
    const LAST: u64 = 5000;
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    // The other's scripts are loaded in between.
    let other = connect(redis.url()).await;
    let consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let second = other.consumer(&Queue::new("other")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    let others = producer_to(&other, "other").await;
    let consuming = [
        consume_until(consumer, LAST - 1),
        consume_until(second, LAST - 1),
    ];
    let forget = async {
        for _ in 0..50 {
            admin.ask(["SCRIPT", "FLUSH"]);
            tokio::task::yield_now().await;
        }
    };
    let (answers, _) = tokio::join!(
        publish_all(&jobs, LAST, forget),
        publish_all(&others, LAST, async {})
    );
    for (_, answer) in answers {
        assert!(!answer.unwrap().resent);
    }
    for consuming in consuming {
        assert!(consuming.await.unwrap().into_iter().eq(0..LAST));
    }
    for connection in [connection, other] {
        assert_eq!(connection.health().sessions, 1);
        connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_redis_that_was_flushed_is_one_that_lost_its_state() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let mut events = connection.events();
    let media = Exchange::direct("media");
    let jobs = Queue::new("jobs").bind(&media, "job");
    let consumer = connection.consumer(&jobs).await.unwrap();
    let producer = connection.producer(&media).routing_key("job");
    let producer = producer.await.unwrap();
    // Nothing but its next publish tells this one.
    let other = connect(redis.url()).await;
    let mut others_events = other.events();
    other.declare_queue(&Queue::new("other")).await.unwrap();
    let lone = producer_to(&other, "other").await;
    let mut first = 0;
    let mut consumer = Some(consumer);
    for _ in 0..5 {
        let (flushed, mut flush) = tokio::sync::oneshot::channel();
        let flushing = async {
            tokio::task::yield_now().await;
            admin.ask(["FLUSHALL"]);
            flushed.send(()).unwrap();
        };
        let publishing = async {
            // Until a while after it.
            let mut left = 300;
            let mut receipts = Vec::new();
            while left > 0 {
                receipts.push(producer.publish(&first).send().await.unwrap());
                first += 1;
                if left < 300 || flush.try_recv().is_ok() {
                    left -= 1;
                }
                tokio::task::yield_now().await;
            }
            for receipt in receipts {
                // What it was published to is gone, and comes back: nobody is told otherwise.
                assert!(receipt.await.unwrap().routed);
            }
        };
        let consuming = consumer.take().unwrap();
        let consuming = consume_on(consuming);
        tokio::join!(flushing, publishing);
        assert!(lone.publish(&1).await.unwrap().routed);
        restored(&mut others_events).await;
        assert_eq!(drain(&other, "other").await.len(), 1);
        restored(&mut events).await;
        consumer = Some(consuming.finish(&producer).await);
    }
    assert!(connection.health().sessions >= 2);
    connection.close().await.unwrap();
}

/// Acks what comes until it is told to finish; then it waits for one more message of its own.
struct Consuming {
    finish: tokio::sync::watch::Sender<bool>,
    task: JoinHandle<Consumer>,
}

fn consume_on(mut consumer: Consumer) -> Consuming {
    let (finish, mut finishing) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(async move {
        loop {
            let delivery = receive(&mut consumer).await;
            let number: u64 = delivery.decode().unwrap();
            drop(delivery.ack().confirmed().await);
            if number == u64::MAX && *finishing.borrow_and_update() {
                return consumer;
            }
        }
    });
    Consuming { finish, task }
}

impl Consuming {
    async fn finish(self, producer: &Producer) -> Consumer {
        self.finish.send_replace(true);
        producer.publish(&u64::MAX).await.unwrap();
        self.task.await.unwrap()
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn clients_that_redis_kills_come_back_at_once() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    for number in 0..5 {
        jobs.publish(&number).await.unwrap();
        let held = receive(&mut consumer).await;
        admin.ask(["CLIENT", "KILL", "TYPE", "normal"]);
        restored(&mut events).await;
        let lost = held.ack().confirmed().await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::SettleLost);
        assert_eq!(receive_number(&mut consumer).await, number);
    }
    assert_empty(&connection, "jobs").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_lost_session_held_comes_back_with_the_next_one() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.address()).await.unwrap();
    // Nobody else would give it back for a minute.
    let url = format!("redis://{}?lease=60", proxy.address());
    let connection = connect(url).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mine = Queue::new("mine").exclusive(true);
    connection.declare_queue(&mine).await.unwrap();
    producer_to(&connection, "jobs")
        .await
        .publish(&1)
        .await
        .unwrap();
    let held = receive(&mut consumer).await;
    proxy.cut().await;
    let again = timeout(Duration::from_secs(1), collect_one(&mut consumer));
    let again = again.await.expect("it comes back at once");
    assert!(again.redelivered());
    again.ack().confirmed().await.unwrap();
    held.lost().await;
    // So does the name of an exclusive queue.
    info(&connection, "mine").await;
    let admin = RedisAdmin::of(&redis);
    let sessions = admin.ask(["ZCARD", "_kombu.rs.sessions"]);
    assert_eq!(sessions, ":1");
    connection.close().await.unwrap();
    assert_eq!(admin.ask(["ZCARD", "_kombu.rs.sessions"]), ":0");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_connection_that_is_closed_takes_its_queues_with_it() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    // Nobody else is there to do so.
    let connection = connect(redis.url()).await;
    let mine = Queue::new("mine").exclusive(true);
    let mine = mine.bind(Exchange::direct("media"), "video");
    for number in 0..150 {
        let another = Queue::new(format!("mine {number}")).exclusive(true);
        connection.declare_queue(&another).await.unwrap();
    }
    let mut consumer = connection.consumer(&mine).prefetch(1).await.unwrap();
    let to_it = producer_to(&connection, "mine").await;
    for number in 0..2 {
        to_it.publish(&number).await.unwrap();
    }
    let held = receive(&mut consumer).await;
    let temporary = Queue::new("temporary").auto_delete(true);
    let other = connection.consumer(&temporary).await.unwrap();
    connection.close().await.unwrap();
    for (command, key) in [
        ("HLEN", "_kombu.rs.queues"),
        ("SCARD", "_kombu.rs.doomed"),
        ("SCARD", "_kombu.binding.media"),
        ("EXISTS", "_kombu.rs.q.mine"),
        ("EXISTS", "mine"),
    ] {
        assert_eq!(admin.ask([command, key]), ":0", "{key}");
    }
    drop((consumer, held, other));
    // The names are anybody's.
    let connection = connect(redis.url()).await;
    connection.declare_queue(&mine).await.unwrap();
    assert_empty(&connection, "mine").await;
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn where_an_answer_was_left_for_a_day_a_queue_stays() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let time = |queue: &str| admin.ask(["PTTL", queue]);
    for queue in ["declared", "consumed", "gotten", "published"] {
        for number in 0..2 {
            let answer = producer.publish(&number).routing_key(queue);
            let answer = answer.correlation_id("7").allow_unroutable();
            answer.await.unwrap();
        }
        assert!(time(queue).len() > ":-1".len(), "{queue}");
    }
    let declared = Queue::new("declared");
    connection.declare_queue(&declared).await.unwrap();
    let consumed = Queue::new("consumed").no_declare();
    let mut consumer = connection.consumer(&consumed).prefetch(1).await.unwrap();
    let _held = receive(&mut consumer).await;
    let _gotten = connection.get("gotten").await.unwrap().unwrap();
    producer.publish(&2).routing_key("published").await.unwrap();
    for queue in ["declared", "consumed", "gotten", "published"] {
        assert_eq!(time(queue), ":-1", "{queue}");
    }

    // Others don't know of the queues that this connection found.
    let other = connect(redis.url()).await;
    let answers = other.producer(Exchange::default()).await.unwrap();
    let answer = |queue: &'static str| {
        let publish = answers.publish(&3).routing_key(queue);
        publish.correlation_id("7").allow_unroutable()
    };
    // One that is consumed from.
    admin.ask(["DEL", "consumed"]);
    assert!(!answer("consumed").await.unwrap().routed);
    assert_eq!(time("consumed"), ":-1");
    // One that was known, and is used again.
    admin.ask(["DEL", "published"]);
    assert!(!answer("published").await.unwrap().routed);
    assert!(!answer("published").await.unwrap().routed);
    assert!(time("published").len() > ":-1".len());
    let _gotten = connection.get("published").await.unwrap().unwrap();
    assert_eq!(time("published"), ":-1");
    // One that is declared, and empty.
    let row = "tasks\u{6}\u{16}\u{6}\u{16}tasks";
    admin.ask(["SADD", "_kombu.binding.tasks", row]);
    assert!(answer("tasks").await.unwrap().routed);
    assert_eq!(time("tasks"), ":-1");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_queue_of_pythons_is_consumed_from_when_something_was_delayed_to_it() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let row = "k\u{6}\u{16}\u{6}\u{16}theirs";
    admin.ask(["SADD", "_kombu.binding.px", row]);
    let connection = connect(redis.url()).await;
    let theirs = connection.producer(Exchange::direct("px"));
    let theirs = theirs.routing_key("k").await.unwrap();
    let soon = Duration::from_millis(1);
    assert!(theirs.publish(&1).delay(soon).await.unwrap().routed);
    let queue = Queue::new("theirs").no_declare();
    let mut consumer = connection.consumer(&queue).await.unwrap();
    assert_eq!(receive_number(&mut consumer).await, 1);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn whoever_closes_a_session_second_waits_until_it_has_ended() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let target = Target::new(redis.url().parse().unwrap());
    for gives_up in [false, true] {
        let session = kombu::redis::Redis.connect(&target).await.unwrap();
        assert_eq!(admin.ask(["ZCARD", "_kombu.rs.sessions"]), ":1");
        let mut first = session.close();
        tokio::select! {
            biased;
            _ = &mut first => panic!("it has something to wait for"),
            () = std::future::ready(()) => {}
        }
        let second = timeout(PATIENCE, session.close());
        if gives_up {
            drop(first);
            second.await.unwrap().unwrap();
        } else {
            tokio::select! {
                ended = first => ended.unwrap(),
                ended = second => ended.unwrap().unwrap(),
            }
        }
        assert_eq!(admin.ask(["ZCARD", "_kombu.rs.sessions"]), ":0");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn nothing_is_remembered_of_queues_that_are_not_there_any_more() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let producer = connection.producer(Exchange::default()).await.unwrap();
    let answer = |queue: String| {
        let publish = producer.publish(&1).routing_key(queue);
        publish.correlation_id("7").allow_unroutable()
    };
    let loads = || {
        // Nothing but the load of all declarations asks for whole hashes here.
        let statistics = admin.text(["INFO", "commandstats"]);
        let mut lines = statistics.lines();
        let count = lines.find_map(|line| line.strip_prefix("cmdstat_hgetall:calls="));
        let count = count.and_then(|rest| rest.split(',').next());
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let before = loads();
    for number in 0..20 {
        let queue = format!("answers {number}");
        for _ in 0..2 {
            answer(queue.clone()).await.unwrap();
        }
        assert_eq!(admin.ask(["LLEN", &queue]), ":2");
    }
    assert_eq!(loads(), before, "all declarations were loaded again");
    // One of Python's is known only while somebody here has something of it.
    let theirs = Queue::new("answers 0").no_declare();
    let mut consumer = connection.consumer(&theirs).await.unwrap();
    for _ in 0..2 {
        assert_eq!(receive_number(&mut consumer).await, 1);
    }
    assert_eq!(admin.ask(["EXISTS", "_kombu.rs.q.answers 0"]), ":1");
    consumer.cancel().await.unwrap();
    for _ in 0..2 {
        let gotten = connection.get("answers 1").await.unwrap().unwrap();
        gotten.ack().confirmed().await.unwrap();
    }
    let soon = Duration::from_millis(1);
    let delayed = producer.publish(&2).routing_key("answers 2").delay(soon);
    assert!(delayed.await.unwrap().routed);
    while admin.ask(["LLEN", "answers 2"]) != ":3" {
        tokio::task::yield_now().await;
    }
    for number in 0..3 {
        let record = format!("_kombu.rs.q.answers {number}");
        assert_eq!(admin.ask(["EXISTS", &record]), ":0", "{record}");
    }
    // Empty.
    assert!(connection.get("answers 1").await.unwrap().is_none());
    assert_eq!(admin.ask(["EXISTS", "_kombu.rs.q.answers 1"]), ":0");
    // Held by a session that ends.
    let theirs = Queue::new("answers 3").no_declare();
    let mut consumer = connection.consumer(&theirs).await.unwrap();
    let _held = receive(&mut consumer).await;
    let _gotten = connection.get("answers 4").await.unwrap().unwrap();
    connection.close().await.unwrap();
    for number in 3..5 {
        let queue = format!("answers {number}");
        assert_eq!(admin.ask(["LLEN", &queue]), ":2");
        let record = format!("_kombu.rs.q.{queue}");
        assert_eq!(admin.ask(["EXISTS", &record]), ":0", "{record}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn sessions_that_are_overdue_because_the_server_was_away_live_on() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let url = format!("{}?lease=2", redis.url());
    let mut sessions = Vec::new();
    for number in 0..4 {
        let connection = connect(url.clone()).await;
        let queue = Queue::new(format!("jobs {number}"));
        let mut consumer = connection.consumer(&queue).await.unwrap();
        let to_it = producer_to(&connection, queue.name()).await;
        to_it.publish(&number).await.unwrap();
        let held = receive(&mut consumer).await;
        sessions.push((connection, consumer, held));
    }
    // As it is when a server goes on that did nothing for longer than a lease, or whose clock was put forward.
    let past = "for _, s in ipairs(redis.call('ZRANGE', '_kombu.rs.sessions', 0, -1)) do \
                  redis.call('ZADD', '_kombu.rs.sessions', 1, s) \
                end return 1";
    admin.ask(["EVAL", past, "0"]);
    while admin.ask(["ZCOUNT", "_kombu.rs.sessions", "-inf", "1"]) != ":0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (connection, _consumer, held) in sessions {
        held.ack().confirmed().await.unwrap();
        assert_eq!(connection.health().sessions, 1);
    }
}

/// A flight that comes to the server in pieces has other clients' commands in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_message_that_comes_before_the_server_watches_is_not_left_lying() {
    let redis = Redis::start().unwrap();
    let proxy = Proxy::start(redis.address()).await.unwrap();
    let slow = connect(format!("redis://{}?lease=600", proxy.address())).await;
    let direct = connect(redis.url()).await;
    let mut consumer = slow.consumer(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&direct, "jobs").await;
    let (received, mut numbers) = tokio::sync::mpsc::channel(10);
    let consuming = tokio::spawn(async move {
        loop {
            received
                .send(receive_number(&mut consumer).await)
                .await
                .unwrap();
        }
    });
    proxy.throttle(Direction::ToServer, 1000);
    // Where the second one meets the look that finds the first.
    for bytes in (0..400).step_by(50) {
        let begin = proxy.counts().to_server;
        jobs.publish(&(2 * bytes)).await.unwrap();
        proxy
            .until(|counts| counts.to_server >= begin + bytes)
            .await;
        jobs.publish(&(2 * bytes + 1)).await.unwrap();
        for expected in [2 * bytes, 2 * bytes + 1] {
            let number = timeout(PATIENCE, numbers.recv()).await;
            assert_eq!(number.expect("a delivery"), Some(expected), "at {bytes}");
        }
    }
    consuming.abort();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_redis_that_becomes_a_replica_is_waited_for() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    // Nobody listens there.
    admin.ask(["REPLICAOF", "127.0.0.1", "1"]);
    let published = jobs.publish(&1).send().await.unwrap();
    until(
        &mut events,
        |event| matches!(event, Event::Retrying { reason, .. } if reason.contains("READONLY")),
    )
    .await;
    admin.ask(["REPLICAOF", "NO", "ONE"]);
    restored(&mut events).await;
    assert!(published.await.unwrap().routed);
    assert_eq!(receive_number(&mut consumer).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_redis_that_still_loads_is_waited_for() {
    // It answers once in a thousand commands, and each takes it so many microseconds.
    let mut redis = Redis::builder()
        .persistent()
        .config("key-load-delay 200")
        .start()
        .unwrap();
    let connection = connect(redis.url()).await;
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    let script = "for i = 1, 6000 do redis.call('SET', 'filler' .. i, i) end return 1";
    RedisAdmin::of(&redis).ask(["EVAL", script, "0"]);
    let restarting = tokio::task::spawn_blocking(move || {
        redis.restart(Data::Keep).unwrap();
        redis
    });
    until(
        &mut events,
        |event| matches!(event, Event::Retrying { reason, .. } if reason.contains("LOADING")),
    )
    .await;
    let published = jobs.publish(&1).send().await.unwrap();
    restored(&mut events).await;
    assert!(published.await.unwrap().routed);
    assert_eq!(receive_number(&mut consumer).await, 1);
    drop(restarting.await.unwrap());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_full_redis_refuses_what_comes_and_nothing_else() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=1", redis.url())).await;
    let news = Exchange::fanout("news");
    let copies = ["one", "two", "three"];
    for queue in copies {
        let queue = Queue::new(queue).bind(&news, "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let broken = Exchange::direct("broken");
    let dead = Queue::new("dead").bind(&broken, "jobs");
    connection.declare_queue(&dead).await.unwrap();
    let jobs = Queue::new("jobs").dead_letter_exchange("broken");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    let to_jobs = producer_to(&connection, "jobs").await;
    let to_all = connection.producer(&news).await.unwrap();
    for number in 0..8 {
        to_jobs.publish(&number).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(receive(&mut consumer).await);
    }
    let mut held = held.into_iter();
    let mut next = || held.next().unwrap();

    // It has more than that.
    admin.ask(["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..3 {
        for producer in [&to_all, &to_jobs] {
            let refused = producer.publish(&100).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Backpressure, "{refused}");
            assert!(refused.is_transient() && !refused.may_have_been_stored());
        }
    }
    let delayed = to_jobs.publish(&100).delay(Duration::from_millis(1));
    assert_eq!(delayed.await.unwrap_err().kind(), ErrorKind::Backpressure);
    for queue in copies {
        assert_eq!(info(&connection, queue).await.ready, 0, "{queue}");
    }
    // The session goes on living: its lease is a second.
    let lease = "return redis.call('ZRANGE', '_kombu.rs.sessions', 0, 0, 'WITHSCORES')[2]";
    let lease = || admin.text(["EVAL", lease, "0"]);
    let before = lease();
    let alive = async {
        while lease() <= before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, alive).await.expect("a sign of life");
    // What takes messages out works, and so does what moves them.
    next().ack().confirmed().await.unwrap();
    next().reject().confirmed().await.unwrap();
    next().release().confirmed().await.unwrap();
    assert_eq!(receive_number(&mut consumer).await, 2);
    next().retry().confirmed().await.unwrap();
    let failed = receive(&mut consumer).await;
    assert_eq!((failed.decode::<u64>().unwrap(), failed.attempt()), (3, 2));
    failed.ack().confirmed().await.unwrap();
    let soon = Duration::from_millis(20);
    next().retry_after(soon).confirmed().await.unwrap();
    assert_eq!(receive_number(&mut consumer).await, 4);
    // And whoever comes to make room can.
    let other = connect(redis.url()).await;
    let temporary = Queue::server_named().exclusive(true);
    let temporary = other.declare_queue(&temporary).await.unwrap();
    let mut emptied = other.consumer(&Queue::new("dead")).await.unwrap();
    assert_eq!(receive_number(&mut emptied).await, 1);
    assert!(other.get(&temporary.name).await.unwrap().is_none());
    drop(next());
    assert!(receive(&mut consumer).await.redelivered());
    other.close().await.unwrap();

    admin.ask(["CONFIG", "SET", "maxmemory", "0"]);
    to_all.publish(&200).await.unwrap();
    for queue in copies {
        assert_eq!(drain(&connection, queue).await.len(), 1, "{queue}");
    }
    assert_eq!(connection.health().sessions, 1);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn whatever_lies_in_a_list_is_delivered_and_settled_as_it_is() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let broken = Exchange::direct("broken");
    let dead = Queue::new("dead").bind(&broken, "");
    connection.declare_queue(&dead).await.unwrap();
    let jobs = Queue::new("jobs").dead_letter_exchange("broken");
    let mut consumer = connection.consumer(&jobs).prefetch(1).await.unwrap();
    let huge = vec![b'x'; 20 << 20];
    let digits = "9".repeat(40);
    let garbage: Vec<Vec<u8>> = [
        "",
        "x",
        "{",
        "null",
        "42",
        "[1, 2]",
        "not JSON at all",
        "{\"body\": \"cut of",
        "{\"body\": \"eA==\", \"properties\": {\"body_encoding\": \"rot13\"}}",
        "{\"_kq\":\"x\",\"body\": 1}",
        "{\"_kq\":\"1:2:3\",",
        "{\"_kq\":\"1:2:3:4",
        "{\"_kq\":\"17:0:0:0",
        "{\"_kr\":\"x\",",
        &format!("{{\"_kq\":\"{digits}:0:0:0\",\"body\": 1}}"),
        &format!("{{\"_kq\":\"10:{digits}:0:0\",\"body\": 1}}"),
        &format!("{{\"_kq\":\"10:0:{digits}:0\",\"body\": 1}}"),
        "{\"_kq\":\"18:0:0:0\",\"body\": 1}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([vec![0, 255, 254, 13, 10, 0], huge])
    .collect();
    for element in &garbage {
        admin.ask([&b"LPUSH"[..], b"jobs", element]);
    }
    for element in &garbage {
        let shown = String::from_utf8_lossy(&element[..element.len().min(60)]).into_owned();
        let first = receive(&mut consumer).await;
        assert!(first.body() == &element[..], "{shown}");
        assert_eq!(
            (first.redelivered(), first.attempt()),
            (false, 1),
            "{shown}"
        );
        first.release().confirmed().await.unwrap();
        let second = receive(&mut consumer).await;
        assert!(second.body() == &element[..], "released: {shown}");
        assert_eq!(
            (second.redelivered(), second.attempt()),
            (true, 1),
            "{shown}"
        );
        second.retry().confirmed().await.unwrap();
        let third = receive(&mut consumer).await;
        assert!(third.body() == &element[..], "retried: {shown}");
        assert_eq!((third.redelivered(), third.attempt()), (true, 2), "{shown}");
        third.reject().confirmed().await.unwrap();
        let letters = drain(&connection, "dead").await;
        assert_eq!(letters.len(), 1, "{shown}");
        assert!(letters[0].body() == &element[..], "rejected: {shown}");
    }
    producer_to(&connection, "jobs")
        .await
        .publish(&1)
        .await
        .unwrap();
    assert_eq!(receive_number(&mut consumer).await, 1);
    assert_empty(&connection, "jobs").await;
    assert_eq!(connection.health().sessions, 1);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_key_that_is_somebody_elses_stays_as_it_is() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    admin.ask(["SET", "cache", "something", "EX", "86400"]);
    let connection = connect(redis.url()).await;
    let to_it = producer_to(&connection, "cache").await;
    let queue = Queue::new("cache");
    for refused in [
        to_it.publish(&1).await.map(drop),
        to_it
            .publish(&1)
            .correlation_id("7")
            .allow_unroutable()
            .await
            .map(drop),
        connection.declare_queue(&queue).await.map(drop),
        connection.get("cache").await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    }
    assert_eq!(admin.ask(["EXISTS", "_kombu.rs.q.cache"]), ":0");
    let mut consumer = connection.consumer(&queue.no_declare()).await.unwrap();
    let error = consumer.try_next().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    connection.close().await.unwrap();
    assert!(admin.ask(["TTL", "cache"]).len() > ":-1".len());
    assert_eq!(admin.ask(["EXISTS", "_kombu.rs.q.cache"]), ":0");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_list_that_is_somebody_elses_key_spoils_that_queue_only() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=1", redis.url())).await;
    let news = Exchange::fanout("news");
    for name in ["fine", "spoilt"] {
        let queue = Queue::new(name).max_priority(9).bind(&news, "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let to_fine = producer_to(&connection, "fine").await;
    let to_spoilt = producer_to(&connection, "spoilt").await;
    to_spoilt.publish(&1).priority(9).await.unwrap();
    to_spoilt.publish(&2).priority(9).await.unwrap();
    // The list of the lowest priority.
    let key = "spoilt\u{6}\u{16}9";
    admin.ask(["SET", key, "something else"]);
    let is_spoilt = |error: kombu::Error| {
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error}");
    };
    // Together, and apart.
    let (fine, spoilt) = (to_fine.publish(&1), to_spoilt.publish(&1));
    let (fine, spoilt) = tokio::join!(fine.into_future(), spoilt.into_future());
    fine.unwrap();
    is_spoilt(spoilt.unwrap_err());
    let to_both = connection.producer(&news).await.unwrap();
    is_spoilt(to_both.publish(&3).await.unwrap_err());
    is_spoilt(connection.queue_info("spoilt").await.unwrap_err());
    is_spoilt(connection.delete_queue("spoilt").await.unwrap_err());
    assert_eq!(info(&connection, "fine").await.ready, 1);
    let refused = connection.consumer(&Queue::new("spoilt").max_priority(9));
    is_spoilt(refused.await.unwrap_err());
    admin.ask(["DEL", key]);
    assert_eq!(drain(&connection, "spoilt").await.len(), 2);

    // Under a consumer: what is in the other lists comes first, and can be settled.
    let queue = Queue::new("spoilt").max_priority(9);
    let mut consumer = connection.consumer(&queue).await.unwrap();
    admin.ask([
        "EVAL",
        "redis.call('SET', ARGV[1], 1) redis.call('LPUSH', 'spoilt', 'a', 'b', 'c', 'd')",
        "0",
        key,
    ]);
    let mut held = Vec::new();
    for expected in ["a", "b", "c", "d"] {
        held.push(receive(&mut consumer).await);
        assert_eq!(held[held.len() - 1].body(), expected);
    }
    admin.ask(["APPEND", key, "1"]);
    is_spoilt(consumer.try_next().await.unwrap_err());
    let mut held = held.into_iter();
    let mut next = || held.next().unwrap();
    next().ack().confirmed().await.unwrap();
    // What can't go back isn't gone.
    is_spoilt(next().release().confirmed().await.unwrap_err());
    is_spoilt(next().retry().confirmed().await.unwrap_err());
    let soon = Duration::from_millis(20);
    next().retry_after(soon).confirmed().await.unwrap();
    drop(consumer);
    to_fine.publish(&2).await.unwrap();
    admin.ask(["DEL", key]);
    connection.close().await.unwrap();
    let connection = connect(redis.url()).await;
    let mut consumer = connection.consumer(&queue).await.unwrap();
    let mut again = Vec::new();
    for _ in 0..3 {
        let delivery = receive(&mut consumer).await;
        again.push(delivery.body().to_vec());
        delivery.ack().confirmed().await.unwrap();
    }
    again.sort_unstable();
    assert_eq!(again, [b"b", b"c", b"d"]);
    assert_empty(&connection, "spoilt").await;
    let mut fine = connection
        .consumer(&Queue::new("fine").max_priority(9))
        .await
        .unwrap();
    assert_eq!(receive_number(&mut fine).await, 1);
    assert_eq!(receive_number(&mut fine).await, 2);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_a_dead_session_held_of_a_spoilt_queue_keeps_nobody_else_from_going_on() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=1", redis.url())).await;
    let (fine, spoilt) = (Queue::new("fine"), Queue::new("spoilt"));
    for queue in [&fine, &spoilt] {
        connection.declare_queue(queue).await.unwrap();
        let to_it = producer_to(&connection, queue.name()).await;
        to_it.publish(&1).await.unwrap();
    }
    // A session of a program that died, which nobody can ask any more.
    let script = "redis.call('ZADD', '_kombu.rs.sessions', 1, 7) \
                  for _, q in ipairs({'spoilt', 'fine'}) do \
                    redis.call('SADD', '_kombu.rs.session.7', 'h1 ' .. q) \
                    redis.call('SADD', '_kombu.rs.holders.' .. q, '7.1') \
                    redis.call('HSET', '_kombu.rs.unacked.7.1.' .. q, '160', redis.call('RPOP', q)) \
                  end \
                  redis.call('SET', 'spoilt', 'something else') return 1";
    admin.ask(["EVAL", script, "0"]);
    let mut consumer = connection.consumer(&fine).await.unwrap();
    assert_eq!(receive_number(&mut consumer).await, 1);
    let held = admin.ask(["HLEN", "_kombu.rs.unacked.7.1.spoilt"]);
    assert_eq!(held, ":1");
    // It goes back when it can.
    admin.ask(["DEL", "spoilt"]);
    admin.ask(["ZADD", "_kombu.rs.sessions", "1", "7"]);
    let mut consumer = connection.consumer(&spoilt).await.unwrap();
    assert_eq!(receive_number(&mut consumer).await, 1);
    assert_eq!(connection.health().sessions, 1);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn bindings_that_are_somebody_elses_key_spoil_that_exchange_only() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let (fine, spoilt) = (Exchange::direct("fine"), Exchange::direct("spoilt"));
    let jobs = Queue::new("jobs").bind(&fine, "").bind(&spoilt, "");
    connection.declare_queue(&jobs).await.unwrap();
    let to_fine = connection.producer(&fine).await.unwrap();
    let to_spoilt = connection.producer(&spoilt).await.unwrap();
    admin.ask(["SET", "_kombu.binding.spoilt", "something else"]);
    for connection in [&connection, &connect(redis.url()).await] {
        for round in 0..3 {
            let (good, bad) = (to_fine.publish(&round), to_spoilt.publish(&round));
            let (good, bad) = tokio::join!(good.into_future(), bad.into_future());
            assert!(good.unwrap().routed);
            let bad = bad.unwrap_err();
            assert_eq!(bad.kind(), ErrorKind::PreconditionFailed, "{bad}");
        }
        let more = Queue::new("more").bind(&fine, "").bind(&spoilt, "");
        let refused = connection.declare_queue(&more).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PreconditionFailed, "{refused}");
        let kept = connection.delete_exchange("spoilt").await.unwrap_err();
        assert_eq!(kept.kind(), ErrorKind::PreconditionFailed, "{kept}");
    }
    assert_eq!(admin.ask(["EXISTS", "_kombu.binding.spoilt"]), ":1");
    assert_eq!(drain(&connection, "jobs").await.len(), 6);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_is_not_of_this_version_is_refused_at_connect() {
    for (command, kind) in [
        (
            &["HSET", "_kombu.rs.meta", "layout", "2"][..],
            ErrorKind::Unsupported,
        ),
        (
            &["SET", "_kombu.rs.meta", "something else"],
            ErrorKind::PreconditionFailed,
        ),
    ] {
        let redis = Redis::start().unwrap();
        RedisAdmin::of(&redis).ask(command.iter().copied());
        let error = builder(redis.url()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        // Beside it there is room.
        connect(format!("{}?prefix=other:", redis.url())).await;
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_redis_that_is_too_old_is_refused_at_connect() {
    // What Redis 6 doesn't have, and what Redis 5 doesn't.
    for command in ["SINTERCARD", "HELLO"] {
        let line = format!("rename-command {command} \"\"");
        let user = "user me on >s3cret ~* &* +@all";
        let redis = Redis::builder().config(&line).config(user).start().unwrap();
        let url = format!("redis://me:s3cret@{}", redis.address());
        let error = builder(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(command) && text.contains("Redis 7.0"),
            "{text}"
        );
        // The server repeats what `HELLO` was called with.
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            assert!(
                !format!("{error} {error:?}").contains("s3cret"),
                "{error:?}"
            );
            cause = error.source();
        }
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_user_needs_no_more_rights_than_the_documents_say() {
    const RIGHTS: &str = "+@read +@write +@connection +@scripting +@pubsub +info +time";
    const SEMANTICS: &str = include_str!("../../docs/semantics.md");
    assert!(SEMANTICS.contains(RIGHTS));
    let user = format!("user few on >word ~few:* &few:* -@all {RIGHTS}");
    let redis = Redis::builder().config(&user).start().unwrap();
    let url = format!("redis://few:word@{}?prefix=few:", redis.address());
    let connection = connect(url).await;
    let news = Exchange::fanout("news");
    let inbox = Queue::new("inbox").bind(&news, "").max_length(1);
    let inbox = inbox.dead_letter_exchange("news");
    let mut consumer = connection.consumer(&inbox).await.unwrap();
    let producer = connection.producer(&news).await.unwrap();
    let soon = Duration::from_millis(1);
    assert!(producer.publish(&1).delay(soon).await.unwrap().routed);
    receive(&mut consumer)
        .await
        .retry()
        .confirmed()
        .await
        .unwrap();
    receive(&mut consumer)
        .await
        .reject()
        .confirmed()
        .await
        .unwrap();
    assert_eq!(receive_number(&mut consumer).await, 1);
    connection.close().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_redis_cluster_is_refused_at_connect() {
    let redis = Redis::builder().config("cluster-enabled yes").start();
    let error = builder(redis.unwrap().url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("Redis Cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn every_call_to_a_redis_that_hangs_ends_and_nothing_is_left_over() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let proxy = Proxy::start(redis.address()).await.unwrap();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let limit = Duration::from_millis(800);
    let mut deadlines = Deadlines::default();
    deadlines.publish = limit;
    deadlines.declare = limit;
    deadlines.settle = limit;
    deadlines.liveness = Duration::from_secs(1);
    deadlines.connect = Duration::from_secs(1);
    let connection = builder(format!("redis://{}?lease=60", proxy.address()))
        .deadlines(deadlines)
        .await
        .unwrap();
    let mut events = connection.events();
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    for hangs in ["server", "network"] {
        jobs.publish(&1).await.unwrap();
        let held = receive(&mut consumer).await;
        match hangs {
            "server" => redis.pause().unwrap(),
            _ => proxy.blackhole(),
        }
        let late = |what: &str, error: Option<kombu::Error>| {
            let error = error.unwrap_or_else(|| panic!("{what} of a hanging {hangs}"));
            let kind = error.kind();
            let expected = [
                ErrorKind::Timeout,
                ErrorKind::SettleLost,
                ErrorKind::ConnectionLost,
            ];
            assert!(expected.contains(&kind), "{what}: {error}");
        };
        let began = tokio::time::Instant::now();
        let declared = Queue::new("more");
        let (published, asked, declared, got, acked) = tokio::join!(
            jobs.publish(&2).into_future(),
            connection.queue_info("jobs"),
            connection.declare_queue(&declared),
            connection.get("jobs"),
            held.ack().confirmed(),
        );
        assert!(began.elapsed() < 2 * limit, "{:?}", began.elapsed());
        late("publish", published.err());
        late("info", asked.err());
        late("declare", declared.err());
        late("get", got.err());
        late("ack", acked.err());
        until(&mut events, |event| matches!(event, Event::Lost { .. })).await;
        match hangs {
            "server" => redis.resume().unwrap(),
            _ => proxy.heal().await.unwrap(),
        }
        restored(&mut events).await;
        // What was published to no avail may have been stored, once or twice.
        jobs.publish(&3).await.unwrap();
        while receive_number(&mut consumer).await != 3 {}
        connection.purge("jobs").await.unwrap();
    }
    drop((consumer, jobs));
    connection.close().await.unwrap();
    drop(connection);
    // One of them asks.
    let left_over = || {
        let clients = admin.text(["CLIENT", "LIST", "TYPE", "normal"]);
        clients.lines().count() - 1
    };
    let gone = async {
        while tasks() > before || left_over() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let gone = timeout(PATIENCE, gone).await;
    assert!(
        gone.is_ok(),
        "{} tasks, {} connections",
        tasks() - before,
        left_over()
    );
}

//! What goes back to a Redis, and what a session leaves there: all of it, in its order, and in pieces that let others have
//! their turn.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::time::Duration;

use kombu::{Connection, Consumer, Delivery, ErrorKind, Exchange, Producer, Queue, RetryPolicy};
use kombu_testkit::brokers::Redis;
use kombu_testkit::expect::{collect_one, drain, info};
use kombu_tests::RedisAdmin;
use tokio::time::timeout;

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(url: impl Into<String>) -> Connection {
    let retry = RetryPolicy::default().longest_pause(Duration::from_millis(100));
    let builder = Connection::builder(kombu::registry());
    builder.url(url).retry(retry).await.unwrap()
}

async fn producer_to(connection: &Connection, queue: &str) -> Producer {
    let producer = connection.producer(Exchange::default());
    producer.routing_key(queue).await.unwrap()
}

async fn receive(consumer: &mut Consumer) -> Delivery {
    timeout(PATIENCE, collect_one(consumer))
        .await
        .expect("a delivery")
}

async fn until(mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, so).await.expect("it comes to that");
}

/// Has a consumer hold the numbers below `count`.
async fn hold(connection: &Connection, queue: &Queue, count: u64) -> (Consumer, Vec<Delivery>) {
    let window = u32::try_from(count).unwrap();
    let mut consumer = connection.consumer(queue).prefetch(window).await.unwrap();
    let producer = producer_to(connection, queue.name()).await;
    for number in 0..count {
        producer.publish(&number).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(receive(&mut consumer).await);
    }
    (consumer, held)
}

async fn numbers(connection: &Connection, queue: &str) -> Vec<u64> {
    let drained = drain(connection, queue).await;
    drained.iter().map(|got| got.decode().unwrap()).collect()
}

/// How often commands were called that begin like this.
fn calls(admin: &RedisAdmin, commands: &[&str]) -> u64 {
    let stats = admin.text(["INFO", "commandstats"]);
    let lines = stats.lines().filter_map(|line| {
        let (command, counts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let is_meant = commands.contains(&command);
        is_meant.then(|| counts.split(',').next().unwrap().parse::<u64>().unwrap())
    });
    lines.sum()
}

/// Those that move messages.
const MOVES: [&str; 7] = [
    "lindex", "lrange", "linsert", "rpop", "rpush", "lpush", "ltrim",
];

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_window_that_is_released_first_to_last_costs_no_more_than_it_holds() {
    const COUNT: u64 = 300;
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let (mut consumer, held) = hold(&connection, &Queue::new("jobs"), COUNT).await;
    consumer.pause();
    admin.ask(["CONFIG", "RESETSTAT"]);
    let mut last = None;
    for delivery in held {
        last = Some(delivery.release());
    }
    last.unwrap().confirmed().await.unwrap();
    let moves = calls(&admin, &MOVES);
    assert!(moves < 4 * COUNT, "{moves} commands for {COUNT} messages");
    drop(consumer);
    assert!(numbers(&connection, "jobs").await.into_iter().eq(0..COUNT));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_connection_that_is_dropped_gives_back_what_it_held_in_pieces() {
    const COUNT: u64 = 1200;
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let other = connect(format!("{}?lease=600", redis.url())).await;
    let connection = connect(format!("{}?lease=600", redis.url())).await;
    let (consumer, held) = hold(&connection, &Queue::new("jobs"), COUNT).await;
    admin.ask(["CONFIG", "RESETSTAT"]);
    drop((connection, consumer, held));
    until(|| admin.ask(["ZCARD", "_kombu.rs.sessions"]) == ":1").await;
    assert_eq!(admin.ask(["LLEN", "jobs"]), format!(":{COUNT}"));
    assert!(calls(&admin, &["evalsha"]) >= 3);
    assert!(numbers(&other, "jobs").await.into_iter().eq(0..COUNT));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn dead_messages_that_only_another_version_can_read_are_left_to_it() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let jobs = Queue::new("jobs").dead_letter_exchange("broken");
    connection.declare_queue(&jobs).await.unwrap();
    // A reason that this one doesn't know, and no words at all.
    let record = |number: u64| format!("toolarge 1763000000000 - 12 {{\"name\":\"q\"}}{number}");
    for number in 0..10 {
        admin.ask(["RPUSH", "_kombu.rs.dead", &record(number)]);
    }
    admin.ask(["RPUSH", "_kombu.rs.dead", "something"]);
    let other = connect(redis.url()).await;
    let those = "local n = 0 for _, m in ipairs(redis.call('LRANGE', '_kombu.rs.dead', 0, -1)) do \
                 if m == 'something' or m:find('^toolarge 1763000000000 ,%d+,%d+, 12 {\"name\":\"q\"}%d$') then n = n + 1 end \
                 end return n";
    let left_by_both = async {
        while admin.ask(["EVAL", those, "0"]) != ":11" {
            // Whoever looks at a queue takes the dead first.
            for connection in [&connection, &other] {
                info(connection, "jobs").await;
                assert_eq!(connection.health().sessions, 1);
            }
        }
    };
    timeout(PATIENCE, left_by_both)
        .await
        .expect("all are there");
    // The empty name isn't a queue's.
    let keys =
        "local n = 0 for i = 0, 9 do n = n + redis.call('EXISTS', '\u{6}\u{16}' .. i) end return n";
    assert_eq!(admin.ask(["EVAL", keys, "0"]), ":0");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_session_that_others_began_to_end_has_ended() {
    const COUNT: u64 = 50;
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=3", redis.url())).await;
    let (mut one, first) = hold(&connection, &Queue::new("one"), 1).await;
    let (mut two, held) = hold(&connection, &Queue::new("two"), COUNT).await;
    // Another session ends a part of it, as its tick does, while this one is only slow.
    let end = kombu::redis::digests().find(|(name, _)| *name == "end.lua");
    let (_, end) = end.unwrap();
    let session = "return redis.call('ZRANGE', '_kombu.rs.sessions', 0, 0)[1]";
    let session = admin.text(["EVAL", session, "0"]);
    admin.ask(["EVALSHA", end, "0", "", &session, "20"]);
    for delivery in first.into_iter().chain(held) {
        let lost = delivery.ack().confirmed().await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::SettleLost, "{lost}");
    }
    // Its consumers go on with the next one, which has everything again.
    assert_eq!(receive(&mut one).await.decode::<u64>().unwrap(), 0);
    for expected in 0..COUNT {
        assert_eq!(receive(&mut two).await.decode::<u64>().unwrap(), expected);
    }
    assert_eq!(connection.health().sessions, 2);
}

/// The digest of a script.
fn script(file: &str) -> &'static str {
    let mut digests = kombu::redis::digests();
    digests.find(|(name, _)| *name == file).unwrap().1
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn large_messages_come_and_go_back_a_few_at_a_time() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let jobs = producer_to(&connection, "jobs").await;
    let body = |number: u8| vec![number; 400_000];
    for number in 0..10 {
        jobs.publish_bytes(body(number)).await.unwrap();
    }
    // A session of another program: two of them are a megabyte, as they are stored.
    let session = admin.text(["EVALSHA", script("connect.lua"), "0", "", "600000"]);
    let taker = ["0", "", &session, "0", "jobs"];
    let ask = |file, rest: &[&str]| {
        let command = ["EVALSHA", script(file)].into_iter();
        admin.ask(command.chain(taker).chain(rest.iter().copied()))
    };
    ask("subscribe.lua", &["0", "64", ""]);
    for held in [1, 2, 3] {
        // How many died, whether there are more, how many were handed over, and one message.
        assert_eq!(ask("take.lua", &["64", "0", "0", ""]), "*5");
        assert_eq!(admin.ask(["LLEN", "jobs"]), format!(":{}", 10 - held));
    }
    let end = ["EVALSHA", script("end.lua"), "0", "", &session, "500"];
    admin.ask(end);
    assert_eq!(admin.ask(["LLEN", "jobs"]), ":9");
    admin.ask(end);
    assert_eq!(admin.ask(["LLEN", "jobs"]), ":10");

    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let mut held = Vec::new();
    for number in 0..10 {
        let delivery = receive(&mut consumer).await;
        assert!(delivery.body() == &body(number)[..], "{number}");
        held.push(delivery);
    }
    for delivery in held {
        delivery.release().confirmed().await.unwrap();
    }
    for number in 0..10 {
        let delivery = receive(&mut consumer).await;
        assert!(delivery.body() == &body(number)[..], "{number}");
        delivery.ack().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_get_looks_behind_whatever_has_expired() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=600", redis.url())).await;
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    // Long over, and more than one call looks at.
    let fill = "for i = 1, 2500 do redis.call('LPUSH', 'jobs', '{\"_kq\":\"0:0:1000:0\",\"body\": 1}') end return 1";
    admin.ask(["EVAL", fill, "0"]);
    producer_to(&connection, "jobs")
        .await
        .publish(&7)
        .await
        .unwrap();
    let got = connection.get("jobs").await.unwrap().expect("a message");
    assert_eq!(got.decode::<u64>().unwrap(), 7);
    got.ack().confirmed().await.unwrap();
    assert!(connection.get("jobs").await.unwrap().is_none());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn sessions_that_ended_leave_no_keys() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let keys = || {
        let all =
            "local all = redis.call('KEYS', '*') table.sort(all) return table.concat(all, ' ')";
        admin.text(["EVAL", all, "0"])
    };
    let jobs = Queue::new("jobs");
    connect(redis.url())
        .await
        .declare_queue(&jobs)
        .await
        .unwrap();
    until(|| admin.ask(["ZCARD", "_kombu.rs.sessions"]) == ":0").await;
    let before = keys();
    for ends in ["closed", "dropped", "killed"] {
        let connection = connect(redis.url()).await;
        let (consumer, held) = hold(&connection, &jobs, 3).await;
        let got = {
            producer_to(&connection, "jobs")
                .await
                .publish(&3)
                .await
                .unwrap();
            connection.get("jobs").await.unwrap()
        };
        match ends {
            "closed" => connection.close().await.unwrap(),
            "dropped" => drop((connection, consumer, held, got)),
            _ => {
                let session = "return redis.call('ZRANGE', '_kombu.rs.sessions', 0, 0)[1]";
                let session = admin.text(["EVAL", session, "0"]);
                let end = script("end.lua");
                admin.ask(["EVALSHA", end, "0", "", &session, "500"]);
                connection.close().await.unwrap();
            }
        }
        until(|| admin.ask(["ZCARD", "_kombu.rs.sessions"]) == ":0").await;
        assert_eq!(admin.ask(["LLEN", "jobs"]), ":4", "{ends}");
        admin.ask(["DEL", "jobs"]);
        assert_eq!(keys(), before, "{ends}");
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_is_due_all_at_once_is_done_in_pieces() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=600", redis.url())).await;
    let broken = Exchange::fanout("broken");
    let letters = Queue::new("letters").bind(&broken, "");
    connection.declare_queue(&letters).await.unwrap();
    for name in ["delayed", "expired"] {
        let queue = Queue::new(name).dead_letter_exchange("broken");
        connection.declare_queue(&queue).await.unwrap();
    }
    // By itself, this session looks in minutes.
    let fill = "for i = 1, 3000 do \
                  redis.call('ZADD', '_kombu.rs.later.delayed', 1, string.format('%016d n 0 -1 1 {\"body\": 1}', i)) \
                  redis.call('LPUSH', 'expired', '{\"_kq\":\"0:0:1000:0\",\"body\": 1}') \
                end \
                return redis.call('ZADD', '_kombu.rs.due', 1, 'ddelayed', 2, 'texpired')";
    admin.ask(["EVAL", fill, "0"]);
    let session = "return redis.call('ZRANGE', '_kombu.rs.sessions', 0, 0)[1]";
    let session = admin.text(["EVAL", session, "0"]);
    let tick = [
        "EVALSHA",
        script("tick.lua"),
        "0",
        "",
        &session,
        "600000",
        "500",
    ];
    let length = |key| -> u64 { admin.ask(["LLEN", key])[1..].parse().unwrap() };
    let mut last = 0;
    while length("expired") > 0 {
        admin.ask(tick);
        let done = length("delayed") + 3000 - length("expired");
        assert!(
            (last + 1..last + 1200).contains(&done),
            "{last}, then {done}"
        );
        last = done;
    }
    assert_eq!(length("delayed"), 3000);
    // Whoever asks is told of all.
    admin.ask(["DEL", "delayed"]);
    admin.ask(["EVAL", fill, "0"]);
    assert_eq!(info(&connection, "delayed").await.ready, 3000);
    assert_eq!(info(&connection, "expired").await.ready, 0);
    admin.ask(["EVAL", fill, "0"]);
    assert_eq!(connection.purge("delayed").await.unwrap(), 6000);
    assert_eq!(info(&connection, "delayed").await.ready, 0);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_dead_message_behind_many_of_others_is_moved() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(format!("{}?lease=600", redis.url())).await;
    let broken = Exchange::fanout("broken");
    let letters = Queue::new("letters").bind(&broken, "");
    connection.declare_queue(&letters).await.unwrap();
    let jobs = Queue::new("jobs").dead_letter_exchange("broken");
    connection.declare_queue(&jobs).await.unwrap();
    let fill = "for i = 1, 2500 do redis.call('RPUSH', '_kombu.rs.dead', 'something') end \
                for i = 1, 150 do redis.call('RPUSH', '_kombu.rs.dead', 'toolarge 1763000000000 - 2 {}x') end \
                local decl = redis.call('HGET', '_kombu.rs.q.jobs', 'decl') \
                return redis.call('RPUSH', '_kombu.rs.dead', 'rejected 1763000000000 - ' .. #decl .. ' ' .. decl .. 'body')";
    admin.ask(["EVAL", fill, "0"]);
    assert_eq!(info(&connection, "letters").await.ready, 1);
    until(|| admin.ask(["LLEN", "_kombu.rs.dead"]) == ":2650").await;
}

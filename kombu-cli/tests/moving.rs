//! `move`, `bridge` and `dead redrive` on every broker: nothing is lost, whatever ends them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    allow(dead_code, unused_imports)
)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use kombu::Queue;
use kombu_testkit::{Broker, Harness};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{sleep, timeout};

use self::common::{
    command, declare, done, feed, finish, kill, on_every_broker, proxied, ready, run,
};

const MESSAGES: usize = 2_000;
/// What may be there twice.
const WINDOW: usize = 1_000;

/// Publishes the numbers from 0 on.
async fn fill(broker: &Broker, queue: &str, count: usize) {
    let numbers: String = (0..count).map(|number| format!("{number}\n")).collect();
    let filled = feed(
        broker.url(),
        &["publish", "-q", queue, "--lines"],
        numbers.as_bytes(),
    )
    .await;
    assert_eq!(filled.code, Some(0), "{}", filled.errors);
}

/// Has every message of `jobs` rejected, which makes it a dead letter in `failed`.
async fn bury(broker: &Broker, count: usize) {
    declare(broker, &["failed"]).await;
    let attributes = [
        "declare",
        "queue",
        "jobs",
        "dead_letter_exchange=",
        "dead_letter_routing_key=failed",
    ];
    done(broker, &attributes).await;
    let before = ready(broker, "failed").await;
    fill(broker, "jobs", count).await;
    let connection = broker.connect().await;
    let mut consumer = connection
        .consumer(&Queue::new("jobs").passive())
        .await
        .unwrap();
    for _ in 0..count {
        consumer
            .try_next()
            .await
            .unwrap()
            .unwrap()
            .reject()
            .await
            .unwrap();
    }
    connection.close().await.unwrap();
    common::until(async || ready(broker, "failed").await == before + count as u64).await;
}

async fn a_move_keeps_order_properties_and_keys(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    done(
        broker,
        &[
            "publish", "-q", "from", "-H", "tenant=7", "--type", "job", "1", "2", "3",
        ],
    )
    .await;
    let moved = done(broker, &["move", "from", "-q", "to", "--json"]).await;
    assert_eq!(
        moved.json(),
        [json!({"moved": 3, "left": 0, "perhaps_twice": 0})]
    );
    assert_eq!(ready(broker, "from").await, 0);
    let there = done(broker, &["consume", "to", "-n", "3", "--json"])
        .await
        .json();
    let bodies: Vec<&Value> = there.iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, [1, 2, 3]);
    assert_eq!(there[0]["headers"], json!({"tenant": 7}));
    assert_eq!(there[0]["properties"]["type"], "job");
}

async fn a_move_takes_no_more_than_it_is_told(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", 5).await;
    done(broker, &["move", "from", "-q", "to", "-n", "2"]).await;
    assert_eq!(
        done(broker, &["get", "to", "-n", "9"]).await.text(),
        "0\n1\n"
    );
    assert_eq!(
        done(broker, &["get", "from", "-n", "9"]).await.text(),
        "2\n3\n4\n"
    );
}

async fn a_message_that_reaches_nobody_stays(broker: &Broker) {
    declare(broker, &["from"]).await;
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    fill(broker, "from", 3).await;
    let moved = run(broker.url(), &["move", "from", "-e", "media"]).await;
    assert_eq!(moved.code, Some(5), "{}", moved.errors);
    assert_eq!(
        done(broker, &["get", "from", "-n", "9"]).await.text(),
        "0\n1\n2\n"
    );
}

async fn further_keys_send_no_copies_elsewhere(broker: &Broker) {
    declare(broker, &["from", "to", "other"]).await;
    let bridge = ["bridge", "from", "--to", broker.url(), "-n", "1"];
    for (command, target) in [
        (&["move", "from"][..], &["-q", "to"][..]),
        (&["move", "from"], &["-e", "", "-k", "to"]),
        (&bridge, &["-q", "to"]),
        (&bridge, &["-e", "", "-k", "to"]),
    ] {
        done(
            broker,
            &["publish", "-q", "from", "-H", "CC=[\"other\"]", "1"],
        )
        .await;
        assert_eq!(done(broker, &["get", "other"]).await.text(), "1\n");
        done(broker, &[command, target].concat()).await;
        assert_eq!(done(broker, &["get", "to"]).await.text(), "1\n");
        assert_eq!(ready(broker, "other").await, 0, "{command:?} {target:?}");
    }
}

async fn a_bridge_brings_what_comes_until_nothing_comes(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", 500).await;
    let arguments = [
        "bridge",
        "from",
        "--to",
        broker.url(),
        "-q",
        "to",
        "--idle",
        "3s",
        "--json",
        "-Q",
    ];
    let bridged = done(broker, &arguments).await;
    assert_eq!(bridged.json()[0]["moved"], 500);
    assert_eq!(ready(broker, "from").await, 0);
    let there = done(broker, &["consume", "to", "-n", "500"]).await;
    let numbers: Vec<usize> = there
        .text()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

async fn a_bridge_ends_in_an_orderly_way(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", MESSAGES).await;
    let arguments = [
        "bridge",
        "from",
        "--to",
        broker.url(),
        "-q",
        "to",
        "--rate",
        "500",
        "--json",
    ];
    let child = command(broker.url(), &arguments).spawn().unwrap();
    common::until(async || ready(broker, "to").await >= 100).await;
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    assert_eq!(ended.json()[0]["perhaps_twice"], 0);
    let moved = ended.json()[0]["moved"].as_u64().unwrap();
    assert_eq!(ready(broker, "to").await, moved);
    common::until(async || ready(broker, "from").await == MESSAGES as u64 - moved).await;
}

/// Kills it half-way, runs it again until all messages are in `target`, and checks how often each is there.
async fn kill_half_way(broker: &Broker, arguments: &[&str], target: &str) {
    let slowly = [arguments, &["--rate", "500"]].concat();
    let mut child = command(broker.url(), &slowly).spawn().unwrap();
    common::until(async || ready(broker, target).await >= 200).await;
    kill(&child);
    child.wait().await.unwrap();
    assert!(
        ready(broker, target).await < MESSAGES as u64,
        "it was faster than the kill"
    );

    let mut consume = command(broker.url(), &["consume", target, "--follow"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(consume.stdout.take().unwrap()).lines();
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let collect = async {
        while seen.len() < MESSAGES {
            let line = lines.next_line().await.unwrap().unwrap();
            *seen.entry(line.parse().unwrap()).or_default() += 1;
        }
    };
    let again = async {
        loop {
            run(broker.url(), arguments).await;
            // What the killed one had comes back when its broker notices.
            sleep(Duration::from_millis(500)).await;
        }
    };
    let all = timeout(Duration::from_secs(90), async {
        tokio::select! {
            () = collect => {}
            () = again => {}
        }
    });
    let in_time = all.await.is_ok();
    assert!(in_time, "{} of {MESSAGES} arrived", seen.len());
    let twice: usize = seen.values().map(|count| count - 1).sum();
    assert!(twice <= WINDOW, "{twice} arrived twice");
}

async fn a_move_that_is_killed_loses_nothing(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", MESSAGES).await;
    kill_half_way(broker, &["move", "from", "-q", "to"], "to").await;
}

async fn a_bridge_that_is_killed_loses_nothing(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", MESSAGES).await;
    let arguments = [
        "bridge",
        "from",
        "--to",
        broker.url(),
        "-q",
        "to",
        "--idle",
        "2s",
    ];
    kill_half_way(broker, &arguments, "to").await;
}

async fn what_somebody_else_has_is_told_of(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", 3).await;
    let connection = broker.connect().await;
    let held = connection.get("from").await.unwrap().unwrap();
    let moved = done(broker, &["move", "from", "-q", "to"]).await;
    assert!(
        moved.errors.contains("2 messages moved"),
        "{}",
        moved.errors
    );
    // RabbitMQ doesn't tell.
    let tells = connection
        .queue_info("from")
        .await
        .unwrap()
        .unsettled
        .is_some();
    assert_eq!(
        moved
            .errors
            .contains("1 message of queue `from`, with somebody"),
        tells,
        "{}",
        moved.errors
    );
    held.release().await.unwrap();
    connection.close().await.unwrap();
}

/// The other end takes nothing more, so what the bridge has is certainly not there.
async fn what_the_other_end_did_not_confirm_is_not_acknowledged(broker: &Broker) {
    const UNCONFIRMED: usize = 300;
    declare(broker, &["from", "to"]).await;
    let (proxy, url) = proxied(broker).await;
    let arguments = ["bridge", "from", "--to", &url, "-q", "to"];
    let mut child = command(broker.url(), &arguments).spawn().unwrap();
    fill(broker, "from", 1).await;
    common::until(async || ready(broker, "to").await == 1).await;
    proxy.blackhole();
    fill(broker, "from", UNCONFIRMED).await;
    common::until(async || ready(broker, "from").await == 0).await;
    // On Redis, whoever is connected for a while gives back what a dead session had; a command that is over at once doesn't.
    let connected = broker.connect().await;
    kill(&child);
    child.wait().await.unwrap();
    assert_eq!(ready(broker, "to").await, 1);
    common::until(async || ready(broker, "from").await == UNCONFIRMED as u64).await;
    connected.close().await.unwrap();
}

/// What is acknowledged into a network that swallows everything comes again.
async fn what_the_source_did_not_hear_of_does_not_count_as_moved(broker: &Broker) {
    const ALL: u64 = 300;
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", ALL as usize).await;
    let (proxy, url) = proxied(broker).await;
    let bridge = ["bridge", "from", "--to", broker.url(), "-q", "to"];
    let arguments = [&bridge[..], &["--rate", "20", "--json"]].concat();
    let mut child = command(&url, &arguments).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    // Fetched ahead, and so brought to the other end without anything more from here; RabbitMQ doesn't tell.
    let fetched = async || {
        let counts = done(broker, &["queues", "from", "--json"]).await.json();
        ready(broker, "to").await > 0 && counts[0]["unacked"].as_u64().is_none_or(|held| held >= 30)
    };
    common::until(fetched).await;
    proxy.blackhole();
    let heard = ready(broker, "to").await;
    common::until(async || ready(broker, "to").await >= heard + 5).await;
    proxy.heal().await.unwrap();
    let mut is_back = async || {
        while !told.next_line().await.unwrap().unwrap().contains("is back") {}
    };
    let in_time = timeout(Duration::from_secs(60), is_back()).await;
    assert!(in_time.is_ok(), "the connection isn't made again");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    let count = |name: &str| ended.json()[0][name].as_u64().unwrap();
    let (moved, in_doubt) = (count("moved"), count("perhaps_twice"));
    let there = ready(broker, "to").await;
    assert!(moved < there, "{moved} of {there}");
    assert!(
        there <= moved + in_doubt,
        "{there} are there: {}",
        ended.text()
    );
    // On Redis, whoever is connected for a while gives back what a dead session had.
    let connected = broker.connect().await;
    common::until(async || ready(broker, "from").await + moved + in_doubt >= ALL).await;
    assert!(ready(broker, "from").await + moved <= ALL);
    connected.close().await.unwrap();
}

/// Releasing counts as a delivery on RabbitMQ's quorum queues: what waits for room at the other end must not use them up.
async fn what_the_other_end_does_not_take_yet_is_kept_and_brought_later(broker: &Broker) {
    const WAITING: u64 = 20;
    declare(broker, &["failed"]).await;
    let limited = [
        "declare",
        "queue",
        "from",
        "max_deliveries=3",
        "dead_letter_exchange=",
        "dead_letter_routing_key=failed",
    ];
    done(broker, &limited).await;
    let narrow = [
        "declare",
        "queue",
        "to",
        "max_length=20",
        "overflow=reject-publish",
    ];
    done(broker, &narrow).await;
    fill(broker, "to", 20).await;
    fill(broker, "from", WAITING as usize).await;
    let arguments = ["bridge", "from", "--to", broker.url(), "-q", "to", "--json"];
    let mut child = command(broker.url(), &arguments).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut refused = async |times: usize| {
        let mut seen = 0;
        while seen < times {
            let line = told.next_line().await.unwrap().unwrap();
            seen += usize::from(line.contains("it is tried again"));
        }
    };
    // More often than a delivery may fail.
    let several = timeout(Duration::from_secs(60), refused(5)).await;
    assert!(several.is_ok(), "it isn't tried again");
    assert_eq!(ready(broker, "failed").await, 0);
    done(broker, &["purge", "to", "--yes"]).await;
    common::until(async || ready(broker, "to").await == WAITING).await;
    fill(broker, "from", 1).await;
    let again = timeout(Duration::from_secs(60), refused(2)).await;
    assert!(again.is_ok(), "it isn't tried again");
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
    assert_eq!(
        ended.json(),
        [json!({"moved": WAITING, "left": 0, "perhaps_twice": 0})]
    );
    assert_eq!(ready(broker, "failed").await, 0);
    // What was still waiting is back, and was delivered once.
    common::until(async || ready(broker, "from").await == 1).await;
    let back = done(broker, &["get", "from", "--json"]).await.json();
    assert!(back[0]["attempt"].as_u64().unwrap() <= 2, "{}", back[0]);
    let there = done(broker, &["consume", "to", "-n", "20"]).await;
    let mut numbers: Vec<u64> = there
        .text()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..WAITING).collect::<Vec<_>>());
}

async fn a_bridge_from_a_queue_to_itself_is_refused(broker: &Broker) {
    declare(broker, &["from"]).await;
    fill(broker, "from", 1).await;
    let here = url::Url::parse(broker.url()).unwrap();
    let mut elsewhere = here.clone();
    let other = match here.host_str().unwrap() {
        "127.0.0.1" => "LocalHost",
        _ => "127.0.0.1",
    };
    elsewhere.set_host(Some(other)).unwrap();
    for (target, why) in [
        (&["-q", "from"][..], "the same queue"),
        (&["-e", "", "-k", "from"], "the same queue"),
        // With the keys that they have, which is `from`.
        (&["-e", ""], "the same broker"),
    ] {
        for to in [&here, &elsewhere] {
            let arguments = [&["bridge", "from", "--to", to.as_str()], target].concat();
            let refused = run(broker.url(), &arguments).await;
            assert_eq!(refused.code, Some(2), "{}", refused.errors);
            assert!(refused.errors.contains(why), "{}", refused.errors);
        }
    }
    assert_eq!(ready(broker, "from").await, 1);
}

/// By the keys that they have, which may be its name.
async fn a_move_from_a_queue_to_itself_is_refused(broker: &Broker) {
    declare(broker, &["from"]).await;
    fill(broker, "from", 1).await;
    for target in [&["-q", "from"][..], &["-e", "", "-k", "from"], &["-e", ""]] {
        let refused = run(broker.url(), &[&["move", "from"], target].concat()).await;
        assert_eq!(refused.code, Some(2), "{target:?}: {}", refused.errors);
    }
    assert_eq!(ready(broker, "from").await, 1);
}

async fn fewer_than_were_asked_for_is_code_6(broker: &Broker) {
    declare(broker, &["to"]).await;
    bury(broker, 1).await;
    let redrive = ["dead", "redrive", "failed", "-n", "2"];
    let bridge = [
        "bridge",
        "jobs",
        "--to",
        broker.url(),
        "-q",
        "to",
        "-n",
        "2",
        "--idle",
        "300ms",
    ];
    let back = ["move", "to", "-q", "jobs", "-n", "2"];
    for arguments in [&redrive[..], &bridge, &back] {
        let fewer = run(broker.url(), arguments).await;
        assert_eq!(fewer.code, Some(6), "{arguments:?}: {}", fewer.errors);
        assert!(fewer.errors.contains("1 message "), "{}", fewer.errors);
        assert!(fewer.errors.contains("1 of 2 messages"), "{}", fewer.errors);
    }
    assert_eq!(ready(broker, "jobs").await, 1);
}

async fn what_is_missing_is_told_with_the_end_at_which_it_is(broker: &Broker) {
    declare(broker, &["there"]).await;
    for (arguments, end) in [
        (
            ["bridge", "there", "--to", broker.url(), "-q", "nowhere"],
            "to",
        ),
        (
            ["bridge", "nowhere", "--to", broker.url(), "-q", "there"],
            "from",
        ),
    ] {
        let missing = run(broker.url(), &arguments).await;
        assert_eq!(missing.code, Some(5), "{}", missing.errors);
        let (scheme, _) = broker.url().split_once(':').unwrap();
        let said = format!("kombu: {end} {scheme}://");
        assert!(missing.errors.starts_with(&said), "{}", missing.errors);
        assert_eq!(missing.errors.lines().count(), 1, "{}", missing.errors);
    }
}

async fn a_move_that_ends_early_tells_how_many_are_left(broker: &Broker) {
    declare(broker, &["from", "to"]).await;
    fill(broker, "from", 50).await;
    let slowly = ["move", "from", "-q", "to", "--rate", "10", "--json"];
    let child = command(broker.url(), &slowly).spawn().unwrap();
    common::until(async || ready(broker, "to").await >= 1).await;
    common::interrupt(&child);
    let ended = finish(child, b"").await;
    assert_eq!(ended.code, Some(130), "{}", ended.errors);
    let totals = &ended.json()[0];
    let moved = totals["moved"].as_u64().unwrap();
    assert_eq!(totals["left"], 50 - moved);
    assert_eq!(ready(broker, "to").await, moved);
}

async fn a_move_to_an_exchange_goes_where_the_keys_lead(broker: &Broker) {
    declare(broker, &["from", "videos", "rest"]).await;
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    done(broker, &["bind", "media", "-q", "videos", "-k", "video.#"]).await;
    done(broker, &["bind", "media", "-q", "rest", "-k", "from"]).await;
    done(broker, &["declare", "exchange", "in", "type=fanout"]).await;
    done(broker, &["bind", "in", "-q", "from"]).await;
    done(broker, &["publish", "-e", "in", "-k", "video.new", "1"]).await;
    done(broker, &["publish", "-q", "from", "2"]).await;
    done(broker, &["move", "from", "-e", "media"]).await;
    assert_eq!(done(broker, &["get", "videos"]).await.text(), "1\n");
    assert_eq!(done(broker, &["get", "rest"]).await.text(), "2\n");
    done(broker, &["publish", "-q", "from", "3"]).await;
    done(broker, &["move", "from", "-e", "media", "-k", "video.x"]).await;
    assert_eq!(done(broker, &["get", "videos"]).await.text(), "3\n");
}

/// Whoever reads its output.
async fn a_failure_is_told_by_its_code_though_nobody_reads(broker: &Broker) {
    declare(broker, &["from"]).await;
    done(broker, &["declare", "exchange", "media", "type=topic"]).await;
    fill(broker, "from", 1).await;
    let publish = [
        "publish",
        "-e",
        "media",
        "-k",
        "a",
        "1",
        "--mandatory",
        "--json",
    ];
    let bridge = [
        "bridge",
        "from",
        "--to",
        broker.url(),
        "-e",
        "media",
        "--json",
    ];
    for arguments in [
        &publish[..],
        &["move", "from", "-e", "media", "--json"],
        &bridge,
    ] {
        let mut child = command(broker.url(), arguments).spawn().unwrap();
        drop(child.stdout.take());
        let ended = finish(child, b"").await;
        assert_eq!(ended.code, Some(5), "{arguments:?}: {}", ended.errors);
    }
}

async fn a_letter_whose_queue_is_gone_keeps_no_other_from_going_back(broker: &Broker) {
    bury(broker, 1).await;
    let attributes = [
        "declare",
        "queue",
        "others",
        "dead_letter_exchange=",
        "dead_letter_routing_key=failed",
    ];
    done(broker, &attributes).await;
    done(broker, &["delete", "queue", "jobs", "--yes"]).await;
    done(broker, &["publish", "-q", "others", "7"]).await;
    let connection = broker.connect().await;
    let dead = connection.get("others").await.unwrap().unwrap();
    dead.reject().await.unwrap();
    connection.close().await.unwrap();
    common::until(async || ready(broker, "failed").await == 2).await;
    let redriven = run(broker.url(), &["dead", "redrive", "failed", "--json"]).await;
    assert_eq!(redriven.code, Some(5), "{}", redriven.errors);
    assert_eq!(
        redriven.json(),
        [json!({"moved": 1, "left": 1, "perhaps_twice": 0})]
    );
    assert_eq!(done(broker, &["get", "others"]).await.text(), "7\n");
    assert_eq!(done(broker, &["get", "failed"]).await.text(), "0\n");
}

async fn a_redrive_that_is_killed_loses_nothing(broker: &Broker) {
    bury(broker, MESSAGES).await;
    kill_half_way(broker, &["dead", "redrive", "failed"], "jobs").await;
}

async fn dead_letters_are_looked_at_and_go_back_to_where_they_died(broker: &Broker) {
    bury(broker, 2).await;
    done(broker, &["publish", "-q", "failed", "\"never died\""]).await;
    let listed = done(broker, &["dead", "list", "failed", "--json"])
        .await
        .json();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0]["died_in"], "jobs");
    assert_eq!(listed[0]["reason"], "rejected");
    assert_eq!(listed[2]["died_in"], Value::Null);
    let table = done(broker, &["dead", "list", "failed", "-n", "1"]).await;
    assert!(table.text().contains("rejected"), "{}", table.text());
    let shown = done(broker, &["dead", "show", "failed", "-n", "1", "-v"]).await;
    assert!(shown.text().contains("x-death"), "{}", shown.text());

    let redriven = done(broker, &["dead", "redrive", "failed", "--json"]).await;
    assert_eq!(
        redriven.json(),
        [json!({"moved": 2, "left": 1, "perhaps_twice": 0})]
    );
    let back = done(broker, &["consume", "jobs", "-n", "2", "--json"])
        .await
        .json();
    assert_eq!(back[1]["body"], 1);
    assert_eq!(back[0].get("headers"), None, "{}", back[0]);
    assert_eq!(
        done(broker, &["get", "failed"]).await.text(),
        "\"never died\"\n"
    );
}

/// What `consume --json` says of a message, without where it is.
fn without_place(mut message: Value) -> Value {
    let fields = message.as_object_mut().unwrap();
    for place in ["queue", "routing_key", "redelivered", "attempt"] {
        fields.remove(place).unwrap();
    }
    message
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(
    not(all(kombu_test_amqp, kombu_test_nats, kombu_test_redis)),
    ignore = "not every broker is there"
)]
async fn a_message_that_went_over_every_broker_is_the_same() {
    let (amqp, redis, nats) = (
        kombu_tests::AmqpHarness::new(),
        kombu_tests::RedisHarness::new(),
        kombu_tests::NatsHarness::new(),
    );
    let brokers = (
        amqp.broker().await,
        redis.broker().await,
        nats.broker().await,
    );
    declare(&brokers.0, &["jobs", "back"]).await;
    declare(&brokers.1, &["jobs"]).await;
    declare(&brokers.2, &["jobs"]).await;
    let published = [
        "publish",
        "-q",
        "jobs",
        "-H",
        "tenant=7",
        "-H",
        "nested={\"a\": [1, true, null, \"b\"]}",
        "--priority",
        "3",
        "--correlation-id",
        "c-1",
        "--reply-to",
        "answers",
        "--message-id",
        "m-1",
        "--type",
        "job",
        "--app-id",
        "shop",
        "--timestamp",
        "1700000000",
        "{\"b\": 1.0,  \"a\": 2}",
        "text \u{e9}",
    ];
    done(&brokers.0, &published).await;
    let image = feed(
        brokers.0.url(),
        &["publish", "-q", "jobs", "--transient"],
        b"\xff\xd8\x00",
    );
    assert_eq!(image.await.code, Some(0));
    let looked = done(
        &brokers.0,
        &["get", "jobs", "-n", "3", "--release", "--json"],
    );
    let before: Vec<Value> = looked.await.json().into_iter().map(without_place).collect();
    for (from, to, queue) in [
        (&brokers.0, &brokers.1, "jobs"),
        (&brokers.1, &brokers.2, "jobs"),
        (&brokers.2, &brokers.0, "back"),
    ] {
        let arguments = ["bridge", "jobs", "--to", to.url(), "-q", queue, "-n", "3"];
        done(from, &arguments).await;
    }
    let after = done(&brokers.0, &["consume", "back", "-n", "3", "--json"]).await;
    let after: Vec<Value> = after.json().into_iter().map(without_place).collect();
    assert_eq!(after, before);
    amqp.clean_up(brokers.0).await;
    redis.clean_up(brokers.1).await;
    nats.clean_up(brokers.2).await;
}

/// Few large ones are as much as many small ones: it holds no more, and doesn't wait for what can't come.
async fn what_never_died_and_fills_the_room_ends_a_redrive_which_says_so(broker: &Broker) {
    const BYTES: usize = 1_000_000;
    declare(broker, &["failed"]).await;
    let connection = broker.connect().await;
    let producer = connection.producer(kombu::Exchange::default());
    let producer = producer.routing_key("failed").await.unwrap();
    for _ in 0..34 {
        producer.publish_bytes(vec![b'x'; BYTES]).await.unwrap();
    }
    connection.close().await.unwrap();
    bury(broker, 1).await;
    let redriven = done(broker, &["dead", "redrive", "failed", "--json"]).await;
    // As many as come to 32 MiB.
    assert_eq!(
        redriven.json(),
        [json!({"moved": 0, "left": 33, "perhaps_twice": 0})]
    );
    let said = "there may be dead letters behind so many that never died";
    assert!(redriven.errors.contains(said), "{}", redriven.errors);
    common::until(async || ready(broker, "failed").await == 35).await;
}

on_every_broker! {
    a_move_from_a_queue_to_itself_is_refused
    fewer_than_were_asked_for_is_code_6
    what_is_missing_is_told_with_the_end_at_which_it_is
    a_move_that_ends_early_tells_how_many_are_left
    a_move_keeps_order_properties_and_keys
    a_move_takes_no_more_than_it_is_told
    a_message_that_reaches_nobody_stays
    further_keys_send_no_copies_elsewhere
    a_bridge_brings_what_comes_until_nothing_comes
    a_bridge_ends_in_an_orderly_way
    a_move_that_is_killed_loses_nothing
    a_bridge_that_is_killed_loses_nothing
    what_somebody_else_has_is_told_of
    what_the_other_end_did_not_confirm_is_not_acknowledged
    what_the_source_did_not_hear_of_does_not_count_as_moved
    what_the_other_end_does_not_take_yet_is_kept_and_brought_later
    a_bridge_from_a_queue_to_itself_is_refused
    a_move_to_an_exchange_goes_where_the_keys_lead
    a_failure_is_told_by_its_code_though_nobody_reads
    a_letter_whose_queue_is_gone_keeps_no_other_from_going_back
    a_redrive_that_is_killed_loses_nothing
    dead_letters_are_looked_at_and_go_back_to_where_they_died
    what_never_died_and_fills_the_room_ends_a_redrive_which_says_so
}

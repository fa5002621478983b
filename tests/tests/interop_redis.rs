//! Python's kombu and Celery on the other side of a Redis: what one binds the other routes to, and both consume the same
//! queues.
//!
//! `KOMBU_TEST_REDIS_KILLS` says how often programs are killed, 20 times unless set, and `KOMBU_TEST_REDIS_BINDS` how often
//! a binding is made just before a publish, 500 times unless set. `scripts/test --long` sets 100 and 10,000.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis_python), allow(dead_code, unused_imports))]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use kombu::{Connection, ErrorKind, Exchange, FieldValue, Producer, Queue};
use kombu_tests::{Meeting, Peer, RawRedis, RedisHarness, integer, next};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use url::Url;

const WORKER: &str = env!("CARGO_BIN_EXE_redis_worker");
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
/// Between the parts of a row in kombu's sets of bindings.
const SEPARATOR: &str = "\u{6}\u{16}";

async fn meeting() -> Meeting {
    Meeting::at(RedisHarness::new()).await
}

/// Redis itself, at the keys of a meeting.
struct Keys {
    redis: RawRedis,
    prefix: String,
}

impl Keys {
    fn of(meeting: &Meeting) -> Self {
        let url = Url::parse(meeting.broker.url()).unwrap();
        let prefix = url.query_pairs().find(|(name, _)| name == "prefix");
        Keys {
            redis: RawRedis::connect(&url),
            prefix: prefix.unwrap().1.into_owned(),
        }
    }

    /// A command on one key.
    fn ask(&mut self, command: &str, key: &str, arguments: &[&str]) -> Value {
        let key = format!("{}{key}", self.prefix);
        let command = [&[command, key.as_str()], arguments].concat();
        self.redis.ask(&command)
    }

    fn length(&mut self, queue: &str) -> u64 {
        self.ask("LLEN", queue, &[]).as_u64().unwrap()
    }

    /// The rows of an exchange.
    fn rows(&mut self, exchange: &str) -> BTreeSet<String> {
        let rows = self.ask("SMEMBERS", &format!("_kombu.binding.{exchange}"), &[]);
        serde_json::from_value(rows).unwrap()
    }

    /// The elements of a list.
    fn elements(&mut self, list: &str) -> Vec<String> {
        serde_json::from_value(self.ask("LRANGE", list, &["0", "-1"])).unwrap()
    }
}

fn times(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(times) => times.parse().unwrap(),
        Err(_) => otherwise,
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn the_lists_of_priorities_are_served_in_one_order_on_both_sides() {
    let meeting = meeting().await;
    let priorities = [9, 5, 0, 1];
    let messages = priorities.map(|priority| {
        json!({
            "routing_key": "inbox",
            "body": integer(priority),
            "publish": {"priority": priority},
        })
    });
    meeting.python_sends(&messages).await;
    let mut consumer = meeting.consumer().await;
    // Python's 0 is the most urgent, and 1 is the same to it.
    for expected in [0, 1, 5, 9] {
        let (number, delivery) = next(&mut consumer).await.take::<i64>().unwrap();
        assert_eq!(number, expected);
        delivery.ack().await.unwrap();
    }
    consumer.cancel().await.unwrap();

    // Of ours, 9 is the most urgent, on queues that have priorities.
    meeting.connection.delete_queue("inbox").await.unwrap();
    let inbox = Queue::new("inbox").max_priority(9);
    meeting.connection.declare_queue(&inbox).await.unwrap();
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.routing_key("inbox").await.unwrap();
    for priority in [0, 1, 5, 9] {
        let publish = producer.publish(&priority);
        let publish = publish.priority(u8::try_from(priority).unwrap());
        publish.await.unwrap();
    }
    let received = meeting.python_receives(priorities.len()).await;
    let numbers: Vec<&Value> = received.iter().map(|message| &message["body"]).collect();
    // 0 and 1 share a list.
    assert_eq!(
        numbers,
        [9, 5, 0, 1].map(integer).iter().collect::<Vec<_>>()
    );
}

/// Patterns of a topic, and what each matches of [`KEYS`] by RabbitMQ's rules.
const PATTERNS: [(&str, &str); 8] = [
    ("#", "all"),
    ("*", "a a-b_c+d"),
    ("a.#", "a a.b a.b.c a.x.b"),
    ("#.b", "a.b a.x.b b.b"),
    ("*.b", "a.b b.b"),
    ("a.*", "a.b"),
    ("a.#.b", "a.b a.x.b"),
    ("a-b_c+d", "a-b_c+d"),
];
const KEYS: [&str; 6] = ["a", "a.b", "a.b.c", "a.x.b", "b.b", "a-b_c+d"];

fn expected(matched: &str) -> BTreeSet<String> {
    let keys = match matched {
        "all" => KEYS.to_vec(),
        keys => keys.split(' ').collect(),
    };
    keys.into_iter().map(str::to_owned).collect()
}

/// The routing keys of the messages in a queue, the oldest first.
fn waiting(keys: &mut Keys, queue: &str) -> Vec<String> {
    let elements = keys.elements(queue).into_iter().rev();
    let key = |element: String| {
        let message: Value = serde_json::from_str(&element).unwrap();
        let key = &message["properties"]["delivery_info"]["routing_key"];
        key.as_str().unwrap().to_owned()
    };
    elements.map(key).collect()
}

/// A queue on the exchange `media`, as `peer.py` declares it.
fn on_media(kind: &str, name: &str, key: &str) -> Value {
    json!({"name": name, "exchange": {"name": "media", "type": kind}, "routing_key": key})
}

/// What has Python declare a queue.
fn declaring(queue: Value) -> Value {
    json!({"queue": queue, "routing_key": "elsewhere", "body": ""})
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn what_python_binds_to_a_topic_is_matched_by_rabbitmqs_rules() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let bind = async |patterns: &[(&str, &str)]| {
        let patterns = patterns.iter();
        let messages: Vec<Value> = patterns
            .map(|(pattern, _)| declaring(on_media("topic", pattern, pattern)))
            .collect();
        meeting.python_sends(&messages).await;
    };
    // Before we have ever looked, and afterwards.
    let (early, late) = PATTERNS.split_at(4);
    bind(early).await;
    let media = Exchange::topic("media");
    let producer = meeting.connection.producer(&media).await.unwrap();
    assert!(
        producer
            .publish(&"")
            .routing_key("b.b")
            .await
            .unwrap()
            .routed
    );
    bind(late).await;
    for key in KEYS {
        let published = producer.publish(&"").routing_key(key).await.unwrap();
        assert!(published.routed, "{key}");
    }
    for (index, (pattern, matched)) in PATTERNS.iter().enumerate() {
        let mut matching = waiting(&mut keys, pattern);
        if index < early.len() && expected(matched).contains("b.b") {
            assert_eq!(matching.remove(0), "b.b", "{pattern}");
        }
        assert_eq!(matching.len(), expected(matched).len(), "{pattern}");
        assert_eq!(
            BTreeSet::from_iter(matching),
            expected(matched),
            "{pattern}"
        );
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn python_routes_to_what_is_bound_here() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    for (kind, exchange) in [
        ("topic", Exchange::topic("topics")),
        ("direct", Exchange::direct("keys")),
    ] {
        for (pattern, _) in PATTERNS {
            let queue = Queue::new(format!("{kind} {pattern}")).bind(&exchange, pattern);
            meeting.connection.declare_queue(&queue).await.unwrap();
        }
        let messages = KEYS.map(|key| {
            json!({
                "exchange": {"name": exchange.name().as_str(), "type": kind},
                "routing_key": key,
                "body": "",
            })
        });
        meeting.python_sends(&messages).await;
    }
    for (pattern, matched) in PATTERNS {
        let matching = BTreeSet::from_iter(waiting(&mut keys, &format!("topic {pattern}")));
        let mut expected = expected(matched);
        // To Python, `#` is a word or more.
        if pattern == "a.#" {
            expected.remove("a");
        }
        if pattern == "a.#.b" {
            expected.remove("a.b");
        }
        assert_eq!(matching, expected, "{pattern}");
        let equal = waiting(&mut keys, &format!("direct {pattern}"));
        let is_key = KEYS.contains(&pattern);
        assert_eq!(equal, if is_key { vec![pattern] } else { vec![] });
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn one_binding_is_the_same_to_both() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    for (pattern, _) in PATTERNS {
        for (kind, exchange) in [
            ("topic", Exchange::topic("media")),
            ("direct", Exchange::direct("media")),
            ("fanout", Exchange::fanout("media")),
        ] {
            let queue = Queue::new("inbox").bind(&exchange, pattern);
            meeting.connection.declare_queue(&queue).await.unwrap();
            let ours = keys.rows("media");
            assert_eq!(ours.len(), 1);
            let messages = [declaring(on_media(kind, "inbox", pattern))];
            meeting.python_sends(&messages).await;
            assert_eq!(keys.rows("media"), ours, "{kind} {pattern}");
            // Its twin keeps Python from sweeping it away.
            let permanent = keys.ask("SMEMBERS", "_kombu.binding_permanent.media", &[]);
            assert_eq!(permanent, json!(ours));
            meeting.connection.delete_queue("inbox").await.unwrap();
            assert!(keys.rows("media").is_empty());
            meeting.connection.delete_exchange("media").await.unwrap();
        }
    }
}

/// Python with a consumer that is known to the server.
async fn listening(meeting: &Meeting, queue: &Value) -> Peer {
    let mut python = meeting.python(&["listen", &queue.to_string()]);
    assert_eq!(python.line().await, "ready");
    python
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn a_publish_to_a_fanout_reaches_queues_here_and_subscribers_there() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let media = Exchange::fanout("media");
    let producer = meeting.connection.producer(&media).await.unwrap();
    assert!(!producer.publish(&"nobody").await.unwrap().routed);

    let mut python = listening(&meeting, &on_media("fanout", "there", "")).await;
    let mut other = listening(&meeting, &on_media("fanout", "there too", "")).await;
    producer.publish(&"first").await.unwrap();
    for python in [&mut python, &mut other] {
        assert_eq!(python.line().await, json!(["", "first"]));
    }
    let here = Queue::new("here").bind(&media, "");
    let mut consumer = meeting.connection.consumer(&here).await.unwrap();
    assert!(producer.publish(&"second").await.unwrap().routed);
    for python in [&mut python, &mut other] {
        assert_eq!(python.line().await, json!(["", "second"]));
    }
    let (text, delivery) = next(&mut consumer).await.take::<String>().unwrap();
    assert_eq!(text, "second");
    delivery.ack().await.unwrap();
    // A channel keeps nothing until later.
    let later = producer.publish(&"later").delay(Duration::from_secs(3600));
    assert!(later.await.unwrap().routed);
    for python in [&mut python, &mut other] {
        assert_eq!(python.line().await, json!(["", "later"]));
    }
    python.end().await;
    other.end().await;
    // Python's subscribers have no lists.
    assert_eq!((keys.length("there"), keys.length("there too")), (0, 0));
}

/// One more connection to the broker of a meeting, which listens to what Python publishes to fanout exchanges.
async fn listener(meeting: &Meeting) -> Connection {
    let url = format!("{}&fanout=kombu", meeting.broker.url());
    kombu::connect(url).await.unwrap()
}

/// What has Python publish to a fanout exchange.
fn to_media(routing_key: &str, body: Value) -> Value {
    let exchange = json!({"name": "media", "type": "fanout"});
    json!({"exchange": exchange, "routing_key": routing_key, "body": body})
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn what_python_publishes_to_a_fanout_is_stored_once_whoever_listens() {
    const COUNT: u64 = 200;
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let media = Exchange::fanout("media");
    let queues = ["one", "other"].map(|name| Queue::new(name).bind(&media, ""));
    // Behind another exchange, too.
    let archive = Exchange::topic("archive").bind(&media, "");
    let behind = Queue::new("behind").bind(&archive, "#");
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let connection = listener(&meeting).await;
        for queue in queues.iter().chain([&behind]) {
            connection.declare_queue(queue).await.unwrap();
        }
        listeners.push(connection);
    }
    let mut messages: Vec<Value> = (0..COUNT)
        .map(|number| to_media("", number.into()))
        .collect();
    messages.push(to_media("a.key", "the last".into()));
    meeting.python_sends(&messages).await;
    for queue in ["one", "other", "behind"] {
        let mut consumer = listeners[0].consumer(&Queue::new(queue)).await.unwrap();
        for number in 0..COUNT {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.decode::<u64>().unwrap(), number);
            assert_eq!(delivery.exchange(), "media");
            delivery.ack().await.unwrap();
        }
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.decode::<String>().unwrap(), "the last");
        assert_eq!(delivery.routing_key(), "a.key");
        delivery.ack().confirmed().await.unwrap();
        drop(consumer);
    }
    // What isn't Python's is stored by whoever publishes.
    let producer = meeting.connection.producer(&media).await.unwrap();
    assert!(producer.publish(&"ours").await.unwrap().routed);
    // Whoever stores the last one has heard all that came before.
    while listeners.len() > 1 {
        listeners.pop().unwrap().close().await.unwrap();
    }
    meeting
        .python_sends(&[to_media("", "the end".into())])
        .await;
    for queue in ["one", "other", "behind"] {
        let mut consumer = listeners[0].consumer(&Queue::new(queue)).await.unwrap();
        for expected in ["ours", "the end"] {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.decode::<String>().unwrap(), expected);
            delivery.ack().confirmed().await.unwrap();
        }
        assert_eq!(keys.length(queue), 0);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn what_python_publishes_to_a_fanout_is_heard_while_one_listener_lives() {
    let meeting = meeting().await;
    let media = Exchange::fanout("media");
    let inbox = Queue::new("inbox").bind(&media, "");
    let (one, other) = (listener(&meeting).await, listener(&meeting).await);
    one.declare_queue(&inbox).await.unwrap();
    other.declare_queue(&inbox).await.unwrap();
    let mut consumer = meeting.connection.consumer(&inbox).await.unwrap();
    meeting.python_sends(&[to_media("", "first".into())]).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.decode::<String>().unwrap(), "first");
    delivery.ack().await.unwrap();

    one.close().await.unwrap();
    meeting.python_sends(&[to_media("", "second".into())]).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.decode::<String>().unwrap(), "second");
    delivery.ack().await.unwrap();

    // Without the option, as among Python's own, it is lost.
    other.close().await.unwrap();
    meeting.python_sends(&[to_media("", "third".into())]).await;
    let producer = meeting.connection.producer(&media).await.unwrap();
    producer.publish(&"fourth").await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.decode::<String>().unwrap(), "fourth");
    delivery.ack().await.unwrap();
}

/// Publishes the numbers to `inbox`.
async fn publish_numbers(producer: &Producer, numbers: impl IntoIterator<Item = u64>) {
    let mut receipts = Vec::new();
    for number in numbers {
        receipts.push(producer.publish(&number).send().await.unwrap());
    }
    for receipt in receipts {
        assert!(receipt.await.unwrap().routed);
    }
}

/// What a program says it has done, by what it was.
fn numbers(said: &[Value], what: &str) -> Vec<u64> {
    let said = said.iter().filter(|line| line[0] == what);
    said.map(|line| line[1].as_u64().unwrap()).collect()
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn both_consume_one_queue_and_send_back_and_each_message_is_processed_once() {
    const COUNT: u64 = 2000;
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let producer = meeting.producer().await;
    let mut python = meeting.python(&["share", "inbox"]);
    assert_eq!(python.line().await, "ready");
    let inbox = Queue::new("inbox");
    let consumer = meeting.connection.consumer(&inbox).prefetch(10);
    let mut consumer = consumer.await.unwrap();
    publish_numbers(&producer, 0..COUNT).await;

    let (mut acked, mut released, mut redelivered) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    loop {
        let received = consumer.receive(Duration::from_secs(1)).await.unwrap();
        let Some(delivery) = received else {
            // Python's are acked before they are counted; so nothing is left when the keys are gone.
            let held = keys.ask("HLEN", "unacked", &[]);
            if keys.length("inbox") == 0 && held == 0 {
                break;
            }
            continue;
        };
        let (number, delivery) = delivery.take::<u64>().unwrap();
        if delivery.redelivered() {
            redelivered.insert(number);
        }
        if number % 5 == 0 && !delivery.redelivered() {
            released.insert(number);
            delivery.release().await.unwrap();
        } else {
            delivery.ack().confirmed().await.unwrap();
            acked.push(number);
        }
    }
    let said = python.rest().await;
    let (there, back) = (numbers(&said, "acking"), numbers(&said, "back"));
    assert!(!there.is_empty() && !acked.is_empty());
    let back = BTreeSet::from_iter(back);
    println!(
        "{} here and {} there, after {} and {} went back",
        acked.len(),
        there.len(),
        released.len(),
        back.len()
    );
    assert!(!back.is_empty() && !released.is_empty());
    // What one has sent back is no new message to the other.
    assert!(released.is_disjoint(&back));
    assert!(redelivered.is_subset(&released.union(&back).copied().collect()));
    let mut all = [acked, there].concat();
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..COUNT));
}

/// What waits in `inbox` and comes back to it, when everybody else is gone.
async fn drain(meeting: &Meeting, expected: u64) -> BTreeSet<u64> {
    let mut consumer = meeting.consumer().await;
    let mut drained = BTreeSet::new();
    loop {
        // So long it may take until what a dead session held is back.
        let received = consumer.receive(Duration::from_secs(10)).await.unwrap();
        let Some(delivery) = received else { break };
        let (number, delivery) = delivery.take().unwrap();
        assert!(drained.insert(number), "{number} comes twice");
        delivery.ack().confirmed().await.unwrap();
        if drained.len() as u64 == expected {
            break;
        }
    }
    drained
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn what_consumers_held_that_are_killed_comes_back() {
    const EACH: u64 = 40;
    let meeting = meeting().await;
    let producer = meeting.producer().await;
    let url = format!("{}&lease=1", meeting.broker.url());
    let kills = times("KOMBU_TEST_REDIS_KILLS", 20);
    let (mut acking, mut acked, mut held) = (BTreeSet::new(), BTreeSet::new(), 0);
    for round in 0..kills {
        let mut worker = Peer::run(Command::new(WORKER).args([&url, "inbox"]));
        publish_numbers(&producer, round * EACH..(round + 1) * EACH).await;
        let mut said = Vec::new();
        // At another place each time. With 20 it may have as many as it can hold.
        for _ in 0..fastrand::usize(1..=20) {
            said.push(worker.line().await);
        }
        said.extend(worker.kill().await);
        let received = numbers(&said, "received").len();
        acking.extend(numbers(&said, "acking"));
        for number in numbers(&said, "acked") {
            assert!(acked.insert(number), "{number} is acked twice");
        }
        held += received - numbers(&said, "acked").len();
    }
    assert!(held > 0);
    let drained = drain(&meeting, kills * EACH - acked.len() as u64).await;
    assert!(drained.is_disjoint(&acked), "what was acked comes back");
    let all: BTreeSet<u64> = drained.union(&acking).copied().collect();
    let lost: Vec<u64> = (0..kills * EACH).filter(|one| !all.contains(one)).collect();
    println!(
        "{kills} kills, {held} deliveries held, {} acked: {} lost",
        acked.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "lost: {lost:?}");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn what_python_loses_when_it_is_killed_is_its_own_and_no_more() {
    const EACH: u64 = 100;
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let producer = meeting.producer().await;
    let kills = times("KOMBU_TEST_REDIS_KILLS", 20);
    publish_numbers(&producer, 0..kills * EACH).await;
    let mut accounted = BTreeSet::new();
    for _ in 0..kills {
        let mut python = meeting.python(&["share", "inbox"]);
        let mut said = Vec::new();
        // There is always more to do when it is killed.
        for _ in 0..fastrand::u64(1..EACH / 2) {
            said.push(python.line().await);
        }
        said.extend(python.kill().await);
        accounted.extend(numbers(&said, "acking"));
    }
    // What it has put down before it was killed stays there until a Python sweeps.
    let held: Vec<String> = serde_json::from_value(keys.ask("HVALS", "unacked", &[])).unwrap();
    for held in &held {
        let held: Value = serde_json::from_str(held).unwrap();
        accounted.insert(held[0]["body"].as_str().unwrap().parse().unwrap());
    }
    accounted.extend(drain(&meeting, u64::MAX).await);
    let lost = (0..kills * EACH)
        .filter(|one| !accounted.contains(one))
        .count();
    println!(
        "Python was killed {kills} times: it left {} in `unacked`, and lost {lost} between taking and writing down",
        held.len()
    );
    // One at a time.
    assert!(lost as u64 <= kills);
    assert_eq!(keys.ask("HLEN", "unacked", &[]), held.len());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn neither_sweeps_what_the_other_holds() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let producer = meeting.producer().await;
    publish_numbers(&producer, [1]).await;
    // Python takes one and dies with it.
    let mut python = meeting.python(&["hold", "inbox"]);
    assert_eq!(python.line().await, json!(["held", 1]));
    python.kill().await;
    let index = keys.ask("ZRANGE", "unacked_index", &["0", "-1", "WITHSCORES"]);
    let held = keys.ask("HGETALL", "unacked", &[]);
    assert_eq!(held.as_array().unwrap().len(), 2);

    // We take one, die with it, and it is given back: all without touching Python's.
    publish_numbers(&producer, [3]).await;
    let url = format!("{}&lease=1", meeting.broker.url());
    let mut worker = Peer::run(Command::new(WORKER).args([&url, "inbox"]));
    assert_eq!(worker.line().await, json!(["received", 3]));
    worker.kill().await;
    let mut consumer = meeting.consumer().await;
    let ours = next(&mut consumer).await;
    assert!(ours.redelivered());
    assert_eq!(keys.ask("HGETALL", "unacked", &[]), held);
    let index_now = keys.ask("ZRANGE", "unacked_index", &["0", "-1", "WITHSCORES"]);
    assert_eq!(index_now, index);

    // Python sweeps, and finds its own alone.
    let mut python = meeting.python(&["sweep", "inbox"]);
    assert_eq!(python.line().await, json!([1, true]));
    python.end().await;
    assert_eq!(keys.ask("HLEN", "unacked", &[]), 0);
    ours.ack().confirmed().await.unwrap();
    assert_eq!(keys.length("inbox"), 0);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn what_python_binds_before_a_publish_begins_gets_it() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let jobs = Exchange::direct("jobs");
    // Others publish to the exchange meanwhile, so that each publish waits behind a flight.
    let noise = Queue::new("noise").max_length(10).bind(&jobs, "noise");
    meeting.connection.declare_queue(&noise).await.unwrap();
    let producer = meeting.connection.producer(&jobs).await.unwrap();
    let noise = tokio::spawn({
        let producer = meeting.connection.producer(&jobs).await.unwrap();
        async move {
            loop {
                producer.publish(&"").routing_key("noise").await.unwrap();
            }
        }
    });
    let row = |queue: &str| format!("job{SEPARATOR}{SEPARATOR}{queue}");
    let mut before: Option<String> = None;
    for one in 0..times("KOMBU_TEST_REDIS_BINDS", 500) {
        // As Python does it. Half the time, another one goes just before: there are as many as there were.
        let queue = format!("queue {one}");
        if fastrand::bool()
            && let Some(before) = before.take()
        {
            assert_eq!(keys.ask("SREM", "_kombu.binding.jobs", &[&row(&before)]), 1);
            keys.ask("DEL", &before, &[]);
            keys.ask("SADD", "_kombu.binding.jobs", &[&row(&queue)]);
            let published = producer.publish(&one).routing_key("job").await.unwrap();
            assert!(published.routed);
            assert_eq!(keys.length(&before), 0, "a queue that is gone at {one}");
        } else {
            keys.ask("SADD", "_kombu.binding.jobs", &[&row(&queue)]);
            let published = producer.publish(&one).routing_key("job").await.unwrap();
            assert!(published.routed);
        }
        assert_eq!(keys.length(&queue), 1, "missed at {one}");
        if let Some(before) = before.replace(queue) {
            keys.ask("SREM", "_kombu.binding.jobs", &[&row(&before)]);
            keys.ask("DEL", &before, &[]);
        }
    }
    noise.abort();
    assert!(noise.await.unwrap_err().is_cancelled());
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn the_dead_go_where_python_binds_late() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let media = Exchange::direct("media");
    let ours = Queue::new("ours").bind(&media, "inbox");
    meeting.connection.declare_queue(&ours).await.unwrap();
    let inbox = Queue::new("inbox").dead_letter_exchange("media");
    let mut consumer = meeting.connection.consumer(&inbox).await.unwrap();
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.routing_key("inbox").await.unwrap();
    publish_numbers(&producer, [1]).await;
    next(&mut consumer)
        .await
        .reject()
        .confirmed()
        .await
        .unwrap();

    let graves = on_media("direct", "graves", "inbox");
    meeting.python_sends(&[declaring(graves)]).await;
    publish_numbers(&producer, [2]).await;
    next(&mut consumer)
        .await
        .reject()
        .confirmed()
        .await
        .unwrap();
    assert_eq!((keys.length("ours"), keys.length("graves")), (2, 1));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn queues_that_only_python_knows_are_published_to() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    // As Celery has them: bound to an exchange of the same name, or with a message in it.
    let bound = json!({
        "name": "bound",
        "exchange": {"name": "bound", "type": "direct"},
        "routing_key": "bound",
    });
    let waiting_already = json!({"routing_key": "used", "body": integer(1)});
    meeting
        .python_sends(&[declaring(bound), waiting_already])
        .await;
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.await.unwrap();
    for queue in ["bound", "used"] {
        let published = producer.publish(&2).routing_key(queue).await.unwrap();
        assert!(published.routed);
    }
    assert_eq!((keys.length("bound"), keys.length("used")), (1, 2));
    assert_eq!(keys.ask("TTL", "bound", &[]), -1);
    // And consumed from.
    let used = Queue::new("used");
    let consumer = meeting.connection.consumer(&used);
    let mut consumer = consumer.await.unwrap();
    for expected in [1, 2] {
        let (number, delivery) = next(&mut consumer).await.take::<u32>().unwrap();
        assert_eq!(number, expected);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn answers_go_to_queues_that_leave_no_trace_and_nothing_else_does() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.await.unwrap();
    let publish = || producer.publish(&7).routing_key("nobody");
    let problem = publish().await.unwrap_err();
    assert_eq!(problem.kind(), ErrorKind::Unroutable);
    let problem = publish().correlation_id("1").await.unwrap_err();
    assert_eq!(problem.kind(), ErrorKind::Unroutable);
    assert!(!publish().allow_unroutable().await.unwrap().routed);
    assert_eq!(keys.length("nobody"), 0);

    let answer = || publish().correlation_id("1").allow_unroutable();
    assert!(!answer().await.unwrap().routed);
    assert_eq!(keys.length("nobody"), 1);
    // For a day at most, if nobody comes for it.
    let day = Duration::from_secs(24 * 60 * 60).as_secs();
    let left = keys.ask("TTL", "nobody", &[]).as_u64().unwrap();
    assert!((day - 60..=day).contains(&left), "{left}");
}

/// A program with the tasks of `tasks.py`.
fn celery(meeting: &Meeting, arguments: &[&str]) -> Command {
    let mut celery = Command::new(std::env::var_os("KOMBU_TEST_PYTHON").unwrap());
    celery
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONWARNINGS", "ignore")
        .env("TASKS_URL", meeting.broker.url())
        .args(arguments)
        .current_dir(PYTHON);
    celery
}

/// A Celery worker. It ends when it is dropped.
fn worker(meeting: &Meeting) -> Child {
    let worker = ["-m", "celery", "--app", "tasks", "worker", "--pool", "solo"];
    let arguments = [&worker[..], &["--loglevel", "CRITICAL"]].concat();
    celery(meeting, &arguments)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn a_celery_worker_runs_tasks_that_are_sent_here() {
    let meeting = meeting().await;
    let _worker = worker(&meeting);
    let answers = Queue::server_named().exclusive(true);
    let mut consumer = meeting.connection.consumer(&answers).await.unwrap();
    let answers = consumer.queues()[0].clone();
    let celery = Queue::new("celery").bind(Exchange::direct("celery"), "celery");
    meeting.connection.declare_queue(&celery).await.unwrap();
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.routing_key("celery").await.unwrap();
    for (id, task, arguments) in [
        ("1", "tasks.add", json!([2, 3])),
        ("2", "tasks.divide", json!([1, 0])),
        ("3", "tasks.missing", json!([])),
    ] {
        let task_body = (arguments, json!({}), json!({}));
        let publish = producer.publish(&task_body);
        let publish = publish.header("task", task).header("id", id);
        let publish = publish.correlation_id(id).reply_to(answers.clone());
        publish.await.unwrap();
    }
    for (id, status, result) in [
        ("1", "SUCCESS", json!(5)),
        ("2", "FAILURE", json!("ZeroDivisionError")),
        ("3", "FAILURE", json!("NotRegistered")),
    ] {
        let (answer, delivery) = next(&mut consumer).await.take::<Value>().unwrap();
        assert_eq!(delivery.correlation_id(), Some(id));
        assert_eq!(answer["task_id"], id);
        assert_eq!(answer["status"], status);
        let exception = answer["result"].get("exc_type");
        assert_eq!(exception.unwrap_or(&answer["result"]), &result);
        delivery.ack().await.unwrap();
    }
}

/// A message of a task, as far as it takes to run it.
#[derive(Deserialize)]
struct Task(Vec<i64>, BTreeMap<String, Value>, Value);

#[tokio::test]
#[cfg_attr(not(kombu_test_redis_python), ignore = "no Redis or no Python kombu")]
async fn tasks_that_celery_sends_are_run_here() {
    let meeting = meeting().await;
    let mut keys = Keys::of(&meeting);
    let mut python = Peer::run(&mut celery(&meeting, &["tasks.py"]));
    let celery = Queue::new("celery").bind(Exchange::direct("celery"), "celery");
    let mut consumer = meeting.connection.consumer(&celery).await.unwrap();
    let producer = meeting.connection.producer(Exchange::default());
    let producer = producer.await.unwrap();
    for (task, arguments) in [("tasks.add", vec![2, 3]), ("tasks.divide", vec![1, 0])] {
        let (Task(given, named, embedded), delivery) = next(&mut consumer).await.take().unwrap();
        assert_eq!((given, named.len()), (arguments, 0));
        assert_eq!(embedded["chord"], Value::Null);
        let header = |name: &str| delivery.headers().get(name).and_then(FieldValue::as_str);
        assert_eq!(header("task"), Some(task));
        assert_eq!(header("lang"), Some("py"));
        let id = header("id").unwrap();
        let answer = match task {
            "tasks.add" => json!({"status": "SUCCESS", "result": 5, "task_id": id}),
            _ => json!({
                "status": "FAILURE",
                "result": {
                    "exc_type": "ZeroDivisionError",
                    "exc_message": ["none of ours"],
                    "exc_module": "builtins",
                },
                "task_id": id,
                "traceback": null,
                "children": [],
            }),
        };
        let publish = producer.publish(&answer).allow_unroutable();
        let publish = publish.routing_key(delivery.reply_to().unwrap());
        let publish = publish.correlation_id(delivery.correlation_id().unwrap());
        publish.await.unwrap();
        delivery.ack().await.unwrap();
    }
    assert_eq!(python.line().await, 5);
    assert_eq!(python.line().await, "ZeroDivisionError('none of ours')");
    python.end().await;
    assert_eq!(keys.length("celery"), 0);
}

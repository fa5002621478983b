//! A Redis hands what is published to a consumer that waits, without being asked: in order, never more than it has room for, and
//! nothing to one that is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kombu::{
    Connection, Consumer, Delivery, ErrorKind, Event, Events, Exchange, Producer, Queue,
    RetryPolicy,
};
use kombu_testkit::brokers::Redis;
use kombu_testkit::expect::{collect_one, drain, info};
use kombu_testkit::proxy::Proxy;
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

async fn restored(events: &mut Events) {
    let restored = async { while !matches!(events.next().await, Some(Event::Restored { .. })) {} };
    timeout(PATIENCE, restored).await.expect("a new session");
}

/// Polls a consumer until the server has so many parked at a queue.
async fn park(consumer: &mut Consumer, admin: &RedisAdmin, queue: &str, count: usize) {
    let parked = format!("_kombu.rs.parked.{queue}");
    let so = async {
        while admin.ask(["HLEN", &parked]) != format!(":{count}") {
            let waiting = timeout(Duration::from_millis(5), consumer.try_next());
            assert!(waiting.await.is_err(), "nothing comes");
        }
    };
    timeout(PATIENCE, so).await.expect("it is parked");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_comes_is_handed_to_a_consumer_that_waits() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let mut consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    for number in 0..3_u64 {
        park(&mut consumer, &admin, "jobs", 1).await;
        producer.publish(&number).await.unwrap();
        // It has it, though it didn't ask.
        let counts = info(&other, "jobs").await;
        assert_eq!((counts.ready, counts.unsettled), (0, Some(1)));
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        assert!(!delivery.redelivered());
        delivery.ack().confirmed().await.unwrap();
    }
    assert_eq!(info(&other, "jobs").await.unsettled, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_is_handed_over_and_what_is_taken_come_in_order() {
    const COUNT: u64 = 20_000;
    let redis = Redis::start().unwrap();
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let consumer = one.consumer(&Queue::new("jobs"));
    let mut consumer = consumer.prefetch(7).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    let publishing = tokio::spawn(async move {
        let mut number = 0;
        // Singly, and many at once: there are messages that wait, and there are none.
        for burst in (1..40_u64).cycle() {
            let until = COUNT.min(number + burst);
            let mut receipts = Vec::new();
            for number in number..until {
                receipts.push(producer.publish(&number).send().await.unwrap());
            }
            for receipt in receipts {
                receipt.await.unwrap();
            }
            number = until;
            if number == COUNT {
                return;
            }
        }
    });
    for number in 0..COUNT {
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        // It never got more than it had room for, which would have had to go back.
        assert!(!delivery.redelivered(), "{number}");
        delivery.ack().await.unwrap();
    }
    publishing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn one_window_over_several_queues_is_handed_no_more_than_it_has_room_for() {
    const COUNT: u64 = 3_000;
    let redis = Redis::start().unwrap();
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let queues = ["a", "b", "c"].map(Queue::new);
    let mut consumer = one.consumer(&queues[0]).prefetch(5).await.unwrap();
    for queue in &queues[1..] {
        consumer.add_queue(queue).await.unwrap();
    }
    let publishing = tokio::spawn(async move {
        let producer = other.producer(Exchange::default()).await.unwrap();
        for number in 0..COUNT {
            let mut receipts = Vec::new();
            for queue in ["a", "b", "c"] {
                let publish = producer.publish(&number).routing_key(queue);
                receipts.push(publish.send().await.unwrap());
            }
            for receipt in receipts {
                receipt.await.unwrap();
            }
        }
        other
    });
    let mut held = Vec::new();
    for number in 0..3 * COUNT {
        let delivery = receive(&mut consumer).await;
        assert!(!delivery.redelivered(), "{number}");
        held.push(delivery);
        if held.len() == 5 {
            for delivery in held.drain(..) {
                delivery.ack().await.unwrap();
            }
        }
    }
    let other = publishing.await.unwrap();
    drop(held);
    drop(consumer);
    for queue in ["a", "b", "c"] {
        assert_eq!(info(&other, queue).await.ready, 0);
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn all_that_wait_get_some_of_it() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let mut consumers = Vec::new();
    for count in 1..=3 {
        let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
        park(&mut consumer, &admin, "jobs", count).await;
        consumers.push(consumer);
    }
    let producer = producer_to(&connection, "jobs").await;
    for number in 0..60_u64 {
        producer.publish(&number).await.unwrap();
    }
    for consumer in &mut consumers {
        receive(consumer).await.ack().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_is_handed_to_a_consumer_that_ends_goes_back() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let producer = producer_to(&connection, "jobs").await;
    for number in 0..100_u64 {
        let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
        park(&mut consumer, &admin, "jobs", 1).await;
        let publishing = async { producer.publish(&number).await.unwrap() };
        match number % 3 {
            0 => drop(tokio::join!(publishing, async { drop(consumer) })),
            1 => drop(tokio::join!(publishing, async {
                consumer.cancel().await.unwrap()
            })),
            _ => {
                publishing.await;
                consumer.cancel().await.unwrap();
            }
        }
        let drained = drain(&connection, "jobs").await;
        let numbers: Vec<u64> = drained.iter().map(|got| got.decode().unwrap()).collect();
        assert_eq!(numbers, [number]);
    }
    assert_eq!(admin.ask(["EXISTS", "_kombu.rs.parked.jobs"]), ":0");
    connection.close().await.unwrap();
    assert_eq!(admin.ask(["KEYS", "_kombu.rs.handed.*"]), "*0");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn nothing_is_handed_to_a_session_that_does_not_hear() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let proxy = Proxy::start(redis.address()).await.unwrap();
    let one = connect(format!("redis://{}?lease=600", proxy.address())).await;
    let other = connect(redis.url()).await;
    let mut consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    park(&mut consumer, &admin, "jobs", 1).await;
    proxy.refuse().await;
    proxy.cut().await;
    // The server has seen that.
    let gone = async {
        while admin.ask(["PUBSUB", "CHANNELS"]) != "*0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it is gone");
    let producer = producer_to(&other, "jobs").await;
    producer.publish(&1_u64).await.unwrap();
    let counts = info(&other, "jobs").await;
    assert_eq!((counts.ready, counts.unsettled), (1, Some(0)));
    let got = other.get("jobs").await.unwrap().expect("it is there");
    assert!(!got.redelivered());
    got.ack().confirmed().await.unwrap();
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn large_messages_are_asked_for() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let mut consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    for length in [100_000, 10, 1_000_000] {
        park(&mut consumer, &admin, "jobs", 1).await;
        producer.publish_bytes(vec![b'x'; length]).await.unwrap();
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.body().len(), length);
        assert!(!delivery.redelivered());
        delivery.ack().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn without_the_right_to_hear_consumers_ask_for_each() {
    let redis = Redis::builder()
        .config("user alice on >a-secret ~* resetchannels +@all")
        .start()
        .unwrap();
    let connection = connect(format!("redis://alice:a-secret@{}", redis.address())).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    for number in 0..3_u64 {
        producer.publish(&number).await.unwrap();
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        delivery.ack().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_publisher_without_the_right_to_speak_hands_over_nothing() {
    let redis = Redis::builder()
        .config("user alice on >a-secret ~* resetchannels +@all")
        .start()
        .unwrap();
    let admin = RedisAdmin::of(&redis);
    let one = connect(redis.url()).await;
    let other = connect(format!("redis://alice:a-secret@{}", redis.address())).await;
    let mut consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    for number in 0..3_u64 {
        park(&mut consumer, &admin, "jobs", 1).await;
        producer.publish(&number).await.unwrap();
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        assert!(!delivery.redelivered());
        delivery.ack().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_session_that_can_not_be_handed_messages_any_more_is_lost() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let mut events = one.events();
    let mut consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    for number in 0..3_u64 {
        park(&mut consumer, &admin, "jobs", 1).await;
        producer.publish(&number).await.unwrap();
        assert_eq!(info(&other, "jobs").await.unsettled, Some(1));
        // Whether it has arrived there or not.
        admin.ask(["CLIENT", "KILL", "TYPE", "pubsub"]);
        restored(&mut events).await;
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        assert!(delivery.redelivered());
        delivery.ack().confirmed().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_consumer_that_does_not_read_is_handed_only_so_much() {
    const COUNT: u64 = 500;
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let consumer = one.consumer(&Queue::new("jobs"));
    let mut consumer = consumer.prefetch(1000).await.unwrap();
    park(&mut consumer, &admin, "jobs", 1).await;
    let producer = producer_to(&other, "jobs").await;
    for number in 0..COUNT {
        producer.publish(&(number, "x".repeat(1000))).await.unwrap();
    }
    let counts = info(&other, "jobs").await;
    assert!((1..=65).contains(&counts.unsettled.unwrap()), "{counts:?}");
    for number in 0..COUNT {
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<(u64, String)>().unwrap().0, number);
        assert!(!delivery.redelivered());
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_full_redis_stores_nothing_for_a_consumer_without_room() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let consumer = one.consumer(&Queue::new("jobs"));
    let mut consumer = consumer.prefetch(1).await.unwrap();
    park(&mut consumer, &admin, "jobs", 1).await;
    let producer = producer_to(&other, "jobs").await;
    producer.publish(&0_u64).await.unwrap();
    assert_eq!(admin.ask(["HLEN", "_kombu.rs.parked.jobs"]), ":1");
    admin.ask(["CONFIG", "SET", "maxmemory", "1"]);
    let refused = producer.publish(&1_u64).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Backpressure, "{refused}");
    assert_eq!(admin.ask(["LLEN", "jobs"]), ":0");
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_closed_connection_does_not_hear_any_more_although_a_delivery_is_kept() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let mut consumer = connection.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    producer.publish(&0_u64).await.unwrap();
    let kept = receive(&mut consumer).await;
    assert_eq!(admin.ask(["PUBSUB", "CHANNELS"]), "*1");
    connection.close().await.unwrap();
    let gone = async {
        while admin.ask(["PUBSUB", "CHANNELS"]) != "*0" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it is gone");
    drop(kept);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_is_released_is_handed_to_another_that_waits_in_its_order() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let jobs = Queue::new("jobs");
    let mut first = one.consumer(&jobs).prefetch(5).await.unwrap();
    let mut second = other.consumer(&jobs).prefetch(3).await.unwrap();
    let producer = producer_to(&one, "jobs").await;
    let mut held = Vec::new();
    for number in 0..5_u64 {
        park(&mut first, &admin, "jobs", 1).await;
        producer.publish(&number).await.unwrap();
        held.push(receive(&mut first).await);
    }
    first.cancel().await.unwrap();
    park(&mut second, &admin, "jobs", 1).await;
    // One after the other, the last one first.
    for delivery in held.into_iter().rev().take(2) {
        delivery.release().confirmed().await.unwrap();
    }
    let counts = info(&one, "jobs").await;
    // What was dropped goes back by itself, as far as there is room, and the rest to the queue.
    assert_eq!(counts.ready + counts.unsettled.unwrap(), 5, "{counts:?}");
    let mut received = Vec::new();
    while received.len() < 5 {
        let delivery = receive(&mut second).await;
        assert!(delivery.redelivered());
        received.push(delivery.decode::<u64>().unwrap());
        delivery.ack().confirmed().await.unwrap();
    }
    assert_eq!(received[..2], [4, 3]);
    received.sort_unstable();
    assert_eq!(received, [0, 1, 2, 3, 4]);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn what_is_released_takes_nobody_the_place_of_a_message_of_the_same_number() {
    const HELD: &str = "local key = redis.call('KEYS', '_kombu.rs.unacked.*.jobs')[1]\n\
                        local held = redis.call('HGETALL', key)\n\
                        return held[1] .. ' ' .. held[2]";
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let mut consumer = one.consumer(&Queue::new("jobs")).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    producer.publish(&7_u64).await.unwrap();
    let held = receive(&mut consumer).await;
    park(&mut consumer, &admin, "jobs", 1).await;
    // What Python gives back has the number that it had, and may be in two queues.
    let text = admin.text(["EVAL", HELD, "0"]);
    let (id, text) = text.split_once(' ').unwrap();
    let copy = format!("{{\"_kq\":\"{id}:0:0:0\",{}", &text[1..]);
    admin.ask(["LPUSH", "jobs", &copy]);
    let copied = other.get("jobs").await.unwrap().unwrap();
    copied.release().confirmed().await.unwrap();
    let again = receive(&mut consumer).await;
    assert_eq!(again.decode::<u64>().unwrap(), 7);
    assert_eq!(info(&other, "jobs").await.unsettled, Some(2));
    held.ack().confirmed().await.unwrap();
    again.ack().confirmed().await.unwrap();
    assert_eq!(info(&other, "jobs").await.unsettled, Some(0));
}

/// A number as it lies in the list of `jobs`, with the id of something that was handed out.
fn numbered(id: u64, number: u64) -> String {
    let properties = "{\"delivery_info\": {\"exchange\": \"\", \"routing_key\": \"jobs\"}, \"delivery_tag\": \"t\"}";
    format!(
        "{{\"_kq\":\"{id}:0:0:0\",\"body\": \"{number}\", \"content-type\": \"application/json\", \
         \"content-encoding\": \"utf-8\", \"headers\": {{}}, \"properties\": {properties}}}"
    )
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_number_that_was_made_up_is_not_that_of_a_message_to_come() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let jobs = Queue::new("jobs");
    one.declare_queue(&jobs).await.unwrap();
    let last = admin.text(["HGET", "_kombu.rs.q.jobs", "seq"]);
    let to_come = (last.parse::<u64>().unwrap() + 3) * 10;
    admin.ask(["LPUSH", "jobs", &numbered(to_come, 0)]);
    let mut consumer = one.consumer(&jobs).await.unwrap();
    let producer = producer_to(&other, "jobs").await;
    let mut held = vec![receive(&mut consumer).await];
    for number in 1..5_u64 {
        producer.publish(&number).await.unwrap();
        held.push(receive(&mut consumer).await);
    }
    assert_eq!(info(&other, "jobs").await.unsettled, Some(5));
    held.remove(0).ack().confirmed().await.unwrap();
    drop(held);
    for number in 1..5 {
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.decode::<u64>().unwrap(), number);
        delivery.ack().confirmed().await.unwrap();
    }
    let counts = info(&other, "jobs").await;
    assert_eq!((counts.ready, counts.unsettled), (0, Some(0)));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn a_number_that_begins_with_zero_is_none() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let connection = connect(redis.url()).await;
    let jobs = Queue::new("jobs");
    let mut consumer = connection.consumer(&jobs).await.unwrap();
    for id in ["0070", "00", "70"] {
        let element = numbered(70, 0).replace("\"70:", &format!("\"{id}:"));
        admin.ask(["LPUSH", "jobs", &element]);
    }
    for _ in 0..3 {
        let delivery = receive(&mut consumer).await;
        delivery.ack().confirmed().await.unwrap();
    }
    let counts = info(&connection, "jobs").await;
    assert_eq!((counts.ready, counts.unsettled), (0, Some(0)));
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn copies_of_one_number_that_are_released_together_are_all_handed_out() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let (one, other) = (connect(redis.url()).await, connect(redis.url()).await);
    let jobs = Queue::new("jobs");
    let mut consumer = one.consumer(&jobs).await.unwrap();
    let mut copies = Vec::new();
    for number in 0..2 {
        admin.ask(["LPUSH", "jobs", &numbered(70, number)]);
        copies.push(other.get("jobs").await.unwrap().unwrap());
    }
    park(&mut consumer, &admin, "jobs", 1).await;
    // In one step, since nothing is waited for in between.
    let (second, first) = (copies.pop().unwrap(), copies.pop().unwrap());
    let released = tokio::join!(first.release().confirmed(), second.release().confirmed());
    released.0.unwrap();
    released.1.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let delivery = receive(&mut consumer).await;
        numbers.push(delivery.decode::<u64>().unwrap());
        delivery.ack().confirmed().await.unwrap();
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1]);
    let counts = info(&other, "jobs").await;
    assert_eq!((counts.ready, counts.unsettled), (0, Some(0)));
}

/// A server in a runtime of its own. It says when it has a question, and answers it with so many bytes when it may.
fn server(url: String, size: usize) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (has, questions) = mpsc::channel();
    let (answers, may) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(async move {
            let connection = connect(url).await;
            let mut questions = connection.consumer(&Queue::new("questions")).await.unwrap();
            while let Some(question) = questions.try_next().await.unwrap() {
                // Its test is over otherwise.
                if has.send(()).is_err() || may.recv().is_err() {
                    return;
                }
                let responder = question.responder().unwrap();
                responder.reply_bytes(vec![b'.'; size]).await.unwrap();
                question.ack().confirmed().await.unwrap();
            }
        });
    });
    (questions, answers)
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn an_answer_that_is_on_its_way_is_held_by_nobody() {
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let one = connect(redis.url()).await;
    one.declare_queue(&Queue::new("questions")).await.unwrap();
    let (questions, may_answer) = server(redis.url(), 10);
    let caller = one.caller(Exchange::default()).routing_key("questions");
    let caller = caller.await.unwrap();
    let call = tokio::spawn(caller.call_bytes::<()>(&b"question"[..]).answer());
    let asked = async {
        while questions.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        while admin.ask(["KEYS", "_kombu.rs.parked.kombu.reply-*"]) != "*1" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.expect("a question");
    // From here on, nobody runs here.
    assert_eq!(admin.ask(["KEYS", "_kombu.rs.unacked.*.questions"]), "*1");
    may_answer.send(()).unwrap();
    let begin = Instant::now();
    while admin.ask(["KEYS", "_kombu.rs.unacked.*.questions"]) != "*0" {
        assert!(begin.elapsed() < PATIENCE, "the question is settled");
    }
    assert_eq!(
        admin.ask(["KEYS", "kombu.reply-*"]),
        "*0",
        "it was handed over"
    );
    assert_eq!(
        admin.ask(["KEYS", "_kombu.rs.unacked.*"]),
        "*0",
        "and is forgotten"
    );
    let answer = timeout(PATIENCE, call).await.expect("an answer");
    assert_eq!(answer.unwrap().unwrap().body().len(), 10);
}

#[tokio::test]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn answers_that_are_too_much_to_be_handed_over_are_asked_for() {
    const SIZE: usize = 40_000;
    let redis = Redis::start().unwrap();
    let one = connect(redis.url()).await;
    one.declare_queue(&Queue::new("questions")).await.unwrap();
    let (_questions, may_answer) = server(redis.url(), SIZE);
    let caller = one.caller(Exchange::default()).routing_key("questions");
    let caller = caller.await.unwrap();
    let ask = || caller.call_bytes::<()>(&b"question"[..]).answer();
    for count in [1, 2, 300, 1] {
        let calls = join_all((0..count).map(|_| ask()));
        (0..count).for_each(|_| may_answer.send(()).unwrap());
        for answer in timeout(PATIENCE, calls).await.expect("all answers") {
            assert_eq!(answer.unwrap().body().len(), SIZE);
        }
    }
}

//! Connections to Redis that are cut between a request and its reply, over every script, under traffic: nothing that was
//! confirmed is lost, nothing stays unsettled, and nobody stalls.
//!
//! `KOMBU_TEST_REDIS_CUTS` says how many cuts, 60 unless set; `scripts/test --long` makes 1,000. The seed of a run is printed,
//! and `KOMBU_TEST_SEED` takes it again; how the tasks take turns is the machine's choice all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(not(kombu_test_redis), allow(dead_code, unused_imports))]

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::time::Duration;

use fastrand::Rng;
use kombu::driver::BoxFuture;
use kombu::{Connection, Consumer, Exchange, Producer, Published, Queue, RetryPolicy};
use kombu_testkit::brokers::Redis;
use kombu_testkit::expect::{assert_empty, drain};
use kombu_testkit::history::{Answer, Event, Outcome, Recorder};
use kombu_testkit::proxy::{Direction, Proxy};
use kombu_tests::RedisAdmin;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const QUEUES: [&str; 2] = ["one", "other"];
const DEAD: &str = "dead";
/// Seconds.
const LEASE: u64 = 3;
/// Longer than a lease, and than any outage here.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a script may take to be called.
const RARE: Duration = Duration::from_secs(3);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect(name))
}

async fn connect(url: &str) -> Connection {
    let retry = RetryPolicy::default()
        .first_pause(Duration::from_millis(5))
        .longest_pause(Duration::from_millis(50));
    let builder = Connection::builder(kombu::registry()).url(url);
    builder.retry(retry).await.unwrap()
}

fn work_queues() -> [Queue; 2] {
    QUEUES.map(|name| Queue::new(name).dead_letter_exchange("broken"))
}

fn dead_queue() -> Queue {
    Queue::new(DEAD)
        .bind(Exchange::direct("broken"), QUEUES[0])
        .bind(Exchange::direct("broken"), QUEUES[1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(kombu_test_redis), ignore = "there is no Redis to test with")]
async fn no_cut_between_a_request_and_its_reply_loses_anything() {
    let cuts = number("KOMBU_TEST_REDIS_CUTS").unwrap_or(60);
    let seed = number("KOMBU_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("KOMBU_TEST_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let redis = Redis::start().unwrap();
    let admin = RedisAdmin::of(&redis);
    let scripts: Vec<_> = kombu::redis::digests()
        // Nobody listens to Python here, and Redis tells of changes.
        .filter(|(name, _)| !matches!(*name, "hear.lua" | "look.lua"))
        .collect();
    let observer = connect(&format!("{}?lease={LEASE}", redis.url())).await;
    for queue in work_queues().iter().chain([&dead_queue()]) {
        observer.declare_queue(queue).await.unwrap();
    }
    let recorder = Recorder::new();
    let (stop, stopped) = watch::channel(false);
    let (mut producing, mut consuming) = (JoinSet::new(), JoinSet::new());
    let mut proxies = Vec::new();
    let mut connections = Vec::new();
    for side in 0..2 {
        let proxy = Proxy::start(redis.address()).await.unwrap();
        let url = format!("redis://{}?lease={LEASE}", proxy.address());
        let connection = connect(&url).await;
        for number in [2 * side, 2 * side + 1] {
            let producer = connection.producer(Exchange::default()).await.unwrap();
            let task = produce(
                number,
                producer,
                recorder.clone(),
                rng.fork(),
                stopped.clone(),
            );
            producing.spawn(task);
            let queues: Vec<Queue> = work_queues().into_iter().chain([dead_queue()]).collect();
            let prefetch = rng.u32(1..20);
            let consumer = connection.consumer(queues).prefetch(prefetch);
            let consumer = consumer.await.unwrap();
            let task = consume(
                number,
                consumer,
                recorder.clone(),
                rng.fork(),
                stopped.clone(),
            );
            consuming.spawn(task);
        }
        for number in [2 * side, 2 * side + 1] {
            producing.spawn(manage(
                number,
                url.clone(),
                connection.clone(),
                stopped.clone(),
            ));
        }
        proxies.push(proxy);
        connections.push(connection);
    }

    let made = cut(&proxies, &scripts, cuts, &recorder, &mut rng).await;
    stop.send_replace(true);
    while let Some(ended) = producing.join_next().await {
        ended.unwrap();
    }
    while let Some(ended) = consuming.join_next().await {
        ended.unwrap();
    }
    let sessions: u64 = connections.iter().map(|c| c.health().sessions).sum();
    for connection in connections {
        connection.close().await.unwrap();
    }
    // What a session held that nobody knew of: its connect was cut.
    let one_left = async {
        while admin.ask(["ZCARD", "_kombu.rs.sessions"]) != ":1" {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = timeout(2 * Duration::from_secs(LEASE), one_left).await;
    ended.expect("sessions are left over");
    for queue in QUEUES.into_iter().chain([DEAD]) {
        let messages = drain(&observer, queue).await;
        let messages = messages.iter().map(|message| message.decode().unwrap());
        recorder.left(queue, messages.collect());
        assert_empty(&observer, queue).await;
    }
    assert_eq!(admin.ask(["LLEN", "_kombu.rs.dead"]), ":0");
    let history = recorder.history();
    print_summary(
        &made,
        sessions,
        history.records().iter().map(|record| &record.event),
    );
    let flaws = history.flaws_of_a_network(PATIENCE);
    if !flaws.is_empty() {
        history.assert_sound(PATIENCE);
    }
    // Two turns for each, with those that were met by cuts anywhere.
    if cuts >= 3 * scripts.len() as u64 {
        for (name, _) in &scripts {
            assert!(made.contains_key(name), "no reply of {name} was lost");
        }
    }
}

fn print_summary<'a>(
    made: &BTreeMap<&str, u64>,
    sessions: u64,
    events: impl Iterator<Item = &'a Event>,
) {
    let (mut stored, mut resent, mut failed, mut acked, mut unknown, mut again) =
        (0, 0, 0, 0, 0, 0);
    for event in events {
        match event {
            Event::Published { resent: twice, .. } => {
                stored += 1;
                resent += u64::from(*twice);
            }
            Event::PublishFailed { .. } => failed += 1,
            Event::Settled {
                outcome: Outcome::Ack,
                answer: Answer::Confirmed,
                ..
            } => acked += 1,
            Event::Settled {
                answer: Answer::Failed(_),
                ..
            } => unknown += 1,
            Event::Received {
                redelivered: true, ..
            } => again += 1,
            _ => {}
        }
    }
    println!("cuts: {made:?}; {sessions} sessions");
    println!(
        "{stored} stored, {resent} of them sent again, {failed} failed, {acked} acked, {unknown} settles without an \
         answer, {again} redelivered"
    );
    for (what, found) in [("stored", stored), ("acked", acked), ("redelivered", again)] {
        assert!(found > 0, "nothing was {what}");
    }
}

/// Cuts this often, most often behind a request with one of the scripts, each in its turn. Answers how often it met which.
async fn cut<'s>(
    proxies: &[Proxy],
    scripts: &'s [(&'s str, &'s str)],
    cuts: u64,
    recorder: &Recorder,
    rng: &mut Rng,
) -> BTreeMap<&'s str, u64> {
    let mut made = BTreeMap::new();
    let mut turns = scripts.iter().cycle();
    for _ in 0..cuts {
        let pause = Duration::from_millis(rng.u64(..40));
        sleep(pause).await;
        let proxy = &proxies[rng.usize(..proxies.len())];
        let before = proxy.counts().cuts;
        let in_pieces = rng.u32(..10);
        if in_pieces < 2 {
            // Anywhere within a request or a reply.
            let direction = [Direction::ToServer, Direction::ToClient][in_pieces as usize];
            proxy.cut_after(direction, rng.u64(..3000));
            proxy.until(|counts| counts.cuts > before).await;
            *made.entry("in pieces").or_default() += 1;
            recorder.fault("in pieces");
            continue;
        }
        loop {
            let (name, digest) = turns.next().unwrap();
            proxy.lose_reply_to(digest);
            let mut wanted = before + 1;
            if matches!(*name, "connect.lua" | "end.lua") {
                // Nobody begins or ends a session unless one was lost.
                proxy.cut().await;
                wanted += 1;
            }
            let met = timeout(RARE, proxy.until(|counts| counts.cuts >= wanted)).await;
            proxy.heal().await.unwrap();
            if met.is_ok() {
                *made.entry(*name).or_default() += 1;
                recorder.fault(format!("the reply to {name} is lost"));
                break;
            }
        }
    }
    recorder.fault("the faults end");
    made
}

/// Publishes one by one and in bursts, and waits for every answer in the end.
async fn produce(
    number: u32,
    producer: Producer,
    recorder: Recorder,
    mut rng: Rng,
    stopped: watch::Receiver<bool>,
) {
    type Answered = BoxFuture<'static, kombu::Result<Published>>;
    let mut messages = u64::from(number) * 100_000_000..;
    let mut receipts: Vec<(u64, Answered)> = Vec::new();
    while !*stopped.borrow() {
        sleep(Duration::from_millis(rng.u64(..60))).await;
        let queue = QUEUES[rng.usize(..QUEUES.len())];
        for message in messages.by_ref().take(rng.usize(1..6)) {
            recorder.publishing(number, message);
            let mut publish = producer.publish(&message).routing_key(queue);
            if rng.u32(..10) == 0 {
                publish = publish.expiration(Duration::from_secs(3600));
            }
            match publish.send().await {
                Ok(receipt) => receipts.push((message, Box::pin(receipt.into_future()))),
                Err(error) => recorder.answered(message, &Err(error)),
            }
        }
        if rng.u32(..4) == 0 {
            for (message, receipt) in receipts.drain(..) {
                recorder.answered(message, &receipt.await);
            }
        }
    }
    for (message, receipt) in receipts {
        recorder.answered(message, &receipt.await);
    }
}

/// Settles what comes in one way or another, until nothing comes any more.
async fn consume(
    number: u32,
    mut consumer: Consumer,
    recorder: Recorder,
    mut rng: Rng,
    stopped: watch::Receiver<bool>,
) {
    let mut settling = JoinSet::new();
    loop {
        let was_stopped = *stopped.borrow();
        let Some(delivery) = consumer.receive(PATIENCE / 2).await.unwrap() else {
            if was_stopped {
                break;
            }
            continue;
        };
        let (message, delivery) = delivery.take::<u64>().unwrap();
        recorder.received(number, message, &delivery);
        if rng.u32(..10) == 0 {
            consumer.set_prefetch(rng.u32(1..20));
        }
        if rng.u32(..20) == 0 {
            sleep(Duration::from_millis(rng.u64(..60))).await;
        }
        let (outcome, settled) = match rng.u32(..12) {
            0 => (Outcome::Release, delivery.release()),
            1 => (Outcome::Retry, delivery.retry()),
            2 => {
                let delay = Duration::from_millis(rng.u64(..500));
                (Outcome::Retry, delivery.retry_after(delay))
            }
            // It isn't gone, but in another queue.
            3 | 4 if delivery.queue() != DEAD => (Outcome::Release, delivery.reject()),
            _ => (Outcome::Ack, delivery.ack()),
        };
        let recorder = recorder.clone();
        settling.spawn(async move {
            let answer = match settled.confirmed().await {
                Ok(()) => Answer::Confirmed,
                // The reply is lost, and perhaps not the request.
                Err(error) => Answer::Failed(error.to_string()),
            };
            recorder.settled(number, message, outcome, answer);
        });
        while settling.try_join_next().is_some() {}
    }
    while let Some(settled) = settling.join_next().await {
        settled.unwrap();
    }
}

/// Does over and over whatever else there is to do.
async fn manage(number: u32, url: String, connection: Connection, stopped: watch::Receiver<bool>) {
    let mut round = 0_u32;
    while !*stopped.borrow() {
        round += 1;
        let exchange = Exchange::topic(format!("exchange-{number}"));
        let name = format!("temporary-{number}");
        let queue = Queue::new(name.as_str()).bind(&exchange, "#");
        connection.declare_queue(&queue).await.unwrap();
        let producer = connection.producer(&exchange).await.unwrap();
        producer.publish(&round).await.unwrap();
        let consumer = connection.consumer(&queue).await.unwrap();
        consumer.cancel().await.unwrap();
        let info = connection.queue_info(name.as_str()).await.unwrap();
        let there = info.ready + info.unsettled.unwrap();
        assert!((1..=2).contains(&there), "{there} of one message");
        connection.purge(name.as_str()).await.unwrap();
        let mine = Queue::new(format!("mine-{number}")).exclusive(true);
        connection.declare_queue(&mine).await.unwrap();
        connection.delete_queue(mine.name().clone()).await.unwrap();
        connection.delete_queue(name.as_str()).await.unwrap();
        connection
            .delete_exchange(exchange.name().clone())
            .await
            .unwrap();

        // A queue for answers, as Python has them: nobody declares it here.
        let answers = format!("answers-{number}-{round}");
        let producer = connection.producer(Exchange::default()).await.unwrap();
        let answer = producer.publish(&round).routing_key(answers.as_str());
        let answer = answer.correlation_id("7").allow_unroutable();
        answer.await.unwrap();
        let got = connection.get(answers.as_str()).await.unwrap();
        if let Some(delivery) = got {
            assert_eq!(delivery.decode::<u32>().unwrap(), round);
            drop(delivery.ack().confirmed().await);
        }
        connection.delete_queue(answers.as_str()).await.unwrap();

        // A program that is started, and ends.
        let other = Connection::builder(kombu::registry()).url(&url).await;
        let other = other.unwrap();
        drop(other.get(QUEUES[0]).await.unwrap());
        other.close().await.unwrap();
    }
}

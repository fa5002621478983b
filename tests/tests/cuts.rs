//! Hundreds of cuts at random moments, under traffic, on a paused clock.
//!
//! The seed of a run is printed; with `KOMBU_TEST_SEED` everything happens again as it did, record by record.

// A test says no by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::IntoFuture;
use std::time::Duration;

use fastrand::Rng;
use kombu::driver::BoxFuture;
use kombu::{
    Connection, Consumer, Error, ErrorKind, Exchange, Faults, Producer, Published, Queue,
    RetryPolicy,
};
use kombu_testkit::expect::drain;
use kombu_testkit::history::{Answer, Event, History, Outcome, Recorder};
use tokio::sync::watch;
use tokio::task::JoinSet;

const CUTS: u64 = 500;
const QUEUES: [&str; 2] = ["one", "other"];
/// Longer than any outage here: the longest silence, and the pauses after refused attempts.
const PATIENCE: Duration = Duration::from_secs(40);

#[test]
fn nothing_is_lost_overtaken_or_left_lying_by_hundreds_of_cuts() {
    let history = run(seed(), CUTS);
    history.assert_sound(PATIENCE);
    assert_eventful(&history);
}

#[test]
fn a_seed_gives_the_same_history_again_record_by_record() {
    let seed = seed();
    let (first, second) = (run(seed, 40), run(seed, 40));
    let differs = std::iter::zip(first.records(), second.records()).position(|(a, b)| a != b);
    if let Some(at) = differs {
        panic!(
            "record {at} of {} is {:?} once and {:?} then",
            first.records().len(),
            first.records()[at],
            second.records()[at]
        );
    }
    assert_eq!(first.records().len(), second.records().len());
    assert_ne!(first, run(seed.wrapping_add(1), 40));
}

fn seed() -> u64 {
    let seed = match std::env::var("KOMBU_TEST_SEED") {
        Ok(seed) => seed.parse().expect("KOMBU_TEST_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("KOMBU_TEST_SEED={seed}");
    seed
}

/// Goes on until this many sessions are gone. Everything in it follows from the seed.
fn run(seed: u64, cuts: u64) -> History {
    // The pauses between attempts to connect are drawn from this thread's generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(cut_at_random(seed, cuts))
}

/// A run in which nothing happened proves nothing.
fn assert_eventful(history: &History) {
    let count = |is: fn(&Event) -> bool| {
        let records = history.records().iter();
        records.filter(|record| is(&record.event)).count()
    };
    let acked = count(|event| {
        matches!(
            event,
            Event::Settled {
                outcome: Outcome::Ack,
                answer: Answer::Confirmed,
                ..
            }
        )
    });
    let lost = count(|event| {
        matches!(
            event,
            Event::Settled {
                answer: Answer::Lost,
                ..
            }
        )
    });
    let resent = count(|event| matches!(event, Event::Published { resent: true, .. }));
    let stored = count(|event| matches!(event, Event::Published { .. }));
    let failed = count(|event| matches!(event, Event::PublishFailed { .. }));
    let again = count(|event| {
        matches!(
            event,
            Event::Received {
                redelivered: true,
                ..
            }
        )
    });
    println!(
        "{stored} stored, {resent} of them sent again, {failed} failed, {acked} acked, {lost} settles lost, {again} \
         redelivered"
    );
    for (what, found, least) in [
        ("stored", stored, 2000),
        ("sent again", resent, 50),
        ("failed", failed, 20),
        ("acked", acked, 2000),
        ("lost settles", lost, 20),
        ("redelivered", again, 100),
    ] {
        assert!(found >= least, "only {found} {what}");
    }
}

async fn cut_at_random(seed: u64, cuts: u64) -> History {
    let mut rng = Rng::with_seed(seed);
    let name = format!("cuts-{seed:x}-{cuts}");
    let url = format!("memory://{name}");
    let observer = kombu::connect(&url).await.unwrap();
    for queue in QUEUES {
        observer.declare_queue(&Queue::new(queue)).await.unwrap();
    }
    let recorder = Recorder::new();
    let (stop, stopped) = watch::channel(false);
    let mut lines = Vec::new();
    let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
    for number in 0..2 {
        let faults = Faults::default();
        let connection = Connection::builder(kombu::registry())
            .url(&url)
            // Sessions that are lost at once are backed off; here they all are.
            .retry(RetryPolicy::default().longest_pause(Duration::from_secs(1)))
            .layer(faults.clone())
            .await
            .unwrap();
        for number in [2 * number, 2 * number + 1] {
            let producer = connection.producer(Exchange::default()).await.unwrap();
            producers.spawn(produce(
                number,
                producer,
                recorder.clone(),
                rng.fork(),
                stopped.clone(),
            ));
            let prefetch = rng.u32(1..20);
            let consumer = connection
                .consumer(QUEUES.map(Queue::new))
                .prefetch(prefetch)
                .await
                .unwrap();
            consumers.spawn(consume(
                number,
                consumer,
                recorder.clone(),
                rng.fork(),
                stopped.clone(),
            ));
        }
        lines.push((connection, faults));
    }

    cut(&lines, cuts, &recorder, &mut rng).await;
    stop.send_replace(true);
    while let Some(ended) = producers.join_next().await {
        ended.unwrap();
    }
    while let Some(ended) = consumers.join_next().await {
        ended.unwrap();
    }
    for queue in QUEUES {
        let messages = drain(&observer, queue).await;
        let messages = messages.iter().map(|message| message.decode().unwrap());
        recorder.left(queue, messages.collect());
    }
    kombu::memory::remove(&name);
    recorder.history()
}

/// Injects one fault after the other until enough sessions are gone.
async fn cut(lines: &[(Connection, Faults)], cuts: u64, recorder: &Recorder, rng: &mut Rng) {
    let sessions = |(connection, _): &(Connection, Faults)| connection.health().sessions;
    while lines.iter().map(sessions).sum::<u64>() < cuts + lines.len() as u64 {
        let pause = Duration::from_micros(rng.u64(0..200_000));
        tokio::time::sleep(pause).await;
        let number = rng.usize(..lines.len());
        let (connection, faults) = &lines[number];
        if !connection.health().connected {
            // Refusals would pile up faster than attempts use them.
            continue;
        }
        let count = rng.usize(1..4);
        let fault = match rng.u32(..100) {
            0..40 => {
                faults.cut();
                "cut"
            }
            40..55 => {
                faults.lose_replies(count);
                "lose replies"
            }
            55..70 => {
                faults.lose_requests(count);
                "lose requests"
            }
            70..80 => {
                let kind = [ErrorKind::ConnectionLost, ErrorKind::Timeout][rng.usize(..2)];
                faults.refuse_connects(vec![kind; count]);
                faults.cut();
                "cut and refuse to connect"
            }
            80..88 => {
                faults.nack_publishes(count);
                "nack"
            }
            88..95 => {
                faults.delay_publishes(Duration::from_millis(rng.u64(..500)));
                "delay publishes"
            }
            95..98 => {
                faults.delay_publishes(Duration::ZERO);
                "don't delay publishes"
            }
            _ => {
                recorder.fault(format!("silence on {number}"));
                faults.silence(true);
                tokio::time::sleep(Duration::from_millis(rng.u64(..15_000))).await;
                faults.silence(false);
                "no silence"
            }
        };
        recorder.fault(format!("{fault} on {number}"));
    }
    for (_, faults) in lines {
        faults.delay_publishes(Duration::ZERO);
    }
    recorder.fault("the faults end");
}

/// Publishes one by one and in bursts, and waits for every answer in the end.
async fn produce(
    number: u32,
    producer: Producer,
    recorder: Recorder,
    mut rng: Rng,
    stopped: watch::Receiver<bool>,
) {
    let mut messages = u64::from(number) * 1_000_000..;
    let mut receipts: Vec<(u64, Answered)> = Vec::new();
    while !*stopped.borrow() {
        tokio::time::sleep(Duration::from_micros(rng.u64(..100_000))).await;
        let queue = QUEUES[rng.usize(..QUEUES.len())];
        if rng.bool() {
            let Some(message) = messages.next() else {
                return;
            };
            recorder.publishing(number, message);
            let answer = producer.publish(&message).routing_key(queue).await;
            recorder.answered(message, &answer);
        } else {
            // So that several are under way when the line is cut.
            let waits = rng.bool();
            for message in messages.by_ref().take(rng.usize(1..10)) {
                recorder.publishing(number, message);
                let publish = producer.publish(&message).routing_key(queue);
                if !waits {
                    receipts.push((message, Box::pin(publish.into_future())));
                    continue;
                }
                match publish.send().await {
                    Ok(receipt) => receipts.push((message, Box::pin(receipt))),
                    Err(error) => recorder.answered(message, &Err(error)),
                }
            }
        }
        if rng.u32(..4) == 0 {
            await_all(&mut receipts, &recorder).await;
        }
    }
    await_all(&mut receipts, &recorder).await;
}

type Answered = BoxFuture<'static, kombu::Result<Published>>;

async fn await_all(receipts: &mut Vec<(u64, Answered)>, recorder: &Recorder) {
    for (message, receipt) in receipts.drain(..) {
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
    loop {
        let was_stopped = *stopped.borrow();
        let Some(delivery) = consumer.receive(2 * PATIENCE).await.unwrap() else {
            if was_stopped {
                return;
            }
            continue;
        };
        let (message, delivery) = delivery.take::<u64>().unwrap();
        recorder.received(number, message, &delivery);
        if rng.u32(..4) == 0 {
            tokio::time::sleep(Duration::from_micros(rng.u64(..300_000))).await;
        }
        let (outcome, settling) = match rng.u32(..10) {
            0 => (Outcome::Release, delivery.release()),
            1 => (Outcome::Retry, delivery.retry()),
            2 => {
                let delay = Duration::from_millis(rng.u64(..2000));
                (Outcome::Retry, delivery.retry_after(delay))
            }
            _ => (Outcome::Ack, delivery.ack()),
        };
        let answer: Result<(), Error> = settling.confirmed().await;
        let answer = Answer::of_confirmed(&answer);
        recorder.settled(number, message, outcome, answer);
    }
}

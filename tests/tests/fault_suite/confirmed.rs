//! What was confirmed is there after the broker was killed.

use std::time::Duration;

use kombu::{Exchange, Queue};
use kombu_testkit::expect::info;
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::{Answer, Outcome, Recorder};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::stand::{self, count, heal, inflict, patient};
use crate::traffic::Sentinels;

/// RabbitMQ 3.10 begins an empty quorum queue in place of one that was declared just before it was killed: it saves where the
/// queue is (`names.dets`) a moment later, and nothing tells when it has.
const FOUND_AGAIN: Duration = Duration::from_secs(2);

/// What a publisher does.
#[derive(Clone, Copy, PartialEq)]
enum Pace {
    Publishes,
    Waits,
    /// It publishes what is missing.
    Ends,
}

/// Nobody consumes until the end.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn in_a_durable_queue(broker: &mut Breakable) {
    let queue = Queue::new("jobs");
    run(broker, queue, Duration::ZERO, "killed while publishing").await;
}

pub(crate) async fn in_a_quorum_queue(broker: &mut Breakable) {
    let queue = Queue::new("jobs").quorum();
    let name = "killed while publishing, quorum queue";
    run(broker, queue, FOUND_AGAIN, name).await;
}

/// `pause` is how long the broker lives after the queue was declared, at least.
async fn run(broker: &mut Breakable, queue: Queue, pause: Duration, name: &str) {
    let (messages, kills) = (count(6_000, 100_000), count(2, 20));
    let mut rng = stand::rng();
    let recorder = Recorder::new();
    let connection = broker.builder().deadlines(patient()).await.unwrap();
    connection.declare_queue(&queue).await.unwrap();
    sleep(pause).await;
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    let mut sentinels = Sentinels::start(broker, &connection, &recorder).await;
    delay(broker).await;

    let (receipts, mut unanswered) = mpsc::channel(2048);
    let (answered, mut answers) = watch::channel(0);
    let (pace, mut paced) = watch::channel(Pace::Waits);
    let publishing = tokio::spawn({
        let recorder = recorder.clone();
        async move {
            for message in 0.. {
                let pace = *paced.wait_for(|pace| *pace != Pace::Waits).await.unwrap();
                if pace == Pace::Ends && message >= messages {
                    return message;
                }
                recorder.publishing(0, message);
                match producer.publish(&message).send().await {
                    Ok(receipt) => receipts.send((message, receipt)).await.unwrap(),
                    Err(error) => recorder.answered(message, &Err(error)),
                }
            }
            unreachable!("it ends");
        }
    });
    let answering = tokio::spawn({
        let recorder = recorder.clone();
        async move {
            while let Some((message, receipt)) = unanswered.recv().await {
                recorder.answered(message, &receipt.await);
                answered.send_modify(|answered| *answered += 1);
            }
        }
    });
    for _ in 0..kills {
        // It goes on until it is killed, so that some are under way.
        pace.send_replace(Pace::Publishes);
        let point = *answers.borrow() + rng.u64(1..messages / kills);
        let is_there = answers.wait_for(|answered| *answered >= point);
        drop(is_there.await.unwrap());
        inflict(broker, &recorder, Fault::Kill).await;
        pace.send_replace(Pace::Waits);
        sleep(Duration::from_millis(rng.u64(..300))).await;
        heal(broker, &recorder).await;
        delay(broker).await;
        sentinels.send_and_wait().await;
    }
    pace.send_replace(Pace::Ends);
    let published = publishing.await.unwrap();
    answering.await.unwrap();
    sentinels.end().await;
    connection.close().await.unwrap();

    // All of it comes back from what was stored.
    broker.inflict(Fault::Kill).await.unwrap();
    broker.heal().await.unwrap();
    let observer = broker.observer().await.unwrap();
    let mut consumer = observer.consumer(&queue).prefetch(500).await.unwrap();
    loop {
        let Some(delivery) = consumer.receive(Duration::from_secs(2)).await.unwrap() else {
            let info = info(&observer, "jobs").await;
            if info.ready == 0 && info.unsettled.unwrap_or(0) == 0 {
                break;
            }
            continue;
        };
        let (message, delivery) = delivery.take::<u64>().unwrap();
        recorder.received(0, message, &delivery);
        let acked = delivery.ack().await;
        recorder.settled(0, message, Outcome::Ack, Answer::of_queued(&acked));
    }
    observer.close().await.unwrap();
    let history = recorder.history();
    let summary = history.summary();
    println!("{summary:?}");
    assert_eq!(summary.stored + summary.failed, published + kills);
    // In process, what waits for its turn hasn't been sent.
    let met = summary.resent > 0 || broker.is_injected();
    assert!(met, "the kills met nobody");
    let (transport, allowed) = (broker.name(), Breakable::RECOVERY);
    let row = Row::of(transport, name, kills, &history, PATIENCE, allowed);
    stand::report(vec![row], &history);
}

/// In process, every publish would be answered in the moment in which it is made.
async fn delay(broker: &mut Breakable) {
    if broker.is_injected() {
        broker.inflict(Fault::Delay).await.unwrap();
    }
}

use std::time::Duration;

use fastrand::Rng;
use kombu::{Connection, Exchange, Queue};
use kombu_testkit::history::{Answer, Event, Outcome};
use serde_json::Value;
use tokio::task::JoinSet;

/// A program that consumes: what it does with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// It holds everything.
    Hold,
    /// The same, and nobody else may consume.
    HoldAlone,
    /// It acks everything, after some milliseconds.
    Ack,
}

/// What the program `worker` said in one line.
///
/// # Panics
///
/// If it isn't an event.
pub fn worker_event(line: Value) -> Event {
    serde_json::from_value(line).expect("an event")
}

const GRACE: Duration = Duration::from_secs(10);

/// Consumes a queue of numbers until `drained` says that it is enough, and then in an orderly way until nothing is left to do. What
/// happens is told to `tell`, an ack before and after it is made: whoever is killed in between doesn't know what came of it.
///
/// # Panics
///
/// If the queue can't be consumed, or something is unsettled after it was drained though everything is acked.
pub async fn work(
    connection: Connection,
    queue: &Queue,
    (number, prefetch): (u32, u32),
    work: Work,
    tell: impl Fn(Event) + Clone + Send + Sync + 'static,
    drained: impl Future<Output = ()>,
) {
    let consumer = connection.consumer(queue).prefetch(prefetch);
    let consumer = consumer.exclusive(work == Work::HoldAlone);
    let mut consumer = consumer.await.expect("the queue can be consumed");
    let mut rng = Rng::new();
    let mut held = Vec::new();
    let mut working = JoinSet::new();
    let mut drained = std::pin::pin!(drained);
    let mut draining = None;
    loop {
        let next = tokio::select! {
            biased;
            next = consumer.next() => next,
            () = &mut drained, if draining.is_none() => {
                let connection = connection.clone();
                draining = Some(tokio::spawn(async move { connection.drain(GRACE).await }));
                continue;
            }
        };
        let Some(delivery) = next else {
            break;
        };
        let delivery = delivery.expect("the consumer stays");
        let (message, delivery) = delivery.take::<u64>().expect("a number");
        tell(Event::Received {
            consumer: number,
            queue: delivery.queue().to_string(),
            message,
            redelivered: delivery.redelivered(),
            attempt: delivery.attempt(),
        });
        if work != Work::Ack {
            held.push(delivery);
            continue;
        }
        let pause = Duration::from_millis(rng.u64(..10));
        let tell = tell.clone();
        working.spawn(async move {
            tokio::time::sleep(pause).await;
            let settled = |answer| Event::Settled {
                consumer: number,
                message,
                outcome: Outcome::Ack,
                answer,
            };
            tell(settled(Answer::Failed("it is under way".into())));
            let acked = delivery.ack().confirmed().await;
            tell(settled(Answer::of_sent(&acked, false)));
        });
        while let Some(worked) = working.try_join_next() {
            worked.expect("it works");
        }
    }
    while let Some(worked) = working.join_next().await {
        worked.expect("it works");
    }
    if let Some(draining) = draining {
        let report = draining.await.expect("it drains");
        let report = report.expect("there is a report");
        assert!(work != Work::Ack || report.unsettled == 0, "{report:?}");
    }
}

/// Publishes `messages` numbers to a queue: odd ones come after a delay, and the others have half an hour to live.
///
/// # Panics
///
/// If the queue can't be published to.
pub async fn publish(
    connection: Connection,
    queue: &Queue,
    (number, messages): (u32, u64),
    delay: Duration,
    tell: impl Fn(Event),
) {
    const LIFE: Duration = Duration::from_secs(1800);
    let producer = connection.producer(Exchange::default());
    let producer = producer.routing_key(queue.name().clone()).await;
    let producer = producer.expect("it opens");
    let mut rng = Rng::new();
    let first = u64::from(number) * 1_000_000;
    for message in first..first + messages {
        tell(Event::Publishing {
            // Delayed ones are overtaken.
            producer: 2 * number + (message % 2) as u32,
            message,
        });
        let publish = producer.publish(&message);
        // RabbitMQ can't do both at once.
        let answer = match message % 2 {
            0 => publish.expiration(LIFE).await,
            _ => publish.delay(delay).await,
        };
        tell(Event::of_answer(message, &answer));
        tokio::time::sleep(Duration::from_millis(rng.u64(..20))).await;
    }
    connection.close().await.expect("it closes");
}

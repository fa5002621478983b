//! Steady traffic, and what goes on beside it.

use std::time::Duration;

use fastrand::Rng;
use kombu::{Connection, Consumer, Delivery, Exchange, Producer, Queue, Receipt};
use kombu_testkit::expect::{collect_one, drain, info};
use kombu_testkit::faults::{Breakable, Fault, Row};
use kombu_testkit::history::{Answer, Outcome, Recorder};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::stand::{self, Counts, Habits, count, heal, inflict, patient};

/// A message that never comes is given up, and the checker says so.
pub(crate) const NEVER: Duration = Duration::from_secs(60);
/// Between two faults, once.
const CALM: Duration = Duration::from_secs(5);
/// How often whoever is told to stop looks whether something is left.
const LOOK: Duration = Duration::from_millis(200);

/// Messages that are published when a fault is over, to see that whoever consumes the queue gets them.
struct Probes {
    recorder: Recorder,
    number: u32,
    producer: Producer,
    /// The highest message that was received.
    received: watch::Receiver<u64>,
    next: u64,
    /// The queue, if others are in it as well.
    busy: Option<&'static str>,
}

impl Probes {
    /// Publishes the next one, and waits until it has come.
    async fn send_and_wait(&mut self) {
        let message = self.next;
        self.next += 1;
        self.recorder.publishing(self.number, message);
        let allowed = Breakable::RECOVERY;
        match self.busy {
            None => self.recorder.expect(message, Duration::ZERO, allowed),
            // How fast a backlog is handled is the machine's affair.
            Some(queue) => self
                .recorder
                .expect_among_others(queue, message, allowed, NEVER),
        }
        let answer = self.producer.publish(&message).await;
        self.recorder.answered(message, &answer);
        let came = self.received.wait_for(|highest| *highest >= message);
        // Otherwise, it is late.
        drop(timeout(NEVER, came).await);
    }

    /// Inflicts a [`Fault::LoseReply`] on the next one, and returns as soon as it is over. Its answer is still to come.
    async fn lose_reply(&mut self, broker: &mut Breakable) -> (u64, Receipt) {
        let message = self.next;
        self.next += 1;
        self.recorder.fault(Fault::LoseReply.to_string());
        let before = broker.proxy().map(|proxy| proxy.counts().lost_replies);
        match broker.proxy() {
            Some(proxy) => proxy.lose_reply_to(message.to_string()),
            None => broker.inflict(Fault::LoseReply).await.unwrap(),
        }
        self.recorder.publishing(self.number, message);
        let receipt = self.producer.publish(&message).send().await.unwrap();
        if let (Some(proxy), Some(before)) = (broker.proxy(), before) {
            let lost = proxy.until(|counts| counts.lost_replies > before);
            timeout(NEVER, lost).await.expect("it is lost");
        }
        self.recorder.over();
        (message, receipt)
    }
}

/// Probes with a queue and a consumer of their own.
pub(crate) struct Sentinels {
    probes: Probes,
    consuming: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// These are higher than all other messages, and those in a queue with traffic are higher still.
const FIRST_SENTINEL: u64 = 1 << 40;
const FIRST_AMONG_OTHERS: u64 = 1 << 41;

impl Sentinels {
    /// Of a producer and a consumer of this connection.
    pub(crate) async fn start(
        broker: &Breakable,
        connection: &Connection,
        recorder: &Recorder,
    ) -> Self {
        let consumer = connection.consumer(&Queue::new("sentinels")).await.unwrap();
        let producer = connection.producer(Exchange::default());
        let producer = producer.routing_key("sentinels").await.unwrap();
        let (some, received) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let consuming = tokio::spawn(consume(
            u32::MAX,
            consumer,
            (connection.clone(), "sentinels"),
            recorder.clone(),
            Habits::of(broker),
            stopped,
            Some(some),
        ));
        let probes = Probes {
            recorder: recorder.clone(),
            number: u32::MAX,
            producer,
            received,
            next: FIRST_SENTINEL,
            busy: None,
        };
        Sentinels {
            probes,
            consuming,
            stop,
        }
    }

    /// Publishes the next one, and waits until it has come.
    pub(crate) async fn send_and_wait(&mut self) {
        self.probes.send_and_wait().await;
    }

    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.consuming.await.unwrap();
    }
}

/// Acks what comes until it is told to stop and its queue is empty, or nothing comes any more.
pub(crate) async fn consume(
    number: u32,
    mut consumer: Consumer,
    (connection, queue): (Connection, &str),
    recorder: Recorder,
    habits: Habits,
    mut stopped: watch::Receiver<bool>,
    highest: Option<watch::Sender<u64>>,
) {
    let mut settling = JoinSet::new();
    let mut quiet_since = Instant::now();
    loop {
        let was_stopped = *stopped.borrow_and_update();
        let patience = if was_stopped { LOOK } else { NEVER };
        let delivery = tokio::select! {
            biased;
            delivery = consumer.receive(patience) => delivery.unwrap(),
            changed = stopped.changed() => {
                changed.unwrap();
                quiet_since = Instant::now();
                continue;
            }
        };
        let Some(delivery) = delivery else {
            let is_over = was_stopped
                && settling.is_empty()
                && (quiet_since.elapsed() >= habits.patience || is_empty(&connection, queue).await);
            if is_over {
                break;
            }
            while settling.try_join_next().is_some() {}
            continue;
        };
        quiet_since = Instant::now();
        let (message, delivery) = delivery.take::<u64>().unwrap();
        recorder.received(number, message, &delivery);
        if let Some(highest) = &highest {
            highest.send_modify(|highest| *highest = message.max(*highest));
        }
        let recorder = recorder.clone();
        let was_lost = is_lost(&delivery).await;
        settling.spawn(async move {
            let answer = delivery.ack().confirmed().await;
            let answer = match was_lost {
                true => Answer::of_confirmed(&answer),
                false => Answer::of_sent(&answer, habits.answers),
            };
            recorder.settled(number, message, Outcome::Ack, answer);
        });
        while settling.try_join_next().is_some() {}
    }
    while let Some(settled) = settling.join_next().await {
        settled.unwrap();
    }
}

/// Whether nothing is left in it, where the broker can tell.
async fn is_empty(connection: &Connection, queue: &str) -> bool {
    let info = info(connection, queue).await;
    (info.ready, info.unsettled) == (0, Some(0))
}

/// Whether it is known that the session is gone which delivered it: then nothing is sent there any more.
async fn is_lost(delivery: &Delivery) -> bool {
    tokio::select! {
        biased;
        () = delivery.lost() => true,
        () = std::future::ready(()) => false,
    }
}

/// Publishes again and again to some queues, and never waits for an answer before it goes on.
pub(crate) struct Publishing {
    stop: watch::Sender<bool>,
    publishing: JoinHandle<()>,
    answering: JoinHandle<()>,
}

impl Publishing {
    pub(crate) fn start(
        number: u32,
        producer: Producer,
        recorder: &Recorder,
        mut rng: Rng,
        pause: Duration,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (receipts, mut unanswered) = mpsc::channel(2048);
        let answering = tokio::spawn({
            let recorder = recorder.clone();
            async move {
                while let Some((message, receipt)) = unanswered.recv().await {
                    let receipt: Receipt = receipt;
                    recorder.answered(message, &receipt.await);
                }
            }
        });
        let recorder = recorder.clone();
        let publishing = tokio::spawn(async move {
            let mut messages = u64::from(number) * 1_000_000_000..;
            while !*stopped.borrow() {
                for message in messages.by_ref().take(rng.usize(1..5)) {
                    recorder.publishing(number, message);
                    match producer.publish(&message).send().await {
                        Ok(receipt) => receipts.send((message, receipt)).await.unwrap(),
                        Err(error) => recorder.answered(message, &Err(error)),
                    }
                }
                sleep(pause.mul_f64(2.0 * rng.f64())).await;
            }
        });
        Publishing {
            stop,
            publishing,
            answering,
        }
    }

    /// Stops, and waits for every answer.
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.publishing.await.unwrap();
        self.answering.await.unwrap();
    }
}

/// Every fault once, and then chosen by chance, under steady traffic.
pub(crate) async fn under_mixed_faults(broker: &mut Breakable) {
    let mut rng = stand::rng();
    let recorder = Recorder::new();
    let queue = Queue::new("jobs");
    let publishing = broker.builder().deadlines(patient()).await.unwrap();
    let consuming = broker.builder().deadlines(patient()).await.unwrap();
    let mut consumer = consuming.consumer(&queue).prefetch(50).await.unwrap();
    let producer = publishing.producer(Exchange::default());
    let producer = producer.routing_key("jobs").await.unwrap();
    // All connections are there.
    producer.publish(&0).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    delivery.ack().confirmed().await.unwrap();
    let observer = broker.observer().await.unwrap();
    observer
        .declare_queue(&Queue::new("sentinels"))
        .await
        .unwrap();
    let mut sentinels = Sentinels::start(broker, &publishing, &recorder).await;
    sentinels.send_and_wait().await;
    // A session that was restored may have a channel more than the first one.
    inflict(broker, &recorder, Fault::Cut).await;
    sentinels.send_and_wait().await;
    // Nobody has polled this consumer since.
    producer.publish(&0).await.unwrap();
    let delivery = collect_one(&mut consumer).await;
    delivery.ack().confirmed().await.unwrap();
    let before = Counts::steady(broker).await;

    let (stop, stopped) = watch::channel(false);
    let habits = Habits::of(broker);
    let jobs = (consuming.clone(), "jobs");
    let (some, received) = watch::channel(0);
    let consumed = consume(
        0,
        consumer,
        jobs,
        recorder.clone(),
        habits,
        stopped,
        Some(some),
    );
    let consumed = tokio::spawn(consumed);
    // Among the traffic, so that its consumer has to be there.
    let mut among_others = Probes {
        recorder: recorder.clone(),
        number: 2,
        producer: producer.clone(),
        received,
        next: FIRST_AMONG_OTHERS,
        busy: Some("jobs"),
    };
    let pause = Duration::from_millis(10);
    let published = Publishing::start(1, producer, &recorder, rng.fork(), pause);
    let possible: Vec<Fault> = broker
        .faults()
        .into_iter()
        .filter(|fault| !fault.forgets())
        .collect();
    let mut faults = possible.clone();
    rng.shuffle(&mut faults);
    while (faults.len() as u64) < count(0, 200) {
        faults.push(possible[rng.usize(..possible.len())]);
    }
    let middle = faults.len() / 2;
    for (number, fault) in faults.into_iter().enumerate() {
        // Once it is long until the next: then no ack is near a fault.
        let pause = if number == middle {
            CALM
        } else {
            Duration::from_millis(rng.u64(..500))
        };
        sleep(pause).await;
        let mut lost = None;
        if fault == Fault::LoseReply {
            lost = Some(among_others.lose_reply(broker).await);
        } else {
            inflict(broker, &recorder, fault).await;
        }
        if fault.lasts() {
            // Sometimes longer than it takes to notice.
            let longest = 2 * Breakable::LIVENESS.as_millis() as u64;
            sleep(Duration::from_millis(rng.u64(..longest))).await;
        }
        heal(broker, &recorder).await;
        tokio::join!(sentinels.send_and_wait(), among_others.send_and_wait());
        if let Some((message, receipt)) = lost {
            let answer = receipt.await;
            recorder.answered(message, &answer);
            // In process, one before it may have met it.
            assert!(
                answer.unwrap().resent || broker.is_injected(),
                "it was answered"
            );
        }
    }
    published.end().await;
    stop.send_replace(true);
    consumed.await.unwrap();
    before.compare(broker, &recorder).await;
    sentinels.end().await;
    for connection in [publishing, consuming] {
        connection.close().await.unwrap();
    }
    let mut all_left = Vec::new();
    for queue in ["jobs", "sentinels"] {
        let left = drain(&observer, queue).await;
        let left: Vec<u64> = left.iter().map(|left| left.decode().unwrap()).collect();
        recorder.left(queue, left.clone());
        all_left.extend(left);
    }
    observer.close().await.unwrap();
    let history = recorder.history();
    println!("{:?}", history.summary());
    let rows = Row::of_each(broker.name(), &history, NEVER, Breakable::RECOVERY);
    stand::report(rows, &history);
    // Whoever consumed them did so until nothing came any more.
    assert!(all_left.is_empty(), "left behind: {all_left:?}");
}

//! Futures that are dropped at each of their await points: nothing is lost, nothing is done twice, the window
//! keeps its slots, and the connection goes on.

// A test says no by panicking, in its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::{Binding, Connection, Consumer, Exchange, Faults, Producer, Queue};
use kombu_testkit::expect::{collect, drain};
use kombu_testkit::poll_then_drop;

const PREFETCH: u32 = 3;
/// More polls than any operation here needs.
const POLLS: usize = 4;

/// What keeps an operation from being done at its first poll.
#[derive(Clone, Copy, Debug)]
enum Slowness {
    /// Publishes take their time.
    Delay,
    /// The broker hears nothing and says nothing.
    Silence,
    /// The broker does what is asked, and says nothing.
    NoReplies,
}

impl Slowness {
    fn begin(self, faults: &Faults) {
        match self {
            Slowness::Delay => faults.delay_publishes(Duration::from_millis(5)),
            Slowness::Silence => faults.silence(true),
            Slowness::NoReplies => faults.withhold_replies(true),
        }
    }

    fn end(self, faults: &Faults) {
        match self {
            Slowness::Delay => faults.delay_publishes(Duration::ZERO),
            Slowness::Silence => faults.silence(false),
            Slowness::NoReplies => faults.withhold_replies(false),
        }
    }
}

struct Scene {
    name: String,
    faults: Faults,
    connection: Connection,
    observer: Connection,
    producer: Producer,
    /// Messages that were published and answered.
    answered: u64,
}

impl Scene {
    async fn new(name: &str) -> Self {
        let url = format!("memory://{name}");
        let faults = Faults::default();
        let connection = Connection::builder(kombu::registry())
            .url(&url)
            .layer(faults.clone())
            .await
            .unwrap();
        connection.declare_queue(&Queue::new("jobs")).await.unwrap();
        let open = connection.producer(Exchange::default()).routing_key("jobs");
        Scene {
            name: name.to_owned(),
            observer: kombu::connect(&url).await.unwrap(),
            producer: open.await.unwrap(),
            faults,
            connection,
            answered: 0,
        }
    }

    async fn consumer(&self) -> Consumer {
        let queue = Queue::new("jobs");
        self.connection
            .consumer(&queue)
            .prefetch(PREFETCH)
            .await
            .unwrap()
    }

    async fn publish(&mut self, count: u64) {
        for _ in 0..count {
            self.producer.publish(&self.answered).await.unwrap();
            self.answered += 1;
        }
    }

    /// Whatever was dropped, a full window can be held, and every message that was answered is there once.
    async fn check(mut self, mut consumer: Consumer) {
        self.publish(u64::from(PREFETCH)).await;
        let held = collect(&mut consumer, PREFETCH as usize).await;
        let info = self.observer.queue_info("jobs").await.unwrap();
        assert_eq!(info.unsettled, Some(u64::from(PREFETCH)));
        for delivery in held {
            delivery.release().confirmed().await.unwrap();
        }
        consumer.cancel().await.unwrap();
        let there = self.there().await;
        assert_eq!(there, (0..self.answered).collect::<Vec<_>>());
        self.connection.close().await.unwrap();
        kombu::memory::remove(&self.name);
    }

    async fn there(&self) -> Vec<u64> {
        let messages = drain(&self.observer, "jobs").await;
        let messages = messages.iter().map(|message| message.decode().unwrap());
        messages.collect()
    }
}

/// Runs `case` with each slowness and each number of polls.
async fn each(
    operation: &str,
    slownesses: &[Slowness],
    case: impl AsyncFn(&mut Scene, &mut Consumer, usize),
) {
    for slowness in slownesses {
        for polls in 0..POLLS {
            let name = format!("cancellation-{operation}-{slowness:?}-{polls}").to_lowercase();
            let mut scene = Scene::new(&name).await;
            scene.publish(2).await;
            let mut consumer = scene.consumer().await;
            slowness.begin(&scene.faults);
            case(&mut scene, &mut consumer, polls).await;
            slowness.end(&scene.faults);
            scene.check(consumer).await;
        }
    }
}

const CONTROL: [Slowness; 2] = [Slowness::Silence, Slowness::NoReplies];
const PUBLISH: [Slowness; 2] = [Slowness::Delay, Slowness::Silence];

/// Nobody was told what became of them: each may be there once.
async fn each_publish(operation: &str, publish: impl AsyncFn(&Producer, u64, usize) -> bool) {
    for slowness in PUBLISH {
        for polls in 0..POLLS {
            let name = format!("cancellation-{operation}-{slowness:?}-{polls}").to_lowercase();
            let mut scene = Scene::new(&name).await;
            scene.publish(2).await;
            let consumer = scene.consumer().await;
            slowness.begin(&scene.faults);
            let answered = publish(&scene.producer, 1000, polls).await;
            slowness.end(&scene.faults);
            scene.publish(1).await;
            consumer.cancel().await.unwrap();
            let mut there = scene.there().await;
            let dropped = there.iter().filter(|message| **message >= 1000).count();
            let once = usize::from(answered)..=1;
            assert!(once.contains(&dropped), "{name}: {dropped} of one message");
            there.retain(|message| *message < 1000);
            assert_eq!(there, [0, 1, 2], "{name}");
            scene.answered = 0;
            let consumer = scene.consumer().await;
            scene.check(consumer).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn publish() {
    each_publish("publish", async |producer, message, polls| {
        let answer = poll_then_drop(polls, producer.publish(&message)).await;
        answer.is_some_and(|answer| answer.is_ok())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn send_and_receipt() {
    each_publish("send", async |producer, message, polls| {
        let sent = poll_then_drop(polls, producer.publish(&message).send()).await;
        assert!(sent.is_none_or(|sent| sent.is_ok()));
        false
    })
    .await;
    each_publish("receipt", async |producer, message, polls| {
        let Some(receipt) = poll_then_drop(POLLS, producer.publish(&message).send()).await else {
            return false;
        };
        let answer = poll_then_drop(polls, receipt.unwrap()).await;
        answer.is_some_and(|answer| answer.is_ok())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn batch() {
    each_publish("batch", async |producer, message, polls| {
        let batch = producer.batch([producer.publish(&message)]);
        let answers = poll_then_drop(polls, batch).await;
        answers.is_some_and(|answers| answers[0].is_ok())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn next_try_next_and_receive() {
    const ALL: [Slowness; 3] = [Slowness::Delay, Slowness::Silence, Slowness::NoReplies];
    let long = Duration::from_secs(1);
    each("next", &ALL, async |_, consumer, polls| {
        for _ in 0..4 {
            drop(poll_then_drop(polls, consumer.next()).await);
        }
    })
    .await;
    each("try-next", &ALL, async |_, consumer, polls| {
        for _ in 0..4 {
            drop(poll_then_drop(polls, consumer.try_next()).await);
        }
    })
    .await;
    each("receive", &ALL, async |_, consumer, polls| {
        for _ in 0..4 {
            drop(poll_then_drop(polls, consumer.receive(long)).await);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn get() {
    // The consumer of the scene has fetched nothing yet: it wasn't polled.
    each("get", &CONTROL, async |scene, _, polls| {
        drop(poll_then_drop(polls, scene.connection.get("jobs")).await);
        scene.faults.silence(false);
        scene.faults.withhold_replies(false);
        // What the broker handed out to nobody goes back, without anybody's doing.
        let mut unsettled = None;
        for _ in 0..100 {
            unsettled = scene.observer.queue_info("jobs").await.unwrap().unsettled;
            if unsettled == Some(0) {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(unsettled, Some(0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn declare_bind_and_unbind() {
    let media = Exchange::topic("media");
    let queue = Queue::new("videos").bind(&media, "video.#");
    each("declare", &CONTROL, async |scene, _, polls| {
        drop(poll_then_drop(polls, scene.connection.declare_queue(&queue)).await);
    })
    .await;
    let binding = Binding::new(&media, "jobs.#");
    each("bind", &CONTROL, async |scene, _, polls| {
        scene.observer.declare_exchange(&media).await.unwrap();
        drop(poll_then_drop(polls, scene.connection.bind_queue("jobs", &binding)).await);
        drop(poll_then_drop(polls, scene.connection.unbind_queue("jobs", &binding)).await);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn delete_and_purge_are_done_once_or_not_at_all() {
    each("delete", &CONTROL, async |scene, _, polls| {
        scene
            .observer
            .declare_queue(&Queue::new("old"))
            .await
            .unwrap();
        drop(poll_then_drop(polls, scene.connection.delete_queue("old")).await);
        // Declared again, it stays: the dropped deletion doesn't come back for it.
        scene
            .observer
            .declare_queue(&Queue::new("old"))
            .await
            .unwrap();
        scene.faults.silence(false);
        scene.faults.withhold_replies(false);
        scene.connection.queue_info("old").await.unwrap();
    })
    .await;
    each("purge", &CONTROL, async |scene, _, polls| {
        let old = Queue::new("old");
        scene.observer.declare_queue(&old).await.unwrap();
        drop(poll_then_drop(polls, scene.connection.purge("old")).await);
        let producer = scene.observer.producer(Exchange::default()).await.unwrap();
        producer.publish(&1).routing_key("old").await.unwrap();
        scene.faults.silence(false);
        scene.faults.withhold_replies(false);
        assert_eq!(scene.connection.queue_info("old").await.unwrap().ready, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cancel() {
    each("cancel", &CONTROL, async |scene, consumer, polls| {
        scene.faults.silence(false);
        scene.faults.withhold_replies(false);
        let mut other = scene.consumer().await;
        let held = other.next().await.unwrap().unwrap();
        scene.faults.withhold_replies(true);
        drop(poll_then_drop(polls, other.cancel()).await);
        held.release().confirmed().await.unwrap();
        scene.faults.withhold_replies(false);
        assert_eq!(
            scene.connection.queue_info("jobs").await.unwrap().consumers,
            1
        );
        assert_eq!(consumer.queues().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn close() {
    for slowness in CONTROL {
        for polls in 0..POLLS {
            let name = format!("cancellation-close-{slowness:?}-{polls}").to_lowercase();
            let mut scene = Scene::new(&name).await;
            scene.publish(2).await;
            let mut consumer = scene.consumer().await;
            let held = consumer.next().await.unwrap().unwrap();
            slowness.begin(&scene.faults);
            drop(poll_then_drop(polls, scene.connection.close()).await);
            slowness.end(&scene.faults);
            // It ended, or it can still be closed.
            scene.connection.close().await.unwrap();
            assert!(consumer.try_next().await.unwrap().is_none());
            drop(held);
            assert_eq!(scene.there().await, [0, 1]);
            kombu::memory::remove(&name);
        }
    }
}

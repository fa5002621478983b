//! A thousand lost sessions leave nothing behind: no task, no memory, nothing on the broker.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::alloc::System;
use std::future::IntoFuture;
use std::time::Duration;

use kombu::{
    Connection, Consumer, Delivery, ErrorKind, Event, Events, Exchange, Faults, Producer, Queue,
    RetryPolicy,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Handle;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const QUEUES: [&str; 3] = ["one", "two", "three"];
/// Nobody consumes from this one.
const LOG: &str = "log";
/// Deliveries that are held of each queue through a cut, besides one that can't be decoded.
const HELD: usize = 3;
/// One more than are handed out.
const PREFETCH: u32 = 5;
const MESSAGES: u64 = 10;

const WARM_UP: usize = 100;
const RECONNECTS: usize = 1000;
const HALF: usize = RECONNECTS / 2;
/// Vectors that have grown: less than a pointer for each session of a half.
const TOLERANCE: isize = 2 * 1024;

struct Scene {
    faults: Faults,
    connection: Connection,
    events: Events,
    producers: [Producer; 2],
    consumers: Vec<Consumer>,
    held: Vec<Delivery>,
    observer: Connection,
}

/// What is there at one moment.
#[derive(Clone, Copy, Debug)]
struct Count {
    tasks: usize,
    queues: [Messages; QUEUES.len()],
    /// Live on the heap, of the whole process.
    bytes: isize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Messages {
    ready: u64,
    unsettled: Option<u64>,
    consumers: u64,
}

impl Scene {
    async fn new() -> Self {
        let faults = Faults::default();
        let open = Connection::builder(kombu::registry())
            .url("memory://reconnects")
            // Sessions that are lost at once are backed off.
            .retry(RetryPolicy::default().longest_pause(Duration::from_millis(1)))
            .layer(faults.clone());
        let connection = open.await.unwrap();
        let media = Exchange::topic("media");
        let mut consumers = Vec::new();
        for name in QUEUES {
            let queue = Queue::new(name).bind(&media, name).bind(&media, "all");
            let consumer = connection.consumer(&queue).prefetch(PREFETCH);
            consumers.push(consumer.await.unwrap());
        }
        let log = Queue::new(LOG).bind(&media, LOG);
        connection.declare_queue(&log).await.unwrap();
        let producers = [
            connection.producer(&media).await.unwrap(),
            connection.producer(Exchange::default()).await.unwrap(),
        ];
        for number in 0..MESSAGES {
            let publish = producers[0].publish(&number).routing_key("all");
            publish.await.unwrap();
        }
        let mut scene = Scene {
            faults,
            events: connection.events(),
            connection,
            producers,
            consumers,
            held: Vec::new(),
            observer: kombu::connect("memory://reconnects").await.unwrap(),
        };
        scene.receive().await;
        scene
    }

    /// Has every consumer hold some deliveries, and one that it can't decode.
    async fn receive(&mut self) {
        for consumer in &mut self.consumers {
            for _ in 0..HELD {
                self.held.push(consumer.try_next().await.unwrap().unwrap());
            }
            let undecodable = consumer.try_next().await.unwrap().unwrap();
            drop(undecodable.take::<String>().unwrap_err());
        }
    }

    /// Loses the session under everything that goes on, and has it go on with the next one.
    async fn reconnect(&mut self, round: usize) {
        let late = Duration::from_millis(1);
        match round % 3 {
            0 => self.faults.cut(),
            1 => {
                self.faults.refuse_connects([ErrorKind::ConnectionLost; 2]);
                self.faults.cut();
            }
            _ => {
                // Unanswered ones: nobody waits for the first, and the others are answered on the next session.
                self.faults.delay_publishes(late);
                for producer in &self.producers {
                    drop(producer.publish(&0).routing_key(LOG).send().await);
                }
                self.faults.delay_publishes(Duration::ZERO);
                self.faults.lose_replies(1);
            }
        }
        let published = self.producers.iter().map(|producer| {
            let publish = producer.publish(&0).routing_key(LOG);
            publish.into_future()
        });
        for published in published.collect::<Vec<_>>() {
            published.await.unwrap();
        }
        while !matches!(self.events.next().await, Some(Event::Restored { .. })) {}

        let lost = std::mem::take(&mut self.held);
        self.receive().await;
        for delivery in lost {
            let error = delivery.ack().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SettleLost);
        }
        // Some of these may be there twice.
        self.connection.purge(LOG).await.unwrap();
    }

    async fn count(&mut self) -> Count {
        // Whatever ends by itself has ended when a clock on which nothing else goes on comes to this.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let mut queues = [Messages {
            ready: 0,
            unsettled: None,
            consumers: 0,
        }; QUEUES.len()];
        for (messages, name) in queues.iter_mut().zip(QUEUES) {
            let info = self.observer.queue_info(name).await.unwrap();
            *messages = Messages {
                ready: info.ready,
                unsettled: info.unsettled,
                consumers: info.consumers,
            };
        }
        let stats = ALLOCATOR.stats();
        Count {
            tasks: Handle::current().metrics().num_alive_tasks(),
            queues,
            bytes: stats.bytes_allocated as isize - stats.bytes_deallocated as isize,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reconnects_leave_nothing_behind() {
    let mut scene = Scene::new().await;
    let mut counts = [None; 3];
    for round in 1..=WARM_UP + RECONNECTS {
        scene.reconnect(round).await;
        match round.checked_sub(WARM_UP) {
            Some(0) => counts[0] = Some(scene.count().await),
            Some(HALF) => counts[1] = Some(scene.count().await),
            Some(RECONNECTS) => counts[2] = Some(scene.count().await),
            _ => {}
        }
    }
    assert!(scene.connection.health().sessions > (WARM_UP + RECONNECTS) as u64);
    let [before, half, after] = counts.map(Option::unwrap);
    println!("{before:?}\n{half:?}\n{after:?}");
    let messages = Messages {
        ready: MESSAGES - u64::from(PREFETCH),
        unsettled: Some(u64::from(PREFETCH)),
        consumers: 1,
    };
    for count in [before, half, after] {
        assert_eq!(count.tasks, before.tasks);
        assert_eq!(count.queues, [messages; QUEUES.len()]);
    }
    for (earlier, later) in [(before, half), (half, after)] {
        let grown = later.bytes - earlier.bytes;
        assert!(grown <= TOLERANCE, "grown by {grown} bytes");
    }
}

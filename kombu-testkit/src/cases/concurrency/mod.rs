//! Many at once: nothing is lost, nothing comes twice, and nothing hangs.

pub mod pools;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::future::join_all;
use kombu_core::{Binding, Connection, Exchange, Queue};
use tokio::sync::{oneshot, watch};

use crate::Broker;
use crate::expect::{collect_one, drain, info, texts};

/// Runs a future on a runtime with several threads.
pub(super) async fn on_threads<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
        // The case is over if nobody waits any more.
        let _ = sender.send(runtime.block_on(future));
    });
    match receiver.await {
        Ok(value) => value,
        Err(_) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

/// Each producer publishes to all queues, each consumer takes from all of them.
pub async fn ten_producers_and_ten_consumers_on_ten_queues_deliver_exactly_once(broker: &Broker) {
    const QUEUES: u32 = 10;
    const PRODUCERS: u32 = 10;
    const CONSUMERS: u32 = 10;
    const MESSAGES: u32 = 20; // by each producer, to each queue
    const TOTAL: u32 = QUEUES * PRODUCERS * MESSAGES;
    let queues: Vec<Queue> = (0..QUEUES)
        .map(|queue| Queue::new(format!("queue-{queue}")))
        .collect();
    let connections = [
        broker.connection(),
        broker.connection(),
        broker.connection(),
    ];
    let inspecting = broker.connect().await;
    let names: Vec<_> = queues.iter().map(|queue| queue.name().clone()).collect();
    let received = on_threads(async move {
        let mut open: Vec<Connection> = Vec::new();
        for connection in connections {
            open.push(connection.await.unwrap());
        }
        for queue in &queues {
            open[0].declare_queue(queue).await.unwrap();
        }
        let settled = Arc::new(AtomicU32::new(0));
        let (finish, finished) = watch::channel(false);
        let finish = Arc::new(finish);
        let mut consuming = Vec::new();
        for number in 0..CONSUMERS {
            let connection = &open[number as usize % open.len()];
            let mut consumer = connection.consumer(&queues).prefetch(7).await.unwrap();
            let (settled, finish, mut finished) =
                (settled.clone(), finish.clone(), finished.clone());
            consuming.push(tokio::spawn(async move {
                let mut received: Vec<(u32, u32, u32)> = Vec::new();
                loop {
                    let delivery = tokio::select! {
                        // Also when all are settled: one more is what this is looking for.
                        biased;
                        delivery = collect_one(&mut consumer) => delivery,
                        _ = finished.changed() => return received,
                    };
                    received.push(delivery.decode().unwrap());
                    delivery.ack().await.unwrap();
                    if settled.fetch_add(1, Ordering::SeqCst) + 1 == TOTAL {
                        finish.send_replace(true);
                    }
                }
            }));
        }
        let mut producing = Vec::new();
        for number in 0..PRODUCERS {
            let connection = &open[number as usize % open.len()];
            let producer = connection.producer(Exchange::default()).await.unwrap();
            producing.push(tokio::spawn(async move {
                for message in 0..MESSAGES {
                    for queue in 0..QUEUES {
                        let body = (number, queue, message);
                        let publish = producer
                            .publish(&body)
                            .routing_key(format!("queue-{queue}"));
                        assert!(publish.await.unwrap().routed);
                    }
                }
            }));
        }
        for task in producing {
            task.await.unwrap();
        }
        let mut received: BTreeMap<(u32, u32, u32), u32> = BTreeMap::new();
        for task in consuming {
            for body in task.await.unwrap() {
                *received.entry(body).or_default() += 1;
            }
        }
        // The acks are queued: what isn't closed may take them along when its threads end.
        for connection in open {
            connection.close().await.unwrap();
        }
        received
    })
    .await;
    assert_eq!(received.len() as u32, TOTAL);
    let twice: Vec<_> = received.iter().filter(|(_, times)| **times != 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    for queue in names {
        broker.assert_counts(&inspecting, queue, 0, 0).await;
    }
}

/// Declarations, publishes and gets, all started before the first is waited for.
pub async fn a_hundred_operations_started_together_all_succeed(broker: &Broker) {
    let connection = broker.connect().await;
    let names: Vec<String> = (0..100).map(|number| format!("queue-{number}")).collect();
    let declared = join_all(names.iter().map(async |name| {
        let queue = Queue::new(name).bind(Exchange::topic("media"), format!("{name}.#"));
        connection.declare_queue(&queue).await.unwrap();
    }));
    declared.await;
    let producer = connection.producer(Exchange::topic("media")).await.unwrap();
    let published = join_all(names.iter().map(async |name| {
        let publish = producer.publish(name).routing_key(format!("{name}.new"));
        publish.mandatory().await.unwrap().routed
    }));
    assert_eq!(published.await, [true; 100]);
    let received = join_all(names.iter().map(async |name| {
        let delivery = connection.get(name).await.unwrap().unwrap();
        let body = delivery.decode::<String>().unwrap();
        delivery.ack().await.unwrap();
        body
    }));
    assert_eq!(received.await, names);
    let deleted = join_all(
        names
            .iter()
            .map(async |name| connection.delete_queue(name).await.unwrap()),
    );
    assert_eq!(deleted.await, [0; 100]);
}

/// All of them declare the same, on several connections.
pub async fn a_hundred_equal_declarations_at_once_all_succeed(broker: &Broker) {
    let connections: Vec<_> = (0..5).map(|_| broker.connection()).collect();
    let inspecting = broker.connect().await;
    on_threads(async move {
        let mut tasks = Vec::new();
        for connection in connections {
            let connection = connection.await.unwrap();
            for _ in 0..20 {
                let connection = connection.clone();
                tasks.push(tokio::spawn(async move {
                    let media = Exchange::topic("media");
                    let queue = Queue::new("videos")
                        .bind(&media, "video.#")
                        .bind(&media, "#.new");
                    connection.declare_queue(&queue).await.unwrap();
                }));
            }
        }
        for task in tasks {
            task.await.unwrap();
        }
    })
    .await;
    let producer = inspecting.producer(Exchange::topic("media")).await.unwrap();
    producer
        .publish_text("one copy")
        .routing_key("video.new")
        .await
        .unwrap();
    assert_eq!(drain(&inspecting, "videos").await.len(), 1);
}

/// Clones of one producer in many tasks.
pub async fn a_producer_is_shared_by_many_tasks(broker: &Broker) {
    let connection = broker.connection();
    let inspecting = broker.connect().await;
    inspecting.declare_queue(&Queue::new("jobs")).await.unwrap();
    on_threads(async move {
        let connection = connection.await.unwrap();
        let producer = connection
            .producer(Exchange::default())
            .routing_key("jobs")
            .await
            .unwrap();
        let mut tasks = Vec::new();
        for task in 0..20u32 {
            let producer = producer.clone();
            tasks.push(tokio::spawn(async move {
                for number in 0..25u32 {
                    producer.publish(&(task, number)).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    })
    .await;
    let mut next = [0; 20];
    for message in drain(&inspecting, "jobs").await {
        let (task, number): (usize, u32) = message.decode().unwrap();
        assert_eq!(number, next[task], "task {task}");
        next[task] += 1;
    }
    assert_eq!(next, [25; 20]);
}

/// As many arrive as were answered with `routed`, while a binding comes and goes.
pub async fn answers_are_true_while_bindings_change(broker: &Broker) {
    let (changing, publishing) = (broker.connection(), broker.connection());
    let inspecting = broker.connect().await;
    let media = Exchange::topic("media");
    inspecting
        .declare_queue(&Queue::new("videos"))
        .await
        .unwrap();
    inspecting.declare_exchange(&media).await.unwrap();
    let routed = on_threads(async move {
        let (changing, publishing) = (changing.await.unwrap(), publishing.await.unwrap());
        let producer = publishing.producer(Exchange::topic("media")).await.unwrap();
        let changes = tokio::spawn(async move {
            let binding = Binding::new(Exchange::topic("media"), "video.#");
            for _ in 0..100 {
                changing.bind_queue("videos", &binding).await.unwrap();
                tokio::task::yield_now().await;
                changing.unbind_queue("videos", &binding).await.unwrap();
            }
        });
        let mut routed = 0;
        while !changes.is_finished() {
            let publish = producer.publish_text("new").routing_key("video.new");
            routed += u64::from(publish.await.unwrap().routed);
        }
        changes.await.unwrap();
        routed
    })
    .await;
    assert_eq!(info(&inspecting, "videos").await.ready, routed);
}

/// Deleted and declared again while others publish: every publish is answered, none of those that went nowhere
/// was in a queue, and afterwards all is as it should be.
pub async fn queues_come_and_go_under_publishers(broker: &Broker) {
    let (changing, publishing) = (broker.connection(), broker.connection());
    let inspecting = broker.connect().await;
    let (routed, dropped) = on_threads(async move {
        let (changing, publishing) = (changing.await.unwrap(), publishing.await.unwrap());
        let producer = publishing
            .producer(Exchange::default())
            .routing_key("jobs")
            .await
            .unwrap();
        let changes = tokio::spawn(async move {
            let mut dropped = 0;
            for _ in 0..100 {
                changing.declare_queue(&Queue::new("jobs")).await.unwrap();
                tokio::task::yield_now().await;
                dropped += changing.delete_queue("jobs").await.unwrap();
            }
            dropped
        });
        let mut routed = 0;
        while !changes.is_finished() {
            let publish = producer.publish_text("work").allow_unroutable();
            routed += u64::from(publish.await.unwrap().routed);
        }
        (routed, changes.await.unwrap())
    })
    .await;
    // A message that meets the deletion of its queue may go with it uncounted.
    assert!(
        dropped <= routed,
        "{dropped} were in the queue, and {routed} were routed"
    );
    inspecting.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = inspecting.producer(Exchange::default()).await.unwrap();
    producer
        .publish_text("after")
        .routing_key("jobs")
        .await
        .unwrap();
    assert_eq!(texts(&drain(&inspecting, "jobs").await), ["after"]);
}

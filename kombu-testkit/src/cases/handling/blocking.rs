//! Handlers that block their threads, in programs that have others, and something to do with them: tokio leaves nobody to look
//! at sockets and clocks if the thread that did so is the only one with anything to do, and is blocked.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use kombu_core::Queue;
use kombu_core::handler::{Attempt, Payload, Router};

use super::{PATIENCE, Running, caller_to, log, soon, until_empty};
use crate::Broker;
use crate::cases::concurrency::on_threads;
use crate::cases::publish;

/// What blocks whoever waits for it, until it is released.
#[derive(Clone)]
struct Gate(Arc<Mutex<mpsc::Receiver<()>>>);

impl Gate {
    fn new() -> (mpsc::Sender<()>, Self) {
        let (release, released) = mpsc::channel();
        (release, Gate(Arc::new(Mutex::new(released))))
    }

    fn wait(&self) {
        self.0.lock().unwrap().recv().unwrap();
    }
}

/// Gives another thread of the runtime something to do.
async fn something_else() {
    tokio::spawn(async {}).await.unwrap();
}

/// They are handled and answered meanwhile.
pub async fn a_handler_that_blocks_its_thread_leaves_the_others(broker: &Broker) {
    let connecting = broker.connection();
    on_threads(async move {
        let connection = connecting.await.unwrap();
        let queue = Queue::new("jobs");
        connection.declare_queue(&queue).await.unwrap();
        let (release, gate) = Gate::new();
        let (seen, mut log) = log();
        let handler = async move |Payload(text): Payload<String>| {
            if text == "block" {
                seen.send(()).unwrap();
                gate.wait();
            }
            text
        };
        let serve = connection.serve(Router::new().fallback(handler));
        let running = Running::start(serve.queues(&queue).concurrency(2)).await;
        let caller = caller_to(&connection, "jobs").await;
        let blocked = caller.call::<_, String>("block").ask().await;
        log.next().await;
        for _ in 0..10 {
            assert_eq!(caller.call::<_, String>("go").await.unwrap(), "go");
        }
        release.send(()).unwrap();
        let answer = blocked.unwrap().answer(PATIENCE).await;
        assert_eq!(answer.unwrap(), "block");
        running.stop().await;
        connection.close().await.unwrap();
    })
    .await;
    until_empty(&broker.connect().await, "jobs").await;
}

/// Its thread can't be had back, but its message can: brokers end consumers that hold one for too long.
pub async fn what_a_handler_that_blocks_its_thread_holds_for_too_long_comes_again(broker: &Broker) {
    let connecting = broker.connection();
    on_threads(async move {
        let connection = connecting.await.unwrap();
        let queue = Queue::new("jobs");
        connection.declare_queue(&queue).await.unwrap();
        let (release, gate) = Gate::new();
        let (seen, mut log) = log();
        let handler = async move |Attempt(attempt): Attempt| {
            seen.send(attempt).unwrap();
            if attempt == 1 {
                gate.wait();
            }
        };
        let serve = connection.serve(Router::new().fallback(handler));
        let serve = serve.queues(&queue).concurrency(2);
        let limit = Duration::from_millis(100);
        let running = Running::start(serve.max_processing_time(limit)).await;
        publish(&connection, "jobs", ["block"]).await;
        assert_eq!(soon(log.next()).await, 1);
        something_else().await;
        assert_eq!(soon(log.next()).await, 2);
        release.send(()).unwrap();
        running.stop().await;
        connection.close().await.unwrap();
    })
    .await;
    until_empty(&broker.connect().await, "jobs").await;
}

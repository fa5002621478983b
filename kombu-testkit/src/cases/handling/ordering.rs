//! What is handled one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kombu_core::handler::{Headers, Payload, Router};
use kombu_core::{Name, Queue};

use super::{Running, log, soon, until_empty};
use crate::Broker;
use crate::cases::producer_to;

/// One at a time and in order for each key, and different keys side by side.
pub async fn messages_of_one_key_are_handled_in_order(broker: &Broker) {
    let connection = broker.connect().await;
    let queue = Queue::new("jobs");
    connection.declare_queue(&queue).await.unwrap();
    let producer = producer_to(&connection, "jobs").await;
    for number in 0..60 {
        let key = ["a", "b", "c"][number % 3];
        producer.publish(&number).header("key", key).await.unwrap();
    }
    let running: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let most_at_once = Arc::new(Mutex::new(0));
    let (seen, mut log) = log();
    let (counts, most) = (running.clone(), most_at_once.clone());
    let handler = async move |Headers(headers): Headers, Payload(number): Payload<usize>| {
        let key = headers.get("key").unwrap().as_str().unwrap().to_owned();
        {
            let mut counts = counts.lock().unwrap();
            *counts.entry(key.clone()).or_default() += 1;
            assert_eq!(counts[&key], 1, "two of one key at once");
            let at_once = counts.values().sum::<u32>();
            let mut most = most.lock().unwrap();
            *most = at_once.max(*most);
        }
        // Others have their turns.
        for _ in 0..number % 5 {
            tokio::task::yield_now().await;
        }
        counts.lock().unwrap().insert(key.clone(), 0);
        seen.send((key, number)).unwrap();
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let serve = serve.queues(&queue).concurrency(4).prefetch(20);
    let serve = serve.in_order_by(|message| message.header("key").map(Name::from));
    let _running = Running::start(serve).await;
    let mut last: HashMap<String, usize> = HashMap::new();
    for _ in 0..60 {
        let (key, number) = soon(log.next()).await;
        let before = last.insert(key, number);
        assert!(
            before.is_none_or(|before| before < number),
            "{before:?} {number}"
        );
    }
    assert!(
        *most_at_once.lock().unwrap() > 1,
        "different keys wait for each other"
    );
    until_empty(&connection, "jobs").await;
}

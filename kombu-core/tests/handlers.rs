//! Handlers, as far as no broker has a part in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::mpsc;
use std::time::Duration;

use kombu::handler::{Attempt, Exit, Headers, Outcome, Payload, Reply, Router, State};
use kombu::{CallError, Connection, Exchange, Faults, FieldTable, Producer, Queue};
use tokio::time::Instant;

#[derive(Clone)]
struct Prices {
    each: u64,
}

async fn price(
    State(prices): State<Prices>,
    Headers(headers): Headers,
    Attempt(attempt): Attempt,
    Payload(count): Payload<u64>,
) -> Result<Reply<u64>, String> {
    match headers.get("free") {
        Some(_) => Ok(Reply(0)),
        None if attempt > 1 => Err("too often".to_owned()),
        None => Ok(Reply(count * prices.each)),
    }
}

async fn producer(connection: &Connection) -> Producer {
    connection.declare_queue(&Queue::new("jobs")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    producer.routing_key("jobs").await.unwrap()
}

#[tokio::test]
async fn a_handler_is_a_plain_function() {
    let prices = || State(Prices { each: 3 });
    let headers = || Headers(FieldTable::new());
    let priced = price(prices(), headers(), Attempt(1), Payload(2)).await;
    assert_eq!(priced, Ok(Reply(6)));
    let again = price(prices(), headers(), Attempt(2), Payload(2)).await;
    assert_eq!(again, Err("too often".to_owned()));
}

#[tokio::test]
async fn a_router_is_tried_without_a_component() {
    let connection = kombu::connect("memory://").await.unwrap();
    let producer = producer(&connection).await;
    let router = Router::new()
        .on("price", price)
        .with_state(Prices { each: 3 });
    for (body, kind) in [("2", "price"), ("\"two\"", "price"), ("2", "prize")] {
        let message = producer.publish_text(body).content_type("application/json");
        message.kind(kind).await.unwrap();
    }
    let mut deliveries = Vec::new();
    while let Some(delivery) = connection.get("jobs").await.unwrap() {
        deliveries.push(delivery);
    }
    let priced = router.react(&deliveries[0]).await;
    assert_eq!(priced.outcome(), Some(Outcome::Ack));
    let unreadable = router.react(&deliveries[1]).await;
    assert!(unreadable.rejection().is_some(), "{unreadable:?}");
    let unknown = router.react(&deliveries[2]).await;
    let unknown = unknown.rejection().unwrap().to_string();
    assert!(unknown.contains("type `prize`"), "{unknown}");
}

/// It isn't for the broker to say how long handlers may go on.
#[tokio::test(start_paused = true)]
async fn the_grace_begins_when_the_component_is_stopped() {
    let faults = Faults::default();
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .layer(faults.clone())
        .await
        .unwrap();
    let producer = producer(&connection).await;
    let (begun, mut begins) = tokio::sync::mpsc::channel(1);
    let stuck = async move || {
        begun.send(()).await.unwrap();
        std::future::pending::<()>().await;
    };
    let serve = connection.serve(Router::new().fallback(stuck));
    let serve = serve.queues(&Queue::new("jobs"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(serve.run_until(async { drop(stopped.await) }));
    producer.publish(&1).await.unwrap();
    begins.recv().await.unwrap();
    faults.withhold_replies(true);
    let begin = Instant::now();
    drop(stop);
    // The component is gone, and its handlers with it.
    assert_eq!(begins.recv().await, None);
    assert_eq!(running.await.unwrap().unwrap(), Exit::Stopped);
    assert_eq!(begin.elapsed().as_secs(), 30);
}

/// Five retries after 1, 2, 4, 8 and 16 s, each a fifth shorter or longer.
#[tokio::test(start_paused = true)]
async fn what_fails_is_retried_five_times_unless_it_is_said_otherwise() {
    let connection = kombu::connect("memory://").await.unwrap();
    let producer = producer(&connection).await;
    let (seen, mut tries) = tokio::sync::mpsc::unbounded_channel();
    let handler = async move || {
        seen.send(Instant::now()).unwrap();
        Err::<(), _>("bad luck")
    };
    let serve = connection.serve(Router::new().fallback(handler));
    tokio::spawn(serve.queues(&Queue::new("jobs")).run());
    producer.publish(&1).await.unwrap();
    let mut last = tries.recv().await.unwrap();
    for pause in [1, 2, 4, 8, 16] {
        let next = tries.recv().await.unwrap();
        let (waited, usual) = ((next - last).as_secs_f64(), f64::from(pause));
        assert!(
            (usual * 0.79..usual * 1.21).contains(&waited),
            "{waited} for {usual}"
        );
        last = next;
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(tries.is_empty());
    // Held, since the queue has no dead-letter exchange.
    let info = connection.queue_info("jobs").await.unwrap();
    assert_eq!((info.ready, info.unsettled), (0, Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_leaves_the_others() {
    let connection = kombu::connect("memory://").await.unwrap();
    let producer = producer(&connection).await;
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = std::sync::Arc::new(std::sync::Mutex::new(blocked));
    let handler = async move |Payload(text): Payload<String>| {
        if text == "block" {
            blocked.lock().unwrap().recv().unwrap();
        }
        text
    };
    let serve = connection.serve(Router::new().fallback(handler));
    let serve = serve.queues(&Queue::new("jobs")).concurrency(2);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let component = tokio::spawn(serve.run_until(async { drop(stopped.await) }));
    producer.publish("block").await.unwrap();
    let caller = connection
        .caller(Exchange::default())
        .routing_key("jobs")
        .await
        .unwrap();
    for _ in 0..10 {
        assert_eq!(caller.call::<_, String>("go").await.unwrap(), "go");
    }
    release.send(()).unwrap();
    drop(stop);
    component.await.unwrap().unwrap();
    assert_eq!(
        connection.queue_info("jobs").await.unwrap().unsettled,
        Some(0)
    );
}

#[cfg(feature = "tower")]
mod layered {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use kombu::handler::{HandlerService, Reaction, Request};
    use tower_layer::layer_fn;
    use tower_service::Service;

    use super::*;

    /// Counts, and fails with every third request.
    #[derive(Clone)]
    struct Counting {
        inner: HandlerService,
        count: Arc<AtomicUsize>,
    }

    impl Service<Request> for Counting {
        type Response = Reaction;
        type Error = String;
        type Future = kombu::driver::BoxFuture<'static, Result<Reaction, String>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), String>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request) -> Self::Future {
            let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
            let reaction = self.inner.call(request);
            Box::pin(async move {
                match count % 3 {
                    0 => Err("every third one".to_owned()),
                    _ => Ok(reaction.await.unwrap()),
                }
            })
        }
    }

    #[tokio::test]
    async fn layers_lie_around_handlers() {
        let connection = kombu::connect("memory://").await.unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let layer = layer_fn(move |inner| Counting {
            inner,
            count: counter.clone(),
        });
        let router = Router::new().fallback(async || 42).layer(layer);
        let serve = connection.serve(router).queues(&Queue::new("jobs"));
        producer(&connection).await;
        tokio::spawn(serve.tell_errors(true).run());
        let caller = connection
            .caller(Exchange::default())
            .routing_key("jobs")
            .await
            .unwrap();
        let ask = async || caller.call::<_, u32>(&()).await;
        assert_eq!(ask().await.unwrap(), 42);
        assert_eq!(ask().await.unwrap(), 42);
        let failed = ask().await.unwrap_err();
        let CallError::Application { message, .. } = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(message, "every third one");
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}

//! Handlers, as far as no broker has a part in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use kombu::call::Failure;
use kombu::handler::{
    Attempt, Component, Exit, FromMessage, Headers, Outcome, Payload, Rejection, Reply, Request,
    Retries, Router, State,
};
use kombu::{
    CallError, Caller, Connection, Content, Delivery, Exchange, Faults, FieldTable, Interceptor,
    Name, Producer, Queue, driver,
};
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
    producer_of(connection).await
}

async fn producer_of(connection: &Connection) -> Producer {
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

/// It is as good as none.
#[tokio::test]
async fn a_limit_without_end_is_none() {
    let connection = kombu::connect("memory://").await.unwrap();
    let producer = producer(&connection).await;
    let (seen, mut handled) = tokio::sync::mpsc::unbounded_channel();
    let handler = async move |Payload(number): Payload<u32>| seen.send(number).unwrap();
    let serve = connection.serve(Router::new().fallback(handler));
    let serve = serve.queues(&Queue::new("jobs"));
    let serve = serve.max_processing_time(Duration::MAX);
    let component = tokio::spawn(serve.run());
    producer.publish(&7).await.unwrap();
    assert_eq!(handled.recv().await, Some(7));
    connection.close().await.unwrap();
    component.await.unwrap().unwrap();
}

/// A queue `jobs` whose dead letters go to `dead`.
async fn with_dead_letters(connection: &Connection) -> Queue {
    connection.declare_queue(&Queue::new("dead")).await.unwrap();
    let queue = Queue::new("jobs")
        .dead_letter_exchange(Exchange::default().name())
        .dead_letter_routing_key("dead");
    connection.declare_queue(&queue).await.unwrap();
    queue
}

async fn until_dead(connection: &Connection, count: u64) {
    until_ready(connection, "dead", count).await;
}

async fn until_ready(connection: &Connection, queue: &str, count: u64) {
    let ready = async {
        while connection.queue_info(queue).await.unwrap().ready != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3600), ready)
        .await
        .unwrap();
}

async fn asking(connection: &Connection) -> Caller {
    let caller = connection.caller(Exchange::default()).routing_key("jobs");
    caller.max_retries(0).await.unwrap()
}

/// As with any other handler, whatever comes before it fails with.
#[tokio::test(start_paused = true)]
async fn a_delivery_that_its_handler_never_got_is_settled_for_it() {
    struct Broken;
    impl<S> FromMessage<S> for Broken {
        fn from_message(_: &mut Request, _: &S) -> Result<Self, Rejection> {
            panic!("a broken extractor")
        }
    }

    let connection = kombu::connect("memory://").await.unwrap();
    let queue = with_dead_letters(&connection).await;
    let producer = producer_of(&connection).await;
    let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new()
        .on("broken", async |_: Broken, _: Delivery| {})
        .fallback(
            async move |Payload(number): Payload<u32>, delivery: Delivery| {
                seen.send((number, delivery.attempt())).unwrap();
                delivery.ack().await
            },
        );
    let serve = connection.serve(router).queues(&queue);
    tokio::spawn(serve.retries(Retries::new(1)).run());
    producer.publish("no number").await.unwrap();
    until_dead(&connection, 1).await;
    let refused = asking(&connection).await;
    let refused = refused.call::<_, u32>("no number").await.unwrap_err();
    assert!(
        matches!(refused, CallError::Critical { code: 400, .. }),
        "{refused:?}"
    );
    until_dead(&connection, 2).await;
    let begin = Instant::now();
    producer.publish(&1).kind("broken").await.unwrap();
    until_dead(&connection, 3).await;
    // Tried again once, after about a second.
    let tried = begin.elapsed().as_secs_f64();
    assert!((0.79..1.3).contains(&tried), "{tried}");
    producer.publish(&7).await.unwrap();
    assert_eq!(log.recv().await, Some((7, 1)));
    assert!(log.is_empty());
}

const LIMIT: Duration = Duration::from_secs(10);

/// Tells when it is dropped.
struct Guard(tokio::sync::mpsc::UnboundedSender<Duration>, Instant);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send(self.1.elapsed()).ok();
    }
}

/// As one that fails, whoever has the delivery: with pauses, and not for ever.
#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_has_failed() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = with_dead_letters(&connection).await;
    let (seen, mut cancelled) = tokio::sync::mpsc::unbounded_channel();
    let (begin, taking) = (Instant::now(), seen.clone());
    let router = Router::new()
        .on("read", async move || {
            let _guard = Guard(seen.clone(), begin);
            std::future::pending::<()>().await;
        })
        .on("taken", async move |delivery: Delivery| {
            let _guard = Guard(taking.clone(), begin);
            std::future::pending::<()>().await;
            drop(delivery);
        });
    let serve = connection.serve(router).queues(&queue).concurrency(2);
    let retries = Retries::new(2).first_pause(Duration::from_secs(1));
    let serve = serve.retries(retries.jitter(false));
    tokio::spawn(serve.max_processing_time(LIMIT).run());
    let producer = producer_of(&connection).await;
    producer.publish(&1).kind("read").await.unwrap();
    producer.publish(&1).kind("taken").await.unwrap();
    // 10 s each, after 1 s and 2 s.
    for second in [10, 10, 21, 21, 33, 33] {
        let ended = cancelled.recv().await.unwrap();
        assert_eq!(ended.as_secs(), second);
    }
    until_dead(&connection, 2).await;
    assert!(cancelled.is_empty());
}

/// Instead of waiting for as long as it likes, and of being asked for again.
#[tokio::test(start_paused = true)]
async fn who_asks_a_handler_that_takes_too_long_is_told() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = with_dead_letters(&connection).await;
    let router = Router::new().on("read", std::future::pending::<()>).on(
        "taken",
        async |delivery: Delivery| {
            std::future::pending::<()>().await;
            drop(delivery);
        },
    );
    let serve = connection.serve(router).queues(&queue);
    let serve = serve.tell_errors(true).max_processing_time(LIMIT);
    tokio::spawn(serve.run());
    let caller = asking(&connection).await;
    for (kind, dead) in [("read", 1), ("taken", 2)] {
        let late = caller.call::<_, ()>(&1).kind(kind).await.unwrap_err();
        let CallError::Application { name, .. } = late else {
            panic!("{late:?}");
        };
        assert_eq!(name, "TimeoutError");
        until_dead(&connection, dead).await;
    }
}

/// What it does afterwards takes as long as it likes.
#[tokio::test(start_paused = true)]
async fn a_handler_that_has_settled_is_not_cancelled() {
    let connection = kombu::connect("memory://").await.unwrap();
    let producer = producer(&connection).await;
    let (seen, mut done) = tokio::sync::mpsc::unbounded_channel();
    let router = Router::new()
        .on("long", async move |delivery: Delivery| {
            delivery.ack().await.unwrap();
            tokio::time::sleep(5 * LIMIT).await;
            seen.send(()).unwrap();
        })
        // Taken back meanwhile.
        .fallback(std::future::pending::<()>);
    let serve = connection.serve(router).queues(&Queue::new("jobs"));
    tokio::spawn(serve.concurrency(2).max_processing_time(LIMIT).run());
    producer.publish(&1).kind("long").await.unwrap();
    producer.publish(&1).await.unwrap();
    assert_eq!(done.recv().await, Some(()));
}

/// Who asks is told all the same, and if even that fails the question comes again.
#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_sent_is_a_failure() {
    let faults = Faults::default();
    let url = "memory://handlers-unsent";
    let server = Connection::builder(kombu::registry())
        .url(url)
        .layer(faults.clone())
        .max_message_size(1_000)
        .await
        .unwrap();
    let client = kombu::connect(url).await.unwrap();
    let queue = with_dead_letters(&client).await;
    let (seen, mut log) = tokio::sync::mpsc::unbounded_channel();
    let handler = async move |Payload(length): Payload<usize>, Attempt(attempt): Attempt| {
        seen.send(attempt).unwrap();
        "x".repeat(length)
    };
    let serve = server.serve(Router::new().fallback(handler));
    tokio::spawn(serve.queues(&queue).run());
    let caller = asking(&client).await;
    let refused = |answer: Result<String, CallError>| {
        let error = answer.unwrap_err();
        assert!(
            matches!(error, CallError::Transient { code: 500, .. }),
            "{error:?}"
        );
    };
    refused(caller.call(&2_000).await);
    assert_eq!(log.recv().await, Some(1));
    until_dead(&client, 1).await;
    faults.nack_publishes(1);
    refused(caller.call(&1).await);
    assert_eq!(log.recv().await, Some(1));
    until_dead(&client, 2).await;
    faults.nack_publishes(2);
    assert_eq!(caller.call::<_, String>(&3).await.unwrap(), "xxx");
    assert_eq!((log.recv().await, log.recv().await), (Some(1), Some(2)));
    until_ready(&client, "jobs", 0).await;
    assert_eq!(client.queue_info("dead").await.unwrap().ready, 2);
}

/// As if the handler did: neither the component nor a lane ends by it.
#[tokio::test(start_paused = true)]
async fn a_panic_around_a_handler_is_an_error() {
    struct Unwritable;
    impl serde::Serialize for Unwritable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("somebody's way to write it");
        }
    }
    /// Panics where the message says so.
    fn pass(message: &Content, place: &str) {
        assert_ne!(message.header("panic"), Some(place));
    }
    struct Nervous;
    impl Interceptor for Nervous {
        fn on_settle(&self, _: &Name, outcome: driver::Outcome) -> driver::Outcome {
            assert_ne!(outcome, driver::Outcome::Ack, "the interceptor's");
            outcome
        }
    }

    let url = "memory://handlers-panics";
    let server = Connection::builder(kombu::registry()).url(url);
    let server = server.intercept(Nervous).await.unwrap();
    let connection = kombu::connect(url).await.unwrap();
    let queue = with_dead_letters(&connection).await;
    let router = Router::new()
        .keyed_by(|message| {
            pass(message, "keys");
            (message.kind().map(Name::from), None)
        })
        .on("job", async || Outcome::Reject)
        .on("write", async || Reply(Unwritable))
        .on("fail", async || {
            Err::<(), _>(Failure::application("Odd", "no").payload(Unwritable))
        })
        .on("ack", async || {})
        .when(
            |message| {
                pass(message, "condition");
                false
            },
            async || {},
        );
    let serve = server.serve(router).queues(&queue);
    let serve = serve.retries(Retries::new(1)).in_order_by(|message| {
        pass(message, "order");
        Some("one lane".into())
    });
    tokio::spawn(serve.run());
    let producer = producer_of(&connection).await;
    let mut dead = 0;
    for place in ["keys", "condition", "order"] {
        producer.publish(&1).header("panic", place).await.unwrap();
        dead += 1;
        until_dead(&connection, dead).await;
        let told = asking(&connection).await;
        let told = told.call::<_, ()>(&1).header("panic", place).await;
        assert!(
            matches!(told, Err(CallError::Transient { code: 500, .. })),
            "{place}: {told:?}"
        );
        dead += 1;
        until_dead(&connection, dead).await;
    }
    for kind in ["write", "fail"] {
        let told = asking(&connection).await;
        let told = told.call::<_, ()>(&1).kind(kind).await;
        assert!(
            matches!(told, Err(CallError::Transient { code: 500, .. })),
            "{kind}: {told:?}"
        );
        dead += 1;
        until_dead(&connection, dead).await;
    }
    // Its task ends, and the lane goes on.
    producer.publish(&1).kind("ack").await.unwrap();
    producer.publish(&1).kind("job").await.unwrap();
    until_dead(&connection, dead + 1).await;
}

/// The next time it may go well, and only then it is known that the other one never does.
#[tokio::test(start_paused = true)]
async fn of_two_handlers_one_that_failed_has_the_message_retried() {
    let connection = kombu::connect("memory://").await.unwrap();
    let queue = with_dead_letters(&connection).await;
    let (seen, mut attempts) = tokio::sync::mpsc::unbounded_channel();
    let failing = async move |Attempt(attempt): Attempt| {
        seen.send(attempt).unwrap();
        match attempt {
            1 => Err("bad luck"),
            _ => Ok(()),
        }
    };
    let refusing = async |Payload(_): Payload<u32>| {};
    let router = Router::new()
        .on("refused first", refusing)
        .on("refused first", failing.clone())
        .on("failed first", failing)
        .on("failed first", refusing);
    tokio::spawn(connection.serve(router).queues(&queue).run());
    let producer = producer_of(&connection).await;
    for (kind, dead) in [("refused first", 1), ("failed first", 2)] {
        producer.publish("no number").kind(kind).await.unwrap();
        assert_eq!(
            (attempts.recv().await, attempts.recv().await),
            (Some(1), Some(2))
        );
        until_dead(&connection, dead).await;
    }
}

/// That of its type, and what text and boxes are for programs in other languages, too.
#[tokio::test]
async fn an_error_has_a_name() {
    #[derive(Debug)]
    struct OutOfStock<T>(T);
    impl<T: std::fmt::Debug> std::fmt::Display for OutOfStock<T> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "no {:?} left", self.0)
        }
    }
    impl<T: std::fmt::Debug> std::error::Error for OutOfStock<T> {}
    type Boxed = Box<dyn std::error::Error + Send + Sync>;

    let connection = kombu::connect("memory://").await.unwrap();
    let producer = producer(&connection).await;
    let router = Router::new()
        .on("type", async || Err::<(), _>(OutOfStock("paper")))
        .on("text", async || Err::<(), _>("no paper left"))
        .on("owned text", async || {
            Err::<(), _>("no paper left".to_owned())
        })
        .on("box", async || Err::<(), _>(Boxed::from("no paper left")));
    for (kind, name) in [
        ("type", "OutOfStock"),
        ("text", "Error"),
        ("owned text", "Error"),
        ("box", "Error"),
    ] {
        producer.publish(&1).kind(kind).await.unwrap();
        let delivery = connection.get("jobs").await.unwrap().unwrap();
        let reaction = router.react(&delivery).await;
        assert_eq!(reaction.error().unwrap().name(), name, "{kind}");
        delivery.ack().await.unwrap();
    }
}

/// Though the broker answers nothing.
#[tokio::test(start_paused = true)]
async fn a_component_is_stopped_while_it_opens() {
    let faults = Faults::default();
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .layer(faults.clone())
        .await
        .unwrap();
    faults.withhold_replies(true);
    let serve = || {
        let router = Router::new().fallback(async || {});
        connection.serve(router).queues(&Queue::new("jobs"))
    };
    let soon = || tokio::time::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    assert_eq!(serve().run_until(soon()).await.unwrap(), Exit::Stopped);
    let component = Component::new().with(serve()).with(serve());
    assert_eq!(component.run_until(soon()).await.unwrap(), Exit::Stopped);
    assert_eq!(begin.elapsed().as_secs(), 2);
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

//! Trace context from a scope, or from a closure, into the headers of what is published.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kombu::driver::BoxFuture;
use kombu::{
    CarryTrace, Connection, Content, Delivery, Exchange, Interceptor, Producer, Queue, Result,
    TraceContext,
};
use tokio::sync::Barrier;

const FIRST: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SECOND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn context(traceparent: &str) -> TraceContext {
    traceparent.parse().unwrap()
}

/// A connection with this interceptor, its queue `q` and a producer for it.
async fn connect(interceptor: impl Interceptor) -> (Connection, Producer) {
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .intercept(interceptor)
        .await
        .unwrap();
    let producer = to_queue(&connection).await;
    (connection, producer)
}

async fn to_queue(connection: &Connection) -> Producer {
    connection.declare_queue(&Queue::new("q")).await.unwrap();
    let producer = connection.producer(Exchange::default());
    producer.routing_key("q").await.unwrap()
}

/// The next message, and its context.
async fn next(connection: &Connection) -> (Delivery, Option<TraceContext>) {
    let delivery = connection.get("q").await.unwrap().unwrap();
    let context = delivery.trace_context();
    (delivery, context)
}

/// The contexts of the next messages, by their bodies.
async fn contexts<const COUNT: usize>(connection: &Connection) -> [Option<TraceContext>; COUNT] {
    let mut contexts = [const { None }; COUNT];
    for _ in 0..COUNT {
        let (delivery, context) = next(connection).await;
        contexts[delivery.decode::<usize>().unwrap()] = context;
        delivery.ack().await.unwrap();
    }
    contexts
}

/// Holds each publish back until so many are there.
struct Meet(Barrier);

impl Interceptor for Meet {
    fn on_publish<'a>(&'a self, _: &'a mut Content) -> BoxFuture<'a, Result<()>> {
        Box::pin(async {
            self.0.wait().await;
            Ok(())
        })
    }
}

#[tokio::test]
async fn what_is_published_in_a_scope_carries_its_context() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let carried = TraceContext::parse(FIRST, Some("rojo=1,congo=2")).unwrap();
    let publish = async { producer.publish(&0).await.unwrap() };
    carried.clone().scope(publish).await;
    let (delivery, context) = next(&connection).await;
    assert_eq!(context, Some(carried));
    let header = |name| delivery.headers().get(name).unwrap().as_str();
    assert_eq!(header("traceparent"), Some(FIRST));
    assert_eq!(header("tracestate"), Some("rojo=1,congo=2"));
    assert_eq!(delivery.headers().len(), 2);
}

#[tokio::test]
async fn batches_and_receipts_carry_the_context_too() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let receipts = context(FIRST).scope(async {
        let results = producer.batch([producer.publish(&0), producer.publish(&1)]);
        assert!(results.await.iter().all(Result::is_ok));
        vec![producer.publish(&2).send().await.unwrap()]
    });
    for receipt in receipts.await {
        receipt.await.unwrap();
    }
    let contexts = contexts(&connection).await;
    assert_eq!(
        contexts,
        [const { Some(FIRST) }; 3].map(|it| it.map(context))
    );
}

#[tokio::test]
async fn a_publish_outside_of_any_scope_adds_no_headers() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    context(FIRST).scope(async {}).await;
    producer.publish(&0).await.unwrap();
    let (delivery, context) = next(&connection).await;
    assert_eq!(context, None);
    assert!(delivery.headers().is_empty(), "{:?}", delivery.headers());
}

#[tokio::test]
async fn a_context_without_a_tracestate_adds_the_traceparent_alone() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let publish = async { producer.publish(&0).await.unwrap() };
    context(FIRST).scope(publish).await;
    let (delivery, _) = next(&connection).await;
    assert_eq!(delivery.headers().len(), 1, "{:?}", delivery.headers());
}

#[tokio::test]
async fn the_inner_one_of_two_scopes_is_current_until_it_ends() {
    let current = || TraceContext::current().map(|context| context.to_string());
    assert_eq!(current(), None);
    context(FIRST)
        .scope(async {
            assert_eq!(current().as_deref(), Some(FIRST));
            context(SECOND)
                .scope(async { assert_eq!(current().as_deref(), Some(SECOND)) })
                .await;
            assert_eq!(current().as_deref(), Some(FIRST));
        })
        .await;
    assert_eq!(current(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_ends_at_the_border_of_its_task() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let publish = |number: usize| {
        let producer = producer.clone();
        async move { producer.publish(&number).await.unwrap() }
    };
    context(FIRST)
        .scope(async {
            tokio::spawn(publish(0)).await.unwrap();
            tokio::spawn(context(SECOND).scope(publish(1)))
                .await
                .unwrap();
            publish(2).await;
        })
        .await;
    let expected = [None, Some(context(SECOND)), Some(context(FIRST))];
    assert_eq!(contexts(&connection).await, expected);
}

#[tokio::test]
async fn publishes_that_wait_for_one_another_in_two_scopes_of_a_task_keep_theirs_apart() {
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .intercept(Meet(Barrier::new(3)))
        .intercept(CarryTrace::default())
        .await
        .unwrap();
    let producer = to_queue(&connection).await;
    let publish = async |number: usize| producer.publish(&number).await.unwrap();
    tokio::join!(
        context(FIRST).scope(publish(0)),
        publish(1),
        context(SECOND).scope(publish(2)),
    );
    let expected = [Some(context(FIRST)), None, Some(context(SECOND))];
    assert_eq!(contexts(&connection).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_that_wait_for_one_another_in_two_tasks_keep_theirs_apart() {
    let connection = Connection::builder(kombu::registry())
        .url("memory://")
        .intercept(Meet(Barrier::new(2)))
        .intercept(CarryTrace::default())
        .await
        .unwrap();
    let producer = to_queue(&connection).await;
    let tasks = [(0, FIRST), (1, SECOND)].map(|(number, traceparent)| {
        let producer = producer.clone();
        tokio::spawn(context(traceparent).scope(async move {
            for _ in 0..100 {
                producer.publish(&number).await.unwrap();
            }
        }))
    });
    for task in tasks {
        task.await.unwrap();
    }
    for _ in 0..200 {
        let (delivery, found) = next(&connection).await;
        let expected = [FIRST, SECOND][delivery.decode::<usize>().unwrap()];
        assert_eq!(found, Some(context(expected)));
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_messages_own_traceparent_wins_over_the_scope() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let carried = TraceContext::parse(FIRST, Some("rojo=1")).unwrap();
    for own in [SECOND, "malformed"] {
        let publish = producer.publish(&0).header("traceparent", own);
        carried.clone().scope(publish.into_future()).await.unwrap();
        let (delivery, context) = next(&connection).await;
        assert_eq!(context, own.parse().ok());
        let header = delivery.headers().get("traceparent").unwrap();
        assert_eq!(header.as_str(), Some(own));
        assert_eq!(delivery.headers().len(), 1, "the tracestate isn't its own");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_messages_own_tracestate_wins_over_that_of_the_scope() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let carried = TraceContext::parse(FIRST, Some("rojo=1")).unwrap();
    let publish = producer.publish(&0).header("tracestate", "congo=2");
    carried.scope(publish.into_future()).await.unwrap();
    let (_, context) = next(&connection).await;
    assert_eq!(context, TraceContext::parse(FIRST, Some("congo=2")));
}

#[tokio::test]
async fn one_producer_may_carry_what_its_connection_does_not() {
    let connection = kombu::connect("memory://").await.unwrap();
    let plain = to_queue(&connection).await;
    let carrying = connection
        .producer(Exchange::default())
        .routing_key("q")
        .intercept(CarryTrace::default())
        .await
        .unwrap();
    context(FIRST)
        .scope(async {
            carrying.publish(&0).await.unwrap();
            plain.publish(&1).await.unwrap();
        })
        .await;
    assert_eq!(contexts(&connection).await, [Some(context(FIRST)), None]);
}

#[tokio::test]
async fn the_interceptor_of_a_connection_comes_before_that_of_a_producer() {
    let (connection, _) = connect(CarryTrace::new(|| Some(context(FIRST)))).await;
    let producer = connection
        .producer(Exchange::default())
        .routing_key("q")
        .intercept(CarryTrace::new(|| Some(context(SECOND))))
        .await
        .unwrap();
    producer.publish(&0).await.unwrap();
    assert_eq!(contexts(&connection).await, [Some(context(FIRST))]);
}

#[tokio::test]
async fn a_closure_is_asked_once_for_each_message_without_a_traceparent() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (connection, producer) = connect(CarryTrace::new(move || {
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => TraceContext::parse(FIRST, None),
            _ => None,
        }
    }))
    .await;
    // The scope is the default's source, and a closure stands in its place.
    context(SECOND)
        .scope(async {
            producer.publish(&0).await.unwrap();
            producer.publish(&1).await.unwrap();
            let own = producer.publish(&2).header("traceparent", SECOND);
            own.await.unwrap();
        })
        .await;
    let expected = [Some(context(FIRST)), None, Some(context(SECOND))];
    assert_eq!(contexts(&connection).await, expected);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_handler_in_the_scope_of_its_delivery_continues_the_trace() {
    let (connection, producer) = connect(CarryTrace::default()).await;
    let results = Queue::new("results");
    connection.declare_queue(&results).await.unwrap();
    let handle = async |job: Delivery| {
        tokio::task::yield_now().await;
        let result = producer.publish(&"done").routing_key("results");
        result.await.unwrap();
        job.ack().await.unwrap();
    };
    let sent = producer.publish(&0).header("traceparent", SECOND);
    sent.header("tracestate", "congo=2").await.unwrap();
    let (job, found) = next(&connection).await;
    found.unwrap().scope(handle(job)).await;
    let result = connection.get(&results).await.unwrap().unwrap();
    let expected = TraceContext::parse(SECOND, Some("congo=2"));
    assert_eq!(result.trace_context(), expected);
}

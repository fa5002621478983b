//! The headers of a trace context arrive as they were sent, and nothing makes one up on the way.

use bytes::Bytes;
use kombu_core::{CarryTrace, Exchange, FieldValue, Queue, TraceContext};

use super::{from_inbox, to_inbox};
use crate::Broker;
use crate::expect::collect_one;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACESTATE: &str = "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE";

fn sent() -> Option<TraceContext> {
    let sent = TraceContext::parse(TRACEPARENT, Some(TRACESTATE));
    assert!(sent.is_some());
    sent
}

/// To a consumer, and through a single get.
pub async fn a_trace_context_arrives_unchanged(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let publish = async || {
        let publish = producer.publish_text("traced");
        let publish = publish.header("traceparent", TRACEPARENT);
        publish.header("tracestate", TRACESTATE).await.unwrap();
    };
    publish().await;
    let got = from_inbox(&connection).await;
    let mut consumer = connection.consumer(&Queue::new("inbox")).await.unwrap();
    publish().await;
    for delivery in [got, collect_one(&mut consumer).await] {
        assert_eq!(delivery.trace_context(), sent());
        for (name, value) in [("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)] {
            assert_eq!(delivery.headers().get(name), Some(&value.into()), "{name}");
        }
        assert_eq!(delivery.headers().len(), 2, "{:?}", delivery.headers());
        delivery.ack().await.unwrap();
    }
}

/// As some publishers write them. They stay bytes.
pub async fn a_trace_context_in_bytes_is_read_too(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let traceparent = FieldValue::Bytes(Bytes::from_static(TRACEPARENT.as_bytes()));
    let tracestate = FieldValue::Bytes(Bytes::from_static(TRACESTATE.as_bytes()));
    let publish = producer.publish_text("traced");
    let publish = publish.header("traceparent", &traceparent);
    publish.header("tracestate", &tracestate).await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.trace_context(), sent());
    assert_eq!(delivery.headers().get("traceparent"), Some(&traceparent));
    assert_eq!(delivery.headers().get("tracestate"), Some(&tracestate));
    delivery.ack().await.unwrap();
}

/// What isn't a context for us may be one for somebody behind us.
pub async fn trace_headers_that_say_nothing_to_us_arrive_unchanged(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let later = format!("cc{}-what.comes/later", &TRACEPARENT[2..]);
    for (traceparent, tracestate, context) in [
        (
            later.as_str(),
            "Not A State",
            TraceContext::parse(TRACEPARENT, None),
        ),
        ("not a parent", TRACESTATE, None),
    ] {
        let publish = producer.publish_text("odd");
        let publish = publish.header("traceparent", traceparent);
        publish.header("tracestate", tracestate).await.unwrap();
        let delivery = from_inbox(&connection).await;
        assert_eq!(delivery.trace_context(), context);
        for (name, value) in [("traceparent", traceparent), ("tracestate", tracestate)] {
            assert_eq!(delivery.headers().get(name), Some(&value.into()), "{name}");
        }
        delivery.ack().await.unwrap();
    }
}

/// Outside of any scope, whatever carries contexts.
pub async fn a_message_without_a_trace_context_has_none(broker: &Broker) {
    let connection = broker.connection().intercept(CarryTrace::default());
    let connection = connection.await.unwrap();
    let producer = to_inbox(&connection).await;
    producer.publish_text("bare").await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.trace_context(), None);
    assert!(delivery.headers().is_empty(), "{:?}", delivery.headers());
    delivery.ack().await.unwrap();
    let lone = producer.publish_text("lone");
    lone.header("tracestate", TRACESTATE).await.unwrap();
    let delivery = from_inbox(&connection).await;
    assert_eq!(delivery.trace_context(), None, "a tracestate alone");
    delivery.ack().await.unwrap();
}

/// From the scope of one program to another one, which has no interceptor.
pub async fn the_trace_context_of_a_scope_arrives(broker: &Broker) {
    let connection = broker.connection().intercept(CarryTrace::default());
    let connection = connection.await.unwrap();
    let producer = to_inbox(&connection).await;
    let publish = async { producer.publish_text("traced").await.unwrap() };
    sent().unwrap().scope(publish).await;
    let other = broker.connect().await;
    let delivery = from_inbox(&other).await;
    assert_eq!(delivery.trace_context(), sent());
    delivery.ack().await.unwrap();
}

/// A trace forks where its message does.
pub async fn every_copy_of_a_message_has_its_trace_context(broker: &Broker) {
    let connection = broker.connect().await;
    let news = Exchange::fanout("news");
    for queue in ["one", "two"] {
        let queue = Queue::new(queue).bind(&news, "");
        connection.declare_queue(&queue).await.unwrap();
    }
    let producer = connection.producer(&news).await.unwrap();
    let publish = producer.publish_text("traced");
    let publish = publish.header("traceparent", TRACEPARENT);
    publish.header("tracestate", TRACESTATE).await.unwrap();
    for queue in ["one", "two"] {
        let delivery = connection.get(queue).await.unwrap().unwrap();
        assert_eq!(delivery.trace_context(), sent(), "{queue}");
        delivery.ack().await.unwrap();
    }
}

/// Another attempt belongs to the same trace.
pub async fn a_message_that_comes_again_keeps_its_trace_context(broker: &Broker) {
    let connection = broker.connect().await;
    let producer = to_inbox(&connection).await;
    let mut consumer = connection.consumer(&Queue::new("inbox")).await.unwrap();
    let publish = producer.publish_text("traced");
    let publish = publish.header("traceparent", TRACEPARENT);
    publish.header("tracestate", TRACESTATE).await.unwrap();
    collect_one(&mut consumer).await.release().await.unwrap();
    let released = collect_one(&mut consumer).await;
    assert_eq!(released.trace_context(), sent());
    released.retry().await.unwrap();
    let retried = collect_one(&mut consumer).await;
    assert_eq!(retried.trace_context(), sent());
    retried.ack().await.unwrap();
}

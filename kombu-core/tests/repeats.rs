//! Publishes whose answers are lost, on brokers that know a repeat for a while only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use kombu::driver::{self, Confirm, Layer, Op, Publisher, SessionLayer};
use kombu::{Connection, ErrorKind, Event, Exchange, Faults, Queue, RetryPolicy};
use kombu_core::message::Envelope;

/// How long the broker knows a message again.
const KNOWN: Duration = Duration::from_secs(12);

struct Forgetful;

impl Layer for Forgetful {
    fn session(&self, _: &dyn driver::Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Forgetful)
    }
}

impl SessionLayer for Forgetful {
    fn publisher(&self, next: Arc<dyn Publisher>) -> Arc<dyn Publisher> {
        Arc::new(ForgetfulPublisher(next))
    }
}

struct ForgetfulPublisher(Arc<dyn Publisher>);

impl Publisher for ForgetfulPublisher {
    fn publish(&self, envelope: &Envelope) -> Op<kombu::Result<Confirm>> {
        self.0.publish(envelope)
    }

    fn repeats_within(&self) -> Option<Duration> {
        Some(KNOWN)
    }
}

#[tokio::test(start_paused = true)]
async fn a_publish_is_not_repeated_when_the_broker_would_not_know_it_any_more() {
    for (away, is_repeated) in [(5, true), (20, false)] {
        let faults = Faults::default();
        let connection = Connection::builder(kombu::registry())
            .url(format!("memory://repeats-{away}"))
            .retry(RetryPolicy::default().longest_pause(Duration::from_secs(1)))
            .layer(Forgetful)
            .layer(faults.clone())
            .await
            .unwrap();
        let mut events = connection.events();
        connection.declare_queue(&Queue::new("q")).await.unwrap();
        let open = connection.producer(Exchange::default()).routing_key("q");
        let producer = open.await.unwrap();
        faults.lose_replies(1);
        let receipt = producer.publish(&1).send().await.unwrap();
        faults.outage(true);
        tokio::time::sleep(Duration::from_secs(away)).await;
        faults.outage(false);
        while !matches!(events.next().await, Some(Event::Restored { .. })) {}
        let answer = receipt.await;
        if is_repeated {
            assert!(answer.unwrap().resent);
            continue;
        }
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
        assert!(error.may_have_been_stored(), "{error}");
        // It was.
        assert_eq!(connection.purge("q").await.unwrap(), 1);
        // What is published from then on is as any other.
        producer.publish(&2).await.unwrap();
    }
}

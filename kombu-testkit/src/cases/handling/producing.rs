//! Handlers that publish.

use kombu_core::handler::{Payload, Router, State};
use kombu_core::{Message, Producer, Queue, Result};

use super::{Running, until_empty};
use crate::Broker;
use crate::cases::producer_to;
use crate::expect::collect_one;

/// A component that consumes and produces: what a handler publishes is with the broker before its message is acked.
pub async fn a_handler_publishes_what_it_makes(broker: &Broker) {
    async fn double(Payload(number): Payload<i64>, State(doubles): State<Producer>) -> Result<()> {
        doubles.publish(&(number * 2)).await.map(drop)
    }
    let connection = broker.connect().await;
    let mut doubled = connection.consumer(&Queue::new("doubled")).await.unwrap();
    let router = Router::new().fallback(double);
    let router = router.with_state(producer_to(&connection, "doubled").await);
    let _running = Running::serving(&connection, &Queue::new("numbers"), router).await;
    let producer = producer_to(&connection, "numbers").await;
    for number in 1..=3_i64 {
        producer.publish(&number).await.unwrap();
        let delivery = collect_one(&mut doubled).await;
        assert_eq!(delivery.decode::<i64>().unwrap(), number * 2);
        delivery.ack().await.unwrap();
    }
    until_empty(&connection, "numbers").await;
}

/// As it came, to somebody else.
pub async fn a_handler_forwards_its_message(broker: &Broker) {
    let connection = broker.connect().await;
    let mut copies = connection.consumer(&Queue::new("copies")).await.unwrap();
    let forwarding = producer_to(&connection, "copies").await;
    let forward = async move |message: Message| forwarding.forward(&message).await.map(drop);
    let router = Router::new().fallback(forward);
    let _running = Running::serving(&connection, &Queue::new("numbers"), router).await;
    let producer = producer_to(&connection, "numbers").await;
    producer.publish(&1).header("tenant", "7").await.unwrap();
    let copy = collect_one(&mut copies).await;
    assert_eq!(
        (copy.header("tenant"), copy.body().as_ref()),
        (Some("7"), &b"1"[..])
    );
    copy.ack().await.unwrap();
    until_empty(&connection, "numbers").await;
}

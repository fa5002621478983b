use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kombu_core::declare::{DeliveryMode, Exchange, Queue};
use kombu_core::{Connection, Delivery, Error, ErrorKind, Name, Producer, Result, Settling};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::freedoms;
use super::sequence::{Names, Operation, Publish, Sequence, Step};
use crate::Broker;

/// A queue that nobody publishes to.
const EMPTY: &str = "oracle-empty";

/// What a user sees of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Observed {
    pub(super) answer: Value,
    /// Ready messages, by queue; queues that aren't there have none.
    pub(super) counts: BTreeMap<Name, u64>,
    /// The queue that a message went back to, and which of the two sessions gave it back.
    pub(super) given_back: Option<(Name, usize)>,
}

/// Two connections to a broker, for one sequence: on AMQP, each refusal costs a channel.
pub(super) struct User<'a> {
    broker: &'a Broker,
    connections: [Connection; 2],
    producers: [Producer; 2],
}

impl<'a> User<'a> {
    pub(super) async fn new(broker: &'a Broker) -> Self {
        let connections = [broker.connect().await, broker.connect().await];
        let empty = Queue::new(EMPTY);
        connections[0].declare_queue(&empty).await.unwrap();
        let producers = [
            producer(&connections[0]).await,
            producer(&connections[1]).await,
        ];
        User {
            broker,
            connections,
            producers,
        }
    }

    /// Carries out a sequence, and observes every step. Afterwards nothing of it is left.
    pub(super) async fn observe(self, sequence: &Sequence, names: &Names) -> Vec<Observed> {
        let mut session = Session::new(&self, names);
        let mut all = Vec::with_capacity(sequence.0.len());
        for step in &sequence.0 {
            let answer = session.perform(step).await;
            let counts = session.counts().await;
            all.push(session.observed(answer, counts));
        }
        session.clean_up().await;
        self.close().await;
        all
    }

    /// The same on a broker that shows late what was done: it has `patience` to show what was `expected`. Ends with the
    /// first step that differs.
    pub(super) async fn follow(
        self,
        sequence: &Sequence,
        names: &Names,
        expected: &[Observed],
        patience: Duration,
    ) -> Vec<Observed> {
        let mut session = Session::new(&self, names);
        let mut may_mark = false;
        let mut all = Vec::with_capacity(sequence.0.len());
        for (step, expected) in sequence.0.iter().zip(expected) {
            let mut answer = session.perform(step).await;
            may_mark |= freedoms::may_mark(self.broker, step);
            if may_mark {
                freedoms::forgive_marks(&expected.answer, &mut answer);
            }
            let counts = session.counts_like(&expected.counts, patience).await;
            let observed = session.observed(answer, counts);
            let differs = observed != *expected;
            all.push(observed);
            if differs {
                break;
            }
        }
        session.clean_up().await;
        self.close().await;
        all
    }

    async fn close(self) {
        for connection in self.connections {
            connection.close().await.unwrap();
        }
    }
}

async fn producer(connection: &Connection) -> Producer {
    connection.producer(Exchange::default()).await.unwrap()
}

/// One sequence under way.
struct Session<'a> {
    user: &'a User<'a>,
    names: &'a Names,
    /// With the number of the connection that they came over.
    held: Vec<(usize, Delivery)>,
    /// By the last step.
    given_back: Option<(Name, usize)>,
    published: usize,
}

impl<'a> Session<'a> {
    fn new(user: &'a User<'a>, names: &'a Names) -> Self {
        Session {
            user,
            names,
            held: Vec::new(),
            given_back: None,
            published: 0,
        }
    }

    fn observed(&mut self, answer: Value, counts: BTreeMap<Name, u64>) -> Observed {
        Observed {
            answer,
            counts,
            given_back: self.given_back.take(),
        }
    }

    async fn perform(&mut self, step: &Step) -> Value {
        let session = usize::from(step.elsewhere);
        let connection = &self.user.connections[session];
        let producer = &self.user.producers[session];
        match &step.operation {
            Operation::DeclareExchange(exchange) => {
                told(connection.declare_exchange(exchange).await)
            }
            // The count may be late.
            Operation::DeclareQueue(queue) => told(connection.declare_queue(queue).await.map(drop)),
            Operation::BindQueue(link) => told(
                connection
                    .bind_queue(&link.destination, &link.binding())
                    .await,
            ),
            Operation::BindExchange(link) => told(
                connection
                    .bind_exchange(&link.destination, &link.binding())
                    .await,
            ),
            Operation::UnbindQueue(link) => told(
                connection
                    .unbind_queue(&link.destination, &link.binding())
                    .await,
            ),
            Operation::UnbindExchange(link) => told(
                connection
                    .unbind_exchange(&link.destination, &link.binding())
                    .await,
            ),
            Operation::DeleteExchange {
                name,
                if_unused: false,
            } => told(connection.delete_exchange(name).await),
            Operation::DeleteExchange {
                name,
                if_unused: true,
            } => told(connection.delete_unused_exchange(name).await),
            Operation::DeleteQueue {
                name,
                if_empty: false,
            } => told(connection.delete_queue(name).await),
            Operation::DeleteQueue {
                name,
                if_empty: true,
            } => told(connection.delete_queue(name).if_empty().await),
            Operation::Purge(name) => told(connection.purge(name).await),
            Operation::Publish(publish) => self.publish(producer, publish).await,
            Operation::Get(name) => match connection.get(name).await {
                Ok(Some(delivery)) => {
                    let seen = seen(&delivery);
                    self.held.push((session, delivery));
                    seen
                }
                Ok(None) => Value::Null,
                Err(error) => refused(&error),
            },
            Operation::Ack(held) => self.settle(*held, Delivery::ack).await,
            Operation::Release(held) => {
                let releases = self.index(*held).map(|index| &self.held[index]);
                self.given_back =
                    releases.map(|(session, delivery)| (delivery.queue().clone(), *session));
                self.settle(*held, Delivery::release).await
            }
            Operation::Reject(held) => self.settle(*held, Delivery::reject).await,
            Operation::Drain(name) => drain(connection, name).await,
        }
    }

    async fn publish(&mut self, producer: &Producer, publish: &Publish) -> Value {
        let number = self.published.to_string();
        self.published += 1;
        let body = format!("{number:.<size$}", size = publish.size);
        let exchange = exchange(&publish.exchange);
        let mut message = producer
            .publish_bytes(body)
            .exchange(&exchange)
            .routing_key(&publish.key)
            .message_id(number);
        for (name, value) in &publish.headers {
            message = message.header(name, value.clone());
        }
        if let Some(priority) = publish.priority {
            message = message.priority(priority);
        }
        if let Some(millis) = publish.expiration {
            message = message.expiration(Duration::from_millis(millis));
        }
        if publish.transient {
            message = message.delivery_mode(DeliveryMode::Transient);
        }
        let message = match publish.mandatory {
            true => message.mandatory(),
            false => message.allow_unroutable(),
        };
        told(message.await.map(|published| published.routed))
    }

    async fn settle(&mut self, held: usize, settle: fn(Delivery) -> Settling) -> Value {
        let Some(index) = self.index(held) else {
            return Value::Null;
        };
        let (session, delivery) = self.held.remove(index);
        let answer = told(settle(delivery).confirmed().await);
        settled(&self.user.connections[session]).await;
        answer
    }

    /// One of those that are held.
    fn index(&self, held: usize) -> Option<usize> {
        held.checked_rem(self.held.len())
    }

    async fn counts(&self) -> BTreeMap<Name, u64> {
        let mut counts = BTreeMap::new();
        for queue in &self.names.queues {
            if let Some(count) = self.count(queue).await {
                counts.insert(queue.clone(), count);
            }
        }
        counts
    }

    /// The counts as soon as they are as expected, or those that are there when patience is over.
    async fn counts_like(
        &self,
        expected: &BTreeMap<Name, u64>,
        patience: Duration,
    ) -> BTreeMap<Name, u64> {
        let begin = Instant::now();
        let mut counts = BTreeMap::new();
        for (queue, expected) in expected {
            let found = loop {
                let found = self.count(queue).await;
                if found == Some(*expected) || begin.elapsed() > patience {
                    break found;
                }
            };
            counts.extend(found.map(|count| (queue.clone(), count)));
        }
        counts
    }

    async fn count(&self, queue: &Name) -> Option<u64> {
        for connection in &self.user.connections {
            match connection.queue_info(queue).await {
                Ok(info) => return Some(info.ready),
                // It is exclusive, and the other one's.
                Err(error) if error.kind() == ErrorKind::ResourceLocked => {}
                Err(_) => return None,
            }
        }
        None
    }

    async fn clean_up(self) {
        for (session, delivery) in self.held {
            delivery.release().confirmed().await.unwrap();
            settled(&self.user.connections[session]).await;
        }
        for connection in &self.user.connections {
            for queue in &self.names.queues {
                match connection.delete_queue(queue).await {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ResourceLocked => {}
                    Err(error) => panic!("nothing must be left of a sequence: {error}"),
                }
            }
        }
        for exchange in &self.names.exchanges {
            self.user.connections[0]
                .delete_exchange(exchange)
                .await
                .unwrap();
        }
    }
}

/// Publishing says which exchange, and whether it has to be routed, so its kind says nothing.
fn exchange(name: &Name) -> Exchange {
    match name.is_empty() {
        true => Exchange::default(),
        false => Exchange::fanout(name),
    }
}

/// Gets have a channel on AMQP, and so have the settles of what they answered: a get that is answered says that the
/// broker has those before it.
async fn settled(connection: &Connection) {
    let nothing = connection.get(EMPTY).await.unwrap();
    assert!(nothing.is_none());
}

async fn drain(connection: &Connection, queue: &Name) -> Value {
    let mut all = Vec::new();
    loop {
        match connection.get(queue).await {
            Ok(Some(delivery)) => {
                all.push(seen(&delivery));
                delivery.ack().confirmed().await.unwrap();
            }
            Ok(None) => return Value::Array(all),
            Err(error) => {
                all.push(refused(&error));
                return Value::Array(all);
            }
        }
    }
}

fn told<T: Serialize>(answer: Result<T>) -> Value {
    match answer {
        Ok(value) => json!({ "ok": value }),
        Err(error) => refused(&error),
    }
}

fn refused(error: &Error) -> Value {
    json!({ "refused": format!("{:?}", error.kind()), "code": error.code() })
}

/// All of a message that its sender and its way through the broker decide.
fn seen(delivery: &Delivery) -> Value {
    let mut headers = serde_json::to_value(delivery.headers()).unwrap();
    freedoms::take_out(&mut headers);
    json!({
        "body": String::from_utf8_lossy(delivery.body()),
        "queue": delivery.queue(),
        "exchange": delivery.exchange(),
        "key": delivery.routing_key(),
        "id": delivery.message_id(),
        "priority": delivery.priority(),
        "expiration": delivery.expiration(),
        "persistent": delivery.delivery_mode() == DeliveryMode::Persistent,
        "redelivered": delivery.redelivered(),
        "attempt": delivery.attempt(),
        "headers": headers,
    })
}

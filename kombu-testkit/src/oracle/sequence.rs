use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use kombu_core::declare::{Binding, Exchange, Overflow, Queue};
use kombu_core::{FieldTable, FieldValue, Name};
use serde::{Deserialize, Serialize};

use super::freedoms;

/// How many queues there are, and what their names have before their number, which has one digit.
pub(super) const QUEUES: usize = 4;
pub(super) const QUEUE: &str = "-jobs";

/// Messages either die at once or outlive every test: nothing depends on how fast a machine is.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// Keys and patterns alike: the odd ones among them are the interesting ones.
const ODD_KEYS: [&str; 12] = [
    "b", "a.b.c", "b.a", ".", "a..b", "*", "a.*", "a.#", "#.b", "*.b", "a.#.b", "#.#",
];
/// Few, so that bindings and messages meet.
const KEYS: [&str; 4] = ["", "a", "a.b", "#"];

/// What a user does, one operation after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequence(pub Vec<Step>);

/// An operation, and which of two connections carries it out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Step {
    /// What is done.
    #[serde(flatten)]
    pub operation: Operation,
    /// By the second connection.
    #[serde(default, skip_serializing_if = "is_default")]
    pub elsewhere: bool,
}

/// One call of a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(missing_docs)] // the names of calls of a connection
pub enum Operation {
    DeclareExchange(Exchange),
    DeclareQueue(Queue),
    BindQueue(Link),
    BindExchange(Link),
    UnbindQueue(Link),
    UnbindExchange(Link),
    DeleteExchange {
        name: Name,
        #[serde(default, skip_serializing_if = "is_default")]
        if_unused: bool,
    },
    DeleteQueue {
        name: Name,
        #[serde(default, skip_serializing_if = "is_default")]
        if_empty: bool,
    },
    Purge(Name),
    Publish(Publish),
    /// What it answers is held until it is settled.
    Get(Name),
    /// The number says which of those that are held, counted round and round.
    Ack(usize),
    Release(usize),
    Reject(usize),
    /// Gets and acks all that a queue has.
    Drain(Name),
}

/// A binding, of a queue or of an exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)] // the terms of a binding
pub struct Link {
    pub source: Name,
    pub destination: Name,
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: Name,
    #[serde(default, skip_serializing_if = "is_default")]
    pub arguments: FieldTable,
}

impl Link {
    pub(super) fn binding(&self) -> Binding {
        let mut binding = Binding::new(Exchange::direct(&self.source).passive(), &self.key);
        for (name, value) in &self.arguments {
            binding = binding.argument(name, value.clone());
        }
        binding
    }
}

/// A message, and where it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs)] // the terms of a message
pub struct Publish {
    pub exchange: Name,
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: Name,
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: FieldTable,
    /// How long the body is at least, in bytes; it begins with the number of the publish.
    #[serde(default, skip_serializing_if = "is_default")]
    pub size: usize,
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Option<u8>,
    /// In milliseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expiration: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mandatory: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub transient: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl fmt::Display for Sequence {
    /// One line of JSON for each step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let line = serde_json::to_string(step).map_err(|_| fmt::Error)?;
            writeln!(f, "{index:3} {line}")?;
        }
        Ok(())
    }
}

impl Sequence {
    /// The sequence of this seed: always the same, and with names that no other seed's has.
    pub fn generate(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut generator = Generator {
            rejects: rng.bool(),
            rng,
            names: Names::of(seed),
            bound: Vec::new(),
        };
        let mut sequence = generator.sequence();
        freedoms::leave_out(&mut sequence);
        sequence
    }
}

/// What the sequence of a seed declares.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) queues: Vec<Name>,
    pub(super) exchanges: Vec<Name>,
    /// Nobody declares it.
    pub(super) missing: Name,
}

impl Names {
    pub(super) fn of(seed: u64) -> Self {
        let name = |thing: &str, number: usize| Name::from(format!("oracle-{seed}{thing}{number}"));
        Names {
            queues: (0..QUEUES).map(|number| name(QUEUE, number)).collect(),
            exchanges: (0..4).map(|number| name("-exchange", number)).collect(),
            missing: name("-missing", 0),
        }
    }
}

struct Generator {
    rng: Rng,
    names: Names,
    /// What was bound, and whether it is a queue.
    bound: Vec<(Link, bool)>,
    /// Whether messages that somebody rejects are the only ones to die: else rejections may have to be
    /// [left out](freedoms::leave_out).
    rejects: bool,
}

impl Generator {
    fn sequence(&mut self) -> Sequence {
        let mut operations = Vec::new();
        for name in self.names.exchanges.clone() {
            operations.push(Operation::DeclareExchange(self.exchange(name)));
        }
        for name in self.names.queues.clone() {
            operations.push(Operation::DeclareQueue(self.queue(name)));
        }
        for _ in 0..self.rng.usize(3..12) {
            operations.push(self.bind());
        }
        for _ in 0..self.rng.usize(10..60) {
            operations.push(self.operation());
        }
        let queues = self.names.queues.iter().cloned();
        operations.extend(queues.map(Operation::Drain));
        let steps = operations.into_iter().map(|operation| Step {
            operation,
            elsewhere: self.rng.u8(..100) < 8,
        });
        Sequence(steps.collect())
    }

    fn operation(&mut self) -> Operation {
        match self.rng.u8(..100) {
            0..40 => Operation::Publish(self.publish()),
            40..62 => Operation::Get(self.any_queue()),
            62..64 => Operation::Ack(self.rng.usize(..8)),
            64..69 => Operation::Release(self.rng.usize(..8)),
            69..81 => Operation::Reject(self.rng.usize(..8)),
            81..85 => self.bind(),
            85..88 => self.unbind(),
            88..92 => {
                let name = self.own_queue();
                Operation::DeclareQueue(self.queue(name))
            }
            92..94 => {
                let name = self.own_exchange();
                Operation::DeclareExchange(self.exchange(name))
            }
            94..96 => Operation::Purge(self.any_queue()),
            96..98 => Operation::DeleteQueue {
                name: self.any_queue(),
                if_empty: self.chance(50),
            },
            _ => Operation::DeleteExchange {
                name: self.own_exchange(),
                if_unused: self.chance(50),
            },
        }
    }

    fn exchange(&mut self, name: Name) -> Exchange {
        let mut exchange = match self.rng.u8(..4) {
            0 => Exchange::direct(name),
            1 => Exchange::fanout(name),
            2 => Exchange::topic(name),
            _ => Exchange::headers(name),
        };
        if self.chance(30) {
            exchange = exchange.alternate_exchange(self.any_exchange_but_default());
        }
        if self.chance(8) {
            exchange = exchange.internal(true);
        }
        if self.chance(8) {
            exchange = exchange.auto_delete(true);
        }
        if self.chance(8) {
            exchange = exchange.durable(false);
        }
        exchange
    }

    fn queue(&mut self, name: Name) -> Queue {
        let mut queue = Queue::new(name);
        if self.chance(80) {
            let (exchange, key) = self.address();
            queue = queue.dead_letter_exchange(exchange);
            if self.chance(70) {
                queue = queue.dead_letter_routing_key(key);
            }
        }
        if self.chance(30) {
            queue = queue.max_length(self.rng.u64(..3));
        }
        if self.chance(15) {
            queue = queue.max_length_bytes(self.rng.u64(..40));
        }
        if self.rejects || self.chance(25) {
            queue = queue.overflow(match self.rejects || self.chance(60) {
                true => Overflow::RejectPublish,
                false => Overflow::DropHead,
            });
        }
        if self.chance(25) {
            queue = queue.message_ttl(self.time_to_live());
        }
        if self.chance(20) {
            // With more, neighbours share a level on Redis.
            queue = queue.max_priority(self.rng.u8(1..4));
        }
        if self.chance(5) {
            queue = queue.expires(LONG);
        }
        if self.chance(5) {
            queue = queue.single_active_consumer(true);
        }
        if self.chance(5) {
            queue = queue.durable(false);
        }
        if self.chance(5) {
            queue = queue.auto_delete(true);
        }
        if self.chance(5) {
            queue = queue.exclusive(true);
        }
        queue
    }

    fn bind(&mut self) -> Operation {
        let is_queue = self.chance(65);
        let link = match is_queue {
            true => self.link_to_queue(),
            false => self.link_to_exchange(),
        };
        self.bound.push((link.clone(), is_queue));
        match is_queue {
            true => Operation::BindQueue(link),
            false => Operation::BindExchange(link),
        }
    }

    /// Most often of what was bound, since nothing else makes a difference.
    fn unbind(&mut self) -> Operation {
        match self.bound() {
            Some((link, true)) if self.chance(90) => Operation::UnbindQueue(link),
            Some((link, false)) if self.chance(90) => Operation::UnbindExchange(link),
            _ => Operation::UnbindQueue(self.link_to_queue()),
        }
    }

    fn bound(&mut self) -> Option<(Link, bool)> {
        self.rng.choice(&self.bound).cloned()
    }

    fn link_to_queue(&mut self) -> Link {
        let destination = self.any_queue();
        self.link(destination)
    }

    fn link_to_exchange(&mut self) -> Link {
        // Between two exchanges that every broker has, it would stay when the sequence is over.
        let destination = self.own_exchange();
        self.link(destination)
    }

    fn link(&mut self, destination: Name) -> Link {
        let mut arguments = FieldTable::new();
        if self.chance(35) {
            arguments = self.headers();
            if self.chance(70) {
                let how = ["all", "any", "all-with-x", "any-with-x", "some"];
                arguments.insert("x-match", self.one_of(&how));
            }
        }
        Link {
            source: self.any_exchange_but_default(),
            destination,
            key: self.key(),
            arguments,
        }
    }

    fn publish(&mut self) -> Publish {
        let (exchange, key) = self.address();
        Publish {
            exchange,
            key,
            headers: match self.chance(35) {
                true => self.headers(),
                false => FieldTable::new(),
            },
            size: self.rng.usize(..16),
            priority: self.chance(30).then(|| self.rng.u8(..6)),
            expiration: self
                .chance(20)
                .then(|| self.time_to_live().as_millis() as u64),
            mandatory: self.chance(20),
            transient: self.chance(10),
        }
    }

    /// Few names and few values, so that bindings and messages meet.
    fn headers(&mut self) -> FieldTable {
        let mut headers = FieldTable::new();
        for name in ["a", "b", "x-c"] {
            if self.chance(45) {
                headers.insert(
                    name,
                    match self.rng.u8(..6) {
                        0 | 1 => FieldValue::I64(1),
                        2 => FieldValue::F64(1.5),
                        3 => FieldValue::from("1"),
                        4 => FieldValue::Bool(true),
                        _ => FieldValue::Void,
                    },
                );
            }
        }
        headers
    }

    /// Where a message goes: most often to a queue, or by a binding that is there, or was.
    fn address(&mut self) -> (Name, Name) {
        match (self.rng.u8(..100), self.bound()) {
            (0..40, _) => (Name::EMPTY, self.any_queue()),
            (40..70, Some((link, _))) => (link.source, link.key),
            _ => (self.any_exchange(), self.key()),
        }
    }

    fn any_queue(&mut self) -> Name {
        match self.chance(2) {
            true => self.names.missing.clone(),
            false => self.own_queue(),
        }
    }

    fn own_queue(&mut self) -> Name {
        let index = self.rng.usize(..self.names.queues.len());
        self.names.queues[index].clone()
    }

    fn own_exchange(&mut self) -> Name {
        let index = self.rng.usize(..self.names.exchanges.len());
        self.names.exchanges[index].clone()
    }

    fn any_exchange(&mut self) -> Name {
        match self.chance(5) {
            true => Name::EMPTY,
            false => self.any_exchange_but_default(),
        }
    }

    fn any_exchange_but_default(&mut self) -> Name {
        match self.rng.u8(..100) {
            0..3 => self.names.missing.clone(),
            3..10 => {
                Name::from(self.one_of(&["amq.direct", "amq.fanout", "amq.topic", "amq.match"]))
            }
            _ => self.own_exchange(),
        }
    }

    fn key(&mut self) -> Name {
        match self.rng.u8(..100) {
            0..25 => self.any_queue(),
            25..45 => Name::from(self.one_of(&ODD_KEYS)),
            _ => Name::from(self.one_of(&KEYS)),
        }
    }

    fn time_to_live(&mut self) -> Duration {
        match self.rejects {
            true => LONG,
            false => [Duration::ZERO, LONG][self.rng.usize(..2)],
        }
    }

    fn one_of(&mut self, all: &[&'static str]) -> &'static str {
        all[self.rng.usize(..all.len())]
    }

    fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }
}

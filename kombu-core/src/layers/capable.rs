//! Refuses what a transport can neither do nor emulate, before anything is sent.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::declare::{DeclareMode, Exchange, ExchangeKind, Overflow, Queue, QueueType};
use crate::driver::{
    BoxFuture, Capabilities, Confirm, Connection, Destination, Feature, Layer, Op, Operation,
    Outcome, Publisher, Received, SessionLayer, Settle, Settlement, Subscription, Tag,
};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Content, Envelope};
use crate::name::Name;

/// The outermost layer of every connection: what comes through is something that the transport can do.
pub(crate) struct Capable;

impl Layer for Capable {
    fn session(&self, session: &dyn Connection) -> Arc<dyn SessionLayer> {
        Arc::new(Check {
            capabilities: session.capabilities(),
        })
    }
}

struct Check {
    capabilities: Capabilities,
}

impl Check {
    fn has_all(&self, features: &[Feature]) -> bool {
        features
            .iter()
            .all(|feature| self.capabilities.has(*feature))
    }
}

/// What a message can ask for.
const OF_MESSAGES: &[Feature] = &[
    Feature::MessageTtl,
    Feature::DelayedPublish,
    Feature::Immediate,
];
/// What a settle can ask for.
const OF_SETTLES: &[Feature] = &[Feature::DelayedRetry];

// Where nothing can be refused, nothing lies in between.
impl SessionLayer for Check {
    fn control<'a>(
        &'a self,
        operation: Operation<'a>,
        next: BoxFuture<'a, Result<()>>,
    ) -> BoxFuture<'a, Result<()>> {
        match check(&operation, &self.capabilities) {
            Ok(()) => next,
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn publisher(&self, next: Arc<dyn Publisher>) -> Arc<dyn Publisher> {
        if self.has_all(OF_MESSAGES) {
            return next;
        }
        Arc::new(CheckedPublisher {
            next,
            capabilities: self.capabilities,
        })
    }

    fn subscription(&self, next: Box<dyn Subscription>) -> Box<dyn Subscription> {
        if self.has_all(OF_SETTLES) {
            return next;
        }
        Box::new(CheckedSubscription {
            settler: self.settler(next.settler()),
            next,
        })
    }

    fn settler(&self, next: Arc<dyn Settle>) -> Arc<dyn Settle> {
        if self.has_all(OF_SETTLES) {
            return next;
        }
        Arc::new(CheckedSettler { next })
    }
}

/// Refuses what `operation` asks for that isn't there.
pub(crate) fn check(operation: &Operation<'_>, capabilities: &Capabilities) -> Result<()> {
    for need in needs(operation) {
        if let Some(problem) = need.problem(capabilities) {
            return Err(unsupported(&asking(operation), &problem));
        }
    }
    match arguments(operation, capabilities).first() {
        Some(problem) => Err(unsupported(&asking(operation), problem)),
        None => Ok(()),
    }
}

/// Arguments of a queue at which RabbitMQ does something and this transport nothing, in the words that errors and reports have. Others
/// are hints, or nobody's.
pub(crate) fn arguments(operation: &Operation<'_>, capabilities: &Capabilities) -> Vec<String> {
    let Operation::DeclareQueue(queue, DeclareMode::Ensure) = operation else {
        return Vec::new();
    };
    if capabilities.broker_arguments() {
        return Vec::new();
    }
    let asked = KNOWN_ARGUMENTS.iter().filter_map(|(name, done)| {
        let value = queue.arguments().get(name)?;
        (value.as_str() != Some(*done)).then_some((name, value))
    });
    asked
        .map(|(name, value)| {
            let value = value.as_str().unwrap_or(value.type_name());
            absent(format_args!("`{name}: {value}`"))
        })
        .collect()
}

/// Those, and what is done all the same.
const KNOWN_ARGUMENTS: [(&str, &str); 2] = [
    // The two types that are known are attributes, and not among the arguments.
    ("x-queue-type", ""),
    ("x-dead-letter-strategy", "at-most-once"),
];

/// What is kept with a declaration, and does nothing on this transport.
pub(crate) fn kept(operation: &Operation<'_>, capabilities: &Capabilities) -> Vec<String> {
    let mut kept = Vec::new();
    if capabilities.broker_arguments() {
        return kept;
    }
    let arguments = match operation {
        Operation::DeclareQueue(queue, DeclareMode::Ensure) => {
            if queue.get_queue_type() == Some(QueueType::Quorum) {
                kept.push(
                    "`type: quorum`; whether there are replicas is the broker's to say".to_owned(),
                );
            }
            queue.arguments()
        }
        // A program's own kinds may read them.
        Operation::DeclareExchange(exchange, DeclareMode::Ensure)
            if !matches!(exchange.kind(), ExchangeKind::Custom(_)) =>
        {
            exchange.arguments()
        }
        _ => return kept,
    };
    let is_known = |name: &str| KNOWN_ARGUMENTS.iter().any(|(known, _)| *known == name);
    let names = arguments.iter().map(|(name, _)| name.as_str());
    kept.extend(
        names
            .filter(|name| !is_known(name))
            .map(|name| format!("the argument `{name}`")),
    );
    kept
}

/// A feature that a declaration or a consumer asks of its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) feature: Feature,
    /// Up to which number, if it has one.
    up_to: Option<u8>,
}

impl Need {
    /// Why the transport can't, in the words that errors and reports have.
    pub(crate) fn problem(&self, capabilities: &Capabilities) -> Option<String> {
        let feature = self.feature;
        if !capabilities.has(feature) {
            return Some(absent(feature));
        }
        let highest = capabilities.max_priority();
        let asked = self.up_to.filter(|asked| *asked > highest)?;
        Some(format!(
            "{feature} up to {asked}, and this transport has them up to {highest}; ask for fewer, or use another \
             transport"
        ))
    }
}

/// What an operation asks for beyond what every transport has. With [`arguments`], this is the only list: what refuses at run time and the check
/// before it ([`Topology::check`](crate::Topology::check)) both ask here.
pub(crate) fn needs(operation: &Operation<'_>) -> Vec<Need> {
    let needed = match operation {
        // Verifying asks for the name only.
        Operation::DeclareExchange(declared, DeclareMode::Ensure) => of_exchange(declared),
        Operation::DeclareQueue(declared, DeclareMode::Ensure) => of_queue(declared),
        Operation::Bind(Destination::Exchange(_), _) => vec![(true, Feature::ExchangeBinding)],
        Operation::OpenSubscription(_, options) => vec![
            (options.exclusive, Feature::ExclusiveConsumer),
            (options.priority != 0, Feature::ConsumerPriority),
            (options.no_local.is_some(), Feature::NoLocal),
        ],
        _ => Vec::new(),
    };
    let up_to = |feature| match operation {
        Operation::DeclareQueue(queue, _) if feature == Feature::Priority => {
            queue.get_max_priority()
        }
        _ => None,
    };
    let asked = needed.into_iter().filter(|(is_asked, _)| *is_asked);
    asked
        .map(|(_, feature)| Need {
            feature,
            up_to: up_to(feature),
        })
        .collect()
}

/// Who asks, for messages to people.
pub(crate) fn asking(operation: &Operation<'_>) -> String {
    match operation {
        Operation::DeclareExchange(exchange, _) => format!("exchange `{}`", exchange.name()),
        Operation::DeclareQueue(queue, _) => format!("queue `{}`", queue.name()),
        Operation::Bind(Destination::Exchange(name), _) => format!("exchange `{name}`"),
        Operation::OpenSubscription(queues, _) => {
            let queues: Vec<String> = queues.iter().map(|name| format!("`{name}`")).collect();
            format!("the consumer of {}", queues.join(", "))
        }
        other => format!("{other:?}"),
    }
}

fn of_exchange(exchange: &Exchange) -> Vec<(bool, Feature)> {
    vec![
        (
            exchange.get_alternate_exchange().is_some(),
            Feature::AlternateExchange,
        ),
        (exchange.is_auto_delete(), Feature::AutoDelete),
        (!exchange.bindings().is_empty(), Feature::ExchangeBinding),
        (
            matches!(exchange.kind(), ExchangeKind::Custom(_)),
            Feature::CustomExchangeKind,
        ),
    ]
}

fn of_queue(queue: &Queue) -> Vec<(bool, Feature)> {
    vec![
        (queue.is_exclusive(), Feature::ExclusiveQueue),
        (
            queue.is_auto_delete() && !queue.is_exclusive(),
            Feature::AutoDelete,
        ),
        (queue.get_expires().is_some(), Feature::QueueExpiry),
        (queue.get_message_ttl().is_some(), Feature::QueueMessageTtl),
        (queue.get_max_length().is_some(), Feature::MaxLength),
        (
            queue.get_max_length_bytes().is_some(),
            Feature::MaxLengthBytes,
        ),
        (
            queue.get_overflow().is_some_and(Overflow::rejects),
            Feature::RejectPublish,
        ),
        (queue.get_max_priority().is_some(), Feature::Priority),
        (
            queue.get_dead_letter_exchange().is_some(),
            Feature::DeadLetter,
        ),
        (queue.get_max_deliveries().is_some(), Feature::MaxDeliveries),
        (
            queue.is_single_active_consumer(),
            Feature::SingleActiveConsumer,
        ),
    ]
}

fn message(content: &Content, capabilities: &Capabilities) -> Result<()> {
    let asked = [
        (content.expiration().is_some(), Feature::MessageTtl),
        (content.delay().is_some(), Feature::DelayedPublish),
        (content.immediate(), Feature::Immediate),
    ];
    match asked
        .into_iter()
        .find(|(is_asked, feature)| *is_asked && !capabilities.has(*feature))
    {
        Some((_, feature)) => Err(unsupported("the message", &absent(feature))),
        None => Ok(()),
    }
}

fn absent(what: impl fmt::Display) -> String {
    format!("{what}, which this transport doesn't have; leave it out, or use another transport")
}

fn unsupported(who: &str, problem: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{who} asks for {problem}"))
}

struct CheckedPublisher {
    next: Arc<dyn Publisher>,
    capabilities: Capabilities,
}

impl Publisher for CheckedPublisher {
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        match message(envelope, &self.capabilities) {
            Ok(()) => self.next.publish(envelope),
            Err(error) => Op::ready(Err(error)),
        }
    }

    fn repeats_within(&self) -> Option<Duration> {
        self.next.repeats_within()
    }

    fn together(&self, publish: &mut dyn FnMut()) {
        self.next.together(publish);
    }
}

struct CheckedSubscription {
    next: Box<dyn Subscription>,
    settler: Arc<dyn Settle>,
}

impl Stream for CheckedSubscription {
    type Item = Result<Received>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        Pin::new(&mut self.next).poll_next(context)
    }
}

impl Subscription for CheckedSubscription {
    fn settler(&self) -> Arc<dyn Settle> {
        self.settler.clone()
    }

    fn set_window(&self, window: u32) {
        self.next.set_window(window);
    }

    fn pause(&mut self, paused: bool) {
        self.next.pause(paused);
    }

    fn add(&mut self, queue: &Name) -> BoxFuture<'_, Result<u16>> {
        self.next.add(queue)
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        self.next.remove(queue)
    }

    fn cancel(self: Box<Self>) -> Op<Result<()>> {
        self.next.cancel()
    }
}

/// In front of a transport that can't delay a retry.
struct CheckedSettler {
    next: Arc<dyn Settle>,
}

impl Settle for CheckedSettler {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        if !matches!(outcome, Outcome::Retry { delay: Some(_) }) {
            return self.next.settle(tag, outcome);
        }
        // Refused, but not to be left with nobody: it goes back.
        drop(self.next.settle(tag, Outcome::Release));
        let problem = absent(Feature::DelayedRetry);
        Settlement::done(Err(unsupported("the retry", &problem)))
    }

    fn holds(&self, tag: Tag) -> bool {
        self.next.holds(tag)
    }
}

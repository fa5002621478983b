//! Refuses what a transport can neither do nor emulate, before anything is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;

use crate::declare::{DeclareMode, Exchange, ExchangeKind, Overflow, Queue};
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

/// What `operation` asks for that isn't there.
pub(crate) fn check(operation: &Operation<'_>, capabilities: &Capabilities) -> Result<()> {
    match operation {
        // Verifying asks for the name only.
        Operation::DeclareExchange(declared, DeclareMode::Ensure) => {
            exchange(declared, capabilities)
        }
        Operation::DeclareQueue(declared, DeclareMode::Ensure) => queue(declared, capabilities),
        Operation::Bind(Destination::Exchange(name), _) => {
            let needed = [(true, Feature::ExchangeBinding)];
            refuse(|| format!("exchange `{name}`"), needed, capabilities)
        }
        Operation::OpenSubscription(queues, options) => {
            let needed = [
                (options.exclusive, Feature::ExclusiveConsumer),
                (options.priority != 0, Feature::ConsumerPriority),
                (options.no_local.is_some(), Feature::NoLocal),
            ];
            let who = || format!("the consumer of {queues:?}");
            refuse(who, needed, capabilities)
        }
        _ => Ok(()),
    }
}

fn exchange(exchange: &Exchange, capabilities: &Capabilities) -> Result<()> {
    let needed = [
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
    ];
    refuse(
        || format!("exchange `{}`", exchange.name()),
        needed,
        capabilities,
    )
}

fn queue(queue: &Queue, capabilities: &Capabilities) -> Result<()> {
    let needed = [
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
    ];
    let who = || format!("queue `{}`", queue.name());
    refuse(who, needed, capabilities)?;
    match queue.get_max_priority() {
        Some(asked) if asked > capabilities.max_priority() => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "{} asks for {} up to {asked}, and this transport has them up to {}; ask for fewer, or use \
                 another transport",
                who(),
                Feature::Priority,
                capabilities.max_priority()
            ),
        )),
        _ => Ok(()),
    }
}

fn message(content: &Content, capabilities: &Capabilities) -> Result<()> {
    let needed = [
        (content.expiration().is_some(), Feature::MessageTtl),
        (content.delay().is_some(), Feature::DelayedPublish),
        (content.immediate(), Feature::Immediate),
    ];
    refuse(|| "the message".to_owned(), needed, capabilities)
}

fn refuse(
    who: impl Fn() -> String,
    needed: impl IntoIterator<Item = (bool, Feature)>,
    capabilities: &Capabilities,
) -> Result<()> {
    for (asked, feature) in needed {
        if asked && !capabilities.has(feature) {
            return Err(unsupported(&who(), feature));
        }
    }
    Ok(())
}

fn unsupported(who: &str, feature: Feature) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{who} asks for {feature}, which this transport doesn't have; leave it out, or use another transport"
        ),
    )
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
        Settlement::done(Err(unsupported("the retry", Feature::DelayedRetry)))
    }
}

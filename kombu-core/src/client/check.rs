//! What is refused before anything is sent, because the transport can neither do nor emulate it.

use crate::declare::{Exchange, ExchangeKind, Queue};
use crate::driver::{Capabilities, Feature};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn exchange(exchange: &Exchange, capabilities: &Capabilities) -> Result<()> {
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
    refuse("exchange", exchange.name(), needed, capabilities)
}

pub(super) fn queue(queue: &Queue, capabilities: &Capabilities) -> Result<()> {
    let needed = [
        (queue.is_exclusive(), Feature::ExclusiveQueue),
        (
            queue.is_auto_delete() && !queue.is_exclusive(),
            Feature::AutoDelete,
        ),
        (queue.get_expires().is_some(), Feature::QueueExpiry),
        (queue.get_message_ttl().is_some(), Feature::QueueMessageTtl),
        (
            queue.get_max_length().is_some() || queue.get_max_length_bytes().is_some(),
            Feature::MaxLength,
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
    refuse("queue", queue.name(), needed, capabilities)
}

fn refuse(
    what: &str,
    name: &str,
    needed: impl IntoIterator<Item = (bool, Feature)>,
    capabilities: &Capabilities,
) -> Result<()> {
    for (asked, feature) in needed {
        if asked && !capabilities.has(feature) {
            return Err(unsupported(&format!("{what} `{name}`"), feature));
        }
    }
    Ok(())
}

pub(super) fn unsupported(who: &str, feature: Feature) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{who} asks for {feature}, which this transport doesn't have; leave it out, or use another transport"
        ),
    )
}

use std::time::Duration;

use super::queue::Attributes;
use super::{Overflow, QueueType, duration};
use crate::field::FieldValue;

/// An attribute of a queue that RabbitMQ takes as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    QueueType,
    Expires,
    MessageTtl,
    MaxLength,
    MaxLengthBytes,
    Overflow,
    MaxPriority,
    DeadLetterExchange,
    DeadLetterRoutingKey,
    MaxDeliveries,
    SingleActiveConsumer,
}

impl Known {
    pub(super) const ALL: [Known; 11] = [
        Known::QueueType,
        Known::Expires,
        Known::MessageTtl,
        Known::MaxLength,
        Known::MaxLengthBytes,
        Known::Overflow,
        Known::MaxPriority,
        Known::DeadLetterExchange,
        Known::DeadLetterRoutingKey,
        Known::MaxDeliveries,
        Known::SingleActiveConsumer,
    ];

    pub(super) fn of_argument(name: &str) -> Option<Known> {
        Known::ALL
            .into_iter()
            .find(|known| known.argument() == name)
    }

    /// The name in kombu, which is the key in files and the setter.
    pub(super) fn attribute(self) -> &'static str {
        match self {
            Known::QueueType => "type",
            Known::Expires => "expires",
            Known::MessageTtl => "message_ttl",
            Known::MaxLength => "max_length",
            Known::MaxLengthBytes => "max_length_bytes",
            Known::Overflow => "overflow",
            Known::MaxPriority => "max_priority",
            Known::DeadLetterExchange => "dead_letter_exchange",
            Known::DeadLetterRoutingKey => "dead_letter_routing_key",
            Known::MaxDeliveries => "max_deliveries",
            Known::SingleActiveConsumer => "single_active_consumer",
        }
    }

    /// The name in RabbitMQ.
    pub(super) fn argument(self) -> &'static str {
        match self {
            Known::QueueType => "x-queue-type",
            Known::Expires => "x-expires",
            Known::MessageTtl => "x-message-ttl",
            Known::MaxLength => "x-max-length",
            Known::MaxLengthBytes => "x-max-length-bytes",
            Known::Overflow => "x-overflow",
            Known::MaxPriority => "x-max-priority",
            Known::DeadLetterExchange => "x-dead-letter-exchange",
            Known::DeadLetterRoutingKey => "x-dead-letter-routing-key",
            Known::MaxDeliveries => "x-delivery-limit",
            Known::SingleActiveConsumer => "x-single-active-consumer",
        }
    }

    /// What RabbitMQ takes, for messages to people.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Known::QueueType | Known::DeadLetterExchange | Known::DeadLetterRoutingKey => "text",
            Known::Overflow => "drop-head, reject-publish or reject-publish-dlx",
            Known::Expires | Known::MessageTtl => "an integer of milliseconds that isn't negative",
            Known::MaxLength | Known::MaxLengthBytes => "an integer that isn't negative",
            Known::MaxPriority => "an integer from 0 to 255",
            Known::MaxDeliveries => "an integer",
            Known::SingleActiveConsumer => "true or false",
        }
    }

    /// Whether RabbitMQ takes a value although no attribute can hold it: another type of queue, no limit.
    pub(super) fn is_passed_on(self, value: &FieldValue) -> bool {
        match self {
            Known::QueueType => value.as_str().is_some(),
            Known::MaxDeliveries => value.as_i64().is_some(),
            _ => false,
        }
    }

    /// The value as it goes to RabbitMQ.
    pub(super) fn get(self, queue: &Attributes) -> Option<FieldValue> {
        let millis = |time: Option<Duration>| time.map(duration::whole_millis).map(integer);
        match self {
            Known::QueueType => queue.queue_type.map(|value| value.as_str().into()),
            Known::Expires => millis(queue.expires),
            Known::MessageTtl => millis(queue.message_ttl),
            Known::MaxLength => queue.max_length.map(integer),
            Known::MaxLengthBytes => queue.max_length_bytes.map(integer),
            Known::Overflow => queue.overflow.map(|value| value.as_str().into()),
            Known::MaxPriority => queue.max_priority.map(|value| integer(value.into())),
            Known::DeadLetterExchange => queue.dead_letter_exchange.as_ref().map(Into::into),
            Known::DeadLetterRoutingKey => queue.dead_letter_routing_key.as_ref().map(Into::into),
            Known::MaxDeliveries => queue
                .max_deliveries
                .map(|value| integer(value.saturating_sub(1).into())),
            Known::SingleActiveConsumer => queue
                .single_active_consumer
                .then_some(FieldValue::Bool(true)),
        }
    }

    /// Takes over RabbitMQ's value; false if it isn't one that the attribute can hold.
    pub(super) fn set(self, queue: &mut Attributes, value: &FieldValue) -> bool {
        let number = || value.as_i64().and_then(|value| u64::try_from(value).ok());
        let name = || value.as_str().map(Into::into);
        match self {
            Known::QueueType => put(
                &mut queue.queue_type,
                value.as_str().and_then(QueueType::from_name),
            ),
            Known::Expires => put(&mut queue.expires, number().map(Duration::from_millis)),
            Known::MessageTtl => put(&mut queue.message_ttl, number().map(Duration::from_millis)),
            Known::MaxLength => put(&mut queue.max_length, number()),
            Known::MaxLengthBytes => put(&mut queue.max_length_bytes, number()),
            Known::Overflow => put(
                &mut queue.overflow,
                value.as_str().and_then(Overflow::from_name),
            ),
            Known::MaxPriority => put(
                &mut queue.max_priority,
                number().and_then(|number| number.try_into().ok()),
            ),
            Known::DeadLetterExchange => put(&mut queue.dead_letter_exchange, name()),
            Known::DeadLetterRoutingKey => put(&mut queue.dead_letter_routing_key, name()),
            Known::MaxDeliveries => put(
                &mut queue.max_deliveries,
                number().and_then(|number| number.checked_add(1)?.try_into().ok()),
            ),
            Known::SingleActiveConsumer => match value.as_bool() {
                Some(value) => {
                    queue.single_active_consumer = value;
                    true
                }
                None => false,
            },
        }
    }

    pub(super) fn clear(self, queue: &mut Attributes) {
        match self {
            Known::QueueType => queue.queue_type = None,
            Known::Expires => queue.expires = None,
            Known::MessageTtl => queue.message_ttl = None,
            Known::MaxLength => queue.max_length = None,
            Known::MaxLengthBytes => queue.max_length_bytes = None,
            Known::Overflow => queue.overflow = None,
            Known::MaxPriority => queue.max_priority = None,
            Known::DeadLetterExchange => queue.dead_letter_exchange = None,
            Known::DeadLetterRoutingKey => queue.dead_letter_routing_key = None,
            Known::MaxDeliveries => queue.max_deliveries = None,
            Known::SingleActiveConsumer => queue.single_active_consumer = false,
        }
    }
}

fn put<T>(attribute: &mut Option<T>, value: Option<T>) -> bool {
    let fits = value.is_some();
    if fits {
        *attribute = value;
    }
    fits
}

fn integer(value: u64) -> FieldValue {
    FieldValue::I64(i64::try_from(value).unwrap_or(i64::MAX))
}

use std::fmt;
use std::time::Duration;

/// A part of the messaging model that not every broker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// An exchange that takes what another one can't route.
    AlternateExchange,
    /// Bindings from exchange to exchange.
    ExchangeBinding,
    /// Exchange kinds beyond direct, fanout, topic and headers.
    CustomExchangeKind,
    /// Exchanges and queues that go away with their last binding or consumer.
    AutoDelete,
    /// Queues that belong to one connection.
    ExclusiveQueue,
    /// Queues that go away when nobody uses them for a while.
    QueueExpiry,
    /// Time to live per queue.
    QueueMessageTtl,
    /// Time to live per message.
    MessageTtl,
    /// Rejected messages are moved to another exchange, with `x-death`.
    DeadLetter,
    /// A limit on the number of messages in a queue, beyond which the oldest are dropped.
    MaxLength,
    /// A limit on the bytes of messages in a queue.
    MaxLengthBytes,
    /// A full queue refuses what is published instead of dropping its oldest messages.
    RejectPublish,
    /// Priorities within a queue.
    Priority,
    /// A limit on deliveries of one message.
    MaxDeliveries,
    /// One consumer at a time, the others wait.
    SingleActiveConsumer,
    /// A consumer that keeps others away from its queue.
    ExclusiveConsumer,
    /// Some consumers are served before others.
    ConsumerPriority,
    /// An exclusive consumer isn't given what its own connection publishes.
    NoLocal,
    /// Publishing only if a consumer is ready.
    Immediate,
    /// Publishing a message that becomes visible later.
    DelayedPublish,
    /// A retry that comes back after a delay.
    DelayedRetry,
}

impl Feature {
    /// Every feature, in the order in which they are listed here.
    pub const ALL: &[Feature] = &[
        Feature::AlternateExchange,
        Feature::ExchangeBinding,
        Feature::CustomExchangeKind,
        Feature::AutoDelete,
        Feature::ExclusiveQueue,
        Feature::QueueExpiry,
        Feature::QueueMessageTtl,
        Feature::MessageTtl,
        Feature::DeadLetter,
        Feature::MaxLength,
        Feature::MaxLengthBytes,
        Feature::RejectPublish,
        Feature::Priority,
        Feature::MaxDeliveries,
        Feature::SingleActiveConsumer,
        Feature::ExclusiveConsumer,
        Feature::ConsumerPriority,
        Feature::NoLocal,
        Feature::Immediate,
        Feature::DelayedPublish,
        Feature::DelayedRetry,
    ];
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Feature::AlternateExchange => "alternate exchanges",
            Feature::ExchangeBinding => "bindings from exchange to exchange",
            Feature::CustomExchangeKind => "custom exchange kinds",
            Feature::AutoDelete => "auto_delete",
            Feature::ExclusiveQueue => "exclusive queues",
            Feature::QueueExpiry => "queue expiry",
            Feature::QueueMessageTtl => "message_ttl on queues",
            Feature::MessageTtl => "expiration on messages",
            Feature::DeadLetter => "dead-lettering",
            Feature::MaxLength => "queue length limits",
            Feature::MaxLengthBytes => "queue length limits in bytes",
            Feature::RejectPublish => "queues that reject publishes when they are full",
            Feature::Priority => "priorities",
            Feature::MaxDeliveries => "max_deliveries",
            Feature::SingleActiveConsumer => "single active consumers",
            Feature::ExclusiveConsumer => "exclusive consumers",
            Feature::ConsumerPriority => "consumer priorities",
            Feature::NoLocal => "no_local",
            Feature::Immediate => "immediate publishing",
            Feature::DelayedPublish => "delayed publishing",
            Feature::DelayedRetry => "delayed retries",
        })
    }
}

/// How a transport comes to a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Support {
    /// It doesn't: asking for it is refused.
    Unsupported,
    /// The client side does what the broker doesn't.
    Emulated,
    /// The broker does it.
    Native,
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Support::Unsupported => "unsupported",
            Support::Emulated => "emulated",
            Support::Native => "native",
        })
    }
}

/// What a transport can do and up to which limits, known without a broker and refined once connected.
///
/// Whatever isn't listed is refused with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
/// before anything is sent.
///
/// ```
/// use kombu::{Feature, Support};
///
/// let memory = kombu::registry().capabilities("memory").expect("it is built in");
/// assert_eq!(memory.support(Feature::DeadLetter), Support::Native);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    native: u32,
    emulated: u32,
    max_message_size: usize,
    max_priority: u8,
    max_processing_time: Option<Duration>,
    broker_arguments: bool,
    notes: &'static [(Feature, &'static str)],
}

// One bit for each feature.
const _: () = assert!(Feature::ALL.len() <= 32);

impl Capabilities {
    /// The largest body that kombu publishes unless a broker or the user says otherwise: 16 MiB, RabbitMQ's
    /// own default since 4.0.
    pub const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;

    /// Nothing beyond the four exchange kinds, queues, bindings, confirms and settling.
    pub const fn basic() -> Self {
        Capabilities {
            native: 0,
            emulated: 0,
            max_message_size: Self::DEFAULT_MAX_MESSAGE_SIZE,
            max_priority: u8::MAX,
            max_processing_time: None,
            broker_arguments: false,
            notes: &[],
        }
    }

    /// Adds a feature that the broker has.
    #[must_use]
    pub const fn native(mut self, feature: Feature) -> Self {
        self.native |= 1 << feature as u32;
        self.emulated &= !(1 << feature as u32);
        self
    }

    /// Adds a feature that the transport makes up for.
    #[must_use]
    pub const fn emulated(mut self, feature: Feature) -> Self {
        self.emulated |= 1 << feature as u32;
        self.native &= !(1 << feature as u32);
        self
    }

    /// Takes a feature away.
    #[must_use]
    pub const fn without(mut self, feature: Feature) -> Self {
        self.native &= !(1 << feature as u32);
        self.emulated &= !(1 << feature as u32);
        self
    }

    /// Sets the largest body in bytes that the broker takes.
    #[must_use]
    pub const fn with_max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Sets the highest `max_priority` of a queue.
    #[must_use]
    pub const fn with_max_priority(mut self, priority: u8) -> Self {
        self.max_priority = priority;
        self
    }

    /// Sets how long a consumer may hold a delivery unless it says otherwise, for brokers that take it away at some time.
    #[must_use]
    pub const fn with_max_processing_time(mut self, limit: Duration) -> Self {
        self.max_processing_time = Some(limit);
        self
    }

    /// Says that arguments of queues go to a broker that reads them itself. Otherwise those at which RabbitMQ does something that no
    /// attribute has, other types of queue and `x-dead-letter-strategy: at-least-once`, are refused.
    #[must_use]
    pub const fn with_broker_arguments(mut self) -> Self {
        self.broker_arguments = true;
        self
    }

    /// Says in a few words how the transport does what it does, and within which limits: for
    /// [`Topology::check`](crate::Topology::check).
    #[must_use]
    pub const fn with_notes(mut self, notes: &'static [(Feature, &'static str)]) -> Self {
        self.notes = notes;
        self
    }

    /// How the transport comes to this feature, and within which limits, in a few words.
    pub fn note(&self, feature: Feature) -> Option<&'static str> {
        let mut notes = self.notes.iter();
        let found = notes.find(|(noted, _)| *noted == feature);
        found.filter(|_| self.has(feature)).map(|(_, note)| *note)
    }

    /// How the transport comes to this feature.
    pub const fn support(&self, feature: Feature) -> Support {
        let bit = 1 << feature as u32;
        if self.native & bit != 0 {
            Support::Native
        } else if self.emulated & bit != 0 {
            Support::Emulated
        } else {
            Support::Unsupported
        }
    }

    /// Whether the transport has this feature, natively or by emulation.
    pub const fn has(&self, feature: Feature) -> bool {
        (self.native | self.emulated) & (1 << feature as u32) != 0
    }

    /// The largest body in bytes that the broker takes.
    pub const fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    /// How long a consumer may hold a delivery unless it says otherwise; `None` if there is no limit. It runs from when
    /// the broker sent the message ([`RawDelivery::waited`](super::RawDelivery::waited)).
    pub const fn max_processing_time(&self) -> Option<Duration> {
        self.max_processing_time
    }

    /// Whether arguments of queues go to a broker that reads them itself.
    pub const fn broker_arguments(&self) -> bool {
        self.broker_arguments
    }

    /// The highest `max_priority` of a queue, where the transport has [`Feature::Priority`].
    pub const fn max_priority(&self) -> u8 {
        self.max_priority
    }
}

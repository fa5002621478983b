use std::fmt;

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
    /// A limit on the number or bytes of messages in a queue.
    MaxLength,
    /// Priorities within a queue.
    Priority,
    /// A limit on deliveries of one message.
    MaxDeliveries,
    /// One consumer at a time, the others wait.
    SingleActiveConsumer,
    /// Publishing only if a consumer is ready.
    Immediate,
    /// Publishing a message that becomes visible later.
    DelayedPublish,
    /// A retry that comes back after a delay.
    DelayedRetry,
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
            Feature::Priority => "priorities",
            Feature::MaxDeliveries => "max_deliveries",
            Feature::SingleActiveConsumer => "single active consumers",
            Feature::Immediate => "immediate publishing",
            Feature::DelayedPublish => "delayed publishing",
            Feature::DelayedRetry => "delayed retries",
        })
    }
}

/// What a transport can do, known without a broker and refined once connected.
///
/// Whatever isn't listed is refused with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)
/// before anything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    features: u32,
    max_message_size: usize,
}

impl Capabilities {
    /// The largest body that kombu publishes unless a broker or the user says otherwise: 16 MiB, RabbitMQ's
    /// own default.
    pub const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;

    /// Nothing beyond the four exchange kinds, queues, bindings, confirms and settling.
    pub const fn basic() -> Self {
        Capabilities {
            features: 0,
            max_message_size: Self::DEFAULT_MAX_MESSAGE_SIZE,
        }
    }

    /// Adds a feature.
    #[must_use]
    pub const fn with(mut self, feature: Feature) -> Self {
        self.features |= 1 << feature as u32;
        self
    }

    /// Sets the largest body in bytes that the broker takes.
    #[must_use]
    pub const fn with_max_message_size(mut self, bytes: usize) -> Self {
        self.max_message_size = bytes;
        self
    }

    /// Whether the transport has this feature, natively or by emulation.
    pub const fn has(&self, feature: Feature) -> bool {
        self.features & (1 << feature as u32) != 0
    }

    /// The largest body in bytes that the broker takes.
    pub const fn max_message_size(&self) -> usize {
        self.max_message_size
    }
}

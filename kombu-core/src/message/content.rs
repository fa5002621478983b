use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::declare::DeliveryMode;
use crate::field::{FieldTable, Timestamp};
use crate::name::Name;

/// Body, address, properties and headers of a message: AMQP 0-9-1's basic class, on every transport.
///
/// [`Delivery`](crate::Delivery) and [`Message`](crate::Message) dereference to it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{Exchange, Queue};
///
/// let connection = kombu::connect("memory://").await?;
/// let jobs = Queue::new("jobs");
/// connection.declare_queue(&jobs).await?;
/// let producer = connection.producer(Exchange::default()).await?;
/// producer.publish(&7).routing_key("jobs").correlation_id("c-1").header("tenant", 3).await?;
///
/// let delivery = connection.get(&jobs).await?.expect("one message");
/// assert_eq!(delivery.content_type(), Some("application/json"));
/// assert_eq!(delivery.correlation_id(), Some("c-1"));
/// assert_eq!(delivery.headers().get("tenant").and_then(|value| value.as_i64()), Some(3));
/// delivery.ack().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Content {
    pub(crate) exchange: Name,
    pub(crate) routing_key: Name,
    pub(crate) body: Bytes,
    pub(crate) headers: FieldTable,
    // Empty means absent: it saves the tag and the branch on the hot path.
    pub(crate) content_type: Name,
    pub(crate) content_encoding: Name,
    pub(crate) rare: Option<Box<Rare>>,
    pub(crate) delivery_mode: DeliveryMode,
    pub(crate) mandatory: bool,
}

/// Properties that most messages don't have: one allocation for all of them, none without.
#[derive(Clone, Default, Debug)]
pub(crate) struct Rare {
    pub(crate) priority: Option<u8>,
    pub(crate) expiration: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) timestamp: Option<Timestamp>,
    pub(crate) correlation_id: Option<Name>,
    pub(crate) reply_to: Option<Name>,
    pub(crate) message_id: Option<Name>,
    pub(crate) kind: Option<Name>,
    pub(crate) user_id: Option<Name>,
    pub(crate) app_id: Option<Name>,
    pub(crate) cluster_id: Option<Name>,
    pub(crate) immediate: bool,
    /// Further routing keys that receivers aren't to see.
    pub(crate) hidden_keys: Vec<Name>,
}

macro_rules! text_properties {
    ($($(#[$doc:meta])* $name:ident $setter:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> Option<&str> {
            self.rare.as_ref()?.$name.as_deref()
        }

        #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), "); drivers use it to rebuild a message.")]
        pub fn $setter(&mut self, value: impl Into<Name>) {
            self.rare_mut().$name = Some(value.into());
        }
    )*};
}

impl Content {
    pub(super) const EMPTY: Content = Content {
        exchange: Name::EMPTY,
        routing_key: Name::EMPTY,
        body: Bytes::new(),
        headers: FieldTable::new(),
        content_type: Name::EMPTY,
        content_encoding: Name::EMPTY,
        rare: None,
        delivery_mode: DeliveryMode::Persistent,
        mandatory: false,
    };

    /// A persistent message without headers or properties.
    pub fn new(exchange: Name, routing_key: Name, body: Bytes) -> Self {
        Content {
            exchange,
            routing_key,
            body,
            ..Content::EMPTY
        }
    }

    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// The exchange that it was published to; empty for the default exchange.
    pub fn exchange(&self) -> &Name {
        &self.exchange
    }

    /// The routing key that it was published with.
    pub fn routing_key(&self) -> &Name {
        &self.routing_key
    }

    /// The body as it travels: encoded, and compressed if a header says so.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Replaces the body; interceptors that encrypt or sign do.
    pub fn set_body(&mut self, body: impl Into<Bytes>) {
        self.body = body.into();
    }

    /// The user's headers.
    pub fn headers(&self) -> &FieldTable {
        &self.headers
    }

    /// The text of a header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.as_str()
    }

    /// The user's headers, for drivers that rebuild a message.
    pub fn headers_mut(&mut self) -> &mut FieldTable {
        &mut self.headers
    }

    /// The content type, for example `application/json`; it chooses the codec.
    pub fn content_type(&self) -> Option<&str> {
        some_text(&self.content_type)
    }

    /// Sets the content type; drivers use it to rebuild a message.
    pub fn set_content_type(&mut self, value: impl Into<Name>) {
        self.content_type = value.into();
    }

    /// The content encoding, for example `utf-8` or `binary`.
    pub fn content_encoding(&self) -> Option<&str> {
        some_text(&self.content_encoding)
    }

    /// Sets the content encoding; drivers use it to rebuild a message.
    pub fn set_content_encoding(&mut self, value: impl Into<Name>) {
        self.content_encoding = value.into();
    }

    /// Whether the message should survive a restart of the broker.
    pub fn delivery_mode(&self) -> DeliveryMode {
        self.delivery_mode
    }

    /// Sets the delivery mode; drivers use it to rebuild a message.
    pub fn set_delivery_mode(&mut self, mode: DeliveryMode) {
        self.delivery_mode = mode;
    }

    /// Whether a message that matches no queue comes back to its publisher.
    pub fn mandatory(&self) -> bool {
        self.mandatory
    }

    /// The priority; a higher one is served first on queues that have priorities.
    pub fn priority(&self) -> Option<u8> {
        self.rare.as_ref()?.priority
    }

    /// Sets the priority; drivers use it to rebuild a message.
    pub fn set_priority(&mut self, priority: u8) {
        self.rare_mut().priority = Some(priority);
    }

    /// Whether the message comes back to its publisher unless a consumer is ready for it.
    pub fn immediate(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.immediate)
    }

    /// How long the message may wait in a queue, in whole milliseconds on the wire.
    pub fn expiration(&self) -> Option<Duration> {
        self.rare.as_ref()?.expiration
    }

    /// Sets or removes the expiration; drivers use it to rebuild a message.
    pub fn set_expiration(&mut self, expiration: Option<Duration>) {
        if expiration.is_some() || self.rare.is_some() {
            self.rare_mut().expiration = expiration;
        }
    }

    /// Routing keys of the header `BCC`, which was taken off before anybody received the message: its dead letters go by
    /// them too. Stores keep them.
    pub fn hidden_keys(&self) -> &[Name] {
        self.rare.as_ref().map_or(&[], |rare| &rare.hidden_keys)
    }

    /// Sets the [`hidden_keys`](Self::hidden_keys), for stores that rebuild a message.
    pub fn set_hidden_keys(&mut self, keys: Vec<Name>) {
        if !keys.is_empty() || self.rare.is_some() {
            self.rare_mut().hidden_keys = keys;
        }
    }

    /// How long the message stays invisible in its queues after it was published.
    pub fn delay(&self) -> Option<Duration> {
        self.rare.as_ref()?.delay
    }

    /// Sets or removes the delay; drivers use it to rebuild a message. One of zero is none.
    pub fn set_delay(&mut self, delay: Option<Duration>) {
        let delay = delay.filter(|delay| !delay.is_zero());
        if delay.is_some() || self.rare.is_some() {
            self.rare_mut().delay = delay;
        }
    }

    /// When the message was made, as its publisher says; whole seconds.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.rare.as_ref()?.timestamp
    }

    /// Sets the timestamp; drivers use it to rebuild a message.
    pub fn set_timestamp(&mut self, timestamp: Timestamp) {
        self.rare_mut().timestamp = Some(timestamp);
    }

    text_properties! {
        /// Ties an answer to its question.
        correlation_id set_correlation_id;
        /// The queue that an answer goes to.
        reply_to set_reply_to;
        /// The user's own id of the message; kombu neither sets nor reads it.
        message_id set_message_id;
        /// AMQP's `type`: what kind of message it is, in the application's words.
        kind set_kind;
        /// Who published it. RabbitMQ refuses a name that isn't the connection's user.
        user_id set_user_id;
        /// The application that published it.
        app_id set_app_id;
        /// AMQP's deprecated `cluster-id`, kept for Python kombu.
        cluster_id set_cluster_id;
    }
}

fn some_text(name: &Name) -> Option<&str> {
    (!name.is_empty()).then(|| name.as_str())
}

impl fmt::Debug for Content {
    /// Address, content type and size; never the body or the headers, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("content_type", &self.content_type)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

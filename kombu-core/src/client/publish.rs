use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kombu_serializers::{self as serializers, Codec};

use crate::declare::{DeliveryMode, Exchange, LONGEST, duration};
use crate::error::{Error, ErrorKind, Result};
use crate::field::{FieldValue, Timestamp};
use crate::message::{Content, Envelope};
use crate::name::Name;

use super::body::Body;
use super::destinations::{Destinations, PublishingAll};
use super::plain::COMPRESSION;
use super::producer::{Inner, is_mandatory_by_default};
use super::publishing::{Published, Publishing, Sending, Stage, hand_over};

/// A message to be published: awaiting it publishes, and resolves when the broker has the message.
///
/// [`send`](Publish::send) splits that in two, to have many messages under way at once.
///
/// # Cancellation
///
/// The message is handed to the driver when it is first awaited. Dropping the future after that doesn't take it
/// back; only the answer is lost.
#[must_use = "nothing is published until this is awaited, or sent with `.send().await`"]
pub struct Publish<'a, B, D = ()> {
    producer: &'a Arc<Inner>,
    body: B,
    content: Content,
    codec: Option<Codec>,
    compression: Compression,
    mandatory: Option<bool>,
    /// The message says itself where it goes.
    addressed: bool,
    destinations: D,
    failure: Option<Error>,
}

enum Compression {
    Producers,
    Own(serializers::Stage),
    Off,
}

macro_rules! text_setters {
    ($($(#[$doc:meta])* $name:ident $field:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, value: impl Into<Name>) -> Self {
            self.content.rare_mut().$field = Some(value.into());
            self
        }
    )*};
}

impl<'a, B: Body> Publish<'a, B> {
    #[inline]
    pub(crate) fn new(producer: &'a Arc<Inner>, body: B) -> Self {
        let mut content = Content::new(
            producer.exchange.clone(),
            producer.routing_key.clone(),
            Bytes::new(),
        );
        content.delivery_mode = producer.delivery_mode;
        content.mandatory = producer.mandatory_by_default;
        Publish {
            producer,
            body,
            content,
            codec: None,
            compression: Compression::Producers,
            mandatory: producer.mandatory,
            addressed: false,
            destinations: (),
            failure: None,
        }
    }

    /// A publish of this message as it is, from this producer.
    pub(super) fn of(mut self, message: &Content) -> Self {
        let mut content = message.clone();
        let named = !self.producer.routing_key.is_empty();
        if named || !self.producer.destinations.is_empty() {
            content.routing_key = self.content.routing_key;
        }
        content.exchange = self.content.exchange;
        content.mandatory = self.content.mandatory;
        content.body = Bytes::new();
        content.set_hidden_keys(Vec::new());
        content.set_delay(None);
        if let Some(rare) = &mut content.rare {
            rare.immediate = false;
            rare.user_id = None;
        }
        self.content = content;
        self.compression = Compression::Off;
        self
    }

    #[inline]
    pub(super) fn prepared(self) -> Prepared<'a> {
        Prepared {
            producer: self.producer,
            mandatory: self.mandatory,
            addressed: self.addressed,
            content: self.prepare(),
        }
    }

    /// Hands the message over and returns its receipt, so that the next one can be sent before this one is
    /// confirmed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// # let connection = kombu::connect("memory://").await?;
    /// # connection.declare_queue(&kombu::Queue::new("jobs")).await?;
    /// let producer = connection.producer(kombu::Exchange::default()).routing_key("jobs").await?;
    /// let mut receipts = Vec::new();
    /// for job in 0..100 {
    ///     receipts.push(producer.publish(&job).send().await?);
    /// }
    /// for receipt in receipts {
    ///     receipt.await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn send(self) -> Sending {
        Sending(self.into_future())
    }
}

impl<'a, B: Body, D> Publish<'a, B, D> {
    /// The routing key. Default: the producer's.
    #[inline]
    pub fn routing_key(mut self, key: impl Into<Name>) -> Self {
        self.content.routing_key = key.into();
        self.addressed = true;
        self
    }

    /// Another exchange than the producer's. It isn't declared. Whether an unroutable message is an error
    /// follows its kind, unless you say it here or on the producer.
    pub fn exchange(mut self, exchange: &Exchange) -> Self {
        self.content.exchange = exchange.name().clone();
        self.content.mandatory = is_mandatory_by_default(exchange);
        self.addressed = true;
        self
    }

    /// Publishes to several exchanges, or with several keys, and answers for each of them, in the same order. The body is
    /// encoded once; each destination is a publish of its own, with its own confirm. The exchanges aren't declared.
    ///
    /// This list wins over exchange and routing key, the message's and the producer's. Of two lists, the last one wins;
    /// an empty one publishes nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{ErrorKind, Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let news = Exchange::topic("news");
    /// connection.declare_queue(&Queue::new("archive").bind(&news, "#")).await?;
    ///
    /// let producer = connection.producer(Exchange::default()).await?;
    /// let results = producer
    ///     .publish("it rains")
    ///     .destinations([(&news, "weather.local"), (&Exchange::default(), "nobody")])
    ///     .await;
    /// assert!(results[0].as_ref().is_ok_and(|published| published.routed));
    /// assert!(results[1].as_ref().is_err_and(|error| error.kind() == ErrorKind::Unroutable));
    /// # Ok(())
    /// # }
    /// ```
    pub fn destinations<E, K>(
        self,
        destinations: impl IntoIterator<Item = (E, K)>,
    ) -> Publish<'a, B, Destinations>
    where
        E: Into<Exchange>,
        K: Into<Name>,
    {
        Publish {
            destinations: destinations.into_iter().collect(),
            producer: self.producer,
            body: self.body,
            content: self.content,
            codec: self.codec,
            compression: self.compression,
            mandatory: self.mandatory,
            addressed: self.addressed,
            failure: self.failure,
        }
    }

    /// Another serializer than the producer's, by name.
    pub fn serializer(mut self, name: &str) -> Self {
        match self.producer.connection.serializers().by_name(name) {
            Ok(codec) => self.codec = Some(codec),
            Err(error) => self.fail(error.into()),
        }
        self
    }

    /// Another compression than the producer's, by name. Bytes and text are compressed too.
    ///
    /// The header `compression` says so, in place of one that you set.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::UnknownSerializer`] if there is none of that name.
    pub fn compression(mut self, name: &str) -> Self {
        match self
            .producer
            .connection
            .serializers()
            .stages()
            .by_name(name)
        {
            Ok(stage) => self.compression = Compression::Own(stage),
            Err(error) => self.fail(error.into()),
        }
        self
    }

    /// Sends the body as it is, although the producer compresses.
    pub fn uncompressed(mut self) -> Self {
        self.compression = Compression::Off;
        self
    }

    /// Adds a header, in place of one of the same name.
    pub fn header<V>(mut self, name: impl Into<Name>, value: V) -> Self
    where
        V: TryInto<FieldValue>,
        V::Error: Into<Error>,
    {
        match value.try_into() {
            Ok(value) => {
                self.content.headers.insert(name.into(), value);
            }
            Err(error) => self.fail(error.into()),
        }
        self
    }

    /// The content type, in place of the serializer's.
    pub fn content_type(mut self, value: impl Into<Name>) -> Self {
        self.content.content_type = value.into();
        self
    }

    /// The content encoding, in place of the serializer's.
    pub fn content_encoding(mut self, value: impl Into<Name>) -> Self {
        self.content.content_encoding = value.into();
        self
    }

    /// Whether the message should survive a restart of the broker. Default: the producer's.
    pub fn delivery_mode(mut self, mode: DeliveryMode) -> Self {
        self.content.delivery_mode = mode;
        self
    }

    /// Fails with [`ErrorKind::Unroutable`] if no queue matches.
    pub fn mandatory(mut self) -> Self {
        self.mandatory = Some(true);
        self
    }

    /// Answers [`Published::routed`] `false` instead of failing if no queue matches.
    pub fn allow_unroutable(mut self) -> Self {
        self.mandatory = Some(false);
        self
    }

    /// Whether a consumer has to be ready for the message: one with room in its window, and nothing waiting before it.
    /// A queue without one doesn't get the message. Default: false.
    ///
    /// AMQP brokers don't have it (RabbitMQ since 3.0); neither has the transport for AMQP.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::NoConsumers`] if none of the queues got the message; [`ErrorKind::Unsupported`] where the
    /// transport can't, before anything is sent.
    pub fn immediate(mut self, immediate: bool) -> Self {
        if immediate || self.content.rare.is_some() {
            self.content.rare_mut().immediate = immediate;
        }
        self
    }

    /// The priority, on queues that have priorities; a higher one is served first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.content.set_priority(priority);
        self
    }

    /// How long the message may wait in a queue; sent in whole milliseconds. At most 2³² − 1 of them, 49.7 days: more is
    /// [`ErrorKind::PreconditionFailed`], as RabbitMQ has it.
    pub fn expiration(mut self, expiration: Duration) -> Self {
        self.content.set_expiration(Some(expiration));
        self
    }

    /// How long the message stays invisible in its queues; consumers never see it before.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.content.set_delay(Some(delay));
        self
    }

    /// When the message was made; sent in whole seconds.
    pub fn timestamp(mut self, timestamp: impl Into<Timestamp>) -> Self {
        self.content.set_timestamp(timestamp.into());
        self
    }

    text_setters! {
        /// Ties an answer to its question.
        correlation_id correlation_id;
        /// The queue that an answer should go to.
        reply_to reply_to;
        /// Your own id of the message; kombu neither sets nor reads it.
        message_id message_id;
        /// AMQP's `type`: what kind of message it is, in your words.
        kind kind;
        /// Who publishes it. RabbitMQ refuses a name that isn't the connection's user.
        user_id user_id;
        /// The application that publishes it.
        app_id app_id;
        /// AMQP's deprecated `cluster-id`, kept for Python kombu.
        cluster_id cluster_id;
    }

    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// The serializer, if it isn't the producer's.
    pub(crate) fn codec(mut self, codec: Option<&Codec>) -> Self {
        self.codec = codec.cloned();
        self
    }

    /// The compression, if it isn't the producer's.
    pub(crate) fn stage(mut self, stage: Option<&serializers::Stage>) -> Self {
        if let Some(stage) = stage {
            self.compression = Compression::Own(stage.clone());
        }
        self
    }

    /// Encodes and checks: everything that can fail before the wire does so here.
    #[inline]
    pub(crate) fn prepare(self) -> Result<Content> {
        let Publish {
            producer,
            body,
            mut content,
            codec,
            compression,
            mandatory,
            failure,
            ..
        } = self;
        if let Some(error) = failure {
            return Err(error);
        }
        producer.check_open()?;
        if let Some(mandatory) = mandatory {
            content.mandatory = mandatory;
        }
        let encoded = body.encode(codec.as_ref().or(producer.codec.as_ref()))?;
        content.body = encoded.body;
        let stage = match &compression {
            Compression::Producers => producer.compression.as_ref(),
            Compression::Own(stage) => Some(stage),
            Compression::Off => None,
        };
        if let Some(stage) = stage {
            content.body = stage.encode(&content.body)?;
            content
                .headers
                .insert(COMPRESSION, Name::from(stage.content_type()));
        }
        if content.content_type.is_empty() {
            content.content_type = encoded.content_type;
        }
        if content.content_encoding.is_empty() {
            content.content_encoding = encoded.content_encoding;
        }
        Ok(content)
    }
}

#[inline]
fn check_content(producer: &Inner, content: &Content) -> Result<()> {
    let connection = producer.connection.inner();
    if content.body.len() > connection.max_message_size {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "the body has {} bytes and the limit is {}; send less, or raise `max_message_size` here and on \
                 the broker",
                content.body.len(),
                connection.max_message_size
            ),
        ));
    }
    content.exchange.check_length("exchange name")?;
    content.routing_key.check_length("routing key")?;
    content.content_type.check_length("content_type")?;
    content.content_encoding.check_length("content_encoding")?;
    if !content.headers.is_empty() {
        content.headers.check()?;
        for header in ["CC", "BCC"] {
            if let Some(value) = content.headers.get(header)
                && value.as_array().is_none()
            {
                return Err(Error::new(
                    ErrorKind::PreconditionFailed,
                    format!(
                        "the header `{header}` is a list of further routing keys on every broker, not {}; give it a list, \
                         or another name",
                        value.type_name()
                    ),
                ));
            }
        }
    }
    match &content.rare {
        None => Ok(()),
        Some(rare) => {
            if rare.expiration.is_some_and(|time| time > LONGEST) {
                return Err(Error::new(
                    ErrorKind::PreconditionFailed,
                    format!(
                        "the message's `expiration` is longer than the {} that RabbitMQ takes; set less, or leave it out \
                         for no limit",
                        duration::format(LONGEST)
                    ),
                ));
            }
            for (what, name) in [
                ("correlation_id", &rare.correlation_id),
                ("reply_to", &rare.reply_to),
                ("message_id", &rare.message_id),
                ("type", &rare.kind),
                ("user_id", &rare.user_id),
                ("app_id", &rare.app_id),
                ("cluster_id", &rare.cluster_id),
            ] {
                if let Some(name) = name {
                    name.check_length(what)?;
                }
            }
            Ok(())
        }
    }
}

impl<'a, B: Body> IntoFuture for Publish<'a, B> {
    type Output = Result<Published>;
    type IntoFuture = Publishing;

    #[inline]
    fn into_future(self) -> Publishing {
        self.prepared().start()
    }
}

impl<'a, B: Body> IntoFuture for Publish<'a, B, Destinations> {
    type Output = Vec<Result<Published>>;
    type IntoFuture = PublishingAll;

    fn into_future(mut self) -> PublishingAll {
        let destinations = std::mem::take(&mut self.destinations);
        let (producer, mandatory) = (self.producer, self.mandatory);
        PublishingAll::start(producer, self.prepare(), mandatory, &destinations)
    }
}

/// A message that only has to be handed over.
pub(super) struct Prepared<'a> {
    producer: &'a Arc<Inner>,
    mandatory: Option<bool>,
    addressed: bool,
    content: Result<Content>,
}

impl Prepared<'_> {
    #[inline]
    pub(super) fn start(self) -> Publishing {
        let producer = self.producer;
        if !self.addressed && !producer.destinations.is_empty() {
            return Publishing::to_all(producer, self.content, self.mandatory);
        }
        publish(producer, self.content)
    }
}

/// Starts a publish that was prepared.
#[inline]
pub(crate) fn publish(producer: &Arc<Inner>, prepared: Result<Content>) -> Publishing {
    let stage = match prepared {
        Err(error) => Stage::Failed(Some(error)),
        Ok(content) if producer.interceptors.is_empty() => match seal(producer, content) {
            Ok(envelope) => hand_over(producer, envelope, None),
            Err(error) => Stage::Failed(Some(error)),
        },
        Ok(content) => Stage::intercepted(producer.clone(), content),
    };
    Publishing { stage }
}

/// The last look at a message before it is on its way.
#[inline]
pub(super) fn seal(producer: &Inner, content: Content) -> Result<Envelope> {
    check_content(producer, &content)?;
    tracing::debug!(exchange = %content.exchange, key = %content.routing_key, bytes = content.body.len(), "publish");
    Ok(Envelope::new(producer.next_id(), content))
}

impl<B, D> fmt::Debug for Publish<'_, B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Publish").field(&self.content).finish()
    }
}

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kombu_serializers::Codec;
use serde::Serialize;
use tokio::time::{Sleep, timeout};

use crate::declare::{DeliveryMode, Exchange};
use crate::driver::{BoxFuture, Confirmation};
use crate::error::{Error, ErrorKind, Result};
use crate::field::{FieldValue, Timestamp};
use crate::message::{Content, Envelope};
use crate::name::Name;

use super::producer::{Inner, is_mandatory_by_default};
use super::unconfirmed::{Entry, Handed};

mod body {
    use super::*;

    /// What a body and its content type and encoding come to.
    #[derive(Debug)]
    pub struct Encoded {
        pub(crate) body: Bytes,
        pub(crate) content_type: Name,
        pub(crate) content_encoding: Name,
    }

    /// Something that can be published.
    #[allow(unreachable_pub)] // sealed: named in signatures, implemented only here
    pub trait Body {
        #[doc(hidden)]
        fn encode(self, codec: Option<&Codec>) -> Result<Encoded>;
    }
}

pub use body::Body;
use body::Encoded;

/// A value to be encoded by the serializer.
#[derive(Debug)]
pub struct Value<'a, T: ?Sized>(pub(super) &'a T);

/// Bytes to be sent as they are.
#[derive(Debug)]
pub struct Raw(pub(super) Bytes);

/// Text to be sent as it is.
#[derive(Debug)]
pub struct Text(pub(super) String);

impl<T: Serialize + ?Sized> Body for Value<'_, T> {
    #[inline]
    fn encode(self, codec: Option<&Codec>) -> Result<Encoded> {
        let Some(codec) = codec else {
            return Err(Error::new(
                ErrorKind::UnknownSerializer,
                "the default serializer `json` isn't built in; name another one, or enable kombu's cargo \
                 feature `json`",
            ));
        };
        Ok(Encoded {
            body: codec.encode(self.0)?,
            content_type: codec.content_type().into(),
            content_encoding: codec.content_encoding().into(),
        })
    }
}

impl Body for Raw {
    #[inline]
    fn encode(self, _: Option<&Codec>) -> Result<Encoded> {
        Ok(Encoded {
            body: self.0,
            content_type: Name::from_static("application/data"),
            content_encoding: Name::from_static("binary"),
        })
    }
}

impl Body for Text {
    fn encode(self, _: Option<&Codec>) -> Result<Encoded> {
        Ok(Encoded {
            body: self.0.into(),
            content_type: Name::from_static("text/plain"),
            content_encoding: Name::from_static("utf-8"),
        })
    }
}

/// A message to be published: awaiting it publishes, and resolves when the broker has the message.
///
/// [`send`](Publish::send) splits that in two, to have many messages under way at once.
///
/// # Cancellation
///
/// The message is handed to the driver when it is first awaited. Dropping the future after that doesn't take it
/// back; only the answer is lost.
#[must_use = "nothing is published until this is awaited, or sent with `.send().await`"]
pub struct Publish<'a, B> {
    producer: &'a Arc<Inner>,
    body: B,
    content: Content,
    codec: Option<Codec>,
    mandatory: Option<bool>,
    failure: Option<Error>,
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
    pub(super) fn new(producer: &'a Arc<Inner>, body: B) -> Self {
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
            mandatory: producer.mandatory,
            failure: None,
        }
    }

    /// The routing key. Default: the producer's.
    #[inline]
    pub fn routing_key(mut self, key: impl Into<Name>) -> Self {
        self.content.routing_key = key.into();
        self
    }

    /// Another exchange than the producer's. It isn't declared. Whether an unroutable message is an error
    /// follows its kind, unless you say it here or on the producer.
    pub fn exchange(mut self, exchange: &Exchange) -> Self {
        self.content.exchange = exchange.name().clone();
        self.content.mandatory = is_mandatory_by_default(exchange);
        self
    }

    /// Another serializer than the producer's, by name.
    pub fn serializer(mut self, name: &str) -> Self {
        match self.producer.connection.serializers().by_name(name) {
            Ok(codec) => self.codec = Some(codec),
            Err(error) => self.fail(error.into()),
        }
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

    /// The priority, on queues that have priorities; a higher one is served first.
    pub fn priority(mut self, priority: u8) -> Self {
        self.content.set_priority(priority);
        self
    }

    /// How long the message may wait in a queue; sent in whole milliseconds.
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

    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// Encodes and checks: everything that can fail before the wire does so here.
    #[inline]
    fn prepare(self) -> Result<Content> {
        let Publish {
            producer,
            body,
            mut content,
            codec,
            mandatory,
            failure,
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
    for (what, name) in [
        ("exchange name", &content.exchange),
        ("routing key", &content.routing_key),
        ("content_type", &content.content_type),
        ("content_encoding", &content.content_encoding),
    ] {
        name.check_length(what)?;
    }
    if !content.headers.is_empty() {
        content.headers.check()?;
    }
    match &content.rare {
        None => Ok(()),
        Some(rare) => {
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
        let producer = self.producer;
        let stage = match self.prepare() {
            Err(error) => Stage::Failed(Some(error)),
            Ok(content) if producer.interceptors.is_empty() && producer.outbox.has_room() => {
                match seal(producer, content) {
                    Ok(envelope) => hand_over(producer, envelope),
                    Err(error) => Stage::Failed(Some(error)),
                }
            }
            Ok(content) => Stage::held_back(producer.clone(), content),
        };
        Publishing { stage }
    }
}

/// The last look at a message before it is on its way.
#[inline]
fn seal(producer: &Inner, content: Content) -> Result<Envelope> {
    check_content(producer, &content)?;
    tracing::debug!(exchange = %content.exchange, key = %content.routing_key, bytes = content.body.len(), "publish");
    Ok(Envelope::new(producer.next_id(), content))
}

/// Gives the message to the driver, or to the list of those that wait for one.
#[inline]
fn hand_over(producer: &Arc<Inner>, envelope: Envelope) -> Stage {
    let engine = &producer.connection.inner().engine;
    let handed = producer.outbox.hand_over(&envelope, || {
        engine.has_ended().then(|| engine.end_reason())
    });
    match handed {
        Handed::Answered(answer) => Stage::Answered(Some(answer), envelope),
        Handed::Tracked(entry) => Stage::Tracked(Box::new(Tracked {
            producer: producer.clone(),
            envelope,
            entry,
            deadline: None,
        })),
    }
}

impl<B> fmt::Debug for Publish<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Publish").field(&self.content).finish()
    }
}

/// What a broker answered to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The message id, if you set one.
    pub message_id: Option<Name>,
    /// Whether at least one queue has the message.
    pub routed: bool,
    /// Whether it was sent again after a lost session, so that it may be there twice.
    pub resent: bool,
}

/// A publish under way, without a borrow of its producer.
#[must_use = "only awaiting tells whether the broker has the message"]
pub struct Publishing {
    stage: Stage,
}

enum Stage {
    /// It never came to the driver.
    Failed(Option<Error>),
    /// The driver answered at once, as one within the process does.
    Answered(Option<Result<Confirmation>>, Envelope),
    /// Too many are unconfirmed; resolves when this one had its turn.
    HeldBack(BoxFuture<'static, Stage>),
    /// The driver has it, or the next session will.
    Tracked(Box<Tracked>),
}

/// A publish that wasn't answered at once.
struct Tracked {
    producer: Arc<Inner>,
    envelope: Envelope,
    entry: Arc<Entry>,
    /// Made when there is something to wait for.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Stage {
    /// Interceptors, or publishes without a confirm, come before it.
    #[cold]
    fn held_back(producer: Arc<Inner>, mut content: Content) -> Self {
        Stage::HeldBack(Box::pin(async move {
            for interceptor in producer.interceptors.iter() {
                if let Err(error) = interceptor.on_publish(&mut content).await {
                    return Stage::Failed(Some(error));
                }
            }
            let envelope = match seal(&producer, content) {
                Ok(envelope) => envelope,
                Err(error) => return Stage::Failed(Some(error)),
            };
            let limit = producer.deadline();
            match timeout(limit, producer.outbox.room()).await {
                Ok(()) => hand_over(&producer, envelope),
                Err(_) => Stage::Failed(Some(Error::new(
                    ErrorKind::Backpressure,
                    format!(
                        "no room within {limit:?}: the broker hasn't confirmed what was published before; \
                         publish less at once, or look at what blocks the broker"
                    ),
                ))),
            }
        }))
    }
}

impl Tracked {
    /// Whether an answer can't come any more, or not in time.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        let engine = &self.producer.connection.inner().engine;
        if self.entry.is_waiting() && engine.has_ended() {
            // It was lost with the last session, after the others were told of the end.
            let reason = engine.end_reason();
            self.producer.outbox.forget(&self.entry);
            return Poll::Ready(reason.with_maybe_stored());
        }
        let limit = self.producer.deadline();
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if deadline.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let (phase, maybe_stored) = self.entry.phase();
        self.producer.outbox.forget(&self.entry);
        let error = match engine.blocked() {
            None => Error::new(
                ErrorKind::Timeout,
                format!("no answer within {limit:?}: {phase}"),
            ),
            Some(reason) => Error::new(
                ErrorKind::Backpressure,
                format!(
                    "no answer within {limit:?}: {phase}; the broker takes no publishes: {reason}"
                ),
            ),
        };
        Poll::Ready(if maybe_stored {
            error.with_maybe_stored()
        } else {
            error
        })
    }
}

impl Publishing {
    /// Ready once the driver has the message, or has refused it.
    #[inline]
    fn poll_sent(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            match &mut self.stage {
                Stage::Failed(error) => {
                    return match error.take() {
                        Some(error) => Poll::Ready(Err(error)),
                        None => Poll::Pending,
                    };
                }
                Stage::Answered(..) => return Poll::Ready(Ok(())),
                Stage::HeldBack(turn) => match turn.as_mut().poll(context) {
                    Poll::Ready(stage) => self.stage = stage,
                    Poll::Pending => return Poll::Pending,
                },
                Stage::Tracked(tracked) => {
                    if tracked.entry.poll_sent(context).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    return tracked.poll_end(context).map(Err);
                }
            }
        }
    }

    #[inline]
    fn poll_confirmed(&mut self, context: &mut Context<'_>) -> Poll<Result<Published>> {
        match &mut self.stage {
            Stage::Answered(answer, envelope) => match answer.take() {
                Some(answer) => Poll::Ready(published(answer, envelope, false)),
                None => Poll::Pending,
            },
            Stage::Tracked(tracked) => match tracked.entry.poll_answer(context) {
                Poll::Ready(answer) => {
                    let resent = tracked.entry.was_resent();
                    // The broker refused it the second time; the first one may be there all the same.
                    let unsure = |error: Error| match resent {
                        true => error.with_maybe_stored(),
                        false => error,
                    };
                    let published = published(answer, &tracked.envelope, resent);
                    Poll::Ready(published.map_err(unsure))
                }
                Poll::Pending => tracked.poll_end(context).map(Err),
            },
            Stage::Failed(_) | Stage::HeldBack(_) => Poll::Pending,
        }
    }
}

impl Future for Publishing {
    type Output = Result<Published>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Published>> {
        let this = self.get_mut();
        // Where the broker answers at once, a loop of publishes would never let another task run.
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        let result = match this.poll_sent(context) {
            Poll::Ready(Ok(())) => this.poll_confirmed(context),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        if result.is_ready() {
            budget.made_progress();
        }
        result.map_err(|error| error.during("publish"))
    }
}

/// The first half of a publish: resolves to a [`Receipt`] when the driver has room for the message.
#[must_use = "nothing tells you the outcome unless you await it"]
pub struct Sending(Publishing);

impl Future for Sending {
    type Output = Result<Receipt>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Receipt>> {
        let this = &mut self.get_mut().0;
        let Poll::Ready(budget) = tokio::task::coop::poll_proceed(context) else {
            return Poll::Pending;
        };
        let Poll::Ready(sent) = this.poll_sent(context) else {
            return Poll::Pending;
        };
        budget.made_progress();
        let stage = std::mem::replace(&mut this.stage, Stage::Failed(None));
        let receipt = Receipt(Publishing { stage });
        Poll::Ready(
            sent.map(|()| receipt)
                .map_err(|error| error.during("publish")),
        )
    }
}

/// The second half of a publish: resolves when the broker has the message.
///
/// It borrows nothing and can be kept, moved to another task, or put into a `FuturesUnordered`. Dropping it
/// doesn't take the message back.
#[must_use = "only awaiting the receipt tells whether the broker has the message"]
pub struct Receipt(Publishing);

impl Future for Receipt {
    type Output = Result<Published>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Published>> {
        Pin::new(&mut self.get_mut().0).poll(context)
    }
}

macro_rules! opaque_debug {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque_debug!(Publishing Sending Receipt);

/// Turns the driver's answer into the user's.
#[inline]
fn published(answer: Result<Confirmation>, envelope: &Envelope, resent: bool) -> Result<Published> {
    match answer? {
        Confirmation::Acked { routed } => Ok(Published {
            message_id: envelope
                .rare
                .as_ref()
                .and_then(|rare| rare.message_id.clone()),
            routed,
            resent,
        }),
        Confirmation::Nacked { reason } => Err(Error::new(
            ErrorKind::Nacked,
            format!(
                "the broker refused a message for exchange `{}` with key `{}`: {reason}",
                envelope.exchange(),
                envelope.routing_key()
            ),
        )),
        Confirmation::Returned { code } => Err(returned(code, envelope)),
    }
}

#[cold]
fn returned(code: u16, envelope: &Envelope) -> Error {
    let (exchange, key) = (envelope.exchange(), envelope.routing_key());
    let message = if exchange.is_empty() {
        format!(
            "no queue is named `{key}`; declare it first, or publish with `.allow_unroutable()`"
        )
    } else {
        format!(
            "no queue is bound to exchange `{exchange}` for key `{key}`; bind one, or publish with \
             `.allow_unroutable()`"
        )
    };
    let kind = match code {
        313 => ErrorKind::NoConsumers,
        _ => ErrorKind::Unroutable,
    };
    Error::new(kind, message).with_code(code)
}

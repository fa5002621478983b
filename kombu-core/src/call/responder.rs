use std::collections::BTreeMap;
use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kombu_serializers::Codec;
use serde::Serialize;

use crate::client::{Body, Delivery, Encoded, Link, Message, Published, Value, publish};
use crate::declare::{DeliveryMode, Exchange};
use crate::driver::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::field::FieldValue;
use crate::mailbox::Clock;
use crate::message::Content;
use crate::name::Name;

use super::{END, Failure, MORE};

/// Answers one question: it knows where its answers go. It can be kept, and moved to another task.
#[derive(Clone)]
pub struct Responder {
    link: Arc<Link>,
    reply_to: Name,
    correlation_id: Option<Name>,
    /// That of the question, so that whoever asked can read the answer.
    codec: Option<Codec>,
    /// What became of it, for whoever would answer otherwise.
    progress: Option<Arc<Progress>>,
    /// Of a mailbox: its answers look otherwise.
    node: Option<Arc<Signature>>,
}

/// What answers of a mailbox's node have in common with no others: they go through an exchange, under the node's name.
pub(crate) struct Signature {
    pub(crate) exchange: Name,
    pub(crate) node: Name,
    pub(crate) ticket: Option<Name>,
    pub(crate) clock: Arc<Clock>,
}

#[derive(Default)]
struct Progress {
    taken_over: AtomicBool,
    replied: AtomicBool,
}

impl Responder {
    /// One whose use is seen.
    pub(crate) fn tracked(mut self) -> Self {
        self.progress = Some(Arc::default());
        self
    }

    pub(crate) fn take_over(&self) {
        if let Some(progress) = &self.progress {
            progress.taken_over.store(true, Ordering::Relaxed);
        }
    }

    /// Whether somebody else answers.
    pub(crate) fn is_taken_over(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|progress| progress.taken_over.load(Ordering::Relaxed))
    }

    /// Whether the broker has an answer after which no other comes.
    pub(crate) fn has_replied(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|progress| progress.replied.load(Ordering::Relaxed))
    }

    fn new(question: &Content, link: &Arc<Link>) -> Option<Self> {
        // Shared with the question: neither is copied.
        let rare = question.rare.as_deref()?;
        let reply_to = rare.reply_to.as_ref().filter(|queue| !queue.is_empty())?;
        Some(Responder {
            link: link.clone(),
            reply_to: reply_to.clone(),
            correlation_id: rare.correlation_id.clone(),
            codec: codec_of(question, link),
            progress: None,
            node: None,
        })
    }

    /// One that answers as a node of a mailbox, to this key.
    pub(crate) fn of_node(question: &Delivery, key: Name, signature: Signature) -> Self {
        Responder {
            link: question.link().clone(),
            reply_to: key,
            correlation_id: None,
            codec: codec_of(question, question.link()),
            progress: None,
            node: Some(Arc::new(signature)),
        }
    }

    fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Encoded> {
        let codec = self.codec.as_ref();
        match &self.node {
            None => Value::new(value).encode(codec),
            Some(node) => Value::new(&BTreeMap::from([(&*node.node, value)])).encode(codec),
        }
    }

    /// Where answers go.
    pub fn reply_to(&self) -> &Name {
        &self.reply_to
    }

    /// Answers with a value, in the question's serializer where there is one, else in `json`. Await the result: it
    /// resolves when the broker has the answer.
    ///
    /// That whoever asked is gone is no error.
    pub fn reply<T: Serialize + ?Sized>(&self, value: &T) -> Replying {
        self.replying(|_| self.encode(value))
    }

    /// Answers with bytes as they are, as `application/data`.
    pub fn reply_bytes(&self, body: impl Into<Bytes>) -> Replying {
        self.replying(|_| crate::client::Raw::new(body.into()).encode(None))
    }

    /// One of several answers: others follow.
    pub fn part<T: Serialize + ?Sized>(&self, value: &T) -> Replying {
        self.replying(|content| {
            content.headers_mut().insert(Name::from_static(MORE), true);
            self.encode(value)
        })
    }

    /// Ends the answers without another value.
    pub fn end(&self) -> Replying {
        self.replying(|content| {
            content.headers_mut().insert(Name::from_static(END), true);
            Ok(Encoded::nothing())
        })
    }

    /// Answers that there is no value, and why.
    pub fn fail(&self, failure: Failure) -> Replying {
        self.replying(|content| match &self.node {
            None => failure.write(content.headers_mut(), self.codec.as_ref()),
            Some(_) => self.encode(&BTreeMap::from([("error", failure.to_string())])),
        })
    }

    fn replying(&self, encode: impl FnOnce(&mut Content) -> Result<Encoded>) -> Replying {
        let mut content = Content::new(Name::EMPTY, self.reply_to.clone(), Bytes::new());
        // Whoever waits for it is gone if the broker restarts.
        content.set_delivery_mode(DeliveryMode::Transient);
        if let Some(id) = &self.correlation_id {
            content.set_correlation_id(id);
        }
        if let Some(node) = &self.node {
            content.exchange = node.exchange.clone();
            let headers = content.headers_mut();
            headers.insert("ticket", node.ticket.clone());
            headers.insert("clock", node.clock.forward());
        }
        let encoded = encode(&mut content);
        Replying {
            link: Some(self.link.clone()),
            progress: self.progress.clone(),
            content: encoded.map(|encoded| {
                encoded.into_content(&mut content);
                content
            }),
        }
    }
}

/// That of the question, so that whoever asked can read the answer; else `json`.
fn codec_of(question: &Content, link: &Link) -> Option<Codec> {
    let registry = &link.serializers;
    question
        .content_type()
        .and_then(|content_type| registry.by_content_type(content_type))
        .filter(|codec| codec.can_encode() && codec.name() != "raw")
        .or_else(|| registry.by_name("json").ok())
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("reply_to", &self.reply_to)
            .field("correlation_id", &self.correlation_id)
            .finish_non_exhaustive()
    }
}

/// An answer to be sent: awaiting it sends it, and resolves when the broker has it.
#[must_use = "nothing is answered until this is awaited"]
pub struct Replying {
    link: Option<Arc<Link>>,
    progress: Option<Arc<Progress>>,
    content: Result<Content>,
}

impl Replying {
    fn refused(error: Error) -> Self {
        Replying {
            link: None,
            progress: None,
            content: Err(error),
        }
    }

    /// Adds a header, in place of one of the same name.
    pub fn header<V>(mut self, name: impl Into<Name>, value: V) -> Self
    where
        V: TryInto<FieldValue>,
        V::Error: Into<Error>,
    {
        if let Ok(content) = &mut self.content {
            match value.try_into() {
                Ok(value) => {
                    content.headers_mut().insert(name.into(), value);
                }
                Err(error) => self.content = Err(error.into()),
            }
        }
        self
    }

    /// Sends the answer through this exchange, with the queue that the question names as its routing key. It isn't declared.
    /// Default: the default exchange, which routes to that queue.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use std::time::Duration;
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let replies = Exchange::direct("replies");
    /// let mine = Queue::server_named().exclusive(true).bind(&replies, "ours");
    /// let mut answers = connection.consumer(&mine).no_ack(true).await?;
    /// let mut questions = connection.consumer(&Queue::new("questions")).await?;
    /// let producer = connection.producer(Exchange::default()).routing_key("questions").await?;
    /// producer.publish("how are you?").reply_to("ours").await?;
    ///
    /// let question = questions.try_next().await?.expect("a question");
    /// question.reply("fine").exchange(&replies).await?;
    /// question.ack().await?;
    ///
    /// let mut collected = answers.values::<String>().limit(1).patience(Duration::from_secs(5));
    /// let (answer, _) = collected.try_next().await?.expect("an answer");
    /// assert_eq!(answer, "fine");
    /// # Ok(())
    /// # }
    /// ```
    pub fn exchange(mut self, exchange: &Exchange) -> Self {
        if let Ok(content) = &mut self.content {
            content.exchange = exchange.name().clone();
        }
        self
    }

    /// The content type, in place of that of what writes the answer.
    pub fn content_type(mut self, value: impl Into<Name>) -> Self {
        if let Ok(content) = &mut self.content {
            content.content_type = value.into();
        }
        self
    }

    /// The content encoding, in place of that of what writes the answer.
    pub fn content_encoding(mut self, value: impl Into<Name>) -> Self {
        if let Ok(content) = &mut self.content {
            content.content_encoding = value.into();
        }
        self
    }

    /// AMQP's `type` of the answer.
    pub fn kind(mut self, kind: impl Into<Name>) -> Self {
        if let Ok(content) = &mut self.content {
            content.set_kind(kind);
        }
        self
    }
}

impl IntoFuture for Replying {
    type Output = Result<Published>;
    type IntoFuture = BoxFuture<'static, Result<Published>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let sent = async {
                let content = self.content?;
                let is_last = content.headers().get(MORE).is_none();
                let Some(link) = self.link else {
                    return Err(no_reply_to());
                };
                let producer = link.replying().await?;
                let published = publish(&producer.inner, Ok(content)).await?;
                if let Some(progress) = self.progress.filter(|_| is_last) {
                    progress.replied.store(true, Ordering::Relaxed);
                }
                Ok(published)
            };
            sent.await.map_err(|error| error.during("reply"))
        })
    }
}

impl fmt::Debug for Replying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replying").field(&self.content).finish()
    }
}

fn no_reply_to() -> Error {
    Error::new(
        ErrorKind::PreconditionFailed,
        "the message asks for no answer: it has no `reply_to`; look with `responder()` first",
    )
}

impl Delivery {
    /// What answers this delivery, if it asks for an answer: if it has a `reply_to`.
    pub fn responder(&self) -> Option<Responder> {
        Responder::new(self, self.link())
    }

    /// Answers this delivery with a value. It is still to be settled, best when the answer is with the broker: a server
    /// that dies in between is asked again.
    ///
    /// # Errors
    ///
    /// When awaited: [`ErrorKind::PreconditionFailed`] if it asks for no answer, and those of a publish. That whoever
    /// asked is gone is none.
    pub fn reply<T: Serialize + ?Sized>(&self, value: &T) -> Replying {
        match self.responder() {
            Some(responder) => responder.reply(value),
            None => Replying::refused(no_reply_to()),
        }
    }
}

impl Message {
    /// As [`Delivery::responder`].
    pub fn responder(&self) -> Option<Responder> {
        Responder::new(self, self.link())
    }
}

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::client::{Body, Connection, Publish, named, private};
use crate::declare::{DeliveryMode, Exchange, Queue};
use crate::driver::BoxFuture;
use crate::error::{Error, ErrorKind};
use crate::field::{FieldValue, Timestamp};
use crate::name::Name;

use super::asking::{Asking, Question, decoded};
use super::{Answer, Asked, CallError, Caller, Replies};

type Result<T, E = CallError> = std::result::Result<T, E>;

/// How long a queue that was handed out stays while nobody reads it.
const KEPT: Duration = Duration::from_secs(30 * 60);

/// A question to be asked: awaiting it publishes it and waits for the answer.
///
/// It is sent once, and again whenever its timeout passes or its session is lost, up to
/// [`max_retries`](Call::max_retries) times. All of these have one message id, by which a server can tell a repeat, and the
/// first answer to any of them is the call's. Answers that come later are ignored.
///
/// # Cancellation
///
/// The question is published when this is first awaited. Dropping the future after that doesn't take it back; its answer
/// is ignored.
#[must_use = "nothing is asked until this is awaited"]
pub struct Call<'a, B, Resp> {
    caller: &'a Caller,
    publish: Publish<'a, B>,
    delivery_mode: Option<DeliveryMode>,
    timeout: Option<Duration>,
    max_retries: u32,
    needs_responder: bool,
    answer: PhantomData<fn() -> Resp>,
}

macro_rules! forwarded {
    ($($(#[$doc:meta])* $name:ident($argument:ident: $kind:ty);)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $argument: $kind) -> Self {
            self.publish = self.publish.$name($argument);
            self
        }
    )*};
}

impl<'a, B: Body, Resp> Call<'a, B, Resp> {
    pub(crate) fn new(caller: &'a Caller, body: B) -> Self {
        let settings = &caller.settings;
        let publish = Publish::new(&caller.line.producer.inner, body)
            .exchange(&settings.exchange)
            .routing_key(&settings.routing_key)
            .codec(settings.codec.as_ref())
            .stage(settings.compression.as_ref())
            .mandatory();
        Call {
            caller,
            publish,
            delivery_mode: settings.delivery_mode,
            timeout: settings.timeout,
            max_retries: settings.max_retries,
            needs_responder: false,
            answer: PhantomData,
        }
    }

    /// How long each attempt waits for its answer; `None` waits for ever. Default: the caller's, 30 s.
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// How often the question is sent again if no answer comes. Default: the caller's, 4.
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.max_retries = retries;
        self
    }

    /// Whether the question should survive a restart of the broker, and with it the dead letter that it becomes if its handler
    /// fails. Default: the caller's; without one, not if it is asked again when nobody answers in time, and else what the
    /// caller's exchange says.
    pub fn delivery_mode(mut self, mode: DeliveryMode) -> Self {
        self.delivery_mode = Some(mode);
        self
    }

    /// Fails with [`CallError::NoResponder`] if the queue has no consumer when the call begins, instead of waiting for one.
    /// Only on the default exchange, where the key names the queue. Default: false.
    pub fn needs_responder(mut self, needed: bool) -> Self {
        self.needs_responder = needed;
        self
    }

    forwarded! {
        /// Another exchange than the caller's. It isn't declared.
        exchange(exchange: &Exchange);
        /// The routing key. Default: the caller's.
        routing_key(key: impl Into<Name>);
        /// Another serializer than the caller's, by name.
        serializer(name: &str);
        /// Another compression than the caller's, by name.
        compression(name: &str);
        /// The content type, in place of the serializer's.
        content_type(value: impl Into<Name>);
        /// The content encoding, in place of the serializer's.
        content_encoding(value: impl Into<Name>);
        /// The priority, on queues that have priorities.
        priority(priority: u8);
        /// How long the question may wait in its queue.
        expiration(expiration: Duration);
        /// When the question was made.
        timestamp(timestamp: impl Into<Timestamp>);
        /// AMQP's `type`: what kind of message it is; a handler's router may go by it.
        kind(kind: impl Into<Name>);
        /// Your own id of the question, in place of one that is made up. All of its repeats have it.
        message_id(id: impl Into<Name>);
        /// Who asks. RabbitMQ refuses a name that isn't the connection's user.
        user_id(user: impl Into<Name>);
        /// The application that asks.
        app_id(app: impl Into<Name>);
    }

    /// Adds a header, in place of one of the same name.
    pub fn header<V>(mut self, name: impl Into<Name>, value: V) -> Self
    where
        V: TryInto<FieldValue>,
        V::Error: Into<Error>,
    {
        self.publish = self.publish.header(name, value);
        self
    }

    fn question(self, reply_to: Option<&Name>) -> Result<(Question, Check)> {
        let line = self.caller.line.clone();
        let id = line.answers.next_id();
        let is_repeated = reply_to.is_none() && self.max_retries > 0 && self.timeout.is_some();
        let mode = self.delivery_mode.unwrap_or_else(|| match is_repeated {
            true => DeliveryMode::Transient,
            false => self.caller.settings.exchange.get_delivery_mode(),
        });
        let publish = self.publish.delivery_mode(mode);
        let mut content = publish.prepare().map_err(CallError::Transport)?;
        if content.message_id().is_none() {
            content.set_message_id(&id);
        }
        content.set_correlation_id(&id);
        if let Some(reply_to) = reply_to {
            content.set_reply_to(reply_to);
        }
        let check = Check {
            connection: self.caller.connection.clone(),
            exchange: content.exchange().clone(),
            queue: content.routing_key().clone(),
            wanted: self.needs_responder,
        };
        let question = Question {
            line,
            id,
            content,
            reading: self.caller.settings.reading.clone(),
            timeout: self.timeout,
            max_retries: self.max_retries,
            finds_reply_to: reply_to.is_none(),
        };
        Ok((question, check))
    }

    /// Waits for the answer and doesn't decode it: properties and headers can be looked at.
    ///
    /// # Errors
    ///
    /// As the call itself, but for [`CallError::Malformed`].
    pub fn answer(self) -> impl Future<Output = Result<Answer>> + Send + 'static {
        let question = self.question(None);
        async move {
            let (question, check) = question?;
            check.run().await?;
            let mut asking = Asking::new(question)?;
            poll_fn(|context| asking.poll(context)).await?.value()
        }
    }
}

impl<'a, B: Body, Resp: DeserializeOwned> Call<'a, B, Resp> {
    /// Asks several servers at once, and waits for `count` answers, or for as many as come within the timeout. The
    /// question is sent once. Each answer stands for itself, in the order in which they come.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::{Exchange, Queue};
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// let everybody = Exchange::fanout("everybody");
    /// for name in ["left", "right"] {
    ///     let queue = Queue::new(name).bind(&everybody, "");
    ///     let mut questions = connection.consumer(&queue).await?;
    ///     tokio::spawn(async move {
    ///         while let Some(delivery) = questions.try_next().await? {
    ///             delivery.reply(name).await?;
    ///             delivery.ack().await?;
    ///         }
    ///         kombu::Result::Ok(())
    ///     });
    /// }
    ///
    /// let caller = connection.caller(&everybody).await?;
    /// let answers = caller.call::<_, String>("who is there?").gather(2).await?;
    /// let mut names: Vec<String> = answers.into_iter().filter_map(Result::ok).collect();
    /// names.sort();
    /// assert_eq!(names, ["left", "right"]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`CallError::Timeout`] if nobody answers, and what keeps the question from being sent.
    pub fn gather(
        mut self,
        count: usize,
    ) -> impl Future<Output = Result<Vec<Result<Resp>>>> + Send + 'static {
        self.max_retries = 0;
        let question = self.question(None);
        async move {
            let (question, check) = question?;
            check.run().await?;
            let gathered = Asking::new(question)?.gather(count).await?;
            Ok(gathered.into_iter().map(decoded).collect())
        }
    }

    /// Asks for a stream of answers: each is handed out as it comes, and the one without further ones, or the end that the
    /// server sends, ends it. The timeout is for each of them.
    ///
    /// The question is sent again only as long as nothing was answered.
    pub fn stream(self) -> Replies<Resp> {
        let question = self.question(None);
        Replies::new(Box::pin(async move {
            let (question, check) = question?;
            check.run().await?;
            Ok(Asking::new(question)?.each_in_time())
        }))
    }

    /// Asks, and waits for no answer: hands out the queue that answers come to, which is this question's alone. Dropping
    /// that ends the queue.
    ///
    /// # Errors
    ///
    /// What keeps the question from being sent, or the queue from being declared.
    pub fn ask(self) -> impl Future<Output = Result<Asked<Resp>>> + Send + 'static {
        let connection = self.caller.connection.clone();
        let queue = private(&connection, named(&Queue::server_named()), KEPT);
        let question = self.question(Some(queue.name()));
        async move {
            let (question, check) = question?;
            check.run().await?;
            let declared = connection.declare_queue(&queue).await;
            declared.map_err(CallError::Transport)?;
            let reading = question.reading.clone();
            let asked = Asked::new(
                connection,
                queue.name().clone(),
                question.id.clone(),
                reading,
            );
            question.send().await.map_err(CallError::of_publish)?;
            Ok(asked)
        }
    }
}

impl<'a, B: Body, Resp: DeserializeOwned> IntoFuture for Call<'a, B, Resp> {
    type Output = Result<Resp>;
    type IntoFuture = BoxFuture<'static, Result<Resp>>;

    fn into_future(self) -> Self::IntoFuture {
        let answer = self.answer();
        Box::pin(async move { answer.await?.decode().map_err(CallError::Malformed) })
    }
}

impl<B, Resp> fmt::Debug for Call<'_, B, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("publish", &self.publish)
            .field("timeout", &self.timeout)
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}

/// Whether somebody is there to answer.
struct Check {
    connection: Connection,
    exchange: Name,
    queue: Name,
    wanted: bool,
}

impl Check {
    async fn run(self) -> Result<()> {
        if !self.wanted {
            return Ok(());
        }
        if !self.exchange.is_empty() {
            return Err(CallError::Transport(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "`needs_responder` looks at one queue, and exchange `{}` may lead to several; call through the default \
                     exchange, or leave it out",
                    self.exchange
                ),
            )));
        }
        match self.connection.queue_info(&self.queue).await {
            Ok(info) if info.consumers > 0 => Ok(()),
            Ok(_) => Err(CallError::NoResponder { queue: self.queue }),
            Err(error) => match error.kind() {
                // Its owner is connected, and will look after it.
                ErrorKind::ResourceLocked => Ok(()),
                ErrorKind::NotFound => Err(CallError::Unroutable(error)),
                _ => Err(CallError::Transport(error)),
            },
        }
    }
}

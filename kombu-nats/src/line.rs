//! The way of one session to its server.
//!
//! What is asked for is on its way when the call returns, in the order of the calls, whether anybody polls the answer or
//! not. The client would connect again by itself; here its end is the session's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::client::Request;
use async_nats::{Client, HeaderMap, Message, RequestErrorKind, Subject, Subscriber};
use bytes::Bytes;
use kombu_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};

use crate::answers::{self, Answers, Expected};
use crate::error::{self, ApiError};
use crate::names::Layout;
use crate::permissions::{Needed, Refusals, Refused};

pub(crate) use crate::answers::Stored;

/// What the subjects of JetStream's interface begin with, where no domain is said.
pub(crate) const API: &str = "$JS.API";

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Why a session is over; nothing while it isn't.
pub(crate) type Loss = watch::Sender<Option<(ErrorKind, String)>>;

/// Whether there is a line.
#[derive(Clone)]
pub(crate) struct Life {
    client: Arc<Client>,
    answers: Arc<Answers>,
    lost: Loss,
    refusals: Refusals,
    needed: Arc<Needed>,
}

/// One session's line.
pub(crate) struct Line {
    life: Life,
    pub(crate) runtime: Handle,
    pub(crate) layout: Layout,
    /// The session's number.
    pub(crate) session: u64,
    /// What the subjects of JetStream's interface begin with.
    api: String,
    over: watch::Sender<bool>,
    is_over: AtomicBool,
    is_hung_up: AtomicBool,
}

/// What JetStream's interface says.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum ApiAnswer<T> {
    Refused { error: ApiError },
    Done(T),
}

/// What a session sends to itself: it is read as an answer that says nothing.
const ECHO: Bytes = Bytes::from_static(b"{}");

impl Life {
    /// Waits for an answer; `None` if there is none in time.
    ///
    /// That needn't be the line's fault: whoever would answer may be on another server, which is gone. So the one that the line
    /// leads to is asked as well, and if that is silent too, the line is lost.
    async fn answer_in_time<T>(&self, asking: impl Future<Output = T>) -> Option<T> {
        let mut asking = std::pin::pin!(asking);
        if let Ok(answer) = timeout(PATIENCE / 2, &mut asking).await {
            return Some(answer);
        }
        let looking = async { tokio::join!(self.look_for_sign(), sleep(PATIENCE / 2)) };
        tokio::select! {
            biased;
            answer = asking => Some(answer),
            _ = looking => None,
        }
    }

    /// Asks the server that the line leads to for a sign of life. Something else may stand in front of its answer for long, and
    /// is one, too. Without any, the line is lost.
    pub(crate) async fn look_for_sign(&self) {
        let statistics = self.client.statistics();
        let came = || statistics.in_bytes.load(Ordering::Relaxed);
        let before = came();
        let sign = timeout(PATIENCE / 2, self.ping()).await;
        if sign.is_err() && came() == before {
            let text = "NATS gives no sign of life".to_owned();
            lose(&self.lost, ErrorKind::ConnectionLost, text);
        }
    }

    /// Takes in what the server refuses: whoever waits for it is told, and a session that can't do without ends.
    pub(crate) fn take_in_refusal(&self, refused: &Refused) {
        let concerns = |subject: &str| self.needed.is_publish_to(refused, subject);
        self.answers.refuse(concerns, || refused.error());
        if self.needed.has(refused) {
            let error = refused.error();
            lose(&self.lost, error.kind(), error.message().to_owned());
        }
    }

    /// What the server refuses from now on.
    pub(crate) fn refusals(&self) -> broadcast::Receiver<Arc<Refused>> {
        self.refusals.subscribe()
    }

    /// Resolves when the server refuses a publish to this subject.
    async fn refusal(
        &self,
        mut refusals: broadcast::Receiver<Arc<Refused>>,
        subject: &str,
    ) -> Error {
        loop {
            match refusals.recv().await {
                Ok(refused) if self.needed.is_publish_to(&refused, subject) => {
                    return refused.error();
                }
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// Resolves when the server has taken in what was sent before: it gives us back what we send to ourselves. That nobody
    /// listens at a subject would tell as much, but for those who listen to everything.
    async fn ping(&self) -> Result<()> {
        let Some((expected, reply)) = self.answers.open(None) else {
            return Err(self.loss());
        };
        let sending = self.client.publish(reply, ECHO);
        sending
            .await
            .map_err(|error| error::classify_publish(error, "a sign of life"))?;
        expected.await.map(drop)
    }

    /// Why there is no session any more.
    pub(crate) fn loss(&self) -> Error {
        match &*self.lost.borrow() {
            Some((kind, text)) => Error::new(*kind, text.clone()),
            None => Error::new(ErrorKind::ConnectionLost, "the session with NATS has ended"),
        }
    }

    /// Resolves when the session is lost; never if it is hung up.
    pub(crate) fn lost(&self) -> impl Future<Output = Error> + Send + use<> {
        let mut lost = self.lost.subscribe();
        async move {
            let reason = match lost.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone(),
                Err(_) => None,
            };
            match reason {
                Some((kind, text)) => Error::new(kind, text),
                None => std::future::pending().await,
            }
        }
    }
}

/// Lets a future begin its work now, on whatever thread: the client's timers want to be within a runtime, which the thread
/// of a program that waits for its answers isn't.
pub(crate) fn begin<T>(
    runtime: &Handle,
    future: &mut Pin<Box<dyn Future<Output = T> + Send>>,
) -> Option<T> {
    let _entered = match Handle::try_current() {
        Ok(_) => None,
        Err(_) => Some(runtime.enter()),
    };
    // The client's queue has room for all that can be under way, so that nothing but tokio's own
    // idea of turns could keep this from being queued.
    let mut unconstrained = std::pin::pin!(tokio::task::unconstrained(future));
    match unconstrained
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl Line {
    /// Within a runtime.
    pub(crate) fn open(
        client: Client,
        layout: Layout,
        session: u64,
        api: String,
        lost: Loss,
        refusals: Refusals,
    ) -> Result<Self> {
        let life = Life {
            answers: Answers::new(&client.new_inbox()),
            client: Arc::new(client),
            lost,
            refusals,
            needed: Arc::new(Needed::new(&layout, &api)),
        };
        let line = Line {
            life,
            runtime: Handle::current(),
            layout,
            session,
            api,
            over: watch::Sender::new(false),
            is_over: AtomicBool::new(false),
            is_hung_up: AtomicBool::new(false),
        };
        let arrivals = line.listen(line.life.answers.subject())?;
        tokio::spawn(answers::serve(
            line.life.answers.clone(),
            arrivals,
            line.life.clone(),
            line.life.refusals(),
            line.over(),
        ));
        Ok(line)
    }

    /// Sends something that isn't answered.
    pub(crate) fn tell(&self, subject: Subject, payload: Bytes) {
        if self.is_over() {
            return;
        }
        let client = self.life.client.clone();
        let mut telling: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { client.publish(subject, payload).await });
        drop(begin(&self.runtime, &mut telling));
    }

    /// Sends something and answers what comes back; `None` if nobody is there to answer.
    pub(crate) fn ask(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        what: &'static str,
    ) -> Answer<Option<Message>> {
        if self.is_over() {
            let loss = self.loss();
            return Box::pin(async move { Err(loss) });
        }
        let mut asking: Answer<Option<Message>> =
            Box::pin(self.asking(subject, headers, payload, what));
        match begin(&self.runtime, &mut asking) {
            Some(answer) => Box::pin(async move { answer }),
            None => asking,
        }
    }

    fn asking(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        what: &'static str,
    ) -> impl Future<Output = Result<Option<Message>>> + Send + use<> {
        let life = self.life.clone();
        async move {
            let mut request = Request::new().payload(payload).timeout(None);
            if let Some(headers) = headers {
                request = request.headers(headers);
            }
            let refused = life.refusal(life.refusals(), &subject);
            let asking = life.answer_in_time(life.client.send_request(subject.clone(), request));
            let answer = tokio::select! {
                biased;
                answer = asking => answer,
                refused = refused => return Err(refused),
            };
            match answer {
                Some(Ok(message)) => Ok(Some(message)),
                Some(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
                Some(Err(error)) => {
                    let error = error::classify_request(error, what);
                    if error.kind() == ErrorKind::ConnectionLost {
                        lose(&life.lost, error.kind(), error.to_string());
                    }
                    Err(error)
                }
                None => match &*life.lost.borrow() {
                    Some((kind, text)) => Err(Error::new(*kind, text.clone())),
                    None => Err(error::silence(what)),
                },
            }
        }
    }

    /// Tries what a user has to be allowed. What comes of it has come when the answer to what is asked for next is there.
    pub(crate) fn try_permissions(&self) -> Result<Vec<Subscriber>> {
        self.life.needed.try_out(self)
    }

    /// Asks the server that this line leads to for a sign of life.
    pub(crate) fn ping(&self) -> Answer<()> {
        let life = self.life.clone();
        Box::pin(async move { life.ping().await })
    }

    /// Expects an answer to what is published to a subject, and at which.
    fn expect(&self, subject: &Subject) -> Result<(Expected, Subject)> {
        let expected = self.life.answers.open(Some(subject));
        expected
            .filter(|_| !self.is_over())
            .ok_or_else(|| self.loss())
    }

    /// Publishes into a stream.
    pub(crate) fn store(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Answer<Stored> {
        let (expected, reply) = match self.expect(&subject) {
            Ok(expected) => expected,
            Err(loss) => return Box::pin(async move { Err(loss) }),
        };
        let client = self.life.client.clone();
        let mut sending: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            match headers {
                Some(headers) => {
                    client
                        .publish_with_reply_and_headers(subject, reply, headers, payload)
                        .await
                }
                None => client.publish_with_reply(subject, reply, payload).await,
            }
        });
        match begin(&self.runtime, &mut sending) {
            Some(Ok(())) => Box::pin(expected),
            Some(Err(error)) => {
                let error = error::classify_publish(error, "a message");
                Box::pin(async move { Err(error) })
            }
            None => Box::pin(async move {
                sending
                    .await
                    .map_err(|error| error::classify_publish(error, "a message"))?;
                expected.await
            }),
        }
    }

    /// Writes a key of a bucket. A leaf node of another domain keeps the bucket's own subject from its hub.
    pub(crate) fn put(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Answer<Stored> {
        let subject = match self.api.as_str() {
            API => subject.to_owned(),
            api => format!("{api}.{subject}"),
        };
        self.store(subject.into(), headers, payload)
    }

    /// Gives something to whoever listens there now, which no stream keeps; the answer says that the server has it.
    pub(crate) fn hand_over(
        &self,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Answer<()> {
        let (expected, reply) = match self.expect(&subject) {
            Ok(expected) => expected,
            Err(loss) => return Box::pin(async move { Err(loss) }),
        };
        let client = self.life.client.clone();
        let mut sending: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
            client
                .publish_with_headers(subject, headers, payload)
                .await?;
            // We listen there, and hear of it when the server has taken what was sent before.
            client.publish(reply, ECHO).await
        });
        let sent = begin(&self.runtime, &mut sending);
        Box::pin(async move {
            let sent = match sent {
                Some(sent) => sent,
                None => sending.await,
            };
            sent.map_err(|error| error::classify_publish(error, "an answer"))?;
            expected.await.map(drop).map_err(Error::with_maybe_stored)
        })
    }

    /// Asks JetStream's interface.
    pub(crate) fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: &impl Serialize,
        what: &'static str,
    ) -> Answer<std::result::Result<T, ApiError>> {
        let subject = Subject::from(format!("{}.{subject}", self.api));
        let payload = match serde_json::to_vec(body) {
            Ok(payload) if payload == b"null" => Bytes::new(),
            Ok(payload) => payload.into(),
            Err(problem) => {
                let error = Error::new(ErrorKind::Protocol, format!("{what} can't be written"))
                    .with_source(problem);
                return Box::pin(async move { Err(error) });
            }
        };
        let asking = self.ask(subject, None, payload, what);
        Box::pin(async move {
            let Some(message) = asking.await? else {
                return Err(error::nobody(what));
            };
            match serde_json::from_slice(&message.payload) {
                Ok(ApiAnswer::Refused { error }) => Ok(Err(error)),
                Ok(ApiAnswer::Done(done)) => Ok(Ok(done)),
                Err(problem) => Err(error::unexpected(what).with_source(problem)),
            }
        })
    }

    /// The subject that pulls from a consumer.
    pub(crate) fn pull_subject(&self, stream: &str, consumer: &str) -> Subject {
        format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", self.api).into()
    }

    /// The name of the server since it was started.
    pub(crate) fn server(&self) -> String {
        self.life.client.server_info().server_id
    }

    /// The server's version.
    pub(crate) fn version(&self) -> String {
        self.life.client.server_info().version
    }

    /// Whether there are other servers beside it.
    pub(crate) fn is_with_a_cluster(&self) -> bool {
        self.life.client.server_info().cluster.is_some()
    }

    /// Whether the server that was of this name has begun anew, as far as it can be told: one of a cluster may be another.
    pub(crate) fn is_restarted(&self, before: &str) -> bool {
        let info = self.life.client.server_info();
        info.connect_urls.is_empty() && info.server_id != before
    }

    /// A subject of our own.
    pub(crate) fn inbox(&self) -> Subject {
        self.life.client.new_inbox().into()
    }

    /// Sends something whose answers go to `reply`.
    pub(crate) fn tell_with_reply(&self, subject: Subject, reply: Subject, payload: Bytes) {
        if self.is_over() {
            return;
        }
        let client = self.life.client.clone();
        let mut telling: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { client.publish_with_reply(subject, reply, payload).await });
        drop(begin(&self.runtime, &mut telling));
    }

    /// Listens at a subject.
    pub(crate) fn listen(&self, subject: Subject) -> Result<Subscriber> {
        if self.is_over() {
            return Err(self.loss());
        }
        let client = self.life.client.clone();
        let mut listening: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { client.subscribe(subject).await });
        match begin(&self.runtime, &mut listening) {
            Some(Ok(subscriber)) => Ok(subscriber),
            _ => Err(self.loss()),
        }
    }

    /// Listens for so many messages.
    pub(crate) fn listen_for(&self, subject: Subject, count: u64) -> Result<Subscriber> {
        let mut subscriber = self.listen(subject)?;
        // Queued behind the subscription, at once.
        {
            let done = tokio::task::unconstrained(subscriber.unsubscribe_after(count));
            let mut done = std::pin::pin!(done);
            drop(done.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        }
        Ok(subscriber)
    }

    /// Pulls one message that is there. It comes with the subject that it was published to, so that it needs a place of its
    /// own to arrive at.
    pub(crate) fn pull_one(&self, pull: Subject) -> Result<Subscriber> {
        let inbox = self.inbox();
        let arrivals = self.listen_for(inbox.clone(), 1)?;
        self.tell_with_reply(
            pull,
            inbox,
            Bytes::from_static(br#"{"batch":1,"no_wait":true}"#),
        );
        Ok(arrivals)
    }

    /// Why there is no session any more.
    pub(crate) fn loss(&self) -> Error {
        self.life.loss()
    }

    /// Resolves when the session is lost; never if it is hung up.
    pub(crate) fn lost(&self) -> impl Future<Output = Error> + Send + use<> {
        self.life.lost()
    }

    /// Ends the session for this side, as lost for this reason.
    pub(crate) fn lose(&self, error: &Error) {
        if !self.is_hung_up.load(Ordering::Acquire) {
            lose(&self.life.lost, error.kind(), error.to_string());
        }
        self.end();
    }

    /// What every session of a virtual host needs is gone.
    pub(crate) fn lose_data(&self) -> Error {
        self.lose(&Error::new(
            ErrorKind::ConnectionLost,
            "NATS has lost its data",
        ));
        self.loss()
    }

    /// What was listened to has ended by itself: so has the connection.
    pub(crate) fn lose_connection(&self) -> Error {
        self.lose(&Error::new(
            ErrorKind::ConnectionLost,
            "the connection to NATS has ended",
        ));
        self.loss()
    }

    /// Ends it on purpose.
    pub(crate) fn hang_up(&self) {
        self.is_hung_up.store(true, Ordering::Release);
        self.end();
    }

    /// Ends the connection when what is queued is written.
    fn end(&self) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            return;
        }
        self.over.send_replace(true);
        let client = self.life.client.clone();
        let mut draining: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { client.drain().await });
        drop(begin(&self.runtime, &mut draining));
    }

    /// Resolves when the session is over, in whichever way.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut over = self.over.subscribe();
        async move {
            // Without a line, it is over too.
            drop(over.wait_for(|over| *over).await);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire) || self.life.lost.borrow().is_some()
    }
}

impl Drop for Line {
    /// Also what never became a session has a connection, which ends with it.
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes note of the reason for which a session ended, if it is the first.
pub(crate) fn lose(lost: &Loss, kind: ErrorKind, text: String) {
    lost.send_if_modified(|lost| {
        let is_first = lost.is_none();
        if is_first {
            *lost = Some((kind, text));
        }
        is_first
    });
}

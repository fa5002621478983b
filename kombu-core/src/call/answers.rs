use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use futures_core::Stream;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::client::{Interceptors, received};
use crate::declare::DeclareMode;
use crate::driver::{self, Publisher, Received, Subscription};
use crate::engine::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Content;
use crate::name::Name;

use super::inbox::Inbox;

/// Where the answers to the questions of one connection come to, on whichever session.
///
/// It holds nothing that would keep the connection open.
pub(crate) struct Answers {
    /// What the reply queue is called, where there is one.
    queue: Mutex<Name>,
    reply_to: Mutex<Name>,
    waiting: Mutex<HashMap<Name, Arc<Inbox>>>,
    /// In front of the numbers of questions: nobody else's are alike.
    prefix: String,
    questions: AtomicU64,
    reading: Mutex<Option<AbortHandle>>,
    interceptors: Interceptors,
    runtime: Handle,
}

impl Answers {
    pub(super) fn new(interceptors: Interceptors, runtime: Handle) -> Self {
        Answers {
            queue: Mutex::new(Name::random("kombu.reply-")),
            reply_to: Mutex::default(),
            waiting: Mutex::default(),
            prefix: format!("{:016x}", fastrand::u64(..)),
            questions: AtomicU64::new(0),
            reading: Mutex::default(),
            interceptors,
            runtime,
        }
    }

    /// Receives answers on this session, and answers with what publishes the questions.
    pub(crate) async fn open(
        self: &Arc<Self>,
        session: &Arc<Session>,
    ) -> Result<Arc<dyn Publisher>> {
        let mut queue = self.queue.lock().clone();
        let caller = match session.driver.open_caller(&queue).await {
            // The broker hasn't noticed yet that the session which had it is gone.
            Err(error) if error.kind() == ErrorKind::ResourceLocked => {
                queue = Name::random("kombu.reply-");
                *self.queue.lock() = queue.clone();
                session.driver.open_caller(&queue).await?
            }
            opened => opened?,
        };
        let has_queue = (caller.reply_to == queue).then_some(queue);
        *self.reply_to.lock() = caller.reply_to;
        let reading = Reading {
            answers: Arc::downgrade(self),
            session: Arc::downgrade(session),
            queue: has_queue,
            replies: caller.replies,
        };
        let reading = self.runtime.spawn(reading.run());
        if let Some(before) = self.reading.lock().replace(reading.abort_handle()) {
            before.abort();
        }
        self.lose();
        Ok(caller.publisher)
    }

    /// What questions carry as `reply_to` at present.
    pub(super) fn reply_to(&self) -> Name {
        self.reply_to.lock().clone()
    }

    /// A question that nobody else has asked.
    pub(super) fn next_id(&self) -> Name {
        let number = self.questions.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number:x}", self.prefix).into()
    }

    /// Waits for the answers to a question, for as long as the result is kept.
    pub(super) fn wait(self: &Arc<Self>, id: Name) -> Waiting {
        let inbox = Arc::new(Inbox::default());
        self.waiting.lock().insert(id.clone(), inbox.clone());
        Waiting {
            answers: self.clone(),
            id,
            inbox,
        }
    }

    fn take_in(&self, answer: Content) {
        let waiting = self.waiting.lock();
        match answer.correlation_id().and_then(|id| waiting.get(id)) {
            Some(inbox) => inbox.put(answer),
            None => {
                tracing::debug!(id = answer.correlation_id(), "nobody waits for an answer")
            }
        }
    }

    /// Some of what was on its way may be gone.
    fn lose(&self) {
        for inbox in self.waiting.lock().values() {
            inbox.lose();
        }
    }

    /// The connection has ended.
    pub(crate) fn end(&self, reason: &Error) {
        for inbox in self.waiting.lock().values() {
            inbox.end(reason);
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.get_mut().take() {
            reading.abort();
        }
    }
}

/// Hands out what comes on one session.
struct Reading {
    answers: Weak<Answers>,
    session: Weak<Session>,
    /// The reply queue, if there is one.
    queue: Option<Name>,
    replies: Box<dyn Subscription>,
}

impl Reading {
    async fn run(mut self) {
        let Err(error) = self.read().await else {
            return;
        };
        // The next session brings others.
        if matches!(error.kind(), ErrorKind::ConnectionLost | ErrorKind::Closed) {
            return;
        }
        tracing::warn!(%error, "answers don't come any more on this session, which is ended");
        if let Some(session) = self.session.upgrade() {
            drop(session.driver.close().await);
        }
    }

    /// An error says that nothing more comes, and whoever waits would wait in vain.
    async fn read(&mut self) -> Result<()> {
        loop {
            let next = poll_fn(|context| Pin::new(&mut self.replies).poll_next(context)).await;
            let Some(answers) = self.answers.upgrade() else {
                return Ok(());
            };
            match next {
                Some(Ok(Received::Delivery(raw))) => {
                    let content = Content::clone(&raw.envelope);
                    tracing::debug!(answer = ?content, "received");
                    if answers.interceptors.is_empty() {
                        answers.take_in(content);
                        continue;
                    }
                    match received(answers.interceptors.clone(), content).await {
                        Ok(content) => answers.take_in(content),
                        Err(error) => tracing::warn!(%error, "an interceptor refused an answer"),
                    }
                }
                Some(Ok(Received::Cancelled { .. })) => {
                    self.reopen().await?;
                    answers.lose();
                }
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    }

    /// Somebody deleted the reply queue: it is declared again.
    async fn reopen(&mut self) -> Result<()> {
        let (Some(queue), Some(session)) = (&self.queue, self.session.upgrade()) else {
            return Ok(());
        };
        tracing::warn!(%queue, "the reply queue was deleted, and is declared again");
        let (driver, declared) = (&session.driver, driver::Caller::queue(queue));
        driver.declare_queue(&declared, DeclareMode::Ensure).await?;
        let options = driver::Caller::options();
        let queues = std::slice::from_ref(queue);
        self.replies = driver.open_subscription(queues, &options).await?;
        Ok(())
    }
}

/// A question whose answers are waited for; dropping it forgets the question.
pub(super) struct Waiting {
    answers: Arc<Answers>,
    pub(super) id: Name,
    pub(super) inbox: Arc<Inbox>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.answers.waiting.lock().remove(&self.id);
    }
}

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{Sleep, sleep_until};

use crate::client::{Published, Publishing, publish};
use crate::engine::{check_runtime, deadline};
use crate::error::{Error, ErrorKind};
use crate::message::Content;
use crate::name::Name;

use super::answer::Reading;
use super::answers::Waiting;
use super::caller::Line;
use super::inbox::News;
use super::{Answer, CallError};

type Result<T, E = CallError> = std::result::Result<T, E>;

/// A question that only has to be sent.
pub(super) struct Question {
    pub(super) line: Arc<Line>,
    pub(super) id: Name,
    pub(super) content: Content,
    pub(super) reading: Reading,
    pub(super) timeout: Option<Duration>,
    pub(super) max_retries: u32,
    /// Its answers come to where the line's do, which another session may have elsewhere.
    pub(super) finds_reply_to: bool,
}

impl Question {
    pub(super) fn send(&self) -> Publishing {
        self.send_for(&self.line.answers.reply_to())
    }

    /// Sends it, to be answered there unless it says where itself.
    fn send_for(&self, reply_to: &Name) -> Publishing {
        let mut content = self.content.clone();
        if self.finds_reply_to {
            content.set_reply_to(reply_to);
        }
        publish(&self.line.producer.inner, Ok(content))
    }
}

/// A question that was sent, until its last answer.
pub(super) struct Asking {
    // Dropped first: nothing comes for it from then on.
    waiting: Waiting,
    question: Question,
    /// The last attempt, until the broker has confirmed it.
    publishing: Option<Publishing>,
    /// Where its answer comes to.
    reply_to: Name,
    attempts: u32,
    end: Option<Pin<Box<Sleep>>>,
    has_answers: bool,
    /// Whether the timeout begins anew with each answer.
    each_in_time: bool,
}

impl Asking {
    pub(super) fn new(question: Question) -> Result<Self> {
        check_runtime().map_err(CallError::Transport)?;
        // Before it is sent, or the answer might be here first.
        let waiting = question.line.answers.wait(question.id.clone());
        let mut asking = Asking {
            waiting,
            publishing: None,
            reply_to: Name::EMPTY,
            attempts: 0,
            end: None,
            has_answers: false,
            each_in_time: false,
            question,
        };
        asking.attempt();
        Ok(asking)
    }

    pub(super) fn each_in_time(mut self) -> Self {
        self.each_in_time = true;
        self
    }

    /// Begins another attempt. What the broker hasn't confirmed is still on its way, and isn't sent twice, unless its answer
    /// would come to nobody.
    fn attempt(&mut self) {
        self.attempts += 1;
        let reply_to = self.question.line.answers.reply_to();
        if self.publishing.is_none() || reply_to != self.reply_to {
            self.publishing = Some(self.question.send_for(&reply_to));
            self.reply_to = reply_to;
        }
        self.begin_time();
    }

    fn begin_time(&mut self) {
        if let Some(timeout) = self.question.timeout {
            let end = deadline(timeout);
            match &mut self.end {
                Some(sleep) => sleep.as_mut().reset(end),
                None => self.end = Some(Box::pin(sleep_until(end))),
            }
        }
    }

    fn may_try_again(&self) -> bool {
        !self.has_answers && self.attempts <= self.question.max_retries
    }

    /// The next answer, whatever it says.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer>> {
        loop {
            if let Poll::Ready(news) = self.waiting.inbox.poll(context) {
                match news {
                    News::Answer(content) => {
                        self.has_answers = true;
                        if self.each_in_time {
                            self.begin_time();
                        }
                        return Poll::Ready(Ok(Answer::new(content, &self.question.reading)));
                    }
                    News::Lost => self.lost()?,
                    News::End(error) => {
                        return Poll::Ready(Err(CallError::Transport(error.during("call"))));
                    }
                }
                continue;
            }
            if let Some(publishing) = &mut self.publishing
                && let Poll::Ready(published) = Pin::new(publishing).poll(context)
            {
                self.publishing = None;
                self.published(published)?;
                continue;
            }
            if let Some(end) = &mut self.end
                && end.as_mut().poll(context).is_ready()
            {
                self.late()?;
                continue;
            }
            return Poll::Pending;
        }
    }

    fn published(&self, published: crate::Result<Published>) -> Result<()> {
        match published {
            Ok(_) => Ok(()),
            // An attempt that failed; the next one comes in its time.
            Err(error)
                if error.is_transient()
                    && self.end.is_some()
                    && (self.may_try_again() || self.has_answers) =>
            {
                tracing::debug!(%error, id = %self.question.id, "a question may not have been sent");
                Ok(())
            }
            Err(error) => Err(CallError::of_publish(error)),
        }
    }

    fn late(&mut self) -> Result<()> {
        if !self.may_try_again() {
            return Err(CallError::Timeout {
                attempts: self.attempts,
            });
        }
        tracing::debug!(id = %self.question.id, attempts = self.attempts, "no answer: asked again");
        self.attempt();
        Ok(())
    }

    /// Answers may have been lost with a session.
    fn lost(&mut self) -> Result<()> {
        // What isn't confirmed is sent again anyway, for an answer to where it was.
        let is_elsewhere = self.question.line.answers.reply_to() != self.reply_to;
        if self.publishing.is_some() && !is_elsewhere {
            return Ok(());
        }
        if self.may_try_again() {
            tracing::debug!(id = %self.question.id, "an answer may be lost: asked again");
            self.attempt();
            return Ok(());
        }
        if self.question.timeout.is_some() && !self.each_in_time {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::ConnectionLost,
            "the answer may have been lost with its session, and no retries are left; ask again",
        );
        Err(CallError::Transport(error.during("call")))
    }

    /// As many answers as come, up to `count`.
    pub(super) async fn gather(&mut self, count: usize) -> Result<Vec<Answer>> {
        let mut gathered = Vec::new();
        while gathered.len() < count {
            match poll_fn(|context| self.poll(context)).await {
                Ok(answer) => gathered.push(answer),
                Err(CallError::Timeout { .. }) if !gathered.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(gathered)
    }
}

/// The value of an answer.
pub(super) fn decoded<T: DeserializeOwned>(answer: Answer) -> Result<T> {
    answer.value()?.decode().map_err(CallError::Malformed)
}

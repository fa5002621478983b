use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::timeout_at;

use crate::client::{Connection, Consumer};
use crate::declare::Queue;
use crate::engine::deadline;
use crate::error::{Error, ErrorKind};
use crate::name::Name;

use super::answer::Reading;
use super::asking::decoded;
use super::{Answer, CallError};

type Result<T, E = CallError> = std::result::Result<T, E>;

/// A question that was asked, and the queue that its answers come to: they wait there until they are fetched.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// # use kombu::{Exchange, Queue};
/// # let connection = kombu::connect("memory://").await?;
/// # let mut questions = connection.consumer(&Queue::new("upper")).await?;
/// # tokio::spawn(async move {
/// #     while let Ok(Some(delivery)) = questions.try_next().await {
/// #         let text = delivery.decode::<String>()?.to_uppercase();
/// #         delivery.reply(&text).await?;
/// #         delivery.ack().await?;
/// #     }
/// #     kombu::Result::Ok(())
/// # });
/// use std::time::Duration;
///
/// let caller = connection.caller(Exchange::default()).routing_key("upper").await?;
/// let mut asked = caller.call::<_, String>("later").ask().await?;
/// println!("the answer comes to {}", asked.queue());
/// // Something else is done meanwhile.
/// assert_eq!(asked.answer(Duration::from_secs(5)).await?, "LATER");
/// # Ok(())
/// # }
/// ```
///
/// # Drop
///
/// The queue goes with it, at once if an answer was waited for, else half an hour later or with the connection. Where a
/// transport has none of that, [`close`](Asked::close) deletes it.
pub struct Asked<Resp> {
    connection: Connection,
    queue: Name,
    id: Name,
    reading: Reading,
    /// Opened when an answer is waited for.
    answers: Option<Consumer>,
    value: PhantomData<fn() -> Resp>,
}

impl<Resp: DeserializeOwned> Asked<Resp> {
    pub(super) fn new(connection: Connection, queue: Name, id: Name, reading: Reading) -> Self {
        Asked {
            connection,
            queue,
            id,
            reading,
            answers: None,
            value: PhantomData,
        }
    }

    /// The queue that answers come to.
    pub fn queue(&self) -> &Name {
        &self.queue
    }

    /// What an answer should carry as its correlation id. Since the queue is this question's alone, one without it is
    /// an answer as well.
    pub fn correlation_id(&self) -> &Name {
        &self.id
    }

    /// The next answer, waited for until the timeout; `None` waits for ever. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`CallError::Timeout`], and what the answer says.
    pub async fn answer(&mut self, timeout: impl Into<Option<Duration>>) -> Result<Resp> {
        decoded(self.next(timeout.into()).await?)
    }

    /// `count` answers, or as many as come until the timeout.
    ///
    /// # Errors
    ///
    /// [`CallError::Timeout`] if none comes.
    pub async fn gather(
        &mut self,
        count: usize,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Vec<Result<Resp>>> {
        let end = timeout.into().map(deadline);
        let mut gathered = Vec::new();
        while gathered.len() < count {
            let left = end.map(|end| end.saturating_duration_since(tokio::time::Instant::now()));
            match self.next(left).await {
                Ok(answer) => gathered.push(decoded(answer)),
                Err(CallError::Timeout { .. }) if !gathered.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(gathered)
    }

    /// Deletes the queue, with what is in it.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::delete_queue`]; a queue that is gone already is none.
    pub async fn close(mut self) -> crate::Result<()> {
        self.answers = None;
        match self.connection.delete_queue(&self.queue).await {
            // It went with whoever received answers.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    async fn next(&mut self, timeout: Option<Duration>) -> Result<Answer> {
        crate::engine::check_runtime().map_err(CallError::Transport)?;
        match timeout {
            None => self.receive().await,
            Some(timeout) => match timeout_at(deadline(timeout), self.receive()).await {
                Ok(answer) => answer,
                Err(_) => Err(CallError::Timeout { attempts: 1 }),
            },
        }
    }

    async fn receive(&mut self) -> Result<Answer> {
        let consumer = match &mut self.answers {
            Some(consumer) => consumer,
            None => {
                let queue = Queue::new(&self.queue).passive();
                let consumer = self.connection.consumer(&queue).await;
                self.answers.insert(consumer.map_err(CallError::Transport)?)
            }
        };
        let delivery = match consumer.try_next().await {
            Ok(Some(delivery)) => delivery,
            Ok(None) => {
                return Err(CallError::Transport(Error::new(
                    ErrorKind::Closed,
                    "the connection is closed; connect again",
                )));
            }
            Err(error) => return Err(CallError::Transport(error)),
        };
        let answer = Answer::new((*delivery).clone(), &self.reading);
        // It is ours alone, so nobody else gets it if this is lost.
        drop(delivery.ack());
        Ok(answer)
    }
}

impl<Resp> Drop for Asked<Resp> {
    fn drop(&mut self) {
        // Its last consumer takes the queue along, unless there was none.
        self.connection.forget_queue(&self.queue);
    }
}

impl<Resp> fmt::Debug for Asked<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked")
            .field("queue", &self.queue)
            .field("correlation_id", &self.id)
            .finish_non_exhaustive()
    }
}

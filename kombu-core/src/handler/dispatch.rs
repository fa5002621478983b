use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::call::{Failure, FailureKind, Replying, Responder};
use crate::client::{Delivery, Recall, Settling};
use crate::error::{Error, ErrorKind};

use super::reaction::{Answer, Kind, Style};
use super::request::Untaken;
use super::route::Erased;
use super::serve::GRACE;
use super::{Exit, HandlerError, Outcome, Reaction, Rejection, Request, Retries, Router};

/// How long a message is kept that was handed out before, and is released: others shall have it.
const RELEASED_AGAIN: Duration = Duration::from_millis(100);

/// Takes deliveries to their handlers, and settles them.
pub(super) struct Dispatch {
    pub(super) router: Router,
    pub(super) retries: Retries,
    pub(super) tells_errors: bool,
    pub(super) style: Option<Arc<dyn Style>>,
    /// Whether the broker can have a message come again later.
    pub(super) delays: bool,
    /// What goes back when the others are done. A consumer would hold it; these deliveries have none.
    pub(super) kept: Option<Mutex<Vec<Delivery>>>,
}

impl Dispatch {
    /// How many deliveries are kept.
    pub(super) fn count_kept(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.lock().len())
    }

    /// Gives back what is kept, the latest first, so that each is in its place again.
    pub(super) async fn give_back(&self) {
        let kept = self
            .kept
            .as_ref()
            .map(|kept| std::mem::take(&mut *kept.lock()));
        for delivery in kept.into_iter().flatten().rev() {
            tell(delivery.release()).await;
        }
    }

    /// Does with a delivery what is done with one that can't be decoded.
    fn give_up(&self, delivery: Delivery) {
        match &self.kept {
            Some(kept) => kept.lock().push(delivery),
            None => delivery.give_up(),
        }
    }

    async fn release(&self, delivery: Delivery) {
        if let Some(kept) = &self.kept {
            return kept.lock().push(delivery);
        }
        // It would come back here as fast as it can.
        if delivery.redelivered() {
            sleep(RELEASED_AGAIN).await;
        }
        tell(delivery.release()).await;
    }

    /// Handles a delivery until it is settled, and answers whether that ends the component.
    pub(super) async fn handle(&self, delivery: Delivery) -> Option<Exit> {
        let recall = match delivery.recall() {
            Ok(recall) => recall,
            Err(error) => {
                tracing::warn!(queue = %delivery.queue(), %error, "a delivery waited too long for its handler");
                return None;
            }
        };
        let responder = delivery.responder().map(Responder::tracked);
        let request = Request::of(&delivery, responder.clone()).styled(self.style.as_ref());
        let handlers = match self.router.find(request.message(), request.queue()) {
            Ok(handlers) => handlers,
            Err(error) => {
                Box::pin(self.failed(delivery, error, responder)).await;
                return None;
            }
        };
        if let [handler] = handlers
            && handler.takes_delivery()
        {
            let untaken = Untaken::new(Mutex::new(Some(delivery)));
            let reaction = {
                let calling = call(handler, request.with_delivery(untaken.clone()));
                in_time(pin!(calling), recall).await
            };
            let untaken = untaken.lock().take();
            return match (reaction, untaken) {
                (Err(recalled), _) => {
                    self.late(recalled, responder).await;
                    None
                }
                // What failed came before the handler.
                (Ok(reaction), Some(delivery)) => self.settle(delivery, reaction, responder).await,
                (Ok(reaction), None) => self.settled_by_itself(reaction),
            };
        }
        let router = &self.router;
        let style = self.style.as_ref();
        let reaction = {
            let responder = responder.as_ref();
            let reacting = react(router, handlers, request, &delivery, responder, style);
            // Pinned here: passed on by value, it would have two places in the task.
            in_time(pin!(reacting), recall).await
        };
        match reaction {
            Ok(reaction) => self.settle(delivery, reaction, responder).await,
            Err(recalled) => {
                drop(delivery);
                self.late(recalled, responder).await;
                None
            }
        }
    }

    /// Does with a delivery what is done after an error, which came before it had a handler.
    pub(super) async fn fail_unhandled(
        &self,
        delivery: Delivery,
        error: HandlerError,
    ) -> Option<Exit> {
        let responder = delivery.responder().map(Responder::tracked);
        self.failed(delivery, error, responder).await;
        None
    }

    /// Its handler took too long, and was cancelled.
    async fn late(&self, delivery: Option<Delivery>, responder: Option<Responder>) {
        match delivery {
            Some(delivery) => {
                Box::pin(self.failed(delivery, HandlerError::late(), responder)).await;
            }
            None => {
                tracing::error!(
                    "a handler blocked its thread for too long: its delivery was retried"
                );
            }
        }
    }

    fn settled_by_itself(&self, reaction: Reaction) -> Option<Exit> {
        match reaction.0 {
            Kind::Done { outcome, .. } => outcome.exit(),
            Kind::Failed(error) => {
                tracing::error!(%error, name = error.name(), "a handler failed that settles its delivery by itself");
                None
            }
            Kind::Rejected(rejection) => {
                tracing::error!(%rejection, "a handler couldn't be called");
                None
            }
        }
    }

    async fn settle(
        &self,
        delivery: Delivery,
        reaction: Reaction,
        responder: Option<Responder>,
    ) -> Option<Exit> {
        let reaction = match reaction.0 {
            Kind::Done { outcome, answer } => match self.answered(answer, responder.as_ref()).await
            {
                Ok(()) => {
                    self.finish(delivery, outcome).await;
                    return outcome.exit();
                }
                // A failure would be a second answer.
                Err(error) if error.may_have_been_stored() => {
                    tracing::error!(queue = %delivery.queue(), %error, "whether a question is answered isn't known");
                    Box::pin(self.retry(delivery, None)).await;
                    return None;
                }
                Err(error) => Kind::Failed(error),
            },
            other => other,
        };
        match reaction {
            // Boxed, as all that is seldom: whatever a delivery may need has a place in its task.
            Kind::Failed(error) => Box::pin(self.failed(delivery, error, responder)).await,
            Kind::Rejected(rejection) => {
                Box::pin(self.rejected(delivery, rejection, responder)).await;
            }
            Kind::Done { .. } => {}
        }
        None
    }

    async fn finish(&self, delivery: Delivery, outcome: Outcome) {
        match outcome {
            Outcome::Ack | Outcome::Quit | Outcome::Restart => tell(delivery.ack()).await,
            Outcome::Release => Box::pin(self.release(delivery)).await,
            Outcome::Reject => tell(delivery.reject()).await,
            Outcome::Retry => Box::pin(self.retry(delivery, None)).await,
            Outcome::RetryAfter(pause) => Box::pin(self.retry(delivery, Some(pause))).await,
        }
    }

    async fn failed(&self, delivery: Delivery, error: HandlerError, responder: Option<Responder>) {
        let queue = delivery.queue();
        let attempt = delivery.attempt();
        let Some(responder) = responder else {
            tracing::error!(%queue, attempt, %error, name = error.name(), "a handler failed");
            let is_final = |failure: &Failure| failure.kind() == FailureKind::Critical;
            match error.failure().is_some_and(is_final) {
                true => self.give_up(delivery),
                false => self.retry(delivery, None).await,
            }
            return;
        };
        let error = match error.into_failure() {
            Ok(failure) => match self.fail(&responder, failure).await {
                // An answer as any other.
                Ok(()) => return tell(delivery.ack()).await,
                Err(error) => error,
            },
            Err(error) => error,
        };
        tracing::error!(%queue, attempt, %error, name = error.name(), "a handler failed");
        let failure = match self.tells_errors {
            true => Failure::application(error.name(), error.to_string()),
            false => Failure::transient(500, "the handler failed"),
        };
        self.refuse(delivery, &responder, failure).await;
    }

    /// Answers with a failure, and rejects the question: whoever asked knows, and may ask again. If nobody can be told for now, it
    /// comes again.
    async fn refuse(&self, delivery: Delivery, responder: &Responder, failure: Failure) {
        match self.fail(responder, failure).await {
            // For whoever is there.
            Err(error) if error.is_closed() => tell(delivery.release()).await,
            Err(error) if error.is_transient() => self.retry(delivery, None).await,
            _ => tell(delivery.reject()).await,
        }
    }

    async fn rejected(
        &self,
        delivery: Delivery,
        rejection: Rejection,
        responder: Option<Responder>,
    ) {
        let queue = delivery.queue();
        tracing::warn!(%queue, %rejection, "a message can't be handled");
        let Some(responder) = responder else {
            return self.give_up(delivery);
        };
        let failure = Failure::critical(400, rejection.error().message());
        self.refuse(delivery, &responder, failure).await;
    }

    async fn answered(
        &self,
        answer: Answer,
        responder: Option<&Responder>,
    ) -> Result<(), HandlerError> {
        answered(answer, responder, self.style.as_deref()).await
    }

    async fn fail(&self, responder: &Responder, failure: Failure) -> Result<(), HandlerError> {
        fail(responder, failure, self.style.as_deref()).await
    }

    async fn retry(&self, delivery: Delivery, pause: Option<Duration>) {
        let attempt = delivery.attempt();
        let Some(usual) = self.retries.pause(attempt) else {
            tracing::error!(queue = %delivery.queue(), attempt, "a delivery was tried for the last time");
            return self.give_up(delivery);
        };
        let pause = pause.unwrap_or(usual);
        if pause.is_zero() {
            tell(delivery.retry()).await;
        } else if self.delays {
            tell(delivery.retry_after(pause)).await;
        } else {
            sleep(pause).await;
            tell(delivery.retry()).await;
        }
    }
}

impl Outcome {
    fn exit(self) -> Option<Exit> {
        match self {
            Outcome::Quit => Some(Exit::Quit),
            Outcome::Restart => Some(Exit::Restart),
            _ => None,
        }
    }
}

/// What these handlers make of a delivery.
async fn react(
    router: &Router,
    handlers: &[Arc<dyn Erased<()>>],
    request: Request,
    delivery: &Delivery,
    responder: Option<&Responder>,
    style: Option<&Arc<dyn Style>>,
) -> Reaction {
    match handlers {
        [] => unknown(router, &request),
        [handler] => call(handler, request).await,
        handlers => {
            // Each has its own copy of everything.
            let calls = handlers.iter().map(|handler| {
                let request = Request::of(delivery, responder.cloned()).styled(style);
                call(handler, request)
            });
            together(join_all(calls).await)
        }
    }
}

impl Router {
    /// Has the handlers for a delivery run, and answers what they say; the delivery is neither settled nor answered. For
    /// tests of a router, and loops of one's own. A handler that takes the delivery can't be called so.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::handler::{Outcome, Payload, Router};
    /// use kombu::{Exchange, Queue};
    ///
    /// let router = Router::new().on("number", async |Payload(number): Payload<u32>| match number % 2 {
    ///     0 => Outcome::Ack,
    ///     _ => Outcome::Reject,
    /// });
    ///
    /// let connection = kombu::connect("memory://").await?;
    /// connection.declare_queue(&Queue::new("numbers")).await?;
    /// let producer = connection.producer(Exchange::default()).routing_key("numbers").await?;
    /// producer.publish(&3).kind("number").await?;
    /// let delivery = connection.get("numbers").await?.expect("a number");
    /// assert_eq!(router.react(&delivery).await.outcome(), Some(Outcome::Reject));
    /// # delivery.ack().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn react(&self, delivery: &Delivery) -> Reaction {
        let responder = delivery.responder();
        let request = Request::of(delivery, responder.clone());
        match self.find(request.message(), request.queue()) {
            Ok(handlers) => {
                react(self, handlers, request, delivery, responder.as_ref(), None).await
            }
            Err(error) => Reaction::failed(error),
        }
    }
}

impl Router {
    /// Has the handlers for a delivery run, and answers what they come to, failures included; it isn't settled. Tells what
    /// becomes of the loop that it came from. Handlers that take longer than the limit are cancelled, which is a failure; so
    /// are those that go on for 30 s after `stop` has resolved, which ends the loop in any case.
    pub(crate) async fn answer(
        &self,
        delivery: &Delivery,
        responder: Option<Responder>,
        limit: Option<Duration>,
        stop: impl Future<Output = ()>,
    ) -> Option<Exit> {
        let responder = responder.map(Responder::tracked);
        let request = Request::of(delivery, responder.clone());
        let asked = responder.as_ref();
        let reacting = async {
            match self.find(request.message(), request.queue()) {
                Ok(handlers) => react(self, handlers, request, delivery, asked, None).await,
                Err(error) => Reaction::failed(error),
            }
        };
        let mut reacting = pin!(timeout(limit.unwrap_or(Duration::MAX), reacting));
        let (reaction, is_stopped) = tokio::select! {
            biased;
            () = stop => (timeout(GRACE, reacting).await.flatten(), true),
            reaction = &mut reacting => (reaction, false),
        };
        let reaction = reaction.unwrap_or_else(|_| Reaction::failed(HandlerError::late()));
        let (failure, exit) = match reaction.0 {
            Kind::Done { outcome, answer } => {
                let answered = answered(answer, responder.as_ref(), None).await;
                let failed = |error: HandlerError| Failure::application("error", error.to_string());
                (answered.err().map(failed), outcome.exit())
            }
            Kind::Failed(error) => {
                tracing::error!(%error, name = error.name(), "a handler failed");
                let failure = Failure::application(error.name(), error.to_string());
                (Some(error.into_failure().unwrap_or(failure)), None)
            }
            Kind::Rejected(rejection) => {
                tracing::warn!(%rejection, "a message can't be handled");
                let failure = Failure::critical(400, rejection.error().message());
                (Some(failure), None)
            }
        };
        if let (Some(failure), Some(responder)) = (failure, &responder) {
            // What went wrong is logged, and there is nothing else to be done.
            drop(fail(responder, failure, None).await);
        }
        exit.or(is_stopped.then_some(Exit::Stopped))
    }
}

/// Calls a handler; a panic of it is an error.
async fn call(handler: &Arc<dyn Erased<()>>, request: Request) -> Reaction {
    let reaction = AssertUnwindSafe(async { handler.call(request, ()).await }).catch_unwind();
    match reaction.await {
        Ok(reaction) => reaction,
        Err(panic) => Reaction::failed(HandlerError::panicked(&*panic)),
    }
}

/// What the work comes to; or its delivery, if that was taken back meanwhile: what was done with it is given up. `None` for a
/// delivery that was retried already.
async fn in_time<T>(
    work: impl Future<Output = T>,
    recall: Option<Recall>,
) -> Result<T, Option<Delivery>> {
    let Some(recall) = recall else {
        return Ok(work.await);
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        delivery = recall.overdue() => Err(delivery),
    }
}

/// What several handlers come to: they all have to succeed, and the last one answers. That one failed says more than that
/// another can't be called: the former may go well the next time.
fn together(reactions: Vec<Reaction>) -> Reaction {
    let mut result = Reaction::done(Outcome::Ack);
    for reaction in reactions {
        match (&result.0, &reaction.0) {
            (Kind::Done { outcome, .. }, Kind::Done { outcome: next, .. })
                if *outcome != Outcome::Ack && *next == Outcome::Ack => {}
            (Kind::Done { .. }, _) | (Kind::Rejected(_), Kind::Failed(_)) => result = reaction,
            (_, Kind::Failed(error)) => tracing::error!(%error, "a further handler failed"),
            (_, _) => {}
        }
    }
    result
}

fn unknown(router: &Router, request: &Request) -> Reaction {
    let queue = request.queue();
    let kind = match HandlerError::catch(|| router.kind_of(request.message())) {
        Ok(kind) => kind,
        Err(error) => return Reaction::failed(error),
    };
    Reaction::rejected(Rejection::from(Error::new(
        ErrorKind::Undecodable,
        match kind {
            Some(kind) => format!(
                "no handler is for type `{kind}` or queue `{queue}`; add one to the router, or a fallback"
            ),
            None => format!(
                "no handler is for messages without a type, or for queue `{queue}`; add one to the router, or a fallback"
            ),
        },
    )))
}

async fn answered(
    answer: Answer,
    responder: Option<&Responder>,
    style: Option<&dyn Style>,
) -> Result<(), HandlerError> {
    match (answer, responder) {
        (Some(answer), Some(responder)) if !responder.is_taken_over() => {
            sent(|| answer(responder, style)).await
        }
        _ => Ok(()),
    }
}

/// Sends what this makes.
async fn sent(reply: impl FnOnce() -> Replying) -> Result<(), HandlerError> {
    // What is answered may have a way of its own to be written, and interceptors look at it.
    let replying = HandlerError::catch(reply)?.into_future();
    match AssertUnwindSafe(replying).catch_unwind().await {
        Ok(replied) => replied.map(drop).map_err(HandlerError::new),
        Err(panic) => Err(HandlerError::panicked(&*panic)),
    }
}

async fn tell(settling: Settling) {
    if let Err(error) = settling.await {
        tracing::warn!(%error, "a delivery could not be settled: it comes again");
    }
}

/// Answers with a failure, unless something was answered.
async fn fail(
    responder: &Responder,
    failure: Failure,
    style: Option<&dyn Style>,
) -> Result<(), HandlerError> {
    if responder.has_replied() {
        return Ok(());
    }
    let failed = sent(|| match style {
        Some(style) => responder.fail(style.failure(failure)),
        None => responder.fail(failure),
    });
    failed.await.inspect_err(|error| {
        tracing::error!(%error, to = %responder.reply_to(), "a failure could not be answered");
    })
}

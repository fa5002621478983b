//! What a consumer is opened with, for the first time and after every lost session.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use kombu_serializers::Accept;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use crate::declare::{DeclareMode, Queue};
use crate::driver::{Op, SubscribeOptions, Subscription};
use crate::engine::{Event, LETS_GO_WITHIN, Session, by, deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::delivery::{Link, LinkQueue};
use super::held::Held;
use super::intercept::Interceptors;
use super::processing::Processing;
use super::recorded::Consuming;
use super::{Connection, UndecodablePolicy};

/// What stays as it is for as long as the consumer lives.
pub(super) struct Plan {
    pub(super) declare_mode: DeclareMode,
    pub(super) accept: Accept,
    pub(super) interceptors: Interceptors,
    pub(super) undecodable: UndecodablePolicy,
    /// How many deliveries that can't be decoded are held beside the window.
    pub(super) room_for_held: u32,
    pub(super) max_processing_time: Option<Duration>,
    pub(super) connection: Connection,
    /// How often the connection had been drained when the consumer was opened. The next time is its end.
    pub(super) drains: u64,
}

/// The queues that a consumer receives from at present, in the order in which they came.
#[derive(Clone)]
pub(super) struct Sources {
    names: Vec<Name>,
    /// As many.
    details: Vec<Source>,
}

#[derive(Clone)]
struct Source {
    /// The subscription's number for it.
    index: u16,
    dead_letters: bool,
    /// Until the consumer ends.
    consuming: Option<Arc<Consuming>>,
}

impl Sources {
    /// The queues of a subscription to be, each once; `mode` is for declarations that don't say otherwise themselves.
    pub(super) fn new(connection: &Connection, queues: &[Queue], mode: DeclareMode) -> Self {
        let mut sources = Sources {
            names: Vec::with_capacity(queues.len()),
            details: Vec::with_capacity(queues.len()),
        };
        let mut seen = HashSet::with_capacity(queues.len());
        for queue in queues {
            if seen.insert(queue.name()) {
                let consuming = connection.consuming(queue.name());
                sources.add(0, &LinkQueue::new(queue, mode), consuming);
            }
        }
        sources.renumber();
        sources
    }

    pub(super) fn names(&self) -> &[Name] {
        &self.names
    }

    /// The queues, for people.
    pub(super) fn listed(&self) -> String {
        let names = self.names.iter().map(|name| format!("`{name}`"));
        names.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Takes in a queue; the number is the subscription's.
    pub(super) fn add(&mut self, index: u16, queue: &LinkQueue, consuming: Consuming) {
        self.names.push(queue.name.clone());
        self.details.push(Source {
            index,
            dead_letters: queue.dead_letters,
            consuming: Some(Arc::new(consuming)),
        });
    }

    /// They are received from on this session.
    fn are_subscribed(&self, session: &Arc<Session>) {
        for source in &self.details {
            if let Some(consuming) = &source.consuming {
                consuming.is_subscribed(session);
            }
        }
    }

    /// Nothing is received from them any more; their names stay.
    pub(super) fn end(&mut self) {
        for source in &mut self.details {
            source.consuming = None;
        }
    }

    /// Takes out the queue with this number.
    pub(super) fn take(&mut self, index: u16) -> Option<Name> {
        let mut details = self.details.iter();
        let place = details.position(|source| source.index == index)?;
        self.details.remove(place);
        Some(self.names.remove(place))
    }

    /// Takes out every queue of this name, and answers their numbers.
    pub(super) fn take_all(&mut self, name: &Name) -> Vec<u16> {
        let sources = self.names.iter().zip(&self.details);
        let taken = sources.filter(|(other, _)| *other == name);
        let taken: Vec<u16> = taken.map(|(_, source)| source.index).collect();
        for index in &taken {
            self.take(*index);
        }
        taken
    }

    /// A new subscription numbers its queues anew, by their places in the list.
    pub(super) fn renumber(&mut self) {
        for (index, source) in (0..=u16::MAX).zip(&mut self.details) {
            source.index = index;
        }
    }

    fn link_queues(&self) -> impl Iterator<Item = (u16, LinkQueue)> {
        let sources = self.names.iter().zip(&self.details);
        sources.map(|(name, source)| {
            let queue = LinkQueue {
                name: name.clone(),
                dead_letters: source.dead_letters,
            };
            (source.index, queue)
        })
    }
}

/// A subscription on one session, and what its deliveries refer to.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    // In front of the link, whose end gives back what must not come here again.
    pub(super) subscription: Box<dyn Subscription>,
    pub(super) link: Receiving,
}

/// A consumer's own reference to what its deliveries refer to.
pub(super) struct Receiving(Arc<Link>);

impl Deref for Receiving {
    type Target = Arc<Link>;

    fn deref(&self) -> &Arc<Link> {
        &self.0
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.release_held();
    }
}

impl Opened {
    pub(super) fn set_window(&self, deliveries: u32) {
        let deliveries = match &self.link.held {
            Some(held) => {
                held.set_window(deliveries);
                held.widened_window()
            }
            None => deliveries,
        };
        self.subscription.set_window(deliveries);
    }

    /// Leaves a queue; what was dropped and held goes back as well.
    pub(super) fn leave(&mut self, queue: u16) -> Op<Result<()>> {
        let answer = self.subscription.remove(queue);
        self.link.release_held_from(queue);
        answer
    }
}

impl Plan {
    pub(super) async fn open(
        &self,
        sources: &Sources,
        options: SubscribeOptions,
        end: Instant,
    ) -> Result<Opened> {
        let (names, wanted) = (sources.names(), &options);
        let (session, subscription) = self
            .connection
            .control_until(end, "subscribe", |session| async move {
                let subscription = session.driver.open_subscription(names, wanted).await?;
                Ok((session, subscription))
            })
            .await?;
        Ok(self.opened(session, subscription, sources, options))
    }

    /// Opens it again on the session that follows, however long that takes to come, with the queues that are still there.
    /// Once it is there, the broker has to answer within the deadline.
    pub(super) async fn open_after(
        &self,
        last: Arc<Session>,
        sources: Sources,
        options: SubscribeOptions,
    ) -> Result<(Opened, Sources)> {
        tokio::select! {
            biased;
            () = self.connection.inner().open.drained_after(self.drains) => Err(Error::new(
                ErrorKind::Closed,
                "the connection is being drained; connect again",
            )),
            opened = self.open_next(last, sources, options) => opened,
        }
    }

    async fn open_next(
        &self,
        last: Arc<Session>,
        mut sources: Sources,
        options: SubscribeOptions,
    ) -> Result<(Opened, Sources)> {
        let engine = &self.connection.inner().engine;
        let limit = engine.deadlines.declare;
        let mut session = engine.session_after(&last).await?;
        let mut backoff = engine.backoff();
        let mut refused_until = None;
        let mut is_told = false;
        loop {
            let late = || no_answer(limit, &sources);
            let opening = session.driver.open_subscription(sources.names(), &options);
            let opening = engine.while_up(&session, opening);
            let error = match by(deadline(limit), opening, late).await {
                Ok(subscription) => {
                    let opened = self.opened(session, subscription, &sources, options);
                    return Ok((opened, sources));
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::ConnectionLost => {
                    session = engine.session_after(&session).await?;
                    refused_until = None;
                    is_told = false;
                }
                ErrorKind::NotFound => {
                    self.leave_missing(&session, &mut sources, error).await?;
                }
                // The broker may take it for that of the lost session.
                ErrorKind::ResourceLocked | ErrorKind::AccessRefused
                    if options.exclusive || error.kind() == ErrorKind::ResourceLocked =>
                {
                    let until = refused_until.get_or_insert_with(|| deadline(LETS_GO_WITHIN));
                    if Instant::now() >= *until {
                        return Err(error);
                    }
                    sleep(backoff.pause()).await;
                }
                // It passes, and nobody else would try it again: the broker is full, for one.
                ErrorKind::Backpressure | ErrorKind::Unavailable => {
                    let queues = sources.listed();
                    match std::mem::replace(&mut is_told, true) {
                        true => {
                            tracing::debug!(%queues, %error, "a consumer still can't be subscribed")
                        }
                        false => {
                            tracing::warn!(%queues, %error, "a consumer can't be subscribed again yet")
                        }
                    }
                    sleep(backoff.pause()).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Takes out the queues that are gone; an error if these are all, or none.
    async fn leave_missing(
        &self,
        session: &Arc<Session>,
        sources: &mut Sources,
        error: Error,
    ) -> Result<()> {
        let engine = &self.connection.inner().engine;
        let limit = engine.deadlines.declare;
        let mut last = None;
        for name in sources.names().to_vec() {
            let asking = engine.while_up(session, session.driver.queue_info(&name));
            match by(deadline(limit), asking, || no_answer(limit, sources)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if !sources.take_all(&name).is_empty() {
                        self.tell_deleted(&name);
                    }
                    last = Some(name);
                }
                // The next try to subscribe finds out.
                Err(error) if error.kind() == ErrorKind::ConnectionLost => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Timeout => return Err(error),
                _ => {}
            }
        }
        match last {
            None => Err(error),
            Some(name) if sources.is_empty() => Err(cancelled(&name)),
            Some(_) => {
                sources.renumber();
                Ok(())
            }
        }
    }

    /// Somebody deleted a queue that the consumer received from.
    pub(super) fn tell_deleted(&self, queue: &Name) {
        tracing::warn!(%queue, "a queue was deleted while it was being consumed");
        self.connection.forget_queue(queue);
        let queue = queue.clone();
        let engine = &self.connection.inner().engine;
        engine.tell(Event::ConsumerCancelled { queue });
    }

    fn opened(
        &self,
        session: Arc<Session>,
        subscription: Box<dyn Subscription>,
        sources: &Sources,
        options: SubscribeOptions,
    ) -> Opened {
        sources.are_subscribed(&session);
        let brokers = self.connection.capabilities().max_processing_time();
        let link = Link {
            settler: subscription.settler(),
            queues: sources.link_queues().collect(),
            serializers: self.connection.serializers().clone(),
            accept: self.accept.clone(),
            no_ack: options.no_ack,
            held: Some(Held::new(options.window, self.room_for_held)),
            deliveries: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            interceptors: self.interceptors.clone(),
            undecodable: self.undecodable,
            processing: self
                .max_processing_time
                .filter(|_| !options.no_ack)
                .map(|limit| Processing::new(limit, brokers)),
            replying: OnceCell::new(),
            session: session.clone(),
            connection: self.connection.clone(),
        };
        let link = Arc::new(link);
        let open = &self.connection.inner().open;
        open.add_link(&link);
        if open.drains() != self.drains {
            // It came too late to be told.
            link.stop();
        }
        Processing::watch(&link);
        Opened {
            session,
            subscription,
            link: Receiving(link),
        }
    }
}

/// What ends a consumer whose last queue was deleted.
pub(super) fn cancelled(queue: &Name) -> Error {
    Error::new(
        ErrorKind::ConsumerCancelled,
        format!(
            "queue `{queue}` was deleted while it was being consumed; declare it and open the consumer again"
        ),
    )
}

fn no_answer(limit: Duration, sources: &Sources) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "no answer within {limit:?}: waiting for the broker to subscribe the consumer of {} again after a lost \
             connection; open another one",
            sources.listed()
        ),
    )
}

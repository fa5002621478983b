//! The streams of queues: made, repaired and removed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kombu_core::driver::Notice;
use kombu_core::virt::{Applied, Change};
use kombu_core::{Error, ErrorKind, Result};

use super::{PAUSE, Shared};
use crate::api;
use crate::discounts;
use crate::error::{self, ApiError, code};
use crate::known::{self, NatsQueue, Written};
use crate::limits;
use crate::line::PATIENCE;
use crate::members;
use crate::unreadable;

/// How long a stream that was gone is left alone before it is made again.
const DELETION: Duration = Duration::from_millis(250);
/// How long the same isn't told again.
const TOLD: Duration = Duration::from_secs(5);

/// Why a queue that is as it should be didn't answer.
pub(crate) const CHANGED_LEADER: &str = "its stream didn't answer, as while it changes its leader";

/// What came of a look at a queue that doesn't answer.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Looked {
    /// It was deleted.
    Gone,
    Whole,
    /// Something of it was made again.
    Repaired,
}

/// How a set of changes is made.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    /// With the number of messages that go with queues.
    Counts,
    /// Whatever is in them.
    Nothing,
}

impl Shared {
    /// Whoever waits for it asks again if it can't be done now.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        base: u64,
        changes: &[Change],
        wanted: Wanted,
    ) -> Result<Applied> {
        if self.known.lock().table().version() != base {
            return Ok(Applied::Stale);
        }
        let mut messages = 0;
        let mut gone = Vec::new();
        for change in changes {
            if let Change::DeleteQueue(name, options) = change
                && let Some(queue) = self.known.lock().queue(name)
            {
                gone.push((queue, *options));
            }
        }
        for (queue, options) in &gone {
            let is_asked = options.if_unused || options.if_empty;
            if wanted == Wanted::Nothing && !is_asked {
                continue;
            }
            let info = match self.info(queue).await {
                // Its server is gone, which keeps nobody from deleting it.
                Err(error) if error::is_passing(&error) && !is_asked => continue,
                info => info?,
            };
            messages += info.ready;
            let refused = match () {
                () if options.if_unused && info.consumers > 0 => format!(
                    "has {} consumers; cancel them, or delete it without `if_unused`",
                    info.consumers
                ),
                () if options.if_empty && info.ready > 0 => format!(
                    "has {} messages; purge it, or delete it without `if_empty`",
                    info.ready
                ),
                () => continue,
            };
            return Err(Error::new(
                ErrorKind::PreconditionFailed,
                format!("queue `{}` {refused}", queue.name()),
            ));
        }
        // Nobody reads them in between, or they would be taken in twice.
        let (written, version) = {
            let _turn = self.reading.lock().await;
            if self.known.lock().table().version() != base {
                return Ok(Applied::Stale);
            }
            let written = known::write(&self.line, &self.known, changes).await;
            // Whoever asked has these changes, and none that are read after them.
            (written, self.known.lock().table().version())
        };
        self.forget_gone();
        let is_done = match written {
            Ok(Written::Done) => true,
            Ok(Written::Stale) => return Ok(Applied::Stale),
            // Some of them are made: the rest is told apart by whoever looks again.
            Ok(Written::Partly) => false,
            Err(error) if error::is_passing(&error) => false,
            Err(error) => return Err(error),
        };
        if !is_done {
            let end = Instant::now() + 2 * PATIENCE;
            self.patiently_until(end, || self.catch_up()).await?;
        }
        for (queue, _) in &gone {
            if !self.known.lock().has(queue) {
                self.remove(queue).await?;
            }
        }
        known::trim(&self.line, &self.known, &self.reading).await;
        for change in changes {
            let Change::PutQueue(declaration, _) = change else {
                continue;
            };
            let queue = self.known.lock().queue(declaration.name());
            if let Some(queue) = queue {
                // Its record is there: if it can't be made now, whoever uses it makes it.
                let end = Instant::now() + 2 * PATIENCE;
                let making = self.patiently_until(end, || async {
                    if !self.known.lock().has(&queue) {
                        return Err(error::missing_queue(queue.name()));
                    }
                    let made = self.make_stream(&queue, None).await;
                    if made.as_ref().is_err_and(error::is_passing) && is_done {
                        self.take_back(&queue).await;
                    }
                    made?;
                    self.make_consumers(&queue).await
                });
                match making.await {
                    // Somebody has deleted it already.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    made => made?,
                }
                if declaration.get_expires().is_some() {
                    members::use_queue(&self.line, queue.name()).await?;
                }
            }
        }
        if !is_done {
            return Ok(Applied::Stale);
        }
        Ok(Applied::Done { version, messages })
    }

    /// Removes what belongs to a queue whose record is gone.
    async fn remove(&self, queue: &NatsQueue) -> Result<()> {
        let deleting = api::delete_stream(&self.line, queue.stream());
        members::forget(&self.line, queue.name());
        discounts::forget(self, queue);
        unreadable::forget(&self.line, queue.stream());
        // What is delayed for it is dropped when it is due: a purge would take the consumer's place from what is for others.
        match deleting.await {
            // Where its server is gone, it goes when that comes back.
            Err(error) if error::is_passing(&error) => {}
            deleted => drop(deleted?),
        }
        self.ring(queue.name(), true);
        Ok(())
    }

    /// The stream of a queue is gone, with its messages.
    fn forget_messages(&self, queue: &NatsQueue) {
        for hold in self.holds() {
            if hold.queue.is(queue) {
                drop(hold.let_go_of_all());
            }
        }
        self.sizes.forget(queue);
        self.returns.forget_all(queue.stream());
    }

    /// Makes the stream of a queue, unless it is there; with this position for its first message, if it is given.
    async fn make_stream(
        self: &Arc<Self>,
        queue: &NatsQueue,
        begins_at: Option<u64>,
    ) -> Result<()> {
        let refused_above = limits::refused_above(queue.declaration());
        loop {
            let (line, place) = (&self.line, &self.place);
            let made = api::create_queue(line, place, queue, refused_above, begins_at).await;
            match made? {
                Ok(()) => return Ok(()),
                Err(refused) if refused.err_code == code::OVERLAP => {
                    self.clear_away(queue).await?;
                }
                Err(refused) => return Err(refused.during("the stream of a queue")),
            }
        }
    }

    /// Makes the consumers of a queue, unless they are there.
    async fn make_consumers(&self, queue: &NatsQueue) -> Result<()> {
        let made = api::create_consumers(&self.line, queue).await?;
        made.map_err(|refused| refused.during("the consumer of a queue"))
    }

    /// The new stream of a queue that was just declared may be given to a server that has just died. It waits there for ever,
    /// unless it is taken away. One that was there before may have messages, and isn't.
    async fn take_back(&self, queue: &NatsQueue) {
        let is_alone = self.place.of(queue.declaration()).1 == 1 && self.line.is_with_a_cluster();
        if !is_alone || queue.is_adopted() {
            return;
        }
        let look = api::stream_info(&self.line, queue.stream(), None).await;
        if look.is_err_and(|error| error::is_passing(&error)) {
            // Whoever leads it would have to answer, and does nothing.
            drop(api::delete_stream(&self.line, queue.stream()));
        }
    }

    /// Deletes streams that others left at the subject of a queue: only that of its record belongs there.
    async fn clear_away(self: &Arc<Self>, queue: &NatsQueue) -> Result<()> {
        let subject = self.line.layout.subject(queue.name(), "*");
        let streams = api::streams_at(&self.line, &subject).await?;
        // The record as it is after the streams were found.
        self.catch_up().await?;
        if !self.known.lock().has(queue) {
            return Err(error::missing_queue(queue.name()));
        }
        for stream in streams {
            if self.line.layout.id_of(queue.name(), &stream).is_none() {
                return Err(Error::new(
                    ErrorKind::PreconditionFailed,
                    format!(
                        "stream `{stream}`, which isn't this library's, takes what is published to queue `{}`; give it other \
                         subjects, or use another prefix",
                        queue.name()
                    ),
                ));
            }
            if stream != **queue.stream() {
                match api::delete_stream(&self.line, &stream).await {
                    // Where its server is gone, its place is free all the same.
                    Err(error) if error::is_passing(&error) => {}
                    deleted => drop(deleted?),
                }
            }
        }
        Ok(())
    }

    /// Looks after a queue whose stream doesn't answer; false if it isn't there any more. An error if that can't be known now.
    pub(crate) async fn repair(self: &Arc<Self>, queue: &NatsQueue) -> Result<bool> {
        let looked = self.look_at_whole(queue).await?;
        if looked == Looked::Whole {
            self.tell_repaired(queue, CHANGED_LEADER);
        }
        Ok(looked != Looked::Gone)
    }

    /// Looks whether all of a queue is there, and makes again what isn't.
    pub(crate) async fn look_at_whole(self: &Arc<Self>, queue: &NatsQueue) -> Result<Looked> {
        let end = Instant::now() + PATIENCE;
        // There is no leader, for one.
        self.patiently_until(end, || self.try_to_repair(queue))
            .await
    }

    async fn try_to_repair(self: &Arc<Self>, queue: &NatsQueue) -> Result<Looked> {
        self.catch_up().await?;
        if !self.known.lock().has(queue) {
            return Ok(Looked::Gone);
        }
        let mut stream = api::stream_info(&self.line, queue.stream(), None).await?;
        if stream.as_ref().is_err_and(ApiError::is_missing) {
            // The server may still be at removing its files, and would remove those of a new one.
            tokio::time::sleep(DELETION).await;
            stream = api::stream_info(&self.line, queue.stream(), None).await?;
        }
        let is_gone = stream.is_err();
        let mut is_whole = stream.is_ok();
        let reason = match stream {
            Err(refused) if !refused.is_missing() => {
                return Err(refused.during("a look at a queue"));
            }
            Err(_) => "its stream was gone, with its messages, and is made again",
            Ok(_) => {
                for level in 0..queue.levels() {
                    match api::consumer_info(&self.line, queue.stream(), level).await? {
                        Ok(_) => {}
                        Err(refused) if refused.is_missing() => is_whole = false,
                        Err(refused) => return Err(refused.during("a look at a queue")),
                    }
                }
                "its consumer was gone, and is made again: what was unsettled comes again"
            }
        };
        if is_whole {
            tokio::time::sleep(PAUSE).await;
            return Ok(Looked::Whole);
        }
        if is_gone {
            // What is held of it, or known of its positions, is nothing of the new one's.
            self.forget_messages(queue);
            discounts::begin_anew(self, queue);
            // In microseconds: none had so many messages.
            let begins_at = self.clock.now() / 1_000;
            match self.make_stream(queue, Some(begins_at)).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Looked::Gone),
                made => made?,
            }
        }
        self.make_consumers(queue).await?;
        self.ring(queue.name(), false);
        self.tell_repaired(queue, reason);
        Ok(Looked::Repaired)
    }

    /// Tells whoever listens that something of a queue was put right.
    pub(crate) fn tell_repaired(&self, queue: &NatsQueue, reason: &str) {
        self.agenda.clear_again(queue.name());
        let now = Instant::now();
        let mut told = self.told.lock();
        told.retain(|_, at| *at + TOLD > now);
        let what = (queue.name().clone(), reason.to_owned());
        // Whatever waits for the same sees it put right.
        if told.insert(what, now).is_none() {
            // Nobody has to listen.
            drop(self.notices.send(Notice::Repaired {
                queue: queue.name().clone(),
                reason: reason.to_owned(),
            }));
        }
    }
}

//! What is left of consumers and sessions that end, and what becomes of a lost session's.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use kombu_core::Result;
use kombu_core::virt::Applied;
use tokio::time::timeout;

use super::{Shared, Wanted};
use crate::known::{self, NatsQueue};
use crate::left;
use crate::limits;
use crate::members;
use crate::names::encoded;
use crate::unreadable;

/// How long the end of a session waits for consumers that are leaving.
const LEAVING: Duration = Duration::from_secs(3);

impl Shared {
    /// A consumer of this session is gone.
    pub(crate) async fn leave(self: &Arc<Self>, queue: &NatsQueue, number: u64) -> Result<()> {
        let session = self.line.session;
        let leaving = self.patiently(|| {
            members::remove(&self.line, queue, move |member| {
                (member.session, member.number) == (session, number)
            })
        });
        match leaving.await? {
            Some(left) => self.after_leaving(queue, left == 0).await,
            None => Ok(()),
        }
    }

    /// A consumer of a queue was taken off its list.
    pub(crate) async fn after_leaving(
        self: &Arc<Self>,
        queue: &NatsQueue,
        was_last: bool,
    ) -> Result<()> {
        if was_last && queue.declaration().is_auto_delete() {
            return self.delete(queue, true).await;
        }
        if let Some(expires) = queue.declaration().get_expires() {
            self.patiently(|| members::use_queue(&self.line, queue.name()))
                .await?;
            self.agenda.look_in(queue.name(), expires);
        }
        self.ring(queue.name(), true);
        Ok(())
    }

    /// Deletes a queue that is to go, unless it is another one by now, or, if that matters, somebody uses it again.
    pub(crate) async fn delete(self: &Arc<Self>, queue: &NatsQueue, if_unused: bool) -> Result<()> {
        let options = kombu_core::driver::DeleteQueue::default();
        loop {
            let table = self.catch_up().await?;
            if !self.known.lock().has(queue) {
                return Ok(());
            }
            if if_unused {
                let (members, _) = members::of(&self.line, queue).await?;
                if !members.consumers.is_empty() {
                    return Ok(());
                }
            }
            let changes = table.removal_of_queue(queue.name(), options);
            match self
                .apply(table.version(), &changes, Wanted::Nothing)
                .await?
            {
                Applied::Done { .. } => return Ok(()),
                Applied::Stale => {}
            }
        }
    }

    /// Ends the session: gives back what it holds and removes what is its own.
    pub(crate) async fn end(self: &Arc<Self>) -> Result<()> {
        // A lost one is left to the next.
        if self.line.is_over() || self.is_ending.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // Those that left before take with them what is on its way to them, and nobody takes anything from here on.
        let _left = timeout(LEAVING, self.leaving.write()).await;
        let inlets: Vec<_> = self.inlets.lock().drain(..).collect();
        let inlets: Vec<_> = inlets.iter().filter_map(Weak::upgrade).collect();
        join_all(inlets.iter().map(|inlet| inlet.empty(self))).await;
        for hold in self.holds() {
            for held in hold.let_go_of_all() {
                self.give_back(&hold.queue, held, false, None);
            }
        }
        self.returns.all_idle(self).await;
        self.returns.leave_to_others(self);
        for hold in self.holds() {
            if limits::is_limited(hold.queue.declaration()) && self.known.lock().has(&hold.queue) {
                drop(limits::trim(self, &hold.queue).await);
            }
        }
        let ended = self.remove_session(self.line.session).await;
        // A last answer: what was told before it has been taken in by then.
        drop(known::revision(&self.line).await);
        if ended.is_ok() {
            self.has_ended.store(true, Ordering::Release);
        }
        ended
    }

    /// Removes what belongs to a session that is over: its consumers, for others wait for their turn, then its queues. One
    /// that can't be removed now keeps none of the others; then there is an error, and the session's key stays for whoever
    /// tries again.
    pub(crate) async fn remove_session(self: &Arc<Self>, session: u64) -> Result<()> {
        let table = self.catch_up().await?;
        let used = members::keys(&self.line, "u").await?;
        let queues: Vec<NatsQueue> = {
            let known = self.known.lock();
            let all = known.queues();
            all.filter(|queue| used.contains(&encoded(queue.name())))
                .cloned()
                .collect()
        };
        let mut all_removed = Ok(());
        for queue in queues {
            if let Err(error) = self.remove_consumers(&queue, session).await {
                tracing::debug!(%error, session, queue = %queue.name(), "consumers of a session stay");
                all_removed = Err(error);
            }
        }
        for name in table.owned_by(session) {
            let queue = self.known.lock().queue(&name);
            if let Some(queue) = queue
                && let Err(error) = self.delete(&queue, false).await
            {
                tracing::debug!(%error, session, queue = %name, "a queue of a session stays");
                all_removed = Err(error);
            }
        }
        all_removed?;
        members::die(&self.line, session).await
    }

    async fn remove_consumers(self: &Arc<Self>, queue: &NatsQueue, session: u64) -> Result<()> {
        let left = members::remove(&self.line, queue, |member| member.session == session);
        match left.await? {
            Some(left) => self.after_leaving(queue, left == 0).await,
            None => Ok(()),
        }
    }

    /// Ends the sessions of this program that were left here, and gives back what they held.
    pub(crate) async fn end_left(self: &Arc<Self>) -> Result<()> {
        let place = self.place.name();
        let ending = left::sessions(&place).into_iter();
        let ending = ending.map(async |(session, had_sign)| {
            // One whose server had no room for a sign has none; nor has that of another account, or one that others have ended.
            let is_here = !had_sign || members::sign(&self.line, session).await?.is_some();
            match is_here {
                true => {
                    self.remove_session(session).await?;
                    left::forget(&place, session);
                }
                false => left::is_missing(&place, session),
            }
            Ok(())
        });
        join_all(ending).await.into_iter().collect::<Result<()>>()?;
        let held = {
            let known = self.known.lock();
            left::take_held(&place, |stream| known.queue_of(stream).is_some())
        };
        for (stream, held) in held {
            let queue = self.known.lock().queue_of(&stream);
            if let Some(queue) = queue {
                // It was handed out.
                self.give_back(&queue, held, true, None);
            }
        }
        Ok(())
    }

    /// Leaves what a lost session has to the next one.
    pub(crate) fn leave_to_next(&self, has_sign: bool) {
        let inlets = self.inlets();
        let mut waiting: Vec<Arc<str>> = self.pulling.lock().clone();
        waiting.extend(inlets.iter().filter_map(|inlet| inlet.waits_for()));
        waiting.sort();
        waiting.dedup();
        unreadable::take_note(&self.line, waiting.into_iter());
        let mut held = Vec::new();
        for hold in self.holds() {
            held.extend(
                hold.all()
                    .into_iter()
                    .map(|one| (hold.queue.stream().clone(), one)),
            );
        }
        left::leave(&self.place.name(), self.line.session, has_sign, held);
    }
}

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::driver::{
    BoxFuture, Op, Outcome, RawDelivery, Received, Settle, SubscribeOptions, Subscription, Tag,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::Name;

use super::settler::VirtualSettler;
use super::shared::Shared;
use super::store::{Batch, Death, QueueStore, Reader, ReaderOptions};
use super::window::Window;

/// The most messages that are taken at once: enough to share the locks, few enough not to hold them long.
const MAX_BATCH: usize = 256;

pub(super) struct VirtualSubscription<S: QueueStore> {
    shared: Arc<Shared<S>>,
    options: SubscribeOptions,
    /// `None` once the queue was deleted, or left.
    readers: Vec<Option<S::Reader>>,
    /// Whom to ask first: the one behind that which had messages last, so that a busy queue can't starve the others.
    start: usize,
    buffer: VecDeque<RawDelivery>,
    /// Queues that were deleted and are to be told.
    cancelled: VecDeque<u16>,
    /// What a reader met while nobody polled.
    failed: Option<Error>,
    window: Arc<Window>,
    settler: Arc<VirtualSettler<S>>,
}

impl<S: QueueStore> VirtualSubscription<S> {
    /// A subscription without queues; [`add`](Subscription::add) takes them in.
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        window: Arc<Window>,
        options: SubscribeOptions,
    ) -> Self {
        let settler = VirtualSettler::new(shared.clone(), window.clone());
        VirtualSubscription {
            shared,
            options,
            readers: Vec::new(),
            start: 0,
            buffer: VecDeque::new(),
            cancelled: VecDeque::new(),
            failed: None,
            window,
            settler: Arc::new(settler),
        }
    }

    /// Asks every queue once, in turn, until the window is used up. If it was used up before, they are asked
    /// whether they are still there.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Result<()> {
        loop {
            let before = self.asked_for();
            let ended_some = self.poll_each(context)?;
            // Whoever answered hasn't registered the task. And room that was kept for an answer, and isn't needed, is
            // there for who was asked before it.
            let again = ended_some || self.asked_for() < before;
            if !self.buffer.is_empty() || !self.cancelled.is_empty() || !again {
                return Ok(());
            }
        }
    }

    /// What is on its way from all queues, at most.
    #[inline]
    fn asked_for(&self) -> usize {
        match &*self.readers {
            // Alone, it has the whole window.
            [_] => 0,
            readers => readers.iter().flatten().map(Reader::asked_for).sum(),
        }
    }

    /// Whether there were messages that are not to be handed out.
    fn poll_each(&mut self, context: &mut Context<'_>) -> Result<bool> {
        let mut ended_some = false;
        let queues = self.readers.len();
        let mut all_asked_for = self.asked_for();
        let start = self.start;
        for step in 0..queues {
            let mut room = self.window.room().min(MAX_BATCH);
            if room == 0 && !self.buffer.is_empty() {
                break;
            }
            let index = (start + step) % queues;
            let Some(reader) = &mut self.readers[index] else {
                continue;
            };
            if queues > 1 {
                all_asked_for = all_asked_for.saturating_sub(reader.asked_for());
                room = self
                    .window
                    .room()
                    .saturating_sub(all_asked_for)
                    .min(MAX_BATCH);
            }
            let before = self.buffer.len();
            let mut batch = Batch {
                queue: index as u16,
                taken: &mut self.buffer,
                window: &self.window,
                counted: 0,
            };
            let answer = reader.poll_take(context, room, &mut batch);
            let counted = batch.counted;
            if queues > 1 {
                all_asked_for += reader.asked_for();
            }
            let taken = (self.buffer.len() - before) as u32;
            if taken > 0 {
                self.start = (index + 1) % queues;
            }
            if taken > counted {
                self.window.take(taken - counted);
            }
            let mut next =
                match self.options.no_local.is_some() || self.settler.looks_at(index as u16) {
                    true => before,
                    // Nothing to look for.
                    false => self.buffer.len(),
                };
            while next < self.buffer.len() {
                let goes_on = self.is_to_be_handed_out(next);
                ended_some |= !goes_on;
                next += usize::from(goes_on);
            }
            match answer {
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConsumerCancelled => {
                    self.readers[index] = None;
                    self.cancelled.push_back(index as u16);
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        Ok(ended_some)
    }

    /// Takes note of a delivery in the buffer. One that is not for this consumer is ended here.
    #[inline]
    fn is_to_be_handed_out(&mut self, index: usize) -> bool {
        let delivery = &self.buffer[index];
        let worn_out = self.settler.hold(delivery);
        let origin = self.options.no_local;
        let own = origin.is_some_and(|origin| origin == delivery.envelope.publish_id().origin());
        if !worn_out && !own {
            return true;
        }
        let Some(delivery) = self.buffer.remove(index) else {
            return true;
        };
        if worn_out {
            self.settler.give_up(&delivery, Death::DeliveryLimit);
        } else {
            // Nobody else consumes here, so it would come back for ever.
            drop(self.settler.settle(tag(&delivery), Outcome::Ack));
        }
        false
    }

    /// Answers those releases that the store hasn't done yet.
    fn release_buffer(&mut self) -> Vec<Op<Result<()>>> {
        let buffered = std::mem::take(&mut self.buffer);
        self.release(buffered)
    }

    fn release(&self, mut buffered: VecDeque<RawDelivery>) -> Vec<Op<Result<()>>> {
        let mut releasing = Vec::new();
        // The last one first, so that each goes back in front of its successor.
        while let Some(delivery) = buffered.pop_back() {
            // A session that is gone has given back everything already.
            let settlement = self.settler.settle(tag(&delivery), Outcome::Release);
            releasing.extend(settlement.confirmed);
        }
        releasing
    }
}

impl<S: QueueStore> Stream for VirtualSubscription<S> {
    type Item = Result<Received>;

    #[inline]
    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            this.window.register(context);
            if this.window.has_ended() {
                return Poll::Ready(None);
            }
            let filled = match this.failed.take() {
                Some(error) => Err(error),
                None => this.poll_fill(context),
            };
            if let Err(error) = filled {
                return Poll::Ready(Some(Err(error)));
            }
            // What was fetched from it has been handed out.
            if let Some(queue) = this.cancelled.pop_front() {
                return Poll::Ready(Some(Ok(Received::Cancelled { queue })));
            }
        } else if this.window.has_ended() {
            // What was fetched went back with the session, and may be somebody else's by now.
            return Poll::Ready(None);
        }
        let Some(delivery) = this.buffer.pop_front() else {
            return Poll::Pending;
        };
        if this.options.no_ack {
            // Forgotten as it is handed out, not as it is fetched: a consumer that is dropped loses nothing.
            let settled = this.settler.settle(tag(&delivery), Outcome::Ack);
            if settled.queued.is_err() {
                // The session has ended, and the message went back with it.
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(Ok(Received::Delivery(delivery))))
    }
}

pub(super) fn tag(delivery: &RawDelivery) -> Tag {
    Tag {
        queue: delivery.queue,
        id: delivery.id,
    }
}

impl<S: QueueStore> Subscription for VirtualSubscription<S> {
    fn settler(&self) -> Arc<dyn Settle> {
        self.settler.clone()
    }

    fn set_window(&self, window: u32) {
        self.window.set_limit(window);
    }

    fn pause(&mut self, paused: bool) {
        self.window.pause(paused);
        if !paused {
            return;
        }
        drop(self.release_buffer());
        // The readers learn at once that there is no room: others are to be served, whether this consumer is polled
        // meanwhile or not. Its task, which was woken, registers itself again.
        let mut context = Context::from_waker(Waker::noop());
        if let Err(error) = self.poll_fill(&mut context) {
            self.failed = Some(error);
        }
    }

    fn add(&mut self, queue: &Name) -> BoxFuture<'_, Result<u16>> {
        let queue = queue.clone();
        Box::pin(async move {
            let Ok(index) = u16::try_from(self.readers.len()) else {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("a consumer takes at most {} queues in its life", u16::MAX),
                ));
            };
            self.shared.check_open()?;
            let (queue, declaration) = self.shared.find_queue(&queue).await?;
            let options = ReaderOptions::of(&self.options, &self.window);
            let reader = self.shared.store.open_reader(&queue, options).await?;
            self.settler.add(declaration, reader.holder());
            self.readers.push(Some(reader));
            Ok(index)
        })
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        let reader = self.readers.get_mut(usize::from(queue));
        let Some(reader) = reader.and_then(Option::take) else {
            return Op::ready(Ok(()));
        };
        // The reader first: what is released must not come back here.
        let closing = reader.close();
        let buffered = std::mem::take(&mut self.buffer);
        let (gone, kept) = buffered
            .into_iter()
            .partition(|delivery| delivery.queue == queue);
        self.buffer = kept;
        let releasing = self.release(gone);
        all_of([closing].into_iter().chain(releasing))
    }

    fn cancel(mut self: Box<Self>) -> Op<Result<()>> {
        // Readers first: what is released must not come back here.
        let readers = std::mem::take(&mut self.readers);
        let closing: Vec<_> = readers.into_iter().flatten().map(Reader::close).collect();
        let releasing = self.release_buffer();
        all_of(closing.into_iter().chain(releasing))
    }
}

/// Resolves when all of `answers` are there.
fn all_of(answers: impl Iterator<Item = Op<Result<()>>>) -> Op<Result<()>> {
    let pending: Vec<_> = answers
        .filter(|answer| matches!(answer, Op::Pending(_)))
        .collect();
    if pending.is_empty() {
        return Op::ready(Ok(()));
    }
    Op::pending(async move {
        for answer in pending {
            match answer.await {
                // With its session, everything is back.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionLost | ErrorKind::SettleLost
                    ) => {}
                answer => answer?,
            }
        }
        Ok(())
    })
}

impl<S: QueueStore> Drop for VirtualSubscription<S> {
    fn drop(&mut self) {
        // Readers first: what is released must not come back here.
        self.readers.clear();
        drop(self.release_buffer());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is answered if one of several has this error.
    async fn answer_with(kind: ErrorKind) -> Result<()> {
        let failed = Op::pending(async move { Err(Error::new(kind, "failed")) });
        all_of([Op::ready(Ok(())), failed, Op::pending(async { Ok(()) })].into_iter()).await
    }

    #[tokio::test]
    async fn what_goes_back_with_its_session_is_no_error_of_a_cancel() {
        assert!(answer_with(ErrorKind::ConnectionLost).await.is_ok());
        assert!(answer_with(ErrorKind::SettleLost).await.is_ok());
        let error = answer_with(ErrorKind::AccessRefused).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessRefused);
    }
}

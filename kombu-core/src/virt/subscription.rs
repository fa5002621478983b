use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::driver::{Op, Outcome, RawDelivery, Settle, Subscription, Tag};
use crate::error::{ErrorKind, Result};

use super::settler::VirtualSettler;
use super::store::{Batch, QueueStore, Reader};
use super::window::Window;

/// The most messages that are taken at once: enough to share the locks, few enough not to hold them long.
const MAX_BATCH: usize = 256;

pub(super) struct VirtualSubscription<S: QueueStore> {
    /// `None` once the queue was deleted.
    readers: Vec<Option<S::Reader>>,
    /// Whom to ask first, so that a busy queue can't starve the others.
    start: usize,
    buffer: VecDeque<RawDelivery>,
    window: Arc<Window>,
    settler: Arc<VirtualSettler<S>>,
    no_ack: bool,
}

impl<S: QueueStore> VirtualSubscription<S> {
    pub(super) fn new(
        readers: Vec<S::Reader>,
        window: Arc<Window>,
        settler: Arc<VirtualSettler<S>>,
        no_ack: bool,
    ) -> Self {
        VirtualSubscription {
            readers: readers.into_iter().map(Some).collect(),
            start: 0,
            buffer: VecDeque::new(),
            window,
            settler,
            no_ack,
        }
    }

    /// Asks every queue once, in turn, until the window is used up. If it was used up before, they are asked
    /// whether they are still there.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Result<()> {
        loop {
            let before = self.asked_for();
            self.poll_each(context)?;
            // Room that was kept for an answer, and isn't needed, is there for who was asked before it.
            if !self.buffer.is_empty() || self.asked_for() >= before {
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

    fn poll_each(&mut self, context: &mut Context<'_>) -> Result<()> {
        let queues = self.readers.len();
        let mut all_asked_for = self.asked_for();
        for step in 0..queues {
            let mut room = self.window.room().min(MAX_BATCH);
            if room == 0 && !self.buffer.is_empty() {
                break;
            }
            let index = (self.start + step) % queues;
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
            };
            let answer = reader.poll_take(context, room, &mut batch);
            if queues > 1 {
                all_asked_for += reader.asked_for();
            }
            for delivery in self.buffer.range(before..) {
                self.settler.hold(delivery);
            }
            self.window.take((self.buffer.len() - before) as u32);
            match answer {
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::ConsumerCancelled => {
                    self.readers[index] = None;
                    if self.readers.iter().all(Option::is_none) && self.buffer.is_empty() {
                        return Err(error);
                    }
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        self.start = (self.start + 1) % queues.max(1);
        Ok(())
    }

    /// Answers those releases that the store hasn't done yet.
    fn release_buffer(&mut self) -> Vec<Op<Result<()>>> {
        let mut releasing = Vec::new();
        // The last one first, so that each goes back in front of its successor.
        while let Some(delivery) = self.buffer.pop_back() {
            // A session that is gone has given back everything already.
            let settlement = self.settler.settle(tag(&delivery), Outcome::Release);
            releasing.extend(settlement.confirmed);
        }
        releasing
    }
}

impl<S: QueueStore> Stream for VirtualSubscription<S> {
    type Item = Result<RawDelivery>;

    #[inline]
    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<RawDelivery>>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            this.window.register(context);
            if this.window.has_ended() {
                return Poll::Ready(None);
            }
            if let Err(error) = this.poll_fill(context) {
                return Poll::Ready(Some(Err(error)));
            }
        } else if this.window.has_ended() {
            // What was fetched went back with the session, and may be somebody else's by now.
            return Poll::Ready(None);
        }
        let Some(delivery) = this.buffer.pop_front() else {
            return Poll::Pending;
        };
        if this.no_ack {
            // Forgotten as it is handed out, not as it is fetched: a consumer that is dropped loses nothing.
            let settled = this.settler.settle(tag(&delivery), Outcome::Ack);
            if settled.queued.is_err() {
                // The session has ended, and the message went back with it.
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(Ok(delivery)))
    }
}

fn tag(delivery: &RawDelivery) -> Tag {
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

    fn cancel(mut self: Box<Self>) -> Op<Result<()>> {
        // Readers first: what is released must not come back here.
        let closing: Vec<_> = self
            .readers
            .drain(..)
            .flatten()
            .map(Reader::close)
            .filter(|closing| matches!(closing, Op::Pending(_)))
            .collect();
        let releasing = self.release_buffer();
        if closing.is_empty() && releasing.is_empty() {
            return Op::ready(Ok(()));
        }
        Op::pending(async move {
            for answer in closing.into_iter().chain(releasing) {
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
}

impl<S: QueueStore> Drop for VirtualSubscription<S> {
    fn drop(&mut self) {
        // Readers first: what is released must not come back here.
        self.readers.clear();
        drop(self.release_buffer());
    }
}

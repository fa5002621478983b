use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use kombu_core::driver::Op;
use kombu_core::virt::{Batch, Reader};
use kombu_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use super::broker::Taken;
use super::line::{Line, lost};
use super::session::Holder;

/// How many messages a reader asks for, over and over.
const BATCHES: [usize; 5] = [1, 7, 2, 5, 3];

/// What the broker rings at the seat of a reader.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    deleted: AtomicBool,
    /// Taken for it, and not handed over.
    on_their_way: AtomicUsize,
    task: AtomicWaker,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }

    pub(super) fn send(&self, messages: usize) {
        self.on_their_way.fetch_add(messages, Ordering::Relaxed);
    }

    pub(super) fn arrive(&self, messages: usize) {
        self.on_their_way.fetch_sub(messages, Ordering::Relaxed);
    }

    pub(super) fn on_their_way(&self) -> usize {
        self.on_their_way.load(Ordering::Relaxed)
    }

    /// The queue is gone.
    pub(super) fn ring_out(&self) {
        self.deleted.store(true, Ordering::Release);
        self.ring();
    }
}

/// Messages that the broker counts as held, on their way to whoever asked. Those that don't arrive go back.
pub(super) struct Parcel {
    pub(super) messages: VecDeque<Taken>,
    pub(super) holder: Holder,
    pub(super) line: Arc<Line>,
}

impl Parcel {
    pub(super) fn empty(line: Arc<Line>, holder: Holder) -> Self {
        Parcel {
            messages: VecDeque::new(),
            holder,
            line,
        }
    }

    /// Gives back what is beyond the first `count`.
    fn keep(&mut self, count: usize) {
        if self.messages.len() <= count {
            return;
        }
        let ids: Vec<u64> = self.messages.drain(count..).map(|taken| taken.id).collect();
        let holder = self.holder.clone();
        drop(self.line.request(move |state| state.untake(&holder, &ids)));
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// Takes from one queue for one consumer.
pub(super) struct AwkwardReader {
    line: Arc<Line>,
    holder: Holder,
    bell: Arc<Bell>,
    asked: Option<(usize, oneshot::Receiver<Parcel>)>,
    /// Came, and isn't handed over.
    here: Parcel,
    /// The broker found nothing, and rings when there is something.
    waits: bool,
    polls: usize,
    batches: usize,
}

impl AwkwardReader {
    /// The reader of a seat that the broker is being asked for.
    pub(super) fn new(line: Arc<Line>, holder: Holder, bell: Arc<Bell>) -> Self {
        AwkwardReader {
            here: Parcel::empty(line.clone(), holder.clone()),
            line,
            holder,
            bell,
            asked: None,
            waits: false,
            polls: 0,
            batches: 0,
        }
    }

    fn ask(&mut self, max: usize) {
        let count = max.min(BATCHES[self.batches % BATCHES.len()]);
        self.batches += 1;
        let (line, holder) = (self.line.clone(), self.holder.clone());
        let answer = self.line.request(move |state| {
            let messages = state.take_seated(&holder, count);
            Parcel {
                messages,
                holder,
                line,
            }
        });
        self.asked = Some((count, answer));
    }
}

impl Reader for AwkwardReader {
    type Holder = Holder;

    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>> {
        self.bell.task.register(context.waker());
        if max == 0 {
            // No longer wanted: what is on its way goes back as it arrives.
            self.asked = None;
        }
        self.polls += 1;
        if self.polls % 5 == 2 {
            // Woken for nothing, and asked again.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            if let Some((_, answer)) = &mut self.asked {
                match Pin::new(answer).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(lost())),
                    Poll::Ready(Ok(mut parcel)) => {
                        self.asked = None;
                        self.waits = parcel.messages.is_empty();
                        self.here.messages.append(&mut parcel.messages);
                    }
                }
            }
            // The window may have become smaller since these were asked for.
            self.here.keep(max);
            if !self.here.messages.is_empty() {
                self.bell.arrive(self.here.messages.len());
                batch.count(self.here.messages.len());
                for taken in self.here.messages.drain(..) {
                    batch.push(taken.envelope, taken.id, taken.failures, taken.redelivered);
                }
                return Poll::Ready(Ok(()));
            }
            if self.bell.deleted.load(Ordering::Acquire) {
                return Poll::Ready(Err(Error::new(
                    ErrorKind::ConsumerCancelled,
                    format!(
                        "queue `{}` was deleted while it was being consumed",
                        self.holder.queue
                    ),
                )));
            }
            if max == 0 {
                return Poll::Pending;
            }
            if self.bell.rung.swap(false, Ordering::AcqRel) {
                self.waits = false;
            }
            if self.waits {
                return Poll::Pending;
            }
            self.ask(max);
        }
    }

    fn asked_for(&self) -> usize {
        self.asked.as_ref().map_or(0, |(count, _)| *count)
    }

    fn close(mut self) -> Op<Result<()>> {
        let asked = self.asked.take();
        let line = self.line.clone();
        drop(self);
        Op::pending(async move {
            if let Some((_, answer)) = asked {
                // What comes now is sent back.
                drop(answer.await);
            }
            line.ask(|_| ()).await
        })
    }

    fn holder(&self) -> Holder {
        self.holder.clone()
    }
}

impl Drop for AwkwardReader {
    fn drop(&mut self) {
        let holder = self.holder.clone();
        drop(self.line.request(move |state| state.remove_seat(&holder)));
    }
}

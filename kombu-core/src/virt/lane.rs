//! Publishes of one producer that the store didn't answer at once, in the order of the calls.
//!
//! A refused one is routed again. What was called after it must not overtake it then, and it must be done though
//! nobody may wait for the answer: so a task takes the answers, and whatever is called while it routes again
//! queues up behind.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::driver::{Confirm, Confirmation, Op};
use crate::error::{Error, Result};
use crate::message::Envelope;

use super::publisher::{confirmation, write};
use super::shared::{OnItsWay, Reach, Sender, Shared, UnderWay, session_ended};
use super::store::{Answer, QueueStore};

/// What a publish waits for.
pub(super) enum Stage {
    /// For the store's answer.
    Written(Op<Result<Answer>>, Reach),
    /// For the end of its being routed again.
    Routing(Confirm),
    /// For those before it.
    Waiting,
}

/// A publish that has no answer yet.
pub(super) struct Call {
    pub(super) envelope: Envelope,
    pub(super) stage: Stage,
    answer: oneshot::Sender<Result<Confirmation>>,
    _on_its_way: OnItsWay,
}

/// How far the publishes that have no answer are.
#[derive(Default)]
pub(super) struct Progress {
    count: usize,
    /// The version that they were routed with.
    version: u64,
    /// One of them has to be routed again: others wait.
    held: bool,
}

impl Progress {
    /// Whether nothing is under way.
    #[inline]
    pub(super) fn admits_any(&self) -> bool {
        self.count == 0
    }

    /// Whether a publish that was routed with this version may be written now.
    #[inline]
    pub(super) fn admits(&self, version: u64) -> bool {
        // One of a newer version could be stored where one of an older version before it is refused.
        self.count == 0 || (!self.held && self.version == version)
    }
}

/// The way to the task that takes the answers.
pub(super) struct Lane {
    calls: mpsc::UnboundedSender<Call>,
    under_way: UnderWay,
}

/// What the lane has to know of its publisher.
pub(super) trait Publishing: Send + Sync + 'static {
    fn with_progress<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T;
    fn forget_routes(&self);
}

impl Lane {
    pub(super) fn open<S: QueueStore>(
        shared: Arc<Shared<S>>,
        publishing: Arc<impl Publishing>,
    ) -> Self {
        let (calls, receiver) = mpsc::unbounded_channel();
        let runtime = shared.runtime.clone();
        let under_way = shared.under_way.clone();
        let task = Task {
            shared,
            publishing,
            calls: receiver,
        };
        runtime.spawn(task.run());
        Lane { calls, under_way }
    }

    /// Puts a publish behind those that are there. Called under the lock of `progress`, in the order of the
    /// publishes.
    pub(super) fn follow(
        &self,
        progress: &mut Progress,
        version: u64,
        envelope: Envelope,
        stage: Stage,
    ) -> Confirm {
        if progress.count == 0 {
            progress.version = version;
        }
        progress.count += 1;
        progress.held |= !matches!(stage, Stage::Written(..));
        let (answer, receiver) = oneshot::channel();
        let call = Call {
            envelope,
            stage,
            answer,
            _on_its_way: self.under_way.one(),
        };
        // Its task ends with the runtime only; the answer says so.
        drop(self.calls.send(call));
        Op::pending(async move { receiver.await.unwrap_or_else(|_| Err(session_ended())) })
    }
}

struct Task<S: QueueStore, P> {
    shared: Arc<Shared<S>>,
    publishing: Arc<P>,
    calls: mpsc::UnboundedReceiver<Call>,
}

impl<S: QueueStore, P: Publishing> Task<S, P> {
    async fn run(mut self) {
        while let Some(call) = self.calls.recv().await {
            let mut refused = VecDeque::new();
            self.take_answer(call, &mut refused).await;
            while !refused.is_empty() {
                // Those behind it come first: nothing may be written again while an older write is under way.
                while let Ok(call) = self.calls.try_recv() {
                    self.take_answer(call, &mut refused).await;
                }
                self.write_again(&mut refused).await;
            }
        }
    }

    async fn take_answer(&self, mut call: Call, refused: &mut VecDeque<Call>) {
        let answer = match std::mem::replace(&mut call.stage, Stage::Waiting) {
            Stage::Waiting => {
                refused.push_back(call);
                return;
            }
            Stage::Routing(confirm) => confirm.await,
            Stage::Written(answer, reach) => match answer.await {
                Ok(Answer::Stale) => {
                    self.publishing
                        .with_progress(|progress| progress.held = true);
                    refused.push_back(call);
                    return;
                }
                Ok(answer) => confirmation(reach.reached(answer, &call.envelope), &call.envelope),
                Err(error) => Err(error),
            },
        };
        self.answer(call, answer);
    }

    fn answer(&self, call: Call, answer: Result<Confirmation>) {
        self.publishing.with_progress(|progress| {
            progress.count -= 1;
            // With the last one, there is nobody left whom others could overtake.
            progress.held &= progress.count > 0;
        });
        // The receiver is gone if nobody waits; the publish is done all the same.
        drop(call.answer.send(answer));
    }

    /// Routes and writes all of `refused` again, in their order; leaves those that were refused again.
    async fn write_again(&self, refused: &mut VecDeque<Call>) {
        if let Err(error) = self.shared.refresh().await {
            for call in refused.drain(..) {
                self.answer(call, Err(Error::new(error.kind(), error.to_string())));
            }
            return;
        }
        self.publishing.forget_routes();
        let mut written = Vec::with_capacity(refused.len());
        let mut version = None;
        while let Some(mut call) = refused.pop_front() {
            let route = self.shared.route(Sender::Publisher, &call.envelope);
            // The table may move on in between; what is routed by a newer one waits for its turn.
            if *version.get_or_insert(route.version) != route.version {
                refused.push_front(call);
                break;
            }
            let answer = write(&self.shared.store, &route, &call.envelope);
            call.stage = Stage::Written(answer, route.reach);
            written.push(call);
        }
        let mut rest = std::mem::take(refused);
        for call in written {
            self.take_answer(call, refused).await;
        }
        refused.append(&mut rest);
    }
}

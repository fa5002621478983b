//! Publishes through named exchanges, which wait until it is known that the route counts.
//!
//! One look at the newest declarations covers all that waited when it was asked for; those that come meanwhile wait for the
//! next one. What is published to the default exchange waits only behind others.

use std::collections::VecDeque;
use std::sync::Arc;

use kombu_core::Result;
use kombu_core::message::Envelope;
use kombu_core::virt::Answer;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::known::{self, NatsQueue};
use crate::push;
use crate::session::Shared;

type Pushed = crate::line::Answer<Answer>;

#[derive(Default)]
pub(crate) struct Outlet {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Some of those that waited are on their way.
    is_busy: bool,
}

struct Waiting {
    /// Whether the route has to be compared.
    is_compared: bool,
    version: u64,
    targets: Vec<NatsQueue>,
    envelope: Envelope,
    reply: oneshot::Sender<Result<Pushed>>,
}

impl Outlet {
    /// Publishes behind those that wait.
    pub(crate) fn push(
        &self,
        shared: &Arc<Shared>,
        targets: &[NatsQueue],
        version: u64,
        envelope: &Envelope,
    ) -> Pushed {
        let is_compared = !envelope.exchange().is_empty();
        let mut state = self.state.lock();
        if !is_compared && state.waiting.is_empty() && !state.is_busy {
            return push::start(shared, targets, envelope);
        }
        let (reply, answer) = oneshot::channel();
        state.waiting.push_back(Waiting {
            is_compared,
            version,
            targets: targets.to_vec(),
            envelope: envelope.clone(),
            reply,
        });
        drop(state);
        self.bell.notify_one();
        let shared = shared.clone();
        Box::pin(async move {
            match answer.await {
                Ok(pushed) => pushed?.await,
                Err(_) => Err(shared.line.loss()),
            }
        })
    }

    fn take(&self) -> VecDeque<Waiting> {
        let mut state = self.state.lock();
        state.is_busy = !state.waiting.is_empty();
        std::mem::take(&mut state.waiting)
    }
}

/// Looks, and sends what waited, until the session is over.
pub(crate) async fn serve(shared: Arc<Shared>) {
    let over = shared.line.over();
    let lost = shared.line.lost();
    tokio::pin!(over, lost);
    loop {
        let waiting = shared.outlet.take();
        if waiting.is_empty() {
            tokio::select! {
                biased;
                () = shared.outlet.bell.notified() => continue,
                () = &mut over => return,
                _ = &mut lost => return,
            }
        }
        // Whoever waits for it has a deadline.
        let newest = shared.patiently(|| read_newest(&shared)).await;
        for one in waiting {
            let pushed = match &newest {
                Ok(()) if one.is_compared && !is_current(&shared, &one) => {
                    Ok(Box::pin(async { Ok(Answer::Stale) }) as Pushed)
                }
                Ok(()) => Ok(push::start(&shared, &one.targets, &one.envelope)),
                Err(error) => Err(kombu_core::Error::new(error.kind(), error.to_string())),
            };
            // Nobody waits any more; it is on its way all the same.
            drop(one.reply.send(pushed));
        }
    }
}

/// What others have declared since the last look is read: it needn't concern those that wait.
async fn read_newest(shared: &Arc<Shared>) -> Result<()> {
    let newest = known::revision(&shared.line).await?;
    if newest + 1 != shared.known.lock().table().version() {
        shared.catch_up_to(Some(newest)).await?;
    }
    Ok(())
}

fn is_current(shared: &Shared, one: &Waiting) -> bool {
    let mut known = shared.known.lock();
    known.still_holds(one.version, one.envelope.exchange(), &one.targets)
}

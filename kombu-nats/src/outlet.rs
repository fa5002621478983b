//! Publishes through named exchanges, which wait until it is known that the route counts.
//!
//! One look at the newest declarations covers all that waited when it was asked for; those that come meanwhile wait for the
//! next one. What is published to the default exchange waits only behind others.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use kombu_core::Result;
use kombu_core::message::Envelope;
use kombu_core::virt::Answer;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error;
use crate::known::{self, NatsQueue};
use crate::push::{self, PUBLISH};
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
    /// When it isn't sent any more.
    end: Instant,
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
        let end = Instant::now() + PUBLISH;
        let mut state = self.state.lock();
        if !is_compared && state.waiting.is_empty() && !state.is_busy {
            return push::start(shared, targets, envelope, end);
        }
        let (reply, answer) = oneshot::channel();
        state.waiting.push_back(Waiting {
            is_compared,
            version,
            end,
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

    /// Takes what waits; with nothing, what comes needn't wait.
    fn take(&self, waiting: &mut VecDeque<Waiting>) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.waiting, waiting);
        state.is_busy = !waiting.is_empty();
    }

    /// Takes what has come meanwhile.
    fn take_more(&self, waiting: &mut VecDeque<Waiting>) {
        std::mem::swap(&mut self.state.lock().waiting, waiting);
    }
}

/// Looks, and sends what waited, until the session is over.
pub(crate) async fn serve(shared: Arc<Shared>) {
    let over = shared.line.over();
    let lost = shared.line.lost();
    tokio::pin!(over, lost);
    let (mut waiting, mut more) = (VecDeque::new(), VecDeque::new());
    let mut asked = None;
    loop {
        if waiting.is_empty() {
            shared.outlet.take(&mut waiting);
        }
        if waiting.is_empty() {
            tokio::select! {
                biased;
                () = shared.outlet.bell.notified() => continue,
                () = &mut over => return,
                _ = &mut lost => return,
            }
        }
        let newest = look(&shared, &mut waiting, asked.take()).await;
        // Asked for before the others are sent, behind which the answer would be late.
        shared.outlet.take_more(&mut more);
        if !more.is_empty() {
            asked = Some(known::revision(&shared.line));
        }
        send(&shared, &mut waiting, &newest);
        std::mem::swap(&mut waiting, &mut more);
    }
}

/// Learns whether the routes of what waits count, for which it may have been asked. What has to wait for too long isn't sent:
/// nobody may ask for it any more.
async fn look(
    shared: &Arc<Shared>,
    waiting: &mut VecDeque<Waiting>,
    mut asked: Option<impl Future<Output = Result<u64>>>,
) -> Result<()> {
    while let Some(first) = waiting.front() {
        let asked = asked.take();
        let reading = async {
            if let Some(asked) = asked {
                match take_in(shared, asked.await).await {
                    Err(error) if error::is_passing(&error) => {}
                    done => return done,
                }
            }
            let reading = shared
                .patiently(|| async { take_in(shared, known::revision(&shared.line).await).await });
            reading.await
        };
        if let Ok(newest) = timeout_at(first.end, reading).await {
            return newest;
        }
        let now = Instant::now();
        while waiting.front().is_some_and(|one| one.end <= now)
            && let Some(late) = waiting.pop_front()
        {
            let error = error::silence("what the newest declarations are");
            // Nobody has to wait for it.
            drop(late.reply.send(Err(error)));
        }
    }
    Ok(())
}

/// What others have declared since the last look is read: it needn't concern those that wait.
async fn take_in(shared: &Arc<Shared>, newest: Result<u64>) -> Result<()> {
    let newest = newest?;
    if newest + 1 != shared.known.lock().table().version() {
        shared.catch_up_to(Some(newest)).await?;
    }
    Ok(())
}

fn send(shared: &Arc<Shared>, waiting: &mut VecDeque<Waiting>, newest: &Result<()>) {
    for one in waiting.drain(..) {
        let pushed = match newest {
            Ok(()) if one.is_compared && !is_current(shared, &one) => {
                Ok(Box::pin(async { Ok(Answer::Stale) }) as Pushed)
            }
            Ok(()) => Ok(push::start(shared, &one.targets, &one.envelope, one.end)),
            Err(error) => Err(kombu_core::Error::new(error.kind(), error.message())),
        };
        // Nobody waits any more; it is on its way all the same.
        drop(one.reply.send(pushed));
    }
}

fn is_current(shared: &Shared, one: &Waiting) -> bool {
    let mut known = shared.known.lock();
    known.still_holds(one.version, one.envelope.exchange(), &one.targets)
}

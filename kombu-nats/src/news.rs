//! Wakes those that wait for a message, at a subject that has nothing else: where somebody listens at that of the messages, a
//! stream that is gone isn't noticed.
//!
//! One that is published alone rings at once. While others are under way, they ring for it, and one more ring comes behind them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::Subject;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::known::NatsQueue;
use crate::session::{Job, Shared};

/// How long one ring stands for what is published behind others.
pub(crate) const GAP: Duration = Duration::from_millis(1);

/// The rings of a queue.
#[derive(Debug)]
pub(crate) struct News {
    subject: Subject,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many publishes aren't answered.
    under_way: usize,
    rung: Option<Instant>,
    /// It rings again soon.
    is_due: bool,
}

/// A publish, until it is answered.
pub(crate) struct UnderWay(NatsQueue);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.news().state.lock().under_way -= 1;
    }
}

impl News {
    pub(crate) fn new(subject: Subject) -> Self {
        News {
            subject,
            state: Mutex::default(),
        }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    fn ring(&self, shared: &Shared, state: &mut State) {
        state.rung = Some(Instant::now());
        shared.line.tell(self.subject.clone(), Bytes::new());
    }
}

/// Something was published to a queue.
pub(crate) fn tell(shared: &Arc<Shared>, queue: &NatsQueue) -> UnderWay {
    let news = queue.news();
    let mut state = news.state.lock();
    state.under_way += 1;
    let is_late = state.rung.is_none_or(|rung| rung.elapsed() >= GAP);
    match () {
        () if state.under_way == 1 || is_late => news.ring(shared, &mut state),
        () if state.is_due => {}
        () => {
            state.is_due = true;
            // Without its task, the session is over.
            drop(shared.jobs.send(Job::Ring(queue.clone())));
        }
    }
    drop(state);
    UnderWay(queue.clone())
}

/// Rings once more, when that is due.
pub(crate) async fn ring_later(shared: &Arc<Shared>, queue: &NatsQueue) {
    tokio::time::sleep(GAP).await;
    let news = queue.news();
    let mut state = news.state.lock();
    state.is_due = false;
    news.ring(shared, &mut state);
}

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use kombu_core::driver::{BoxFuture, BrokerInfo, Capabilities, Op, QueueInfo, RawDelivery};
use kombu_core::message::Envelope;
use kombu_core::virt::{
    Answer, Applied, Batch, Change, Dead, Finish, QueueStore, Reader, ReaderOptions, Table,
};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::broker::Broker;
use crate::held::{HeldEntry, Holding};
use crate::history::Recorder;
use crate::queue::{Entry, Full, MemoryQueue, Taken, Taker, Woken};
use crate::transport::MemoryOptions;

/// One session with a broker.
pub(crate) struct MemoryStore {
    options: MemoryOptions,
    session: Arc<Session>,
}

/// What the readers of one session hold: it goes back when the session ends.
struct Session {
    broker: Arc<Broker>,
    number: u64,
    holdings: Mutex<Holdings>,
}

#[derive(Default)]
struct Holdings {
    open: Vec<Arc<Holding>>,
    /// Whoever opens one now would never be told.
    ended: bool,
}

impl Session {
    fn open(&self, queue: &Arc<MemoryQueue>) -> Arc<Holding> {
        let holding = Arc::new(Holding::new(queue.clone()));
        queue.add_holding(&holding);
        self.keep(holding)
    }

    fn keep(&self, holding: Arc<Holding>) -> Arc<Holding> {
        let mut holdings = self.holdings.lock();
        if holdings.ended {
            drop(holdings);
            self.end_one(&holding);
            return holding;
        }
        let open = &mut holdings.open;
        // Readers that are gone and hold nothing. Doubling keeps this from being a scan per reader.
        if open.len() == open.capacity() {
            open.retain(|holding| Arc::strong_count(holding) > 1 || !holding.is_empty());
        }
        open.push(holding.clone());
        holding
    }

    fn end(&self) {
        let open = {
            let mut holdings = self.holdings.lock();
            holdings.ended = true;
            std::mem::take(&mut holdings.open)
        };
        for holding in open {
            self.end_one(&holding);
        }
        self.broker.remove_owned(self.number);
        self.broker.surroundings().dead.forget(self.number);
    }

    fn end_one(&self, holding: &Holding) {
        if holding.end() {
            self.broker.remove_unused(holding.queue());
        }
    }

    fn stop_reading(&self, holding: &Holding) {
        if holding.stop_reading() {
            self.broker.remove_unused(holding.queue());
        }
    }
}

impl MemoryStore {
    pub(crate) fn new(broker: Arc<Broker>, options: MemoryOptions) -> Self {
        let number = broker.next_session();
        MemoryStore {
            options,
            session: Arc::new(Session {
                broker,
                number,
                holdings: Mutex::default(),
            }),
        }
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.session.end();
    }
}

impl QueueStore for MemoryStore {
    type Queue = Arc<MemoryQueue>;
    type Reader = MemoryReader;
    type Holder = Arc<Holding>;

    fn capabilities(&self) -> Capabilities {
        self.options.capabilities()
    }

    fn broker_info(&self) -> Op<Result<BrokerInfo>> {
        let version = concat!("kombu ", env!("CARGO_PKG_VERSION")).to_owned();
        Op::ready(Ok(BrokerInfo::new(Some(version), Some(SystemTime::now()))))
    }

    fn session(&self) -> u64 {
        self.session.number
    }

    fn load(&self) -> Op<Result<Table>> {
        Op::ready(Ok(self.session.broker.table()))
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        Op::ready(Ok(self.session.broker.version() == version))
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        self.session.broker.apply(base, changes)
    }

    fn queue(&self, name: &Name) -> Option<Arc<MemoryQueue>> {
        self.session.broker.queue(name)
    }

    #[inline]
    fn push(
        &self,
        targets: &[Arc<MemoryQueue>],
        version: u64,
        envelope: &Envelope,
    ) -> Op<Result<Answer>> {
        if self.session.broker.version() != version {
            return Op::ready(Ok(Answer::Stale));
        }
        let recorder = &self.session.broker.surroundings().recorder;
        if recorder.is_on() {
            return Op::ready(Ok(push_recorded(recorder, targets, envelope)));
        }
        Op::ready(Ok(push(targets, envelope, |_, woken| woken.wake())))
    }

    fn push_nowhere(&self, version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        if self.session.broker.version() != version {
            return Op::ready(Ok(Answer::Stale));
        }
        let recorder = &self.session.broker.surroundings().recorder;
        if recorder.is_on() {
            recorder.publish(envelope, |_| ());
        }
        Op::ready(Ok(Answer::Done))
    }

    async fn open_reader(
        &self,
        queue: &Arc<MemoryQueue>,
        options: ReaderOptions,
    ) -> Result<MemoryReader> {
        static READERS: AtomicU64 = AtomicU64::new(0);
        let number = READERS.fetch_add(1, Ordering::Relaxed);
        let holding = self.session.open(queue);
        holding.start_reading(number, options)?;
        Ok(MemoryReader {
            number,
            session: self.session.clone(),
            holding,
            scratch: Vec::new(),
            alarm: None,
        })
    }

    async fn take_one(
        &self,
        queue: &Arc<MemoryQueue>,
    ) -> Result<Option<(RawDelivery, Arc<Holding>)>> {
        queue.touch();
        let holding = self.session.open(queue);
        let mut delivery = None;
        holding.take_one(|entry, id| {
            delivery = Some(RawDelivery {
                envelope: entry.envelope.clone(),
                id,
                failures: entry.failures,
                queue: 0,
                redelivered: entry.redelivered,
                waited: Duration::ZERO,
            });
        });
        Ok(delivery.map(|delivery| (delivery, holding)))
    }

    #[inline]
    fn finish(
        &self,
        holder: &Arc<Holding>,
        id: u64,
        finish: Finish<'_, Arc<MemoryQueue>>,
    ) -> Op<Result<Answer>> {
        Op::ready(self.finish_now(holder, id, finish))
    }

    fn take_dead(&self) -> Op<Result<Vec<Dead<Arc<Holding>>>>> {
        let Session { broker, number, .. } = &*self.session;
        broker.catch_up(Some(*number));
        let dead = broker.surroundings().dead.take_for(*number);
        let dead = dead.into_iter().filter_map(|corpse| {
            let queue = corpse.queue.clone();
            // Not in the queue's list: it isn't unsettled there any more.
            let holder = self.session.keep(Arc::new(Holding::new(queue.clone())));
            let (envelope, death) = (corpse.entry.envelope.clone(), corpse.death);
            let died = SystemTime::now().checked_sub(corpse.died.elapsed());
            let id = holder.hold_dead(corpse)?;
            Some(Dead {
                queue: queue.declaration().clone(),
                death,
                died: died.unwrap_or(SystemTime::UNIX_EPOCH),
                envelope,
                holder,
                id,
            })
        });
        Op::ready(Ok(dead.collect()))
    }

    fn dead_bell(&self) -> BoxFuture<'static, ()> {
        let surroundings = self.session.broker.surroundings().clone();
        let session = self.session.number;
        Box::pin(async move {
            tokio::select! {
                biased;
                () = surroundings.dead.until_any_for(session) => {}
                () = surroundings.schedule.until_due() => {}
            }
        })
    }

    async fn info(&self, queue: &Arc<MemoryQueue>) -> Result<QueueInfo> {
        queue.touch();
        Ok(queue.info())
    }

    async fn purge(&self, queue: &Arc<MemoryQueue>) -> Result<u64> {
        Ok(queue.purge())
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        // Nothing lies between this process and itself.
        Box::pin(std::future::pending())
    }

    async fn close(&self) -> Result<()> {
        self.session.end();
        Ok(())
    }
}

impl MemoryStore {
    #[inline]
    fn finish_now(
        &self,
        holding: &Arc<Holding>,
        id: u64,
        finish: Finish<'_, Arc<MemoryQueue>>,
    ) -> Result<Answer> {
        let queue = holding.queue();
        let recorder = &holding.surroundings().recorder;
        match finish {
            Finish::Forget => holding.forget(id)?,
            Finish::Discard { death } => holding.remove(id, |held| {
                if recorder.is_on() {
                    queue.record(&held.entry, death, held.died(), Vec::new());
                }
                None::<Woken>
            })?,
            Finish::LeaveDead { death } => holding.leave_dead(id, death, self.session.number)?,
            Finish::Release => holding.remove(id, |HeldEntry { mut entry, .. }| {
                entry.redelivered = true;
                queue.give_back(entry)
            })?,
            Finish::Retry { delay } => holding.remove(id, |HeldEntry { mut entry, .. }| {
                entry.redelivered = true;
                entry.failures = entry.failures.saturating_add(1);
                match delay {
                    None => queue.give_back(entry),
                    Some(delay) => queue.give_back_after(entry, delay),
                }
            })?,
            Finish::Move {
                death,
                targets,
                version,
                envelope,
            } => {
                if self.session.broker.version() != version {
                    return Ok(Answer::Stale);
                }
                let mut refused = false;
                holding.move_away(id, |held| {
                    // A dead letter arrives when it dies, however late it is moved.
                    let arrival = held.died();
                    let mut woken = Vec::with_capacity(targets.len());
                    let mut reached = recorder.is_on().then(Vec::new);
                    for target in targets {
                        match target.push(envelope, arrival) {
                            Ok(readers) => {
                                woken.push(readers);
                                reached
                                    .iter_mut()
                                    .for_each(|all| all.push(target.name().clone()));
                            }
                            Err(Full) => refused = true,
                        }
                    }
                    if let Some(reached) = reached {
                        queue.record(&held.entry, death, arrival, reached);
                    }
                    woken
                })?;
                if refused {
                    return Ok(Answer::Refused);
                }
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this transport can't settle like that",
                ));
            }
        }
        Ok(Answer::Done)
    }
}

/// Pushes to all of `targets` that take it; tells which they are, and whom to wake.
#[inline]
fn push(
    targets: &[Arc<MemoryQueue>],
    envelope: &Envelope,
    mut pushed: impl FnMut(&MemoryQueue, Woken),
) -> Answer {
    if envelope.immediate() {
        return push_to_ready(targets, envelope, pushed);
    }
    let mut answer = Answer::Done;
    for queue in targets {
        match queue.push(envelope, None) {
            Ok(woken) => pushed(queue, woken),
            Err(Full) => answer = Answer::Refused,
        }
    }
    answer
}

/// Pushes, and puts it on record.
#[cold]
fn push_recorded(recorder: &Recorder, targets: &[Arc<MemoryQueue>], envelope: &Envelope) -> Answer {
    let mut all_woken = Vec::new();
    let answer = recorder.publish(envelope, |queues| {
        push(targets, envelope, |queue, woken| {
            queues.push(queue.name().clone());
            all_woken.push(woken);
        })
    });
    all_woken.into_iter().for_each(Woken::wake);
    answer
}

/// Pushes to those queues that have a consumer for it.
fn push_to_ready(
    targets: &[Arc<MemoryQueue>],
    envelope: &Envelope,
    mut pushed: impl FnMut(&MemoryQueue, Woken),
) -> Answer {
    let mut answer = Answer::NoConsumers;
    for queue in targets.iter().filter(|queue| queue.has_ready_consumer()) {
        match queue.push(envelope, None) {
            Ok(woken) => {
                pushed(queue, woken);
                if answer == Answer::NoConsumers {
                    answer = Answer::Done;
                }
            }
            Err(Full) => answer = Answer::Refused,
        }
    }
    answer
}

/// Takes messages from one queue for one consumer.
pub(crate) struct MemoryReader {
    number: u64,
    session: Arc<Session>,
    holding: Arc<Holding>,
    /// Between the queue and the holding, so that publishers wait for a copy and not for our book-keeping.
    scratch: Vec<Entry>,
    /// Rings when the first delayed message is due, while nothing else is there.
    alarm: Option<Pin<Box<Sleep>>>,
}

fn deleted(queue: &MemoryQueue) -> Error {
    Error::new(
        ErrorKind::ConsumerCancelled,
        format!(
            "queue `{}` was deleted while it was being consumed; declare it and open the consumer again",
            queue.name()
        ),
    )
}

impl Reader for MemoryReader {
    type Holder = Arc<Holding>;

    #[inline]
    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>> {
        loop {
            let reader = Taker {
                number: self.number,
                waker: context.waker(),
                batch,
            };
            let due = match self.holding.take(max, &mut self.scratch, reader) {
                Taken::Messages(others) => {
                    others.wake();
                    return Poll::Ready(Ok(()));
                }
                Taken::Deleted => return Poll::Ready(Err(deleted(self.holding.queue()))),
                Taken::Nothing(due, others) => {
                    others.wake();
                    due.filter(|_| max > 0)
                }
            };
            let Some(due) = due else {
                self.alarm = None;
                return Poll::Pending;
            };
            let alarm = match &mut self.alarm {
                Some(alarm) => {
                    alarm.as_mut().reset(due);
                    alarm
                }
                None => self.alarm.insert(Box::pin(tokio::time::sleep_until(due))),
            };
            if alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn holder(&self) -> Arc<Holding> {
        self.holding.clone()
    }
}

impl Drop for MemoryReader {
    fn drop(&mut self) {
        self.session.stop_reading(&self.holding);
    }
}

#[cfg(test)]
mod tests {
    use kombu_core::Queue;

    use super::*;

    #[tokio::test]
    async fn a_session_keeps_nothing_of_those_who_got_nothing() {
        let broker = crate::broker::at(&"memory://#nothing".parse().unwrap());
        let jobs = Change::PutQueue(Queue::new("jobs"), None);
        broker.apply(broker.version(), &[jobs]).unwrap();
        let queue = broker.queue(&"jobs".into()).unwrap();
        let store = MemoryStore::new(broker, MemoryOptions::default());
        for _ in 0..100 {
            assert!(store.take_one(&queue).await.unwrap().is_none());
        }
        assert!(store.session.holdings.lock().open.len() < 10);
    }
}

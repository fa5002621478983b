use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use kombu_core::driver::{BoxFuture, Capabilities, Op, QueueInfo, RawDelivery};
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Applied, Batch, Change, Finish, QueueStore, Reader, Table};
use kombu_core::{Error, ErrorKind, Name, Result};
use parking_lot::Mutex;
use tokio::time::Sleep;

use crate::broker::Broker;
use crate::held::Holding;
use crate::queue::{Entry, MemoryQueue, Taken};
use crate::transport::{CAPABILITIES, MemoryOptions};

/// One session with a broker.
pub(crate) struct MemoryStore {
    broker: Arc<Broker>,
    options: MemoryOptions,
    session: Arc<Session>,
}

/// What the readers of one session hold: it goes back when the session ends.
#[derive(Default)]
struct Session {
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
        let mut holdings = self.holdings.lock();
        if holdings.ended {
            drop(holdings);
            holding.end();
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
            holding.end();
        }
    }
}

impl MemoryStore {
    pub(crate) fn new(broker: Arc<Broker>, options: MemoryOptions) -> Self {
        MemoryStore {
            broker,
            options,
            session: Arc::default(),
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
        match self.options.max_message_size {
            Some(bytes) => CAPABILITIES.with_max_message_size(bytes),
            None => CAPABILITIES,
        }
    }

    fn load(&self) -> Op<Result<Table>> {
        Op::ready(Ok(self.broker.table()))
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        Op::ready(Ok(self.broker.version() == version))
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        self.broker.apply(base, changes)
    }

    fn queue(&self, name: &Name) -> Option<Arc<MemoryQueue>> {
        self.broker.queue(name)
    }

    #[inline]
    fn push(
        &self,
        targets: &[Arc<MemoryQueue>],
        version: u64,
        envelope: &Envelope,
    ) -> Op<Result<Answer>> {
        if self.broker.version() != version {
            return Op::ready(Ok(Answer::Stale));
        }
        for queue in targets {
            queue.push(envelope).wake();
        }
        Op::ready(Ok(Answer::Done))
    }

    async fn open_reader(&self, queue: &Arc<MemoryQueue>) -> Result<MemoryReader> {
        static READERS: AtomicU64 = AtomicU64::new(0);
        let number = READERS.fetch_add(1, Ordering::Relaxed);
        let holding = self.session.open(queue);
        holding.start_reading(number)?;
        Ok(MemoryReader {
            number,
            holding,
            scratch: Vec::new(),
            alarm: None,
        })
    }

    async fn take_one(
        &self,
        queue: &Arc<MemoryQueue>,
    ) -> Result<Option<(RawDelivery, Arc<Holding>)>> {
        let holding = self.session.open(queue);
        let mut delivery = None;
        holding.take(1, &mut Vec::new(), None, |entry, id| {
            delivery = Some(RawDelivery {
                envelope: entry.envelope.clone(),
                id,
                failures: entry.failures,
                queue: 0,
                redelivered: entry.redelivered,
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

    async fn info(&self, queue: &Arc<MemoryQueue>) -> Result<QueueInfo> {
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
        match finish {
            Finish::Forget => holding.forget(id)?,
            Finish::Release => holding.remove(id, |mut entry| {
                entry.redelivered = true;
                [queue.give_back(entry)]
            })?,
            Finish::Retry { delay } => holding.remove(id, |mut entry| {
                entry.redelivered = true;
                entry.failures = entry.failures.saturating_add(1);
                [match delay {
                    None => queue.give_back(entry),
                    Some(delay) => queue.give_back_after(entry, delay),
                }]
            })?,
            Finish::Move {
                targets,
                version,
                envelope,
            } => {
                if self.broker.version() != version {
                    return Ok(Answer::Stale);
                }
                holding.remove(id, |_| {
                    let woken: Vec<_> = targets.iter().map(|to| to.push(envelope)).collect();
                    woken
                })?;
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

/// Takes messages from one queue for one consumer.
pub(crate) struct MemoryReader {
    number: u64,
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
            let waiting = Some((self.number, context.waker()));
            let taken = self
                .holding
                .take(max, &mut self.scratch, waiting, |entry, id| {
                    batch.push(
                        entry.envelope.clone(),
                        id,
                        entry.failures,
                        entry.redelivered,
                    );
                });
            let due = match taken {
                Taken::Messages => return Poll::Ready(Ok(())),
                Taken::Deleted => return Poll::Ready(Err(deleted(self.holding.queue()))),
                Taken::Nothing(due) => due.filter(|_| max > 0),
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
        self.holding.stop_reading();
    }
}

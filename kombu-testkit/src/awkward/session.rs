use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kombu_core::driver::{BoxFuture, Capabilities, Op, QueueInfo, RawDelivery};
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Applied, Change, Dead, Finish, QueueStore, ReaderOptions, Table};
use kombu_core::{Name, Result};
use parking_lot::Mutex;

use super::broker::{Broker, Ending};
use super::line::{Line, turns};
use super::reader::{AwkwardReader, Bell, Parcel};

/// One session. What its readers took and didn't finish goes back when it ends.
pub(super) struct Session {
    broker: Arc<Broker>,
    capabilities: Capabilities,
    line: Arc<Line>,
    number: u64,
    last_holder: AtomicU64,
    known: Arc<Mutex<Known>>,
}

/// The queues, as the broker told last: a look-up can't wait for it.
#[derive(Default)]
struct Known {
    version: u64,
    queues: HashSet<Name>,
}

/// Who holds a message: a reader, or a single `take_one`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Holder {
    pub(super) session: u64,
    pub(super) number: u64,
    pub(super) queue: Name,
}

impl Session {
    pub(super) fn open(broker: Arc<Broker>, capabilities: Capabilities) -> Self {
        let number = broker.with(|state| state.begin_session());
        Session {
            line: Line::open(broker.clone(), number),
            broker,
            capabilities,
            number,
            last_holder: AtomicU64::new(0),
            known: Arc::default(),
        }
    }

    fn holder(&self, queue: &Name) -> Holder {
        Holder {
            session: self.number,
            number: self.last_holder.fetch_add(1, Ordering::Relaxed),
            queue: queue.clone(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.line.hang_up());
    }
}

impl QueueStore for Session {
    /// Nothing but its name, as a key on a server.
    type Queue = Name;
    type Reader = AwkwardReader;
    type Holder = Holder;

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn session(&self) -> u64 {
        self.number
    }

    fn load(&self) -> Op<Result<Table>> {
        let known = self.known.clone();
        let loading = self.line.ask(|state| state.load());
        Op::pending(async move {
            let (table, queues) = loading.await?;
            let mut known = known.lock();
            if known.version < table.version() {
                *known = Known {
                    version: table.version(),
                    queues,
                };
            }
            Ok(table)
        })
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        Op::pending(self.line.ask(move |state| state.version() == version))
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        let made = changes.to_vec();
        let applied = self
            .line
            .ask(move |state| state.apply(base, &made))
            .await??;
        if let Applied::Done { version, .. } = applied {
            let mut known = self.known.lock();
            if known.version == base {
                known.version = version;
                for change in changes {
                    match change {
                        Change::PutQueue(queue, _) => {
                            known.queues.insert(queue.name().clone());
                        }
                        Change::DeleteQueue(name, _) => {
                            known.queues.remove(name);
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(applied)
    }

    fn queue(&self, name: &Name) -> Option<Name> {
        self.known.lock().queues.get(name).cloned()
    }

    fn push(&self, targets: &[Name], version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        let (targets, envelope) = (targets.to_vec(), envelope.clone());
        Op::pending(
            self.line
                .push(move |state| state.publish(&targets, version, &envelope)),
        )
    }

    async fn open_reader(&self, queue: &Name, options: ReaderOptions) -> Result<AwkwardReader> {
        let holder = self.holder(queue);
        let bell = Arc::new(Bell::default());
        // Made before it is asked for: if nobody waits for the answer, its drop gives up the seat.
        let reader = AwkwardReader::new(self.line.clone(), holder.clone(), bell.clone());
        let seated = self
            .line
            .ask(move |state| state.add_seat(&holder, bell, options));
        seated.await??;
        Ok(reader)
    }

    async fn take_one(&self, queue: &Name) -> Result<Option<(RawDelivery, Holder)>> {
        let holder = self.holder(queue);
        let (taker, line) = (holder.clone(), self.line.clone());
        let taking = self.line.ask(move |state| {
            state.check_queue(&taker.queue)?;
            Ok::<_, kombu_core::Error>(Parcel {
                messages: state.take(&taker, 1),
                holder: taker,
                line,
            })
        });
        let mut parcel = taking.await??;
        Ok(parcel.messages.pop_front().map(|taken| {
            let delivery = RawDelivery {
                envelope: taken.envelope,
                id: taken.id,
                failures: taken.failures,
                queue: 0,
                redelivered: taken.redelivered,
                waited: Duration::ZERO,
            };
            (delivery, holder)
        }))
    }

    fn finish(&self, holder: &Holder, id: u64, finish: Finish<'_, Name>) -> Op<Result<Answer>> {
        let ending = match Ending::from(finish) {
            Ok(ending) => ending,
            Err(error) => return Op::pending(async { Err(error) }),
        };
        let holder = holder.clone();
        let finishing = self
            .line
            .ask(move |state| state.finish(&holder, id, ending));
        Op::pending(async move { finishing.await? })
    }

    fn take_dead(&self) -> Op<Result<Vec<Dead<Holder>>>> {
        let holder = self.holder(&Name::default());
        Op::pending(self.line.ask(move |state| state.take_dead(&holder)))
    }

    fn dead_bell(&self) -> BoxFuture<'static, ()> {
        let (broker, session) = (self.broker.clone(), self.number);
        Box::pin(async move {
            broker.until_any_dead(session).await;
            turns(session as usize).await;
        })
    }

    async fn info(&self, queue: &Name) -> Result<QueueInfo> {
        let queue = queue.clone();
        self.line.ask(move |state| state.info(&queue)).await?
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        let queue = queue.clone();
        self.line.ask(move |state| state.purge(&queue)).await?
    }

    fn closed(&self) -> BoxFuture<'static, kombu_core::Error> {
        Box::pin(self.line.lost())
    }

    async fn close(&self) -> Result<()> {
        self.line.hang_up().await;
        Ok(())
    }
}

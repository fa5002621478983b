use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kombu_core::driver::{BoxFuture, BrokerInfo, Capabilities, Op, QueueInfo, RawDelivery};
use kombu_core::message::Envelope;
use kombu_core::virt::{Answer, Applied, Change, Dead, Finish, QueueStore, ReaderOptions, Table};
use kombu_core::{Error, FieldValue, Name, Result};

/// The one promise that a broken broker breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A released message is gone.
    LosesOnRelease,
    /// A publish whose answer is lost is made again, and doesn't find out that it was stored.
    DuplicatesOnLostReply,
    /// An unbind is answered and not made.
    IgnoresUnbind,
    /// What a session held when it ended doesn't come back.
    ForgetsLease,
    /// Publishes of one producer overtake each other.
    Reorders,
    /// A dead letter says that the message died once more than it did.
    CountsDeathsTwice,
}

/// A store with a flaw.
pub(super) struct Flawed<S> {
    store: Arc<S>,
    flaw: Flaw,
    pushes: AtomicUsize,
}

impl<S> Flawed<S> {
    pub(super) fn new(store: S, flaw: Flaw) -> Self {
        Flawed {
            store: Arc::new(store),
            flaw,
            pushes: AtomicUsize::new(0),
        }
    }
}

impl<S> Drop for Flawed<S> {
    fn drop(&mut self) {
        if self.flaw == Flaw::ForgetsLease {
            // The session never ends, as if nobody had noticed that its client is gone.
            std::mem::forget(self.store.clone());
        }
    }
}

impl<S: QueueStore> QueueStore for Flawed<S> {
    type Queue = S::Queue;
    type Reader = S::Reader;
    type Holder = S::Holder;

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn broker_info(&self) -> Op<Result<BrokerInfo>> {
        self.store.broker_info()
    }

    fn session(&self) -> u64 {
        self.store.session()
    }

    fn load(&self) -> Op<Result<Table>> {
        self.store.load()
    }

    fn is_current(&self, version: u64) -> Op<Result<bool>> {
        self.store.is_current(version)
    }

    async fn apply(&self, base: u64, changes: &[Change]) -> Result<Applied> {
        if self.flaw != Flaw::IgnoresUnbind {
            return self.store.apply(base, changes).await;
        }
        let mut made = changes.to_vec();
        made.retain(|change| !matches!(change, Change::Unbind(_)));
        self.store.apply(base, &made).await
    }

    fn queue(&self, name: &Name) -> Option<S::Queue> {
        self.store.queue(name)
    }

    fn push(&self, targets: &[S::Queue], version: u64, envelope: &Envelope) -> Op<Result<Answer>> {
        let number = self.pushes.fetch_add(1, Ordering::Relaxed);
        match self.flaw {
            Flaw::DuplicatesOnLostReply if number % 3 == 1 => {
                let lost = self.store.push(targets, version, envelope);
                drop(lost);
                // Under another id, so that the broker can't know it for the same one.
                let mut id = envelope.publish_id();
                id.producer = !id.producer;
                let again = Envelope::new(id, (**envelope).clone());
                self.store.push(targets, version, &again)
            }
            Flaw::Reorders if number % 3 == 1 => {
                let (store, targets, envelope) =
                    (self.store.clone(), targets.to_vec(), envelope.clone());
                let late = tokio::spawn(async move {
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                    store.push(&targets, version, &envelope).await
                });
                Op::pending(async move { late.await.map_err(|_| super::line::lost())? })
            }
            _ => self.store.push(targets, version, envelope),
        }
    }

    async fn open_reader(&self, queue: &S::Queue, options: ReaderOptions) -> Result<S::Reader> {
        self.store.open_reader(queue, options).await
    }

    async fn take_one(&self, queue: &S::Queue) -> Result<Option<(RawDelivery, S::Holder)>> {
        self.store.take_one(queue).await
    }

    fn finish(
        &self,
        holder: &S::Holder,
        id: u64,
        finish: Finish<'_, S::Queue>,
    ) -> Op<Result<Answer>> {
        let finish = match finish {
            Finish::Release if self.flaw == Flaw::LosesOnRelease => Finish::Forget,
            Finish::Move {
                death,
                targets,
                version,
                envelope,
            } if self.flaw == Flaw::CountsDeathsTwice => {
                let envelope = &count_last_death_again(envelope);
                let finish = Finish::Move {
                    death,
                    targets,
                    version,
                    envelope,
                };
                return self.store.finish(holder, id, finish);
            }
            finish => finish,
        };
        self.store.finish(holder, id, finish)
    }

    fn take_dead(&self) -> Op<Result<Vec<Dead<S::Holder>>>> {
        self.store.take_dead()
    }

    fn dead_bell(&self) -> BoxFuture<'static, ()> {
        self.store.dead_bell()
    }

    async fn info(&self, queue: &S::Queue) -> Result<QueueInfo> {
        self.store.info(queue).await
    }

    async fn purge(&self, queue: &S::Queue) -> Result<u64> {
        self.store.purge(queue).await
    }

    fn closed(&self) -> BoxFuture<'static, Error> {
        self.store.closed()
    }

    async fn close(&self) -> Result<()> {
        match self.flaw {
            Flaw::ForgetsLease => Ok(()),
            _ => self.store.close().await,
        }
    }
}

fn count_last_death_again(letter: &Envelope) -> Envelope {
    let mut content = (**letter).clone();
    let deaths = content.headers_mut().remove("x-death");
    if let Some(FieldValue::Array(mut deaths)) = deaths {
        if let Some(FieldValue::Table(last)) = deaths.first_mut() {
            let count = last.get("count").and_then(FieldValue::as_i64);
            last.insert("count", count.unwrap_or(0) + 1);
        }
        content
            .headers_mut()
            .insert("x-death", FieldValue::Array(deaths));
    }
    Envelope::new(letter.publish_id(), content)
}

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::declare::{Exchange, Queue};
use crate::driver::{Destination, ExchangeKinds, Op};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;
use crate::watched::Watched;

use super::store::{Answer, Death, QueueStore};
use super::table::{Table, missing_exchange, missing_queue};
use super::window::Window;
use super::{dead_letter, declarations};

/// How long the end of a session waits for the broker's answers.
const FLUSH: Duration = Duration::from_secs(5);

/// What the parts of one virtual connection have in common.
pub(super) struct Shared<S: QueueStore> {
    pub(super) store: S,
    pub(super) table: RwLock<Table>,
    pub(super) kinds: Arc<ExchangeKinds>,
    pub(super) runtime: tokio::runtime::Handle,
    closed: AtomicBool,
    /// Tells whoever waits for the end.
    end: Arc<Watched<bool>>,
    windows: Mutex<Vec<Weak<Window>>>,
    pub(super) under_way: UnderWay,
    /// Whose turn it is to change declarations.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Whose turn it is to move the dead.
    pub(super) burying: tokio::sync::Mutex<()>,
}

/// What was called and has no answer yet, though nobody may wait for it.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<Counted>);

#[derive(Default)]
struct Counted {
    count: AtomicUsize,
    none: Notify,
}

/// One of those; it is over when this is dropped.
pub(super) struct OnItsWay(Arc<Counted>);

impl UnderWay {
    pub(super) fn one(&self) -> OnItsWay {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        OnItsWay(self.0.clone())
    }

    /// Resolves when there is none.
    async fn none(&self) {
        loop {
            let none = self.0.none.notified();
            if self.0.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Release) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

pub(super) fn session_ended() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the session has ended")
}

/// Where messages with one exchange and key go.
pub(super) struct Route<Q> {
    pub(super) version: u64,
    pub(super) targets: Vec<Q>,
    /// Whether headers had no say in it.
    pub(super) by_key: bool,
    pub(super) reach: Reach,
}

/// How far a route leads.
#[derive(Clone, Copy)]
pub(super) enum Reach {
    Queues,
    Nowhere,
    /// The exchange isn't there.
    Missing,
    /// An exchange is of a kind that this connection doesn't know.
    UnknownKind,
    /// The code of an exchange's kind panicked.
    Broken,
    /// The exchange takes messages from other exchanges only.
    Internal,
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Queues,
    Nowhere,
    /// A full queue refused it.
    Refused,
    /// It was immediate, and no consumer was ready.
    NoConsumers,
}

/// Who sends: only publishers are kept out of internal exchanges.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Publisher,
    DeadLetters(Death),
}

impl Reach {
    /// The result of having sent there, and of what the store answered.
    #[inline]
    pub(super) fn reached(self, answer: Answer, envelope: &Envelope) -> Result<Reached> {
        match self {
            Reach::Queues => Ok(match answer {
                Answer::Refused => Reached::Refused,
                Answer::NoConsumers => Reached::NoConsumers,
                Answer::Done | Answer::HandedOver | Answer::Stale => Reached::Queues,
            }),
            Reach::Nowhere if answer == Answer::HandedOver => Ok(Reached::Queues),
            Reach::Nowhere => Ok(Reached::Nowhere),
            Reach::Missing => Err(missing_exchange(envelope.exchange())),
            Reach::UnknownKind => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "exchange `{}`, or one that it leads to, is of a kind that nobody told this connection of; register \
                     it with `ConnectionBuilder::exchange_kind`",
                    envelope.exchange()
                ),
            )),
            Reach::Broken => Err(Error::new(
                ErrorKind::Protocol,
                format!(
                    "exchange `{}`, or one that it leads to, can't route: the `RouteMessages` of its kind panicked; mend it",
                    envelope.exchange()
                ),
            )),
            Reach::Internal => Err(Error::new(
                ErrorKind::AccessRefused,
                format!(
                    "exchange `{}` is internal: it takes messages from other exchanges only; publish to one that is bound to it",
                    envelope.exchange()
                ),
            )),
        }
    }
}

impl<S: QueueStore> Drop for Shared<S> {
    /// Whoever waits for the end refers to that alone.
    fn drop(&mut self) {
        self.end.set(true);
    }
}

impl<S: QueueStore> Shared<S> {
    pub(super) fn new(
        store: S,
        table: Table,
        kinds: Arc<ExchangeKinds>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Shared {
            store,
            table: RwLock::new(table),
            kinds,
            runtime,
            closed: AtomicBool::new(false),
            end: Arc::default(),
            windows: Mutex::default(),
            under_way: UnderWay::default(),
            changing: tokio::sync::Mutex::default(),
            burying: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(session_ended());
        }
        Ok(())
    }

    /// Ends the session for everybody on this side.
    pub(super) fn end(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.end.set(true);
        for window in self.windows.lock().drain(..) {
            if let Some(window) = window.upgrade() {
                window.end();
            }
        }
    }

    /// Waits for what is under way, unless the session is lost: then no answer comes any more.
    pub(super) async fn flush(&self) {
        tokio::select! {
            biased;
            () = self.under_way.none() => {}
            _ = self.store.closed() => {}
            () = tokio::time::sleep(FLUSH) => {}
        }
    }

    /// Resolves when the session has ended on this side.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let end = self.end.clone();
        async move { end.until(|ended| ended.then_some(())).await }
    }

    /// Makes a window that ends with the session.
    pub(super) fn window(&self, limit: u32) -> Arc<Window> {
        let window = Arc::new(Window::new(limit));
        let mut windows = self.windows.lock();
        windows.retain(|window| window.strong_count() > 0);
        windows.push(Arc::downgrade(&window));
        drop(windows);
        // Whoever ended the session before this one was in the list didn't see it.
        if self.closed.load(Ordering::Acquire) {
            window.end();
        }
        window
    }

    /// Looks a queue up that this session may use.
    pub(super) async fn find_queue(&self, name: &Name) -> Result<(S::Queue, Arc<Queue>)> {
        self.refresh().await?;
        self.find(&Destination::Queue(name.clone())).await?;
        let declaration = {
            let table = self.table.read();
            declarations::check_access(&table, name, self.store.session())?;
            table.queue_in_use(name)
        };
        let found = declaration.and_then(|queue| Some((self.store.queue(name)?, queue)));
        found.ok_or_else(|| missing_queue(name))
    }

    /// Has the store look for something that the table doesn't have, and that may be there all the same.
    pub(super) async fn find(&self, wanted: &Destination) -> Result<()> {
        let version = {
            let table = self.table.read();
            let is_known = match wanted {
                Destination::Queue(name) => table.queue_in_use(name).is_some(),
                Destination::Exchange(name) => table.exchange(name).is_some(),
            };
            if is_known {
                return Ok(());
            }
            table.version()
        };
        match self.store.look_for(version, wanted).await? {
            Answer::Stale => self.refresh().await,
            _ => Ok(()),
        }
    }

    /// Loads the table again if the store has a newer one.
    pub(super) async fn refresh(&self) -> Result<()> {
        let version = self.table.read().version();
        if self.store.is_current(version).await? {
            return Ok(());
        }
        let mut table = self.store.load().await?;
        let mut current = self.table.write();
        if table.version() > current.version() {
            // The old one goes when the lock has gone.
            mem::swap(&mut *current, &mut table);
        }
        Ok(())
    }

    /// Routes over the table as it is known here, without asking the store.
    pub(super) fn route(&self, sender: Sender, envelope: &Envelope) -> Route<S::Queue> {
        let table = self.table.read();
        let mut route = Route {
            version: table.version(),
            targets: Vec::new(),
            by_key: true,
            reach: Reach::Nowhere,
        };
        let exchange = table.exchange(envelope.exchange());
        if sender == Sender::Publisher && exchange.is_some_and(Exchange::is_internal) {
            route.reach = Reach::Internal;
            return route;
        }
        match table.route_with(envelope, &self.kinds) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                route.reach = Reach::UnknownKind
            }
            Err(error) if error.kind() == ErrorKind::Protocol => route.reach = Reach::Broken,
            Err(_) => route.reach = Reach::Missing,
            Ok(routed) => {
                route.by_key = routed.by_key;
                let mut queues = routed.queues;
                if let Sender::DeadLetters(death) = sender {
                    queues.retain(|queue| !dead_letter::is_cycle(envelope, queue, death));
                }
                let queues = queues.iter();
                route.targets = queues.filter_map(|name| self.store.queue(name)).collect();
                if !route.targets.is_empty() {
                    route.reach = Reach::Queues;
                }
            }
        }
        route
    }

    /// Routes and writes until the route wasn't stale; answers whether a queue has it.
    ///
    /// This is the only such loop: publishes and dead letters both come here. A route without targets is
    /// written too, so that `write` can compare its version. Whether the session is open isn't asked here: a
    /// publish has asked before, and the settle of an ended one is for the store to call lost.
    pub(super) async fn dispatch<F>(
        self: Arc<Self>,
        sender: Sender,
        envelope: Envelope,
        write: F,
    ) -> Result<Reached>
    where
        F: Fn(&S, &Route<S::Queue>, &Envelope) -> Op<Result<Answer>> + Send,
    {
        loop {
            let route = self.route(sender, &envelope);
            let answer = write(&self.store, &route, &envelope);
            match answer.await? {
                Answer::Stale => self.refresh().await?,
                answer => return route.reach.reached(answer, &envelope),
            }
        }
    }

    /// Compares the version of a route that leads nowhere.
    pub(super) fn compare(store: &S, version: u64) -> Op<Result<Answer>> {
        store.is_current(version).map(|current| {
            Ok(if current? {
                Answer::Done
            } else {
                Answer::Stale
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_what_is_under_way_is_told_when_the_last_is_over() {
        let under_way = UnderWay::default();
        let (first, last) = (under_way.one(), under_way.one());
        let is_over = async || tokio::time::timeout(FLUSH, under_way.none()).await.is_ok();
        assert!(!is_over().await);
        drop(first);
        assert!(!is_over().await);
        // Dropped while somebody waits.
        let (is_over, ()) = tokio::join!(is_over(), async { drop(last) });
        assert!(is_over);
    }
}

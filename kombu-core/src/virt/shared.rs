use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::declare::Exchange;
use crate::driver::Op;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Envelope;
use crate::name::Name;

use super::store::{Answer, QueueStore};
use super::table::{Table, missing_exchange};
use super::window::Window;

/// What the parts of one virtual connection have in common.
pub(super) struct Shared<S: QueueStore> {
    pub(super) store: S,
    pub(super) table: RwLock<Table>,
    pub(super) runtime: tokio::runtime::Handle,
    closed: AtomicBool,
    windows: Mutex<Vec<Weak<Window>>>,
}

/// Where messages with one exchange and key go.
pub(super) struct Route<Q> {
    pub(super) version: u64,
    pub(super) targets: Vec<Q>,
    /// Whether headers had no say in it.
    pub(super) by_key: bool,
    /// The exchange isn't there.
    missing: Option<Name>,
    /// The exchange takes messages from other exchanges only.
    pub(super) internal: bool,
}

impl<Q> Route<Q> {
    /// The result of having sent to this route: whether a queue has it.
    pub(super) fn result(&self) -> Result<bool> {
        match &self.missing {
            Some(exchange) => Err(missing_exchange(exchange)),
            None => Ok(!self.targets.is_empty()),
        }
    }
}

impl<S: QueueStore> Shared<S> {
    pub(super) fn new(store: S, table: Table, runtime: tokio::runtime::Handle) -> Self {
        Shared {
            store,
            table: RwLock::new(table),
            runtime,
            closed: AtomicBool::new(false),
            windows: Mutex::default(),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Closed,
                "the connection is closed; connect again",
            ));
        }
        Ok(())
    }

    /// Ends the session for everybody on this side. False if it had ended before.
    pub(super) fn end(&self) -> bool {
        if self.closed.swap(true, Ordering::AcqRel) {
            return false;
        }
        for window in self.windows.lock().drain(..) {
            if let Some(window) = window.upgrade() {
                window.end();
            }
        }
        true
    }

    /// Makes a window that ends with the session.
    pub(super) fn window(&self, limit: u32) -> Arc<Window> {
        let window = Arc::new(Window::new(limit));
        let mut windows = self.windows.lock();
        windows.retain(|window| window.strong_count() > 0);
        windows.push(Arc::downgrade(&window));
        window
    }

    /// Loads the table again if the store has a newer one.
    pub(super) async fn refresh(&self) -> Result<()> {
        let version = self.table.read().version();
        if self.store.is_current(version).await? {
            return Ok(());
        }
        let table = self.store.load().await?;
        let mut current = self.table.write();
        if table.version() > current.version() {
            *current = table;
        }
        Ok(())
    }

    /// Routes over the table as it is known here, without asking the store.
    pub(super) fn route(&self, envelope: &Envelope) -> Route<S::Queue> {
        let table = self.table.read();
        let version = table.version();
        match table.route(envelope) {
            Ok(routed) => Route {
                version,
                targets: routed
                    .queues
                    .iter()
                    .filter_map(|name| self.store.queue(name))
                    .collect(),
                by_key: routed.by_key,
                missing: None,
                internal: table
                    .exchange(envelope.exchange())
                    .is_some_and(Exchange::is_internal),
            },
            Err(_) => Route {
                version,
                targets: Vec::new(),
                by_key: true,
                missing: Some(envelope.exchange().clone()),
                internal: false,
            },
        }
    }

    /// Routes and writes until the route wasn't stale; answers whether a queue has it.
    ///
    /// This is the only such loop: publishes and dead letters both come here. A route without targets is
    /// written too, so that `write` can compare its version. Whether the session is open isn't asked here: a
    /// publish has asked before, and the settle of an ended one is for the store to call lost.
    pub(super) async fn dispatch<F>(self: Arc<Self>, envelope: Envelope, write: F) -> Result<bool>
    where
        F: Fn(&S, &Route<S::Queue>, &Envelope) -> Op<Result<Answer>> + Send,
    {
        loop {
            let route = self.route(&envelope);
            let answer = write(&self.store, &route, &envelope);
            match answer.await? {
                Answer::Done => return route.result(),
                Answer::Stale => self.refresh().await?,
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

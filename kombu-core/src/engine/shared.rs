use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};

use crate::driver::{self, BoxFuture, Notice};
use crate::error::{Error, ErrorKind, Result};
use crate::watched::Watched;

use super::backoff::Backoff;
use super::{Deadlines, Event, Health, RetryPolicy};

/// Events that a slow reader may fall behind by.
const EVENTS: usize = 256;

/// How long a broker may take to let go of what a lost session held alone: until it has noticed that.
pub(crate) const LETS_GO_WITHIN: Duration = Duration::from_secs(60);

/// One driver connection. It ends and never comes back.
pub(crate) struct Session {
    pub(crate) driver: Arc<dyn driver::Connection>,
    is_abandoned: AtomicBool,
}

impl Session {
    pub(super) fn new(driver: Arc<dyn driver::Connection>) -> Arc<Self> {
        Arc::new(Session {
            driver,
            is_abandoned: AtomicBool::new(false),
        })
    }

    /// Its end was waited for for too long.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.driver.abandon();
    }

    /// Whether it was: what its end comes to then is no answer of the broker's.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }
}

/// Something that has to be put into order on a new session before anybody uses it.
pub(crate) trait Restore: Send + Sync {
    /// Does what takes the broker's answers, each within `limit`. An error means that the session isn't fit for use.
    ///
    /// The future holds none of the handles that keep the connection, or nobody could let go of it meanwhile.
    fn restore(
        self: Arc<Self>,
        session: Arc<Session>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<Begin>>;

    /// The connection has ended; there will be no other session.
    fn end(&self) {}
}

/// What is left to do when everything else is in order, and the session is to be used.
pub(crate) type Begin = Box<dyn FnOnce() + Send>;

pub(super) enum State {
    Connecting,
    Up(Arc<Session>),
    Ended { kind: ErrorKind, reason: String },
}

impl State {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, State::Ended { .. })
    }
}

/// What the supervisor and the handles have in common.
pub(crate) struct Shared {
    pub(super) state: Arc<Watched<State>>,
    /// `None` once everything has been told.
    events: Mutex<Option<broadcast::Sender<Event>>>,
    pub(super) restores: Mutex<Vec<Weak<dyn Restore>>>,
    pub(super) health: Mutex<Health>,
    pub(super) policy: RetryPolicy,
    pub(crate) deadlines: Deadlines,
    /// What goes on without those who asked for it does so here.
    pub(crate) runtime: Handle,
    /// The supervisor learns from its end that the last handle is gone.
    _alive: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(
        policy: RetryPolicy,
        deadlines: Deadlines,
        runtime: Handle,
    ) -> (Arc<Self>, watch::Receiver<()>) {
        let (alive, gone) = watch::channel(());
        let shared = Shared {
            state: Arc::new(Watched::new(State::Connecting)),
            events: Mutex::new(Some(broadcast::Sender::new(EVENTS))),
            restores: Mutex::default(),
            health: Mutex::new(Health {
                connected: false,
                sessions: 0,
                blocked: None,
                last_error: None,
            }),
            policy,
            deadlines,
            runtime,
            _alive: alive,
        };
        (Arc::new(shared), gone)
    }

    /// The session, once there is one.
    ///
    /// Fails if the connection was closed or given up. Cancel safe.
    pub(crate) async fn session(&self) -> Result<Arc<Session>> {
        self.state
            .until(|state| match state {
                State::Connecting => None,
                State::Up(session) => Some(Ok(session.clone())),
                State::Ended { kind, reason } => Some(Err(Error::new(*kind, reason.clone()))),
            })
            .await
    }

    /// The session that follows this one.
    ///
    /// Fails if the connection was closed or given up. Cancel safe.
    pub(crate) async fn session_after(&self, last: &Arc<Session>) -> Result<Arc<Session>> {
        self.state
            .until(|state| match state {
                State::Up(session) if !Arc::ptr_eq(session, last) => Some(Ok(session.clone())),
                State::Up(_) | State::Connecting => None,
                State::Ended { kind, reason } => Some(Err(Error::new(*kind, reason.clone()))),
            })
            .await
    }

    /// Does this on a session, unless it is lost meanwhile. A driver that the broker doesn't answer may not know yet that it is.
    ///
    /// Where the connection is being closed, the driver has the last word.
    pub(crate) async fn while_up<T>(
        &self,
        session: &Arc<Session>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let lost = self.state.until(|state| match state {
            State::Up(present) if Arc::ptr_eq(present, session) => None,
            State::Up(_) | State::Connecting => Some(Error::new(
                ErrorKind::ConnectionLost,
                "the session was lost before the broker answered",
            )),
            State::Ended { .. } => None,
        });
        tokio::select! {
            biased;
            answer = work => answer,
            error = lost => Err(error),
        }
    }

    /// A session that isn't this one, once there is one; `None` if none will come. It keeps nothing open.
    pub(crate) fn session_besides(
        &self,
        other: Weak<Session>,
    ) -> impl Future<Output = Option<Arc<Session>>> + Send + use<> {
        let state = self.state.clone();
        async move {
            let next = state.until(|state| match state {
                State::Up(session) if Arc::as_ptr(session) == other.as_ptr() => None,
                State::Up(session) => Some(Some(session.clone())),
                State::Connecting => None,
                State::Ended { .. } => Some(None),
            });
            next.await
        }
    }

    /// Whether it is the session that there is.
    pub(crate) fn is_present(&self, session: &Weak<Session>) -> bool {
        match &*self.state.get() {
            State::Up(present) => Arc::as_ptr(present) == session.as_ptr(),
            _ => false,
        }
    }

    /// Resolves when the connection was closed or given up. It keeps nothing open.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let state = self.state.clone();
        async move { state.until(|state| state.has_ended().then_some(())).await }
    }

    /// Ends the connection for all handles. The session that there was is the caller's to close.
    pub(crate) fn end(&self) -> Option<Arc<Session>> {
        let mut last = None;
        self.state.change_if(|state| {
            let ended = State::Ended {
                kind: ErrorKind::Closed,
                reason: "the connection is closed; connect again".to_owned(),
            };
            match std::mem::replace(state, ended) {
                State::Up(session) => last = Some(session),
                State::Connecting => {}
                // Whatever ended it first is what handles go on answering.
                before @ State::Ended { .. } => {
                    *state = before;
                    return false;
                }
            }
            true
        });
        self.tell_end(None);
        last
    }

    /// The session is over. False if nobody wants another one.
    pub(super) fn lose(&self, reason: &Error) -> bool {
        let lost = self.state.change_if(|state| {
            let lost = matches!(state, State::Up(_));
            if lost {
                *state = State::Connecting;
            }
            lost
        });
        if !lost {
            return false;
        }
        tracing::info!(%reason, "connection lost");
        let was_blocked = {
            let mut health = self.health.lock();
            health.connected = false;
            health.last_error = Some(reason.to_string());
            health.blocked.take().is_some()
        };
        self.tell(Event::Lost {
            kind: reason.kind(),
            reason: reason.to_string(),
        });
        if was_blocked {
            self.tell(Event::Unblocked);
        }
        true
    }

    /// The next session is there. False if nobody wants it any more.
    pub(super) fn take_up(&self, session: &Arc<Session>, attempts: u32) -> bool {
        let wanted = self.state.change_if(|state| {
            // It may be closed at this very moment, by another thread.
            let wanted = matches!(state, State::Connecting);
            if wanted {
                *state = State::Up(session.clone());
            }
            wanted
        });
        if wanted {
            {
                let mut health = self.health.lock();
                health.connected = true;
                health.sessions += 1;
            }
            tracing::info!(attempts, "connection restored");
            self.tell(Event::Restored { attempts });
        }
        wanted
    }

    /// There won't be another session.
    pub(super) fn give_up(&self, kind: ErrorKind, reason: String, last: Option<Event>) {
        let gives_up = self.state.change_if(|state| {
            let goes_on = !state.has_ended();
            if goes_on {
                *state = State::Ended { kind, reason };
            }
            goes_on
        });
        if gives_up {
            self.tell_end(last);
        }
    }

    /// Tells everybody who waits for a session that none will come, and whoever listens that this is all. The state says
    /// so already.
    fn tell_end(&self, last: Option<Event>) {
        self.health.lock().connected = false;
        let restores = self.restores.lock().clone();
        for restore in restores.iter().filter_map(Weak::upgrade) {
            restore.end();
        }
        if let Some(last) = last {
            self.tell(last);
        }
        *self.events.lock() = None;
    }

    /// Whether there will be no further session.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&*self.state.get(), State::Ended { .. })
    }

    /// Why there will be no further session.
    pub(crate) fn end_reason(&self) -> Error {
        match &*self.state.get() {
            State::Ended { kind, reason } => Error::new(*kind, reason.clone()),
            _ => closed(),
        }
    }

    /// Has `restore` put into order on every later session, for as long as somebody holds it.
    pub(crate) fn register(&self, restore: Weak<dyn Restore>) {
        let mut restores = self.restores.lock();
        restores.retain(|restore| restore.strong_count() > 0);
        restores.push(restore);
    }

    /// Pauses before another try, as the policy has them.
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(&self.policy)
    }

    /// What happens from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        match &*self.events.lock() {
            Some(events) => events.subscribe(),
            // Without a sender, it has ended.
            None => broadcast::channel(1).1,
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// Why the broker takes no publishes at present.
    pub(crate) fn blocked(&self) -> Option<String> {
        self.health.lock().blocked.clone()
    }

    /// Takes note of what the broker told by itself.
    pub(super) fn note(&self, notice: Notice) {
        let (blocked, event) = match notice {
            Notice::Blocked { reason } => {
                tracing::warn!(%reason, "the broker takes no publishes");
                (Some(reason.clone()), Event::Blocked { reason })
            }
            Notice::Unblocked => {
                tracing::info!("the broker takes publishes again");
                (None, Event::Unblocked)
            }
            Notice::Repaired { queue, reason } => {
                tracing::warn!(%queue, %reason, "something of a queue was put right");
                return self.tell(Event::Repaired { queue, reason });
            }
        };
        self.health.lock().blocked = blocked;
        self.tell(event);
    }

    /// Tells whoever listens. Nobody has to.
    pub(crate) fn tell(&self, event: Event) {
        if let Some(events) = &*self.events.lock() {
            drop(events.send(event));
        }
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the connection is closed; connect again")
}

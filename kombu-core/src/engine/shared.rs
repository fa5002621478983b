use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::driver::{self, BoxFuture, Notice};
use crate::error::{Error, ErrorKind, Result};
use crate::watched::Watched;

use super::{Deadlines, Event, Health, RetryPolicy};

/// Events that a slow reader may fall behind by.
const EVENTS: usize = 256;

/// One driver connection. It ends and never comes back.
pub(crate) struct Session {
    pub(crate) driver: Arc<dyn driver::Connection>,
}

/// Something that has to be put into order on a new session before anybody uses it.
pub(crate) trait Restore: Send + Sync {
    /// Does so. An error means that the session isn't fit for use.
    fn restore<'a>(&'a self, session: &'a Arc<Session>) -> BoxFuture<'a, Result<()>>;

    /// The connection has ended; there will be no other session.
    fn end(&self) {}
}

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
    pub(super) events: broadcast::Sender<Event>,
    pub(super) restores: Mutex<Vec<Weak<dyn Restore>>>,
    pub(super) health: Mutex<Health>,
    pub(super) policy: RetryPolicy,
    pub(crate) deadlines: Deadlines,
    /// The supervisor learns from its end that the last handle is gone.
    _alive: watch::Sender<()>,
}

impl Shared {
    pub(super) fn new(
        policy: RetryPolicy,
        deadlines: Deadlines,
    ) -> (Arc<Self>, watch::Receiver<()>) {
        let (alive, gone) = watch::channel(());
        let shared = Shared {
            state: Arc::new(Watched::new(State::Connecting)),
            events: broadcast::Sender::new(EVENTS),
            restores: Mutex::default(),
            health: Mutex::new(Health {
                connected: false,
                sessions: 0,
                blocked: None,
                last_error: None,
            }),
            policy,
            deadlines,
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

    /// Whether the connection was closed or given up.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.get().has_ended()
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
        self.health.lock().connected = false;
        self.tell_end();
        last
    }

    /// Tells everybody who waits for a session that none will come. The state says so already.
    pub(super) fn tell_end(&self) {
        let restores = self.restores.lock().clone();
        for restore in restores.iter().filter_map(Weak::upgrade) {
            restore.end();
        }
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

    pub(crate) fn events_sender(&self) -> broadcast::Sender<Event> {
        self.events.clone()
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
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
        };
        self.health.lock().blocked = blocked;
        self.tell(event);
    }

    /// Tells whoever listens. Nobody has to.
    pub(crate) fn tell(&self, event: Event) {
        drop(self.events.send(event));
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the connection is closed; connect again")
}

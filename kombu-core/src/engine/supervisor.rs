use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::driver::{self, BoxFuture};
use crate::error::{Error, ErrorKind, Result};

use super::backoff::Backoff;
use super::shared::{Session, Shared, State};
use super::{Deadlines, Event, RetryPolicy, deadline};

/// One attempt to connect to one of several places, by number.
pub(crate) trait Attempt: Send + Sync + 'static {
    /// How many places there are; at least one.
    fn places(&self) -> usize;

    /// Connects to one of them.
    fn connect(&self, place: usize) -> BoxFuture<'_, Result<Arc<dyn driver::Connection>>>;
}

/// Connects for the first time, and keeps the connection from then on in a task of its own.
///
/// The places are tried in turn, with a pause after each round, until the connect deadline. An error that
/// won't go away by itself ends that at once.
pub(crate) async fn start(
    attempt: impl Attempt,
    policy: RetryPolicy,
    deadlines: Deadlines,
) -> Result<(Arc<Shared>, Arc<Session>)> {
    let (shared, gone) = Shared::new(policy, deadlines);
    let end = deadline(deadlines.connect);
    let mut backoff = Backoff::new(&shared.policy);
    let mut place = 0;
    let mut attempts = 0;
    let mut last = None;
    let driver = loop {
        let answer = match timeout_at(end, attempt.connect(place)).await {
            Ok(answer) => answer,
            Err(_) => return Err(too_late(deadlines.connect, last)),
        };
        let error = match answer {
            Ok(driver) => break driver,
            Err(error) => error,
        };
        place = (place + 1) % attempt.places();
        // Another place may know these credentials; the same one won't change its mind.
        if !error.is_transient() && place == 0 {
            return Err(error);
        }
        attempts += 1;
        let pause = if place == 0 {
            backoff.pause()
        } else {
            Duration::ZERO
        };
        shared.policy.observe(&error, pause);
        if Instant::now() + pause >= end {
            return Err(too_late(deadlines.connect, Some(error)));
        }
        tracing::debug!(%error, ?pause, attempts, "connecting failed");
        last = Some(error);
        tokio::time::sleep(pause).await;
    };
    let session = Arc::new(Session { driver });
    shared.state.set(State::Up(session.clone()));
    {
        let mut health = shared.health.lock();
        health.connected = true;
        health.sessions = 1;
    }
    shared.tell(Event::Connected);
    let supervisor = Supervisor {
        attempt,
        shared: Arc::downgrade(&shared),
        gone,
        place,
    };
    tokio::spawn(supervisor.run(session.clone()));
    Ok((shared, session))
}

impl<A> Drop for Supervisor<A> {
    /// Its runtime was shut down: nobody would ever make the next session, and whoever waits for it would wait
    /// for ever.
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let abandoned = shared.state.change_if(|state| {
            let goes_on = !state.has_ended();
            if goes_on {
                *state = State::Ended {
                    kind: ErrorKind::ConnectionLost,
                    reason: "the runtime that the connection was made in is gone; connect again"
                        .to_owned(),
                };
            }
            goes_on
        });
        if abandoned {
            shared.health.lock().connected = false;
            shared.tell_end();
        }
    }
}

fn too_late(limit: Duration, last: Option<Error>) -> Error {
    let reason = match &last {
        Some(error) => format!("no connection within {limit:?}; the last attempt: {error}"),
        None => format!("no connection within {limit:?}: the broker didn't answer"),
    };
    let error = Error::new(
        match &last {
            Some(error) => error.kind(),
            None => ErrorKind::Timeout,
        },
        reason,
    );
    match last {
        Some(last) => error.with_source(last),
        None => error,
    }
}

struct Supervisor<A> {
    attempt: A,
    shared: Weak<Shared>,
    gone: watch::Receiver<()>,
    place: usize,
}

impl<A: Attempt> Supervisor<A> {
    /// Keeps the connection until it is closed, given up, or nobody holds it any more.
    async fn run(mut self, mut session: Arc<Session>) {
        loop {
            let mut gone = self.gone.clone();
            let Some(state) = self.shared.upgrade().map(|shared| shared.state.clone()) else {
                return;
            };
            let deadlines = self.deadlines();
            let reason = tokio::select! {
                biased;
                _ = gone.changed() => return,
                // Whoever closes the connection may give up waiting for that.
                () = state.until(|state| state.has_ended().then_some(())) => {
                    close(&session, deadlines.settle).await;
                    return;
                }
                // Before the end of the session: what the broker told before it hung up is heard.
                () = listen_to(&session, &self.shared) => return,
                reason = watch_over(&session, deadlines) => reason,
            };
            // Whatever is left of the old session must not reach the broker beside the next one.
            close(&session, deadlines.liveness).await;
            drop(session);
            let Some(shared) = self.shared.upgrade() else {
                return;
            };
            if !shared.state.change_if(|state| match state {
                State::Up(_) => {
                    *state = State::Connecting;
                    true
                }
                _ => false,
            }) {
                return;
            }
            tracing::info!(%reason, "connection lost");
            {
                let mut health = shared.health.lock();
                health.connected = false;
                // A broker that still blocks says so to the next session.
                health.blocked = None;
                health.last_error = Some(reason.to_string());
            }
            shared.tell(Event::Lost {
                kind: reason.kind(),
                reason: reason.to_string(),
            });
            drop(shared);
            match self.come_back().await {
                Some(next) => session = next,
                None => return,
            }
        }
    }

    fn deadlines(&self) -> Deadlines {
        self.shared
            .upgrade()
            .map_or_else(Deadlines::default, |shared| shared.deadlines)
    }

    /// Connects again, for as long as it takes; `None` if nobody wants it any more.
    async fn come_back(&mut self) -> Option<Arc<Session>> {
        let mut backoff = Backoff::new(&self.shared.upgrade()?.policy);
        let mut attempts = 0;
        loop {
            let error = match self.try_once().await? {
                Ok(session) => {
                    let shared = self.shared.upgrade()?;
                    let wanted = shared.state.change_if(|state| {
                        // It may be closed at this very moment, by another thread.
                        let wanted = matches!(state, State::Connecting);
                        if wanted {
                            *state = State::Up(session.clone());
                        }
                        wanted
                    });
                    if !wanted {
                        close(&session, self.deadlines().liveness).await;
                        return None;
                    }
                    {
                        let mut health = shared.health.lock();
                        health.connected = true;
                        health.sessions += 1;
                    }
                    tracing::info!(attempts, "connection restored");
                    shared.tell(Event::Restored { attempts });
                    return Some(session);
                }
                Err(error) => error,
            };
            attempts += 1;
            self.place = (self.place + 1) % self.attempt.places();
            let shared = self.shared.upgrade()?;
            if !error.is_transient() {
                // Credentials may be rotated while we run; that isn't cured by hammering the broker.
                backoff = Backoff::slow(&shared.policy);
            }
            let pause = if self.place == 0 {
                backoff.pause()
            } else {
                Duration::ZERO
            };
            shared.policy.observe(&error, pause);
            shared.health.lock().last_error = Some(error.to_string());
            if shared
                .policy
                .max_attempts
                .is_some_and(|most| attempts >= most)
            {
                let reason = format!("given up after {attempts} attempts; the last one: {error}");
                shared.state.change_if(|state| {
                    let gives_up = matches!(state, State::Connecting);
                    if gives_up {
                        *state = State::Ended {
                            kind: error.kind(),
                            reason: reason.clone(),
                        };
                    }
                    gives_up
                });
                shared.tell_end();
                shared.tell(Event::GivenUp { reason });
                return None;
            }
            tracing::debug!(%error, ?pause, attempts, "connecting again failed");
            shared.tell(Event::Retrying {
                attempts,
                kind: error.kind(),
                reason: error.to_string(),
                pause,
            });
            let state = shared.state.clone();
            drop(shared);
            let mut gone = self.gone.clone();
            tokio::select! {
                // The pause last: whoever wants no further attempt gets none.
                biased;
                _ = gone.changed() => return None,
                () = state.until(|state| state.has_ended().then_some(())) => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One attempt, with everything that has to be in order before handles use the session.
    async fn try_once(&mut self) -> Option<Result<Arc<Session>>> {
        let limit = self.deadlines().connect;
        let mut gone = self.gone.clone();
        let restores = || {
            let shared = self.shared.upgrade()?;
            let mut restores = shared.restores.lock();
            restores.retain(|restore| restore.strong_count() > 0);
            Some(restores.clone())
        };
        let attempt = async {
            let driver = self.attempt.connect(self.place).await?;
            let session = Arc::new(Session { driver });
            for restore in restores().unwrap_or_default() {
                let Some(restore) = restore.upgrade() else {
                    continue;
                };
                if let Err(error) = restore.restore(&session).await {
                    drop(session.driver.close().await);
                    return Err(error);
                }
            }
            Ok(session)
        };
        tokio::select! {
            biased;
            _ = gone.changed() => None,
            answer = timeout(limit, attempt) => Some(match answer {
                Ok(answer) => answer,
                Err(_) => Err(too_late(limit, None)),
            }),
        }
    }
}

/// Ends a session, which goes without it if it doesn't answer within `limit`.
async fn close(session: &Session, limit: Duration) {
    drop(timeout(limit, session.driver.close()).await);
}

/// Takes note of what the broker tells. Ends only when nobody holds the connection any more.
async fn listen_to(session: &Session, shared: &Weak<Shared>) {
    let mut notices = session.driver.notices();
    while let Some(notice) = notices.next().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.note(notice);
    }
    std::future::pending().await
}

/// Resolves when the session has ended: its driver says so, or the broker gives no sign of life.
async fn watch_over(session: &Session, deadlines: Deadlines) -> Error {
    let silent = async {
        let mut next = tokio::time::interval(deadlines.liveness / 2);
        next.tick().await;
        loop {
            next.tick().await;
            match timeout(deadlines.liveness / 2, session.driver.ping()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => {
                    return Error::new(
                        ErrorKind::ConnectionLost,
                        format!(
                            "the broker gave no sign of life within {:?}",
                            deadlines.liveness
                        ),
                    );
                }
            }
        }
    };
    tokio::select! {
        // The driver knows better than a ping why it ended.
        biased;
        error = session.driver.closed() => error,
        error = silent => error,
    }
}

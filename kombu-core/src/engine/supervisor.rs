use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::driver::{self, BoxFuture};
use crate::error::{Error, ErrorKind, Result};

use super::backoff::Backoff;
use super::shared::{Begin, Session, Shared, State};
use super::{Deadlines, Event, RetryPolicy, deadline};

/// One attempt to connect to one of several places, by number.
pub(crate) trait Attempt: Send + Sync + 'static {
    /// How many places there are; at least one.
    fn places(&self) -> usize;

    /// Connects to one of them.
    fn connect(&self, place: usize) -> BoxFuture<'_, Result<Arc<dyn driver::Connection>>>;
}

/// With less time left, no further attempt is waited for.
const LEAST: Duration = Duration::from_millis(50);

/// Connects for the first time, and keeps the connection from then on in a task of its own.
///
/// The places are tried in turn, with a pause after each round, until the connect deadline; one that doesn't answer leaves
/// the others of its round their share of the time. An error that won't go away by itself ends that at once.
pub(crate) async fn start(
    attempt: impl Attempt,
    policy: RetryPolicy,
    deadlines: Deadlines,
) -> Result<(Arc<Shared>, Arc<Session>)> {
    let (shared, gone) = Shared::new(policy, deadlines, Handle::current());
    let end = deadline(deadlines.connect);
    let mut backoff = Backoff::new(&shared.policy);
    let mut place = 0;
    let mut attempts = 0;
    let mut last = None;
    let driver = loop {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / (attempt.places() - place) as u32;
        let answer = match timeout(share, attempt.connect(place)).await {
            Ok(answer) => answer,
            Err(_) => Err(too_late(share, None)),
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
        let left = end.saturating_duration_since(Instant::now());
        let pause = if place == 0 {
            // Whoever comes back just before the end is found.
            backoff.pause().min(left / 2)
        } else {
            Duration::ZERO
        };
        shared.policy.observe(&error, pause);
        if left < LEAST {
            // What an attempt met says more than that there was no answer in time.
            let cause = match error.kind() {
                ErrorKind::Timeout => last,
                _ => Some(error),
            };
            return Err(too_late(deadlines.connect, cause));
        }
        tracing::debug!(%error, ?pause, attempts, "connecting failed");
        if error.kind() != ErrorKind::Timeout {
            last = Some(error);
        }
        sleep(pause).await;
    };
    let session = Session::new(driver);
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
        backoff: None,
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
        shared.give_up(
            ErrorKind::ConnectionLost,
            "the runtime that the connection was made in is gone; connect again".to_owned(),
            None,
        );
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
    /// Kept over sessions that end as soon as they are there.
    backoff: Option<Backoff>,
}

impl<A: Attempt> Supervisor<A> {
    /// Keeps the connection until it is closed, given up, or nobody holds it any more.
    async fn run(mut self, mut session: Arc<Session>) {
        loop {
            let since = Instant::now();
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
            let goes_on = match self.shared.upgrade() {
                Some(shared) => shared.lose(&reason),
                None => return,
            };
            // Whatever is left of the old session must not reach the broker beside the next one.
            close(&session, deadlines.liveness).await;
            drop(session);
            if !goes_on {
                return;
            }
            let Some(next) = self.come_back(since).await else {
                return;
            };
            session = next;
        }
    }

    fn deadlines(&self) -> Deadlines {
        self.shared
            .upgrade()
            .map_or_else(Deadlines::default, |shared| shared.deadlines)
    }

    /// Resolves when the connection is closed, or nobody holds it any more.
    fn unwanted(&self) -> impl Future<Output = ()> + use<A> {
        let mut gone = self.gone.clone();
        let state = self.shared.upgrade().map(|shared| shared.state.clone());
        async move {
            let Some(state) = state else { return };
            tokio::select! {
                biased;
                _ = gone.changed() => {}
                () = state.until(|state| state.has_ended().then_some(())) => {}
            }
        }
    }

    /// Waits before the next attempt; false if nobody wants it any more.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            // The pause last: whoever wants no further attempt gets none.
            biased;
            () = self.unwanted() => false,
            () = sleep(pause) => true,
        }
    }

    /// Connects again, for as long as it takes; `None` if nobody wants it any more. `since` is when the session began that
    /// was lost.
    async fn come_back(&mut self, since: Instant) -> Option<Arc<Session>> {
        let lived = since.elapsed();
        if lived >= self.deadlines().liveness {
            self.backoff = None;
        }
        if let Some(backoff) = &mut self.backoff {
            let pause = backoff.pause().saturating_sub(lived);
            if !self.pause(pause).await {
                return None;
            }
        }
        let policy = self.shared.upgrade()?.policy.clone();
        let mut backoff = self.backoff.take().unwrap_or_else(|| Backoff::new(&policy));
        let mut attempts = 0;
        let mut slow = false;
        loop {
            let error = match self.try_once().await? {
                Ok(session) => {
                    self.backoff = Some(backoff);
                    if self.shared.upgrade()?.take_up(&session, attempts) {
                        return Some(session);
                    }
                    close(&session, self.deadlines().liveness).await;
                    return None;
                }
                Err(error) => error,
            };
            attempts += 1;
            self.place = (self.place + 1) % self.attempt.places();
            // Credentials may be rotated while we run; that isn't cured by hammering the broker. But the broker lets go
            // of what a lost session held.
            slow |= !error.is_transient() && error.kind() != ErrorKind::ResourceLocked;
            let pause = match self.place {
                0 if slow => Backoff::slow(&policy).pause(),
                0 => backoff.pause(),
                _ => Duration::ZERO,
            };
            policy.observe(&error, pause);
            let shared = self.shared.upgrade()?;
            shared.health.lock().last_error = Some(error.to_string());
            if policy.max_attempts.is_some_and(|most| attempts >= most) {
                let reason = format!("given up after {attempts} attempts; the last one: {error}");
                let last = Event::GivenUp {
                    reason: reason.clone(),
                };
                shared.give_up(error.kind(), reason, Some(last));
                return None;
            }
            tracing::debug!(%error, ?pause, attempts, "connecting again failed");
            shared.tell(Event::Retrying {
                attempts,
                kind: error.kind(),
                reason: error.to_string(),
                pause,
            });
            drop(shared);
            if !self.pause(pause).await {
                return None;
            }
        }
    }

    /// One attempt, with everything that has to be in order before handles use the session.
    ///
    /// Only connecting has a limit of its own: what there is to restore may be much. Each request of that has its limit,
    /// and a session that falls silent meanwhile has ended.
    async fn try_once(&mut self) -> Option<Result<Arc<Session>>> {
        let deadlines = self.deadlines();
        let connected = tokio::select! {
            biased;
            () = self.unwanted() => return None,
            connected = timeout(deadlines.connect, self.attempt.connect(self.place)) => connected,
        };
        let driver = match connected {
            Ok(Ok(driver)) => driver,
            Ok(Err(error)) => return Some(Err(error)),
            Err(_) => return Some(Err(too_late(deadlines.connect, None))),
        };
        let session = Session::new(driver);
        let restored = tokio::select! {
            biased;
            () = self.unwanted() => None,
            error = watch_over(&session, deadlines) => Some(Err(error)),
            restored = self.restore(&session, deadlines.declare) => Some(restored),
        };
        match restored {
            Some(Ok(begins)) => {
                for begin in begins {
                    begin();
                }
                Some(Ok(session))
            }
            failed => {
                // Nothing of an attempt that failed may go on beside the next one.
                close(&session, deadlines.liveness).await;
                failed.map(|failed| failed.map(|_| session))
            }
        }
    }

    async fn restore(&self, session: &Arc<Session>, limit: Duration) -> Result<Vec<Begin>> {
        let restores = self.shared.upgrade().map(|shared| {
            let mut restores = shared.restores.lock();
            restores.retain(|restore| restore.strong_count() > 0);
            restores.clone()
        });
        let mut begins = Vec::new();
        for restore in restores.unwrap_or_default() {
            if let Some(restore) = restore.upgrade() {
                begins.push(restore.restore(session.clone(), limit).await?);
            }
        }
        Ok(begins)
    }
}

/// Ends a session, which goes without it if it doesn't answer within `limit`.
async fn close(session: &Session, limit: Duration) {
    // Lives on until then: somebody else who waits for the same end would take it over.
    let closing = std::pin::pin!(timeout(limit, session.driver.close()));
    if closing.await.is_err() {
        session.abandon();
    }
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
        let half = deadlines.liveness / 2;
        loop {
            sleep(half).await;
            match timeout(half, session.driver.ping()).await {
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

//! The way of one session to its server.
//!
//! What is asked for waits until the answers to what was asked for before are back, and then goes together: one script call
//! costs the server as much as a handful of messages.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use kombu_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::{Notify, oneshot, watch};

use crate::dial::Wire;
use crate::error;
use crate::flight::{Flight, MAX_WORK, PushCalls};
use crate::left;
use crate::script::{self, Script};
use crate::work::{Ask, Work};

/// How many flights are under way at once: while the server works on one, the next is loaded.
const FLIGHTS: usize = 2;

/// How long a session that nobody has any more waits for its last answers.
const FAREWELL: Duration = Duration::from_secs(5);

/// One session's line.
pub(crate) struct Line {
    pub(crate) prefix: Arc<str>,
    pub(crate) session: u64,
    state: Mutex<State>,
    work: Notify,
    /// Messages died that somebody has to move.
    pub(crate) deaths: Notify,
    lost: watch::Sender<Option<(ErrorKind, String)>>,
    over: watch::Sender<bool>,
    ending: watch::Sender<bool>,
    is_hung_up: AtomicBool,
    /// The server has ended the session.
    has_ended: AtomicBool,
    to_be_left: left::Session,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    /// How many are about to publish several messages, which go together: the last one to do so says that there is work.
    gathering: usize,
    /// Something waits that isn't of those.
    hurries: bool,
    is_over: bool,
    /// Over when nothing waits any more.
    ends: bool,
}

impl Line {
    /// The line of a session that the server knows. Its task runs until the session is over.
    pub(crate) fn open(wire: Wire, prefix: Arc<str>, session: left::Session) -> Arc<Self> {
        let line = Arc::new(Line {
            prefix,
            session: session.number,
            state: Mutex::default(),
            work: Notify::new(),
            deaths: Notify::new(),
            lost: watch::Sender::new(None),
            over: watch::Sender::new(false),
            ending: watch::Sender::new(false),
            is_hung_up: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            to_be_left: session,
        });
        tokio::spawn(serve(line.clone(), wire));
        line
    }

    /// Has something done in its turn. Without a session, its reply is dropped.
    pub(crate) fn send(&self, work: Work) {
        let mut state = self.state.lock();
        if state.is_over {
            drop(state);
            drop(work);
            return;
        }
        let is_gathered = state.gathering > 0 && matches!(work, Work::Push(_));
        state.waiting.push_back(work);
        state.hurries |= !is_gathered;
        let tells = !is_gathered && (state.waiting.len() == 1 || state.gathering > 0);
        drop(state);
        if tells {
            self.work.notify_one();
        }
    }

    /// What is published until this is dropped waits for that, unless something else is to be done.
    pub(crate) fn gather(&self) -> Gathering<'_> {
        self.state.lock().gathering += 1;
        Gathering(self)
    }

    /// Sends a command; it is under way when the call returns, whether the answer is polled or not.
    pub(crate) fn ask(
        self: &Arc<Self>,
        command: Cmd,
    ) -> impl Future<Output = Result<Value>> + Send + 'static {
        self.ask_and_watch(command, None)
    }

    /// The same; from before the command on, the server tells of a key when it changes.
    pub(crate) fn ask_and_watch(
        self: &Arc<Self>,
        command: Cmd,
        watch: Option<Vec<u8>>,
    ) -> impl Future<Output = Result<Value>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Ask(Ask {
            command,
            watch,
            reply,
        }));
        let line = self.clone();
        async move { line.answer(answer).await }
    }

    /// A call of a script, with the session as its first argument.
    pub(crate) fn call(&self, script: Script) -> Cmd {
        let mut command = script.call(&self.prefix);
        command.arg(self.session);
        command
    }

    /// What the server answers to something that was sent.
    pub(crate) async fn answer<T>(&self, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        answer.await.unwrap_or_else(|_| Err(self.loss()))
    }

    /// Why there is no session any more.
    pub(crate) fn loss(&self) -> Error {
        match &*self.lost.borrow() {
            Some((kind, text)) => Error::new(*kind, text.clone()),
            None => Error::new(
                ErrorKind::ConnectionLost,
                "the session with Redis has ended",
            ),
        }
    }

    /// Resolves when the session is lost; never if it is hung up.
    pub(crate) fn lost(&self) -> impl Future<Output = Error> + Send + 'static {
        let mut lost = self.lost.subscribe();
        async move {
            let reason = match lost.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone(),
                Err(_) => None,
            };
            match reason {
                Some((kind, text)) => Error::new(kind, text),
                None => std::future::pending().await,
            }
        }
    }

    /// Ends the session for this side, as lost for this reason.
    pub(crate) fn lose(&self, error: &Error) {
        self.end();
        if !self.is_hung_up.load(Ordering::Acquire) {
            self.lost.send_if_modified(|lost| {
                let is_first = lost.is_none();
                if is_first {
                    *lost = Some((error.kind(), error.to_string()));
                }
                is_first
            });
        }
        self.work.notify_one();
    }

    /// Ends it on purpose.
    pub(crate) fn hang_up(&self) {
        self.is_hung_up.store(true, Ordering::Release);
        self.end();
        self.work.notify_one();
    }

    /// Ends it on purpose when everything that was asked for is done.
    pub(crate) fn end_when_idle(&self) {
        self.is_hung_up.store(true, Ordering::Release);
        self.state.lock().ends = true;
        self.ending.send_replace(true);
        self.work.notify_one();
    }

    /// Resolves when no answer is worth waiting for.
    async fn given_up(&self) {
        let mut over = self.over.subscribe();
        let mut ending = self.ending.subscribe();
        tokio::select! {
            _ = over.wait_for(|over| *over) => {}
            _ = async {
                let ending = ending.wait_for(|ending| *ending).await.is_ok();
                if ending {
                    tokio::time::sleep(FAREWELL).await;
                }
            } => self.end(),
        }
    }

    /// The server has ended the session.
    pub(crate) fn set_ended(&self) {
        self.has_ended.store(true, Ordering::Release);
    }

    /// Leaves the session to the next one at its place, unless the server has ended it.
    pub(crate) fn leave(&self) {
        if !self.has_ended.load(Ordering::Acquire) {
            self.to_be_left.leave();
        }
    }

    fn end(&self) {
        // Before anybody knows, and begins the next one.
        self.leave();
        self.over.send_replace(true);
        let mut state = self.state.lock();
        state.is_over = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }

    /// Resolves when the session is over, in whichever way.
    pub(crate) fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut over = self.over.subscribe();
        async move {
            // Without a line, it is over too.
            drop(over.wait_for(|over| *over).await);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    /// The next flight, if anything waits.
    fn next(&self, session: &str, calls: &mut PushCalls) -> Option<Flight> {
        let mut state = self.state.lock();
        if state.waiting.is_empty() {
            return None;
        }
        if state.gathering > 0 && !state.hurries && state.waiting.len() < MAX_WORK {
            return None;
        }
        state.hurries = false;
        let mut waiting = std::mem::take(&mut state.waiting);
        drop(state);
        let flight = Flight::load(&mut waiting, &self.prefix, session, calls);
        self.put_back(waiting);
        Some(flight)
    }

    /// Ends it if it was to end when nothing is left to do.
    fn end_if_idle(&self) {
        let state = self.state.lock();
        let is_idle = state.ends && state.waiting.is_empty();
        drop(state);
        if is_idle {
            self.set_ended();
            self.end();
        }
    }

    /// Puts work in front of what waits.
    fn put_back(&self, mut work: VecDeque<Work>) {
        if work.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        if state.is_over {
            drop(state);
            return;
        }
        state.hurries = true;
        work.append(&mut state.waiting);
        state.waiting = work;
    }
}

/// See [`Line::gather`].
pub(crate) struct Gathering<'a>(&'a Line);

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.gathering -= 1;
        let tells = state.gathering == 0 && !state.waiting.is_empty();
        drop(state);
        if tells {
            self.0.work.notify_one();
        }
    }
}

/// Sends what waits, until the session is over.
async fn serve(line: Arc<Line>, mut wire: Wire) {
    let session = line.session.to_string();
    let mut flights = FuturesOrdered::new();
    let mut calls = PushCalls::default();
    // Work that was not done, for the server had forgotten its scripts or a publish before it failed; nothing overtakes it.
    let mut held: Option<VecDeque<Work>> = None;
    let mut has_forgotten = false;
    let given_up = line.given_up();
    tokio::pin!(given_up);
    while !line.is_over() {
        while flights.len() < FLIGHTS
            && held.is_none()
            && let Some(flight) = line.next(&session, &mut calls)
        {
            let mut connection = wire.connection.clone();
            flights.push_back(async move {
                let count = flight.pipeline.len();
                let sending = connection.send_packed_commands(&flight.pipeline, 0, count);
                let answered = sending.await;
                (flight, answered)
            });
        }
        if flights.is_empty()
            && let Some(again) = held.take()
        {
            if std::mem::take(&mut has_forgotten) {
                let scripts = script::load_all();
                let loaded = tokio::select! {
                    loaded = scripts.exec_async(&mut wire.connection) => loaded,
                    () = &mut given_up => return,
                };
                if let Err(problem) = loaded {
                    line.lose(&error::lost(problem));
                    return;
                }
            }
            calls.sent = calls.done;
            line.put_back(again);
            continue;
        }
        if flights.is_empty() {
            line.end_if_idle();
        }
        let (flight, answered) = tokio::select! {
            Some(landed) = flights.next() => landed,
            () = line.work.notified(), if flights.len() < FLIGHTS => continue,
            () = &mut given_up => return,
        };
        let landed = match answered {
            Ok(answers) => flight.land(answers, &line, &mut calls),
            Err(problem) => {
                line.lose(&error::lost(problem));
                return;
            }
        };
        if landed.deaths {
            line.deaths.notify_one();
        }
        if let Some(problem) = landed.over {
            line.lose(&problem);
            return;
        }
        has_forgotten |= landed.forgotten;
        if landed.forgotten || landed.broken || held.is_some() {
            held.get_or_insert_default().extend(landed.again);
        } else {
            line.put_back(landed.again.into());
        }
    }
}

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use kombu_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot, watch};

use super::broker::{Broker, State};

/// The way of one session to its broker.
///
/// What is sent is done in order, each after some turns of the runtime. Answers take turns of their own, so they
/// overtake each other.
pub(super) struct Line {
    requests: mpsc::UnboundedSender<Request>,
    cut: watch::Sender<bool>,
}

enum Request {
    Work { work: Work, is_push: bool },
    HangUp(oneshot::Sender<()>),
}

/// Done on the broker; what it returns brings the answer back.
type Work = Box<dyn FnOnce(&mut State) -> Reply + Send>;
type Reply = Box<dyn FnOnce() + Send>;

/// How many turns the things on a line take, over and over.
const TURNS: [usize; 7] = [2, 0, 5, 1, 3, 0, 8];

pub(super) async fn turns(number: usize) {
    for _ in 0..TURNS[number % TURNS.len()] {
        turn().await;
    }
}

/// Lets the others go first. `tokio::task::yield_now` waits until its thread has nothing else to do, which may be blocked.
async fn turn() {
    let mut is_over = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Line {
    /// Opens the line of a session, whose number the broker knows.
    pub(super) fn open(broker: Arc<Broker>, session: u64) -> Arc<Self> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let cut = watch::Sender::new(false);
        broker.add_line(cut.clone());
        tokio::spawn(serve(broker, session, receiver, cut.clone()));
        Arc::new(Line { requests, cut })
    }

    /// Sends work to the broker. It is under way when the call returns, whether the answer is polled or not.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let (answer, receiver) = oneshot::channel();
        self.send(false, answer, work);
        async move { receiver.await.map_err(|_| lost()) }
    }

    /// As [`ask`](Self::ask), for a publish, whose answer can be lost on command.
    pub(super) fn push<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let (answer, receiver) = oneshot::channel();
        self.send(true, answer, work);
        async move { receiver.await.map_err(|_| lost()) }
    }

    /// As [`ask`](Self::ask), with the receiver of the answer; it is closed if the session is lost.
    pub(super) fn request<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, receiver) = oneshot::channel();
        self.send(false, answer, work);
        receiver
    }

    fn send<T: Send + 'static>(
        &self,
        is_push: bool,
        answer: oneshot::Sender<T>,
        work: impl FnOnce(&mut State) -> T + Send + 'static,
    ) {
        let work = Box::new(move |state: &mut State| {
            let result = work(state);
            Box::new(move || drop(answer.send(result))) as Reply
        });
        // A line that was cut drops the request, and with it the sender of its answer.
        drop(self.requests.send(Request::Work { work, is_push }));
    }

    /// Ends the session once everything before is done. Resolves when it has ended, in whichever way.
    pub(super) fn hang_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let (done, ended) = oneshot::channel();
        drop(self.requests.send(Request::HangUp(done)));
        async move { drop(ended.await) }
    }

    /// Resolves when the session is lost; never if it is hung up.
    pub(super) fn lost(&self) -> impl Future<Output = Error> + Send + 'static {
        let mut cut = self.cut.subscribe();
        async move {
            if cut.wait_for(|cut| *cut).await.is_err() {
                std::future::pending::<()>().await;
            }
            lost()
        }
    }
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the line to the broker was cut")
}

/// Ends the session with the line, also when that is dropped with its runtime.
struct Ends {
    broker: Arc<Broker>,
    session: u64,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.broker.with(|state| state.end_session(self.session));
    }
}

/// The broker's end of a line.
async fn serve(
    broker: Arc<Broker>,
    session: u64,
    mut requests: mpsc::UnboundedReceiver<Request>,
    cut: watch::Sender<bool>,
) {
    let mut is_cut = cut.subscribe();
    let end = Ends {
        broker: broker.clone(),
        session,
    };
    let mut hung_up = None;
    for number in 0.. {
        let request = tokio::select! {
            biased;
            _ = is_cut.wait_for(|cut| *cut) => break,
            request = requests.recv() => request,
        };
        turns(number).await;
        if *cut.borrow() {
            break;
        }
        let (work, is_push) = match request {
            Some(Request::Work { work, is_push }) => (work, is_push),
            Some(Request::HangUp(done)) => {
                hung_up = Some(done);
                break;
            }
            None => break,
        };
        let reply = broker.with(work);
        if is_push && broker.loses_reply() {
            cut.send_replace(true);
            break;
        }
        let is_cut = cut.subscribe();
        tokio::spawn(async move {
            turns(number * 3 + 1).await;
            turns(number * 5 + 2).await;
            if !*is_cut.borrow() {
                reply();
            }
        });
    }
    drop(end);
    // Whoever waits for the end of the session is answered when what it held is back.
    drop(hung_up);
}

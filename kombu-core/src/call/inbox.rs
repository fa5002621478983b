use std::collections::VecDeque;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};
use crate::message::Content;

/// Answers to one question that nobody has taken yet. Nothing holds up a server that sends more, so there is an end to it.
const UNREAD: usize = 1024;

/// What comes for one question.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    task: AtomicWaker,
}

#[derive(Default)]
struct State {
    answers: VecDeque<Content>,
    /// Answers may have been lost since this was last asked.
    lost: bool,
    end: Option<(ErrorKind, String)>,
}

pub(super) enum News {
    Answer(Content),
    /// An answer may have been lost with its session.
    Lost,
    /// None will come.
    End(Error),
}

impl Inbox {
    pub(super) fn put(&self, answer: Content) {
        {
            let mut state = self.state.lock();
            if state.answers.len() < UNREAD {
                state.answers.push_back(answer);
            } else {
                let reason = format!(
                    "more than {UNREAD} answers to one question wait to be read; read faster, or have the server send less"
                );
                state.end.get_or_insert((ErrorKind::Backpressure, reason));
            }
        }
        self.task.wake();
    }

    pub(super) fn lose(&self) {
        self.state.lock().lost = true;
        self.task.wake();
    }

    pub(super) fn end(&self, reason: &Error) {
        let end = (reason.kind(), reason.message().to_owned());
        self.state.lock().end.get_or_insert(end);
        self.task.wake();
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<News> {
        self.task.register(context.waker());
        let mut state = self.state.lock();
        if let Some(answer) = state.answers.pop_front() {
            return Poll::Ready(News::Answer(answer));
        }
        if let Some((kind, reason)) = &state.end {
            return Poll::Ready(News::End(Error::new(*kind, reason.clone())));
        }
        if std::mem::take(&mut state.lost) {
            return Poll::Ready(News::Lost);
        }
        Poll::Pending
    }
}

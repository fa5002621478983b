//! What streams answer to what is published into them.
//!
//! The client would make a channel, an inbox and a timer for each request, which costs more than all the rest of a publish. Here
//! all answers come to one subscription, and one task gives them to whoever waits, and looks after those that are late.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use futures_util::future::{Fuse, FusedFuture};
use futures_util::{FutureExt, StreamExt};
use kombu_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::{self, ApiError};
use crate::line::{Life, PATIENCE};
use crate::permissions::Refused;

/// How often those that are late are looked after.
const LOOK: Duration = Duration::from_millis(250);
/// How many answers are given out under one lock.
const AT_ONCE: usize = 256;
/// How long the part of a reply subject is that says for which answer it is, unless there are very many.
const DIGITS: usize = "0000-00000000".len();
const WHAT: &str = "a message";

/// What the server says of a message.
#[derive(Debug)]
pub(crate) enum Stored {
    /// It has it, at this position.
    At(u64),
    Refused(ApiError),
    /// There is no stream at this subject.
    Nowhere,
}

#[derive(serde::Deserialize)]
struct StoredText {
    #[serde(default)]
    seq: u64,
    error: Option<ApiError>,
}

/// The answers that a session waits for.
pub(crate) struct Answers {
    /// What the subjects of answers begin with.
    prefix: String,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    slots: Slab<Slot>,
    /// Tells an answer from a late one to whoever had the place before.
    last: u32,
    /// Nothing comes any more.
    is_over: bool,
}

struct Slot {
    number: u32,
    /// Where that is published which is answered here; nothing if that is here, too.
    subject: Option<Subject>,
    asked: Instant,
    /// Since when it is known to be late. What is late after a standstill of the program may be about to come.
    late: Option<Instant>,
    state: State,
}

/// What came, and for which slot.
struct Answer {
    key: usize,
    number: u32,
    stored: Result<Stored>,
}

enum State {
    Waiting(Option<Waker>),
    Here(Result<Stored>),
    Taken,
}

/// An answer that is to come. A drop gives it up.
pub(crate) struct Expected {
    answers: Arc<Answers>,
    key: usize,
}

impl Answers {
    pub(crate) fn new(inbox: &str) -> Arc<Self> {
        Arc::new(Answers {
            prefix: format!("{inbox}."),
            slots: Mutex::default(),
        })
    }

    /// Where all answers come.
    pub(crate) fn subject(&self) -> Subject {
        format!("{}*", self.prefix).into()
    }

    /// Expects an answer at a subject, to what is published to another, or else to the same; none after the end.
    pub(crate) fn open(self: &Arc<Self>, to: Option<&Subject>) -> Option<(Expected, Subject)> {
        let mut slots = self.slots.lock();
        if slots.is_over {
            return None;
        }
        slots.last = slots.last.wrapping_add(1);
        let number = slots.last;
        let key = slots.slots.insert(Slot {
            number,
            subject: to.cloned(),
            asked: Instant::now(),
            late: None,
            state: State::Waiting(None),
        });
        drop(slots);
        let expected = Expected {
            answers: self.clone(),
            key,
        };
        Some((expected, self.reply(key, number).into()))
    }

    fn reply(&self, key: usize, number: u32) -> String {
        // With its final length known, it is made of one allocation.
        let mut reply = String::with_capacity(self.prefix.len() + DIGITS);
        reply.push_str(&self.prefix);
        // A text takes all that is written to it.
        let _ = write!(reply, "{key:04x}-{number:08x}");
        reply
    }

    fn read(&self, message: &Message) -> Option<Answer> {
        let (key, number) = message
            .subject
            .strip_prefix(&self.prefix)?
            .split_once('-')?;
        Some(Answer {
            key: usize::from_str_radix(key, 16).ok()?,
            number: u32::from_str_radix(number, 16).ok()?,
            stored: read(message),
        })
    }

    fn take_in(&self, answers: &mut Vec<Answer>) {
        let mut wakers = Wakers::default();
        let mut slots = self.slots.lock();
        for answer in answers.drain(..) {
            if let Some(slot) = slots.slots.get_mut(answer.key)
                && slot.number == answer.number
            {
                slot.answer(answer.stored, &mut wakers);
            }
        }
        drop(slots);
        wakers.wake();
    }

    /// Says that nobody answers to those that are late for too long. Whether others are late.
    fn give_up_late(&self) -> bool {
        let now = Instant::now();
        let mut wakers = Wakers::default();
        let mut is_late = false;
        let mut slots = self.slots.lock();
        for (_, slot) in &mut slots.slots {
            if matches!(slot.state, State::Waiting(_)) && now - slot.asked >= PATIENCE / 2 {
                let late = *slot.late.get_or_insert(now);
                match now - late >= PATIENCE / 2 {
                    true => slot.answer(Err(error::silence(WHAT)), &mut wakers),
                    false => is_late = true,
                }
            }
        }
        drop(slots);
        wakers.wake();
        is_late
    }

    /// Tells those that wait for what the server refuses.
    pub(crate) fn refuse(&self, is_refused: impl Fn(&str) -> bool, refusal: impl Fn() -> Error) {
        let mut wakers = Wakers::default();
        let mut slots = self.slots.lock();
        for (key, slot) in &mut slots.slots {
            let is_refused = match &slot.subject {
                Some(subject) => is_refused(subject),
                None => is_refused(&self.reply(key, slot.number)),
            };
            if is_refused && matches!(slot.state, State::Waiting(_)) {
                slot.answer(Err(refusal()), &mut wakers);
            }
        }
        drop(slots);
        wakers.wake();
    }

    fn end(&self, loss: impl Fn() -> Error) {
        let mut wakers = Wakers::default();
        let mut slots = self.slots.lock();
        slots.is_over = true;
        for (_, slot) in &mut slots.slots {
            if let State::Waiting(_) = slot.state {
                slot.answer(Err(loss()), &mut wakers);
            }
        }
        drop(slots);
        wakers.wake();
    }
}

/// Who is woken behind the lock.
#[derive(Default)]
struct Wakers(Vec<Waker>);

impl Wakers {
    fn wake(self) {
        self.0.into_iter().for_each(Waker::wake);
    }
}

impl Slot {
    fn answer(&mut self, answer: Result<Stored>, wakers: &mut Wakers) {
        let before = std::mem::replace(&mut self.state, State::Here(answer));
        if let State::Waiting(Some(waker)) = before {
            wakers.0.push(waker);
        }
    }
}

fn read(message: &Message) -> Result<Stored> {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Ok(Stored::Nowhere);
    }
    let text: StoredText =
        serde_json::from_slice(&message.payload).map_err(|_| error::unexpected(WHAT))?;
    Ok(match text.error {
        Some(refused) => Stored::Refused(refused),
        None => Stored::At(text.seq),
    })
}

fn taken() -> Error {
    Error::new(ErrorKind::Protocol, "an answer was taken already")
}

impl Future for Expected {
    type Output = Result<Stored>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Wakers are somebody else's code, which has no place within the lock.
        let own = context.waker().clone();
        let _replaced: Option<Waker>;
        let mut slots = self.answers.slots.lock();
        let Some(slot) = slots.slots.get_mut(self.key) else {
            return Poll::Ready(Err(taken()));
        };
        match std::mem::replace(&mut slot.state, State::Taken) {
            State::Waiting(waker) => {
                _replaced = waker;
                slot.state = State::Waiting(Some(own));
                Poll::Pending
            }
            State::Here(answer) => Poll::Ready(answer),
            State::Taken => Poll::Ready(Err(taken())),
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        // Its waker is dropped behind the lock.
        let _slot = self.answers.slots.lock().slots.try_remove(self.key);
    }
}

/// Gives out answers until the line is lost, or over.
pub(crate) async fn serve(
    answers: Arc<Answers>,
    mut arrivals: Subscriber,
    life: Life,
    mut refusals: broadcast::Receiver<Arc<Refused>>,
    over: impl Future<Output = ()>,
) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let lost = life.lost();
    tokio::pin!(lost, over);
    let mut looking = std::pin::pin!(Fuse::terminated());
    let mut came = Vec::new();
    loop {
        tokio::select! {
            () = &mut over => break,
            _ = &mut lost => break,
            _ = look.tick() => {
                if answers.give_up_late() && looking.is_terminated() {
                    looking.set(life.look_for_sign().fuse());
                }
            }
            refused = refusals.recv() => {
                // Of those that came too fast, the client itself keeps no more.
                if let Ok(refused) = refused {
                    life.take_in_refusal(&refused);
                }
            }
            () = &mut looking, if !looking.is_terminated() => {}
            message = arrivals.next() => {
                let Some(message) = message else {
                    break;
                };
                came.extend(answers.read(&message));
                while came.len() < AT_ONCE
                    && let Some(Some(message)) = arrivals.next().now_or_never()
                {
                    came.extend(answers.read(&message));
                }
                answers.take_in(&mut came);
            }
        }
    }
    // What is here was confirmed, whatever became of the line.
    while let Some(Some(message)) = tokio::task::unconstrained(arrivals.next()).now_or_never() {
        came.extend(answers.read(&message));
    }
    answers.take_in(&mut came);
    answers.end(|| life.loss());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Arc<Answers> {
        Answers::new("_INBOX.own")
    }

    fn come(answers: &Answers, subject: &str, position: u64) {
        let message = Message {
            subject: subject.into(),
            reply: None,
            payload: format!(r#"{{"stream":"jobs","seq":{position}}}"#).into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let mut came = Vec::from_iter(answers.read(&message));
        answers.take_in(&mut came);
    }

    fn position(expected: Expected) -> Option<Result<u64>> {
        let answer = expected.now_or_never()?;
        Some(answer.map(|stored| match stored {
            Stored::At(position) => position,
            other => panic!("{other:?}"),
        }))
    }

    #[test]
    fn each_gets_its_own_answer_and_a_late_one_is_for_nobody() {
        let answers = answers();
        let (first, to_first) = answers.open(None).unwrap();
        drop(first);
        let (second, to_second) = answers.open(None).unwrap();
        assert_ne!(to_first, to_second);
        // The second has the place of the first.
        come(&answers, &to_first, 1);
        come(&answers, "_INBOX.own.what", 1);
        come(&answers, &to_second, 2);
        assert_eq!(position(second).unwrap().unwrap(), 2);
        assert!(answers.slots.lock().slots.is_empty());
    }

    #[test]
    fn at_the_end_whoever_waits_is_told_and_nobody_else_begins() {
        let answers = answers();
        let (waiting, _) = answers.open(None).unwrap();
        let (answered, at) = answers.open(None).unwrap();
        come(&answers, &at, 7);
        answers.end(|| Error::new(ErrorKind::ConnectionLost, "gone"));
        let lost = position(waiting).unwrap().unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::ConnectionLost);
        assert_eq!(position(answered).unwrap().unwrap(), 7);
        assert!(answers.open(None).is_none());
    }

    #[test]
    fn whoever_waits_for_what_is_refused_is_told_and_nobody_else() {
        let answers = answers();
        let (refused, _) = answers.open(Some(&"kombu.q.secret.0".into())).unwrap();
        let (other, at) = answers.open(Some(&"kombu.q.jobs.0".into())).unwrap();
        let (own, own_subject) = answers.open(None).unwrap();
        let refuse = |refused: &str| {
            let is_refused = |subject: &str| subject == refused;
            answers.refuse(is_refused, || Error::new(ErrorKind::AccessRefused, "no"));
        };
        refuse("kombu.q.secret.0");
        refuse(&own_subject);
        for refused in [refused, own] {
            let error = position(refused).unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AccessRefused);
        }
        come(&answers, &at, 3);
        assert_eq!(position(other).unwrap().unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_late_after_a_standstill_is_waited_for() {
        let answers = answers();
        let (served, at) = answers.open(None).unwrap();
        let (silent, _) = answers.open(None).unwrap();
        tokio::time::advance(PATIENCE * 3).await;
        assert!(answers.give_up_late(), "they are late, and wait");
        come(&answers, &at, 1);
        assert_eq!(position(served).unwrap().unwrap(), 1);
        tokio::time::advance(PATIENCE / 2).await;
        assert!(!answers.give_up_late(), "nobody waits any more");
        let silence = position(silent).unwrap().unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::Unavailable);
    }
}

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use kombu_core::driver::Op;
use kombu_core::virt::{Batch, Reader, Room};
use kombu_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::bell::{self, Bell, Bells};
use crate::element;
use crate::flight;
use crate::hand::{Hands, Inbox};
use crate::line::Line;
use crate::script::Script;
use crate::store::Shared;
use crate::work::{Holder, Take, Taken, Taker, Waiting, Work};

/// The most messages that are taken at once.
const MAX_BATCH: usize = 256;

/// How many messages a consumer may have in all of its queues.
fn limit(room: &Room) -> usize {
    // More than any window.
    room.limit().min(1 << 40)
}

/// Takes from one queue for one consumer.
pub(crate) struct RedisReader {
    line: Arc<Line>,
    bells: Arc<Bells>,
    hands: Arc<Hands>,
    holder: Holder,
    bell: Arc<Bell>,
    keys: Arc<[Vec<u8>]>,
    /// Those that the server tells of.
    watched: Arc<[Vec<u8>]>,
    /// What was handed over to it.
    inbox: Arc<Inbox>,
    /// The database, if it may be handed messages.
    handed_at: Option<i64>,
    room: Room,
    /// How many messages it may have as the server knows.
    told: usize,
    asked: Option<(usize, oneshot::Receiver<Result<Taken>>)>,
    /// What the server answered to that, until all is here that it handed over before.
    answered: Option<Taken>,
    here: Taken,
    last: Look,
}

/// What the last look was for.
#[derive(PartialEq)]
enum Look {
    /// Messages, and there may be more.
    Found,
    /// Messages, and there were too few; the bell rings when there may be more.
    TooFew,
    /// The same, and more came before the bell could ring.
    Missed,
    /// Whether the queue is there; the bell rings when it may be gone.
    Queue,
}

impl RedisReader {
    /// The reader of a consumer that the server is being told of.
    pub(crate) fn new(
        shared: Arc<Shared>,
        holder: Holder,
        handed_at: Option<i64>,
        room: Room,
    ) -> Self {
        let Shared {
            line, bells, hands, ..
        } = &*shared;
        let bell = Arc::new(Bell::new());
        let keys = bell::keys(&line.prefix, &holder.0.queue);
        bells.add(&keys, &bell);
        let number = holder.0.number.unwrap_or_default();
        let inbox = hands.open(number, room.number(), bell.clone());
        RedisReader {
            here: Taken {
                messages: VecDeque::new(),
                has_more: false,
                handed: 0,
                may_have_missed: false,
                line: line.clone(),
                holder: holder.clone(),
            },
            line: line.clone(),
            bells: bells.clone(),
            hands: hands.clone(),
            holder,
            bell,
            watched: match shared.is_told {
                true => keys.clone(),
                false => Arc::default(),
            },
            keys,
            inbox,
            handed_at,
            told: limit(&room),
            room,
            asked: None,
            answered: None,
            last: Look::Found,
        }
    }

    /// How many messages the consumer may have, and which of its readers share them: for scripts.
    pub(crate) fn wants(&self) -> String {
        format!("{} {}", self.told, self.inbox.window_number)
    }

    /// Tells the server how many messages the consumer may have.
    fn tell(&mut self, limit: usize) {
        self.told = limit;
        let mut command = self.line.call(Script::Want);
        command
            .arg(self.holder.0.number)
            .arg(self.holder.0.queue.as_str())
            .arg(self.wants());
        drop(self.line.ask(command));
    }

    /// Tells the server that the consumer is gone.
    fn leave(&self) -> impl Future<Output = Result<redis::Value>> + Send + 'static {
        self.holder.leave();
        let mut command = self.line.call(Script::Leave);
        command
            .arg(self.holder.0.number)
            .arg(self.holder.0.queue.as_str())
            .arg(self.inbox.window_number);
        self.line.ask(command)
    }

    /// Takes up to `max` messages; with 0, it looks whether the queue is there.
    fn ask(&mut self, max: usize) {
        let count = max.min(MAX_BATCH);
        let (reply, answer) = oneshot::channel();
        self.line.send(Work::Take(Take {
            holder: self.holder.clone(),
            count,
            taker: Taker::Consumer(Waiting {
                keys: self.watched.clone(),
                window: self.inbox.window_number,
                accepted: self.inbox.window.accepted(),
                handed_at: self.handed_at,
            }),
            reply,
        }));
        self.asked = Some((count, answer));
    }
}

impl Reader for RedisReader {
    type Holder = Holder;

    fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>> {
        let limit = limit(&self.room);
        // What comes from now on waits for others.
        if limit < self.told {
            self.tell(limit);
        }
        let answer = self.poll_answer(context, max, batch);
        // What came and expired while there was no room isn't its own: a look comes first.
        if limit > self.told {
            self.tell(limit);
        }
        answer
    }

    fn asked_for(&self) -> usize {
        match (&self.asked, &self.answered) {
            (Some((count, _)), _) => *count,
            (None, Some(taken)) => taken.messages.len(),
            (None, None) => 0,
        }
    }

    fn close(mut self) -> Op<Result<()>> {
        let asked = self.asked.take();
        let (line, window) = (self.line.clone(), self.inbox.window.clone());
        let leaving = self.leave();
        drop(self);
        Op::pending(async move {
            if let Some((_, answer)) = asked {
                // What comes now goes back.
                drop(answer.await);
            }
            let handed = flight::number(&leaving.await?).unwrap_or_default();
            tokio::select! {
                () = window.until_arrived(handed) => {}
                () = line.over() => return Err(line.loss()),
            }
            // Behind what went back.
            line.ask(redis::cmd("PING")).await.map(drop)
        })
    }

    fn holder(&self) -> Holder {
        self.holder.clone()
    }
}

impl RedisReader {
    fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Poll<Result<()>> {
        self.bell.task.register(context.waker());
        loop {
            // What is handed over meanwhile may belong behind what the look finds, so that comes first.
            if let Some((count, answer)) = &mut self.asked {
                let answered = match Pin::new(answer).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(answered) => answered,
                };
                let count = *count;
                self.asked = None;
                match answered {
                    Ok(Ok(taken)) => {
                        self.last = match count {
                            0 => Look::Queue,
                            _ if taken.has_more || taken.messages.len() == count => Look::Found,
                            // The next look is one from which on the bell rings.
                            _ if taken.may_have_missed && self.last != Look::Missed => Look::Missed,
                            _ => Look::TooFew,
                        };
                        self.answered = Some(taken);
                    }
                    Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                        return Poll::Ready(Err(deleted(&self.holder)));
                    }
                    Ok(Err(error)) => return Poll::Ready(Err(error)),
                    Err(_) => return Poll::Ready(Err(self.line.loss())),
                }
            }
            if let Some(mut taken) = self.answered.take() {
                if !self.inbox.window.has_arrived(taken.handed) {
                    self.answered = Some(taken);
                    return Poll::Pending;
                }
                self.inbox
                    .take_before(taken.handed, &mut self.here.messages);
                self.here.messages.append(&mut taken.messages);
            }
            self.inbox.take_before(u64::MAX, &mut self.here.messages);
            // The window may have become smaller since these were asked for. Otherwise there is room for what was handed over,
            // even if another reader asked for more, which will get the less.
            if !self.holder.0.at_most_once {
                self.here.keep(self.room.left());
            }
            if !self.here.messages.is_empty() {
                batch.count(self.here.messages.len());
                for (id, text) in self.here.messages.drain(..) {
                    let message = element::decode(&Bytes::from(text));
                    batch.push(message.envelope, id, message.failures, message.redelivered);
                }
                return Poll::Ready(Ok(()));
            }
            let has_rung = self.bell.take();
            let waits = match self.last {
                Look::Found | Look::Missed => max == 0,
                Look::TooFew => true,
                Look::Queue => max == 0,
            };
            if waits && !has_rung {
                return Poll::Pending;
            }
            if has_rung {
                // The key that it rang for isn't watched any more.
                self.last = Look::Found;
            }
            self.ask(max);
        }
    }
}

impl Drop for RedisReader {
    fn drop(&mut self) {
        self.bells.remove(&self.keys);
        if !self.holder.is_gone() {
            drop(self.leave());
        }
        self.hands.close(&self.inbox, &self.line, &self.holder);
    }
}

fn deleted(holder: &Holder) -> Error {
    Error::new(
        ErrorKind::ConsumerCancelled,
        format!(
            "queue `{}` was deleted while it was being consumed; declare it and open the consumer again",
            holder.0.queue
        ),
    )
}

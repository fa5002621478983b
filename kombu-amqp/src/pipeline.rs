//! Publishes on their way: to the socket, and from there to the broker's answer.
//!
//! Whoever publishes queues the frames with lapin, under one lock, so that the calls have an order and no task has to run in
//! between. The publisher's task takes over from there. It is woken for what was begun only if nothing else is about to
//! wake it: under load that is once for all that is written together.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use kombu_core::message::Envelope;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, PublisherConfirm};
use parking_lot::Mutex;

use crate::returns::{Confirmed, Outstanding, Returns};

/// How many places of publishes that are over are kept for those to come.
const SPARE: usize = 512;

type Written = lapin::Result<PublisherConfirm>;

/// What is sent, and how.
pub(crate) struct Publish {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) envelope: Envelope,
}

async fn publish(channel: Arc<Channel>, publish: Publish) -> Written {
    let options = BasicPublishOptions {
        // A message that no queue matches is told from one that is stored only by its return.
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let Publish {
        exchange,
        routing_key,
        properties,
        envelope,
    } = publish;
    let body = envelope.body();
    channel
        .basic_publish(exchange, routing_key, options, body, properties)
        .await
}

/// A place for a publish until it is written, which is used again: lapin's futures take more than 1 KiB, and an allocator
/// has such places not at hand.
trait Place: Send {
    fn fill(&mut self, channel: Arc<Channel>, publish: Publish);
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Written>;
}

/// `F` is what `publish` returns.
struct PlaceOf<P, F> {
    publish: P,
    future: Option<Pin<Box<F>>>,
}

fn place() -> Box<dyn Place> {
    Box::new(PlaceOf {
        publish,
        future: None,
    })
}

impl<P, F> Place for PlaceOf<P, F>
where
    P: Fn(Arc<Channel>, Publish) -> F + Send,
    F: Future<Output = Written> + Send,
{
    fn fill(&mut self, channel: Arc<Channel>, publish: Publish) {
        let next = (self.publish)(channel, publish);
        match &mut self.future {
            Some(future) => future.set(next),
            None => self.future = Some(Box::pin(next)),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Written> {
        match &mut self.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

/// Where publishes begin.
pub(crate) struct Intake {
    begun: Mutex<Begun>,
    /// The publisher's.
    task: AtomicWaker,
}

/// What was begun since the task looked.
struct Begun {
    channel: Arc<Channel>,
    publishes: VecDeque<(Outstanding, Writing)>,
    spare: Vec<Box<dyn Place>>,
    /// How many the task has to see to before they can begin. What comes behind them goes to it too.
    held_up: usize,
    /// Nothing else is about to wake the task.
    task_rests: bool,
    ended: bool,
}

/// A publish whose frames lapin has.
enum Writing {
    Pending(Box<dyn Place>),
    Done(Written),
}

impl Begun {
    fn begin(&mut self, publish: Publish, outstanding: Outstanding) {
        let mut place = self.spare.pop().unwrap_or_else(place);
        place.fill(self.channel.clone(), publish);
        let writing = match place.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(written) => Writing::Done(written),
            Poll::Pending => Writing::Pending(place),
        };
        self.publishes.push_back((outstanding, writing));
    }
}

impl Intake {
    pub(crate) fn new(channel: Channel) -> Arc<Self> {
        Arc::new(Intake {
            begun: Mutex::new(Begun {
                channel: Arc::new(channel),
                publishes: VecDeque::new(),
                spare: Vec::new(),
                held_up: 0,
                task_rests: true,
                ended: false,
            }),
            task: AtomicWaker::new(),
        })
    }

    /// Begins a publish, unless it, or one before it, has to be seen to: `hold_up` passes it to the task then.
    ///
    /// `false`: the session is over.
    pub(crate) fn begin(
        &self,
        is_ready: bool,
        publish: Publish,
        outstanding: Outstanding,
        hold_up: impl FnOnce(Publish, Outstanding) -> bool,
    ) -> bool {
        let mut begun = self.begun.lock();
        if begun.ended {
            return false;
        }
        if !is_ready || begun.held_up > 0 {
            begun.held_up += 1;
            return hold_up(publish, outstanding);
        }
        begun.begin(publish, outstanding);
        let task_rests = std::mem::take(&mut begun.task_rests);
        drop(begun);
        if task_rests {
            self.task.wake();
        }
        true
    }

    /// Begins one that was held up; `None` if it needn't begin any more.
    pub(crate) fn release(&self, publish: Option<(Publish, Outstanding)>) {
        let mut begun = self.begun.lock();
        begun.held_up -= 1;
        if let Some((publish, outstanding)) = publish {
            begun.begin(publish, outstanding);
        }
    }
}

/// What was begun, and has no answer.
pub(crate) struct Pipeline {
    intake: Arc<Intake>,
    taken: VecDeque<(Outstanding, Writing)>,
    /// Lapin writes them in this order. So only the first is waited for.
    writing: VecDeque<(u64, Box<dyn Place>)>,
    spare: Vec<Box<dyn Place>>,
    /// Written. The answers come in any order.
    confirming: FuturesUnordered<Confirming>,
    pub(crate) returns: Returns,
}

impl Pipeline {
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        Pipeline {
            intake,
            taken: VecDeque::new(),
            writing: VecDeque::new(),
            spare: Vec::new(),
            confirming: FuturesUnordered::new(),
            returns: Returns::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let has_none = self.writing.is_empty() && self.confirming.is_empty();
        has_none && self.intake.begun.lock().publishes.is_empty()
    }

    /// Takes all answers that have come.
    pub(crate) fn poll_answers(
        &mut self,
        context: &mut Context<'_>,
        answers: &mut Vec<lapin::Result<Confirmed>>,
    ) -> Poll<()> {
        self.intake.task.register(context.waker());
        loop {
            self.take_begun();
            self.poll_written(context);
            while let Poll::Ready(Some(answer)) = self.confirming.poll_next_unpin(context) {
                answers.push(answer);
            }
            if !answers.is_empty() {
                return Poll::Ready(());
            }
            let mut begun = self.intake.begun.lock();
            if begun.publishes.is_empty() {
                begun.task_rests = self.writing.is_empty();
                return Poll::Pending;
            }
        }
    }

    fn take_begun(&mut self) {
        {
            let mut begun = self.intake.begun.lock();
            begun.task_rests = false;
            std::mem::swap(&mut begun.publishes, &mut self.taken);
            let room = SPARE.saturating_sub(begun.spare.len());
            self.spare.truncate(room);
            begun.spare.append(&mut self.spare);
        }
        for (outstanding, writing) in self.taken.drain(..) {
            let number = self.returns.add(outstanding);
            match writing {
                Writing::Pending(place) => self.writing.push_back((number, place)),
                Writing::Done(written) => self.confirming.push(Confirming { number, written }),
            }
        }
    }

    fn poll_written(&mut self, context: &mut Context<'_>) {
        while let Some((_, place)) = self.writing.front_mut()
            && let Poll::Ready(written) = place.poll(context)
        {
            if let Some((number, place)) = self.writing.pop_front() {
                self.spare.push(place);
                self.confirming.push(Confirming { number, written });
            }
        }
    }

    /// The channel is closed: nothing on it gets an answer any more, and nothing begins before there is
    /// [another one](Self::resume).
    pub(crate) fn halt(&mut self) {
        self.intake.begun.lock().held_up += 1;
        self.take_begun();
        self.writing.clear();
        self.confirming.clear();
    }

    pub(crate) fn resume(&mut self, channel: Channel) {
        self.intake.begun.lock().channel = Arc::new(channel);
        self.intake.release(None);
    }
}

impl Drop for Pipeline {
    /// Nobody waits for answers any more.
    fn drop(&mut self) {
        let mut begun = self.intake.begun.lock();
        begun.ended = true;
        let unanswered = std::mem::take(&mut begun.publishes);
        drop(begun);
        drop(unanswered);
    }
}

/// A publish that was written, or couldn't be.
struct Confirming {
    number: u64,
    written: Written,
}

impl Future for Confirming {
    type Output = lapin::Result<Confirmed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let number = this.number;
        match &mut this.written {
            Err(error) => Poll::Ready(Err(error.clone())),
            Ok(confirm) => Pin::new(confirm).poll(context).map_ok(|answer| Confirmed {
                number,
                acked: !answer.is_nack(),
                returned: answer.take_message().map(Box::new),
            }),
        }
    }
}

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use kombu_core::driver::{
    BoxFuture, Op, RawDelivery, Received, Settle, SubscribeOptions, Subscription,
};
use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::error::{classify, lost};
use crate::message::{is_from, received};
use crate::session::Shared;
use crate::settler::{AmqpSettler, Lane, Leaving};

/// How often a paused subscription looks whether its queues are there: nobody tells it, since it has no consumers.
const WATCH: Duration = Duration::from_secs(1);

/// Consumers of one or several queues, each on a channel of its own: what the broker refuses to one, or closes, is
/// nothing to the others.
///
/// The broker's prefetch bounds what each of them holds in this process; the window over all of them is kept here.
pub(crate) struct AmqpSubscription {
    shared: Arc<Shared>,
    options: SubscribeOptions,
    sources: Vec<Option<Source>>,
    /// Whom to ask first, so that a busy queue can't starve the others.
    start: usize,
    settler: Arc<AmqpSettler>,
    paused: bool,
    watching: Option<BoxFuture<'static, Name>>,
}

struct Source {
    queue: Name,
    state: State,
}

enum State {
    Open(Box<Open>),
    Opening(Opening),
    /// Paused; resolves when the broker sends nothing more.
    Away(Op<Result<()>>),
    /// The queue is gone.
    Cancelled(Rest),
}

/// What was fetched before the end.
type Rest = Option<(Lane, VecDeque<Fetched>)>;

/// A consumer that comes back, whether it is asked for messages meanwhile or not.
struct Opening(JoinHandle<Result<Open>>);

impl Drop for Opening {
    /// The channel closes with it.
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A consumer on its channel.
struct Open {
    channel: Channel,
    lane: Lane,
    /// The last one gets messages; those before it were cancelled and have some left.
    consumers: VecDeque<Consumer>,
    /// Fetched and not handed out; bounded by the broker's prefetch. The end of a consumer comes behind its messages, and
    /// has to be seen though there is no room for them.
    fetched: VecDeque<Fetched>,
    arrivals: Arrivals,
    /// Prefetch that the broker was told.
    prefetch: u32,
    resizing: Option<Resizing>,
    /// When the last consumer was opened in place of another, until it is looked at for the first time.
    unseen: Option<Instant>,
}

/// A message, and since when the broker waits for what becomes of it.
pub(crate) type Fetched = (Instant, Delivery);

/// When messages came, whether somebody was there to look at them or not.
struct Arrivals {
    first: Arc<FirstArrival>,
    waker: Waker,
}

struct FirstArrival {
    /// When something came since somebody looked last: a message, or the end of a consumer.
    at: Mutex<Option<Instant>>,
    subscription: Arc<AmqpSettler>,
}

impl Wake for FirstArrival {
    fn wake(self: Arc<Self>) {
        self.at.lock().get_or_insert_with(Instant::now);
        self.subscription.task.wake();
    }
}

impl Arrivals {
    /// For a consumer that is opened from now on: nothing tells what comes before it is looked at for the first time.
    fn new(subscription: Arc<AmqpSettler>) -> Self {
        let first = Arc::new(FirstArrival {
            at: Mutex::new(Some(Instant::now())),
            subscription,
        });
        Arrivals {
            waker: Waker::from(first.clone()),
            first,
        }
    }

    /// When something came since this was asked last.
    fn take(&self) -> Option<Instant> {
        self.first.at.lock().take()
    }
}

/// A consumer with another prefetch, in place of the last one, and when it was opened.
pub(crate) type Resizing = BoxFuture<'static, lapin::Result<(Instant, Consumer)>>;

/// What polling a source came to.
enum Polled {
    Nothing,
    /// The broker ended its consumer: the queue is gone.
    Cancelled,
    /// The channel is closed, and what came over it is back.
    Lost(Option<Error>),
}

impl AmqpSubscription {
    pub(crate) fn new(shared: Arc<Shared>, options: SubscribeOptions) -> Self {
        if options.no_local.is_some() {
            shared.mark_own_messages();
        }
        AmqpSubscription {
            settler: AmqpSettler::new(&shared, options.window),
            shared,
            options,
            sources: Vec::new(),
            start: 0,
            paused: false,
            watching: None,
        }
    }

    fn window(&self) -> u32 {
        self.settler.window.load(Ordering::Relaxed)
    }

    fn open(&self, queue: &Name) -> BoxFuture<'static, Result<Open>> {
        let (shared, options, window) = (self.shared.clone(), self.options, self.window());
        let arrivals = Arrivals::new(self.settler.clone());
        let queue = queue.clone();
        Box::pin(async move {
            let channel = shared.lines.channel().await?;
            let opened = async {
                qos(&channel, window).await?;
                consume(&channel, &queue, options, window).await
            };
            let consumer = opened.await.map_err(|error| shared.refusal(error))?;
            Ok(Open {
                lane: Lane::open(shared, channel.clone()),
                channel,
                consumers: VecDeque::from([consumer]),
                fetched: VecDeque::new(),
                arrivals,
                prefetch: window,
                resizing: None,
                unseen: None,
            })
        })
    }

    /// Gets on with what changes. An error ends the subscription.
    fn poll_source(&mut self, index: usize, context: &mut Context<'_>) -> Result<()> {
        let window = self.window();
        let options = self.options;
        let Some(Some(source)) = self.sources.get_mut(index) else {
            return Ok(());
        };
        let polled = match &mut source.state {
            State::Open(open) => open.poll(&source.queue, options, window, context),
            State::Opening(opening) => match Pin::new(&mut opening.0).poll(context) {
                Poll::Ready(Ok(Ok(open))) => {
                    source.state = State::Open(Box::new(open));
                    return self.poll_source(index, context);
                }
                Poll::Ready(Ok(Err(error))) if error.kind() == ErrorKind::NotFound => {
                    Polled::Cancelled
                }
                Poll::Ready(Ok(Err(error))) => return Err(error),
                Poll::Ready(Err(_)) => return Err(lost("the runtime of the connection is gone")),
                Poll::Pending => Polled::Nothing,
            },
            State::Away(_) | State::Cancelled(_) => Polled::Nothing,
        };
        let queue = source.queue.clone();
        match polled {
            Polled::Nothing => Ok(()),
            Polled::Cancelled => {
                tracing::info!(%queue, "the broker cancelled the consumer of a queue");
                self.cancelled(index);
                Ok(())
            }
            Polled::Lost(reason) => {
                self.shared.lines.check()?;
                if let Some(reason) = &reason
                    && reason.kind() == ErrorKind::ConnectionLost
                {
                    return Err(Error::new(ErrorKind::ConnectionLost, reason.to_string()));
                }
                tracing::warn!(
                    %queue,
                    reason = reason.as_ref().map(tracing::field::display),
                    "the broker closed the channel of a consumer: what is unsettled comes again"
                );
                self.shared.lines.refused();
                if let Some(Source {
                    state: State::Open(open),
                    ..
                }) = &self.sources[index]
                {
                    self.settler.lose(&open.lane);
                }
                self.reopen(index);
                self.poll_source(index, context)
            }
        }
    }

    /// Consumes from a queue again, when the broker sends nothing more to the last consumer.
    fn reopen(&mut self, index: usize) {
        let Some(Some(source)) = self.sources.get_mut(index) else {
            return;
        };
        let left = match std::mem::replace(&mut source.state, State::Cancelled(None)) {
            State::Away(left) => left,
            _ => Op::ready(Ok(())),
        };
        let queue = source.queue.clone();
        let opening = self.open(&queue);
        let opening = self.shared.runtime.spawn(async move {
            left.await?;
            opening.await
        });
        if let Some(Some(source)) = self.sources.get_mut(index) {
            source.state = State::Opening(Opening(opening));
        }
    }

    fn cancelled(&mut self, index: usize) {
        let Some(Some(source)) = self.sources.get_mut(index) else {
            return;
        };
        self.settler.orphan(&source.queue);
        let rest = match std::mem::replace(&mut source.state, State::Cancelled(None)) {
            State::Open(open) => Some((open.lane, open.fetched)),
            _ => None,
        };
        source.state = State::Cancelled(rest);
    }

    /// A queue that is deleted during a pause is noticed by looking.
    fn poll_watching(&mut self, context: &mut Context<'_>) {
        if !self.paused {
            self.watching = None;
            return;
        }
        loop {
            let watching = self.watching.get_or_insert_with(|| {
                let queues = self.sources.iter().flatten();
                let queues = queues.filter(|source| matches!(source.state, State::Away(_)));
                let queues = queues.map(|source| source.queue.clone()).collect();
                Box::pin(until_missing(self.shared.clone(), queues))
            });
            let Poll::Ready(missing) = watching.as_mut().poll(context) else {
                return;
            };
            self.watching = None;
            let is_missing =
                |source: &Option<Source>| source.as_ref().is_some_and(|one| one.queue == missing);
            let found = self.sources.iter().enumerate();
            let found: Vec<usize> = found
                .filter(|(_, source)| is_missing(source))
                .map(|(index, _)| index)
                .collect();
            for index in found {
                self.cancelled(index);
            }
        }
    }

    /// Leaves a queue that the broker cancelled, behind its last message.
    fn take_cancelled(&mut self) -> Option<u16> {
        let is_over = |source: &Source| match &source.state {
            State::Cancelled(rest) => rest.as_ref().is_none_or(|(_, rest)| rest.is_empty()),
            _ => false,
        };
        let mut sources = self.sources.iter();
        let index = sources.position(|source| source.as_ref().is_some_and(is_over))?;
        self.sources[index] = None;
        Some(index as u16)
    }

    /// Hands one out, from the queues in turn.
    fn next(&mut self) -> Option<RawDelivery> {
        let sources = self.sources.len();
        for step in 0..sources {
            let index = (self.start + step) % sources;
            let Some(source) = &mut self.sources[index] else {
                continue;
            };
            let (lane, fetched) = match &mut source.state {
                State::Open(open) => (&open.lane, &mut open.fetched),
                State::Cancelled(Some((lane, fetched))) => (&*lane, fetched),
                _ => continue,
            };
            while let Some((since, delivery)) = fetched.pop_front() {
                let tag = delivery.delivery_tag;
                if is_from(&delivery.properties, self.options.no_local) {
                    lane.forget(tag);
                    continue;
                }
                // Forgotten as it is handed out, not as it is fetched: a consumer that is dropped loses nothing, and the
                // broker sends no more than the window. If the channel is gone, the message is back.
                if self.options.no_ack && !lane.forget(tag) {
                    continue;
                }
                self.start = (index + 1) % sources;
                let (envelope, failures) = received(
                    delivery.exchange.as_str(),
                    delivery.routing_key.as_str(),
                    &delivery.properties,
                    delivery.data,
                );
                let id = if self.options.no_ack {
                    tag
                } else {
                    self.settler
                        .hold(lane, tag, &source.queue, &envelope, failures)
                };
                return Some(RawDelivery {
                    envelope,
                    id,
                    failures: failures.all(),
                    queue: index as u16,
                    redelivered: delivery.redelivered || failures.copied > 0,
                    waited: since.elapsed(),
                });
            }
        }
        None
    }

    /// Leaves these queues: the answer is there when the broker sends nothing more.
    fn leave(&self, sources: impl IntoIterator<Item = Source>) -> Op<Result<()>> {
        let mut answers = Vec::new();
        for source in sources {
            answers.push(source.state.leave(source.queue, &self.settler));
        }
        Op::pending(async move {
            for answer in answers {
                answer.await?;
            }
            Ok(())
        })
    }

    fn leave_all(&mut self) -> Op<Result<()>> {
        let sources: Vec<_> = std::mem::take(&mut self.sources)
            .into_iter()
            .flatten()
            .collect();
        self.leave(sources)
    }
}

impl State {
    /// Ends the consumer. What is being opened ends when the future is dropped, with its channel.
    fn leave(self, queue: Name, settler: &AmqpSettler) -> Op<Result<()>> {
        match self {
            State::Open(open) => open.lane.leave(Leaving {
                is_held: settler.holds(&open.lane),
                queue,
                consumers: open.consumers,
                resizing: open.resizing,
                fetched: open.fetched,
            }),
            State::Cancelled(Some((lane, fetched))) => lane.leave(Leaving {
                is_held: settler.holds(&lane),
                queue,
                consumers: VecDeque::new(),
                resizing: None,
                fetched,
            }),
            State::Away(left) => left,
            State::Opening(_) | State::Cancelled(None) => Op::ready(Ok(())),
        }
    }
}

impl Open {
    fn poll(
        &mut self,
        queue: &Name,
        options: SubscribeOptions,
        window: u32,
        context: &mut Context<'_>,
    ) -> Polled {
        let needs_more = self.prefetch != 0 && (window == 0 || window > self.prefetch);
        if self.resizing.is_none() && needs_more {
            self.resize(queue, options, window);
        }
        // Also if no message is found: what comes later mustn't count from here.
        let mut came = self.arrivals.take();
        if let Some(resizing) = &mut self.resizing
            && let Poll::Ready(opened) = resizing.as_mut().poll(context)
        {
            self.resizing = None;
            match opened {
                Ok((since, consumer)) => {
                    self.unseen = Some(since);
                    self.consumers.push_back(consumer);
                }
                Err(error) => return Polled::Lost(Some(classify(error))),
            }
        }
        let mut arrival = Context::from_waker(&self.arrivals.waker);
        loop {
            if self.consumers.len() == 1
                && let Some(since) = self.unseen.take()
            {
                came = Some(came.map_or(since, |came| came.min(since)));
            }
            let Some(consumer) = self.consumers.front_mut() else {
                return Polled::Nothing;
            };
            match Pin::new(consumer).poll_next(&mut arrival) {
                Poll::Pending => return Polled::Nothing,
                Poll::Ready(Some(Ok(delivery))) => {
                    let missed = || self.arrivals.take().unwrap_or_else(Instant::now);
                    let since = *came.get_or_insert_with(missed);
                    self.fetched.push_back((since, delivery));
                }
                Poll::Ready(Some(Err(error))) => return Polled::Lost(Some(classify(error))),
                Poll::Ready(None) if !self.channel.status().connected() => {
                    return Polled::Lost(None);
                }
                Poll::Ready(None) if self.consumers.len() > 1 || self.resizing.is_some() => {
                    self.consumers.pop_front();
                }
                Poll::Ready(None) => return Polled::Cancelled,
            }
        }
    }

    /// Has the broker send as much as the window takes: it tells that to new consumers only.
    fn resize(&mut self, queue: &Name, options: SubscribeOptions, window: u32) {
        self.prefetch = window;
        let old = self.consumers.back().map(Consumer::tag);
        let (channel, queue) = (self.channel.clone(), queue.clone());
        self.resizing = Some(Box::pin(async move {
            qos(&channel, window).await?;
            if let Some(tag) = old {
                let options = BasicCancelOptions::default();
                channel.basic_cancel(tag, options).await?;
            }
            let since = Instant::now();
            let consumer = consume(&channel, &queue, options, window).await?;
            Ok((since, consumer))
        }));
    }
}

async fn qos(channel: &Channel, window: u32) -> lapin::Result<()> {
    // The protocol has 16 bits for it.
    let prefetch = u16::try_from(window).unwrap_or(u16::MAX);
    let options = BasicQosOptions::default();
    channel.basic_qos(prefetch, options).await
}

async fn consume(
    channel: &Channel,
    queue: &Name,
    options: SubscribeOptions,
    window: u32,
) -> lapin::Result<Consumer> {
    let mut arguments = FieldTable::default();
    if options.priority != 0 {
        let priority = AMQPValue::LongInt(options.priority);
        arguments.insert(ShortString::from("x-priority"), priority);
    }
    let consume = BasicConsumeOptions {
        exclusive: options.exclusive,
        ..BasicConsumeOptions::default()
    };
    // A window only grows, so that its consumers have different tags.
    let tag = ShortString::from(format!("kombu.{window}"));
    let queue = queue.as_str().into();
    channel.basic_consume(queue, tag, consume, arguments).await
}

/// Resolves to the first of these queues that isn't there any more.
async fn until_missing(shared: Arc<Shared>, queues: Vec<Name>) -> Name {
    loop {
        tokio::time::sleep(WATCH).await;
        for queue in &queues {
            if let Err(error) = shared.passive_queue(queue).await
                && error.kind() == ErrorKind::NotFound
            {
                return queue.clone();
            }
        }
    }
}

impl Stream for AmqpSubscription {
    type Item = Result<Received>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        let this = &mut *self;
        this.settler.task.register(context.waker());
        if this.shared.lines.check().is_err() {
            // What was fetched went back with the session, and may be somebody else's by now.
            return Poll::Ready(None);
        }
        for index in 0..this.sources.len() {
            match this.poll_source(index, context) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionLost => {
                    // The next session is waited for, so this one has to be over.
                    this.shared.lines.end(error.message());
                    return Poll::Ready(None);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        this.poll_watching(context);
        if let Some(queue) = this.take_cancelled() {
            return Poll::Ready(Some(Ok(Received::Cancelled { queue })));
        }
        if this.paused || !(this.options.no_ack || this.settler.has_room()) {
            return Poll::Pending;
        }
        match this.next() {
            Some(delivery) => Poll::Ready(Some(Ok(Received::Delivery(delivery)))),
            None => Poll::Pending,
        }
    }
}

impl Subscription for AmqpSubscription {
    fn settler(&self) -> Arc<dyn Settle> {
        self.settler.clone()
    }

    fn set_window(&self, window: u32) {
        self.settler.window.store(window, Ordering::Relaxed);
        self.settler.task.wake();
    }

    fn pause(&mut self, paused: bool) {
        self.paused = paused;
        self.watching = None;
        if paused {
            for source in self.sources.iter_mut().flatten() {
                if matches!(source.state, State::Cancelled(_)) {
                    continue;
                }
                let state = std::mem::replace(&mut source.state, State::Cancelled(None));
                source.state = State::Away(state.leave(source.queue.clone(), &self.settler));
            }
        } else {
            for index in 0..self.sources.len() {
                let is_away = |source: &Source| matches!(source.state, State::Away(_));
                if self.sources[index].as_ref().is_some_and(is_away) {
                    self.reopen(index);
                }
            }
        }
        self.settler.task.wake();
    }

    fn add(&mut self, queue: &Name) -> BoxFuture<'_, Result<u16>> {
        let queue = queue.clone();
        Box::pin(async move {
            let Ok(index) = u16::try_from(self.sources.len()) else {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("a consumer takes at most {} queues in its life", u16::MAX),
                ));
            };
            let state = if self.paused {
                self.shared.passive_queue(&queue).await?;
                self.watching = None;
                State::Away(Op::ready(Ok(())))
            } else {
                State::Open(Box::new(self.open(&queue).await?))
            };
            self.sources.push(Some(Source { queue, state }));
            Ok(index)
        })
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        let source = self.sources.get_mut(usize::from(queue));
        match source.and_then(Option::take) {
            None => Op::ready(Ok(())),
            Some(source) => self.leave([source]),
        }
    }

    fn cancel(mut self: Box<Self>) -> Op<Result<()>> {
        self.leave_all()
    }
}

impl Drop for AmqpSubscription {
    fn drop(&mut self) {
        // What is sent to the channels' tasks is carried out without being waited for.
        drop(self.leave_all());
    }
}

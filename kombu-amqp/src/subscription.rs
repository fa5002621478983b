use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::task::AtomicWaker;
use kombu_core::driver::{
    BoxFuture, Op, Outcome, RawDelivery, Received, Settle, Settlement, SubscribeOptions,
    Subscription, Tag,
};
use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};

use crate::error::classify;
use crate::fields::short;
use crate::message::received;
use crate::session::Shared;
use crate::settler::AmqpSettler;

/// Consumers of one or several queues on one channel.
///
/// The broker's prefetch bounds what each of them holds in this process; the window over all of them is kept here.
pub(crate) struct AmqpSubscription {
    shared: Arc<Shared>,
    channel: Channel,
    options: SubscribeOptions,
    sources: Vec<Option<Source>>,
    /// Whom to ask first, so that a busy queue can't starve the others.
    start: usize,
    settler: Arc<Settler>,
    /// Prefetch that the broker was told.
    prefetch: u32,
    resizing: Option<BoxFuture<'static, Result<Reopened>>>,
    paused: bool,
    consumers: u64,
}

/// Consumers with another prefetch, by the index of their queue.
type Reopened = Vec<(usize, Consumer)>;

pub(crate) struct Source {
    queue: Name,
    /// The last one gets messages; those before it were cancelled and have some left.
    pub(crate) consumers: VecDeque<Consumer>,
    /// Fetched and not handed out; bounded by the broker's prefetch. The end of a consumer comes behind its messages, and
    /// has to be seen though there is no room for them.
    pub(crate) fetched: VecDeque<Delivery>,
    /// The broker ended it: the queue is gone.
    cancelled: bool,
}

/// The settler of the channel, and the window.
struct Settler {
    inner: Arc<AmqpSettler>,
    window: AtomicU32,
    task: AtomicWaker,
}

impl Settle for Settler {
    fn settle(&self, tag: Tag, outcome: Outcome) -> Settlement {
        let settlement = self.inner.settle(tag, outcome);
        self.task.wake();
        settlement
    }
}

impl AmqpSubscription {
    pub(crate) async fn open(shared: Arc<Shared>, options: SubscribeOptions) -> Result<Self> {
        let channel = shared.lines.channel().await?;
        let settler = AmqpSettler::open(shared.clone(), channel.clone());
        let subscription = AmqpSubscription {
            shared,
            channel,
            options,
            sources: Vec::new(),
            start: 0,
            settler: Arc::new(Settler {
                inner: settler,
                window: AtomicU32::new(options.window),
                task: AtomicWaker::new(),
            }),
            prefetch: options.window,
            resizing: None,
            paused: false,
            consumers: 0,
        };
        if !options.no_ack {
            qos(&subscription.channel, options.window).await?;
        }
        Ok(subscription)
    }

    fn consume(&mut self, queue: &Name) -> BoxFuture<'static, Result<Consumer>> {
        self.consumers += 1;
        let (channel, options, number) = (self.channel.clone(), self.options, self.consumers);
        let queue = queue.clone();
        Box::pin(async move {
            let mut arguments = FieldTable::default();
            if options.priority != 0 {
                let priority = AMQPValue::LongInt(options.priority);
                arguments.insert(ShortString::from("x-priority"), priority);
            }
            let consume = BasicConsumeOptions {
                no_ack: options.no_ack,
                exclusive: options.exclusive,
                ..BasicConsumeOptions::default()
            };
            let tag = short(&format!("kombu.{number}"))?;
            channel
                .basic_consume(short(&queue)?, tag, consume, arguments)
                .await
                .map_err(classify)
        })
    }

    fn has_room(&self) -> bool {
        let window = self.settler.window.load(Ordering::Relaxed);
        window == 0 || self.options.no_ack || (self.settler.inner.outstanding() as u32) < window
    }

    /// Has the broker send as much as the window takes.
    fn resize(&mut self) {
        let window = self.settler.window.load(Ordering::Relaxed);
        self.prefetch = window;
        let mut opening = Vec::new();
        for index in 0..self.sources.len() {
            let Some(source) = &self.sources[index] else {
                continue;
            };
            let queue = source.queue.clone();
            let old = source.consumers.back().map(Consumer::tag);
            let new = self.consume(&queue);
            opening.push((index, old, new));
        }
        let channel = self.channel.clone();
        self.resizing = Some(Box::pin(async move {
            qos(&channel, window).await?;
            let mut opened = Vec::with_capacity(opening.len());
            for (index, old, new) in opening {
                if let Some(tag) = old {
                    let options = BasicCancelOptions::default();
                    channel.basic_cancel(tag, options).await.map_err(classify)?;
                }
                opened.push((index, new.await?));
            }
            Ok(opened)
        }));
    }

    fn poll_resize(&mut self, context: &mut Context<'_>) -> Result<()> {
        let window = self.settler.window.load(Ordering::Relaxed);
        let needs_more = self.prefetch != 0 && (window == 0 || window > self.prefetch);
        if self.resizing.is_none() && needs_more && !self.options.no_ack {
            self.resize();
        }
        if let Some(resizing) = &mut self.resizing
            && let Poll::Ready(opened) = resizing.as_mut().poll(context)
        {
            self.resizing = None;
            for (index, consumer) in opened? {
                if let Some(source) = &mut self.sources[index] {
                    source.consumers.push_back(consumer);
                }
            }
        }
        Ok(())
    }

    /// Fetches what is there. An error ends the subscription.
    fn poll_source(&mut self, index: usize, context: &mut Context<'_>) -> Poll<Error> {
        loop {
            let Some(source) = &mut self.sources[index] else {
                return Poll::Pending;
            };
            let Some(consumer) = source.consumers.front_mut() else {
                return Poll::Pending;
            };
            match Pin::new(consumer).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(delivery))) => source.fetched.push_back(delivery),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(classify(error)),
                Poll::Ready(None) if source.consumers.len() > 1 || self.resizing.is_some() => {
                    source.consumers.pop_front();
                }
                Poll::Ready(None) => {
                    let queue = source.queue.clone();
                    if !self.channel.status().connected() {
                        return Poll::Ready(Error::new(
                            ErrorKind::ConnectionLost,
                            "the channel is closed",
                        ));
                    }
                    tracing::info!(%queue, "the broker cancelled the consumer of a queue");
                    source.consumers.clear();
                    source.cancelled = true;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Leaves a queue that the broker cancelled, behind its last message.
    fn take_cancelled(&mut self) -> Option<u16> {
        let is_over = |source: &Source| source.cancelled && source.fetched.is_empty();
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
            let Some(delivery) = source.fetched.pop_front() else {
                continue;
            };
            self.start = (index + 1) % sources;
            let (envelope, failures) = received(
                delivery.exchange.as_str(),
                delivery.routing_key.as_str(),
                &delivery.properties,
                delivery.data,
            );
            if !self.options.no_ack {
                let inner = &self.settler.inner;
                inner.hold(delivery.delivery_tag, &source.queue, &envelope, failures);
            }
            return Some(RawDelivery {
                envelope,
                id: delivery.delivery_tag,
                failures,
                queue: index as u16,
                redelivered: delivery.redelivered,
            });
        }
        None
    }
}

async fn qos(channel: &Channel, window: u32) -> Result<()> {
    // The protocol has 16 bits for it.
    let prefetch = u16::try_from(window).unwrap_or(u16::MAX);
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .map_err(classify)
}

impl Stream for AmqpSubscription {
    type Item = Result<Received>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        let this = &mut *self;
        this.settler.task.register(context.waker());
        if let Err(error) = this.poll_resize(context) {
            return Poll::Ready(Some(Err(error)));
        }
        if this.shared.lines.check().is_err() {
            // What was fetched went back with the session, and may be somebody else's by now.
            return Poll::Ready(None);
        }
        for index in 0..this.sources.len() {
            match this.poll_source(index, context) {
                Poll::Ready(error) if error.kind() == ErrorKind::ConnectionLost => {
                    return Poll::Ready(None);
                }
                Poll::Ready(error) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {}
            }
        }
        if let Some(queue) = this.take_cancelled() {
            return Poll::Ready(Some(Ok(Received::Cancelled { queue })));
        }
        if this.paused || !this.has_room() {
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
            let consumer = self.consume(&queue).await?;
            self.sources.push(Some(Source {
                queue,
                consumers: VecDeque::from([consumer]),
                fetched: VecDeque::new(),
                cancelled: false,
            }));
            Ok(index)
        })
    }

    fn remove(&mut self, queue: u16) -> Op<Result<()>> {
        let source = self.sources.get_mut(usize::from(queue));
        match source.and_then(Option::take) {
            None => Op::ready(Ok(())),
            Some(source) => self.settler.inner.leave(vec![source]),
        }
    }

    fn cancel(mut self: Box<Self>) -> Op<Result<()>> {
        let sources = std::mem::take(&mut self.sources).into_iter().flatten();
        self.settler.inner.leave(sources.collect())
    }
}

impl Drop for AmqpSubscription {
    fn drop(&mut self) {
        let sources: Vec<_> = std::mem::take(&mut self.sources)
            .into_iter()
            .flatten()
            .collect();
        if !sources.is_empty() {
            drop(self.settler.inner.leave(sources));
        }
    }
}

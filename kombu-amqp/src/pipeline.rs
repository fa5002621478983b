//! Publishes on their way: to the socket, and from there to the broker's answer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kombu_core::message::Envelope;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, PublisherConfirm};

use crate::caller;
use crate::returns::Confirmed;

/// How many futures that are over are kept for those to come.
const SPARE: usize = 512;

/// What [`publish`] returns.
pub(crate) trait Publishing:
    Future<Output = lapin::Result<PublisherConfirm>> + Send
{
}

impl<F: Future<Output = lapin::Result<PublisherConfirm>> + Send> Publishing for F {}

pub(crate) struct Pipeline<F> {
    /// Lapin has their frames, and writes them in this order. So only the first is waited for.
    writing: VecDeque<(u64, Pin<Box<F>>)>,
    /// What they were in. These futures take more than 1 KiB, which an allocator doesn't have at hand.
    spare: Vec<Pin<Box<F>>>,
    /// Written. The answers come in any order.
    confirming: FuturesUnordered<Confirming>,
}

/// Publishes a message; its frames are queued when this is first polled, and written when it resolves.
pub(crate) async fn publish(
    channel: Arc<Channel>,
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    envelope: Envelope,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions {
        // A message that no queue matches is told from one that is stored only by its return. RabbitMQ returns answers that
        // go straight to whoever asked, although it delivers them (3.10.8).
        mandatory: !caller::is_answer(&exchange, &routing_key),
        ..BasicPublishOptions::default()
    };
    let body = envelope.body();
    channel
        .basic_publish(exchange, routing_key, options, body, properties)
        .await
}

impl<F: Publishing> Pipeline<F> {
    pub(crate) fn new() -> Self {
        Pipeline {
            writing: VecDeque::new(),
            spare: Vec::new(),
            confirming: FuturesUnordered::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writing.is_empty() && self.confirming.is_empty()
    }

    /// Resolves when lapin has nothing to write any more.
    pub(crate) async fn written_out(&mut self) {
        while let Some((_, publish)) = self.writing.front_mut() {
            // Why it couldn't be written is known by then.
            drop(publish.await);
            self.writing.pop_front();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.writing.clear();
        self.confirming.clear();
    }

    /// Sets a publish on its way, behind those before it.
    pub(crate) fn push(&mut self, number: u64, publish: F) {
        let mut publish = match self.spare.pop() {
            Some(mut spare) => {
                spare.set(publish);
                spare
            }
            None => Box::pin(publish),
        };
        match publish
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(written) => self.written(number, publish, written),
            Poll::Pending => self.writing.push_back((number, publish)),
        }
    }

    fn written(
        &mut self,
        number: u64,
        spare: Pin<Box<F>>,
        written: lapin::Result<PublisherConfirm>,
    ) {
        if self.spare.len() < SPARE {
            self.spare.push(spare);
        }
        self.confirming.push(Confirming { number, written });
    }

    /// Takes all answers that have come.
    pub(crate) fn poll_answers(
        &mut self,
        context: &mut Context<'_>,
        answers: &mut Vec<lapin::Result<Confirmed>>,
    ) -> Poll<()> {
        while let Some((_, publish)) = self.writing.front_mut()
            && let Poll::Ready(written) = publish.as_mut().poll(context)
        {
            if let Some((number, spare)) = self.writing.pop_front() {
                self.written(number, spare, written);
            }
        }
        while let Poll::Ready(Some(answer)) = self.confirming.poll_next_unpin(context) {
            answers.push(answer);
        }
        match answers.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

/// A publish that was written, or couldn't be.
struct Confirming {
    number: u64,
    written: lapin::Result<PublisherConfirm>,
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

//! Questions whose answers RabbitMQ sends past all queues: direct reply-to.
//!
//! Publisher and consumer share a channel. Answers come to nobody else, and to this channel only: if the broker closes it,
//! those that were on their way are gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use kombu_core::Result;
use kombu_core::driver::{RawDelivery, Received};
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;

use crate::message::received;
use crate::session::Shared;

/// What a question carries as `reply_to`, and what answers are consumed from. The broker puts in its place where the channel
/// really is.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Whether a message goes past all queues to whoever asked.
pub(crate) fn is_answer(exchange: &ShortString, routing_key: &ShortString) -> bool {
    exchange.as_str().is_empty() && routing_key.as_str().starts_with(REPLY_TO)
}

/// Where the consumer of a channel goes, whenever there is a new one.
pub(crate) type Consumers = mpsc::UnboundedSender<Consumer>;

/// Has answers come in over a channel.
pub(crate) async fn consume(channel: &Channel) -> lapin::Result<Consumer> {
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    channel
        .basic_consume(
            REPLY_TO.into(),
            "kombu.replies".into(),
            options,
            FieldTable::default(),
        )
        .await
}

/// The answers of one session, from one channel after the other.
pub(crate) struct DirectReplies {
    shared: Arc<Shared>,
    /// Brings the consumer of each channel.
    consumers: mpsc::UnboundedReceiver<Consumer>,
    consumer: Option<Consumer>,
    is_first: bool,
}

impl DirectReplies {
    pub(crate) fn new(shared: Arc<Shared>, consumers: mpsc::UnboundedReceiver<Consumer>) -> Self {
        DirectReplies {
            shared,
            consumers,
            consumer: None,
            is_first: true,
        }
    }
}

impl Stream for DirectReplies {
    type Item = Result<Received>;

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Received>>> {
        let this = self.get_mut();
        if this.shared.lines.check().is_err() {
            return Poll::Ready(None);
        }
        match this.consumers.poll_recv(context) {
            Poll::Ready(Some(consumer)) => {
                this.consumer = Some(consumer);
                context.waker().wake_by_ref();
                if !std::mem::take(&mut this.is_first) {
                    return Poll::Ready(Some(Ok(Received::Cancelled { queue: 0 })));
                }
            }
            // With its publisher.
            Poll::Ready(None) if this.consumer.is_none() => return Poll::Ready(None),
            _ => {}
        }
        let Some(consumer) = &mut this.consumer else {
            return Poll::Pending;
        };
        match Pin::new(consumer).poll_next(context) {
            Poll::Ready(Some(Ok(answer))) => {
                let (envelope, _) = received(
                    answer.exchange.as_str(),
                    answer.routing_key.as_str(),
                    &answer.properties,
                    answer.data,
                );
                Poll::Ready(Some(Ok(Received::Delivery(RawDelivery {
                    envelope,
                    id: answer.delivery_tag,
                    failures: 0,
                    queue: 0,
                    redelivered: answer.redelivered,
                    waited: Duration::ZERO,
                }))))
            }
            // The publisher opens another channel, or the session ends.
            Poll::Ready(None | Some(Err(_))) => {
                this.consumer = None;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kombu_core::driver::{BoxFuture, Confirm, Confirmation, Op, Publisher};
use kombu_core::message::Envelope;
use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel};
use tokio::sync::{mpsc, oneshot};

use crate::error::{classify, exchange_of, lost};
use crate::fields::short;
use crate::message::{properties, properties_of_retry};
use crate::returns::{Outstanding, Returns};
use crate::session::Shared;
use crate::under_way::{OnItsWay, UnderWay};

/// Publishes over one channel, in a task of its own: whatever waits while it writes goes out together.
pub(crate) struct AmqpPublisher {
    calls: mpsc::UnboundedSender<Call>,
    under_way: UnderWay,
}

struct Call {
    exchange: Name,
    routing_key: Name,
    properties: BasicProperties,
    envelope: Envelope,
    mandatory: bool,
    answer: oneshot::Sender<Result<Confirmation>>,
    _on_its_way: OnItsWay,
}

impl AmqpPublisher {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self> {
        let channel = open_channel(&shared).await?;
        // The client bounds how many publishes have no answer.
        let (calls, receiver) = mpsc::unbounded_channel();
        let task = Task {
            shared,
            channel,
            confirms: FuturesUnordered::new(),
            returns: Returns::default(),
        };
        let under_way = task.shared.under_way.clone();
        tokio::spawn(task.run(receiver));
        Ok(AmqpPublisher { calls, under_way })
    }

    fn call(
        &self,
        envelope: &Envelope,
        exchange: Name,
        routing_key: Name,
        properties: Result<BasicProperties>,
        mandatory: bool,
    ) -> Confirm {
        let properties = match properties {
            Ok(properties) => properties,
            Err(error) => return Op::ready(Err(error)),
        };
        let (answer, receiver) = oneshot::channel();
        let call = Call {
            exchange,
            routing_key,
            properties,
            envelope: envelope.clone(),
            mandatory,
            answer,
            _on_its_way: self.under_way.one(),
        };
        if self.calls.send(call).is_err() {
            return Op::ready(Err(ended()));
        }
        Op::pending(async move { receiver.await.unwrap_or_else(|_| Err(ended())) })
    }

    /// Puts a copy at the end of a queue; it is there when this resolves.
    pub(crate) async fn publish_copy(
        &self,
        envelope: &Envelope,
        queue: &Name,
        failures: u32,
    ) -> Result<()> {
        let properties = properties_of_retry(envelope, failures);
        let confirm = self.call(envelope, Name::EMPTY, queue.clone(), properties, true);
        match confirm.await? {
            Confirmation::Acked { .. } => Ok(()),
            Confirmation::Nacked { reason } => Err(Error::new(ErrorKind::Nacked, reason)),
            Confirmation::Returned { .. } => Err(Error::new(
                ErrorKind::NotFound,
                format!("queue `{queue}` is gone"),
            )),
        }
    }
}

async fn open_channel(shared: &Shared) -> Result<Channel> {
    let channel = shared.lines.publishing_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(classify)?;
    Ok(channel)
}

fn ended() -> Error {
    lost("the session has ended")
}

impl Publisher for AmqpPublisher {
    fn publish(&self, envelope: &Envelope) -> Op<Result<Confirm>> {
        Op::ready(Ok(self.call(
            envelope,
            envelope.exchange().clone(),
            envelope.routing_key().clone(),
            properties(envelope),
            // A message that no queue matches is told from one that is stored only by its return.
            true,
        )))
    }
}

type Confirming = BoxFuture<'static, (u64, lapin::Result<lapin::Confirmation>)>;

struct Task {
    shared: Arc<Shared>,
    channel: Channel,
    confirms: FuturesUnordered<Confirming>,
    returns: Returns,
}

impl Task {
    async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let mut batch = Vec::new();
        let closed = self.shared.lines.closed();
        tokio::pin!(closed);
        let mut open = true;
        while open || !self.confirms.is_empty() {
            tokio::select! {
                biased;
                _ = &mut closed => return,
                Some((number, confirmation)) = self.confirms.next() => {
                    if let Err(error) = self.confirmed(number, confirmation)
                        && self.repair(error).await.is_err()
                    {
                        return;
                    }
                }
                count = calls.recv_many(&mut batch, 1024), if open => {
                    open = count > 0;
                    for call in batch.drain(..) {
                        self.start(call).await;
                    }
                }
            }
        }
    }

    /// The broker closed the channel: whoever published to the exchange that it complains about is told so. What others
    /// have without an answer may be stored or not, and is for the next session to send again.
    async fn repair(&mut self, error: Error) -> Result<()> {
        let alive = self.shared.lines.check();
        if let (Ok(()), Some(exchange)) = (alive, exchange_of(&error)) {
            self.shared.forget_exchange(exchange);
            self.returns.refuse(exchange, &error);
            self.confirms.clear();
            if self.returns.is_empty() {
                self.channel = open_channel(&self.shared).await?;
                return Ok(());
            }
        }
        self.shared.lines.end(&error.to_string());
        Err(error)
    }

    async fn start(&mut self, call: Call) {
        if let Err(error) = self.shared.find_exchange(&call.exchange).await {
            drop(call.answer.send(Err(error)));
            return;
        }
        let names =
            short(&call.exchange).and_then(|exchange| Ok((exchange, short(&call.routing_key)?)));
        let (exchange, key) = match names {
            Ok(names) => names,
            Err(error) => {
                drop(call.answer.send(Err(error)));
                return;
            }
        };
        let options = BasicPublishOptions {
            mandatory: call.mandatory,
            ..BasicPublishOptions::default()
        };
        let number = self.returns.add(Outstanding {
            exchange: call.exchange,
            routing_key: call.routing_key,
            envelope: call.envelope.clone(),
            answer: call.answer,
            _on_its_way: call._on_its_way,
        });
        let (channel, envelope, properties) =
            (self.channel.clone(), call.envelope, call.properties);
        self.confirms.push(Box::pin(async move {
            let body = envelope.body();
            let published = channel.basic_publish(exchange, key, options, body, properties);
            let confirmation = match published.await {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            (number, confirmation)
        }));
    }

    fn confirmed(
        &mut self,
        number: u64,
        confirmation: lapin::Result<lapin::Confirmation>,
    ) -> Result<()> {
        let confirmation = confirmation.map_err(classify)?;
        let acked = !confirmation.is_nack();
        let returned = confirmation.take_message();
        self.returns.confirmed(number, acked, returned.as_ref());
        Ok(())
    }
}

use std::future::poll_fn;
use std::sync::Arc;
use std::time::SystemTime;

use kombu_core::declare::Queue;
use kombu_core::driver::{BoxFuture, Confirm, Confirmation, Op, Publisher};
use kombu_core::message::Envelope;
use kombu_core::virt::{self, Death};
use kombu_core::{Error, ErrorKind, Name, Result};
use lapin::options::ConfirmSelectOptions;
use lapin::{BasicProperties, Channel};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use crate::error::{classify, culprit, lost};
use crate::fields::short;
use crate::ladder::{self, Steps};
use crate::message::{self, Failures, properties_delayed, properties_of_retry};
use crate::pipeline::{Pipeline, Publishing, publish};
use crate::returns::{Confirmed, Outstanding, Returns};
use crate::room::{Place, Room};
use crate::session::Shared;

/// How many calls the task takes at once.
const BATCH: usize = 1024;

/// Publishes over one channel, in a task of its own: whatever waits while it writes goes out together.
pub(crate) struct AmqpPublisher {
    /// Bounded by the room.
    calls: mpsc::UnboundedSender<Call>,
    room: Arc<Room>,
    shared: Arc<Shared>,
}

struct Call {
    exchange: Name,
    properties: Properties,
    envelope: Envelope,
    delay: Option<Steps>,
    answer: oneshot::Sender<Result<Confirmation>>,
    place: Place,
}

/// Properties are large, so those of the usual message are made where they go.
enum Properties {
    /// The message's own, with the mark of its origin.
    Own(Option<u32>),
    Made(Box<BasicProperties>),
}

impl AmqpPublisher {
    pub(crate) async fn open(shared: Arc<Shared>) -> Result<Self> {
        let channel = open_channel(&shared).await?;
        let (calls, receiver) = mpsc::unbounded_channel();
        let task = Task {
            shared: shared.clone(),
            channel: Arc::new(channel),
            returns: Returns::default(),
        };
        tokio::spawn(task.run(receiver));
        Ok(AmqpPublisher {
            calls,
            room: Arc::new(Room::new(shared.under_way.clone())),
            shared,
        })
    }

    /// Hands a message to the task: at once if there is room.
    fn call(
        &self,
        envelope: &Envelope,
        exchange: Name,
        properties: Properties,
        delay: Option<Steps>,
    ) -> Op<Result<Confirm>> {
        let envelope = envelope.clone();
        let bytes = envelope.body().len();
        let mut place = self.room.one();
        let call = move |place: Place| {
            let (answer, receiver) = oneshot::channel();
            let call = Call {
                exchange,
                properties,
                envelope,
                delay,
                answer,
                place,
            };
            (call, receiver)
        };
        if place.try_fill(bytes) {
            return Op::ready(send(&self.calls, call(place)));
        }
        let calls = self.calls.clone();
        Op::start(async move {
            place.fill(bytes).await;
            send(&calls, call(place))
        })
    }

    /// Puts a copy with another failure at the end of a queue, or has it come there later. It is on its way when this
    /// returns, and the broker has it when the answer resolves.
    pub(crate) async fn publish_retry(
        &self,
        envelope: &Envelope,
        queue: &Name,
        failures: Failures,
        delay: Option<Steps>,
    ) -> Result<BoxFuture<'static, Result<()>>> {
        let failed = failures.all().saturating_add(1);
        let properties = properties_of_retry(envelope, queue, failed, delay)?;
        self.shared.ladder.lead_back(&self.shared, queue).await?;
        let exchange = match delay {
            Some(steps) => {
                let ladder = &self.shared.ladder;
                ladder.lead(&self.shared, steps, &ladder::RETRIES).await?;
                steps.entry()
            }
            None => ladder::RETRIES,
        };
        let properties = Properties::Made(Box::new(properties));
        let confirm = self.call(envelope, exchange, properties, None).await?;
        let (shared, queue) = (self.shared.clone(), queue.clone());
        Ok(Box::pin(async move {
            match confirm.await? {
                Confirmation::Acked { routed: true } => Ok(()),
                Confirmation::Nacked { reason } => Err(Error::new(ErrorKind::Nacked, reason)),
                Confirmation::Acked { .. } | Confirmation::Returned { .. } => {
                    shared.ladder.forget(&queue).await;
                    Err(Error::new(
                        ErrorKind::NotFound,
                        format!(
                            "the way back to queue `{queue}` is gone; the message is where it was"
                        ),
                    ))
                }
            }
        }))
    }

    /// Publishes what becomes of a message that was delivered too often.
    pub(crate) fn publish_letter(
        &self,
        envelope: &Envelope,
        queue: &Queue,
    ) -> BoxFuture<'static, Result<()>> {
        let letter = virt::letter(envelope, queue, Death::DeliveryLimit, SystemTime::now());
        let own = Properties::Own(None);
        let call = self.call(&letter, letter.exchange().clone(), own, None);
        let queue = queue.name().clone();
        Box::pin(async move {
            let discarded = match call.await?.await {
                Ok(Confirmation::Acked { routed }) => !routed,
                Ok(Confirmation::Returned { .. }) => true,
                Ok(Confirmation::Nacked { reason }) => {
                    return Err(Error::new(ErrorKind::Nacked, reason));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => true,
                Err(error) => return Err(error),
            };
            if discarded {
                tracing::warn!(%queue, "a dead letter leads nowhere and is discarded");
            }
            Ok(())
        })
    }
}

fn send(
    calls: &mpsc::UnboundedSender<Call>,
    (call, receiver): (Call, oneshot::Receiver<Result<Confirmation>>),
) -> Result<Confirm> {
    match calls.send(call) {
        Ok(()) => Ok(Op::pending(async move {
            receiver.await.unwrap_or_else(|_| Err(ended()))
        })),
        Err(_) => Err(ended()),
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
        let marks = self.shared.marks_own_messages();
        let origin = marks.then(|| envelope.publish_id().origin());
        let prepared = match envelope.delay() {
            None => Ok((Properties::Own(origin), None)),
            Some(delay) => delayed(envelope, origin, delay),
        };
        match prepared {
            Ok((properties, delay)) => {
                self.call(envelope, envelope.exchange().clone(), properties, delay)
            }
            Err(error) => Op::ready(Err(error)),
        }
    }
}

fn delayed(
    envelope: &Envelope,
    origin: Option<u32>,
    delay: std::time::Duration,
) -> Result<(Properties, Option<Steps>)> {
    if envelope.expiration().is_some() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "RabbitMQ takes the expiration off a message that waits for its delay; leave one of the two out, or give the \
             queue a `message_ttl`",
        ));
    }
    let steps = Steps::new(delay)?;
    let properties = properties_delayed(envelope, origin, steps)?;
    Ok((Properties::Made(Box::new(properties)), Some(steps)))
}

struct Task {
    shared: Arc<Shared>,
    channel: Arc<Channel>,
    returns: Returns,
}

impl Task {
    async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let mut pipeline = Pipeline::new();
        let (mut batch, mut answers) = (Vec::new(), Vec::new());
        let closed = self.shared.lines.closed();
        tokio::pin!(closed);
        let mut open = true;
        while open || !pipeline.is_empty() {
            tokio::select! {
                biased;
                _ = &mut closed => return,
                () = poll_fn(|context| pipeline.poll_answers(context, &mut answers)) => {
                    if let Err(error) = self.confirmed(&mut answers) {
                        pipeline.clear();
                        if self.repair(error).await.is_err() {
                            return;
                        }
                    }
                }
                count = calls.recv_many(&mut batch, BATCH), if open => {
                    open = count > 0;
                    if !pipeline.is_empty() {
                        // Others are on their way, so whoever published may be about to publish more, and lapin begins to
                        // write with the first of them. Larger writes take less time, ours and the broker's.
                        yield_now().await;
                        while batch.len() < BATCH && let Ok(call) = calls.try_recv() {
                            batch.push(call);
                        }
                    }
                    for call in batch.drain(..) {
                        if let Some((number, publish)) = self.start(call).await {
                            pipeline.push(number, publish);
                        }
                    }
                }
            }
        }
    }

    /// The broker closed the channel: whoever published what it complains about is told so. What others have without an
    /// answer may be stored or not, and is for the next session to send again.
    async fn repair(&mut self, error: Error) -> Result<()> {
        let alive = self.shared.lines.check();
        if let (Ok(()), Some(culprit)) = (alive, culprit(&error)) {
            self.shared.lines.refused();
            if let Some(exchange) = culprit.exchange() {
                self.shared.forget_exchange(exchange);
            }
            self.returns.refuse(&culprit, &error);
            if self.returns.is_empty() {
                self.channel = Arc::new(open_channel(&self.shared).await?);
                return Ok(());
            }
        }
        self.shared.lines.end(&error.to_string());
        Err(error)
    }

    /// Gets a message ready to be published. `None`: it has its answer already.
    async fn start(&mut self, mut call: Call) -> Option<(u64, impl Publishing + use<>)> {
        let publish = match self.prepare(&mut call).await {
            Ok(None) => self.publish(&call.exchange, &call.envelope, call.properties),
            Ok(Some(confirmation)) => {
                drop(call.answer.send(Ok(confirmation)));
                return None;
            }
            Err(error) => Err(error),
        };
        match publish {
            Ok(publish) => {
                let number = self.returns.add(Outstanding {
                    exchange: call.exchange,
                    envelope: call.envelope,
                    answer: call.answer,
                    place: call.place,
                });
                Some((number, publish))
            }
            Err(error) => {
                drop(call.answer.send(Err(error)));
                None
            }
        }
    }

    fn publish(
        &self,
        exchange: &Name,
        envelope: &Envelope,
        properties: Properties,
    ) -> Result<impl Publishing + use<>> {
        let properties = match properties {
            Properties::Own(origin) => message::properties(envelope, origin)?,
            Properties::Made(properties) => *properties,
        };
        let (exchange, key) = (short(exchange)?, short(envelope.routing_key())?);
        let (channel, envelope) = (self.channel.clone(), envelope.clone());
        Ok(publish(channel, exchange, key, properties, envelope))
    }

    /// Sees that the exchange is there, and for a delayed message the way to it. `Some` if that is an answer already.
    async fn prepare(&mut self, call: &mut Call) -> Result<Option<Confirmation>> {
        let Some(steps) = call.delay else {
            if !ladder::is_exchange(&call.exchange) {
                self.shared.find_exchange(&call.exchange).await?;
            }
            return Ok(None);
        };
        // It is routed when it is due. What can be known before is whether there is anything to route it.
        if !call.exchange.is_empty() {
            self.shared.find_exchange(&call.exchange).await?;
        } else if let Err(error) = self.shared.passive_queue(call.envelope.routing_key()).await {
            return match error.kind() {
                ErrorKind::NotFound => Ok(Some(match call.envelope.mandatory() {
                    true => Confirmation::Returned { code: 312 },
                    false => Confirmation::Acked { routed: false },
                })),
                // It is another connection's, and there.
                ErrorKind::ResourceLocked => Ok(None),
                _ => Err(error),
            };
        }
        let ladder = &self.shared.ladder;
        ladder.lead(&self.shared, steps, &call.exchange).await?;
        call.exchange = steps.entry();
        Ok(None)
    }

    /// Takes all confirms that have come: one of them may carry the return of another.
    fn confirmed(&mut self, answers: &mut Vec<lapin::Result<Confirmed>>) -> Result<()> {
        let mut result = Ok(());
        let confirmed = answers.drain(..).filter_map(|answer| match answer {
            Ok(confirmed) => Some(confirmed),
            Err(error) => {
                if result.is_ok() {
                    result = Err(classify(error));
                }
                None
            }
        });
        self.returns.confirmed(confirmed);
        result
    }
}
